"""Hugging Face ``trainer_state.json``: its ``log_history`` holds one entry per logging step."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

from steadygrad.errors import RunError
from steadygrad.importing.log import FIELDS, Log, Row, find_names, join_rows, number, whole_step

FILE = "trainer_state.json"


def read_trainer_state(source: Path) -> Log:
    """Read a ``trainer_state.json``. Entries of an evaluation, and the summary at the end, are left out.

    Where the Trainer's ``logging_nan_inf_filter`` was on (its default), a NaN loss was logged as the mean of the others:
    what the log says of the loss is then too good; the gradient norm is not filtered.

    Args:
        source: the file, or a checkpoint's directory that holds it.

    Raises:
        RunError: it is no JSON, has no ``log_history``, or no entry with a loss or a gradient norm.
    """
    file = source / FILE if source.is_dir() else source
    try:
        state: Any = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise RunError(f"expected JSON in {file}, but it cannot be read ({error})", slug="log-unreadable") from error
    history = cast("dict[str, Any]", state).get("log_history") if isinstance(state, dict) else None
    if not isinstance(history, list):
        found = (
            ", ".join(map(repr, list(cast("dict[str, Any]", state))[:10])) if isinstance(state, dict) else type(state).__name__
        )
        raise RunError(f"expected a list `log_history` in {file}, found {found}", slug="log-format-unknown")
    entries = [cast("dict[str, Any]", each) for each in cast("list[Any]", history) if isinstance(each, dict)]
    if not entries:
        raise RunError(f"expected entries in the `log_history` of {file}, found none; nothing was logged", slug="log-empty")
    names = find_names(dict.fromkeys(key for entry in entries for key in entry), str(file))
    return join_rows(_rows(entries, names, str(file)), names, str(file))


def _rows(entries: list[dict[str, Any]], names: Mapping[str, str], source: str) -> Iterator[tuple[int, Row]]:
    for count, entry in enumerate(entries):
        where = f"{source}, entry {count}"
        values = {field: number(entry.get(name), where) for field, name in names.items()}
        step = whole_step(values["step"], where)
        if step is not None:
            yield step, {field: value for field, value in values.items() if value is not None and field in FIELDS}
