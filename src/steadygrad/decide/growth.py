"""Limit how fast the gradient norm may grow from step to step.

No paper: the rule is the relative threshold that the adaptive limits (AutoClip, ZClip, AdaGC) have in common, with the last
accepted norm as the whole history. It needs no warm-up, protects from the second step on, and catches up with any new level in
a number of steps that grows with the logarithm of the change only.
"""

from __future__ import annotations

import numpy as np

from steadygrad.checks import fraction
from steadygrad.decide.history import above_one, enters, smoothing, unless_skipped
from steadygrad.decide.limits import limit, limited_total, total_norm
from steadygrad.decision import Decision
from steadygrad.policy import Policy, State, text_of
from steadygrad.readings import INF, Readings

PEAK_DECAY = 0.99
"""What is left after a step of the largest accepted norm of late: a tenth after 230 steps."""


def clip_by_growth(factor: float = 2.0, *, beta: float = 0.0, floor: float = 0.1) -> Policy:
    """Limit the global norm to `factor` times what it was: the last norm that this policy let pass, or an average of those.

    ``C_t = factor * max(r, floor * peak)``, ``n* = min(n, C_t)``, ``g <- g * n* / n``, ``r <- b * r + (1 - b) * n*``,
    ``peak <- max(n*, 0.99 * peak)``.

    The floor keeps one tiny norm (a batch without a target, a frozen part) from holding down the steps after it: a norm that
    was usual lately is reached again within a few steps. A norm of zero changes nothing. Norms at a level k times higher pass
    after about ``log(k) / log(b + (1 - b) * factor)`` steps. Multiplying all gradients of a run by one number multiplies the
    results by it.

    A single spike is cut to `factor` times the usual norm; an explosion still grows, by that factor a step, so put a fixed
    limit or a schedule beside this one where it must not.

    Args:
        factor: growth per step that is allowed, > 1.
        beta: b, weight of the past in the average of accepted norms, in [0, 1); 0: the last one alone counts.
        floor: part of the recent peak that always counts as reached, in (0, 1].

    Returns:
        The policy. It needs one read. Its state is ``level`` (r) and ``peak``, shape ``()``, 0 before the first norm, which
        passes.

    Raises:
        ArgumentError: a number is out of range.
        ArgumentTypeError: an argument is no number.

    Example:
        >>> import steadygrad as sg
        >>> limiter = sg.Limiter(sg.clip_by_growth(2.0))
        >>> [limiter([np.array([norm])])[0].item() for norm in (1.0, 1.5, 100.0, 1.0, 0.0, 1.0)]
        [1.0, 1.5, 3.0, 1.0, 0.0, 1.0]
    """
    call = "clip_by_growth"
    ratio, past = above_one(call, "factor", factor), smoothing(call, "beta", beta)
    part = fraction(call, "floor", floor)

    def init(readings: Readings) -> State:
        del readings
        return {"level": np.float64(0.0), "peak": np.float64(0.0)}

    def decide(readings: Readings, state: State) -> tuple[Decision, State]:
        xp, norm = readings.xp, total_norm(readings, 2.0)
        level, peak = state["level"], state["peak"]
        known = peak > 0.0
        base = xp.where(level > part * peak, level, part * peak)
        maximum = xp.where(known, ratio * base, INF)
        outcome = limit(xp, norm, maximum)
        accepted = enters(norm, outcome.finite)
        passed = outcome.scale * xp.where(accepted, norm, 0.0)
        faded = PEAK_DECAY * peak
        new = {
            "level": xp.where(known, past * level + (1.0 - past) * passed, passed),
            "peak": xp.where(passed > faded, passed, faded),
        }
        return limited_total(xp, outcome, maximum), unless_skipped(xp, accepted, new, state)

    return Policy(init, decide, text_of(clip_by_growth, factor=ratio, beta=past, floor=part))
