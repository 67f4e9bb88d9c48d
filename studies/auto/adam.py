"""Adam on x^2/2: the loss falls to nothing and comes back, because the second moment forgets (arXiv:2506.04805).

No gradient is large before the spike, so a limit on gradients is not expected to help; the row shows whether one does.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from protect import Protected
from torch import nn

LR, STEPS = 0.01, 4000


class _Point(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.x = nn.Parameter(torch.ones(1, dtype=torch.float64))


def run(policy: Any, seed: int, *, beta2: float) -> dict[str, Any]:
    """Highest loss after the lowest one, as a power of ten. The seed moves the beginning a little."""
    model = _Point()
    with torch.no_grad():
        model.x.mul_(1.0 + 0.1 * seed)
    guarded = Protected(torch.optim.Adam(model.parameters(), lr=LR, betas=(0.9, beta2)), model, policy)
    losses: list[float] = []
    for _ in range(STEPS):
        loss = 0.5 * model.x.square().sum()
        model.zero_grad()
        loss.backward()
        guarded.step()
        losses.append(loss.item())
    lowest = min(range(len(losses)), key=losses.__getitem__)
    again = max(losses[lowest:])
    touched = guarded.touched
    return {"log10 regrowth": math.log10(max(again, 1e-300)), "touched": sum(touched) / len(touched)}
