"""A limit on how large Adam's update is for its second moment, tensor by tensor.

N. Shazeer, M. Stern, "Adafactor: Adaptive Learning Rates with Sublinear Memory Cost", ICML 2018, arXiv:1804.04235, section 6
(update clipping); M. Wortsman et al., "Stable and low-precision training for large-scale vision-language models", NeurIPS 2023,
arXiv:2304.13013, section 3.4 (StableAdamW). When the learning signal changes, the second moment is too small for a while, and
the update too large although the gradient's norm is ordinary.

Deviations, and why: it works with any optimizer of the Adam family, by a factor on the parameters' update after the step; that
factor takes in decoupled weight decay, as StableAdamW's reduced learning rate does. A reading that is not finite skips the
step; ``max(1, nan)`` is 1 in the reference.
"""

from __future__ import annotations

from steadygrad.checks import positive
from steadygrad.decide.limits import limit
from steadygrad.decision import Decision, Reason
from steadygrad.policy import Policy, State, stateless, text_of
from steadygrad.readings import INF, Readings

_NEEDS = frozenset({"update_rms", "second_moment"})
_NONE, _LIMITED, _NON_FINITE = int(Reason.NONE), int(Reason.UPDATE_LIMITED), int(Reason.NON_FINITE)


def clip_update_rms(max_rms: float = 1.0) -> Policy:
    """Limit the root mean square of Adam's update, before its momentum and in units of the learning rate, as StableAdamW does.

    ``update_i <- update_i / max(1, RMS_i / max_rms)`` with ``RMS_i = sqrt(mean(g^2 / max(v, eps^2)))`` and v the second moment
    that this step leaves. Guards against a second moment that lags behind, which no limit on a gradient norm can see: in ordinary
    training RMS_i is about 1 or below, and after a quiet spell at most ``sqrt(1 / (1 - beta2))``.

    Args:
        max_rms: limit, > 0, without a unit.

    Returns:
        The policy. It needs an optimizer of the Adam family, one more read of the gradients and of the second moments, and a
        copy of the parameters where the limit binds.

    Raises:
        ArgumentError: the number is out of range.
        ArgumentTypeError: the argument is no number.

    Example:
        >>> import numpy as np, steadygrad as sg
        >>> policy = sg.clip_update_rms()
        >>> readings = sg.Readings(sg.Layout(("a", "b")), np, np.array([1.0, 1.0]), update_rms=np.array([4.0, 0.9]))
        >>> decision, _ = policy.decide(readings, policy.init(readings))
        >>> decision.update_scale
        array([0.25, 1.  ])

    Reference:
        Wortsman et al., "Stable and low-precision training for large-scale vision-language models", 2023,
        https://arxiv.org/abs/2304.13013.
    """
    call = "clip_update_rms"
    maximum = positive(call, "max_rms", max_rms)

    def decide(readings: Readings, state: State) -> tuple[Decision, State]:
        xp = readings.xp
        if readings.update_rms is None:
            raise LookupError("the reading 'update_rms' was not measured: it needs the optimizer's state")
        outcome = limit(xp, readings.update_rms, maximum)
        finite = xp.all((readings.sum_sq < INF) & outcome.finite)
        reason = xp.where(finite, xp.where(xp.any(outcome.binding), _LIMITED, _NONE), _NON_FINITE)
        return Decision(update_scale=outcome.scale, skip=~finite, reason=reason), state

    return Policy(stateless, decide, text_of(clip_update_rms, max_rms=maximum), _NEEDS)
