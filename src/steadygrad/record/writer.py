"""The half of the recorder that touches the disk. It never raises what a bad disk raises.

The background thread alone writes; the training thread only adds optimizers, parameters and fields of ``run.json``.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from steadygrad.readings import Layout
from steadygrad.record.columns import ParameterColumns
from steadygrad.record.meta import git_state
from steadygrad.record.rows import Checkup, StepRecord, checkup_table, step_table
from steadygrad.schema import CHECKUPS, CHECKUPS_DIR, EVENTS_FILE, RUN_FILE, STEPS, STEPS_DIR
from steadygrad.store import PartWriter, append_lines, write_json

# What a bad disk, a lost device or a full memory raise. Anything else is a mistake in this package and may show.
_TROUBLE = (OSError, RuntimeError, ValueError, MemoryError)


class RunWriter:
    """Turns records into the files of one run.

    Args:
        path: the run's directory, made already.
        meta: the content of ``run.json``; changed through :meth:`describe` only.
        start: ``time.perf_counter()`` when the run began.

    Attributes:
        problem: the first thing that went wrong, in words; ``None``: nothing.
        lost: rows that could not be written.
        written: rows that were.
    """

    def __init__(self, path: Path, meta: dict[str, Any], start: float) -> None:
        self.path = path
        self.problem: str | None = None
        self.lost = 0
        self.written = 0
        self._meta = meta
        self._start = start
        self._changed = False
        self._columns = ParameterColumns()
        self._steps = PartWriter(path / STEPS_DIR, STEPS)
        self._samples = PartWriter(path / CHECKUPS_DIR, CHECKUPS)
        self._lock = threading.Lock()  # columns and meta, which the training thread also changes; never held while writing
        self._recent: list[dict[tuple[int, int], int]] = [{}, {}]
        self._waiting: list[Checkup] = []

    def describe(self, **fields: Any) -> None:
        """Change fields of ``run.json``; it is written with the next flush."""
        with self._lock:
            self._meta.update(fields)
            self._changed = True

    def add_optimizer(self, info: Mapping[str, Any]) -> None:
        """List one more optimizer in ``run.json``."""
        with self._lock:
            self._meta["optimizers"] = [*self._meta["optimizers"], dict(info)]
            self._changed = True

    def add_parameters(self, optimizer: int, layout: Layout) -> None:
        """Give columns to those parameters of the layout that have none yet."""
        with self._lock:
            self._columns.add(optimizer, layout)
            self._changed = True

    def find_git(self) -> None:
        """Look up the commit; slow, so it is done here and not where the run begins."""
        self.describe(**git_state(self._meta["cwd"]))

    def write_meta(self) -> None:
        """Write ``run.json`` if something in it changed. It comes before the parts that rely on it."""
        with self._lock:
            if not self._changed:
                return
            # Columns may also have come from the readings of a layout that nobody announced.
            meta = {**self._meta, "parameters": list(self._columns.parameters)}
            self._changed = False
        if not self._attempt(lambda: write_json(self.path / RUN_FILE, meta)):
            self._changed = True

    def write_events(self, events: Sequence[Mapping[str, Any]]) -> None:
        """Append to ``events.jsonl``."""
        if events:
            self._attempt(lambda: append_lines(self.path / EVENTS_FILE, events))

    def write_steps(self, batch: Sequence[tuple[int, StepRecord]]) -> None:
        """Write rows as one part; merge small parts where it is time."""
        if not batch:
            return
        if self._attempt(lambda: self._append_steps(batch)):
            self.written += len(batch)
            self._attempt(lambda: self._steps.merge(len(self._columns)))
        else:
            self.lost += len(batch)
        self._recent = [self._recent[1], {(record.optimizer, record.step): row for row, record in batch}]

    def write_checkups(self, checkups: Sequence[Checkup], *, last: bool = False) -> None:
        """Write check-ups whose step is known by now; the others wait for the next call, unless it is the last."""
        found: list[tuple[int, Checkup]] = []
        waiting: list[Checkup] = []
        for checkup in [*self._waiting, *checkups]:
            key = (checkup.optimizer, checkup.step)
            row = self._recent[1].get(key, self._recent[0].get(key))
            if row is not None:
                found.append((row, checkup))
            elif checkup not in self._waiting:
                waiting.append(checkup)  # it came before its step; it waits once
        self._waiting = [] if last else waiting
        if found and self._attempt(lambda: self._append_checkups(sorted(found, key=lambda pair: pair[0]))):
            self._attempt(lambda: self._samples.merge(len(self._columns)))

    def finish(self, dropped: int) -> None:
        """Leave few files behind, and the last word in ``run.json``."""
        self._attempt(lambda: self._steps.merge_all(len(self._columns)))
        self._attempt(lambda: self._samples.merge_all(len(self._columns)))
        self.describe(steps=self.written, dropped=dropped + self.lost, problem=self.problem)
        self.write_meta()

    def _append_steps(self, batch: Sequence[tuple[int, StepRecord]]) -> None:
        with self._lock:
            known = len(self._columns)
            table = step_table(batch, self._columns, self._start)
            width = len(self._columns)
            self._changed = self._changed or width > known
        self.write_meta()
        self._steps.append(table, width)

    def _append_checkups(self, batch: Sequence[tuple[int, Checkup]]) -> None:
        with self._lock:
            table = checkup_table(batch, self._columns)
        self._samples.append(table, len(self._columns))

    def _attempt(self, write: Callable[[], None]) -> bool:
        """Do it, or remember why it could not be done."""
        try:
            write()
        except _TROUBLE as error:
            if self.problem is None:
                self.problem = f"cannot write to {self.path}: {_reason(error)}"
            return False
        return True


def _reason(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
