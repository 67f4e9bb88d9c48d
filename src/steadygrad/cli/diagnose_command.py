"""``steadygrad diagnose``: the findings in a run."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from typing import Any, cast

from steadygrad.cli.output import as_json, one_line_errors, show
from steadygrad.diagnose import Finding, diagnose
from steadygrad.report.numbers import plain, short, strict
from steadygrad.runs import load_run


def call(options: argparse.Namespace) -> int:
    """Print every finding, the worst first.

    Args:
        options: ``run``, ``json``.
    """
    with one_line_errors():
        findings = diagnose(load_run(options.run))
    if options.json:
        show(as_json(strict([asdict(finding) for finding in findings])))
    else:
        show("\n\n".join(map(_text, findings)) or f"No findings in {options.run}.")
    return 0


def _text(finding: Finding) -> str:
    lines = [f"{finding.severity}: {finding.title} [{finding.slug}]"]
    if finding.step is not None:
        lines.append(f"  since     step {finding.step}")
    if finding.where:
        more = f" and {len(finding.where) - 5} more" if len(finding.where) > 5 else ""
        lines.append(f"  where     {', '.join(map(plain, finding.where[:5]))}{more}")
    lines += [f"  evidence  {name} = {_number(value)}" for name, value in finding.evidence.items() if value != []]
    lines.append(f"  cause     {plain(finding.cause)}")
    lines += [f"  remedy    {plain(remedy)}" for remedy in finding.remedies]
    return "\n".join(lines)


def _number(value: Any) -> str:
    if isinstance(value, list):
        items = cast("list[Any]", value)
        return ", ".join(map(_number, items[:8])) + (" ..." if len(items) > 8 else "")
    return short(value) if isinstance(value, float) else plain(value)
