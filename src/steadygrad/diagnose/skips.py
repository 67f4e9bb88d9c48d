"""Steps that the optimizer did not take."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from steadygrad.diagnose.finding import Finding
from steadygrad.diagnose.series import series_of
from steadygrad.runs import Run

MANY = 0.05
"""Share of skipped steps worth a word; dynamic loss scaling alone skips about one in 2,000."""
MOST = 0.5
"""Share from which the run hardly trains."""
IN_A_ROW = 10
"""So many skips in a row: the cause does not go away by itself."""


def many_skips(run: Run) -> Iterable[Finding]:
    """At most one finding per optimizer: how many steps were skipped, and the longest stretch."""
    for series in series_of(run):
        skipped = run.skipped[series.rows].astype(bool)
        share, longest = float(skipped.mean()), longest_run(skipped)
        if share < MANY and longest < IN_A_ROW:
            continue
        if int(skipped.sum()) < 2:
            continue
        yield Finding(
            slug="many-skipped-steps",
            severity="error" if share >= MOST else "warning",
            title=f"{int(skipped.sum()):,} of {len(series):,} steps were skipped",
            step=int(series.step[np.flatnonzero(skipped)[0]]),
            evidence={"skipped": int(skipped.sum()), "share_skipped": share, "longest_run": longest},
            cause=(
                f"{share:.0%} of the steps changed nothing, up to {longest} in a row; a learning-rate schedule that counts them"
                " runs ahead of the training. What makes the gradients non-finite comes back."
            ),
            remedies=(
                "Remove the cause rather than skip: lower the learning rate, or train in bfloat16 or float32.",
                'Stop instead of going on: --policy "skip_nonfinite(max_consecutive=10)".',
            ),
        )


def longest_run(flags: np.ndarray) -> int:
    """Length of the longest stretch of true values.

    Example:
        >>> import numpy as np
        >>> longest_run(np.array([True, False, True, True]))
        2
    """
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flags, [False]]).astype(np.int8)))
    return int(np.max(edges[1::2] - edges[::2])) if len(edges) else 0
