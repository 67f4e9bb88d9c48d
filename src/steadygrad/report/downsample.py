"""Long curves and large tables made small enough to draw, without losing a peak."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

MAX_BINS = 700
"""Bins per curve. Two points a bin is more than a wide screen has pixels."""
HEAT_COLUMNS = 600
HEAT_CELLS = 200_000
"""Cells of one heat map: 500 parameters get 400 columns, which is 1.2 MB of the page."""

OK, NO_GRADIENT, INF, NAN = 0, 1, 2, 3
"""States of a heat map's cell; the worst one of the cell's steps counts."""


def peaks(x: np.ndarray, y: np.ndarray, bins: int = MAX_BINS) -> tuple[np.ndarray, np.ndarray]:
    """The lowest and the highest point of each bin, in order; a bin without a finite value becomes one NaN.

    Args:
        x: positions, shape ``(n,)``.
        y: values, shape ``(n,)``; infinities are treated like NaN.
        bins: number of bins; up to twice as many points are returned.

    Example:
        >>> import numpy as np
        >>> x, y = peaks(np.arange(6), np.array([0.0, 9.0, 1.0, 5.0, 5.0, 2.0]), bins=2)
        >>> x.tolist(), y.tolist()
        ([0, 1, 3, 5], [0.0, 9.0, 5.0, 2.0])
    """
    y = np.where(np.isfinite(y), y, np.nan)
    if len(x) <= 2 * bins:
        return x, y
    kept: list[int] = []
    for part in np.array_split(np.arange(len(x)), bins):
        values = y[part]
        if np.isnan(values).all():
            kept.append(int(part[0]))
        else:
            ends = {int(part[np.nanargmin(values)]), int(part[np.nanargmax(values)])}
            kept.extend(sorted(ends))
    index = np.array(kept)
    return x[index], y[index]


@dataclass(frozen=True)
class Heat:
    """A heat map: ``log_norm`` (NaN where the state is not OK) and ``state``, both of shape ``(parameters, columns)``."""

    x: np.ndarray
    log_norm: np.ndarray
    state: np.ndarray


def heat(step: np.ndarray, grad_norm: np.ndarray, present: np.ndarray) -> Heat:
    """The heat map of the gradient norms, by maximum over bins of consecutive rows.

    A bin ends before the first NaN or Inf, so that what led to it is not hidden under it.

    Args:
        step: shape ``(r,)``.
        grad_norm: shape ``(r, n)``.
        present: shape ``(r, n)``; where false the norm means nothing.
    """
    rows, n = len(grad_norm), int(grad_norm.shape[1])
    columns = max(1, min(rows, HEAT_COLUMNS, HEAT_CELLS // max(1, n)))
    edges = sorted({k * rows // columns for k in range(columns + 1)} | _first_bad(grad_norm, present))
    columns = len(edges) - 1
    values, state = np.full((columns, n), np.nan), np.full((columns, n), NO_GRADIENT, dtype=np.int8)
    for k in range(columns):
        part, there = grad_norm[edges[k] : edges[k + 1]], present[edges[k] : edges[k + 1]]
        good = there & np.isfinite(part)
        values[k] = np.where(good.any(axis=0), np.max(np.where(good, part, 0.0), axis=0, initial=0.0), np.nan)
        state[k, good.any(axis=0)] = OK
        state[k, (there & np.isinf(part)).any(axis=0)] = INF
        state[k, (there & np.isnan(part)).any(axis=0)] = NAN
    # An exact zero is no point of a log scale: it is drawn at the bottom, well below what a float32 norm resolves.
    with np.errstate(divide="ignore"):
        log_norm = np.log10(values)
    lowest = log_norm[np.isfinite(log_norm)]
    floor = float(lowest.min()) - 1 if len(lowest) else 0.0
    log_norm = np.where(np.isneginf(log_norm), floor, log_norm)
    log_norm[state != OK] = np.nan
    return Heat(step[edges[:-1]], np.transpose(log_norm), np.transpose(state))


def _first_bad(grad_norm: np.ndarray, present: np.ndarray, chunk: int = 4096) -> set[int]:
    """The first row with a gradient that is not finite, in a set; empty if there is none."""
    for start in range(0, len(grad_norm), chunk):
        bad = (present[start : start + chunk] & ~np.isfinite(grad_norm[start : start + chunk])).any(axis=1)
        if bad.any():
            return {start + int(np.argmax(bad))}
    return set()
