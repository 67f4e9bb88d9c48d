"""``steadygrad policies``: what ``--policy`` understands."""

from __future__ import annotations

import argparse
import inspect
from collections.abc import Callable
from typing import Any

from steadygrad.cli.output import show
from steadygrad.policies import POLICIES


def call(options: argparse.Namespace) -> int:
    """Print every policy with its arguments and one line on what it does.

    Args:
        options: nothing is asked for.
    """
    del options
    show("\n".join(f"{name}{_arguments(make)}\n    {_summary(make)}" for name, make in sorted(POLICIES.items())))
    return 0


def _arguments(make: Callable[..., Any]) -> str:
    """The arguments without their types, which are for programmers."""
    parameters = inspect.signature(make).parameters.values()
    return str(inspect.Signature([p.replace(annotation=inspect.Parameter.empty) for p in parameters]))


def _summary(make: Callable[..., Any]) -> str:
    return (inspect.getdoc(make) or "").split("\n\n")[0].replace("\n", " ")
