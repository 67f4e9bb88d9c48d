"""Checks of the numbers that people give: one place, one wording.

The limit of a policy must be a number above zero. Zero is refused because it says two things at once (freeze the parameters?
skip the step?), and a gradient of zero does neither: momentum and weight decay still move the parameters. A boolean is
refused although Python counts it as a number, and a tensor because comparing with it would wait for the device.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from numbers import Real
from typing import Any

from steadygrad.errors import ArgumentError, ArgumentTypeError

SLUG = "threshold-invalid"
NORM_SLUG = "norm-type-invalid"
_SHOWN = 80
_ZERO = "to leave parameters as they are set `requires_grad=False` or leave them out with `masked`"
_NEGATIVE = "a negative number would turn the gradient round"
_NAN = "NaN compares false with everything"


def number(call: str, name: str, value: Any, *, slug: str = SLUG) -> float:
    """The value as a float; NaN is refused.

    Args:
        call: the public function that was called, for the message.
        name: the argument's name, for the message.
        value: what came.
        slug: the name of the problem.

    Returns:
        The number as a Python float.

    Raises:
        ArgumentTypeError: it is no real number (a boolean and a string are none).
        ArgumentError: it is NaN, or an integer too large for a float.

    Example:
        >>> number("clip_by_global_norm", "max_norm", 1)
        1.0
    """
    if isinstance(value, bool) or not isinstance(value, Real):
        kind = type(value).__name__
        raise ArgumentTypeError(f"`{call}` expected `{name}` to be a number, got {show(value)} ({kind})", slug=slug)
    try:
        result = float(value)
    except OverflowError:
        raise ArgumentError(f"`{call}` expected `{name}` to fit a float, got {show(value)}; use `inf`", slug=slug) from None
    if math.isnan(result):
        raise ArgumentError(f"`{call}` expected `{name}` to be a number, got nan: {_NAN}", slug=slug)
    return result


def positive(call: str, name: str, value: Any) -> float:
    """The value as a float above zero; infinity is allowed.

    Args:
        call: the public function that was called, for the message.
        name: the argument's name, for the message.
        value: what came.

    Returns:
        The number as a Python float.

    Raises:
        ArgumentTypeError: it is no real number.
        ArgumentError: it is NaN, zero or negative.

    Example:
        >>> positive("clip_by_global_norm", "max_norm", float("inf"))
        inf
    """
    result = number(call, name, value)
    if result <= 0.0:
        advice = _ZERO if result == 0.0 else _NEGATIVE
        raise ArgumentError(f"`{call}` expected `{name}` > 0, got {show(value)}: {advice}", slug=SLUG)
    return result


def fraction(call: str, name: str, value: Any) -> float:
    """The value as a float above zero and at most one."""
    result = positive(call, name, value)
    if result > 1.0:
        raise ArgumentError(f"`{call}` expected `{name}` in (0, 1], got {show(value)}", slug=SLUG)
    return result


def not_negative(call: str, name: str, value: Any) -> float:
    """The value as a float that is zero or above; infinity is allowed. For the drop-ins, where torch takes zero."""
    result = number(call, name, value)
    if result < 0.0:
        raise ArgumentError(f"`{call}` expected `{name}` >= 0, got {show(value)}: {_NEGATIVE}", slug=SLUG)
    return result


def non_negative(call: str, name: str, value: Any) -> float:
    """The value as a finite float that is zero or above."""
    result = not_negative(call, name, value)
    if math.isinf(result):
        raise ArgumentError(f"`{call}` expected `{name}` to be finite and >= 0, got {show(value)}", slug=SLUG)
    return result


def count(call: str, name: str, value: Any) -> int:
    """The value as an integer of at least 1."""
    result = integer(call, name, value)
    if result < 1:
        raise ArgumentError(f"`{call}` expected `{name}` >= 1, got {show(value)}", slug=SLUG)
    return result


def integer(call: str, name: str, value: Any) -> int:
    """The value as an integer of any sign and size."""
    if isinstance(value, bool) or not isinstance(value, int):
        kind = type(value).__name__
        raise ArgumentTypeError(f"`{call}` expected `{name}` to be an integer, got {show(value)} ({kind})", slug=SLUG)
    return value


def flag(call: str, name: str, value: Any) -> bool:
    """The value as a boolean; nothing else counts as one."""
    if not isinstance(value, bool):
        raise ArgumentTypeError(f"`{call}` expected `{name}` to be True or False, got {show(value)}", slug=SLUG)
    return value


def one_of(call: str, name: str, value: Any, choices: Iterable[str]) -> str:
    """The value, which must be one of a few words."""
    known = tuple(choices)
    if not isinstance(value, str) or value not in known:
        error = ArgumentError if isinstance(value, str) else ArgumentTypeError
        raise error(f"`{call}` expected `{name}` to be one of {', '.join(map(repr, known))}, got {show(value)}", slug=SLUG)
    return value


def norm_exponent(call: str, value: Any) -> float:
    """The exponent p of a p-norm: any number above zero, ``inf``, or the text ``"inf"`` as torch takes it.

    Zero and negative exponents are refused: a "norm" of that kind does not bound the gradient.
    """
    if isinstance(value, str) and value == "inf":
        return math.inf
    result = number(call, "norm_type", value, slug=NORM_SLUG)
    if result <= 0.0:
        message = f"`{call}` expected `norm_type` > 0, got {show(value)}: such a norm does not bound the gradient; use 2.0 or inf"
        raise ArgumentError(message, slug=NORM_SLUG)
    return result


def show(value: Any) -> str:
    """The value for a message, cut short."""
    if isinstance(value, int) and value.bit_length() > 1024:  # Python itself refuses to print the longest ones
        return f"an integer of {value.bit_length()} bits"
    text = repr(value)
    return text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."
