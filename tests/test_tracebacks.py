"""A watched program's own errors look as they do without the watcher, also where a call went through it."""

import subprocess
import sys

import pytest

BACKWARD = """
import torch
w = torch.nn.Parameter(torch.ones(2))
loss = (w * w).sum()
loss.backward()
loss.backward()
"""
CLOSURE = """
import torch
optimizer = torch.optim.LBFGS([torch.nn.Parameter(torch.ones(2))])
def closure():
    raise ValueError("mine")
optimizer.step(closure)
"""
ABORTED = """
import torch
w = torch.nn.Parameter(torch.ones(2))
optimizer = torch.optim.SGD([w], lr=0.1)
for _ in range(3):
    (w * float("nan")).sum().backward()
    optimizer.step()
"""


def errors_of(*command):
    done = subprocess.run([sys.executable, *map(str, command)], capture_output=True, text=True)
    assert done.returncode == 1
    return [line for line in done.stderr.splitlines() if not line.startswith("steadygrad: ")]


@pytest.mark.parametrize("code", [BACKWARD, CLOSURE], ids=["backward", "closure"])
def test_frames_that_only_pass_a_call_on_are_not_shown(code, tmp_path):
    script = tmp_path / "train.py"
    script.write_text(code)
    watched = errors_of("-m", "steadygrad", "run", "--record", tmp_path / "run", script)
    assert watched == errors_of(script)
    assert watched[0].startswith("Traceback")


def test_an_error_of_ours_shows_where_it_came_from(tmp_path):
    script = tmp_path / "train.py"
    script.write_text(ABORTED)
    policy = "skip_nonfinite(max_consecutive=1)"
    lines = errors_of("-m", "steadygrad", "run", "--policy", policy, "--record", tmp_path / "run", script)
    assert any("guard" in line for line in lines)
    assert "too-many-nonfinite" in lines[-1]
