"""The command line: parsing only. Each command is one file here and calls one function of another room.

A command's file is loaded when it is asked for, so that ``steadygrad --help`` loads no NumPy and only ``run`` may load torch.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module

from steadygrad.cli.parser import parse

CLOSED_PIPE = 128 + 13
"""What a shell reports for a program that SIGPIPE has ended, as in ``steadygrad report RUN | head -3``."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: the arguments after the program's name; those of this process if ``None``.

    Returns:
        The exit code: 0, or that of the script under ``run``. Bad input ends with ``SystemExit(2)`` and one line on stderr.

    Example:
        >>> main(["policies"])  # doctest: +ELLIPSIS
        acclip(...
    """
    options = parse(sys.argv[1:] if argv is None else argv)
    command = import_module(f"steadygrad.cli.{options.command.replace('-', '_')}_command")
    if options.command == "run":
        return command.call(options)  # a broken pipe in there is the script's own business
    try:
        code: int = command.call(options)
        sys.stdout.flush()
    except BrokenPipeError:
        # The interpreter flushes stdout once more when it ends; let that go nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return CLOSED_PIPE
    return code
