"""What every format is read into: rows with a step and what is known of loss, gradient norm, learning rate and time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from steadygrad.errors import RunError
from steadygrad.store import Table, Values

STEP = ("step", "global_step", "iteration", "iter", "iterations", "steps", "num_updates", "update", "batch", "epoch")
FIELDS = {
    "loss": (
        "loss",
        "train_loss",
        "train/loss",
        "loss/train",
        "training_loss",
        "train_loss_step",
        "loss_step",
        "lm_loss",
        "total_loss",
    ),
    "total_norm": (
        *("grad_norm", "gradient_norm", "global_grad_norm", "global_gradient_norm", "total_norm", "total_grad_norm"),
        *("grad_norm_total", "grad_2/0_norm_total", "gnorm"),
    ),
    "lr": ("lr", "learning_rate"),
}
"""Our column, and what logs call it, the most telling name first."""

_HELD_OUT = {"val", "valid", "validation", "eval", "evaluation", "test", "dev"}
_UNKNOWN = {"", "none", "null", "na", "n/a", "-"}

Row = dict[str, float]


@dataclass(frozen=True, eq=False)
class Log:
    """A log as it was read.

    Attributes:
        steps: the step of each row.
        rows: what is known in each row, by our column's name; a NaN is a NaN that was logged.
        names: our column's name to the log's.
    """

    steps: Sequence[int]
    rows: Sequence[Row]
    names: Mapping[str, str]

    def table(self) -> Table:
        """The columns of ``steps``."""
        count = len(self.steps)
        table: Table = {
            "row": Values(np.arange(count, dtype=np.int64)),
            "step": Values(np.array(self.steps, np.int64)),
            "optimizer": Values(np.zeros(count, np.int16)),
            "skipped": Values(np.zeros(count, bool)),
            "reason": Values(np.zeros(count, np.int16)),
        }
        for name in ("time", *FIELDS):
            values = np.array([row.get(name, np.nan) for row in self.rows], np.float64)
            table[name] = Values(values, np.array([name not in row for row in self.rows], bool))
        return table


def find_names(found: Iterable[str], source: str, *, need_step: bool = True) -> dict[str, str]:
    """Which of the names that a log uses stand for what.

    Args:
        found: the names in the log.
        source: the log, for messages.
        need_step: whether one of the names must be the step's.

    Raises:
        RunError: no step (``log-no-step``), or neither loss nor gradient norm (``log-no-values``).

    Example:
        >>> find_names(["Step", "run a - train/loss", "val/loss"], "log.csv")
        {'step': 'Step', 'loss': 'run a - train/loss'}
    """
    found = list(found)
    listed = ", ".join(repr(each) for each in found[:20]) + (", ..." if len(found) > 20 else "") or "nothing"
    names: dict[str, str] = {}
    wanted = {"step": STEP, **FIELDS} if need_step else FIELDS
    for field, aliases in wanted.items():
        name = _find(found, aliases)
        if name is not None:
            names[field] = name
    if need_step and "step" not in names:
        text = f"expected a step column in {source} (one of {', '.join(STEP)}), found {listed[:500]}; rename one"
        raise RunError(text, slug="log-no-step")
    if not {"loss", "total_norm"} & set(names):
        text = f"expected a loss or a gradient norm in {source} (loss, train/loss, grad_norm), found {listed[:500]}; rename one"
        raise RunError(text, slug="log-no-values")
    return names


def number(value: Any, where: str) -> float | None:
    """A logged value as a number; ``None`` where nothing was logged.

    Args:
        value: a number, or text such as ``"0.5"``, ``"nan"``, ``"-Infinity"`` or ``""``.
        where: place in the log, for the message.

    Raises:
        RunError: it is something else (``log-bad-value``).

    Example:
        >>> number("nan", "line 3"), number("", "line 4"), number("1e3", "line 5")
        (nan, None, 1000.0)
    """
    if value is None or (isinstance(value, str) and value.strip().lower() in _UNKNOWN):
        return None
    try:
        return float(value)
    except (TypeError, ValueError):
        raise RunError(f"expected a number in {where}, got {value!r}; correct or remove it", slug="log-bad-value") from None


def whole_step(value: float | None, where: str) -> int | None:
    """A step as an integer; ``None`` where there is none.

    Raises:
        RunError: it is no whole number (``log-bad-value``).
    """
    if value is None:
        return None
    if not float(value).is_integer():
        raise RunError(f"expected a whole number of steps in {where}, got {value!r}; correct or remove it", slug="log-bad-value")
    return int(value)


def join_rows(rows: Iterable[tuple[int, Row]], names: Mapping[str, str], source: str) -> Log:
    """The log of these rows. Neighbours of one step that know different things are one row; rows that know nothing are left out.

    Raises:
        RunError: no row is left (``log-empty``).
    """
    steps: list[int] = []
    joined: list[Row] = []
    for step, row in rows:
        if not row.keys() & FIELDS.keys():
            continue
        if steps and steps[-1] == step and not joined[-1].keys() & row.keys():
            joined[-1] |= row
        else:
            steps.append(step)
            joined.append(dict(row))
    if not steps:
        raise RunError(
            f"expected rows with a loss or a gradient norm in {source}, found none; the log is empty", slug="log-empty"
        )
    return Log(steps, joined, names)


def _find(found: Sequence[str], aliases: Sequence[str]) -> str | None:
    """The name that fits best: an alias as it stands, else one as the last part of a path that is not about held-out data."""
    spelled = {_spell(each): each for each in reversed(found)}
    for alias in aliases:
        if alias in spelled:
            return spelled[alias]
    for alias in aliases:
        for name, original in reversed(spelled.items()):
            if name.endswith("/" + alias) and not _HELD_OUT & set(name.split("/")):
                return original
    return None


def _spell(name: str) -> str:
    """A name in one spelling: ``"Run A - Train.Grad Norm"`` (as dashboards export it) is ``"train/grad_norm"``."""
    last = name.strip().lstrip("#").split(" - ")[-1].strip().lower()
    return last.replace(" ", "_").replace("-", "_").replace(".", "/")
