"""The recorder: the step hands over, a background thread writes.

``step`` appends to a queue and returns; it takes no lock, converts nothing and never waits. The thread empties the queue
every few seconds into one part. If the disk is full, read-only or gone, rows are dropped and counted, ``problem`` says why,
and the next flush tries again. If the disk hangs, the queue fills up to its bound and then drops. Training never stops.
"""

from __future__ import annotations

import atexit
import os
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from steadygrad.errors import ArgumentError
from steadygrad.readings import Layout
from steadygrad.record.meta import create_run, new_meta, now
from steadygrad.record.rows import Checkup, StepRecord
from steadygrad.record.writer import RunWriter

MAX_QUEUE_BYTES = 32 * 2**20
"""Rows that wait for the writer take about this much memory at most; a quarter of it wakes the writer early."""
MAX_EVENTS = 10_000
"""Events, or check-ups, that wait for the writer; more are dropped."""
MIN_PAUSE = 0.05
"""Seconds between two writes of events, so that an event at every step does not keep the thread busy."""
CLOSE_TIMEOUT = 30.0
"""How long :meth:`Recorder.close` waits for a disk that does not answer, in seconds."""


class Recorder:
    """Writes a run while it trains.

    Args:
        path: the directory to make; it must not hold a run yet.
        argv: the command line of the script.
        policy: text of the policy; empty where the run is only observed.
        flush_interval: seconds between two parts: what a ``kill -9`` loses at most.

    Attributes:
        path: the run's directory.
        num_steps: steps handed over so far, dropped ones included.

    Raises:
        RunError: the directory cannot be written (``run-unwritable``) or holds a run already (``run-exists``).
        ArgumentError: ``flush_interval`` is not positive (``flush-interval``).

    Example:
        >>> import numpy as np, tempfile, time
        >>> from steadygrad.decision import Decision
        >>> from steadygrad.readings import Layout, Readings
        >>> from steadygrad.runs import load_run
        >>> layout = Layout(("a", "b"))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     recorder = Recorder(f"{folder}/run")
        ...     k = recorder.add_optimizer(layout, {"class": "SGD"})
        ...     readings = Readings(layout, np, np.array([9.0, 16.0]))
        ...     recorder.step(StepRecord(k, 1, time.perf_counter(), readings, Decision(scale=0.5), loss=2.0, lr=0.1))
        ...     recorder.close()
        ...     run = load_run(f"{folder}/run")
        >>> run.grad_norm.tolist(), run.total_norm.tolist(), run.total_norm_after.tolist()
        ([[3.0, 4.0]], [5.0], [2.5])
    """

    def __init__(
        self, path: str | os.PathLike[str], *, argv: Sequence[str] = (), policy: str = "", flush_interval: float = 5.0
    ) -> None:
        if not flush_interval > 0:
            raise ArgumentError(f"`Recorder` expected flush_interval > 0 seconds, got {flush_interval!r}", slug="flush-interval")
        self.path = Path(path).absolute()
        self.num_steps = 0
        meta = new_meta(argv=argv, policy=policy)
        create_run(self.path, meta)
        self._pid = os.getpid()
        self._start = time.perf_counter()
        self._interval = flush_interval
        self._writer = RunWriter(self.path, meta, self._start)
        self._layouts: list[Layout] = []
        self._queue: deque[tuple[int, StepRecord]] = deque()
        self._checkups: deque[Checkup] = deque()
        self._events: deque[dict[str, Any]] = deque()
        self._capacity, self._early = 10_000, 2_500
        self._refused = 0
        self._silent = False
        self._closed = False
        self._ended = threading.Event()
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._work, name="steadygrad-recorder", daemon=True)
        self._thread.start()
        atexit.register(self.close)

    @property
    def dropped(self) -> int:
        """Rows that could not be written, or did not fit into the queue of a disk that hangs."""
        return self._refused + self._writer.lost

    @property
    def problem(self) -> str | None:
        """The first thing that went wrong while writing, in words; ``None``: nothing."""
        if self._silent:
            return f"{self.path} did not answer for {CLOSE_TIMEOUT:.0f} s; the last rows may be missing"
        if self._writer.problem is None and self._refused:
            return f"{self.path} is written too slowly; rows were dropped"
        return self._writer.problem

    def add_optimizer(self, layout: Layout, info: Mapping[str, Any]) -> int:
        """Register an optimizer and give its parameters columns of their own.

        Args:
            layout: its parameters.
            info: what ``run.json`` shall say about it.

        Returns:
            Its index, for :class:`StepRecord`.
        """
        self._layouts.append(layout)
        index = len(self._layouts) - 1
        if not self._off():
            self._writer.add_optimizer(info)
            self.update_optimizer(index, layout)
        return index

    def update_optimizer(self, index: int, layout: Layout) -> None:
        """Take note of an optimizer's new layout: the old rows and new ones, at any position, matched by name."""
        if self._off():
            return
        self._layouts[index] = layout
        self._writer.add_parameters(index, layout)
        row_bytes = 1000 + 16 * max(map(len, self._layouts))
        self._capacity = max(64, MAX_QUEUE_BYTES // row_bytes)
        self._early = self._capacity // 4
        self._wake.set()

    def step(self, record: StepRecord) -> None:
        """Hand over one step. Costs about a microsecond; nothing is read from a device and nothing waits."""
        if self._closed or os.getpid() != self._pid:
            return
        row = self.num_steps
        self.num_steps = row + 1
        waiting = len(self._queue)
        if waiting >= self._capacity:
            self._refused += 1
            return
        if hasattr(record.lr, "clone"):  # schedulers change such a learning rate in place
            record = record._replace(lr=record.lr.clone())
        self._queue.append((row, record))
        if waiting == self._early:
            self._wake.set()

    def checkup(
        self, *, optimizer: int, step: int, abs_max: Any = None, param_norm: Any = None, update_ratio: Any = None
    ) -> None:
        """Hand over a sampled check-up of one optimizer's ``n`` parameters.

        Args:
            optimizer: its index.
            step: the optimizer's own count of steps, as in :meth:`step`, before or after it.
            abs_max: largest modulus in each gradient, shape ``(n,)``; an array, a tensor, or ``None`` if not read.
            param_norm: 2-norm of each parameter before the step, shape ``(n,)``, or ``None``.
            update_ratio: norm of the step's change over the parameter's norm, shape ``(n,)``, or ``None``.
        """
        if not self._off() and len(self._checkups) < MAX_EVENTS:
            self._checkups.append(Checkup(optimizer, step, self._layouts[optimizer], abs_max, param_norm, update_ratio))

    def event(self, kind: str, *, step: int | None = None, optimizer: int | None = None, message: str = "", **data: Any) -> None:
        """Note that something happened; it is on the disk a moment later.

        Args:
            kind: one of :data:`steadygrad.schema.EVENT_KINDS`.
            step: the optimizer's own count of steps, if it belongs to one.
            optimizer: its index, if it belongs to one.
            message: one sentence for people.
            data: whatever else belongs to it; arrays, tensors, NaN and Inf are fine.
        """
        if self._off() or len(self._events) >= MAX_EVENTS:
            return
        seconds = round(time.perf_counter() - self._start, 6)
        self._events.append({"time": seconds, "kind": kind, "step": step, "optimizer": optimizer, "message": message, **data})
        self._wake.set()

    def close(self, *, status: str = "finished", error: BaseException | None = None) -> None:
        """Write what is left and say in ``run.json`` how the run ended. A second call does nothing.

        Args:
            status: ``"finished"``, ``"crashed"`` or ``"interrupted"``.
            error: what ended it, if anything.
        """
        if self._off():
            return
        self._closed = True
        atexit.unregister(self.close)
        what = None if error is None else {"type": type(error).__name__, "message": str(error)[:2000]}
        self._writer.describe(status=status, ended=now(), seconds=round(time.perf_counter() - self._start, 3), error=what)
        self._ended.set()
        self._wake.set()
        self._thread.join(CLOSE_TIMEOUT)
        self._silent = self._thread.is_alive()

    def _off(self) -> bool:
        """Closed; or in a forked child, whose copy of the queue is not the run."""
        return self._closed or os.getpid() != self._pid

    def _work(self) -> None:
        """The background thread."""
        self._writer.find_git()
        due = self._start + self._interval
        while not self._ended.is_set():
            self._wake.wait(max(0.0, due - time.perf_counter()))
            self._wake.clear()
            late = time.perf_counter() >= due
            self._flush(rows=late or len(self._queue) >= self._early)
            if late:
                due = time.perf_counter() + self._interval
            self._ended.wait(MIN_PAUSE)
        self._flush(rows=True, last=True)

    def _flush(self, *, rows: bool, last: bool = False) -> None:
        """Write the events; and, where it is time, the rows and check-ups."""
        self._writer.write_meta()
        self._writer.write_events(_drain(self._events))
        if rows:
            self._writer.write_steps(_drain(self._queue))
            self._writer.write_checkups(_drain(self._checkups), last=last)
        if last:
            self._writer.finish(self._refused)


def _drain(queue: deque[Any]) -> list[Any]:
    """What is in the queue now; what is appended meanwhile stays for the next time."""
    return [queue.popleft() for _ in range(len(queue))]
