"""Limit every gradient element to an interval.

The oldest form of gradient clipping: T. Mikolov, "Statistical Language Models Based on Neural Networks", PhD thesis, Brno 2012.
The transform only names the bounds; the room `apply` writes.
"""

from __future__ import annotations

from typing import overload

from steadygrad.checks import SLUG, number
from steadygrad.decision import Decision, Reason
from steadygrad.errors import ArgumentError
from steadygrad.policy import Policy, State, expression, stateless
from steadygrad.readings import Readings

_CLAMPED = int(Reason.CLAMPED)


@overload
def clip_by_value(max_value: float, /) -> Policy: ...
@overload
def clip_by_value(low: float, high: float, /) -> Policy: ...
def clip_by_value(max_value_or_low: float, high: float | None = None, /) -> Policy:
    """Limit every gradient element: ``g <- min(max(g, low), high)``; with one argument from ``-max_value`` to ``max_value``.

    The bounds change the direction of the gradient. NaN stays NaN and Inf goes to the bound, so put `skip_nonfinite`
    before it in a `chain`. Costs one more read and write of every gradient, at every step, whether or not a bound is
    reached; what follows it in a chain must measure again. A complex gradient is refused where the bounds are applied:
    complex numbers have no order.

    Args:
        max_value_or_low: the largest modulus, > 0; or the lower bound, <= 0. In units of a gradient element.
        high: the upper bound, >= 0 and above the lower one.

    Returns:
        The policy; it rewrites elements.

    Raises:
        ArgumentError: a bound is NaN, or the interval does not hold 0 or is empty (it would push zero gradients away from 0).
        ArgumentTypeError: a bound is no number.

    Example:
        >>> import numpy as np, steadygrad as sg
        >>> sg.clip_by_value(-1.0, 2.0)
        clip_by_value(-1.0, 2.0)
        >>> sg.Limiter(sg.clip_by_value(1.0))([np.array([3.0, -4.0, 0.5])])
        [array([ 1. , -1. ,  0.5])]

    Reference:
        Mikolov, "Statistical Language Models Based on Neural Networks", 2012.
    """
    first = number("clip_by_value", "max_value" if high is None else "low", max_value_or_low)
    if high is None:
        if not first > 0.0:
            raise ArgumentError(f"`clip_by_value` expected `max_value` > 0, got {max_value_or_low!r}", slug=SLUG)
        bounds = (-first, first)
    else:
        bounds = (first, number("clip_by_value", "high", high))
        if not (bounds[0] <= 0.0 <= bounds[1] and bounds[0] < bounds[1]):
            message = f"`clip_by_value` expected low <= 0 <= high and low < high, got low={max_value_or_low!r}, high={high!r}"
            raise ArgumentError(message, slug=SLUG)
    decision = Decision(clamp=bounds, reason=_CLAMPED)

    def decide(readings: Readings, state: State) -> tuple[Decision, State]:
        del readings
        return decision, state

    shown = bounds[1:] if bounds[0] == -bounds[1] else bounds
    return Policy(stateless, decide, expression("clip_by_value", *shown), rewrites=True)
