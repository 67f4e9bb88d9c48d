"""``run.json`` and ``events.jsonl``: JSON that is whole or not there, and lines that are appended."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import numpy as np


def write_json(path: Path, data: Mapping[str, Any]) -> None:
    """Write a JSON file whole, or leave the old one as it is.

    Raises:
        OSError: the file cannot be written.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        temporary.write_text(json.dumps(plain(data), indent=1, allow_nan=False) + "\n", encoding="utf-8")
        temporary.replace(path)
    finally:
        remove(temporary)


def append_lines(path: Path, objects: Iterable[Mapping[str, Any]]) -> None:
    """Append JSON objects to a file, one a line.

    Raises:
        OSError: the file cannot be written.
    """
    text = "".join(json.dumps(plain(each), allow_nan=False) + "\n" for each in objects)
    # In one call and without a buffer, so that a crash cuts the last line at most.
    with path.open("ab", buffering=0) as file:
        file.write(text.encode())


def plain(value: Any) -> Any:
    """The value in JSON's own types. Numbers that JSON has no word for become the text ``"NaN"`` or ``"Infinity"``.

    Example:
        >>> plain({"norm": float("inf"), "names": ("a", "b")})
        {'norm': 'Infinity', 'names': ['a', 'b']}
    """
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, float):
        if np.isfinite(value):
            return float(value)
        return "NaN" if np.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, Mapping):
        return {str(key): plain(each) for key, each in cast(Mapping[Any, Any], value).items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(each) for each in cast(Iterable[Any], value)]
    if hasattr(value, "detach"):  # a tensor
        value = value.detach().cpu()
    return plain(value.tolist()) if hasattr(value, "tolist") else str(value)


def remove(path: Path) -> None:
    """Remove a temporary file."""
    with suppress(OSError):  # a left-over temporary file has a name that no reader looks at
        path.unlink(missing_ok=True)
