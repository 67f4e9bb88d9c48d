"""What ``steadygrad run`` adds to a whole training step, recording included: watched and bare steps in turn, in one process."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from itertools import cycle
from pathlib import Path
from typing import Any

import torch
from rounds import median
from torch import Tensor, nn

import steadygrad as sg

Step = Callable[[], None]


def lenet5_layers() -> nn.Module:
    """The network of `examples/lenet5.py`, for 32 x 32 pixels."""
    return nn.Sequential(
        *(nn.Conv2d(1, 6, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(16, 120, 5), nn.ReLU(), nn.Flatten(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10)),
    )


def lenet5() -> Step:
    """LeNet-5 as in `examples/lenet5.py`, with Adam, batch 32."""
    net = lenet5_layers()
    return _step(net, torch.optim.Adam(net.parameters(), lr=1e-5), *_images())


def lenet5_sgd() -> Step:
    """The same with the cheapest optimizer there is: fused SGD. The shortest step anyone will watch."""
    net = lenet5_layers()
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-5, fused=True)
    return _step(net, optimizer, *_images())


class CharLSTM(nn.Module):
    """Two layers of 256 units over 65 characters."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.lstm, self.head = (
            nn.Embedding(65, 64),
            nn.LSTM(64, 256, num_layers=2, batch_first=True),
            nn.Linear(256, 65),
        )

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits of the next character, classes second."""
        return self.head(self.lstm(self.embed(tokens))[0]).transpose(1, 2)


def lstm() -> Step:
    """A two-layer LSTM, batch 32, 64 characters, Adam."""
    net = CharLSTM()
    return _step(net, torch.optim.Adam(net.parameters(), lr=1e-3), _text(32), _text(32))


class CharTransformer(nn.Module):
    """Six pre-norm layers, width 192, over 65 characters."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(192, 6, 768, dropout=0.0, batch_first=True, norm_first=True)
        self.embed, self.layers = nn.Embedding(65, 192), nn.TransformerEncoder(layer, 6, enable_nested_tensor=False)
        self.head, self.mask = nn.Linear(192, 65), nn.Transformer.generate_square_subsequent_mask(64)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits of the next character, classes second."""
        return self.head(self.layers(self.embed(tokens), mask=self.mask, is_causal=True)).transpose(1, 2)


def transformer() -> Step:
    """A six-layer transformer, batch 16, 64 characters, AdamW."""
    net = CharTransformer()
    return _step(net, torch.optim.AdamW(net.parameters(), lr=1e-3), _text(16), _text(16))


def _images() -> tuple[list[Tensor], list[Tensor]]:
    """Noise with random labels. With a tiny learning rate units do not die on it, which would be another, dearer case."""
    return list(torch.randn(256, 32, 1, 32, 32)), list(torch.randint(0, 10, (256, 32)))


def _text(batch: int) -> list[Tensor]:
    return list(torch.randint(0, 65, (256, batch, 64)))


def _step(net: nn.Module, optimizer: torch.optim.Optimizer, inputs: list[Tensor], targets: list[Tensor]) -> Step:
    batches = cycle(zip(inputs, targets, strict=True))

    def step() -> None:
        x, y = next(batches)
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(x), y).backward()
        optimizer.step()

    return step


CASES = {"LeNet-5": lenet5, "LeNet-5, fused SGD": lenet5_sgd, "LSTM, 2 layers": lstm, "transformer, 6 layers": transformer}


def run(pairs: int = 120, block: float = 0.1) -> list[dict[str, Any]]:
    """One row per model.

    One watch stays open, with its writer thread and default flush interval. Short blocks of watched and of bare steps take turns;
    for a bare block the hooks are taken off. What the writer's thread costs falls into blocks of either kind, so its CPU time
    is measured by the thread's own clock and added, per step, to the watched side: as if it never ran beside training.
    """
    return [_case(name, make, pairs, block) for name, make in CASES.items()]


def _case(name: str, make: Callable[[], Step], pairs: int, block: float) -> dict[str, Any]:
    torch.manual_seed(0)
    step = make()
    count = max(1, round(block / min(_time(step, 5) for _ in range(5))))
    bare: list[float] = []
    watched: list[float] = []
    with tempfile.TemporaryDirectory() as folder, sg.watch(Path(folder, "run")) as session:
        step()
        clock = time.pthread_getcpuclockid(session._recorder._thread.ident)
        before = time.clock_gettime(clock)
        for i in range(pairs):
            for on in (True, False) if i % 2 else (False, True):
                session._unhook()
                if on:
                    session._hook()
                (watched if on else bare).append(_time(step, count))
        writer = (time.clock_gettime(clock) - before) / (pairs * count)
    ratios = sorted(w / b for w, b in zip(watched, bare, strict=True))
    hooks, low, high = (ratios[len(ratios) * k // 4] - 1 for k in (2, 1, 3))
    return {
        "model": name,
        "bare_ms": 1e3 * median(bare),
        "hooks": hooks,
        "hooks_quartiles": [low, high],
        "writer": writer / median(bare),
        "overhead": hooks + writer / median(bare),
        "steps": pairs * count,
    }


def _time(step: Step, count: int) -> float:
    start = time.perf_counter()
    for _ in range(count):
        step()
    return (time.perf_counter() - start) / count
