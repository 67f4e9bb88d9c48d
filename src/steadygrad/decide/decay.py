"""Gradient decay: multiply every gradient by a factor that may depend on the step.

``g <- k_t * g``. For SGD without momentum this is the same as a learning rate of ``k_t * lr``. Adam divides the factor out
again: a constant one changes nothing there (but for Adam's epsilon), and a varying one acts only through the lag of its moments.
"""

from __future__ import annotations

from collections.abc import Callable
from numbers import Real
from typing import Any

from steadygrad.checks import SLUG, fraction, show
from steadygrad.decide.nonfinite import integer_zero
from steadygrad.decide.schedules import Schedule
from steadygrad.decision import Array, Decision, Reason
from steadygrad.errors import ArgumentTypeError
from steadygrad.policy import Policy, State, expression, stateless
from steadygrad.readings import INF, Readings

_DECAYED = int(Reason.DECAYED)


def decay(factor: float | Schedule | Callable[[Any], Any]) -> Policy:
    """Multiply all gradients by a factor, ``g <- k_t * g``, where t counts the steps from 0.

    With Adam and other optimizers that divide by the gradient's own size a constant factor has no effect; use the
    learning rate there. A step whose gradients hold NaN or Inf gets the factor 1 and does not advance t.

    Args:
        factor: a number in (0, 1]; or a schedule: ``exponential(rate)``, ``inverse_time(rate)``, ``cosine(num_steps)``;
            or a Python function from the step (an array of shape ``()``) to the factor. A policy with a Python function
            works as any other, but its text cannot be parsed back.

    Returns:
        The policy. It needs one read. With a schedule its state is ``step``, shape ``()``.

    Raises:
        ArgumentError: the number is not in (0, 1].
        ArgumentTypeError: neither a number nor a schedule nor a function.

    Example:
        >>> import numpy as np, steadygrad as sg
        >>> from steadygrad.decide import exponential
        >>> policy = sg.decay(exponential(0.5))
        >>> readings = sg.Readings(sg.Layout(("a",)), np, np.array([9.0]))
        >>> state = policy.init(readings)
        >>> for _ in range(3):
        ...     decision, state = policy.decide(readings, state)
        >>> float(decision.scale)
        0.25
    """
    if isinstance(factor, Schedule):
        return _scheduled(factor)
    if callable(factor):
        return _scheduled(_from_function(factor))
    if not isinstance(factor, Real):
        message = f"`decay` expected a number in (0, 1], a schedule such as `exponential(0.9)`, or a function, got {show(factor)}"
        raise ArgumentTypeError(message, slug=SLUG)
    return _constant(fraction("decay", "factor", factor))


def _constant(factor: float) -> Policy:
    decision = Decision() if factor == 1.0 else Decision(scale=factor, reason=_DECAYED)

    def decide(readings: Readings, state: State) -> tuple[Decision, State]:
        del readings
        return decision, state

    return Policy(stateless, decide, expression("decay", factor))


def _scheduled(schedule: Schedule) -> Policy:
    def init(readings: Readings) -> State:
        return {"step": integer_zero(readings)}

    def decide(readings: Readings, state: State) -> tuple[Decision, State]:
        xp, step = readings.xp, state["step"]
        # The counter stays an integer, exact for ever; the formula gets it in the readings' own floating-point type.
        now = xp.add(step, xp.sum(xp.zeros_like(readings.sum_sq)))
        finite = xp.all(readings.sum_sq < INF)
        scale = xp.where(finite, schedule.at(xp, now), 1.0)
        return Decision(scale=scale, reason=_DECAYED), {"step": xp.where(finite, step + 1, step)}

    return Policy(init, decide, expression("decay", schedule))


def _from_function(function: Callable[[Any], Any]) -> Schedule:
    def at(xp: Any, step: Array) -> Array:
        del xp
        return function(step)

    name = getattr(function, "__name__", type(function).__name__)
    return Schedule(at, f"<function {name}>")
