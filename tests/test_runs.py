import json

import numpy as np
import pytest

from steadygrad import runs
from steadygrad.decision import Decision
from steadygrad.errors import RunError
from steadygrad.readings import Layout, Readings
from steadygrad.record import Recorder, StepRecord
from steadygrad.runs import list_runs, load_run


def make(path, steps=3):
    layout = Layout(("a", "b"))
    recorder = Recorder(path)
    recorder.add_optimizer(layout, {"class": "SGD"})
    for step in range(1, steps + 1):
        recorder.step(StepRecord(0, step, 0.0, Readings(layout, np, np.array([9.0, 16.0])), Decision(), 1.0, 0.1))
    recorder.close()
    return recorder.path


def edit(path, **fields):
    file = path / "run.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))


def test_by_directory_by_parent_and_by_file(tmp_path):
    path = make(tmp_path / "runs" / "a")
    assert [load_run(each).path for each in (path, str(path), path.parent, path / "run.json")] == [path] * 4
    assert list_runs(tmp_path / "runs") == [path]
    assert list_runs(path) == [path]
    assert list_runs(tmp_path / "nothing") == []


def test_parent_of_two_runs_names_them(tmp_path):
    make(tmp_path / "a"), make(tmp_path / "b")
    with pytest.raises(RunError, match=r"holds 2: a, b; .*\[run-ambiguous\]"):
        load_run(tmp_path)


def test_what_is_no_run(tmp_path):
    with pytest.raises(RunError, match=r"does not exist.*\[run-missing\]"):
        load_run(tmp_path / "nothing")
    with pytest.raises(RunError, match=r"has no run.json.*\[run-unrecognised\]"):
        load_run(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match=r"\[run-unrecognised\]"):
        load_run(tmp_path / "file")


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"schema": 1}', '{"schema": {"version": "1"}}', "\xff"])
def test_corrupt_run_json(tmp_path, text):
    path = make(tmp_path / "a")
    (path / "run.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(RunError, match=r"the run is damaged \[run-corrupt\]"):
        load_run(path)


def test_version_of_the_future(tmp_path):
    path = make(tmp_path / "a")
    edit(path, schema={"name": "steadygrad-run", "version": 99})
    with pytest.raises(RunError, match=r"version 1 or older, but .* has version 99; update steadygrad \[run-future-schema\]"):
        load_run(path)


def test_older_versions_are_upgraded_one_by_one(tmp_path, monkeypatch):
    path = make(tmp_path / "a")
    monkeypatch.setattr(runs, "VERSION", 3)
    with pytest.raises(RunError, match=r"\[run-corrupt\]"):
        load_run(path)
    monkeypatch.setitem(runs.UPGRADES, 1, lambda meta, steps, samples: (meta | {"trail": [1]}, steps, samples))
    monkeypatch.setitem(runs.UPGRADES, 2, lambda meta, steps, samples: (meta | {"trail": [*meta["trail"], 2]}, steps, samples))
    run = load_run(path)
    assert (run.meta["trail"], len(run)) == ([1, 2], 3)


def test_run_without_any_part(tmp_path):
    run = load_run(make(tmp_path / "a", steps=0))
    assert (len(run), run.names, run.grad_norm.shape, run.present.shape, run.scale) == (0, ("a", "b"), (0, 2), (0, 2), None)
    assert (run.checkups.abs_max.shape, run.skipped.dtype, run.recorded("loss").shape) == ((0, 2), bool, (0,))


def test_truncated_part(tmp_path):
    path = make(tmp_path / "a")
    (part,) = (path / "steps").iterdir()
    part.write_bytes(part.read_bytes()[:100])
    run = load_run(path)
    assert len(run) == 0
    assert "is not a whole Parquet file; its rows are left out" in run.problems[0]


def test_unreadable_lines_of_events(tmp_path):
    path = make(tmp_path / "a")
    (path / "events.jsonl").write_text('{"kind": "skip"}\n3\n{"kind": "at')
    run = load_run(path)
    assert run.events == [{"kind": "skip"}]
    assert run.problems == (
        "events.jsonl, line 2 cannot be read; it is left out",
        "events.jsonl, line 3 cannot be read; it is left out",
    )


def test_parameters_that_run_json_does_not_know_are_numbered(tmp_path):
    path = make(tmp_path / "a")
    edit(path, parameters=[{"name": "a"}])
    run = load_run(path)
    assert run.names == ("a", "parameter 1")
    assert "names 1 parameters, but the parts hold 2" in run.problems[0]


def test_duckdb_and_pandas_read_the_parts_as_they_are(tmp_path):
    duckdb, pandas = pytest.importorskip("duckdb"), pytest.importorskip("pandas")
    steps = make(tmp_path / "a") / "steps"
    query = f"select step, total_norm, grad_norm[2], skipped from '{steps}/part-*.parquet' order by row"
    assert duckdb.sql(query).fetchall() == [(step, 5.0, 4.0, False) for step in (1, 2, 3)]
    frame = pandas.read_parquet(steps)
    assert frame["step"].tolist() == [1, 2, 3]
    assert np.stack(frame["grad_norm"]).tolist() == [[3.0, 4.0]] * 3
    assert frame["threshold"].isna().all()
