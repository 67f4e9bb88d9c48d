"""No host synchronisation in the step: by the syntax tree, and under a dispatch mode that fails on one."""

import ast
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import steadygrad as sg

SOURCE = Path(__file__).resolve().parents[1] / "src" / "steadygrad"
HOT = [
    SOURCE / "apply.py",
    *SOURCE.glob("guard/*.py"),
    *SOURCE.glob("measure/*.py"),
    *SOURCE.glob("decide/*.py"),
    *SOURCE.glob("transforms/*.py"),
    *SOURCE.glob("constrain/*.py"),
]
FORBIDDEN = {"item", "cpu", "tolist"}


@pytest.mark.parametrize("path", HOT, ids=lambda p: p.name)
def test_hot_rooms_call_nothing_that_waits(path):
    calls = [
        n.func.attr
        for n in ast.walk(ast.parse(path.read_text()))
        if isinstance(n, ast.Call) and isinstance(n.func, ast.Attribute)
    ]
    assert not FORBIDDEN & set(calls)


class NoSync(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if "_local_scalar_dense" in str(func):
            raise AssertionError("a host synchronisation in the step")
        return func(*args, **(kwargs or {}))


def test_the_mode_itself_can_fail():
    with pytest.raises(AssertionError, match="synchronisation"), NoSync():
        torch.ones(1).item()


POLICIES = [
    None,
    sg.clip_by_global_norm(0.01),
    sg.clip_by_global_norm(0.01, norm_type=1.0),
    sg.clip_by_norm(0.01),
    sg.clip_by_group_norm(0.01),
    sg.clip_by_rms(0.01),
    sg.clip_by_value(0.01),
    sg.chain(sg.skip_nonfinite(max_consecutive=99), sg.clip_by_global_norm(0.01), sg.clip_by_value(0.001)),
    sg.chain(sg.clip_by_value(0.01), sg.clip_by_norm(0.01)),
    sg.masked(sg.clip_by_norm(0.01), "*weight"),
    sg.decay(0.9),
]


@pytest.mark.parametrize("engine", ["cpu", "foreach"])
@pytest.mark.parametrize("policy", POLICIES, ids=repr)
def test_a_guarded_step_of_a_fused_optimizer_never_waits(policy, engine):
    model = torch.nn.Linear(4, 3)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, fused=True)
    guard = sg.Guard(optimizer, policy, model=model, engine=engine)
    for poison in (1.0, float("nan"), 1.0):
        optimizer.zero_grad()
        (model(torch.randn(5, 4)) * poison).sum().backward()
        with NoSync():
            guard.before()
            guard.after()


@pytest.mark.parametrize("foreach", [None, True])
def test_the_drop_in_never_waits_under_pass(foreach):
    p = torch.nn.Parameter(torch.zeros(2))
    p.grad = torch.tensor([3.0, 4.0])
    with NoSync():
        norm = sg.clip_grad_norm_([p], 1.0, foreach=foreach, nonfinite="pass")
    assert norm == 5.0
