"""AutoClip: the limit on the global norm is a percentile of the norms seen so far.

P. Seetharaman, G. Wichern, B. Pardo, J. Le Roux, "AutoClip: Adaptive Gradient Clipping for Source Separation Networks",
MLSP 2020, arXiv:2007.14469, algorithm 1.

Deviations, and why:

- Only norms that are finite and above zero enter the history. In the published code one NaN turns the percentile, and with it
  every later gradient, into NaN.
- The full history is bounded. The percentile of up to 10,000 norms is exact. Then every second one, in order of size, is
  dropped, from there on every second step's norm enters, and so on whenever it is full. At least 5,000 norms stand for all
  steps so far; each halving moves the percentile's rank by 0.01 points at most, besides the chance in looking at every k-th step.
- `window` looks at the last norms only: the full history never forgets how training began.
- The coefficient is ``threshold / norm`` without an epsilon, and exactly 1 where the norm is not above the threshold.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from steadygrad.checks import count
from steadygrad.decide.history import (
    as_fraction,
    ascending,
    enters,
    inserted,
    interpolated,
    percent,
    shifted,
)
from steadygrad.decide.limits import limit, limited_total, total_norm
from steadygrad.decision import Array, Decision
from steadygrad.policy import Policy, State, text_of
from steadygrad.readings import INF, Readings

CAPACITY = 10_000
"""Norms that the full history holds, an even number: 80 kB, and about 30 microseconds a step."""


def autoclip(percentile: float = 10.0, *, window: int | None = None) -> Policy:
    """Limit the global norm to a percentile of all global norms so far, this step's own included.

    ``C_t = percentile_p(n_1 .. n_t)``, ``g <- g * min(1, C_t / n_t)``. With norms that come from one distribution a share of
    ``1 - p/100`` of all steps is scaled down: the default of 10 gives most steps the same norm, 90 cuts the largest tenth.
    Multiplying all gradients of a run by one number multiplies the results by it.

    A norm of zero does not enter the history. A step with NaN or Inf is skipped and leaves the history as it was.

    Args:
        percentile: p, from 0 to 100, linear between neighbours; 100 limits nothing.
        window: how many of the last norms count; ``None``: all. Gradients at a new, higher level pass once ``1 - p/100`` of the
            window are of that level; with the full history, of all steps so far.

    Returns:
        The policy. It needs one read. Its state is ``history``, shape ``(window,)``, oldest first, or ``(10000,)``, sorted;
        with zeros where there is no norm yet; and counters of shape ``()``.

    Raises:
        ArgumentError: a number is out of range.
        ArgumentTypeError: an argument is no number.

    Example:
        >>> import steadygrad as sg
        >>> limiter = sg.Limiter(sg.autoclip(50))
        >>> norms = [limiter([np.array([norm])])[0].item() for norm in (1.0, 2.0, 3.0, 4.0, 10.0)]
        >>> norms
        [1.0, 1.5, 2.0, 2.5, 3.0]

    Reference:
        Seetharaman, Wichern, Pardo, Le Roux, "AutoClip: Adaptive Gradient Clipping for Source Separation Networks", 2020,
        https://arxiv.org/abs/2007.14469
    """
    call = "autoclip"
    p = percent(call, percentile)
    size = None if window is None else count(call, "window", window)
    text = text_of(autoclip, percentile=p, window=size)
    return _last(p, size, text) if size is not None else _all(p, text)


def _last(percentile: float, window: int, text: str) -> Policy:
    """The percentile of the last norms."""
    part = as_fraction(percentile)

    def init(readings: Readings) -> State:
        del readings
        return {"history": np.zeros(window), "num_norms": np.int64(0)}

    def decide(readings: Readings, state: State) -> tuple[Decision, State]:
        xp, norm = readings.xp, total_norm(readings, 2.0)
        accepted = enters(norm, norm < INF)
        history = shifted(xp, state["history"], xp.where(accepted, norm, 0.0), accepted)
        num = xp.where(accepted & (state["num_norms"] < window), state["num_norms"] + 1, state["num_norms"])
        threshold = interpolated(xp, ascending(xp, history), num, part)
        return _limited(xp, norm, threshold), {"history": history, "num_norms": num}

    return Policy(init, decide, text)


def _all(percentile: float, text: str) -> Policy:
    """The percentile of all norms; of a fixed number of them, once there are more."""
    part = as_fraction(percentile)

    def init(readings: Readings) -> State:
        del readings
        # `history` always has a free place at its front. `num_norms`: all that ever came; `num_kept`: those in `history`.
        start = {"num_norms": np.int64(0), "num_kept": np.int64(0), "stride": np.int64(1)}
        return {"history": np.zeros(CAPACITY), **start}

    def decide(readings: Readings, state: State) -> tuple[Decision, State]:
        xp, norm = readings.xp, total_norm(readings, 2.0)
        accepted = enters(norm, norm < INF)
        with_this = inserted(xp, state["history"], xp.where(accepted, norm, 0.0))
        num = xp.where(accepted, state["num_kept"] + 1, state["num_kept"])
        threshold = interpolated(xp, with_this, num, part)
        stays = accepted & (state["num_norms"] % state["stride"] == 0)
        new = {
            "history": xp.where(stays, with_this, state["history"]),
            "num_norms": xp.where(accepted, state["num_norms"] + 1, state["num_norms"]),
            "num_kept": xp.where(stays, num, state["num_kept"]),
            "stride": state["stride"],
        }
        return _limited(xp, norm, threshold), _thinned(xp, new)

    return Policy(init, decide, text)


def _thinned(xp: Any, state: State) -> State:
    """Where the history is full: every second norm of it, and from now on every second one of those that came until now."""
    history, num, stride = state["history"], state["num_kept"], state["stride"]
    full = num == CAPACITY
    half = xp.concatenate((xp.zeros_like(history[::2]), history[1::2]), -1)
    return {
        **state,
        "history": xp.where(full, half, history),
        "num_kept": xp.where(full, CAPACITY // 2, num),
        "stride": xp.where(full, 2 * stride, stride),
    }


def _limited(xp: Any, norm: Array, threshold: Array) -> Decision:
    return limited_total(xp, limit(xp, norm, threshold), threshold)
