"""The files of a run: whole parts, their merging, ``run.json`` and ``events.jsonl``. Needs no torch.

A part is written under a temporary name and renamed, so a reader sees all of it or nothing, whenever the writer dies.
Small parts are merged as a log-structured store does it: :data:`FAN` neighbours of one level become one part of the next
level, so every row is rewritten a few times at most and a run of a week is a few dozen files. The merged part is on the
disk before those that it replaces are removed; where a crash leaves both, the wider range of rows counts.
"""

# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownParameterType=false
# (pyarrow ships no types)

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from steadygrad.schema import PART_GLOB, PART_NAME, Column
from steadygrad.store.arrow import Table, Values, all_null, concatenate, from_arrow, to_arrow, width_of
from steadygrad.store.files import remove

FAN = 32
"""How many neighbouring parts of one level are merged into one of the next."""
MAX_PART_BYTES = 64 * 2**20
"""Merged parts stay below this size."""
SETTLED = 99
"""The level of a part that is not merged any more."""

_RANGE = re.compile(r"part-(\d+)-(\d+)\.parquet")
_COMPRESSION = "zstd" if pa.Codec.is_available("zstd") else "snappy"


class Part(NamedTuple):
    """A Parquet file that holds the rows ``first`` to ``last``."""

    path: Path
    first: int
    last: int
    size: int
    level: int = 0


def list_parts(folder: Path) -> list[Part]:
    """The parts in a folder, by first row, the widest first; empty where the folder is not there."""
    parts: list[Part] = []
    for path in folder.glob(PART_GLOB):
        found = _RANGE.fullmatch(path.name)
        if found:
            parts.append(Part(path, int(found[1]), int(found[2]), 0))
    return sorted(parts, key=lambda part: (part.first, -part.last))


def write_part(folder: Path, columns: Sequence[Column], table: Mapping[str, Values], width: int, *, sync: bool = False) -> Part:
    """Write one part whole: under a temporary name first, then renamed.

    Args:
        folder: ``RUN/steps`` or ``RUN/checkups``; made where it is not there (but not ``RUN`` itself).
        columns: the table's columns.
        table: their values; the column ``row`` must be there, ascending.
        width: number of parameters of the run. Narrower per-tensor columns are padded with nulls; 0 leaves them out.
        sync: wait until the file is on the disk.

    Returns:
        The part.

    Raises:
        OSError: the file cannot be written; nothing is left behind.
    """
    rows = table["row"].data
    first, last = int(rows[0]), int(rows[-1])
    path = folder / PART_NAME.format(first=first, last=last)
    folder.mkdir(exist_ok=True)
    temporary = folder / f".{path.name}.tmp"
    try:
        pq.write_table(to_arrow(columns, table, width), temporary, compression=_COMPRESSION, use_dictionary=False)
        if sync:
            _sync(temporary)
        size = temporary.stat().st_size
        temporary.replace(path)
    finally:
        remove(temporary)
    return Part(path, first, last, size)


def read_part(path: Path, columns: Sequence[Column]) -> Table:
    """The columns of one part; a column that is not there, or holds nulls only, is left out.

    Raises:
        OSError: the file is not there or cannot be read.
        ValueError: it is no whole Parquet file (Arrow's ``ArrowInvalid``), or a column has the wrong type.
    """
    with pq.ParquetFile(path) as file:
        if "row" not in file.schema_arrow.names:
            raise ValueError("it has no column `row`")
        names = [c.name for c in columns if c.name in file.schema_arrow.names and not all_null(file, c.name)]
        arrow = file.read(columns=names, use_threads=True)
    kinds = {c.name: c for c in columns}
    return {name: from_arrow(arrow.column(name).combine_chunks(), kinds[name]) for name in names}


def read_parts(folder: Path, columns: Sequence[Column], width: int = 0) -> tuple[Table, int, list[str]]:
    """All rows of a folder of parts, also while somebody is writing there.

    Args:
        folder: ``RUN/steps`` or ``RUN/checkups``.
        columns: the table's columns.
        width: number of parameters that are known of; narrower columns are padded with nulls.

    Returns:
        The table, the number of parameters of its widest part or ``width``, and what had to be left out, in words.
    """
    for _ in range(5):
        try:
            return _read_listed(list_parts(folder), columns, width)
        except FileNotFoundError:
            continue  # the writer merged parts between our listing and our reading
    return {}, width, [f"{folder.name}: the parts changed faster than they could be read; try again"]


def _read_listed(parts: Iterable[Part], columns: Sequence[Column], width: int) -> tuple[Table, int, list[str]]:
    tables: list[Table] = []
    problems: list[str] = []
    covered = -1
    for part in parts:
        if part.last <= covered:
            continue  # superseded: a wider part holds these rows
        try:
            tables.append(read_part(part.path, columns))
        except FileNotFoundError:
            raise
        except (OSError, ValueError) as error:
            name = f"{part.path.parent.name}/{part.path.name}"
            problems.append(f"{name} is not a whole Parquet file; its rows are left out ({str(error).splitlines()[0]})")
        else:
            covered = part.last
    width = max([width, *(width_of(table, columns) for table in tables)])
    return concatenate(tables, columns, width), width, problems


class PartWriter:
    """Appends parts to one folder and merges small ones.

    Args:
        folder: ``RUN/steps`` or ``RUN/checkups``.
        columns: the table's columns.
    """

    def __init__(self, folder: Path, columns: Sequence[Column]) -> None:
        self.folder = folder
        self.columns = columns
        self.parts: list[Part] = []

    def append(self, table: Mapping[str, Values], width: int) -> None:
        """Write the rows as a part of their own."""
        self.parts.append(write_part(self.folder, self.columns, table, width))

    def merge(self, width: int) -> None:
        """Merge where :data:`FAN` neighbours of one level have come together."""
        level = 0
        while groups := [group for group in self._neighbours(level) if len(group) >= FAN]:
            for group in groups:
                self._merge(group, width, level + 1)
            level += 1

    def merge_all(self, width: int) -> None:
        """Merge whatever is small: what a finished run leaves behind."""
        for settled, group in groupby(list(self.parts), key=lambda part: part.level == SETTLED):
            if not settled:
                self._merge(list(group), width, SETTLED)

    def _neighbours(self, level: int) -> list[list[Part]]:
        """Groups of parts of one level with no other part between them: the range of a merged part must hold no other."""
        return [list(group) for key, group in groupby(self.parts, key=lambda part: part.level) if key == level]

    def _merge(self, parts: Sequence[Part], width: int, level: int) -> None:
        for chunk in _chunks(parts):
            # A part that cannot be read or written now is not tried again: many files are better than endless work.
            settled = SETTLED if level == SETTLED or _bytes(chunk) > MAX_PART_BYTES // 2 else level
            self._replace(chunk, [part._replace(level=SETTLED) for part in chunk])
            if len(chunk) > 1:
                table = concatenate([read_part(part.path, self.columns) for part in chunk], self.columns, width)
                merged = write_part(self.folder, self.columns, table, width, sync=True)
                self._replace([part._replace(level=SETTLED) for part in chunk], [merged._replace(level=settled)])
                for part in chunk:
                    part.path.unlink(missing_ok=True)

    def _replace(self, old: Sequence[Part], new: Sequence[Part]) -> None:
        at = self.parts.index(old[0])
        self.parts[at : at + len(old)] = new


def _chunks(parts: Sequence[Part]) -> list[list[Part]]:
    """Neighbours in groups of at most :data:`MAX_PART_BYTES`."""
    chunks: list[list[Part]] = []
    for part in parts:
        if chunks and _bytes(chunks[-1]) + part.size <= MAX_PART_BYTES:
            chunks[-1].append(part)
        else:
            chunks.append([part])
    return chunks


def _bytes(parts: Iterable[Part]) -> int:
    return sum(part.size for part in parts)


def _sync(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())
