"""``steadygrad run``: check everything that was typed, then hand over to :mod:`steadygrad.launch`."""

from __future__ import annotations

import argparse
from importlib import import_module
from pathlib import Path

from steadygrad.cli.output import one_line_errors
from steadygrad.launch import run_watched
from steadygrad.place import Place
from steadygrad.program import Program


def call(options: argparse.Namespace) -> int:
    """Run the script or module; its own exceptions go through.

    Args:
        options: ``script`` or ``module``, ``args``, ``policy``, ``record``, ``argv``.
    """
    with one_line_errors():
        policy = None
        if options.policy is not None:
            # Loaded only for a policy: it loads NumPy, whose libraries read the environment before the script could set it.
            policy = import_module("steadygrad.policies").parse_policy(options.policy)
        if options.module is not None:
            program = Program.from_module(options.module, options.args)
        else:
            program = Program.from_script(options.script, options.args)
        place = Place.reserve_new(program.label) if options.record is None else Place.reserve(Path(options.record))
    return run_watched(program, record=place, policy=policy, command=["steadygrad", *options.argv])
