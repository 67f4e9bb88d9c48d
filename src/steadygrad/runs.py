"""Reading a recorded run: columns as NumPy arrays. Needs no torch."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np

from steadygrad.errors import RunError
from steadygrad.readings import Layout
from steadygrad.schema import (
    CHECKUPS,
    CHECKUPS_DIR,
    EVENTS_FILE,
    RUN_FILE,
    STEPS,
    STEPS_DIR,
    VERSION,
    Column,
)
from steadygrad.store import Table, Values, read_parts


@dataclass(frozen=True, eq=False)
class Checkups:
    """The sampled readings of a run: ``m`` rows, ``n`` parameters; NaN where a value was not read."""

    row: np.ndarray
    step: np.ndarray
    optimizer: np.ndarray
    abs_max: np.ndarray
    param_norm: np.ndarray
    update_ratio: np.ndarray


@dataclass(frozen=True, eq=False)
class Run:
    """A recorded run; ``r`` rows (optimizer steps), ``n`` parameters. Columns are described in :mod:`steadygrad.schema`.

    Attributes:
        path: where it was read from.
        meta: the content of ``run.json``.
        layout: names, groups and shapes of the parameters, in the order of the per-tensor columns.
        row, step, optimizer, time, loss, total_norm, total_norm_after, coefficient, skipped, reason, lr, threshold:
            shape ``(r,)``.
        grad_norm: float32 ``(r, n)``: 2-norm of each gradient before anything was done to it; NaN also where there was none.
        present: bool ``(r, n)``: whether the parameter had a gradient in that row.
        scale: float32 ``(r, n)`` factor applied to each tensor, or ``None`` where one factor (``coefficient``) served all.
        checkups: the sampled readings.
        events: the lines of ``events.jsonl``.
        problems: what the reader had to leave out, in words (a truncated part, an unreadable line); empty for a whole run.
        missing: for columns that are unknown in some rows, bool ``(r,)``: where; see :meth:`recorded`.
    """

    path: Path
    meta: dict[str, Any]
    layout: Layout
    row: np.ndarray
    step: np.ndarray
    optimizer: np.ndarray
    time: np.ndarray
    loss: np.ndarray
    total_norm: np.ndarray
    total_norm_after: np.ndarray
    coefficient: np.ndarray
    skipped: np.ndarray
    reason: np.ndarray
    lr: np.ndarray
    threshold: np.ndarray
    grad_norm: np.ndarray
    present: np.ndarray
    scale: np.ndarray | None
    checkups: Checkups
    events: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    problems: tuple[str, ...] = ()
    missing: dict[str, np.ndarray] = field(default_factory=dict[str, np.ndarray])

    def __len__(self) -> int:
        return len(self.row)

    @property
    def names(self) -> tuple[str, ...]:
        """The parameters' names."""
        return self.layout.names

    def recorded(self, column: str) -> np.ndarray:
        """Shape ``(r,)``: where the column holds a value at all. A NaN there is a value that was NaN; elsewhere it is unknown.

        Args:
            column: name of a column with one value a row, such as ``"loss"`` or ``"total_norm"``.
        """
        missing = self.missing.get(column)
        return np.ones(len(self), bool) if missing is None else ~missing


def load_run(path: str | os.PathLike[str]) -> Run:
    """Read a run: a finished one, one that is still being written, or what a crash has left of one.

    Args:
        path: the run's directory, or a directory that holds exactly one run.

    Returns:
        The run; ``problems`` says what had to be left out.

    Raises:
        RunError: there is nothing (``run-missing``), no run (``run-unrecognised``), more than one (``run-ambiguous``);
            ``run.json`` cannot be read (``run-corrupt``); or the run was written by a newer version (``run-future-schema``).

    Example:
        >>> load_run("no/such/run")
        Traceback (most recent call last):
            ...
        steadygrad.errors.RunError: expected the directory of a run, but no/such/run does not exist; check the path [run-missing]
    """
    folder = _find(Path(path))
    meta = _read_meta(folder)
    steps, width, problems = read_parts(folder / STEPS_DIR, STEPS, len(meta["parameters"]))
    samples, _, more = read_parts(folder / CHECKUPS_DIR, CHECKUPS, width)
    if width > len(meta["parameters"]):  # parameters were added between the two readings
        meta = _read_meta(folder)
    events, bad_lines = _read_events(folder / EVENTS_FILE)
    meta, steps, samples = _upgraded(folder, meta, steps, samples)
    return _assemble(folder, meta, steps, samples, events, [*problems, *more, *bad_lines])


def list_runs(folder: str | os.PathLike[str]) -> list[Path]:
    """The runs directly in a folder, by name; the folder itself where it is a run.

    Args:
        folder: where to look; one that does not exist holds no runs.
    """
    folder = Path(folder)
    if (folder / RUN_FILE).is_file():
        return [folder]
    return sorted(found.parent for found in folder.glob(f"*/{RUN_FILE}"))


Upgrade = Callable[[dict[str, Any], Table, Table], tuple[dict[str, Any], Table, Table]]
UPGRADES: dict[int, Upgrade] = {}
"""For each older version, what turns its ``run.json``, steps and check-ups into those of the next version."""


def _find(path: Path) -> Path:
    if not path.exists():
        raise RunError(f"expected the directory of a run, but {path} does not exist; check the path", slug="run-missing")
    folder = path.parent if path.name == RUN_FILE else path
    runs = list_runs(folder) if folder.is_dir() else []
    if len(runs) > 1:
        names = ", ".join(run.name for run in runs[:5]) + (" ..." if len(runs) > 5 else "")
        raise RunError(f"expected one run, but {path} holds {len(runs)}: {names}; name one of them", slug="run-ambiguous")
    if not runs:
        raise RunError(f"expected the directory of a run, but {path} has no {RUN_FILE}; check the path", slug="run-unrecognised")
    return runs[0]


def _read_meta(folder: Path) -> dict[str, Any]:
    file = folder / RUN_FILE
    try:
        meta: Any = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(
            f"expected JSON in {file}, but it cannot be read ({error}); the run is damaged", slug="run-corrupt"
        ) from error
    version: Any = None
    if isinstance(meta, dict):
        schema = cast("dict[str, Any]", meta).get("schema")
        version = cast("dict[str, Any]", schema).get("version") if isinstance(schema, dict) else None
    if not isinstance(version, int):
        raise RunError(f"expected `schema` with a `version` in {file}, but there is none; the run is damaged", slug="run-corrupt")
    if version > VERSION:
        text = f"expected a run of schema version {VERSION} or older, but {folder} has version {version}; update steadygrad"
        raise RunError(text, slug="run-future-schema")
    return {"parameters": [], "optimizers": [], "argv": [], "policy": "", "status": "running", **meta}


def _upgraded(folder: Path, meta: dict[str, Any], steps: Table, samples: Table) -> tuple[dict[str, Any], Table, Table]:
    for version in range(meta["schema"]["version"], VERSION):
        if version not in UPGRADES:
            text = f"expected a run of schema version 1 to {VERSION}, but {folder} has version {version}; the run is damaged"
            raise RunError(text, slug="run-corrupt")
        meta, steps, samples = UPGRADES[version](meta, steps, samples)
    return meta, steps, samples


def _read_events(file: Path) -> tuple[list[dict[str, Any]], list[str]]:
    events: list[dict[str, Any]] = []
    problems: list[str] = []
    text = file.read_text(encoding="utf-8", errors="replace") if file.is_file() else ""
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                event = json.loads(line)
            except ValueError:
                event = None
            if isinstance(event, dict):
                events.append(cast("dict[str, Any]", event))
            else:
                problems.append(f"{file.name}, line {number} cannot be read; it is left out")
    return events, problems


def _assemble(
    folder: Path, meta: dict[str, Any], steps: Table, samples: Table, events: list[dict[str, Any]], problems: list[str]
) -> Run:
    norms = steps.get("grad_norm")
    layout = _layout(meta["parameters"], 0 if norms is None else norms.data.shape[1], problems)
    size = (len(steps["row"].data) if steps else 0, len(layout))
    sample_size = (len(samples["row"].data) if samples else 0, len(layout))
    columns = {column.name: _column(steps, column, size) for column in STEPS if column.name != "scale"}
    columns["scale"] = steps["scale"].data if "scale" in steps else None
    missing = {c.name: steps[c.name].missing for c in STEPS if c.name in steps and not c.per_tensor}
    missing |= {c.name: np.ones(size[0], bool) for c in STEPS if c.name not in steps and not c.per_tensor}
    return Run(
        path=folder,
        meta=meta,
        layout=layout,
        present=_present(norms, size),
        checkups=Checkups(**{column.name: _column(samples, column, sample_size) for column in CHECKUPS}),
        events=events,
        problems=tuple(problems),
        missing={name: mask for name, mask in missing.items() if mask is not None},
        **columns,
    )


def _column(table: Table, column: Column, size: tuple[int, int]) -> Any:
    """The column's values; what is not there reads as NaN, or as 0 where the column holds integers."""
    if column.name in table:
        return table[column.name].data
    nothing = np.nan if column.kind.startswith("float") else 0
    return np.full(size if column.per_tensor else size[0], nothing, dtype=column.kind)


def _present(norms: Values | None, size: tuple[int, int]) -> np.ndarray:
    if norms is None:
        return np.zeros(size, bool)
    return np.ones(size, bool) if norms.missing is None else ~norms.missing


def _layout(parameters: Sequence[dict[str, Any]], width: int, problems: list[str]) -> Layout:
    if width > len(parameters):
        problems.append(f"{RUN_FILE} names {len(parameters)} parameters, but the parts hold {width}; the others are numbered")
        unnamed: list[dict[str, Any]] = [{"name": f"parameter {i}"} for i in range(len(parameters), width)]
        parameters = [*parameters, *unnamed]
    known = all(each.get("shape") is not None for each in parameters)
    return Layout(
        tuple(each["name"] for each in parameters),
        tuple(each.get("group", 0) for each in parameters),
        tuple(tuple(each["shape"]) for each in parameters) if known else (),
        tuple(each.get("dtype") or "" for each in parameters),
    )
