"""How a command speaks: results on stdout or in a file, errors as one line on stderr."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from steadygrad.errors import RunError, SteadygradError

BAD_INPUT = 2
"""Exit code where what was asked for cannot be done; nothing was changed."""


@contextmanager
def one_line_errors() -> Generator[None, None, None]:
    """Turn an error that steadygrad raised on purpose into one line on stderr and exit code 2.

    Raises:
        SystemExit: with code 2, in place of a :class:`SteadygradError`.
    """
    try:
        yield
    except SteadygradError as error:
        print(f"steadygrad: error: {' '.join(str(error).split())}", file=sys.stderr)
        raise SystemExit(BAD_INPUT) from None


def show(text: str) -> None:
    """Print on stdout; what its encoding lacks is replaced rather than an error."""
    encoding = sys.stdout.encoding or "utf-8"
    print(text.encode(encoding, "replace").decode(encoding).rstrip("\n"))


def width() -> int:
    """Columns of the terminal, within 40 to 120; 80 where stdout is no terminal (the variable ``COLUMNS`` counts)."""
    return min(max(shutil.get_terminal_size((80, 24)).columns, 40), 120)


def takes_unicode() -> bool:
    """Whether stdout can show more than ASCII."""
    try:
        "─█".encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        return False
    return True


def as_json(value: Any) -> str:
    """Strict JSON: a NaN or Inf that slipped through is an error rather than text that other readers refuse."""
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)


def write_file(path: str, text: str, *, option: str) -> None:
    """Write a file whole or not at all: under a temporary name beside it, then renamed.

    Args:
        path: the file; its directory must exist. A pipe or device is written to directly.
        text: its content.
        option: the option that asked for it, for the error.

    Raises:
        RunError: the file cannot be written (slug ``output-unwritable``).
    """
    target = Path(path)
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        if target.exists() and not target.is_file() and not target.is_dir():
            target.write_text(text, encoding="utf-8")
            return
        try:
            part.write_text(text, encoding="utf-8")
            part.replace(target)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise RunError(
            f"`{option}` expects a file in a directory that exists and can be written to, but {path!r} cannot be written "
            f"({error.strerror}); make its directory first or choose another file",
            slug="output-unwritable",
        ) from None
    print(f"steadygrad: wrote {path}", file=sys.stderr)
