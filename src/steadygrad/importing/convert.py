"""From a log to a run on the disk. The directory is only made once the whole log was understood."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from steadygrad.errors import ArgumentError, RunError
from steadygrad.importing.csv_log import read_csv
from steadygrad.importing.log import Log
from steadygrad.importing.tensorboard import PATTERN, read_tensorboard
from steadygrad.importing.trainer_state import FILE, read_trainer_state
from steadygrad.record import create_run, new_meta
from steadygrad.schema import RUN_FILE, STEPS, STEPS_DIR
from steadygrad.store import write_part

FORMATS: dict[str, Callable[[Path], Log]] = {
    "csv": read_csv,
    "tensorboard": read_tensorboard,
    "trainer_state": read_trainer_state,
}
"""The formats that can be read."""


def import_log(source: str | os.PathLike[str], target: str | os.PathLike[str], *, format: str | None = None) -> Path:
    r"""Turn a log that somebody already has into a run: loss, gradient norm and learning rate over steps, no parameters.

    Args:
        source: a CSV file (also ``.csv.gz``), a TensorBoard event file or a directory of them, or a ``trainer_state.json``.
        target: the run's directory to make; it must not hold a run yet.
        format: ``"csv"``, ``"tensorboard"`` or ``"trainer_state"``; found out where it is not given.

    Returns:
        The run's directory.

    Raises:
        RunError: the log is missing, empty or not understood, or the directory cannot be written; then nothing is made.
        ArgumentError: an unknown ``format`` (``log-format-unknown``).

    Example:
        >>> import tempfile
        >>> from steadygrad.runs import load_run
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = Path(folder, "log.csv").write_text("iter,train_loss,gradient_norm\n1,2.5,0.5\n2,nan,inf\n")
        ...     run = load_run(import_log(f"{folder}/log.csv", f"{folder}/run"))
        >>> run.step.tolist(), run.loss.tolist(), run.total_norm.tolist()
        ([1, 2], [2.5, nan], [0.5, inf])
    """
    source, target = Path(source), Path(target)
    if format is not None and format not in FORMATS:
        text = f"`import_log` expected format to be one of {', '.join(FORMATS)}, got {format!r}"
        raise ArgumentError(text, slug="log-format-unknown")
    if not source.exists():
        raise RunError(f"expected a log, but {source} does not exist; check the path", slug="log-missing")
    chosen = format or _detect(source)
    try:
        log = FORMATS[chosen](source)
    except RunError:
        raise
    except OSError as error:
        raise RunError(f"expected a log, but {source} cannot be read ({error.strerror})", slug="log-unreadable") from error
    _write(log, target, {"source": str(source), "format": chosen, "columns": dict(log.names)})
    return target


def _detect(source: Path) -> str:
    """The format, by name and first byte."""
    if source.is_dir():
        if (source / FILE).is_file():
            return "trainer_state"
        if any(source.glob(PATTERN)):
            return "tensorboard"
        raise RunError(
            f"expected {FILE} or TensorBoard event files in {source}, found neither; name the file", slug="log-format-unknown"
        )
    suffixes = set(source.suffixes)
    if "tfevents" in source.name:
        return "tensorboard"
    if source.suffix == ".json":
        return "trainer_state"
    if suffixes & {".csv", ".tsv", ".txt", ".log"}:
        return "csv"
    names = ", ".join(FORMATS)
    text = (
        f"expected a log as CSV, TensorBoard events or {FILE}, but the name {source.name} tells none; give the format ({names})"
    )
    raise RunError(text, slug="log-format-unknown")


def _write(log: Log, target: Path, imported: dict[str, Any]) -> None:
    existed = target.exists()
    meta = new_meta() | {"status": "finished", "cwd": "", "environment": {}, "steps": len(log.steps), "imported": imported}
    meta["optimizers"] = [{"class": "unknown"}]
    create_run(target, meta)
    try:
        write_part(target / STEPS_DIR, STEPS, log.table(), 0)
    except OSError as error:
        shutil.rmtree(target / STEPS_DIR, ignore_errors=True)
        (target / RUN_FILE).unlink(missing_ok=True)
        if not existed:
            target.rmdir()
        raise RunError(
            f"the run cannot be written to {target} ({error.strerror or error}); nothing is left of it", slug="run-unwritable"
        ) from error
