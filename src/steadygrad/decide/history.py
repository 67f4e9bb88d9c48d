"""What policies with a memory share: which norms may enter it, buffers of past norms, and percentiles of them.

A norm enters a statistic if it is finite and above zero. A norm of zero says that nothing was learnt in this step (a branch that
is switched off, an expert that got no token), not that gradients are small now; let in, it would pull minima and percentiles to
zero for good. At a step that is skipped because of NaN or Inf nothing enters, and no counter moves.

Buffers hold zeros where nothing has come yet. Because norms that enter are above zero, those sort to the front, and a buffer
needs neither a filler that is not finite nor a slice whose length depends on a value.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any, cast

from steadygrad.checks import SLUG, not_negative, number, positive, show
from steadygrad.decision import Array
from steadygrad.errors import ArgumentError
from steadygrad.policy import State
from steadygrad.readings import INF

_DENOMINATOR = 100_000
"""Percentiles are kept as fractions with integers up to this: times 10,000 norms they still fit 32 bits."""


def enters(norm: Array, finite: Array) -> Array:
    """Whether a norm may enter a statistic.

    Args:
        norm: one norm or several, >= 0, or NaN or Inf.
        finite: whether all of this step's gradients are finite, shape ``()``.

    Returns:
        Booleans of the norm's shape.
    """
    return (norm > 0.0) & (norm < INF) & finite


def unless_skipped(xp: Any, finite: Array, new: State, old: State) -> State:
    """The new state, or the old one to the bit where a reading is not finite."""
    return {key: xp.where(finite, value, old[key]) for key, value in new.items()}


def shifted(xp: Any, history: Array, norm: Array, accepted: Array) -> Array:
    """A buffer in order of arrival with ``norm`` behind and the oldest norm gone, where ``accepted``.

    Args:
        xp: the array namespace.
        history: shape ``(..., window)``.
        norm: finite; shape ``(...)``.
        accepted: whether the norm enters, shape ``(...)``.

    Returns:
        The next buffer.

    Example:
        >>> import numpy as np
        >>> shifted(np, np.array([1.0, 2.0, 3.0]), np.float64(4.0), np.bool_(True))
        array([2., 3., 4.])
    """
    column = (*history.shape[:-1], 1)
    later = xp.concatenate((history[..., 1:], xp.reshape(norm, column)), -1)
    return xp.where(xp.reshape(accepted, column), later, history)


def ascending(xp: Any, values: Array) -> Array:
    """The values sorted along the last dimension, smallest first."""
    result: Any = xp.sort(values, -1)
    return cast(Any, result[0]) if isinstance(result, tuple) else result  # torch returns the order as well


def inserted(xp: Any, ordered: Array, norm: Array) -> Array:
    """A sorted buffer with one zero at its front replaced by ``norm``; a norm of zero changes nothing.

    Element j of the result is the median of elements j and j + 1 of the buffer and the norm: no search, no index, and a tenth of
    the time of sorting.

    Args:
        xp: the array namespace.
        ordered: ascending, its first element 0; shape ``(size,)``.
        norm: finite, shape ``()``.

    Returns:
        The next buffer, ascending.

    Example:
        >>> import numpy as np
        >>> inserted(np, np.array([0.0, 0.0, 1.0, 3.0]), np.float64(2.0))
        array([0., 1., 2., 3.])
    """
    one = xp.reshape(norm, (1,))
    rest = ordered[1:]
    below = xp.minimum(rest, one)
    return xp.concatenate((below[:1], xp.maximum(rest[:-1], below[1:]), xp.maximum(rest[-1:], one)), -1)


def percent(call: str, value: Any) -> float:
    """A percentile: a number from 0 to 100."""
    result = number(call, "percentile", value)
    if not 0.0 <= result <= 100.0:
        raise ArgumentError(f"`{call}` expected `percentile` from 0 to 100, got {show(value)}", slug=SLUG)
    return result


def as_fraction(percentile: float) -> tuple[int, int]:
    """Numerator and denominator of ``percentile / 100``, so that ranks come from integers and never from rounding.

    Example:
        >>> as_fraction(12.5)
        (1, 8)
    """
    part = (Fraction(repr(percentile)) / 100).limit_denominator(_DENOMINATOR)
    return part.numerator, part.denominator


def interpolated(xp: Any, ordered: Array, num: Array, part: tuple[int, int]) -> Array:
    """The percentile of the ``num`` largest elements, linear between neighbours, as `numpy.percentile` has it.

    Args:
        xp: the array namespace.
        ordered: ascending, shape ``(size,)``.
        num: how many elements at the end count, an integer of shape ``()``; 0 gives the largest element.
        part: the percentile as :func:`as_fraction` gives it.

    Returns:
        Shape ``()``.

    Example:
        >>> import numpy as np
        >>> float(interpolated(np, np.array([0.0, 1.0, 2.0, 4.0]), np.int64(3), (3, 4)))
        3.0
    """
    above, whole = part
    num = xp.where(num > 0, num, 1)
    rank = above * (num - 1)
    index, rest = ordered.shape[-1] - num + rank // whole, rank % whole
    low = xp.take(ordered, index)
    high = xp.take(ordered, xp.where(rest > 0, index + 1, index))
    return low + (high - low) / whole * rest  # exactly `low` where neighbours are equal


def smoothing(call: str, name: str, value: Any) -> float:
    """The weight of the past in a moving average: a number from 0 up to but not including 1."""
    result = not_negative(call, name, value)
    if result >= 1.0:
        raise ArgumentError(f"`{call}` expected `{name}` in [0, 1), got {show(value)}: nothing new would be learnt", slug=SLUG)
    return result


def whole_number(call: str, name: str, value: Any) -> int:
    """An integer of zero or above."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ArgumentError(f"`{call}` expected `{name}` to be an integer >= 0, got {show(value)}", slug=SLUG)
    return value


def above_one(call: str, name: str, value: Any) -> float:
    """A finite number above 1."""
    result = positive(call, name, value)
    if not 1.0 < result < INF:
        raise ArgumentError(f"`{call}` expected `{name}` > 1 and finite, got {show(value)}", slug=SLUG)
    return result
