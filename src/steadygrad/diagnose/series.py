"""The curves of a run, one set per optimizer: a GAN has two, and their steps must not be mixed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from steadygrad.diagnose.numbers import log10_positive
from steadygrad.runs import Run

STALE_SHARE = 0.9
"""A recorded norm that repeats itself exactly in this share of the steps was not measured in each step."""


@dataclass(frozen=True, eq=False)
class Series:
    """The rows of one optimizer.

    Attributes:
        optimizer: its index in the run.
        rows: positions in the run's columns, shape ``(r,)``.
        step, loss, norm: those rows of the run's columns; ``norm`` is the total norm before anything was done to it.
        log_norm: ``log10(norm)``; NaN where the norm is not finite or is 0.
        stale: why the norm can't be used, or an empty text if it can.
    """

    optimizer: int
    rows: np.ndarray
    step: np.ndarray
    loss: np.ndarray
    norm: np.ndarray
    log_norm: np.ndarray
    stale: str

    def __len__(self) -> int:
        return len(self.rows)


def series_of(run: Run) -> list[Series]:
    """The curves of each optimizer of the run that has at least one row."""
    found: list[Series] = []
    for index in sorted({int(i) for i in run.optimizer}):
        rows = np.flatnonzero(run.optimizer == index)
        norm = np.asarray(run.total_norm[rows], dtype=np.float64)
        stale = _stale(norm, measured=bool(run.names))
        usable = np.full(len(rows), np.nan) if stale else norm
        found.append(
            Series(
                optimizer=index,
                rows=rows,
                step=run.step[rows],
                loss=np.asarray(run.loss[rows], dtype=np.float64),
                norm=norm,
                log_norm=log10_positive(usable),
                stale=stale,
            )
        )
    return found


def _stale(norm: np.ndarray, *, measured: bool) -> str:
    """Logs of others may hold a column that nobody filled; a run with per-parameter norms was measured."""
    finite = norm[np.isfinite(norm)]
    if measured or len(finite) < 10:
        return ""
    if not finite.any():
        return "is 0 in every step"
    repeats = np.count_nonzero(finite[1:] == finite[:-1]) / (len(finite) - 1)
    return f"repeats the value of the step before in {repeats:.0%} of the steps" if repeats >= STALE_SHARE else ""
