"""TensorBoard event files, read with TensorBoard's own reader (the extra ``tensorboard``)."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from steadygrad.errors import RunError
from steadygrad.importing.log import Log, Row, find_names, join_rows

PATTERN = "*tfevents*"


def read_tensorboard(source: Path) -> Log:
    """Read the scalars of an event file, or of a directory of them; one row for every step that any of them has.

    Args:
        source: the file or the directory.

    Raises:
        RunError: TensorBoard is not installed (``extra-missing``), or there is neither loss nor gradient norm.
    """
    try:
        reader: Any = importlib.import_module("tensorboard.backend.event_processing.event_accumulator")
    except ImportError as error:
        text = f"expected the package `tensorboard`, to read {source}; install it with `pip install 'steadygrad[tensorboard]'`"
        raise RunError(text, slug="extra-missing") from error
    events: Any = reader.EventAccumulator(str(source), size_guidance={reader.SCALARS: 0, reader.TENSORS: 0})
    events.Reload()
    names = find_names(_scalar_tags(events, reader), str(source), need_step=False)
    rows: dict[int, Row] = {}
    start = None
    for field, tag in names.items():
        for step, wall_time, value in _points(events, reader, tag):
            start = wall_time if start is None else min(start, wall_time)
            rows.setdefault(step, {"time": wall_time})[field] = (
                value  # a step that is there twice was done again: the last counts
            )
    for row in rows.values():
        row["time"] -= start or 0.0
    return join_rows(sorted(rows.items()), names, str(source))


def _scalar_tags(events: Any, reader: Any) -> list[str]:
    """Tags of scalars, and of tensors that hold one number (as TensorFlow 2 writes scalars)."""
    tags = events.Tags()
    return [*tags[reader.SCALARS], *tags[reader.TENSORS]]


def _points(events: Any, reader: Any, tag: str) -> list[tuple[int, float, float]]:
    if tag in events.Tags()[reader.SCALARS]:
        return [(each.step, each.wall_time, float(each.value)) for each in events.Scalars(tag)]
    convert: Any = importlib.import_module("tensorboard.util.tensor_util")
    points: list[tuple[int, float, float]] = []
    for each in events.Tensors(tag):
        value: Any = convert.make_ndarray(each.tensor_proto)
        if value.size == 1:
            points.append((each.step, each.wall_time, float(value.reshape(()))))
    return points
