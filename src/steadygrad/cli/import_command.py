"""``steadygrad import``: make a run out of a log that exists already."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from steadygrad.cli.output import one_line_errors
from steadygrad.importing import import_log


def call(options: argparse.Namespace) -> int:
    """Import the log and say where the run is.

    Args:
        options: ``file``, ``to``, ``format``.
    """
    source = Path(options.file)
    target = Path(options.to) if options.to is not None else Path("runs", source.name.split(".")[0] or "imported")
    with one_line_errors():
        made = import_log(source, target, format=options.format)
    print(f"steadygrad: wrote {made}  (more: steadygrad report {made})", file=sys.stderr)
    return 0
