"""The body of the HTML page. Every value passes through ``escape``."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from html import escape
from typing import Any, cast

from steadygrad.diagnose import Finding
from steadygrad.report.figures import COLOURS
from steadygrad.report.heatmap import STATES
from steadygrad.report.numbers import plain, short
from steadygrad.report.summary import Parameter, Summary, loss_text

MAX_TABLE = 2000
"""Rows of a parameter table; a model with more shows those with the largest norms."""
LISTED = 8
WORDS = {"error": "Error", "warning": "Warning", "info": "Note", "ok": "Healthy"}
COLUMNS = (
    ("Parameter", "name in the model"),
    ("Shape", "shape; sorted by number of elements"),
    ("Median norm", "median of the gradient norm before clipping"),
    ("Max norm", "largest finite gradient norm"),
    ("First", "gradient norm in its first step"),
    ("Last", "gradient norm in its last step"),
    ("Share", "median share of the squared total norm"),
    ("Update / weight", "median norm of a step's change over the parameter's norm, from check-ups"),
    ("Not finite", "steps with NaN or Inf"),
)


def text(value: object) -> str:
    """A value as HTML text: control characters shown, special characters escaped."""
    return escape(plain(value))


def body(summaries: Sequence[Summary], figures: set[str]) -> str:
    """Header, verdicts, curves, then each run's details."""
    parts = ["<header><h1>steadygrad report</h1></header>\n<main>\n"]
    if not summaries:
        parts.append("<p>No runs were given.</p>\n")
    parts.extend(_verdict(summary, number, len(summaries)) for number, summary in enumerate(summaries))
    if summaries:
        parts.append('<section><h2>Over time</h2>\n<div class="figure" id="curves"></div>\n</section>\n')
    parts.extend(_details(summary, number, figures) for number, summary in enumerate(summaries))
    return "".join(parts) + "</main>\n"


def _verdict(summary: Summary, number: int, count: int) -> str:
    v = summary.verdict
    swatch = f'<span class="swatch" style="background:{COLOURS[number % len(COLOURS)]}"></span>' if count > 1 else ""
    rows = (("Why", v.why), ("Next", v.next))
    lines = "".join(f"<dt>{label}</dt><dd>{_commands(value)}</dd>" for label, value in rows if value)
    found = "".join(_finding(finding) for finding in summary.findings)
    notes = "".join(f'<p class="note">{text(problem)}</p>' for problem in summary.run.problems)
    return (
        f'<section class="card {v.severity}">\n<p class="run">{swatch}{text(summary.label)}'
        f' <span class="badge {v.severity}">{WORDS[v.severity]}</span></p>\n'
        f'<h2 class="verdict">{text(v.verdict)}</h2>\n<dl>{lines}</dl>\n{_totals(summary)}{notes}{found}</section>\n'
    )


def _commands(value: str) -> str:
    """Text in which everything from ``--policy`` to the closing quote is set as code."""
    start = value.find('--policy "')
    end = value.find('"', start + 10) if start >= 0 else -1
    if end < 0:
        return text(value)
    return f"{text(value[:start])}<code>{text(value[start : end + 1])}</code>{text(value[end + 1 :])}"


def _totals(summary: Summary) -> str:
    t = summary.totals
    items = [
        ("steps", f"{int(t['steps']):,}"),
        ("loss", loss_text(t, "\u2192")),
        ("median norm", short(t["median_norm"])),
        ("max norm", short(t["max_norm"])),
        ("clipped", f"{int(t['clipped_steps']):,}"),
        ("skipped", f"{int(t['skipped_steps']):,}"),
        ("NaN or Inf", f"{int(t['nonfinite_steps']):,}"),
    ]
    return '<ul class="totals">' + "".join(f"<li><b>{text(v)}</b> {text(k)}</li>" for k, v in items) + "</ul>\n"


def _finding(finding: Finding) -> str:
    step = "" if finding.step is None else f", from step {finding.step:,}"
    where = ""
    if finding.where:
        names = "".join(f"<li><code>{text(name)}</code></li>" for name in finding.where[:LISTED])
        more = f"<li>and {len(finding.where) - LISTED} more</li>" if len(finding.where) > LISTED else ""
        where = f'<h4>Where</h4><ul class="names">{names}{more}</ul>'
    evidence = "".join(
        f"<tr><th scope=row>{text(key.replace('_', ' '))}</th><td>{text(_value(value))}</td></tr>"
        for key, value in finding.evidence.items()
        if value != []
    )
    table = f'<h4>Evidence</h4><div class="scroll"><table class="evidence">{evidence}</table></div>' if evidence else ""
    remedies = "".join(f"<li>{_commands(remedy)}</li>" for remedy in finding.remedies)
    return (
        f'<details class="finding"><summary>'
        f'<span class="badge {finding.severity}">{WORDS[finding.severity]}</span> {text(finding.title)}'
        f' <span class="slug">{text(finding.slug)}{step}</span></summary>\n<p>{text(finding.cause)}</p>{where}{table}'
        f"<h4>What to do</h4><ol>{remedies}</ol></details>\n"
    )


def _value(value: Any) -> str:
    if isinstance(value, list):
        items: list[Any] = value  # pyright: ignore[reportUnknownVariableType]
        return ", ".join(_value(item) for item in items[:LISTED]) + (" ..." if len(items) > LISTED else "")
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else short(value)


def _details(summary: Summary, number: int, figures: set[str]) -> str:
    parts = [f"<section><h2>{text(summary.label)}</h2>\n"]
    if f"heat-{number}" in figures:
        keys = "".join(f'<li><span class="swatch" style="background:{c}"></span>{n}</li>' for n, c in STATES.values())
        parts.append(
            "<h3>Gradient norm per parameter</h3><p>log10 of the norm before clipping; parameters in model order,"
            " maximum over the steps of a column.</p>\n"
            f'<div class="figure" id="heat-{number}"></div>\n<ul class="key">{keys}</ul>\n'
        )
    elif summary.run.names or len(summary.run):
        parts.append("<p>No gradient norm per parameter was recorded, so there is no heat map.</p>\n")
    if summary.parameters:
        parts.append(_table(summary.parameters))
    parts.append(_environment(summary))
    return "".join(parts) + "</section>\n"


def _table(parameters: Sequence[Parameter]) -> str:
    shown = list(parameters)
    note = ""
    if len(shown) > MAX_TABLE:
        shown = sorted(shown, key=lambda p: -p.maximum if p.maximum == p.maximum else 0.0)[:MAX_TABLE]
        note = f"<p>{len(parameters) - MAX_TABLE:,} parameters with smaller norms are left out; the JSON report has all.</p>"
    head = "".join(
        f'<th scope="col" title="{escape(tip)}"><button type="button">{escape(name)}</button></th>' for name, tip in COLUMNS
    )
    rows = "".join(_row(parameter) for parameter in shown)
    return (
        f'<h3>Parameters</h3>{note}<div class="scroll tall"><table class="sortable"><thead><tr>{head}</tr></thead>\n'
        f"<tbody>{rows}</tbody></table></div>\n"
    )


def _row(p: Parameter) -> str:
    shape = "-" if p.shape is None else " x ".join(str(size) for size in p.shape) or "scalar"
    numel = math.prod(p.shape) if p.shape is not None else -1
    share = "-" if math.isnan(p.share) else f"{p.share:.1%}"
    values = ((p.median, short(p.median)), (p.maximum, short(p.maximum)), (p.first, short(p.first)), (p.last, short(p.last)))
    if p.nonfinite and math.isnan(p.last):
        values = (*values[:3], (p.last, "NaN"))
    cells = (*values, (p.share, share), (p.update_ratio, short(p.update_ratio)), (p.nonfinite, f"{p.nonfinite:,}"))
    numbers = "".join(f'<td data-v="{_sort_key(value)}">{text(shown)}</td>' for value, shown in cells)
    return f'<tr><th scope="row">{text(p.name)}</th><td data-v="{numel}">{text(shape)}</td>{numbers}</tr>\n'


def _sort_key(value: float) -> str:
    return "" if math.isnan(value) else "1e999" if math.isinf(value) else f"{value:.6g}"


def _environment(summary: Summary) -> str:
    meta = summary.run.meta
    argv = cast("list[Any] | str | None", meta.get("argv"))
    environment = cast("dict[str, Any] | None", meta.get("environment"))
    items: list[tuple[str, Any]] = [("run", str(summary.run.path)), ("policy", meta.get("policy") or "none (observed only)")]
    items.append(("command", " ".join(map(str, argv)) if isinstance(argv, list) else argv))
    items += [(key, meta.get(key)) for key in ("status", "created", "cwd", "git_commit", "git_dirty", "source")]
    if isinstance(environment, dict):
        items += [(str(key), value) for key, value in environment.items()]
    rows = "".join(
        f"<tr><th scope=row>{text(key.replace('_', ' '))}</th><td>{text(_json(value))}</td></tr>"
        for key, value in items
        if value not in (None, "", [])
    )
    return f'<details><summary>Environment</summary><div class="scroll"><table class="evidence">{rows}</table></div></details>\n'


def _json(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)
