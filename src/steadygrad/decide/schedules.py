"""Numbers that depend on the step: named formulas, so that a policy with a schedule still has a text that can be parsed back.

A schedule maps the number of steps taken before this one (0 at the first step) to a factor.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

from steadygrad.checks import SLUG, count, fraction, number, positive, show
from steadygrad.decision import Array
from steadygrad.errors import ArgumentError
from steadygrad.policy import text_of


class Schedule(NamedTuple):
    """A factor as a function of the step.

    Attributes:
        at: array namespace and step, a floating-point array of shape ``()``, to the factor, shape ``()``.
        text: the expression that makes this schedule again.

    Example:
        >>> import numpy as np
        >>> float(exponential(0.5).at(np, np.array(3.0)))
        0.125
        >>> exponential(0.5)
        exponential(0.5)
    """

    at: Callable[[Any, Array], Array]
    text: str

    def __repr__(self) -> str:
        return self.text


def exponential(rate: float, initial: float = 1.0) -> Schedule:
    """``initial * rate^t``.

    Args:
        rate: factor from one step to the next, in (0, 1].
        initial: factor at the first step, in (0, 1].

    Returns:
        The schedule.

    Raises:
        ArgumentError: a number is out of range.

    Example:
        >>> exponential(0.999, initial=0.5)
        exponential(0.999, 0.5)
    """
    call = "exponential"
    base, first = fraction(call, "rate", rate), fraction(call, "initial", initial)

    def at(xp: Any, step: Array) -> Array:
        del xp
        return first * base**step

    return Schedule(at, text_of(exponential, rate=base, initial=first))


def inverse_time(rate: float) -> Schedule:
    """``1 / (1 + rate * t)``.

    Args:
        rate: speed of the decay per step, > 0: the factor is 1/2 after ``1 / rate`` steps.

    Returns:
        The schedule.

    Raises:
        ArgumentError: the number is out of range.

    Example:
        >>> import numpy as np
        >>> float(inverse_time(0.5).at(np, np.array(2.0)))
        0.5
    """
    call = "inverse_time"
    speed = positive(call, "rate", rate)
    if math.isinf(speed):
        raise ArgumentError(f"`{call}` expected a finite `rate`, got {show(rate)}", slug=SLUG)

    def at(xp: Any, step: Array) -> Array:
        del xp
        return 1.0 / (1.0 + speed * step)

    return Schedule(at, text_of(inverse_time, rate=speed))


def cosine(num_steps: int, final: float = 0.0) -> Schedule:
    """Half a cosine wave from 1 to ``final``: ``final + (1 - final) * (1 + cos(pi * min(t / num_steps, 1))) / 2``.

    Args:
        num_steps: length of the descent, >= 1.
        final: the factor from then on, in [0, 1). Zero gradients still let momentum and weight decay move the parameters.

    Returns:
        The schedule.

    Raises:
        ArgumentError: a number is out of range.

    Example:
        >>> import numpy as np
        >>> round(float(cosine(10, final=0.1).at(np, np.array(5.0))), 3)
        0.55
    """
    call = "cosine"
    length, last = count(call, "num_steps", num_steps), number(call, "final", final)
    if not 0.0 <= last < 1.0:
        raise ArgumentError(f"`{call}` expected `final` in [0, 1), got {show(final)}", slug=SLUG)
    span = float(min(length, 2**53))

    def at(xp: Any, step: Array) -> Array:
        done = xp.where(step < span, step / span, 1.0)
        return last + (1.0 - last) * 0.5 * (1.0 + xp.cos(math.pi * done))

    return Schedule(at, text_of(cosine, num_steps=length, final=last))
