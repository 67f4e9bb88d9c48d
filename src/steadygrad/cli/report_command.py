"""``steadygrad report``: what happened in one or several runs."""

from __future__ import annotations

import argparse

from steadygrad.cli.output import as_json, one_line_errors, show, takes_unicode, width, write_file
from steadygrad.report import html_report, json_report, text_report
from steadygrad.runs import load_run


def call(options: argparse.Namespace) -> int:
    """Write the report in the forms that were asked for; as text on stdout if none was.

    Args:
        options: ``runs``, ``html``, ``json``.
    """
    with one_line_errors():
        runs = [load_run(path) for path in options.runs]
        if options.html is not None:
            write_file(options.html, html_report(runs), option="--html")
        if options.json == "-":
            show(as_json(json_report(runs)))
        elif options.json is not None:
            write_file(options.json, as_json(json_report(runs)) + "\n", option="--json")
        if options.html is None and options.json is None:
            show(text_report(runs, width=width(), unicode=takes_unicode()))
    return 0
