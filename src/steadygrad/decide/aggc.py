"""AGGC: the norm of each parameter group is kept within a band around its own moving average.

Z. Li, Y. Wu, Y. Chang, "AGGC: Adaptive Group Gradient Clipping for Stabilizing Large Language Model Training", 2026,
arXiv:2601.11864.

Deviations, and why:

- The moving average is corrected for its start at zero, and a group's first norm passes. In the published code the limit of the
  second step is 2 % of the first norm.
- The upper end of the band must lie above the average. The average is of limited norms, so with an upper end at or below it
  band and gradients could only shrink; the published default of 1 does not recover from the start.
- Small gradients are raised only on request. The paper wants both ends of the band, but its code has the lower one switched
  off, in the defaults and in the scripts of the experiments; and raising makes large what may be small because it has
  converged.
- A group is a parameter group of the optimizer; the published code goes by module names, which `masked` can do.
- Norms are those of the whole step's gradients, not sums over micro-batches; those that are zero or not finite do not enter.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from steadygrad.checks import SLUG, count, flag, fraction, non_negative, number, show
from steadygrad.decide.history import above_one, enters, smoothing, unless_skipped
from steadygrad.decide.layouts import RowConstants, by_layout
from steadygrad.decide.limits import Limited, limit, limited_parts
from steadygrad.decision import Array, Decision, Reason
from steadygrad.errors import ArgumentError
from steadygrad.policy import Policy, State, text_of
from steadygrad.readings import INF, Layout, Readings

_CLIPPED, _NORMALIZED = int(Reason.CLIPPED), int(Reason.NORMALIZED)


def aggc(
    high: float = 1.5,
    low: float = 0.5,
    *,
    beta: float = 0.98,
    min_norm: float = 0.0,
    raise_small: bool = False,
    max_raise: float = 10.0,
    num_steps: int | None = None,
    high_late: float | None = None,
    low_late: float | None = None,
    switch: float = 0.5,
    transition: float = 0.2,
) -> Policy:
    """Limit the norm of each parameter group to a band around the moving average of its own limited norms.

    With n the norm of the group and S the average before this step, ``n* = min(n, high * S)``; with `raise_small` also
    ``n* = max(n*, min(max(min_norm, low * S), high * S, max_raise * n))``. Then ``g <- g * n* / n`` for all tensors of the group,
    and S takes in n*. Given `num_steps`, ``high`` and ``low`` change linearly to `high_late` and `low_late`, from step
    ``switch * num_steps`` on for ``transition * num_steps`` steps. With ``min_norm=0``, multiplying all gradients of a run by one
    number multiplies the results by it.

    S grows by a factor of ``1 + (1 - beta) * (high - 1)`` a step at most, by default 1 %: norms at a level 10 times higher are
    accepted after about 230 steps.

    Args:
        high: upper end of the band, > 1, in units of S.
        low: lower end of the band, in [0, 1], in units of S.
        beta: weight of the past in S, in [0, 1).
        min_norm: the lower end is at least this, >= 0, in units of the gradient.
        raise_small: whether norms below the band are raised. A norm of zero stays zero.
        max_raise: largest factor that raises, > 1.
        num_steps: length of the training in steps, for the schedule; ``None``: the band does not change.
        high_late: upper end at last, > 1; ``None``: as at first.
        low_late: lower end at last, in [0, 1]; ``None``: as at first.
        switch: where the change begins, as a part of `num_steps`, >= 0.
        transition: how long it takes, as a part of `num_steps`, > 0.

    Returns:
        The policy. It needs one read. Its state is ``step``, shape ``()``, and for each tensor that of its group:
        ``tensor_average`` and ``tensor_weight`` (the sum of the average's weights, for its correction), shape ``(n,)``.

    Raises:
        ArgumentError: a number is out of range, or a schedule has no `num_steps`.
        ArgumentTypeError: an argument is of the wrong kind.

    Example:
        >>> import steadygrad as sg
        >>> limiter = sg.Limiter(sg.aggc())
        >>> [limiter([np.array([norm])])[0].item() for norm in (2.0, 2.5, 100.0)]
        [2.0, 2.5, 3.378787878787879]

    Reference:
        Li, Wu, Chang, "AGGC: Adaptive Group Gradient Clipping for Stabilizing Large Language Model Training", 2026,
        https://arxiv.org/abs/2601.11864
    """
    call = "aggc"
    if num_steps is None and not (high_late is None and low_late is None):
        raise ArgumentError(f"`{call}` expected `num_steps` with `high_late` or `low_late`, got None", slug=SLUG)
    first = above_one(call, "high", high), _part(call, "low", low)
    band = _Band(
        first=first,
        late=(
            first[0] if high_late is None else above_one(call, "high_late", high_late),
            first[1] if low_late is None else _part(call, "low_late", low_late),
        ),
        num_steps=None if num_steps is None else count(call, "num_steps", num_steps),
        switch=non_negative(call, "switch", switch),
        transition=fraction(call, "transition", transition),
        least=non_negative(call, "min_norm", min_norm),
    )
    past, most = smoothing(call, "beta", beta), above_one(call, "max_raise", max_raise)
    largest = most if flag(call, "raise_small", raise_small) else None
    text = text_of(aggc, beta=past, raise_small=raise_small, max_raise=most, **band.given())
    return Policy(_init, _Rule(band, past, largest).decide, text)


def _init(readings: Readings) -> State:
    n = len(readings)
    return {"step": np.int64(0), "tensor_average": np.zeros(n), "tensor_weight": np.zeros(n)}


class _Band(NamedTuple):
    """The ends of the band, each as (high, low), and when they change."""

    first: tuple[float, float]
    late: tuple[float, float]
    num_steps: int | None
    switch: float
    transition: float
    least: float

    def at(self, xp: Any, step: Array) -> tuple[Array, Array]:
        """(high, low) at a step, counted from 0; ``step`` is a floating-point array of shape ``()``."""
        if self.num_steps is None:
            return self.first
        part = (step / self.num_steps - self.switch) / self.transition
        part = xp.where(part > 1.0, 1.0, xp.where(part > 0.0, part, 0.0))
        high, low = (a * (1.0 - part) + b * part for a, b in zip(self.first, self.late, strict=True))
        return high, low

    def given(self) -> dict[str, Any]:
        """The settings under their public names; an end that never changes has no late value."""
        high_late, low_late = (None if b == a else b for a, b in zip(self.first, self.late, strict=True))
        return {
            "high": self.first[0],
            "low": self.first[1],
            "min_norm": self.least,
            "num_steps": self.num_steps,
            "high_late": high_late,
            "low_late": low_late,
            "switch": self.switch,
            "transition": self.transition,
        }


class _Rule:
    """The policy's second function.

    Args:
        band: the band.
        past: weight of the past in the average.
        most: largest factor that raises a small norm; ``None``: none is raised.
    """

    def __init__(self, band: _Band, past: float, most: float | None) -> None:
        self._band, self._past, self._most = band, past, most
        self._groups_of = by_layout(_Groups)

    def decide(self, readings: Readings, state: State) -> tuple[Decision, State]:
        xp = readings.xp
        finite = xp.all(readings.sum_sq < INF)
        norms = self._groups_of(readings.layout).norms(xp, readings.sum_sq)
        accepted = enters(norms, finite)
        known = state["tensor_weight"] > 0.0
        average = state["tensor_average"] / xp.where(known, state["tensor_weight"], 1.0)
        high, low = self._band.at(xp, xp.add(state["step"], xp.sum(xp.zeros_like(norms))))
        outcome = limit(xp, norms, xp.where(known, high * average, INF))
        outcome = Limited(outcome.scale, outcome.binding & finite, readings.sum_sq < INF)
        decision = limited_parts(xp, outcome)
        if self._most is not None:
            lower = xp.maximum(low * average, self._band.least + xp.zeros_like(average))
            decision = self._raised(xp, decision, norms, xp.minimum(lower, high * average), known & accepted)
        passed = decision.scale * norms
        new = {
            "tensor_average": self._past * state["tensor_average"] + (1.0 - self._past) * passed,
            "tensor_weight": self._past * state["tensor_weight"] + (1.0 - self._past),
        }
        step = xp.where(finite, state["step"] + 1, state["step"])
        return decision, {"step": step, **unless_skipped(xp, accepted, new, state)}

    def _raised(self, xp: Any, decision: Decision, norms: Array, lower: Array, usable: Array) -> Decision:
        """The decision with the norms below the band raised as well."""
        small = usable & (norms < lower)
        factor = lower / xp.where(small, norms, 1.0)
        scale = xp.where(small, xp.where(factor < self._most, factor, self._most), decision.scale)
        reason = xp.where(xp.any(small) & (decision.reason < _CLIPPED), _NORMALIZED, decision.reason)
        return replace(decision, scale=scale, reason=reason)


class _Groups:
    """Norms of the parameter groups of a layout, for each tensor that of its group."""

    def __init__(self, layout: Layout) -> None:
        groups = np.array(layout.groups, np.int64)
        membership = (np.unique(groups)[:, None] == groups).astype(np.float64)
        self._sums, self._rows = RowConstants(membership), RowConstants(membership.T.copy())

    def norms(self, xp: Any, sum_sq: Array) -> Array:
        """The norm of each tensor's group, shape ``(n,)``; of its finite tensors."""
        finite = xp.where(sum_sq < INF, sum_sq, 0.0)
        of_groups = xp.sqrt(xp.matmul(self._sums.like(sum_sq), finite))
        return xp.matmul(self._rows.like(sum_sq), of_groups)  # a selection: exact, and no index goes to the device


def _part(call: str, name: str, value: Any) -> float:
    result = number(call, name, value)
    if not 0.0 <= result <= 1.0:
        raise ArgumentError(f"`{call}` expected `{name}` in [0, 1], got {show(value)}", slug=SLUG)
    return result
