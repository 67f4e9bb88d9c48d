"""Skip the steps whose gradients hold NaN or Inf.

The idea is that of dynamic loss scaling: Micikevicius et al., "Mixed Precision Training", ICLR 2018, arXiv:1710.03740.
Deviation from Optax's ``apply_if_finite``: too many failures in a row stop the training, they do not let the NaN in.
"""

from __future__ import annotations

from steadygrad.checks import count
from steadygrad.decision import Decision, Reason
from steadygrad.policy import Policy, State, text_of
from steadygrad.readings import INF, Array, Readings

MAX_CONSECUTIVE = 50
"""A loss scale of 2^24, halved at every skip, is down to 2^-24 after 48 skips: beyond that the scale is not the cause any
more, and a skipped step leaves parameters that give the same NaN again."""

_NONE, _NON_FINITE, _TOO_MANY = int(Reason.NONE), int(Reason.NON_FINITE), int(Reason.TOO_MANY_NON_FINITE)


def skip_nonfinite(max_consecutive: int | None = MAX_CONSECUTIVE) -> Policy:
    """Skip a step where any gradient holds NaN or Inf; stop the training where that does not end.

    ``skip = any_i(sum_j |g_ij|^2 is not finite)``. A skipped step moves no parameter, no moment and no step counter. Finite
    gradients whose norm is too large for float32 are finite.

    Args:
        max_consecutive: how many skips in a row are borne, >= 1; one more aborts. ``None``: any number. The default of 50 is
            more than a loss scale needs to find its size.

    Returns:
        The policy. It needs one read. Its state is ``consecutive``, the number of skips in a row up to now, shape ``()``.

    Raises:
        ArgumentError: the number is below 1.
        ArgumentTypeError: the argument is no integer.

    Example:
        >>> import numpy as np, steadygrad as sg
        >>> policy = sg.skip_nonfinite()
        >>> readings = sg.Readings(sg.Layout(("a", "b")), np, np.array([9.0, np.nan]))
        >>> decision, state = policy.decide(readings, policy.init(readings))
        >>> bool(decision.skip), int(state["consecutive"])
        (True, 1)

    Reference:
        Micikevicius et al., "Mixed Precision Training", 2018, https://arxiv.org/abs/1710.03740
    """
    call = "skip_nonfinite"
    most = None if max_consecutive is None else count(call, "max_consecutive", max_consecutive)

    def init(readings: Readings) -> State:
        return {"consecutive": integer_zero(readings)}

    def decide(readings: Readings, state: State) -> tuple[Decision, State]:
        xp = readings.xp
        finite = xp.all(readings.sum_sq < INF)  # false for NaN as well
        consecutive = xp.where(finite, 0, state["consecutive"] + 1)
        reason = xp.where(finite, _NONE, _NON_FINITE)
        abort = None
        if most is not None:
            abort = consecutive > most
            reason = xp.where(abort, _TOO_MANY, reason)
        return Decision(skip=~finite, abort=abort, reason=reason), {"consecutive": consecutive}

    return Policy(init, decide, text_of(skip_nonfinite, max_consecutive=most))


def integer_zero(readings: Readings) -> Array:
    """An integer zero of shape ``()``, of the readings' namespace and on their device."""
    xp = readings.xp
    return xp.sum(xp.where(readings.sum_sq < INF, 0, 0))  # no creation function has one name in all namespaces
