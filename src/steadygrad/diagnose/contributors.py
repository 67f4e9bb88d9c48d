"""Which parameters lead a rise of the total norm, and which ones carry it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from steadygrad.diagnose.numbers import log10_positive
from steadygrad.diagnose.series import Series
from steadygrad.runs import Run

HISTORY = 100
"""Rows before the onset that make a parameter's own level."""
LEAD_IN = 20
"""Rows before the onset in which a parameter may already rise."""
UP = 1.0
"""Decades above its own level at which a parameter counts as risen."""
MIN_SHARE = 0.01
"""A parameter with less than this share of the squared norm at the peak is not named."""
MOST = 5


@dataclass(frozen=True)
class Contributor:
    """One parameter in a rise: its share of the squared total norm at the peak, and when its own norm rose."""

    name: str
    share: float
    step: int
    before: float
    peak: float


def contributors(run: Run, series: Series, onset: int, peak: int) -> list[Contributor]:
    """The parameters behind a rise, those that carry most of it first; among equals the one that rose first.

    Shares are compared in steps of a tenth, so that a parameter that rose earlier wins over one with nearly the same share.

    Args:
        run: the run.
        series: the optimizer's curves.
        onset: row of ``series`` at which the total norm rose.
        peak: row of ``series`` with the largest finite norm.
    """
    if not run.names:
        return []
    at_peak = np.nan_to_num(run.grad_norm[series.rows[peak]].astype(np.float64), nan=0.0, posinf=0.0)
    total = float(np.sum(at_peak**2))
    if total <= 0:
        return []
    shares = at_peak**2 / total
    before = log10_positive(run.grad_norm[series.rows[max(0, onset - HISTORY) : onset]])
    lead = max(0, onset - LEAD_IN)
    during = log10_positive(run.grad_norm[series.rows[lead : peak + 1]])
    found: list[Contributor] = []
    largest_first = [int(i) for i in np.argsort(-shares, kind="stable")[: 4 * MOST]]
    for i in largest_first:
        if shares[i] < MIN_SHARE:
            break
        own = before[:, i][np.isfinite(before[:, i])]
        level = float(np.median(own)) if len(own) else np.nan
        risen = np.flatnonzero(during[:, i] >= level + UP)
        step = int(series.step[lead + (int(risen[0]) if len(risen) else len(during) - 1)])
        found.append(Contributor(run.names[i], float(shares[i]), step, float(10**level), float(at_peak[i])))
    return sorted(found, key=lambda c: (-round(10 * c.share), c.step))[:MOST]
