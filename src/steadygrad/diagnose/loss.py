"""The loss diverges, or jumps, though the gradients did not explode.

The loss is smoothed with the median of 9 steps, so the bump of a single batch can't count. A rise is measured from the best
level so far and compared with what the run had gained by then, never with a fixed number: losses have no common scale.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from steadygrad.diagnose.excursions import WINDOW
from steadygrad.diagnose.finding import Evidence, Finding, Severity
from steadygrad.diagnose.nonfinite import bad_rows
from steadygrad.diagnose.numbers import ahead, median_of, noise_sd, short
from steadygrad.diagnose.over_time import explosions
from steadygrad.diagnose.series import Series, series_of
from steadygrad.diagnose.suggest import clip_flag, max_norm_from
from steadygrad.runs import Run

SMOOTH = 9
"""Steps in the running median: five bad ones in nine are needed to move it."""
MIN_ROWS = 20
LOST = 0.5
"""Share of what the run had gained that must be lost."""
NOISE = 10.0
"""Robust standard deviations of the step-to-step noise that a rise must exceed."""
LITTLE_GAIN = 0.1
"""A run that gained less than this share of its first loss has no scale of its own;"""
WORSE_THAN_START = 2.0
"""then the loss must rise by this many times its first value."""
USUAL = 0.95
"""A rise that is over again must exceed this quantile of the 100 losses before: heavy-tailed losses stay below it."""
MOST_CANDIDATES = 2000
NEAR = 20
"""Rows around the jump in which the norm is looked at."""


@dataclass(frozen=True)
class Rise:
    """A lasting rise of the loss; positions count the rows with a finite loss."""

    onset: int
    best: float
    highest: float
    end: float
    need: float

    @property
    def recovered(self) -> bool:
        """Whether the run ended near its best level before the rise."""
        return self.end - self.best < self.need


def loss_diverged(run: Run) -> Iterable[Finding]:
    """At most one finding per optimizer; none where an explosion or a NaN gradient explains the loss already."""
    for series in series_of(run):
        if bad_rows(run, series).any() or explosions(series):
            continue
        rows = np.flatnonzero(np.isfinite(series.loss))
        if _became_nan(series, rows):
            yield _nan_finding(series, rows)
        elif len(rows) >= MIN_ROWS and (rise := lasting_rise(series.loss[rows])) is not None:
            yield _finding(series, rows, rise)


def lasting_rise(loss: np.ndarray) -> Rise | None:
    """The first rise of the smoothed loss that is too large for noise, or ``None``. ``loss`` is finite."""
    if (rise := _never_trained(loss)) is not None:
        return rise
    smooth = ahead(loss, SMOOTH)
    start = float(np.median(loss[:SMOOTH]))
    best = np.minimum.accumulate(smooth)
    gain = np.maximum(start - best, 0.0)
    need = np.where(gain >= LITTLE_GAIN * abs(start), LOST * gain, WORSE_THAN_START * abs(start))
    candidates = np.flatnonzero((smooth - best > need) & (np.arange(len(loss)) >= SMOOTH))
    if not len(candidates):
        return None
    noise = _noise_so_far(loss)
    candidates = candidates[(smooth - best > NOISE * noise)[candidates]]
    if not len(candidates):
        return None
    tail = min(max(MIN_ROWS, len(loss) // 20), len(loss) // 2)
    end = float(np.median(loss[-tail:]))
    onset = int(candidates[0])
    if end - best[onset] < need[onset]:
        usual = [float(np.quantile(loss[max(0, c - WINDOW) : c], USUAL)) for c in candidates[:MOST_CANDIDATES]]
        unusual = [int(c) for c, u in zip(candidates[:MOST_CANDIDATES], usual, strict=True) if smooth[c] > u]
        if not unusual:
            return None
        onset = unusual[0]
    jumped = np.flatnonzero(loss[onset:] - best[onset] > need[onset])
    return Rise(
        onset=onset + int(jumped[0]),
        best=float(best[onset]),
        highest=float(np.max(smooth[onset:])),
        end=end,
        need=float(max(need[onset], NOISE * noise[onset])),
    )


def _never_trained(loss: np.ndarray) -> Rise | None:
    """A run that is far above its very first loss at the end diverged at once: it has no healthy history to compare with."""
    start, tail = float(loss[0]), loss[-max(MIN_ROWS // 2, len(loss) // 5) :]
    need = max(WORSE_THAN_START * abs(start), NOISE * noise_sd(tail))
    if float(np.quantile(tail, 0.1)) - start <= need:
        return None
    onset = int(np.flatnonzero(loss - start > need)[0])
    if onset > MIN_ROWS:
        return None
    return Rise(onset, start, float(np.max(ahead(loss, SMOOTH))), float(np.median(tail)), need)


def _noise_so_far(loss: np.ndarray) -> np.ndarray:
    """Noise of the loss up to each position, on a grid of 20: enough to tell noise from divergence."""
    edges = np.unique(np.linspace(0, len(loss), 21).astype(int))
    values = np.array([noise_sd(loss[: max(edge, SMOOTH)]) for edge in edges])
    return values[np.searchsorted(edges, np.arange(len(loss)), side="right") - 1]


def _became_nan(series: Series, rows: np.ndarray) -> bool:
    """NaN from some step to the end after a stretch without gaps; a loss recorded only now and then has gaps."""
    if not MIN_ROWS <= len(rows) < len(series):
        return False
    last = int(rows[-1])
    return len(series) - 1 - last >= SMOOTH and len(rows) >= 0.9 * (last + 1)


def _norm_near(series: Series, row: int) -> tuple[float, float]:
    """Median norm before the jump and largest norm around it."""
    before = median_of(series.norm[max(0, row - WINDOW) : row])
    near = series.norm[max(0, row - NEAR) : row + NEAR]
    near = near[np.isfinite(near)]
    return before, float(np.max(near)) if len(near) and not series.stale else math.nan


def _nan_finding(series: Series, rows: np.ndarray) -> Finding:
    first = int(rows[-1]) + 1
    step, before = int(series.step[first]), _norm_near(series, first)[0]
    kind = "Inf" if np.isinf(series.loss[first]) else "NaN"
    known = f"the gradient norm was {short(before)}" if math.isfinite(before) else "the gradient norm was not recorded"
    return Finding(
        slug="loss-nonfinite",
        severity="error",
        title=f"The loss became {kind} at step {step:,}",
        step=step,
        evidence={"last_finite_loss": float(series.loss[rows[-1]]), "norm_before": before},
        cause=(
            f"The loss is {kind} from step {step:,} to the end; {known} until then."
            " The fault is in the forward pass, in the data, or in damaged weights."
        ),
        remedies=(
            f"Run again with {clip_flag(max_norm_from(series.norm[:first], 90)[0], skip=True)}.",
            "Check the batch of this step, and log, sqrt, exp and divisions in the loss; use the fused `..._with_logits` losses.",
        ),
    )


def _finding(series: Series, rows: np.ndarray, rise: Rise) -> Finding:
    row = int(rows[rise.onset])
    step = int(series.step[row])
    before, near = _norm_near(series, row)
    evidence: Evidence = {
        "best_loss_before": rise.best,
        "highest_loss": rise.highest,
        "final_loss": rise.end,
        "norm_before": before,
        "largest_norm_near": near,
    }
    severity: Severity = "warning" if rise.recovered else "error"
    if math.isfinite(near) and math.isfinite(before):
        norm = f"The gradient norm was at most {short(near)} around it ({short(before)} before): the gradients did not explode."
    else:
        norm = "The gradient norm was not recorded in a usable way, so it can't tell whether the gradients exploded first."
    limit, origin = max_norm_from(series.norm[:row], 90)
    title = "jumped" if rise.recovered else "diverged"
    return Finding(
        slug="loss-jump" if rise.recovered else "loss-diverged",
        severity=severity,
        title=f"The loss {title} at step {step:,}",
        step=step,
        evidence=evidence,
        cause=f"The loss rose from {short(rise.best)} to {short(rise.highest)} and the run ended at {short(rise.end)}. {norm}",
        remedies=(
            "Lower the learning rate by a factor of 3 to 10, or lengthen the warm-up.",
            "If the run was resumed here, check that optimizer state, schedule, data order and random state were restored.",
            f"Limit the size of single steps: {clip_flag(limit)} ({origin}).",
        ),
    )
