"""The sampled, dearer readings: largest modulus, parameter norm, update-to-weight ratio.

The update-to-weight ratio ||after - before|| / ||before|| of a tensor is taken on at most 4096 evenly spaced elements, so that
watching never needs a second copy of the parameters.
"""

from __future__ import annotations

# Where torch is not annotated:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from steadygrad.measure.elements import elements
from steadygrad.readings import Readings

_EVERY = 100
_SAMPLE = 4096


class Sink(Protocol):
    """Where check-ups go."""

    def checkup(self, *, optimizer: int, step: int, abs_max: Any, param_norm: Any, update_ratio: Any) -> None:
        """Take one check-up; arrays of shape ``(n,)``."""


class Checkup:
    """Check-ups of one optimizer: at steps 1, 10 and every 100th.

    Args:
        sink: where they go.

    Attributes:
        needs: the readings that a check-up wants besides.
    """

    needs = frozenset({"abs_max", "param_norm"})

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._before: list[Tensor] = []

    @property
    def begun(self) -> bool:
        """Whether :meth:`begin` was called and :meth:`finish` was not yet."""
        return bool(self._before)

    @staticmethod
    def due(step: int) -> bool:
        """Whether step number ``step`` (from 1) is to be checked."""
        return step % _EVERY == 0 or step in (1, 10)

    def begin(self, params: Sequence[Tensor]) -> None:
        """Remember a sample of the parameters before the step; once, if a closure is evaluated several times."""
        self._before = self._before or [_sample(p).clone() for p in params]

    def cancel(self) -> None:
        """Forget what :meth:`begin` remembered."""
        self._before = []

    def finish(self, optimizer: int, step: int, params: Sequence[Tensor], readings: Readings) -> None:
        """Compare with the parameters after the step, and hand everything over."""
        before, self._before = self._before, []
        ratios = [_ratio(old, _sample(new)) for old, new in zip(before, params, strict=True)]
        self._sink.checkup(
            optimizer=optimizer,
            step=step,
            abs_max=readings.abs_max,
            param_norm=readings.param_norm,
            update_ratio=torch.stack([r.to(ratios[0].device) for r in ratios]) if ratios else torch.zeros(0),
        )


def _sample(param: Tensor) -> Tensor:
    x = elements(param).reshape(-1)
    return x[:: max(1, -(-x.numel() // _SAMPLE))]


def _ratio(before: Tensor, after: Tensor) -> Tensor:
    """NaN for a parameter that was zero: it has no ratio."""
    change = torch.linalg.vector_norm((after - before).to(torch.complex64 if before.is_complex() else torch.float32))
    return change / torch.linalg.vector_norm(before.to(torch.complex64 if before.is_complex() else torch.float32))
