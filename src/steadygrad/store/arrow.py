"""Between NumPy arrays with missing values and Arrow tables. Per-tensor columns are fixed-size lists."""

# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownParameterType=false
# (pyarrow ships no types)

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from steadygrad.schema import FORMAT, VERSION, Column


class Values(NamedTuple):
    """A column in memory: ``data`` of shape ``(r,)`` or ``(r, n)``; ``missing`` marks nulls, ``None``: there are none."""

    data: np.ndarray
    missing: np.ndarray | None = None


Table = dict[str, Values]


def concatenate(tables: Sequence[Table], columns: Sequence[Column], width: int) -> Table:
    """Tables one below the other; per-tensor columns are padded with nulls to ``width``."""
    result: Table = {}
    for column in columns:
        if any(column.name in table for table in tables):
            pieces = [_padded(table.get(column.name), len(table["row"].data), column, width) for table in tables]
            masks = [np.zeros(v.data.shape, bool) if v.missing is None else v.missing for v in pieces]
            some = any(v.missing is not None for v in pieces)
            result[column.name] = Values(np.concatenate([v.data for v in pieces]), np.concatenate(masks) if some else None)
    return result


def to_arrow(columns: Sequence[Column], table: Mapping[str, Values], width: int) -> Any:
    """An Arrow table of these values; a column that is not there is all null."""
    rows = len(table["row"].data)
    arrays: dict[str, Any] = {}
    for column in columns:
        if column.per_tensor and width == 0:
            continue
        values = _padded(table.get(column.name), rows, column, width)
        array = _array(values, column)
        arrays[column.name] = pa.FixedSizeListArray.from_arrays(array, width) if column.per_tensor else array
    return pa.table(arrays).replace_schema_metadata({"format": FORMAT, "version": str(VERSION)})


def from_arrow(array: Any, column: Column) -> Values:
    """The values of one Arrow column."""
    if not column.per_tensor:
        return _plain_values(array, column)
    width = getattr(array.type, "list_size", None)
    if width is None:
        raise ValueError(f"column `{column.name}` is {array.type}, not a fixed-size list")
    child = array.values.slice(array.offset * width, len(array) * width)
    data, missing = _plain_values(child, column)
    return Values(data.reshape(-1, width), None if missing is None else missing.reshape(-1, width))


def _plain_values(array: Any, column: Column) -> Values:
    """A flat Arrow array as NumPy arrays, from its buffers: ``to_numpy`` would import pandas."""
    if array.type != _arrow_type(column):
        array = array.cast(_arrow_type(column))
    bits, buffer = array.buffers()
    here = slice(array.offset, array.offset + len(array))
    data = _unpack(buffer, here) if column.kind == "bool" else np.frombuffer(buffer or b"", dtype=column.kind)[here]
    if array.null_count == 0:
        return Values(data)
    missing = ~_unpack(bits, here)
    return Values(np.where(missing, np.array(np.nan if data.dtype.kind == "f" else 0, data.dtype), data), missing)


def _unpack(buffer: Any, here: slice) -> np.ndarray:
    return np.unpackbits(np.frombuffer(buffer or b"", np.uint8), bitorder="little", count=here.stop)[here].astype(bool)


def _padded(values: Values | None, rows: int, column: Column, width: int) -> Values:
    """The values at full width; what is not there is null."""
    shape = (rows, width) if column.per_tensor else (rows,)
    if values is not None and values.data.shape == shape:
        return values
    data = np.full(shape, np.nan if column.kind.startswith("float") else 0, dtype=column.kind)
    missing = np.ones(shape, bool)
    if values is not None:
        data[:, : values.data.shape[1]] = values.data
        missing[:, : values.data.shape[1]] = False if values.missing is None else values.missing
    return Values(data, missing)


def _array(values: Values, column: Column) -> Any:
    """A flat Arrow array, from its buffers: ``pyarrow.array`` would import pandas into the process that trains."""
    data = np.ascontiguousarray(values.data, dtype=column.kind).ravel()
    size = len(data)
    bits = None if values.missing is None else pa.py_buffer(np.packbits(~values.missing.ravel(), bitorder="little"))
    if column.kind == "bool":
        data = np.packbits(data, bitorder="little")
    return pa.Array.from_buffers(_arrow_type(column), size, [bits, pa.py_buffer(data)])


def _arrow_type(column: Column) -> Any:
    return pa.bool_() if column.kind == "bool" else getattr(pa, column.kind)()


def width_of(table: Table, columns: Sequence[Column]) -> int:
    """The number of parameters that the table's per-tensor columns have room for."""
    return max((table[c.name].data.shape[1] for c in columns if c.per_tensor and c.name in table), default=0)


def all_null(file: Any, name: str) -> bool:
    """Whether the file's own statistics say that the column holds nothing: then reading it would be wasted."""
    meta = file.metadata
    for group in range(meta.num_row_groups):
        for index in range(meta.num_columns):
            column = meta.row_group(group).column(index)
            if column.path_in_schema.split(".")[0] == name:
                stats = column.statistics
                if stats is None or not stats.has_null_count or stats.null_count != column.num_values:
                    return False
    return True
