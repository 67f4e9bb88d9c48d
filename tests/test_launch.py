"""Training scripts under ``steadygrad run``: the same results as bare, a run on disk, and one verdict at the end."""

import json
import os
import signal
import subprocess
import sys

import pytest

from steadygrad.runs import load_run

HEAD = """
import os, sys
print("torch" in sys.modules, "numpy" in sys.modules)
os.environ["OMP_NUM_THREADS"] = "1"  # counts only if torch is not there yet
import torch
from torch.utils.data import DataLoader, TensorDataset

class Net(torch.nn.Linear):
    pass

def main(num_steps, workers=0):
    torch.manual_seed(0)
    model = Net(4, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    data = DataLoader(TensorDataset(torch.randn(8 * num_steps, 4)), batch_size=8, num_workers=workers)
    for (x,) in data:
        optimizer.zero_grad()
        loss = (model(x) ** 2).mean()
        loss.backward()
        optimizer.step()
    print(loss.item(), torch.get_num_threads(), torch.randn(()).item())
    return model
"""

BARE = """
if __name__ == "__main__":
    if os.fork() == 0:
        sys.exit(0)  # a child that leaves through the launcher's frames must not end the parent's record
    os.wait()
    model = main(6, workers=2)
    torch.save(model, "model.pt")
    print(type(torch.load("model.pt", weights_only=False)) is Net)
"""


@pytest.fixture
def python(tmp_path, root):
    """Runs one command line in a folder that holds ``train.py``; returns the finished process."""

    def python(body, *args):
        (tmp_path / "train.py").write_text(HEAD + body)
        env = {**os.environ, "PYTHONPATH": str(root / "src")}
        return subprocess.run([sys.executable, *args], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=120)

    return python


def ours(done):
    """The lines that steadygrad added, without their mark, and all the others."""
    lines = done.stderr.splitlines(keepends=True)
    mine = [line.removeprefix("steadygrad: ") for line in lines if line.startswith("steadygrad: ")]
    return "".join(mine), "".join(line for line in lines if not line.startswith("steadygrad: "))


WATCHED = ("-m", "steadygrad", "run", "--record", "deep/run", "train.py")


def test_a_watched_run_is_the_bare_run_with_a_record(python, tmp_path):
    bare, watched = python(BARE, "train.py"), python(BARE, *WATCHED)
    assert (watched.returncode, watched.stdout) == (bare.returncode, bare.stdout)
    assert bare.stdout.startswith("False False\n")
    said, other = ours(watched)
    assert other == bare.stderr
    assert [line.split()[0] for line in said.splitlines()] == ["verdict", "why", "next", "run"]
    assert "steadygrad report deep/run" in said
    run = load_run(tmp_path / "deep" / "run")
    assert len(run) == 6
    assert run.meta["status"] == "finished"
    assert run.meta["argv"][:3] == ["steadygrad", "run", "--record"]


def test_a_crash_keeps_its_traceback_and_its_record(python, tmp_path):
    body = "os.chdir('/')\nmain(3)\nraise RuntimeError('after three steps')"
    bare, watched = python(body, "train.py"), python(body, *WATCHED)
    assert watched.returncode == bare.returncode == 1
    assert watched.stderr.startswith(bare.stderr)  # first the traceback, then the verdict
    run = load_run(tmp_path / "deep" / "run")
    assert (len(run), run.meta["status"]) == (3, "crashed")
    assert run.meta["error"] == {"type": "RuntimeError", "message": "after three steps"}


def test_ctrl_c_in_training(python, tmp_path):
    done = python("import signal\nmain(2)\nos.kill(os.getpid(), signal.SIGINT)\nmain(99999)", *WATCHED)
    assert done.returncode == -signal.SIGINT
    assert done.stderr.index("KeyboardInterrupt\n") < done.stderr.index("steadygrad: verdict")
    assert load_run(tmp_path / "deep" / "run").meta["status"] == "interrupted"


def test_a_policy_protects(python, tmp_path):
    done = python("main(4)", *WATCHED[:3], "--policy", "clip_by_global_norm(0.001)", *WATCHED[3:])
    assert done.returncode == 0
    run = load_run(tmp_path / "deep" / "run")
    assert (run.coefficient < 0.1).all()
    assert run.meta["policy"] == "clip_by_global_norm(0.001)"


def test_no_optimizer_step_is_said(python):
    said, _ = ours(done := python("sys.exit(4)", *WATCHED))
    assert done.returncode == 4
    assert said.count("no-optimizer-step") == 1
    assert "SystemExit" in said


def test_a_lost_record_changes_nothing_for_the_script(python):
    said, other = ours(done := python("import shutil\nmain(2)\nshutil.rmtree('deep')\nsys.exit(7)", *WATCHED))
    assert done.returncode == 7
    assert other == ""
    assert "no verdict" in said


@pytest.mark.slow
def test_spawned_children_record_nothing(python, tmp_path):
    body = """
if __name__ == "__main__":
    main(2)
    child = torch.multiprocessing.get_context("spawn").Process(target=main, args=(5,))
    child.start()
    child.join()
    sys.exit(child.exitcode)
"""
    assert python(body, *WATCHED).returncode == 0
    assert len(load_run(tmp_path / "deep" / "run")) == 2
    assert json.loads((tmp_path / "deep" / "run" / "run.json").read_text())["steps"] == 2
