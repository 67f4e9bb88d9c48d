"""Gradients that explode over time: the total norm leaves its own history by orders of magnitude and stays, or does damage.

Against what it is measured: the median and spread (1.4826 MAD) of the log10 norms of the 100 steps before, never a fixed
number. Explosion in recurrent networks: Pascanu, Mikolov, Bengio, "On the difficulty of training recurrent neural
networks", 2013, https://arxiv.org/abs/1211.5063.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from steadygrad.diagnose.contributors import Contributor, contributors
from steadygrad.diagnose.excursions import Excursion, find_excursions
from steadygrad.diagnose.finding import Evidence, Finding
from steadygrad.diagnose.numbers import ahead, median_of, noise_sd, short
from steadygrad.diagnose.recurrent import is_recurrent, recurrent_remedies
from steadygrad.diagnose.series import Series, series_of
from steadygrad.diagnose.suggest import clip_flag, max_norm_from
from steadygrad.runs import Run

EXPLODED = 2.0
"""Decades above the history. The largest rise in 124 real logs with a norm was 1.5, a single spike."""
ABOVE_RECORD = 1.0
"""Decades above any level that lasted before: a norm that comes back from a dip has not exploded."""
MIN_HISTORY = 1
"""Explosions often come within the first steps, so even one finite norm is a history for a hundredfold rise;"""
SURE_HISTORY = 3
"""but with fewer norms than this only damage counts, not how long it lasts: many runs start with tiny gradients."""
EARLY_DAMAGE = 3.0
"""Loss within an explosion of the first steps, relative to the loss before, that counts as damage."""
SPIKE_STEPS = 10
"""An excursion that is over within this many steps and leaves no damage is a spike, not an explosion."""
RETURNS_MIN = 3
"""A run that ends while the norm is up has exploded if it was up for at least this many steps."""
SLOW = 3.0
"""Decades between the lowest and a later lasting level, for growth too slow to leave its recent history."""
BLOCKS = 50
LOSS_WINDOW = 50


@dataclass(frozen=True)
class Explosion:
    """One explosion: positions count the rows of ``series``.

    Attributes:
        series: the optimizer's curves.
        onset: first row that is clearly above the history.
        peak: row of the largest finite norm.
        end: first row back down, or the number of rows.
        base: norm before.
        z: robust z-score; NaN for slow growth.
        returned: whether the norm came back down.
        nonfinite: whether a NaN or Inf norm ended it.
        damaged: whether the loss stayed worse than before; ``None`` if the loss does not tell.
    """

    series: Series
    onset: int
    peak: int
    end: int
    base: float
    z: float
    returned: bool
    nonfinite: bool
    damaged: bool | None


def exploding_over_time(run: Run) -> Iterable[Finding]:
    """At most one finding per optimizer: the first explosion, with growth, timing and the parameters that lead it."""
    for series in series_of(run):
        found = explosions(series)
        if found:
            yield _finding(run, found[0], len(found))


def explosions(series: Series) -> list[Explosion]:
    """The explosions of one optimizer, in order."""
    rows = np.flatnonzero(np.isfinite(series.log_norm))
    x = series.log_norm[rows]
    found: list[Explosion] = []
    for excursion in find_excursions(x, min_height=EXPLODED, min_history=MIN_HISTORY, tails=False):
        explosion = _judge(series, rows, x, excursion)
        if explosion is not None:
            found.append(explosion)
    return found or _slow_growth(series, rows, x)


def _judge(series: Series, rows: np.ndarray, x: np.ndarray, excursion: Excursion) -> Explosion | None:
    if excursion.record < ABOVE_RECORD:
        return None
    start, end = int(rows[excursion.start]), int(rows[excursion.end]) if excursion.returned else len(series)
    nonfinite = bool((~np.isfinite(series.norm[start : end + SPIKE_STEPS])).any())
    early = excursion.start < SURE_HISTORY
    damaged = _early_damage(series.loss, start, end) if early else _loss_damage(series.loss, start, end)
    long = excursion.length > SPIKE_STEPS or (not excursion.returned and excursion.length >= RETURNS_MIN)
    lasting = long and not early
    if not (lasting or nonfinite or damaged):
        return None
    onset = excursion.start
    while onset > 0 and x[onset - 1] >= excursion.base + ABOVE_RECORD:
        onset -= 1
    return Explosion(
        series=series,
        onset=int(rows[onset]),
        peak=int(rows[excursion.peak]),
        end=end,
        base=float(10**excursion.base),
        z=excursion.z,
        returned=excursion.returned,
        nonfinite=nonfinite,
        damaged=damaged,
    )


def _loss_damage(loss: np.ndarray, start: int, end: int) -> bool | None:
    """Whether the loss after ``end`` is lastingly above the loss before ``start``."""
    before = loss[max(0, start - LOSS_WINDOW) : start]
    before = before[np.isfinite(before)]
    after = loss[min(end, len(loss) - 1) :][:LOSS_WINDOW]
    if not len(before) or not len(after):
        return None
    if not np.isfinite(after).any():
        return True
    rise = median_of(after) - float(np.median(before))
    best = float(np.min(ahead(before, 3)))
    return bool(rise > max(6 * noise_sd(before), 0.25 * abs(float(np.median(before)) - best), 0.02 * abs(best)))


def _early_damage(loss: np.ndarray, start: int, end: int) -> bool | None:
    """Whether the loss within the explosion is far above the few losses before it."""
    before, within = median_of(loss[:start]), loss[start:end]
    if math.isnan(before) or not len(within):
        return None
    return bool(not np.isfinite(within).any() or median_of(within) > EARLY_DAMAGE * abs(before))


def _slow_growth(series: Series, rows: np.ndarray, x: np.ndarray) -> list[Explosion]:
    """Growth by a few per cent a step takes its history along: compare lasting levels instead, and ask the loss."""
    if len(x) < 2 * BLOCKS:
        return []
    edges = np.linspace(0, len(x), BLOCKS + 1).astype(int)
    level = np.array([np.median(x[a:b]) for a, b in itertools.pairwise(edges)])
    low = int(np.argmin(level[:-1]))
    up = level[low:] - level[low]
    high = np.flatnonzero((up >= SLOW) & (level[low:] >= level[0] + SLOW - 1))
    if not len(high) or np.median(level[low + high[0] :]) - level[low] < SLOW:
        return []
    onset = low + int(np.flatnonzero(up >= ABOVE_RECORD)[0])
    first, calm = int(rows[edges[onset]]), slice(int(rows[edges[low]]), int(rows[edges[low + 1] - 1]) + 1)
    late = median_of(series.loss[int(rows[edges[low + high[0]]]) :])
    damaged = None if math.isnan(late) else bool(late > median_of(series.loss[calm]))
    if damaged is False:
        return []
    peak = int(rows[int(np.argmax(x))])
    base = float(10 ** level[low])
    return [Explosion(series, first, peak, len(series), base, math.nan, False, False, damaged)]


def _finding(run: Run, explosion: Explosion, count: int) -> Finding:
    series = explosion.series
    step, peak_step = int(series.step[explosion.onset]), int(series.step[explosion.peak])
    peak = float(series.norm[explosion.peak])
    leaders = contributors(run, series, explosion.onset, explosion.peak)
    bad = explosion.damaged is not False or explosion.nonfinite
    evidence: Evidence = {
        "norm_before": explosion.base,
        "norm_at_peak": peak,
        "growth_factor": peak / explosion.base,
        "steps_to_peak": peak_step - step + 1,
        "peak_step": peak_step,
        "robust_z": explosion.z,
        "became_nonfinite": str(explosion.nonfinite).lower(),
        "returned_at_step": int(series.step[explosion.end]) if explosion.returned else "never",
        "explosions": count,
    }
    if leaders:
        evidence["share_of_squared_norm"] = [round(leader.share, 4) for leader in leaders]
        evidence["first_step_up"] = [leader.step for leader in leaders]
    return Finding(
        slug="exploding-over-time",
        severity="error" if bad else "warning",
        title=f"Exploded at step {step:,}",
        where=tuple(leader.name for leader in leaders),
        step=step,
        evidence=evidence,
        cause=_cause(explosion, leaders, peak, peak_step - step + 1),
        remedies=_remedies(explosion, leaders),
    )


def _cause(explosion: Explosion, leaders: list[Contributor], peak: float, steps: int) -> str:
    subject = f"{leaders[0].name}: gradient norm" if leaders else "Total gradient norm"
    before, high = (leaders[0].before, leaders[0].peak) if leaders else (explosion.base, peak)
    rise = f"to {short(high)}" if math.isnan(before) or before <= 0 else f"from {short(before)} to {short(high)}"
    seen = f"{subject} rose {rise} in {steps} step{'' if steps == 1 else 's'}"
    if explosion.nonfinite:
        seen += ", then a gradient became NaN or Inf"
    elif explosion.damaged:
        seen += ", and the loss rose with it"
    elif explosion.damaged is False:
        seen += "; the loss kept its level"
    if leaders and is_recurrent(leaders[0].name):
        return (
            f"{seen}. A recurrent weight multiplies the gradient once per time step, so a spectral radius slightly"
            " above 1 grows exponentially with the length of the sequence."
        )
    return f"{seen}. Most often the learning rate is too high for this point of training, or the warm-up is too short."


def _remedies(explosion: Explosion, leaders: list[Contributor]) -> tuple[str, ...]:
    series = explosion.series
    limit, origin = max_norm_from(series.norm[: explosion.onset], 50)
    flag = clip_flag(limit, skip=explosion.nonfinite)
    remedies = [f"Run again with {flag} ({origin})."]
    if leaders and is_recurrent(leaders[0].name):
        remedies.extend(recurrent_remedies())
    remedies.append("Lower the learning rate by a factor of 3 to 10, or warm it up over the first few hundred steps.")
    return tuple(remedies)
