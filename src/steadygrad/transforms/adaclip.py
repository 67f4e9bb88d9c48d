"""AdaClip: limit the elements of each tensor to a running mean of its largest element.

Huang et al., "Stable-SPAM: How to Train in 4-Bit More Stably than 16-Bit Adam", 2025, arXiv:2502.17055v1.

Deviations, and why:

- What enters the running mean is at most ``max_growth`` times the mean. In the paper the whole maximum enters: a spike of a
  million times the usual size is limited to a thousand times the usual size, and lifts the limit to that for the next thousand
  steps. Here it is limited to 1.009 times the mean, and lifts the limit by 0.9 %. ``max_growth=inf`` is the paper's rule. Up to
  a factor of 10 from one step to the next both are the same; a lasting growth by a factor k is accepted in
  ``log(k) / log(1.009)`` steps more than the mean itself takes, 770 for a thousandfold one.
- A tensor that has no gradient, or one of zero, leaves its mean and its own count of steps alone, so that a zero does not
  pull the limit down.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from steadygrad.checks import SLUG, number, show
from steadygrad.decide.limits import rewriting
from steadygrad.decision import Array, Decision
from steadygrad.errors import ArgumentError
from steadygrad.policy import Place, Policy, State, text_of
from steadygrad.readings import INF, Readings

_BETA, _MAX_GROWTH = 0.999, 10.0


def adaclip(beta: float = _BETA, *, max_growth: float = _MAX_GROWTH) -> Policy:
    """Limit the elements of each tensor to a running mean of its largest element, as the AdaClip of Stable-SPAM.

    ``x_t = min(max|g|, max_growth * M_(t-1))`` enters the bias-corrected mean ``M_t = M_(t-1) + w_t * (x_t - M_(t-1))`` with
    the weight ``w_t = (1 - beta) / (1 - beta^t)``. Then ``g <- g * M_t / max|g|`` for the elements with ``|g| > M_t``; the others
    stay as they are.

    Elements above the limit keep their proportions to each other, so the direction of the gradient changes less than under
    `clip_by_value`. Needs the largest modulus of each tensor, which may cost one more read; where a limit binds (in a GPU's
    case at every step) one more read and write, six passes of arithmetic and one tensor of the gradient's size at a time.

    Args:
        beta: weight of the past in the running mean, in [0, 1).
        max_growth: how many times the mean a maximum may count, > 1.

    Returns:
        The policy; it rewrites elements. Its state is, per tensor, the mean and the number of steps that it is a mean of. A
        step with NaN or Inf is skipped and leaves the state as it was.

    Raises:
        ArgumentError: a number is out of range.
        ArgumentTypeError: an argument is no number.

    Example:
        >>> import steadygrad as sg
        >>> policy = sg.adaclip()
        >>> layout, state = sg.Layout(("a",)), None
        >>> for peak in (1.0, 10.0):
        ...     readings = sg.Readings(layout, np, np.array([peak * peak]), abs_max=np.array([peak]))
        ...     decision, state = policy.decide(readings, state or policy.init(readings))
        >>> decision.numbers["limit"].round(5)
        array([5.50225])

    Reference:
        Huang et al., "Stable-SPAM: How to Train in 4-Bit More Stably than 16-Bit Adam", 2025, https://arxiv.org/abs/2502.17055
    """
    call = "adaclip"
    past, growth = number(call, "beta", beta), number(call, "max_growth", max_growth)
    if not 0.0 <= past < 1.0:
        raise ArgumentError(f"`{call}` expected `beta` in [0, 1), got {show(beta)}", slug=SLUG)
    if not growth > 1.0:
        raise ArgumentError(f"`{call}` expected `max_growth` > 1, got {show(max_growth)}: the mean could never grow", slug=SLUG)

    def decide(readings: Readings, state: State) -> tuple[Decision, State]:
        xp, peaks = readings.xp, readings.norms(INF)
        mean, steps = _next(xp, peaks, state, past, growth)
        decision = rewriting(readings, {"limit": mean, "divisor": _divisor(xp, peaks, mean)})
        skip = decision.skip
        after = {
            "tensor_max": xp.where(skip, state["tensor_max"], mean),
            "tensor_steps": xp.where(skip, state["tensor_steps"], steps),
        }
        return decision, after

    text = text_of(adaclip, beta=past, max_growth=growth)
    return Policy(_init, decide, text, frozenset({"abs_max"}), rewrites=True, rewrite=_rewrite)


def _init(readings: Readings) -> State:
    # The count is a float64, exact up to 2^53, since an integer as an exponent would make torch compute in float32.
    return {"tensor_max": np.zeros(len(readings)), "tensor_steps": np.zeros(len(readings))}


def _next(xp: Any, peaks: Array, state: State, past: float, growth: float) -> tuple[Array, Array]:
    """The means, and the counts of steps, as this step leaves them."""
    before, known = state["tensor_max"], state["tensor_steps"]
    enters = peaks > 0.0
    steps = xp.where(enters, known + 1.0, known)
    most = xp.where(known > 0.0, xp.where(known > 0.0, before, 1.0) * growth, INF)
    weight = (1.0 - past) / (1.0 - past ** xp.where(steps > 0.0, steps, 1.0))
    return xp.where(enters, before + weight * (xp.minimum(peaks, most) - before), before), steps


def _divisor(xp: Any, peaks: Array, limits: Array) -> Array:
    """The root of what elements above the limit are divided by; exactly 1 where none is.

    The root, divided by twice: so a quotient that float32 cannot hold still makes a finite gradient.
    """
    binding = (peaks > limits) & (peaks < INF)
    return xp.where(binding, xp.sqrt(xp.where(binding, peaks, 1.0) / xp.where(binding, limits, 1.0)), 1.0)


def _rewrite(grad: Tensor, place: Place) -> None:
    limit, divisor = place.numbers["limit"], place.numbers["divisor"]
    if not isinstance(divisor, Tensor):  # numbers of the host's own: nothing to wait for
        if divisor == 1.0:
            return
        limit, divisor = float(limit), float(divisor)
    factor = grad.abs().gt_(limit).mul_(divisor - 1.0).add_(1.0)  # 1 up to the limit, the divisor above it
    grad.div_(factor).div_(factor)
