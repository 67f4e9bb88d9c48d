"""``steadygrad diagnose``: the findings in a run."""

from __future__ import annotations

import argparse
import math
from dataclasses import asdict
from typing import Any

from steadygrad.cli.output import as_json, one_line_errors, show
from steadygrad.diagnose import Finding, diagnose
from steadygrad.runs import load_run


def call(options: argparse.Namespace) -> int:
    """Print every finding, the worst first.

    Args:
        options: ``run``, ``json``.
    """
    with one_line_errors():
        findings = diagnose(load_run(options.run))
    if options.json:
        show(as_json([_strict(asdict(finding)) for finding in findings]))
    else:
        show("\n\n".join(map(_text, findings)) or f"No findings in {options.run}.")
    return 0


def _text(finding: Finding) -> str:
    lines = [f"{finding.severity}: {finding.title} [{finding.slug}]"]
    if finding.step is not None:
        lines.append(f"  since     step {finding.step}")
    if finding.where:
        more = f" and {len(finding.where) - 5} more" if len(finding.where) > 5 else ""
        lines.append(f"  where     {', '.join(finding.where[:5])}{more}")
    lines += [f"  evidence  {name} = {_number(value)}" for name, value in finding.evidence.items()]
    lines.append(f"  cause     {finding.cause}")
    lines += [f"  remedy    {remedy}" for remedy in finding.remedies]
    return "\n".join(lines)


def _number(value: Any) -> str:
    if isinstance(value, list):
        items: list[Any] = value
        return ", ".join(map(_number, items[:8])) + (" ..." if len(items) > 8 else "")
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _strict(value: Any) -> Any:
    """The value with NaN and Inf as text, which JSON lacks as numbers."""
    if isinstance(value, dict):
        pairs: dict[str, Any] = value
        return {key: _strict(item) for key, item in pairs.items()}
    if isinstance(value, list | tuple):
        items: list[Any] | tuple[Any, ...] = value
        return [_strict(item) for item in items]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
