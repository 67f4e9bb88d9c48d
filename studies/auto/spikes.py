"""One bad step in an otherwise healthy run: a student network learns a teacher's function with AdamW.

At step 1500 the gradient is spoiled once, in one of five ways, or not at all. All six continuations start from the same
weights, optimizer and policy state, and see the same batches.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from protect import Protected
from torch import nn
from torch.nn import functional as F

LR, BATCH, INPUTS, AT, AFTER, EVERY = 3e-3, 64, 16, 1500, 500, 10
DEAD = 1e6
"""What counts as a lost run: a validation loss that is not finite is reported as this multiple of the loss before."""


def _network(hidden: int, layers: int) -> nn.Sequential:
    sizes = [INPUTS, *[hidden] * layers]
    parts = [m for a, b in pairwise(sizes) for m in (nn.Linear(a, b), nn.Tanh())]
    return nn.Sequential(*parts, nn.Linear(hidden, 1))


def _x1000(grads: list[torch.Tensor]) -> None:
    for g in grads:
        g.mul_(1000.0)


def _one_tensor(grads: list[torch.Tensor]) -> None:
    grads[2].mul_(1000.0)


def _random_direction(grads: list[torch.Tensor]) -> None:
    norm = torch.stack([g.norm() for g in grads]).norm()
    noise = [torch.randn(g.shape, generator=torch.Generator().manual_seed(i)) for i, g in enumerate(grads)]
    size = torch.stack([z.norm() for z in noise]).norm()
    for g, z in zip(grads, noise, strict=True):
        g.copy_(z * (100.0 * norm / size))


def _one_nan(grads: list[torch.Tensor]) -> None:
    grads[2].view(-1)[0] = float("nan")


def _nothing(grads: list[torch.Tensor]) -> None:
    del grads


SPIKES: dict[str, Callable[[list[torch.Tensor]], None]] = {
    "clean": _nothing,
    "gradient x1000": _x1000,
    "bad batch": _nothing,  # its targets are spoiled instead
    "one tensor x1000": _one_tensor,
    "random direction x100": _random_direction,
    "one NaN": _one_nan,
}


class _Run:
    """Student, optimizer, policy and the source of batches: what a continuation copies."""

    def __init__(self, policy: Any, seed: int) -> None:
        torch.manual_seed(seed)
        self.teacher, self.student = _network(32, 1), _network(64, 2)
        for p in self.teacher.parameters():
            p.requires_grad_(False).mul_(2.0)
        self.guarded = Protected(torch.optim.AdamW(self.student.parameters(), lr=LR), self.student, policy)
        self.draws = torch.Generator().manual_seed(seed)
        self.held_out = torch.randn(1024, INPUTS, generator=torch.Generator().manual_seed(seed + 10_000))

    def continued(self, policy: Any, seed: int) -> _Run:
        """Another run that goes on from here."""
        other = _Run(policy, seed)
        other.student.load_state_dict(self.student.state_dict())
        other.guarded.load_state_dict(self.guarded.state_dict())
        other.draws.set_state(self.draws.get_state())
        return other

    def step(self, spike: str | None = None) -> None:
        x = torch.randn(BATCH, INPUTS, generator=self.draws)
        y = self.teacher(x) + 0.1 * torch.randn(BATCH, 1, generator=self.draws)
        loss = F.mse_loss(self.student(x), y * 100.0 if spike == "bad batch" else y)
        self.student.zero_grad()
        loss.backward()
        if spike:
            SPIKES[spike]([p.grad for p in self.student.parameters() if p.grad is not None])
        self.guarded.step()

    @torch.no_grad()
    def validation(self) -> float:
        return float(F.mse_loss(self.student(self.held_out), self.teacher(self.held_out)))


def run(policy: Any, seed: int) -> dict[str, Any]:
    """Excess per kind of spike: mean validation loss of the steps after it, over the loss just before."""
    base = _Run(policy, seed)
    recent: list[float] = []
    for step in range(AT):
        base.step()
        if step >= AT - 100 and step % EVERY == 0:
            recent.append(base.validation())
    before = sum(recent) / len(recent)
    touched = base.guarded.touched
    result: dict[str, Any] = {"before": before, "touched": sum(touched) / len(touched)}
    for kind in SPIKES:
        again = base.continued(policy, seed)
        losses: list[float] = []
        for step in range(AFTER):
            again.step(kind if step == 0 else None)
            if step % EVERY == 0:
                losses.append(again.validation())
        mean = sum(losses) / len(losses) / before
        result[kind] = mean if mean < DEAD else DEAD
        if kind == "clean":
            result["touched after"] = sum(again.guarded.touched) / AFTER
    return result
