"""The report as one HTML page that works offline: plotly's script, the figures and the texts are all inside."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from steadygrad.errors import UnsupportedError
from steadygrad.report.figures import curves
from steadygrad.report.heatmap import heat_figure
from steadygrad.report.page import body
from steadygrad.report.summary import summarise
from steadygrad.runs import Run

HERE = Path(__file__).parent
POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"
"""The browser itself refuses whatever the page might ask the network for."""


def html_report(runs: Sequence[Run]) -> str:
    """The report on one or more runs as one self-contained HTML page.

    Verdict first, then curves (several runs overlaid), a heat map and a table of parameters per run, and the environment.
    Names that come from the user's code are escaped. The page loads nothing from anywhere.

    Args:
        runs: the runs, in the order in which they are shown.

    Returns:
        The page; write it to a file as UTF-8.

    Raises:
        UnsupportedError: plotly is not installed (``plotly-missing``).
    """
    summaries = summarise(runs)
    figures: dict[str, Any] = {"curves": curves(summaries)}
    for number, summary in enumerate(summaries):
        figure = heat_figure(summary)
        if figure is not None:
            figures[f"heat-{number}"] = figure
    title = "steadygrad report" + (f": {', '.join(s.label for s in summaries)}" if summaries else "")
    return _page(title, body(summaries, set(figures)), figures)


def _page(title: str, content: str, figures: dict[str, Any]) -> str:
    from html import escape

    return "".join(
        (
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n',
            f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n',
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n',
            '<meta name="color-scheme" content="light dark">\n',
            f"<title>{escape(title)}</title>\n<style>\n{_own('page.css')}</style>\n</head>\n<body>\n",
            content,
            f'<script type="application/json" id="figures">{embedded(figures)}</script>\n',
            f"<script>{plotly_script()}</script>\n<script>\n{_own('page.js')}</script>\n</body>\n</html>\n",
        )
    )


def embedded(value: Any) -> str:
    r"""JSON that is safe inside a script element: no character can end the element or start a comment.

    Example:
        >>> print(embedded("</script>"))
        "\u003c/script\u003e"
    """
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


@cache
def _own(name: str) -> str:
    return (HERE / name).read_text(encoding="utf-8")


@cache
def plotly_script() -> str:
    """The text of plotly's script, from the installed package; plotly itself is not imported.

    Raises:
        UnsupportedError: plotly is not installed (``plotly-missing``).
    """
    spec = importlib.util.find_spec("plotly")
    folders = list(spec.submodule_search_locations or ()) if spec else []
    for folder in folders:
        script = Path(folder) / "package_data" / "plotly.min.js"
        if script.is_file():
            return script.read_text(encoding="utf-8").replace("</script", "<\\/script")
    raise UnsupportedError(
        "`html_report` needs the script that comes with plotly, but plotly is not installed; run `pip install plotly`",
        slug="plotly-missing",
    )
