"""A run in numbers: what all three reports show, worked out once."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from steadygrad.decision import Reason
from steadygrad.diagnose import Finding, diagnose
from steadygrad.report.numbers import short
from steadygrad.report.verdict import Verdict, loss_ends, verdict_of
from steadygrad.runs import Run

SAMPLED_ROWS = 2000
"""Rows that medians of per-parameter columns are taken from; maxima and counts use every row."""
CHUNK_CELLS = 4_000_000
"""Cells of the per-parameter columns that are looked at in one go, which bounds the memory."""


@dataclass(frozen=True)
class Parameter:
    """One parameter over the whole run; norms are those before anything was done to the gradient.

    ``share`` is the median share of the squared total norm, ``update_ratio`` the median of the check-ups' values.
    """

    name: str
    shape: tuple[int, ...] | None
    median: float
    maximum: float
    first: float
    last: float
    share: float
    update_ratio: float
    nonfinite: int
    missing: int


@dataclass(frozen=True)
class Summary:
    """A run with its findings, its verdict and its overall numbers."""

    label: str
    run: Run
    findings: tuple[Finding, ...]
    verdict: Verdict
    totals: dict[str, float]
    parameters: tuple[Parameter, ...]


def summarise(runs: Sequence[Run]) -> list[Summary]:
    """Diagnose each run and work out its numbers; labels are the shortest path endings that tell the runs apart."""
    return [_summary(run, label) for run, label in zip(runs, labels(runs), strict=True)]


def labels(runs: Sequence[Run]) -> list[str]:
    """One distinct label per run: the folder's name, with a number where two are the same."""
    names = [run.path.name or os.fspath(run.path) for run in runs]
    counts: dict[str, int] = {}
    made: list[str] = []
    for name in names:
        counts[name] = counts.get(name, 0) + 1
        made.append(name if names.count(name) == 1 else f"{name} ({counts[name]})")
    return made


def _summary(run: Run, label: str) -> Summary:
    findings = diagnose(run)
    return Summary(label, run, tuple(findings), verdict_of(run, findings), totals_of(run), tuple(parameters_of(run)))


def totals_of(run: Run) -> dict[str, float]:
    """The overall numbers of a run: steps, seconds, losses, norms, clipped and skipped steps."""
    norms = run.total_norm[np.isfinite(run.total_norm)]
    first, last = loss_ends(run)
    return {
        "steps": len(run),
        "seconds": float(np.nanmax(run.time)) if len(run) and np.isfinite(run.time).any() else float("nan"),
        "first_loss": first,
        "final_loss": last,
        "median_norm": float(np.median(norms)) if len(norms) else float("nan"),
        "max_norm": float(np.max(norms)) if len(norms) else float("nan"),
        "nonfinite_steps": int(np.sum(~np.isfinite(run.total_norm))) if len(norms) else 0,
        "clipped_steps": int(np.sum(run.reason == int(Reason.CLIPPED))),
        "skipped_steps": int(np.sum(run.skipped)),
    }


def loss_text(totals: dict[str, float], arrow: str) -> str:
    """First and final loss in words; ``NaN`` for a loss that was known and then got lost.

    Example:
        >>> loss_text({"first_loss": 2.3, "final_loss": float("nan")}, "->")
        '2.3 -> NaN'
    """
    first, last = totals["first_loss"], totals["final_loss"]
    if math.isnan(first):
        return "not recorded"
    return f"{short(first)} {arrow} {'NaN' if math.isnan(last) else short(last)}"


def parameters_of(run: Run) -> list[Parameter]:
    """The rows of the per-parameter table, in model order."""
    n = len(run.names)
    if not n or not len(run):
        return []
    sampled = np.linspace(0, len(run) - 1, min(len(run), SAMPLED_ROWS)).astype(int)
    norms = np.where(run.present[sampled], run.grad_norm[sampled], np.nan).astype(np.float64)
    norms[~np.isfinite(norms)] = np.nan
    total = np.nansum(norms**2, axis=1, keepdims=True)
    shares = norms**2 / np.where(total > 0, total, np.nan)
    median, share = _column_medians(norms), _column_medians(shares)
    ratio = _column_medians(run.checkups.update_ratio) if len(run.checkups.row) else np.full(n, np.nan)
    maximum, nonfinite, first, last, missing = _scan(run)
    shapes = run.layout.shapes or (None,) * n
    return [
        Parameter(
            name=run.names[i],
            shape=shapes[i],
            median=float(median[i]),
            maximum=float(maximum[i]),
            first=float(first[i]),
            last=float(last[i]),
            share=float(share[i]),
            update_ratio=float(ratio[i]),
            nonfinite=int(nonfinite[i]),
            missing=int(missing[i]),
        )
        for i in range(n)
    ]


def _column_medians(values: np.ndarray) -> np.ndarray:
    """Median of the finite values of each column; NaN for a column without any."""
    out = np.full(values.shape[1], np.nan)
    for i in range(values.shape[1]):
        finite = values[:, i][np.isfinite(values[:, i])]
        if len(finite):
            out[i] = np.median(finite)
    return out


def _scan(run: Run) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Maximum, count of non-finite rows, first and last norm, and count of rows without gradient, per parameter."""
    n = len(run.names)
    maximum, nonfinite, missing = np.full(n, np.nan), np.zeros(n, np.int64), np.zeros(n, np.int64)
    first, last = np.full(n, np.nan), np.full(n, np.nan)
    step = max(1, CHUNK_CELLS // n)
    for start in range(0, len(run), step):
        part, present = run.grad_norm[start : start + step], run.present[start : start + step]
        good = np.isfinite(part) & present
        maximum = np.fmax(maximum, np.where(good.any(axis=0), np.max(np.where(good, part, -1.0), axis=0), np.nan))
        nonfinite += (present & ~good).sum(axis=0)
        missing += (~present).sum(axis=0)
        there = present.any(axis=0)
        at_first, at_last = present.argmax(axis=0), len(part) - 1 - present[::-1].argmax(axis=0)
        columns = np.arange(n)
        first = np.where(np.isnan(first) & there, part[at_first, columns], first)
        last = np.where(there, part[at_last, columns], last)
    return maximum, nonfinite, first, last, missing
