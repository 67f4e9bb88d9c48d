"""Gradients that vanish or explode over depth: the size per weight matrix follows a straight line in model order.

For each weight matrix (2 or more dimensions; embeddings left out, their gradient is sparse) the median norm over the run
gives ``rms = norm / sqrt(numel)``. A log-linear trend is fitted over the depth with Theil and Sen's estimator (the median
of all pairwise slopes), which a few odd layers can't tilt. Widths that change with depth tilt the rms but not the norm, or
the other way round; so the trend must show in both, and the weaker of the two counts.

Reference: Glorot, Bengio, "Understanding the difficulty of training deep feedforward neural networks", 2010,
https://proceedings.mlr.press/v9/glorot10a.html.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from steadygrad.diagnose.finding import Evidence, Finding
from steadygrad.diagnose.numbers import log10_positive, short
from steadygrad.diagnose.series import Series, series_of
from steadygrad.diagnose.suggest import clip_flag, max_norm_from
from steadygrad.runs import Run

MIN_MATRICES = 4
"""Fewer points than this make no trend."""
MIN_ENDS = 2.0
"""Decades from one end to the other. Small VGG-like nets and a 6-layer transformer gave 0.3 or less, a 10-layer tanh net 1.4."""
SEVERE_ENDS = 5.0
"""Decades at which the small end no longer learns, whatever the optimizer."""
MIN_SLOPE = 0.1
"""Decades per layer, a common rule of thumb: below it the ends differ only because the model is very deep."""
MIN_ORDER = 0.8
"""Spearman correlation of depth and log norm: the layers must be in order, not merely different."""
SAMPLED_ROWS = 512
"""Rows that the median over the run is taken from; more change nothing in the third digit."""


@dataclass(frozen=True)
class Trend:
    """Size of the gradients against depth; positive slopes grow with depth, so the gradient vanishes towards the input."""

    names: tuple[str, ...]
    rms: np.ndarray
    slope: float
    ends: float
    order: float


def over_depth(run: Run) -> Iterable[Finding]:
    """At most one finding per optimizer: the factor per layer and from end to end."""
    for series in series_of(run):
        trend = depth_trend(run, series)
        if trend and abs(trend.ends) >= MIN_ENDS and abs(trend.slope) >= MIN_SLOPE and abs(trend.order) >= MIN_ORDER:
            yield _vanishing(trend) if trend.slope > 0 else _exploding(trend, series)


def depth_trend(run: Run, series: Series) -> Trend | None:
    """The trend over the weight matrices of one optimizer, or ``None`` where there are too few."""
    matrices = [i for i, shape in enumerate(run.layout.shapes) if len(shape) >= 2 and "emb" not in run.names[i].lower()]
    if len(matrices) < MIN_MATRICES or not len(series):
        return None
    picked = series.rows[np.linspace(0, len(series) - 1, min(len(series), SAMPLED_ROWS)).astype(int)]
    log_norm = log10_positive(run.grad_norm[picked][:, matrices])
    enough = np.isfinite(log_norm).sum(axis=0) > len(picked) // 2
    kept = [i for i, good in zip(matrices, enough, strict=True) if good]
    if len(kept) < MIN_MATRICES:
        return None
    norm = np.nanmedian(log_norm[:, enough], axis=0)
    rms = norm - 0.5 * np.log10([float(np.prod(run.layout.shapes[i])) for i in kept])
    weaker = min((norm, rms), key=lambda values: abs(_slope(values)))
    slope = _slope(weaker)
    agree = slope * _slope(norm + rms - weaker) > 0
    return Trend(
        names=tuple(run.names[i] for i in kept),
        rms=10**rms,
        slope=slope if agree else 0.0,
        ends=slope * (len(kept) - 1) if agree else 0.0,
        order=_spearman(weaker),
    )


def _slope(values: np.ndarray) -> float:
    i, j = np.triu_indices(len(values), k=1)
    return float(np.median((values[j] - values[i]) / (j - i)))


def _spearman(values: np.ndarray) -> float:
    n = len(values)
    ranks = np.argsort(np.argsort(values, kind="stable"), kind="stable")
    return 0.0 if np.ptp(values) == 0 else 1.0 - 6.0 * float(np.sum((ranks - np.arange(n)) ** 2)) / (n * (n * n - 1))


def _evidence(trend: Trend) -> Evidence:
    return {
        "matrices": len(trend.names),
        "factor_per_layer": float(10 ** abs(trend.slope)),
        "end_to_end_ratio": float(10 ** abs(trend.ends)),
        "rms_first": float(trend.rms[0]),
        "rms_last": float(trend.rms[-1]),
        "rank_correlation": trend.order,
    }


def _ends_text(trend: Trend) -> str:
    first, last = short(float(trend.rms[0])), short(float(trend.rms[-1]))
    return f"rms {first} in {trend.names[0]}, {last} in {trend.names[-1]}"


def _vanishing(trend: Trend) -> Finding:
    ratio = short(float(10**trend.ends))
    return Finding(
        slug="vanishing-over-depth",
        severity="error" if trend.ends >= SEVERE_ENDS else "warning",
        title=f"Gradients vanish towards the input, by a factor of {ratio} over {len(trend.names)} weight matrices",
        where=trend.names[: max(1, len(trend.names) // 3)],
        evidence=_evidence(trend),
        cause=(
            f"Each layer passes on 1/{short(float(10**trend.slope))} of the gradient ({_ends_text(trend)}), so the first layers"
            " hardly learn. Saturating activations (sigmoid, tanh) or too small initial weights do this."
        ),
        remedies=(
            "Use a ReLU-type activation with He initialisation, or tanh with Xavier initialisation.",
            "Add skip connections around the layers, and a normalisation layer (LayerNorm, BatchNorm) in each.",
            "Clipping does not help here: it only makes gradients smaller.",
        ),
    )


def _exploding(trend: Trend, series: Series) -> Finding:
    ratio = short(float(10**-trend.ends))
    limit, origin = max_norm_from(series.norm, 50)
    return Finding(
        slug="exploding-over-depth",
        severity="error" if -trend.ends >= SEVERE_ENDS else "warning",
        title=f"Gradients grow towards the input, by a factor of {ratio} over {len(trend.names)} weight matrices",
        where=trend.names[: max(1, len(trend.names) // 3)],
        evidence=_evidence(trend),
        cause=(
            f"Each layer multiplies the gradient by {short(float(10**-trend.slope))} on its way back ({_ends_text(trend)})."
            " Too large initial weights, or layers without normalisation, do this."
        ),
        remedies=(
            "Initialise for the activation: He for ReLU, Xavier for tanh; scale residual branches by 1/sqrt(2 * layers).",
            "Add a normalisation layer (LayerNorm, BatchNorm) in each layer.",
            f"Until then, run again with {clip_flag(limit)} ({origin}).",
        ),
    )
