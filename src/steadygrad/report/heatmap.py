"""The heat map of gradient norms: parameters in model order down, steps across, as plain plotly JSON."""

from __future__ import annotations

from typing import Any

import numpy as np

from steadygrad.report.downsample import INF, NAN, NO_GRADIENT, heat
from steadygrad.report.figures import Figure, integers, safe
from steadygrad.report.numbers import strict
from steadygrad.report.summary import Summary

ROW_HEIGHT, MIN_HEIGHT, MAX_HEIGHT = 18, 160, 820
MAX_LABELS = 45
"""Parameter names written beside the map; with more parameters every k-th one is named, the rest on hover."""
LABEL_LENGTH, PHONE_LABEL_LENGTH = 34, 15
STATES = {NO_GRADIENT: ("no gradient", "#9aa1ab"), INF: ("Inf", "#ff8c1a"), NAN: ("NaN", "#e5263f")}
"""Colours that the map's own scale does not have."""


def heat_figure(summary: Summary) -> Figure | None:
    """The heat map of one run, or ``None`` where no per-parameter norm was recorded."""
    run = summary.run
    n = len(run.names)
    if not n or not len(run):
        return None
    grid = heat(run.step if _ordered(run.step) else run.row, run.grad_norm, run.present)
    names = [safe(name) for name in run.names]
    cells = np.round(grid.log_norm, 2)
    x, y = integers(grid.x), list(range(n))
    data: list[dict[str, Any]] = [
        {
            "type": "heatmap",
            "x": x,
            "y": y,
            "z": [[None if np.isnan(v) else float(v) for v in row] for row in cells],
            "colorscale": "Viridis",
            "colorbar": {"title": {"text": "log10 norm", "side": "right"}, "thickness": 12, "len": 1.0},
            "hovertemplate": "%{text}<extra></extra>",
            "hoverongaps": False,
            "xgap": 0,
            "ygap": 1 if n <= 60 else 0,
            "names": names,
        }
    ]
    if (grid.state != 0).any():
        data.append(_states(grid.state, x, y))
    every = max(1, -(-n // MAX_LABELS))
    ticks = y[::every]
    layout = {
        "height": int(min(MAX_HEIGHT, max(MIN_HEIGHT, n * ROW_HEIGHT + 92))),
        "margin": {"l": 8, "r": 8, "t": 30, "b": 44},
        "xaxis": {"title": {"text": "step"}, "showgrid": False},
        "yaxis": {
            "autorange": "reversed",
            "automargin": True,
            "showgrid": False,
            "tickmode": "array",
            "tickvals": ticks,
            "ticktext": [_tail(run.names[i], LABEL_LENGTH) for i in ticks],
        },
    }
    short_labels = [_tail(run.names[i], PHONE_LABEL_LENGTH) for i in ticks]
    return strict({"data": data, "layout": layout, "kind": "heat", "short_labels": short_labels})


def _states(state: np.ndarray, x: list[int], y: list[int]) -> dict[str, Any]:
    steps = ((NO_GRADIENT, 0.0, 1 / 3), (INF, 1 / 3, 2 / 3), (NAN, 2 / 3, 1.0))
    return {
        "type": "heatmap",
        "x": x,
        "y": y,
        "z": [[None if v == 0 else int(v) for v in row] for row in state],
        "zmin": 0.5,
        "zmax": 3.5,
        "colorscale": [[edge, STATES[key][1]] for key, low, high in steps for edge in (low, high)],
        "showscale": False,
        "hovertemplate": "%{text}<extra></extra>",
        "hoverongaps": False,
        "ygap": 1 if len(y) <= 60 else 0,
        "states": [STATES[key][0] for key in (NO_GRADIENT, INF, NAN)],
    }


def _ordered(step: np.ndarray) -> bool:
    return bool((np.diff(step) > 0).all())


def _tail(name: str, length: int) -> str:
    """The end of a long name, where the parameters differ."""
    return safe(name if len(name) <= length else f"...{name[3 - length :]}")
