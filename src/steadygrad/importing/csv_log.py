"""CSV logs, also compressed: one header line, then a row per step. Comma, semicolon or tab."""

from __future__ import annotations

import csv
import gzip
from collections.abc import Iterator, Mapping
from pathlib import Path

from steadygrad.errors import RunError
from steadygrad.importing.log import FIELDS, Log, Row, find_names, join_rows, number, whole_step

_GZIP_MAGIC = b"\x1f\x8b"


def read_csv(source: Path) -> Log:
    """Read a CSV log.

    Args:
        source: the file, plain or gzip-compressed.

    Raises:
        RunError: it is empty, no text, or has no step, or neither loss nor gradient norm.
    """
    lines = _lines(source)
    if not lines:
        raise RunError(f"expected a header and rows in {source}, but the file is empty", slug="log-empty")
    delimiter = max(",;\t", key=lines[0].count)
    # Spaces separate as well where nothing else does, as in what `numpy.savetxt` writes.
    table = csv.reader(lines, delimiter=delimiter if delimiter in lines[0] else " ", skipinitialspace=True)
    header = [each for each in next(table) if each != "#"]
    names = find_names(header, str(source))
    return join_rows(_rows(table, header, names, source), names, str(source))


def _lines(source: Path) -> list[str]:
    data = source.read_bytes()
    try:
        if data.startswith(_GZIP_MAGIC):
            data = gzip.decompress(data)
        text = data.decode("utf-8-sig")
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise RunError(f"expected text in {source}, but it cannot be read ({error})", slug="log-unreadable") from error
    return [line for line in text.replace("\0", "").splitlines() if line.strip()]


def _rows(table: Iterator[list[str]], header: list[str], names: Mapping[str, str], source: Path) -> Iterator[tuple[int, Row]]:
    places = {field: header.index(name) for field, name in names.items()}
    for count, cells in enumerate(table, 2):
        if cells == header:
            continue  # a log that was appended to begins again with its header
        where = f"{source}, row {count}"
        values = {field: number(cells[at] if at < len(cells) else None, where) for field, at in places.items()}
        step = whole_step(values["step"], where)
        if step is not None:
            yield step, {field: value for field, value in values.items() if value is not None and field in FIELDS}
