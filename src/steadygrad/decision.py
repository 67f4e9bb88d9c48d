"""What to do about one step's gradients: the value that every policy returns.

A :class:`Decision` is a handful of numbers. It has a neutral element, ``Decision()``, and composes with
:meth:`Decision.then`, so a chain of policies is a product. Nothing here touches a gradient.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np

Array = Any
"""An array of the readings' own namespace: NumPy, torch, jax.numpy or keras.ops; or a Python number."""


class Reason(enum.IntEnum):
    """Why a step was changed. The hot path carries the integer; :attr:`message` is what people read.

    Ordered by severity: where two decisions are composed, the higher one is reported.
    """

    NONE = 0
    DECAYED = 1
    NORMALIZED = 2
    REWRITTEN = 3
    CLAMPED = 4
    CLIPPED = 5
    UPDATE_LIMITED = 6
    SPIKE = 7
    NON_FINITE = 8
    TOO_MANY_NON_FINITE = 9

    @property
    def message(self) -> str:
        """One sentence for people."""
        return _MESSAGES[self]


_MESSAGES = {
    Reason.NONE: "the gradient was left as it is",
    Reason.DECAYED: "the gradient was multiplied by its decay factor",
    Reason.NORMALIZED: "the gradient was brought to a norm of its own, above or below what it was",
    Reason.REWRITTEN: "gradient elements were rewritten by a transform",
    Reason.CLAMPED: "gradient elements were limited to an interval",
    Reason.CLIPPED: "the gradient norm was above its limit, so the gradient was scaled down",
    Reason.UPDATE_LIMITED: "the parameters' update was above its limit, so it was scaled down",
    Reason.SPIKE: "the gradient norm was far outside of what is usual in this run, so the step was skipped",
    Reason.NON_FINITE: "a gradient holds NaN or Inf, so the step was skipped",
    Reason.TOO_MANY_NON_FINITE: "too many steps in a row were skipped because a gradient holds NaN or Inf",
}


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do with the gradients of one step: first scale, then clamp, then rewrite; or skip the step altogether.

    Attributes:
        scale: factor per tensor, shape ``(n,)``, or one for all, shape ``()``. ``None`` stands for 1.
        unit_scale: factor per unit (row, output channel), shape ``(num_units,)``, see ``Layout.units``. ``None``: none.
        clamp: ``(low, high)`` bounds on every element, applied after the scale. ``None``: no bounds.
        numbers: what the policy's ``rewrite`` wants to know, by name: shape ``(n,)``, of which each tensor gets its row, or
            ``()``. ``None``: nothing.
        rows: which tensors bounds and ``rewrite`` are for, a NumPy boolean array of shape ``(n,)``. ``None``: all.
        update_scale: factor per tensor on the parameters' own update, applied after the step, shape ``(n,)``. ``None``: none.
        withhold: boolean per tensor, shape ``(n,)``; true where the parameter takes no part in this step, as if it had no
            gradient: neither it nor its moments move. ``None``: all take part.
        skip: boolean, shape ``()``; true where the optimizer must not take this step. ``None``: no.
        abort: boolean, shape ``()``; true where training should stop with an error. ``None``: no.
        reason: a :class:`Reason` as an integer, shape ``()``.
        threshold: the limit that the policy compared with, in units of the gradient norm, for the record. ``None``: none.

    Example:
        >>> Decision(scale=0.5).then(Decision(scale=0.5, reason=int(Reason.CLIPPED)))
        Decision(scale=0.25, unit_scale=None, clamp=None, numbers=None, rows=None, update_scale=None, withhold=None, skip=None,
                 abort=None, reason=5, threshold=None)
        >>> Decision(clamp=(-1.0, 1.0)).then(Decision(scale=0.5)).clamp  # s*clamp(g) is clamp(s*g) with scaled bounds
        (-0.5, 0.5)
    """

    scale: Array | None = None
    unit_scale: Array | None = None
    clamp: tuple[Array, Array] | None = None
    numbers: Mapping[str, Array] | None = None
    rows: np.ndarray | None = None
    update_scale: Array | None = None
    withhold: Array | None = None
    skip: Array | None = None
    abort: Array | None = None
    reason: Array = 0
    threshold: Array | None = None

    @property
    def rewrites(self) -> bool:
        """Whether more is done to the elements than the factors of ``scale`` tell."""
        return self.clamp is not None or self.unit_scale is not None or self.numbers is not None

    def then(self, other: Decision, xp: ModuleType | None = None) -> Decision:
        """This decision followed by ``other``, as one decision.

        Args:
            other: the decision taken on the readings as this one leaves them.
            xp: the array namespace, needed where both hold arrays as reasons or bounds.
        """
        clamp = self.clamp
        if clamp is not None and other.scale is not None:
            clamp = (clamp[0] * other.scale, clamp[1] * other.scale)
        if clamp is not None and other.clamp is not None:
            clamp = (_into(clamp[0], other.clamp, xp), _into(clamp[1], other.clamp, xp))
        return Decision(
            scale=_combine(self.scale, other.scale, _product),
            unit_scale=_combine(self.unit_scale, other.unit_scale, _product),
            clamp=clamp or other.clamp,
            numbers=self.numbers if other.numbers is None else other.numbers,
            rows=self.rows if other.rows is None else other.rows,
            update_scale=_combine(self.update_scale, other.update_scale, _product),
            withhold=_combine(self.withhold, other.withhold, _either),
            skip=_combine(self.skip, other.skip, _either),
            abort=_combine(self.abort, other.abort, _either),
            reason=_worst(self.reason, other.reason, xp),
            threshold=self.threshold if other.threshold is None else other.threshold,
        )


def _combine(a: Array | None, b: Array | None, both: Callable[[Any, Any], Any]) -> Array | None:
    if a is None:
        return b
    return a if b is None else both(a, b)


def _product(a: Array, b: Array) -> Array:
    return a * b


def _either(a: Array, b: Array) -> Array:
    return a | b


def _into(bound: Array, interval: tuple[Array, Array], xp: ModuleType | None) -> Array:
    """A bound of ``clamp(clamp(x, *a), *b)``: the bound of ``a`` clamped into the interval ``b``."""
    low, high = interval
    if all(isinstance(value, (int, float)) for value in (bound, low, high)):
        return min(max(bound, low), high)
    where = (xp or _NEEDS_NAMESPACE).where
    return where(bound < low, low, where(bound > high, high, bound))


def _worst(a: Array, b: Array, xp: ModuleType | None) -> Array:
    if isinstance(a, int) and isinstance(b, int):
        return max(a, b)
    if isinstance(b, int) and b == 0:
        return a
    if isinstance(a, int) and a == 0:
        return b
    return (xp or _NEEDS_NAMESPACE).where(a > b, a, b)


class _NeedsNamespace:
    def where(self, *_: Any) -> Any:
        raise TypeError("`Decision.then` needs the array namespace `xp` where both decisions hold arrays")


_NEEDS_NAMESPACE: Any = _NeedsNamespace()
