"""Is the clipping threshold a safety net, a learning-rate cut in disguise, or never used?"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from steadygrad.decision import Reason
from steadygrad.diagnose.finding import Evidence, Finding
from steadygrad.diagnose.numbers import median_of, short
from steadygrad.diagnose.series import Series, series_of
from steadygrad.diagnose.suggest import clip_flag, max_norm_from
from steadygrad.runs import Run

ALWAYS = 0.9
"""Share of clipped steps from which the threshold, not the gradient, sets the length of the step."""
WARM_UP_SHARE, WARM_UP_MOST = 0.1, 100
"""Rows left out at the start, where norms are large in most runs: a tenth of the run, 100 at most."""
MIN_ROWS = 20
PERCENTILE = 99.0
"""A safety net at the 99th percentile of the observed norms touches one step in a hundred."""


def threshold(run: Run) -> Iterable[Finding]:
    """At most one finding per optimizer that ran under a threshold."""
    for series in series_of(run):
        late = slice(min(WARM_UP_MOST, int(len(series) * WARM_UP_SHARE)), None)
        judged = np.isfinite(run.threshold[series.rows][late]) & np.isfinite(series.norm[late])
        if int(judged.sum()) >= MIN_ROWS:
            share = float(clipped_rows(run, series)[late][judged].mean())
            if share >= ALWAYS:
                yield _always(run, series, late, share)
            elif share == 0.0:
                yield _never(run, series, late)


def clipped_rows(run: Run, series: Series) -> np.ndarray:
    """Which rows of an optimizer were clipped: the policy said so, or it scaled a norm above its threshold down."""
    limit, coefficient = run.threshold[series.rows], run.coefficient[series.rows]
    with np.errstate(invalid="ignore"):
        scaled = (series.norm > limit) & (coefficient < 1)
    return scaled | (run.reason[series.rows] == int(Reason.CLIPPED))


def _evidence(run: Run, series: Series, late: slice, share: float, suggested: float) -> Evidence:
    return {
        "share_clipped": share,
        "threshold": median_of(run.threshold[series.rows][late]),
        "median_norm": median_of(series.norm[late]),
        "max_norm": float(np.max(series.norm[late][np.isfinite(series.norm[late])])),
        "median_coefficient": median_of(run.coefficient[series.rows][late]),
        "suggested_threshold": suggested,
    }


def _always(run: Run, series: Series, late: slice, share: float) -> Finding:
    suggested, origin = max_norm_from(series.norm[late], PERCENTILE)
    evidence = _evidence(run, series, late, share, suggested)
    norm, limit = short(median_of(series.norm[late])), short(median_of(run.threshold[series.rows][late]))
    factor = median_of(run.coefficient[series.rows][late])
    return Finding(
        slug="threshold-always-binds",
        severity="info",  # it may be what makes the run train: a fact to know, not a fault to mend
        title=f"The clipping threshold bound in {share:.0%} of the steps",
        evidence=evidence,
        cause=(
            f"The median norm is {norm}, the threshold {limit}: with plain SGD this is a learning rate"
            f" {short(1 / factor) if factor > 0 else 'many'} times smaller and a step of fixed length, not a safety net."
        ),
        remedies=(
            f"If the run trains well, keep it. To have a safety net instead, change two things together: a learning rate"
            f" {short(1 / factor) if factor > 0 else 'many'} times smaller, and {clip_flag(suggested)} ({origin}).",
            "A higher threshold alone makes the steps longer, and may bring back what the low one prevents.",
        ),
    )


def _never(run: Run, series: Series, late: slice) -> Finding:
    suggested, origin = max_norm_from(series.norm[late], PERCENTILE)
    limit = short(median_of(run.threshold[series.rows][late]))
    largest = float(np.max(series.norm[late][np.isfinite(series.norm[late])]))
    return Finding(
        slug="threshold-never-binds",
        severity="info",
        title="The clipping threshold never bound",
        evidence=_evidence(run, series, late, 0.0, suggested),
        cause=f"The largest norm is {short(largest)}, the threshold {limit}; nothing was clipped after the warm-up.",
        remedies=(f"For a closer safety net use {clip_flag(suggested)} ({origin}).",),
    )
