"""The curves as plain plotly JSON: dicts, made without plotly. Colours of text and background are set by the page."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any

import numpy as np

from steadygrad.report.downsample import peaks
from steadygrad.report.numbers import plain, strict
from steadygrad.report.summary import Summary

Figure = dict[str, Any]

COLOURS = ("#3b7dd8", "#d9601a", "#159a6f", "#b14fbf", "#a8801a", "#cf4058", "#5b8c2a", "#7a6ee0")
"""Told apart by the colour-blind and legible on white and on near-black (contrast at least 3:1 on both)."""
BAD = "#d62a4a"
LONG_RANGE = 100.0
"""A positive loss that spans more than this factor is drawn on a log axis."""
MAX_MARKS = 300
MAX_LINES = 6
PANELS = {"y": ("yaxis", "loss", 1.0), "y2": ("yaxis2", "gradient norm", 1.2), "y3": ("yaxis3", "coefficient", 0.6)}
"""Axis in the layout, title and relative height of each panel; only those with a curve are drawn."""
PANEL_HEIGHT, GAP = 210, 0.06


def safe(text: object) -> str:
    """Text for plotly, which reads a subset of HTML in labels: every special character becomes an entity."""
    return html.escape(plain(text))


def numbers(values: np.ndarray) -> list[Any]:
    """Values with five significant digits; ``None`` where there is none."""
    return [None if not np.isfinite(v) else float(f"{v:.5g}") for v in np.asarray(values, dtype=np.float64)]


def integers(values: np.ndarray) -> list[int]:
    """Positions as plain integers."""
    return [int(v) for v in values]


def curves(summaries: Sequence[Summary]) -> Figure:
    """Loss, gradient norms with threshold, and coefficient over steps; all runs in one figure, linked along the steps."""
    data: list[dict[str, Any]] = []
    several = len(summaries) > 1
    for number, summary in enumerate(summaries):
        run = summary.run
        optimizers = sorted({int(i) for i in run.optimizer})
        for index in optimizers:
            rows = np.flatnonzero(run.optimizer == index)
            tag = f", optimizer {index}" if len(optimizers) > 1 else ""
            colour = COLOURS[(number + (index if not several else 0)) % len(COLOURS)]
            data += _traces(summary, rows, safe(f"{summary.label}{tag}"), colour, several or len(optimizers) > 1)
    used = [axis for axis in PANELS if any(trace["yaxis"] == axis for trace in data)] or ["y"]
    return strict({"data": data, "layout": _layout(summaries, used), "kind": "curves"})


def _traces(summary: Summary, rows: np.ndarray, label: str, colour: str, several: bool) -> list[dict[str, Any]]:
    run, step = summary.run, summary.run.step[rows]
    thin = {"color": colour, "width": 1.6}

    def line(
        values: np.ndarray, axis: str, name: str, style: dict[str, Any], *, main: bool = False, **extra: Any
    ) -> dict[str, Any]:
        x, y = peaks(step, np.asarray(values[rows], dtype=np.float64))
        title = label if several and main else f"{label}: {name}" if several else name
        # One legend entry per run is enough where runs are compared; a single run names each of its curves.
        return {
            "type": "scatter",
            "mode": "lines" if len(x) > 1 else "markers",
            "x": integers(x),
            "y": numbers(y),
            "yaxis": axis,
            "name": title,
            "legendgroup": label if several else name,
            "showlegend": main or not several,
            "line": style,
            "hovertemplate": f"step %{{x}}<br>{name} %{{y:.4g}}<extra>{label if several else ''}</extra>",
            **extra,
        }

    found: list[dict[str, Any]] = []
    has_norm = bool(np.isfinite(run.total_norm[rows]).any())
    if np.isfinite(run.loss[rows]).any() or not has_norm:
        found.append(line(run.loss, "y", "loss", thin, main=True))
    if has_norm:
        positive = np.where(run.total_norm > 0, run.total_norm, np.nan)
        found.append(
            line(positive, "y2", "norm before", thin if several else {"color": COLOURS[1], "width": 1.6}, main=not found)
        )
        changed = np.isfinite(run.total_norm_after[rows]) & (run.total_norm_after[rows] != run.total_norm[rows])
        if changed.any():
            after = np.where(run.total_norm_after > 0, run.total_norm_after, np.nan)
            style = {"color": colour if several else COLOURS[2], "width": 1.2, "dash": "dot"}
            found.append(line(after, "y2", "norm after", style))
            found.append(line(run.coefficient, "y3", "coefficient", {**style, "dash": "solid"}))
        if np.isfinite(run.threshold[rows]).any():
            found.append(
                line(run.threshold, "y2", "threshold", {"color": colour if several else COLOURS[3], "width": 1.2, "dash": "dash"})
            )
    return found + _marks(summary, rows, label, several)


def _marks(summary: Summary, rows: np.ndarray, label: str, several: bool) -> list[dict[str, Any]]:
    """Skipped steps and non-finite steps, at the foot and at the head of the norm panel."""
    run = summary.run
    norms = run.total_norm[rows]
    finite = norms[np.isfinite(norms) & (norms > 0)]
    if not len(finite):
        return []
    bad = ~np.isfinite(norms)
    marks = (
        ("skipped step", run.skipped[rows].astype(bool), float(finite.min()), "x"),
        ("NaN or Inf", bad, float(finite.max()), "triangle-up"),
    )
    found: list[dict[str, Any]] = []
    for name, mask, height, symbol in marks:
        at = run.step[rows][mask]
        if not len(at):
            continue
        at = at[np.linspace(0, len(at) - 1, min(len(at), MAX_MARKS)).astype(int)]
        found.append(
            {
                "type": "scatter",
                "mode": "markers",
                "x": integers(at),
                "y": [float(f"{height:.5g}")] * len(at),
                "yaxis": "y2",
                "name": f"{label}: {name}" if several else name,
                "legendgroup": f"{label} {name}",
                "marker": {"symbol": symbol, "size": 8, "color": BAD if name == "NaN or Inf" else "#a8801a"},
                "hovertemplate": f"step %{{x}}<br>{name}<extra>{label if several else ''}</extra>",
            }
        )
    return found


def _layout(summaries: Sequence[Summary], used: list[str]) -> dict[str, Any]:
    losses = np.concatenate([s.run.loss[np.isfinite(s.run.loss)] for s in summaries] or [np.zeros(0)])
    wide = len(losses) > 0 and float(losses.min()) > 0 and float(losses.max()) / float(losses.min()) > LONG_RANGE
    lines = _finding_lines(summaries)
    layout: dict[str, Any] = {
        "height": 110 + int(PANEL_HEIGHT * sum(PANELS[axis][2] for axis in used)),
        "margin": {"l": 64, "r": 16, "t": 32, "b": 48},
        "hovermode": "closest",
        "legend": {"orientation": "h", "y": 1.0, "yanchor": "bottom", "x": 0},
        "xaxis": {"title": {"text": "step"}, "anchor": used[-1]},
        "shapes": [shape for shape, _ in lines],
        "annotations": [note for _, note in lines],
    }
    top, unit = 1.0, (1.0 - GAP * (len(used) - 1)) / sum(PANELS[axis][2] for axis in used)
    for axis in used:
        key, title, size = PANELS[axis]
        bottom = max(0.0, top - unit * size)
        log = axis == "y2" or (axis == "y" and wide)
        layout[key] = {"title": {"text": title}, "domain": [round(bottom, 4), round(top, 4)], "zeroline": False}
        layout[key].update({"type": "log", "exponentformat": "power"} if log else {"type": "linear"})
        top = bottom - GAP
    if "y3" in used:
        layout["yaxis3"]["range"] = [-0.05, 1.1]
    return layout


def _finding_lines(summaries: Sequence[Summary]) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """A dotted line with a short label at the first step of each error and warning."""
    found: list[tuple[dict[str, Any], dict[str, Any]]] = []
    for number, summary in enumerate(summaries):
        serious = [f for f in summary.findings if f.step is not None and f.severity != "info"]
        for finding in serious[: max(1, MAX_LINES // len(summaries))]:
            colour = COLOURS[number % len(COLOURS)] if len(summaries) > 1 else BAD
            shape = {"type": "line", "x0": finding.step, "x1": finding.step, "y0": 0, "y1": 1, "yref": "paper"}
            note = {
                "x": finding.step,
                "y": 0.99 - 0.05 * len(found),
                "yref": "paper",
                "text": safe(finding.slug),
                "showarrow": False,
            }
            found.append(
                (
                    {**shape, "line": {"color": colour, "width": 1.2, "dash": "dot"}},
                    {**note, "xanchor": "left", "yanchor": "top", "xshift": 2, "font": {"size": 11, "color": colour}},
                )
            )
    return found
