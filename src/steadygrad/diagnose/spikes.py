"""Isolated spikes of the gradient norm: up for a few steps, then back, with no lasting damage.

What is not called a spike: a heavy-tailed but stationary norm (the limit follows the run's own tail, see
:func:`steadygrad.diagnose.excursions.tail_limit`), the first steps of a run, and a rise that stays.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from steadygrad.diagnose.contributors import contributors
from steadygrad.diagnose.excursions import Excursion, find_excursions
from steadygrad.diagnose.finding import Evidence, Finding
from steadygrad.diagnose.numbers import short
from steadygrad.diagnose.over_time import SPIKE_STEPS, explosions
from steadygrad.diagnose.series import Series, series_of
from steadygrad.diagnose.suggest import clip_flag, max_norm_from
from steadygrad.runs import Run

MIN_HEIGHT = 0.7
"""Decades (a factor of 5): less than that rarely moves the weights further than an ordinary large batch does."""
MIN_HISTORY = 30
"""Steps before the first one that is judged: the first steps of most runs are large and fall quickly."""
LISTED = 20


def spike(run: Run) -> Iterable[Finding]:
    """One finding per optimizer with at least one spike: how many, when, how high, and in which parameter."""
    for series in series_of(run):
        rows = np.flatnonzero(np.isfinite(series.log_norm))
        found = isolated(series, rows)
        if found:
            yield _finding(run, series, rows, found)


def isolated(series: Series, rows: np.ndarray) -> list[Excursion]:
    """The excursions that are short, came back and belong to no explosion; positions count ``rows``."""
    x = series.log_norm[rows]
    if len(x) <= MIN_HISTORY:
        return []
    taken = [(e.onset, e.end) for e in explosions(series)]
    every = find_excursions(x, min_height=MIN_HEIGHT, min_history=MIN_HISTORY, tails=True)
    return [
        e
        for e in every
        if e.returned and e.length <= SPIKE_STEPS and not any(a <= rows[e.start] < max(b, a + 1) for a, b in taken)
    ]


def _finding(run: Run, series: Series, rows: np.ndarray, found: list[Excursion]) -> Finding:
    highest = max(found, key=lambda e: e.height)
    peak_row = int(rows[highest.peak])
    leaders = contributors(run, series, int(rows[highest.start]), peak_row)
    steps = [int(series.step[rows[e.peak]]) for e in found]
    spiky = np.zeros(len(series), dtype=bool)
    for e in found:
        spiky[rows[e.start : e.end]] = True
    limit, origin = max_norm_from(series.norm[~spiky], 99)
    evidence: Evidence = {
        "count": len(found),
        "steps": steps[:LISTED],
        "heights": [round(float(10**e.height), 2) for e in found][:LISTED],
        "robust_z": highest.z,
        "norm_before": float(10**highest.base),
        "norm_at_peak": float(series.norm[peak_row]),
        "peak_step": int(series.step[peak_row]),
        "share_of_steps": float(spiky.mean()),
    }
    many = f"{len(found)} spikes" if len(found) > 1 else "One spike"
    name = f" ({leaders[0].name} carries {leaders[0].share:.0%} of it)" if leaders else ""
    low, high = short(float(10**highest.base)), short(float(series.norm[peak_row]))
    return Finding(
        slug="spike",
        severity="warning",
        title=f"{many} of the gradient norm, the highest at step {int(series.step[peak_row]):,}",
        where=tuple(leader.name for leader in leaders),
        step=steps[0],
        evidence=evidence,
        cause=(
            f"The norm rose from {low} to {high}{name} and came back within {SPIKE_STEPS} steps."
            " Usual reasons are an unusual batch, or a learning rate near the stability limit."
        ),
        remedies=(
            f"Run again with {clip_flag(limit)} ({origin}), which touches about 1 % of the ordinary steps.",
            "Look at the batches of these steps: corrupt, empty or very long samples make spikes that recur at the same step.",
        ),
    )
