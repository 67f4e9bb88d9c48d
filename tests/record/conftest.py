"""A small world for the recorder's tests: layouts, records, and a recorder that is closed at the end."""

import time

import numpy as np
import pytest

from steadygrad.decision import Decision
from steadygrad.readings import Layout, Readings
from steadygrad.record import Recorder, StepRecord


def make_layout(*names, group=0):
    return Layout(names, (group,) * len(names), ((2, 3),) * len(names), ("float32",) * len(names))


def make_record(layout, step, *, norms=None, optimizer=0, decision=None, present=None, **fields):
    """A record whose tensors have the given norms (1, 2, 3 ... if none are given)."""
    norms = np.arange(1.0, len(layout) + 1) if norms is None else np.asarray(norms, dtype=np.float64)
    readings = Readings(layout, np, norms**2, present)
    return StepRecord(optimizer, step, time.perf_counter(), readings, decision or Decision(), **fields)


@pytest.fixture
def layout():
    return make_layout


@pytest.fixture
def record():
    return make_record


@pytest.fixture
def start(tmp_path):
    """Starts a recorder at ``tmp_path / "run"`` with one optimizer of the given parameters."""
    recorders = []

    def begin(*names, **kwargs):
        recorder = Recorder(tmp_path / "run", **kwargs)
        recorders.append(recorder)
        recorder.add_optimizer(make_layout(*names), {"class": "SGD"})
        return recorder

    yield begin
    for recorder in recorders:
        recorder.close()


@pytest.fixture
def wait_for():
    """Waits until something is true; half a minute at most."""

    def wait(condition):
        end = time.monotonic() + 30
        while not condition():
            assert time.monotonic() < end, "it never happened"
            time.sleep(0.01)

    return wait
