"""The report as JSON, for programs: strict JSON with a version of its own."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from steadygrad.report.numbers import strict
from steadygrad.report.summary import Summary, summarise
from steadygrad.runs import Run

FORMAT = "steadygrad-report"
VERSION = 1
"""History. 1: first version."""


def json_report(runs: Sequence[Run]) -> dict[str, Any]:
    """The report on one or more runs as a dict that ``json.dumps(..., allow_nan=False)`` takes.

    NaN is ``null``; infinities are the strings ``"Infinity"`` and ``"-Infinity"``.

    Args:
        runs: the runs, in the order in which they are reported.

    Returns:
        ``{"format", "version", "runs": [{"label", "path", "verdict", "findings", "totals", "parameters", "meta", "problems"}]}``.
    """
    return {"format": FORMAT, "version": VERSION, "runs": [_run(summary) for summary in summarise(runs)]}


def _run(summary: Summary) -> dict[str, Any]:
    return strict(
        {
            "label": summary.label,
            "path": os.fspath(summary.run.path),
            "verdict": asdict(summary.verdict),
            "findings": [asdict(finding) for finding in summary.findings],
            "totals": summary.totals,
            "parameters": [asdict(parameter) for parameter in summary.parameters],
            "meta": summary.run.meta,
            "problems": list(summary.run.problems),
        }
    )
