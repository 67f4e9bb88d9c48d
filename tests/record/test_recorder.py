import json
import os

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from steadygrad.decision import Decision, Reason
from steadygrad.errors import ArgumentError, RunError
from steadygrad.readings import Layout, Readings
from steadygrad.record import Recorder, StepRecord
from steadygrad.record import recorder as module
from steadygrad.runs import load_run


def test_round_trip(start, layout, record):
    recorder = start("a", "b", argv=["train.py", "--lr", "1"], policy="clip_by_global_norm(1.0)")
    decision = Decision(scale=0.5, reason=int(Reason.CLIPPED), threshold=1.0)
    for step in (1, 2, 3):
        recorder.step(record(layout("a", "b"), step, norms=[3, 4], decision=decision, loss=1.0 / step, lr=0.1))
    recorder.close()
    run = load_run(recorder.path)
    np.testing.assert_array_equal(run.step, [1, 2, 3])
    np.testing.assert_array_equal(run.grad_norm, [[3, 4]] * 3)
    np.testing.assert_array_equal([run.total_norm, run.total_norm_after, run.coefficient], [[5] * 3, [2.5] * 3, [0.5] * 3])
    np.testing.assert_array_equal(run.loss, [1, 1 / 2, 1 / 3])
    np.testing.assert_array_equal([run.reason, run.threshold, run.lr], [[int(Reason.CLIPPED)] * 3, [1] * 3, [0.1] * 3])
    assert (run.scale, run.problems, run.names) == (None, (), ("a", "b"))
    assert run.layout.shapes == ((2, 3), (2, 3))
    assert run.meta["argv"] == ["train.py", "--lr", "1"]
    assert [run.meta[key] for key in ("status", "steps", "dropped", "problem", "error")] == ["finished", 3, 0, None, None]


@given(rows=st.lists(st.tuples(st.floats(width=32), st.floats(), st.booleans(), st.booleans()), min_size=1, max_size=8))
def test_whatever_a_step_holds_comes_back(tmp_path_factory, rows):
    recorder = Recorder(tmp_path_factory.mktemp("runs") / "run")
    layout = Layout(("a", "b"))
    recorder.add_optimizer(layout, {})
    for step, (norm, loss, skipped, present) in enumerate(rows, 1):
        readings = Readings(layout, np, np.array([np.float64(norm) ** 2, 1.0]), np.array([present, True]))
        recorder.step(StepRecord(0, step, 0.0, readings, Decision(), loss, None, skipped))
    recorder.close()
    run = load_run(recorder.path)
    norms, losses, skips, presents = (np.array(column) for column in zip(*rows, strict=True))
    np.testing.assert_array_equal(run.present[:, 0], presents)
    np.testing.assert_allclose(run.grad_norm[:, 0], np.where(presents, np.abs(norms), np.nan), rtol=1e-6)
    np.testing.assert_array_equal(run.loss, losses)
    np.testing.assert_array_equal(run.skipped, skips)
    assert run.recorded("loss").all()
    assert not run.recorded("lr").any()


def test_two_optimizers_have_columns_of_their_own(start, layout, record):
    recorder = start("w", "b")
    other = recorder.add_optimizer(layout("w"), {"class": "Adam"})
    recorder.step(record(layout("w", "b"), 1))
    recorder.step(record(layout("w"), 1, norms=[7], optimizer=other))
    recorder.close()
    run = load_run(recorder.path)
    assert run.names == ("w", "b", "w#2")
    np.testing.assert_array_equal(run.grad_norm, [[1, 2, np.nan], [np.nan, np.nan, 7]])
    np.testing.assert_array_equal(run.present, [[True, True, False], [False, False, True]])
    assert [each["class"] for each in run.meta["optimizers"]] == ["SGD", "Adam"]
    assert [each["optimizer"] for each in run.meta["parameters"]] == [0, 0, 1]


def test_parameters_that_are_added_later(start, layout, record):
    recorder = start("a", "b")
    recorder.step(record(layout("a", "b"), 1))
    grown = Layout(("new", "a", "b"), (1, 0, 0))
    recorder.update_optimizer(0, grown)
    recorder.step(record(grown, 2, norms=[9, 1, 2]))
    recorder.close()
    run = load_run(recorder.path)
    assert (run.names, run.layout.groups) == (("a", "b", "new"), (0, 0, 1))
    np.testing.assert_array_equal(run.grad_norm, [[1, 2, np.nan], [1, 2, 9]])


def test_checkups_find_their_rows(start, layout, record):
    recorder = start("a", "b")
    recorder.checkup(optimizer=0, step=2, abs_max=torch.tensor([1.0, 2.0]), param_norm=np.array([3.0, 4.0]))
    for step in (1, 2, 3):
        recorder.step(record(layout("a", "b"), step))
    recorder.checkup(optimizer=0, step=3, update_ratio=[0.1, 0.2])
    recorder.close()
    found = load_run(recorder.path).checkups
    np.testing.assert_array_equal([found.row, found.step], [[1, 2], [2, 3]])
    np.testing.assert_array_equal(found.abs_max, [[1, 2], [np.nan, np.nan]])
    np.testing.assert_array_equal(found.update_ratio, np.float32([[np.nan, np.nan], [0.1, 0.2]]))


def test_events_are_there_before_the_flush(start, wait_for):
    recorder = start("a", flush_interval=1e6)
    recorder.event("nonfinite", step=3, optimizer=0, message="NaN in a", nan=["a"], norm=float("nan"))
    wait_for(lambda: load_run(recorder.path).events)
    (event,) = load_run(recorder.path).events
    assert {key: event[key] for key in event if key != "time"} == {
        "kind": "nonfinite",
        "step": 3,
        "optimizer": 0,
        "message": "NaN in a",
        "nan": ["a"],
        "norm": "NaN",
    }


def test_parts_appear_while_training(start, layout, record, wait_for):
    recorder = start("a", flush_interval=0.01)
    for step in (1, 2):
        recorder.step(record(layout("a"), step))
        wait_for(lambda step=step: len(load_run(recorder.path)) == step)
    run = load_run(recorder.path)
    assert (run.meta["status"], run.problems) == ("running", ())


def test_changing_learning_rates_are_copied(start, layout, record):
    recorder = start("a", flush_interval=1e6)
    lr = torch.tensor(0.5)
    recorder.step(record(layout("a"), 1, lr=lr))
    lr.mul_(0.1)
    recorder.step(record(layout("a"), 2, lr=lr))
    recorder.close()
    np.testing.assert_allclose(load_run(recorder.path).lr, [0.5, 0.05], rtol=1e-6)


def test_close_twice_and_use_after_close(start, layout, record):
    recorder = start("a")
    recorder.close(status="crashed", error=ValueError("bad batch"))
    recorder.close()
    recorder.step(record(layout("a"), 1))
    recorder.event("warning")
    meta = json.loads((recorder.path / "run.json").read_text())
    assert (meta["status"], meta["error"]) == ("crashed", {"type": "ValueError", "message": "bad batch"})
    assert (recorder.num_steps, len(load_run(recorder.path))) == (0, 0)


def test_bounded_queue_drops_and_counts(start, layout, record, monkeypatch):
    monkeypatch.setattr(module, "MAX_QUEUE_BYTES", 1)
    monkeypatch.setattr(module.RunWriter, "find_git", lambda self: release.wait(30))
    release = module.threading.Event()
    recorder = start("a")
    for step in range(1, 101):
        recorder.step(record(layout("a"), step))
    assert (recorder.num_steps, recorder.dropped) == (100, 36)
    assert "too slowly" in recorder.problem
    release.set()
    recorder.close()
    run = load_run(recorder.path)
    assert (len(run), run.meta["dropped"]) == (64, 36)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_forked_child_writes_nothing(start, layout, record):
    recorder = start("a")
    recorder.step(record(layout("a"), 1))
    child = os.fork()
    if child == 0:
        recorder.step(record(layout("a"), 2))
        recorder.event("warning", message="from the child")
        recorder.close(status="crashed")
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    recorder.step(record(layout("a"), 2))
    recorder.close()
    run = load_run(recorder.path)
    assert (run.step.tolist(), run.events, run.meta["status"]) == ([1, 2], [], "finished")


def test_directory_that_holds_a_run(start, tmp_path):
    start("a")
    before = (tmp_path / "run" / "run.json").read_bytes()
    with pytest.raises(RunError, match=r"holds a run already.*\[run-exists\]"):
        Recorder(tmp_path / "run")
    assert (tmp_path / "run" / "run.json").read_bytes() == before


def test_directory_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=r"cannot be used.*\[run-unwritable\]"):
        Recorder(tmp_path / "file")
    with pytest.raises(RunError, match=r"\[run-unwritable\]"):
        Recorder(tmp_path / "file" / "run")
    with pytest.raises(RunError, match=r"\[run-unwritable\]"):
        Recorder(tmp_path / "new" / ("x" * 300))
    assert [each.name for each in tmp_path.iterdir()] == ["file"]


def test_no_half_made_directory_where_run_json_cannot_be_written(tmp_path, monkeypatch):
    def full(path, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("steadygrad.record.meta.write_json", full)
    with pytest.raises(RunError, match="No space left on device"):
        Recorder(tmp_path / "new" / "run")
    assert list(tmp_path.iterdir()) == []


def test_flush_interval_must_be_positive(tmp_path):
    with pytest.raises(ArgumentError, match="flush_interval > 0"):
        Recorder(tmp_path / "run", flush_interval=0)
    assert list(tmp_path.iterdir()) == []
