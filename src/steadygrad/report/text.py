"""The report as text, for a terminal or a log file."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from steadygrad.diagnose import Finding
from steadygrad.diagnose.numbers import names_text
from steadygrad.report.numbers import plain, short
from steadygrad.report.summary import Parameter, Summary, loss_text, summarise
from steadygrad.runs import Run

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

MAX_WIDTH, MIN_WIDTH = 120, 40
WIDE, MIDDLE = 72, 50
"""Widths from which five and three columns of the table fit beside a readable name."""
MIN_NAME = 8
LARGEST = 8
"""Parameters listed, those with the largest share of the norm first."""
BLOCKS, ASCII_BLOCKS = "\u2581\u2582\u2583\u2584\u2585\u2586\u2587\u2588", "_.-=+*%@"


def text_report(runs: Sequence[Run], *, width: int = 80, unicode: bool = True) -> str:
    """The report on one or more runs as text of a fixed width, without colours.

    Args:
        runs: the runs, in the order in which they are reported.
        width: characters per line, 40 to 120.
        unicode: false for a terminal or file that takes only ASCII.

    Returns:
        The text; no line is longer than ``width`` and none ends in a blank.
    """
    # Inside the function: rich takes longer to import than a short report takes to make.
    from rich.console import Console

    buffer = io.StringIO()
    wide = max(MIN_WIDTH, min(MAX_WIDTH, width))
    console = Console(file=buffer, width=wide, color_system=None, force_terminal=False, legacy_windows=False, highlight=False)
    out = Out(console, wide, unicode)
    for number, summary in enumerate(summarise(runs)):
        if number:
            console.print()
        _print_run(out, summary)
    text = "\n".join(line.rstrip() for line in buffer.getvalue().splitlines()) + "\n"
    return text if unicode else text.replace("\u2026", "~")


@dataclass(frozen=True)
class Out:
    """Where a report is printed: the console, its width, and whether it shows more than ASCII."""

    console: Console
    width: int
    unicode: bool

    def text(self, value: str) -> Text:
        """Text that rich does not parse for markup, in characters that the console can show."""
        from rich.text import Text

        shown = plain(value)
        return Text(shown if self.unicode else shown.encode("ascii", "backslashreplace").decode("ascii"))


def _print_run(out: Out, summary: Summary) -> None:
    from rich.rule import Rule

    out.console.print(Rule(out.text(summary.label), characters="-" if not out.unicode else "\u2500", align="left"))
    _labelled(out, "verdict", summary.verdict.verdict)
    _labelled(out, "why", summary.verdict.why)
    _labelled(out, "next", summary.verdict.next)
    out.console.print()
    _labelled(out, "run", _totals(summary))
    _labelled(out, "policy", str(summary.run.meta.get("policy") or "none (observed only)"))
    for problem in summary.run.problems:
        _labelled(out, "note", problem)
    _curves(out, summary.run)
    for finding in summary.findings:
        _finding(out, finding)
    if summary.parameters:
        out.console.print()
        out.console.print(_table(out, summary))


def _labelled(out: Out, label: str, value: str) -> None:
    from rich.table import Table

    grid = Table.grid(padding=(0, 1))
    grid.add_column(width=8)
    grid.add_column(overflow="fold")
    grid.add_row(out.text(label), out.text(value))
    out.console.print(grid)


def _totals(summary: Summary) -> str:
    t = summary.totals
    parts = [f"{int(t['steps']):,} steps", f"loss {loss_text(t, '->')}"]
    parts.append(f"gradient norm median {short(t['median_norm'])}, max {short(t['max_norm'])}")
    parts += [f"{int(t[key]):,} {key.split('_')[0]}" for key in ("nonfinite_steps", "clipped_steps", "skipped_steps") if t[key]]
    return "; ".join(parts)


def _curves(out: Out, run: Run) -> None:
    norm = np.where(run.total_norm > 0, run.total_norm, np.nan)
    with np.errstate(invalid="ignore", divide="ignore"):
        curves = (("loss", run.loss), ("log norm", np.log10(norm)))
    for label, values in curves:
        if np.isfinite(values).any() and len(run) > 1:
            _labelled(out, label, sparkline(values, out.width - 10, ascii_only=not out.unicode))


def sparkline(values: np.ndarray, width: int, *, ascii_only: bool = False) -> str:
    """A curve in one line: the maximum of each bin as one of eight heights; ``!`` where a value is not finite.

    Example:
        >>> import numpy as np
        >>> sparkline(np.array([0.0, 1.0, 2.0, np.nan, 7.0]), 5, ascii_only=True)
        '_.-!@'
    """
    marks = ASCII_BLOCKS if ascii_only else BLOCKS
    finite = values[np.isfinite(values)]
    if not len(finite):
        return ""
    low, high = float(finite.min()), float(finite.max())
    bins = np.array_split(values, min(width, len(values)))
    line = ""
    for part in bins:
        if not np.isfinite(part).all():
            line += "!"
        else:
            share = 0.0 if high == low else (float(part.max()) - low) / (high - low)
            line += marks[min(7, int(share * 8))]
    return line


def _finding(out: Out, finding: Finding) -> None:
    out.console.print()
    step = "" if finding.step is None else f", from step {finding.step:,}"
    out.console.print(out.text(f"[{finding.severity}] {finding.title} ({finding.slug}{step})"))
    if finding.where:
        _labelled(out, "  where", names_text(finding.where, 6))
    _labelled(out, "  cause", finding.cause)
    for number, remedy in enumerate(finding.remedies):
        _labelled(out, "  do" if not number else "  or", remedy)


def _table(out: Out, summary: Summary) -> Table:
    from rich import box
    from rich.table import Table

    shown = sorted(summary.parameters, key=lambda p: 1.0 if math.isnan(p.share) else -p.share)[:LARGEST]
    table = Table(box=box.SIMPLE_HEAD if out.unicode else box.ASCII, pad_edge=False)
    table.add_column("parameter", no_wrap=True)
    titles = ("median", "max", "share", "last", "update/w")[: 5 if out.width >= WIDE else 3 if out.width >= MIDDLE else 2]
    rows = [_cells(p)[: len(titles)] for p in shown]
    widths = [max(map(len, column)) for column in zip(titles, *rows, strict=True)]
    for title, width in zip(titles, widths, strict=True):
        table.add_column(title, justify="right", no_wrap=True, min_width=width)
    # Numbers are never cut. Of a long name the end stays, for that is where parameters differ.
    room = max(MIN_NAME, out.width - sum(widths) - 3 * len(widths) - 4)
    for p, cells in zip(shown, rows, strict=True):
        name = out.text(p.name).plain
        table.add_row(out.text(name if len(name) <= room else f"...{name[3 - room :]}"), *(out.text(cell) for cell in cells))
    if len(summary.parameters) > len(shown):
        table.caption = f"{len(summary.parameters) - len(shown)} more parameters in the HTML and JSON reports"
    return table


def _cells(p: Parameter) -> tuple[str, ...]:
    last = "NaN" if p.nonfinite and math.isnan(p.last) else short(p.last)
    share = "-" if math.isnan(p.share) else f"{p.share:.0%}"
    return short(p.median), short(p.maximum), share, last, short(p.update_ratio)
