"""What the record itself lacks, so that silence is not taken for health."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from steadygrad.diagnose.finding import Finding
from steadygrad.diagnose.series import series_of
from steadygrad.runs import Run

MIN_ROWS = 10
"""With fewer steps no rule that compares a run with its own history has a history."""


def is_short(run: Run) -> bool:
    """Whether no optimizer has enough steps for a judgement."""
    return max((len(series) for series in series_of(run)), default=0) < MIN_ROWS


def too_short(run: Run) -> Iterable[Finding]:
    """The run has too few steps to be judged."""
    if is_short(run):
        yield Finding(
            slug="too-short",
            severity="info",
            title=f"Too short to judge: {len(run):,} step{'' if len(run) == 1 else 's'}",
            evidence={"steps": len(run), "needed": MIN_ROWS},
            cause=f"A judgement needs at least {MIN_ROWS} steps; only NaN, Inf, skips and missing gradients were looked for.",
            remedies=("Run for more steps.",),
        )


def loss_missing(run: Run) -> Iterable[Finding]:
    """No loss was recorded although there are steps with finite norms."""
    if len(run) and np.isnan(run.loss).all() and np.isfinite(run.total_norm).any():
        yield Finding(
            slug="loss-not-recorded",
            severity="info",
            title="No loss was recorded",
            evidence={"steps": len(run)},
            cause="The loss is known only where `backward` was called on it while steadygrad was watching.",
            remedies=("Call `loss.backward()` inside the watched part, or give the loss to the recorder.",),
        )


def norm_unusable(run: Run) -> Iterable[Finding]:
    """The norm column of an imported log is missing, constantly 0, or stale."""
    for series in series_of(run):
        missing = not np.isfinite(series.norm).any() and bool(np.isfinite(series.loss).any())
        if series.stale or missing:
            reason = series.stale or "was not recorded"
            yield Finding(
                slug="norm-not-usable",
                severity="info",
                title=f"The gradient norm {reason}",
                evidence={"steps": len(series)},
                cause=f"The column {reason}, so nothing can be said about gradients; only the loss was judged.",
                remedies=("Record the run with `steadygrad run SCRIPT`, which reads the gradient norm in every step.",),
            )
