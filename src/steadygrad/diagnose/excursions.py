"""Stretches in which a log norm leaves its own history upwards: the common ground of explosions and spikes."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from steadygrad.diagnose.numbers import ahead, trailing

WINDOW = 100
"""Steps of history that count as recent: long enough for a steady median, short enough to follow a schedule."""
SPREAD_FLOOR = 0.05
"""Smallest spread in decades (12 %): a very smooth series must not make ordinary steps look extreme."""
MIN_Z = 6.0
"""Robust z-score below which nothing counts; 6 left no false alarm in 4 healthy Adam runs."""
FALSE_ALARMS = 0.01
"""Expected number of false alarms per run that the tail limit allows."""
RETURN_WINDOW = 5
"""Steps whose median must be back down for an excursion to be over."""


@dataclass(frozen=True)
class Excursion:
    """One stretch above the history; positions count finite, positive norms only.

    Attributes:
        start: first position above the limit.
        end: first position back down; the length of the series if it never came back.
        peak: position of the highest value.
        base: level before, log10.
        height: ``x[peak] - base`` in decades.
        z: height over the spread of the history.
        returned: whether it came back down.
        record: how far the peak is above any level that lasted before, in decades.
    """

    start: int
    end: int
    peak: int
    base: float
    height: float
    z: float
    returned: bool
    record: float

    @property
    def length(self) -> int:
        """Number of positions from start to end."""
        return self.end - self.start


def tail_limit(residual: np.ndarray) -> float:
    """How far above its history a value of this series may lie by chance.

    A power-law tail of the norm is an exponential tail of its logarithm. Its rate is read from the 80 % and 95 %
    quantiles, which up to 5 % of outliers can't move: ``tau = (q95 - q80) / ln 4``. Of ``n`` values fewer than
    ``FALSE_ALARMS`` are expected above ``q95 + tau * ln(0.05 n / FALSE_ALARMS)``.

    Args:
        residual: value minus trailing level, decades, shape ``(n,)``.

    Returns:
        The limit in decades.
    """
    low, high = (float(q) for q in np.quantile(residual, [0.80, 0.95]))
    tau = max(high - low, 0.0) / math.log(4.0)
    return high + tau * max(0.0, math.log(0.05 * len(residual) / FALSE_ALARMS))


def find_excursions(x: np.ndarray, *, min_height: float, min_history: int, tails: bool) -> list[Excursion]:
    """All stretches where ``x`` rises at least ``min_height`` above its trailing level.

    Args:
        x: log10 norms, all finite, shape ``(n,)``.
        min_height: smallest rise, decades.
        min_history: positions needed before the first one that is judged.
        tails: also ask that the run's own tail does not explain the height (for spikes).

    Returns:
        The excursions in order; what is within one does not count as history of the next.
    """
    if len(x) <= min_history:
        return []
    level, spread = trailing(x, WINDOW, min_history)
    spread = np.fmax(spread, SPREAD_FLOOR)
    residual = x - level
    limit = np.fmax(min_height, MIN_Z * spread)
    if tails:
        limit = np.fmax(limit, tail_limit(residual[np.isfinite(residual)]))
    with np.errstate(invalid="ignore"):
        starts = np.flatnonzero(residual >= limit)
    settled = ahead(x, RETURN_WINDOW)
    lasting = np.maximum.accumulate(np.where(np.isfinite(level), level, -np.inf))
    found: list[Excursion] = []
    position = 0
    while (at := int(np.searchsorted(starts, position))) < len(starts):
        start = int(starts[at])
        base = float(level[start])
        end, returned = _end(x, settled, start, base + float(residual[start]) / 2)
        peak = start + int(np.argmax(x[start:end]))
        height = float(x[peak]) - base
        z = height / float(spread[start])
        found.append(Excursion(start, end, peak, base, height, z, returned, float(x[peak] - lasting[start])))
        position = end
    return found


def _end(x: np.ndarray, settled: np.ndarray, start: int, half_way: float) -> tuple[int, bool]:
    """The first position after ``start`` from which the series is below ``half_way`` again."""
    down = np.flatnonzero((settled[start + 1 :] <= half_way) & (x[start + 1 :] <= half_way))
    return (start + 1 + int(down[0]), True) if len(down) else (len(x), False)
