"""Temporal order (Pascanu, Mikolov, Bengio 2013, section 4.1): a tanh network of plain SGD that explodes without a limit.

Reduced: 100 units, sequences of 30 to 60 symbols, at most 6,000 updates; the paper has 50 units, 50 to 200 symbols and
5 million updates. A sequence of distractors holds an A or B early and another in the middle; which two they were is one of
four classes, asked for at the end.
"""

from __future__ import annotations

from typing import Any

import torch
from protect import Protected
from torch import nn
from torch.nn import functional as F

UNITS, BATCH, LR, EVERY, HELD_OUT = 100, 20, 0.01, 500, 1000


class Reader(nn.Module):
    """The recurrent network with its weights drawn as in the paper: N(0, 0.1), no bias at first."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.RNN(6, UNITS)
        self.head = nn.Linear(UNITS, 4)
        for p in self.parameters():
            nn.init.normal_(p, std=0.1) if p.dim() > 1 else nn.init.zeros_(p)

    def forward(self, symbols: torch.Tensor) -> torch.Tensor:
        """Scores of the classes."""
        return self.head(self.rnn(symbols)[0][-1])


def batch(size: int, low: int, high: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Sequences of one common length, ``(length, size, 6)``, and their classes."""
    length = int(torch.randint(low, high + 1, (), generator=generator))
    symbols = torch.randint(2, 6, (length, size), generator=generator)
    kinds = torch.randint(0, 2, (2, size), generator=generator)
    for kind, start, end in ((kinds[0], 0.1, 0.2), (kinds[1], 0.5, 0.6)):
        first, last = int(start * length), max(int(end * length), int(start * length) + 1)
        at = torch.randint(first, last, (size,), generator=generator)
        symbols[at, torch.arange(size)] = kind
    return F.one_hot(symbols, 6).float(), kinds[0] * 2 + kinds[1]


def run(policy: Any, seed: int, *, low: int, high: int, updates: int) -> dict[str, Any]:
    """Train until no sequence of the held-out set is wrong, or to the last update."""
    torch.manual_seed(seed)
    model = Reader()
    guarded = Protected(torch.optim.SGD(model.parameters(), lr=LR), model, policy)
    draws = torch.Generator().manual_seed(seed)
    tests = [batch(HELD_OUT // 5, low, high, torch.Generator().manual_seed(10_000 + i)) for i in range(5)]
    solved, accuracy = None, 0.0
    for update in range(1, updates + 1):
        symbols, classes = batch(BATCH, low, high, draws)
        loss = F.cross_entropy(model(symbols), classes)
        model.zero_grad()
        loss.backward()
        guarded.step()
        if update % EVERY == 0:
            with torch.no_grad():
                accuracy = sum(float((model(x).argmax(1) == y).float().mean()) for x, y in tests) / len(tests)
            if accuracy == 1.0:
                solved = update
                break
    touched = guarded.touched
    return {"solved": solved, "accuracy": accuracy, "touched": sum(touched) / len(touched)}
