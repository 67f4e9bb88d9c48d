"""One clipping call: steadygrad's drop-in and Guard against torch's ``clip_grad_norm_``, on real parameter shapes.

The floor is a dot product of every gradient with itself: one read of the same bytes by a BLAS kernel, with no result anyone
could use. Where the limit binds, it shrinks from call to call, since a clipped gradient would not bind again.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from rounds import median, ratio, side_by_side
from shapes import MODELS, Shapes
from torch import nn

import steadygrad as sg
from steadygrad.decide.global_norm import EPS
from steadygrad.decide.limits import limit, limited_total, total_norm

NEVER = 1e30
CLIP = "torch clip_grad_norm_"
FLOOR = "one read (dot product)"


def parameters(shapes: Shapes) -> list[nn.Parameter]:
    """Parameters with a random gradient each."""
    params = [nn.Parameter(torch.zeros(shape)) for shape in shapes]
    for p in params:
        p.grad = torch.randn(p.shape)
    return params


def shrinking(params: list[nn.Parameter], count: int = 150_000) -> list[float]:
    """Limits just below the norm as it will be after each call, made beforehand."""
    norm = float(torch.nn.utils.get_total_norm([p.grad for p in params]))
    return [norm * 0.99999**i for i in range(1, count + 1)]


def moving(limits: Iterator[float]) -> sg.Policy:
    """``clip_by_global_norm`` with a new limit at every step, made of the same parts."""

    def decide(readings: sg.Readings, state: dict[str, Any]) -> tuple[sg.Decision, dict[str, Any]]:
        maximum = next(limits)
        return limited_total(readings.xp, limit(readings.xp, total_norm(readings, 2.0), maximum, EPS), maximum), state

    return sg.Policy(lambda _: {}, decide, "moving limit")


def contenders(params: list[nn.Parameter], binding: bool) -> dict[str, Callable[[], Any]]:
    """Calls that all clip the same gradients."""
    limits = iter(shrinking(params)) if binding else itertools.repeat(NEVER)

    def guarded(fused: bool) -> Callable[[], None]:
        """What a Guard adds to ``optimizer.step()``."""
        policy = moving(limits) if binding else sg.clip_by_global_norm(NEVER)
        guard = sg.Guard(torch.optim.SGD(params, lr=0.1, fused=fused), policy, attach=False)

        def call() -> None:
            guard.before()
            guard.after()

        return call

    vectors = [p.grad.view(-1) for p in params]
    return {
        CLIP: lambda: torch.nn.utils.clip_grad_norm_(params, next(limits)),
        FLOOR: lambda: [torch.dot(v, v) for v in vectors],
        "steadygrad clip_grad_norm_": lambda: sg.clip_grad_norm_(params, next(limits)),
        "Guard, SGD": guarded(False),
        "Guard, fused SGD": guarded(True),
    }


def run(rounds: int = 15) -> list[dict[str, Any]]:
    """One row per model, case and contender."""
    rows: list[dict[str, Any]] = []
    for model, shapes in MODELS.items():
        params = parameters(shapes())
        for binding in (False, True):
            seconds = side_by_side(contenders(params, binding), rounds=rounds)
            for name, values in seconds.items():
                rows.append(
                    {
                        "model": model,
                        "case": "binding" if binding else "not binding",
                        "contender": name,
                        "milliseconds": 1e3 * median(values),
                        "times_torch": ratio(seconds, name, CLIP),
                        "times_floor": ratio(seconds, name, FLOOR),
                    }
                )
    return rows
