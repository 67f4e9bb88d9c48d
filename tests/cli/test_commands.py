"""Each command, in this process: what it prints, what it writes, and how it refuses."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from steadygrad import Layout, Readings
from steadygrad.cli import main
from steadygrad.decision import Decision
from steadygrad.record import Recorder, StepRecord


@pytest.fixture
def run(tmp_path):
    """A short recorded run."""
    recorder = Recorder(tmp_path / "run", argv=["train.py"])
    layout = Layout(("a.weight", "b.weight"), shapes=((2, 2), (3,)), dtypes=("float32", "float32"))
    index = recorder.add_optimizer(layout, {"class": "SGD"})
    for step in range(1, 41):
        readings = Readings(layout, np, np.array([1.0, 4.0]) * (1 + step % 3))
        recorder.step(StepRecord(index, step, 0.1 * step, readings, Decision(), 1.0 / step, 0.1, False))
    recorder.close()
    return str(tmp_path / "run")


def refused(args, capsys):
    """The one line that a bad command line gets."""
    with pytest.raises(SystemExit) as caught:
        main([str(arg) for arg in args])
    out, err = capsys.readouterr()
    assert (caught.value.code, out) == (2, "")
    assert err.startswith("steadygrad: error: ")
    assert err.count("\n") == 1
    return err


def test_report_as_text(run, capsys):
    assert main(["report", run]) == 0
    out, err = capsys.readouterr()
    assert "40" in out
    assert err == ""


def test_report_for_a_terminal_that_takes_only_ascii(run, root):
    env = {**os.environ, "PYTHONPATH": str(root / "src"), "PYTHONIOENCODING": "ascii", "COLUMNS": "60"}
    done = subprocess.run([sys.executable, "-m", "steadygrad", "report", run], env=env, capture_output=True)
    assert done.returncode == 0
    assert done.stdout.isascii()
    assert max(map(len, done.stdout.splitlines())) <= 60


def test_report_as_html_and_json_files(run, tmp_path, capsys):
    page, data = tmp_path / "both.html", tmp_path / "both.json"
    assert main(["report", run, run, "--html", str(page), "--json", str(data)]) == 0
    assert page.read_text().lstrip().lower().startswith("<!doctype html>")
    assert json.loads(data.read_text())
    out, err = capsys.readouterr()
    assert out == ""
    assert err == f"steadygrad: wrote {page}\nsteadygrad: wrote {data}\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["both.html", "both.json", "run"]


def test_report_as_json_on_stdout(run, capsys):
    assert main(["report", run, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)


def test_diagnose(run, capsys):
    assert main(["diagnose", run]) == 0
    text = capsys.readouterr().out
    assert main(["diagnose", run, "--json"]) == 0
    for finding in json.loads(capsys.readouterr().out):
        assert f"[{finding['slug']}]" in text


def test_policies(capsys):
    assert main(["policies"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "clip_by_global_norm(max_norm, norm_type=2.0" in "\n".join(lines)
    assert all(line.startswith("    ") and line.endswith(".") for line in lines[1::2])


def test_import_then_report(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "log.csv").write_text("step,loss,grad_norm\n" + "".join(f"{i},{1 / i},{1.5}\n" for i in range(1, 30)))
    assert main(["import", "log.csv"]) == 0
    assert "steadygrad report runs/log" in capsys.readouterr().err
    assert main(["report", "runs/log"]) == 0
    capsys.readouterr()
    assert "already" in refused(["import", "log.csv"], capsys)
    assert main(["import", "log.csv", "--to", "other", "--format", "csv"]) == 0


def test_bad_runs_are_refused(run, tmp_path, capsys):
    (tmp_path / "corrupt").mkdir()
    (tmp_path / "corrupt" / "run.json").write_text("{")
    meta = json.loads((tmp_path / "run" / "run.json").read_text())
    meta["schema"]["version"] = 99
    (tmp_path / "future").mkdir()
    (tmp_path / "future" / "run.json").write_text(json.dumps(meta))
    for command in ("report", "diagnose"):
        refused([command, tmp_path / "nowhere"], capsys)
        refused([command, tmp_path / "corrupt"], capsys)
        assert "[run-future-schema]" in refused([command, tmp_path / "future"], capsys)


@pytest.mark.parametrize("option", ["--html", "--json"])
def test_a_report_is_written_whole_or_not_at_all(run, tmp_path, capsys, option):
    assert "[output-unwritable]" in refused(["report", run, option, tmp_path / "no" / "file"], capsys)
    assert "[output-unwritable]" in refused(["report", run, option, tmp_path], capsys)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_bad_input_to_run_leaves_nothing_behind(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    script = tmp_path / "x.py"
    script.write_text("print('never')")
    assert "[policy-unknown]" in refused(["run", "--policy", "clip_by_magic(1)", script], capsys)
    assert "max_norm" in refused(["run", "--policy", "clip_by_global_norm(-1)", script], capsys)
    assert "[script-missing]" in refused(["run", "nowhere.py"], capsys)
    assert "[module-missing]" in refused(["run", "-m", "no_such_module_anywhere"], capsys)
    assert "[run-unwritable]" in refused(["run", "--record", script, script], capsys)
    assert "[run-unwritable]" in refused(["run", "--record", script / "deeper", script], capsys)
    assert "[run-unwritable]" in refused(["run", "--record", "/proc/nothing", script], capsys)
    assert [path.name for path in tmp_path.iterdir()] == ["x.py"]


def test_a_run_is_not_overwritten(run, capsys, tmp_path):
    script = tmp_path / "x.py"
    script.touch()
    assert "[run-exists]" in refused(["run", "--record", run, script], capsys)


def test_reading_commands_load_no_torch(run, root):
    code = f"""
import sys
from steadygrad.cli import main
assert "numpy" not in sys.modules
for line in (["report", {run!r}], ["report", {run!r}, "--html", {run + ".html"!r}], ["diagnose", {run!r}]):
    assert main(line) == 0
loaded = {{"torch", "plotly", "matplotlib", "tensorboard"}} & set(sys.modules)
sys.exit(f"loaded: {{loaded}}" if loaded else 0)
"""
    env = {**os.environ, "PYTHONPATH": str(root / "src")}
    done = subprocess.run([sys.executable, "-c", code], env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 0, done.stderr


def test_a_closed_pipe_is_quiet(root):
    reader, writer = os.pipe()
    os.close(reader)
    env = {**os.environ, "PYTHONPATH": str(root / "src")}
    done = subprocess.run(
        [sys.executable, "-m", "steadygrad", "policies"], env=env, stdout=writer, stderr=subprocess.PIPE, text=True
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")
