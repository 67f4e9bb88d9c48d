"""ZClip: only a global norm that is an outlier among the norms so far is scaled down.

A. Kumar, L. Owen, N. Roy Chowdhury, F. Guera, "ZClip: Adaptive Spike Mitigation for LLM Pre-Training", 2025, arXiv:2504.02507,
equations 1-7 and algorithm 1. On norms without outliers the numbers are those of the published code, to rounding.

Deviations, and why:

- Only finite norms above zero enter the statistic. In the published code one NaN turns mean and variance into NaN, every later
  comparison is false, and clipping is off for the rest of the run.
- The standard deviation counts as at least 1 % of the mean. Otherwise, after norms that hardly vary, 1.00001 times the usual is
  a spike.
- During the warm-up a norm above 10 times the median of the warm-up is left out of the first mean and variance: one spike there
  would hide all later ones.
- After `patience` spikes in a row the norms enter the statistic as they are, and a few steps later they are the usual ones. In
  the published rule each spike counts as if it were close to the mean, so a level that has really changed is never accepted.
- `eps` is in units of the mean, so that multiplying all gradients by one number changes no score. In the published code it is
  absolute, and the score vanishes with the norms. Nothing is added to the norm that is divided by.
- `skip_spikes` leaves out the training step. The setting of the published code with a similar name leaves out the update of the
  statistic instead, and so accepts no new level either.
- State is the standard deviation, not the variance, updated in units of the mean: no square overflows.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from steadygrad.checks import count, flag, non_negative, one_of, positive
from steadygrad.decide.history import ascending, enters, shifted, smoothing, unless_skipped
from steadygrad.decide.limits import limit, limited_total, total_norm
from steadygrad.decision import Array, Decision, Reason
from steadygrad.policy import Policy, State, text_of
from steadygrad.readings import INF, Readings

MODES = ("reciprocal", "mean", "threshold")
SMALLEST_DEVIATION = 0.01
"""Smallest standard deviation that is believed, in units of the mean."""
WARMUP_OUTLIER = 10.0
"""A norm of the warm-up above this many medians is left out of the first mean and variance."""
_SPIKE = int(Reason.SPIKE)


def zclip(
    *,
    alpha: float = 0.97,
    z_threshold: float = 2.5,
    warmup: int = 25,
    max_norm: float | None = 1.0,
    mode: str = "reciprocal",
    clip_factor: float = 1.0,
    skip_spikes: bool = False,
    eps: float = 1e-6,
    patience: int | None = 25,
) -> Policy:
    """Limit the global norm where it is an outlier: where its score ``z = (n - mu) / (sigma + eps * mu)`` is above a threshold.

    An outlier is brought to ``n* = f * (mu + z_thr^2 * sigma / z)`` (mode ``"reciprocal"``: the larger it is, the closer to the
    mean), ``f * mu`` (``"mean"``) or ``f * (mu + z_thr * sigma)`` (``"threshold"``); otherwise ``n* = n``. Then
    ``g <- g * min(1, n* / n, max_norm / n)``, ``mu <- a * mu + (1-a) * n*``, ``sigma^2 <- a * sigma^2 + (1-a) * (n* - mu)^2``.
    The first mean and (biased) variance are those of `warmup` norms, during which only `max_norm` protects.

    A step with NaN or Inf is skipped and leaves the statistic as it was. Without `max_norm`, multiplying all gradients of a run
    by one number multiplies the results by it.

    Args:
        alpha: a, weight of the past in the moving averages, in [0, 1).
        z_threshold: score above which a norm is an outlier, > 0, in standard deviations.
        warmup: number of norms of which the first mean and variance are taken, >= 1.
        max_norm: limit that always holds, > 0, in units of the gradient; ``None``: none. The statistic does not know of it.
        mode: what an outlier is brought to: ``"reciprocal"``, ``"mean"`` or ``"threshold"``.
        clip_factor: f, > 0.
        skip_spikes: whether the step of an outlier is skipped instead. The statistic goes on as if it had been scaled.
        eps: added to the standard deviation, >= 0, in units of the mean.
        patience: after this many outliers in a row they are the new level, >= 1; ``None``: never, as published.

    Returns:
        The policy. It needs one read. Its state is ``mean``, ``deviation``, ``num_norms``, ``num_spikes`` (in a row), each of
        shape ``()``, and ``first_norms``, shape ``(warmup,)``.

    Raises:
        ArgumentError: a number or the mode is out of range.
        ArgumentTypeError: an argument is of the wrong kind.

    Example:
        >>> import steadygrad as sg
        >>> limiter = sg.Limiter(sg.zclip(warmup=4, max_norm=None, mode="mean"))
        >>> norms = [limiter([np.array([norm])])[0].item() for norm in (1.0, 1.2, 0.8, 1.0, 1.1, 500.0)]
        >>> [round(norm, 3) for norm in norms]
        [1.0, 1.2, 0.8, 1.0, 1.1, 1.003]

    Reference:
        Kumar, Owen, Roy Chowdhury, Guera, "ZClip: Adaptive Spike Mitigation for LLM Pre-Training", 2025,
        https://arxiv.org/abs/2504.02507
    """
    call = "zclip"
    rule = _Rule(
        alpha=smoothing(call, "alpha", alpha),
        z_threshold=positive(call, "z_threshold", z_threshold),
        warmup=count(call, "warmup", warmup),
        max_norm=INF if max_norm is None else positive(call, "max_norm", max_norm),
        mode=one_of(call, "mode", mode, MODES),
        clip_factor=positive(call, "clip_factor", clip_factor),
        skip_spikes=flag(call, "skip_spikes", skip_spikes),
        eps=non_negative(call, "eps", eps),
        patience=None if patience is None else count(call, "patience", patience),
    )
    given = rule._asdict() | {"max_norm": None if rule.max_norm == INF else rule.max_norm}
    return Policy(rule.init, rule.decide, text_of(zclip, **given))


class _Rule(NamedTuple):
    """The settings under their public names, without a limit ``max_norm = inf``, and the two functions of the policy."""

    alpha: float
    z_threshold: float
    warmup: int
    max_norm: float
    mode: str
    clip_factor: float
    skip_spikes: bool
    eps: float
    patience: int | None

    def init(self, readings: Readings) -> State:
        del readings
        zero, none = np.float64(0.0), np.int64(0)
        first = np.zeros(self.warmup)
        return {"mean": zero, "deviation": zero, "num_norms": none, "num_spikes": none, "first_norms": first}

    def decide(self, readings: Readings, state: State) -> tuple[Decision, State]:
        xp, total = readings.xp, total_norm(readings, 2.0)
        accepted = enters(total, total < INF)
        norm = xp.where(accepted, total, 0.0)
        mean, deviation = state["mean"], self._believed(xp, state)
        measured = state["num_norms"] >= self.warmup
        score = (norm - mean) / xp.where(measured, deviation, 1.0)
        spike = measured & (score > self.z_threshold)
        target = xp.where(spike, self._target(mean, deviation, xp.where(spike, score, self.z_threshold)), norm)
        target = xp.where(target < norm, target, norm)
        outcome = limit(xp, total, xp.where(target < self.max_norm, target, self.max_norm))
        threshold = xp.where(measured, mean + self.z_threshold * deviation, self.max_norm)
        decision = limited_total(xp, outcome, xp.where(threshold < self.max_norm, threshold, self.max_norm))
        if self.skip_spikes:
            decision = replace(decision, skip=decision.skip | spike, reason=xp.where(spike, _SPIKE, decision.reason))
        return decision, unless_skipped(xp, accepted, self._learnt(xp, state, norm, target, spike), state)

    def _believed(self, xp: Any, state: State) -> Array:
        """The standard deviation that a norm is compared with."""
        floor = SMALLEST_DEVIATION * state["mean"]
        return xp.where(state["deviation"] > floor, state["deviation"], floor) + self.eps * state["mean"]

    def _target(self, mean: Array, deviation: Array, score: Array) -> Array:
        """What a spike of this score is brought to."""
        sigma = deviation - self.eps * mean
        if self.mode == "mean":
            return self.clip_factor * mean
        if self.mode == "threshold":
            return self.clip_factor * (mean + self.z_threshold * sigma)
        return self.clip_factor * (mean + self.z_threshold * self.z_threshold * sigma / score)

    def _learnt(self, xp: Any, state: State, norm: Array, target: Array, spike: Array) -> State:
        """The next state, were the norm accepted."""
        num_norms, warm = state["num_norms"], state["num_norms"] < self.warmup
        num_spikes = xp.where(spike, state["num_spikes"] + 1, 0)
        value = target if self.patience is None else xp.where(num_spikes > self.patience, norm, target)
        mean = self.alpha * state["mean"] + (1.0 - self.alpha) * value
        deviation = self._moved(xp, state["deviation"], abs(value - mean))
        first = shifted(xp, state["first_norms"], norm, warm)
        first_mean, first_deviation = _start(xp, first)
        return {
            "mean": xp.where(warm, first_mean, mean),
            "deviation": xp.where(warm, first_deviation, deviation),
            "num_norms": xp.where(warm, num_norms + 1, num_norms),
            "num_spikes": num_spikes,
            "first_norms": first,
        }

    def _moved(self, xp: Any, deviation: Array, distance: Array) -> Array:
        """``sqrt(a * deviation^2 + (1 - a) * distance^2)``, with the larger one taken out, so that no square overflows."""
        largest = xp.maximum(deviation, distance)
        unit = xp.where(largest > 0.0, largest, 1.0)
        return unit * xp.sqrt(self.alpha * (deviation / unit) ** 2 + (1.0 - self.alpha) * (distance / unit) ** 2)


def _start(xp: Any, first: Array) -> tuple[Array, Array]:
    """Mean and standard deviation of the warm-up's norms without those far above their median."""
    filled = xp.sum(first > 0.0)
    size = first.shape[-1]
    median = xp.take(ascending(xp, first), size - filled + (filled - 1) // 2)
    kept = (first > 0.0) & (first <= WARMUP_OUTLIER * median)
    num = xp.sum(xp.where(kept, 1.0, 0.0))
    num = xp.where(num > 0.0, num, 1.0)
    mean = xp.sum(xp.where(kept, first, 0.0)) / num
    apart = xp.where(kept, first - mean, 0.0) / xp.where(mean > 0.0, mean, 1.0)
    return mean, mean * xp.sqrt(xp.sum(apart * apart) / num)
