"""Small robust statistics that the rules share, on plain NumPy arrays."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

MAD_TO_SD = 1.4826
"""The median absolute deviation of a normal variable times this is its standard deviation."""
MAX_ANCHORS = 4000
"""A trailing statistic is worked out at no more than this many positions and held in between: the cost stays flat."""


def short(value: float) -> str:
    """A number as people write it: three significant digits.

    Example:
        >>> short(31_234_567.0), short(0.8), short(412)
        ('3.12e+07', '0.8', '412')
    """
    if isinstance(value, int):
        return f"{value:,}" if abs(value) < 10**9 else f"{value:.3g}"
    return f"{value:.3g}"


def two_digits(value: float) -> float:
    """The value rounded to two significant digits; 0 and non-finite values as they are."""
    if value == 0 or not math.isfinite(value):
        return value
    return float(f"{value:.2g}")


def names_text(names: Iterable[str], most: int = 3) -> str:
    """The first few names in a row, and how many more there are.

    Example:
        >>> names_text(["a", "b", "c", "d", "e"])
        'a, b, c and 2 more'
    """
    every = list(names)
    shown = ", ".join(every[:most])
    return shown if len(every) <= most else f"{shown} and {len(every) - most} more"


def log10_positive(values: np.ndarray) -> np.ndarray:
    """``log10`` where the value is finite and above 0; NaN elsewhere. Shape as given, float64."""
    wide = np.asarray(values, dtype=np.float64)
    good = np.isfinite(wide) & (wide > 0)
    return np.where(good, np.log10(np.where(good, wide, 1.0)), np.nan)


def median_of(values: np.ndarray) -> float:
    """Median of the finite values; NaN if there is none."""
    finite = values[np.isfinite(values)]
    return float(np.median(finite)) if finite.size else math.nan


def trailing(x: np.ndarray, window: int, min_history: int) -> tuple[np.ndarray, np.ndarray]:
    """Level and spread of what came before each position.

    ``level[t] = median(x[t-window:t])`` and ``spread[t] = 1.4826 * median|x - level|`` over the same stretch.

    Args:
        x: finite values, shape ``(n,)``.
        window: how far to look back, in positions.
        min_history: with fewer values before ``t`` than this the answer is NaN.

    Returns:
        Level and spread, each of shape ``(n,)``.
    """
    n = len(x)
    stride = max(1, n // MAX_ANCHORS)
    anchors = np.unique(np.concatenate([np.arange(min(n, window)), np.arange(0, n, stride)])).astype(np.int64)
    level, spread = np.full(len(anchors), np.nan), np.full(len(anchors), np.nan)
    full = anchors >= window
    if full.any():
        level[full], spread[full] = _level_and_spread(sliding_window_view(x, window)[anchors[full] - window])
    for i in np.flatnonzero(~full & (anchors >= max(1, min_history))):
        both = _level_and_spread(x[None, : anchors[i]])
        level[i], spread[i] = float(both[0][0]), float(both[1][0])
    held = np.searchsorted(anchors, np.arange(n), side="right") - 1
    return level[held], spread[held]


def _level_and_spread(windows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    level = np.median(windows, axis=1)
    return level, MAD_TO_SD * np.median(np.abs(windows - level[:, None]), axis=1)


def ahead(x: np.ndarray, window: int) -> np.ndarray:
    """``median(x[t:t+window])`` at each position; near the end over what is left. ``x`` is finite."""
    n, width = len(x), min(window, len(x))
    if n == 0:
        return np.zeros(0)
    medians = np.empty(n)
    medians[: n - width + 1] = np.median(sliding_window_view(x, width), axis=1)
    for t in range(n - width + 1, n):
        medians[t] = np.median(x[t:])
    return medians


def noise_sd(x: np.ndarray) -> float:
    """Robust standard deviation of the step-to-step noise, from first differences; 0 for fewer than 3 values."""
    if len(x) < 3:
        return 0.0
    steps = np.diff(x)
    return float(MAD_TO_SD * np.median(np.abs(steps - np.median(steps))) / math.sqrt(2))
