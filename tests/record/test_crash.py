"""Real processes that die, and real disks that fill up."""

import contextlib
import os
import resource
import shutil
import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest

from steadygrad.record import Recorder
from steadygrad.runs import load_run

TRAIN = """
    import sys, time
    import numpy as np
    from steadygrad.decision import Decision
    from steadygrad.readings import Layout, Readings
    from steadygrad.record import Recorder, StepRecord

    layout = Layout(tuple(f"p{i}" for i in range(20)))
    recorder = Recorder(sys.argv[1], flush_interval=0.05)
    recorder.add_optimizer(layout, {})
    rng = np.random.default_rng(0)

    def train(steps, pause=0.0):
        for _ in range(steps):
            step = recorder.num_steps + 1
            readings = Readings(layout, np, rng.random(20))
            recorder.step(StepRecord(0, step, time.perf_counter(), readings, Decision(), loss=1.0, lr=0.1))
            time.sleep(pause)
"""


def python(code, *args, **kwargs):
    source = textwrap.dedent(TRAIN) + textwrap.dedent(code)
    return subprocess.Popen([sys.executable, "-c", source, *map(str, args)], stdout=subprocess.PIPE, text=True, **kwargs)


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs kill -9")
@pytest.mark.parametrize("delay", [0.0, 0.21, 3.0])
def test_killed_run_is_readable_and_misses_the_last_moment_only(tmp_path, wait_for, delay):
    process = python(
        "print('go', flush=True)\nwhile True: train(1, 0.0005); print(recorder.num_steps, time.time())", tmp_path / "run"
    )
    assert process.stdout.readline() == "go\n"
    wait_for(lambda: len(load_run(tmp_path / "run")) > 0)
    time.sleep(delay)
    before = time.time()
    process.kill()
    said = [line.split() for line in process.communicate()[0].splitlines()]
    run = load_run(tmp_path / "run")
    assert run.problems == ()
    np.testing.assert_array_equal(run.step, np.arange(1, len(run) + 1))
    assert run.meta["status"] == "running"
    # What was handed over more than two seconds before the end is there, however slow the machine.
    assert len(run) >= max((int(step) for step, at in said[:-1] if float(at) < before - 2), default=1)


def test_run_that_is_never_closed_is_written_at_exit(tmp_path):
    process = python("train(10)", tmp_path / "run")
    assert process.wait() == 0
    process.stdout.close()
    run = load_run(tmp_path / "run")
    assert (len(run), run.meta["status"]) == (10, "finished")


def test_uncaught_error_keeps_its_exit_code(tmp_path):
    process = python("train(10); raise SystemExit(7)", tmp_path / "run")
    assert process.wait() == 7
    process.stdout.close()
    assert len(load_run(tmp_path / "run")) == 10


@pytest.mark.skipif(not hasattr(signal, "SIGXFSZ"), reason="needs a limit of the size of files")
def test_disk_that_refuses_large_files_does_not_stop_training(tmp_path):
    def limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

    process = python(
        "train(5); time.sleep(1); train(5000); recorder.close(); print(recorder.dropped, recorder.problem)",
        tmp_path / "run",
        preexec_fn=limit,
    )
    dropped, problem = process.communicate()[0].strip().split(" ", 1)
    assert process.returncode == 0
    assert "File too large" in problem
    run = load_run(tmp_path / "run")
    assert len(run) + int(dropped) == 5005
    assert len(run) >= 5
    assert (run.meta["dropped"], run.meta["problem"]) == (int(dropped), problem)


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 256 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = shutil.which("mount")
    if mount is None or os.geteuid() != 0 or subprocess.run([mount, "-t", "tmpfs", "-o", "size=256k", "none", folder]).returncode:
        pytest.skip("mounting a small file system needs root")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_full_disk_is_reported_and_used_again_when_there_is_space(small_disk, layout, record, wait_for):
    ballast = small_disk / "ballast"
    recorder = Recorder(small_disk / "run", flush_interval=0.01)
    recorder.add_optimizer(layout("a"), {})
    with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    recorder.step(record(layout("a"), 1))
    wait_for(lambda: recorder.dropped == 1)
    assert "No space left on device" in recorder.problem
    ballast.unlink()
    recorder.step(record(layout("a"), 2))
    recorder.close()
    run = load_run(recorder.path)
    assert (run.step.tolist(), run.row.tolist(), run.meta["dropped"]) == ([2], [1], 1)
    assert "No space left on device" in run.meta["problem"]


def test_directory_that_is_removed_is_not_made_again(start, layout, record, wait_for):
    recorder = start("a", flush_interval=0.01)
    wait_for(lambda: (recorder.path / "run.json").exists())
    shutil.rmtree(recorder.path)
    recorder.step(record(layout("a"), 1))
    wait_for(lambda: recorder.dropped == 1)
    assert "No such file or directory" in recorder.problem
    recorder.close()
    assert not recorder.path.exists()


def test_directory_that_becomes_read_only(start, layout, record, wait_for, monkeypatch):
    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    recorder = start("a", flush_interval=0.01)
    monkeypatch.setattr("steadygrad.store.parts.pq.write_table", refuse)  # what root would be allowed to do all the same
    recorder.step(record(layout("a"), 1))
    wait_for(lambda: recorder.dropped == 1)
    assert recorder.problem == f"cannot write to {recorder.path}: Permission denied"


def test_disk_that_hangs_does_not_hold_up_the_step_nor_the_end_for_ever(start, layout, record, monkeypatch):
    module = sys.modules[Recorder.__module__]
    hang = module.threading.Event()
    monkeypatch.setattr(module, "CLOSE_TIMEOUT", 0.05)
    monkeypatch.setattr(module.RunWriter, "write_meta", lambda self: hang.wait(30))
    recorder = start("a")
    recorder.step(record(layout("a"), 1))
    recorder.close()
    assert "did not answer" in recorder.problem
    hang.set()
