"""What may be typed: every command, option and help text."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any, NoReturn

from steadygrad import __version__

_EXAMPLES = """examples:
  steadygrad run train.py --lr 0.1                look on while train.py trains; change nothing
  steadygrad run --policy "clip_by_global_norm(1.0)" train.py
  steadygrad report runs/train-20260101-120000    what happened, as text
  steadygrad report runs/a runs/b --html both.html
  steadygrad import trainer_state.json            make a run out of a log that exists already

Every command explains itself: steadygrad COMMAND --help
"""

_RUN = """Runs SCRIPT as `python SCRIPT ARGS...` would, unmodified, and records the gradients of every training step.

Without --policy, training is only watched: its results are bit for bit the same. The exit code is the script's own.
Options for steadygrad come before SCRIPT; everything after SCRIPT belongs to the script. Messages go to stderr.
"""

_RUN_EXAMPLES = """examples:
  steadygrad run train.py --lr 0.1
  steadygrad run --policy "clip_by_global_norm(1.0)" train.py
  steadygrad run --policy "chain(skip_nonfinite(), clip_by_norm(0.5))" --record runs/a train.py
  steadygrad run -m mypackage.train --epochs 3

`steadygrad policies` lists what --policy understands.
"""

_VALUE_OPTIONS = ("--policy", "--record")
LOG_FORMATS = ("csv", "tensorboard", "trainer_state")


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line, without the usage."""

    def error(self, message: str) -> NoReturn:
        """Print the error and exit with code 2."""
        hint = "" if message.endswith("--help`") else f"; see `{self.prog} --help`"
        self.exit(2, f"steadygrad: error: {message}{hint}\n")


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The options of one command line.

    The namespace also has ``args``, what belongs to the script of ``run``, and ``argv``, the whole line.

    Example:
        >>> options = parse(["run", "--policy", "skip_nonfinite", "train.py", "--policy", "its own"])
        >>> options.policy, options.script, options.args
        ('skip_nonfinite', 'train.py', ['--policy', 'its own'])
    """
    line, args = list(argv), list[str]()
    if line[:1] == ["run"]:
        line, args = _split_run(line)
    parser = build_parser()
    options = parser.parse_args(line)
    if options.command == "run" and options.module is None and options.script is None:
        parser.error("`run` expects a SCRIPT, or -m and a MODULE, and came to the end of the line; see `steadygrad run --help`")
    options.args = args
    options.argv = list(argv)
    return options


def _split_run(line: Sequence[str]) -> tuple[list[str], list[str]]:
    """Our part of ``run ...`` and the script's arguments, which argparse must not look at.

    Our part ends with the script's name, or with the name after ``-m``.
    """
    i = 1
    while i < len(line):
        word = line[i]
        if word == "-m" or word in _VALUE_OPTIONS:
            i += 1
        if (word.startswith("-m") or not word.startswith("-") or word == "-") and i < len(line):
            return list(line[: i + 1]), list(line[i + 1 :])
        i += 1
    return list(line), []


def build_parser() -> Parser:
    """The parser of all commands."""
    parser = Parser(
        prog="steadygrad",
        description="Keeps neural-network training stable: watches a training script, says what went wrong, protects it.",
        epilog=_EXAMPLES,
        **_STYLE,
    )
    parser.add_argument("--version", action="version", version=f"steadygrad {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True, parser_class=Parser)
    _add_run(commands)
    _add_report(commands)
    _add_diagnose(commands)
    _add_import(commands)
    commands.add_parser(
        "policies",
        help="list what --policy understands",
        description="Lists the policies that `steadygrad run --policy` understands, with their arguments.",
        **_STYLE,
    )
    return parser


_STYLE: dict[str, Any] = {"formatter_class": argparse.RawDescriptionHelpFormatter, "allow_abbrev": False}


def _add_run(commands: Any) -> None:
    run = commands.add_parser(
        "run",
        help="run a training script, watched or protected",
        usage="%(prog)s [--policy TEXT] [--record DIR] SCRIPT [ARGS...]\n       %(prog)s [options] -m MODULE [ARGS...]",
        description=_RUN,
        epilog=_RUN_EXAMPLES,
        **_STYLE,
    )
    run.add_argument("--policy", metavar="TEXT", help="protect the training: what to do with the gradients before each step")
    run.add_argument("--record", metavar="DIR", help="directory of the new run (default: runs/SCRIPT-DATE-TIME)")
    run.add_argument("-m", metavar="MODULE", dest="module", help="run a module, as `python -m MODULE` does")
    run.add_argument("script", metavar="SCRIPT", nargs="?", help="the script; a folder or zip file with a __main__.py will do")


def _add_report(commands: Any) -> None:
    report = commands.add_parser(
        "report",
        help="say what happened in one or several runs",
        description="Says what happened in one or several runs: verdict, reasons, what to do next. Text, unless told otherwise.",
        epilog="examples:\n  steadygrad report runs/a\n  steadygrad report runs/a runs/b --html both.html\n"
        "  steadygrad report runs/a --json | jq .\n",
        **_STYLE,
    )
    report.add_argument("runs", metavar="RUN", nargs="+", help="directory of a run")
    report.add_argument("--html", metavar="FILE", help="write one self-contained page that works offline")
    report.add_argument(
        "--json", metavar="FILE", nargs="?", const="-", help="write JSON to FILE, or to stdout without FILE (then put it last)"
    )


def _add_diagnose(commands: Any) -> None:
    diagnose = commands.add_parser(
        "diagnose",
        help="list the findings in a run",
        description="Lists what is wrong in a run: where, since when, the evidence, the likely cause, and remedies.",
        epilog="example:\n  steadygrad diagnose runs/a\n",
        **_STYLE,
    )
    diagnose.add_argument("run", metavar="RUN", help="directory of a run")
    diagnose.add_argument("--json", action="store_true", help="as JSON")


def _add_import(commands: Any) -> None:
    importer = commands.add_parser(
        "import",
        help="make a run out of a log that exists already",
        description="Makes a run out of a log: CSV (also .gz) with step, loss and gradient norm; TensorBoard event files; the\n"
        "trainer_state.json of Hugging Face. Then `report` and `diagnose` work on it.",
        epilog="examples:\n  steadygrad import log.csv --to runs/from-csv\n  steadygrad import out/trainer_state.json\n",
        **_STYLE,
    )
    importer.add_argument("file", metavar="FILE", help="the log")
    importer.add_argument("--to", metavar="DIR", help="directory of the new run (default: runs/NAME-OF-FILE)")
    importer.add_argument("--format", choices=LOG_FORMATS, help="kind of log (default: found out from the file)")
