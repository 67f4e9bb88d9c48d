"""Reading a recorded run: columns as NumPy arrays. Needs no torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from steadygrad.readings import Layout


@dataclass(frozen=True, eq=False)
class Checkups:
    """The sampled readings of a run: ``m`` rows, ``n`` parameters; NaN where a value was not read."""

    row: np.ndarray
    step: np.ndarray
    optimizer: np.ndarray
    abs_max: np.ndarray
    param_norm: np.ndarray
    update_ratio: np.ndarray


@dataclass(frozen=True, eq=False)
class Run:
    """A recorded run; ``r`` rows (optimizer steps), ``n`` parameters. Columns are described in :mod:`steadygrad.schema`.

    Attributes:
        path: where it was read from.
        meta: the content of ``run.json``.
        layout: names, groups and shapes of the parameters, in the order of the per-tensor columns.
        row, step, optimizer, time, loss, total_norm, total_norm_after, coefficient, skipped, reason, lr, threshold: shape ``(r,)``.
        grad_norm: float32 ``(r, n)``: 2-norm of each gradient before anything was done to it; NaN also where there was none.
        present: bool ``(r, n)``: whether the parameter had a gradient in that row.
        scale: float32 ``(r, n)`` factor applied to each tensor, or ``None`` where one factor (``coefficient``) served all.
        checkups: the sampled readings.
        events: the lines of ``events.jsonl``.
        problems: what the reader had to leave out, in words (a truncated part, an unreadable line); empty for a whole run.
    """

    path: Path
    meta: dict[str, Any]
    layout: Layout
    row: np.ndarray
    step: np.ndarray
    optimizer: np.ndarray
    time: np.ndarray
    loss: np.ndarray
    total_norm: np.ndarray
    total_norm_after: np.ndarray
    coefficient: np.ndarray
    skipped: np.ndarray
    reason: np.ndarray
    lr: np.ndarray
    threshold: np.ndarray
    grad_norm: np.ndarray
    present: np.ndarray
    scale: np.ndarray | None
    checkups: Checkups
    events: list[dict[str, Any]] = field(default_factory=list)
    problems: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.row)

    @property
    def names(self) -> tuple[str, ...]:
        """The parameters' names."""
        return self.layout.names
