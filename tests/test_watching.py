"""Watching an unmodified loop: nothing changes, nothing breaks, nothing is silent."""

import random

import numpy as np
import pytest
import torch
from torch import nn

import steadygrad as sg
from steadygrad import watching
from steadygrad.diagnose import diagnose


def plain_loop(steps=12):
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.3), nn.ReLU(), nn.Linear(8, 2))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    losses = []
    for _ in range(steps):
        x = torch.randn(16, 4)
        loss = nn.functional.cross_entropy(model(x), (x.sum(1) > 0).long())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses, list(model.parameters())


def recurrent_loop(steps=8):
    torch.manual_seed(4)
    model = nn.LSTM(3, 5, num_layers=2, dropout=0.2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, fused=True)
    losses = []
    for _ in range(steps):
        out, _ = model(torch.randn(7, 4, 3))
        loss = out.square().mean()
        optimizer.zero_grad(set_to_none=False)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        optimizer.step()
        losses.append(loss.item())
    return losses, list(model.parameters())


def gan_loop(steps=6):
    torch.manual_seed(5)
    critic, maker = nn.Linear(2, 1), nn.Linear(3, 2)
    a = torch.optim.Adam(critic.parameters(), lr=0.01)
    b = torch.optim.Adam(maker.parameters(), lr=0.01)
    losses = []
    for _ in range(steps):
        fake = maker(torch.randn(8, 3))
        a.zero_grad()
        critic(torch.randn(8, 2)).mean().backward()
        (-critic(fake.detach()).mean()).backward()
        a.step()
        b.zero_grad()
        loss = critic(fake).mean()
        loss.backward()
        b.step()
        losses.append(loss.item())
    return losses, [*critic.parameters(), *maker.parameters()]


def closure_loop(steps=5):
    torch.manual_seed(6)
    model = nn.Linear(3, 1)
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.3)
    x = torch.randn(20, 3)
    losses = []

    def closure():
        optimizer.zero_grad()
        loss = (model(x) - x.sum(1, keepdim=True)).square().mean()
        loss.backward()
        return loss

    for _ in range(steps):
        losses.append(optimizer.step(closure).item())
    return losses, list(model.parameters())


@pytest.mark.parametrize("loop", [plain_loop, recurrent_loop, gan_loop, closure_loop])
def test_a_watched_run_is_bit_identical_to_the_bare_one(loop, tmp_path):
    bare_losses, bare = loop()
    bare_state = (torch.get_rng_state(), random.getstate(), np.random.get_state()[1])
    with sg.watch(tmp_path / "run") as session:
        losses, params = loop()
    assert losses == bare_losses
    assert all(torch.equal(p, q) for p, q in zip(params, bare, strict=True))
    assert torch.equal(torch.get_rng_state(), bare_state[0])
    assert random.getstate() == bare_state[1]
    assert np.array_equal(np.random.get_state()[1], bare_state[2])
    assert session.notes == []
    assert session.num_steps >= len(losses)


def test_record_of_a_plain_loop(tmp_path):
    with sg.watch(tmp_path / "run", argv=["train.py", "--lr", "1"]):
        losses, _ = plain_loop()
    run = sg.load_run(tmp_path / "run")
    np.testing.assert_allclose(run.loss, losses)
    assert run.names == ("0.weight", "0.bias", "3.weight", "3.bias")
    assert run.step.tolist() == list(range(1, 13))
    assert run.meta["status"] == "finished"
    assert run.meta["argv"] == ["train.py", "--lr", "1"]
    assert np.isfinite(run.grad_norm).all()
    assert (run.lr == 0.01).all()


def test_one_guard_per_optimizer_and_losses_that_add_up(tmp_path):
    with sg.watch(tmp_path / "run"):
        losses, _ = gan_loop()
    run = sg.load_run(tmp_path / "run")
    assert run.optimizer.tolist() == [0, 1] * 6
    np.testing.assert_allclose(run.loss[1::2], losses, rtol=1e-6)
    assert run.present.tolist() == [[True, True, False, False], [False, False, True, True]] * 6


def test_a_policy_protects(tmp_path):
    with sg.watch(tmp_path / "run", policy=sg.clip_by_global_norm(1e-3)):
        plain_loop()
    run = sg.load_run(tmp_path / "run")
    np.testing.assert_allclose(run.total_norm_after, 1e-3, rtol=1e-3)


@pytest.mark.parametrize("loop", [plain_loop, gan_loop, closure_loop, recurrent_loop])
def test_the_quick_way_and_the_long_way_record_the_same(loop, tmp_path, monkeypatch):
    with sg.watch(tmp_path / "quick"):
        loop()
    monkeypatch.setattr("steadygrad.guard.observer.Observer._glance", lambda self: False)
    with sg.watch(tmp_path / "long"):
        loop()
    quick, long = sg.load_run(tmp_path / "quick"), sg.load_run(tmp_path / "long")
    for column in (
        "step",
        "optimizer",
        "loss",
        "total_norm",
        "total_norm_after",
        "coefficient",
        "skipped",
        "reason",
        "lr",
        "grad_norm",
    ):
        np.testing.assert_array_equal(getattr(quick, column), getattr(long, column), err_msg=column)
    assert quick.checkups.step.tolist() == long.checkups.step.tolist()


def test_the_quick_way_leaves_what_is_unusual_to_the_long_way(tmp_path):
    a, b = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(3))
    optimizer = torch.optim.SGD([a, b], lr=0.0)
    with sg.watch(tmp_path / "run"):
        for grads in ([1.0, 2.0], [3.0, None], [float("nan"), 1.0], [4.0, 1e-30], [5.0, 6.0]):
            for p, value in zip((a, b), grads, strict=True):
                p.grad = None if value is None else torch.full_like(p, value)
            optimizer.step()
    run = sg.load_run(tmp_path / "run")
    assert run.step.tolist() == [1, 2, 3, 4, 5]
    assert run.present.tolist() == [[True, True], [True, False], [True, True], [True, True], [True, True]]
    np.testing.assert_allclose(run.grad_norm[3], [4 * 2**0.5, 1e-30 * 3**0.5], rtol=1e-6)
    assert [e["kind"] for e in run.events] == ["attach", "nonfinite"]


def test_a_norm_that_overflows_float32_is_reported_and_diagnosed(tmp_path):
    w = nn.Parameter(torch.ones(2))
    optimizer = torch.optim.SGD([w], lr=0.0)
    with sg.watch(tmp_path / "run"):
        for value in [1.0] * 12 + [3e38] + [1.0] * 12:
            w.grad = torch.full_like(w, value)
            optimizer.step()
    run = sg.load_run(tmp_path / "run")
    assert [(e["kind"], e["step"]) for e in run.events] == [("attach", 0), ("nonfinite", 13)]
    assert run.events[1]["overflowed"] == list(run.names)
    assert "norm-overflow" in {finding.slug for finding in diagnose(run)}


def test_nothing_is_left_behind(tmp_path):
    backward, scale = torch.autograd.backward, torch.amp.GradScaler.scale
    w = nn.Parameter(torch.ones(2))
    optimizer = torch.optim.SGD([w], lr=0.1)
    with sg.watch(tmp_path / "run"):
        w.sum().backward()
        optimizer.step()
        assert torch.autograd.backward is not backward
    assert torch.autograd.backward is backward
    assert torch.amp.GradScaler.scale is scale
    assert not [key for key in vars(optimizer) if "steadygrad" in key]
    optimizer.step()
    assert len(sg.load_run(tmp_path / "run")) == 1


def test_a_broken_watcher_switches_itself_off_and_says_so(tmp_path, monkeypatch):
    bare_losses, _ = plain_loop()

    def broken(*_, **__):
        raise RuntimeError("no measure today")

    with sg.watch(tmp_path / "run") as session:
        monkeypatch.setattr("steadygrad.guard.loop.measure", broken)
        losses, _ = plain_loop()
    assert losses == bare_losses
    assert "watch-off" in session.notes[0]
    assert "no measure today" in session.notes[0]


@pytest.mark.parametrize("loop", [closure_loop, recurrent_loop])
@pytest.mark.parametrize("part", ["steadygrad.guard.loop.measure", "steadygrad.loss.LossTap._note"])
def test_no_part_of_the_watcher_can_break_training(loop, part, tmp_path, monkeypatch):
    bare_losses, _ = loop()

    def broken(*_, **__):
        raise RuntimeError("broken part")

    monkeypatch.setattr(part, broken)
    with sg.watch(tmp_path / "run") as session:
        losses, _ = loop()
    assert losses == bare_losses
    assert sum("watch-off" in note for note in session.notes) == 1


def test_a_broken_protection_is_loud(tmp_path, monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("no measure today")

    monkeypatch.setattr("steadygrad.guard.intervention.measure", broken)
    with pytest.raises(RuntimeError, match="no measure today"), sg.watch(tmp_path / "run", policy=sg.skip_nonfinite()):
        plain_loop()


def test_no_optimizer_step_is_said(tmp_path):
    with sg.watch(tmp_path / "run") as session:
        pass
    assert any("no-optimizer-step" in note for note in session.notes)


def test_the_end_of_the_run_is_recorded(tmp_path):
    with pytest.raises(KeyboardInterrupt), sg.watch(tmp_path / "stopped"):
        raise KeyboardInterrupt
    with pytest.raises(ZeroDivisionError), sg.watch(tmp_path / "crashed"):
        raise ZeroDivisionError("by zero")
    assert sg.load_run(tmp_path / "stopped").meta["status"] == "interrupted"
    assert sg.load_run(tmp_path / "crashed").meta["error"]["type"] == "ZeroDivisionError"


def test_one_watch_at_a_time(tmp_path):
    with sg.watch(tmp_path / "a"), pytest.raises(sg.SteadygradError, match="watch-nested"), sg.watch(tmp_path / "b"):
        pass
    assert not (tmp_path / "b").exists()
    with pytest.raises(TypeError, match="not-a-policy"):
        sg.watch(tmp_path / "c", policy="clip")


class Lookahead(torch.optim.Optimizer):
    """An optimizer that wraps another, as third-party ones do."""

    def __init__(self, inner):
        super().__init__(inner.param_groups, {})
        self.inner = inner

    def step(self, closure=None):
        return self.inner.step(closure)


def test_an_optimizer_that_wraps_another_counts_once(tmp_path):
    w = nn.Parameter(torch.ones(2))
    optimizer = Lookahead(torch.optim.SGD([w], lr=0.1))
    with sg.watch(tmp_path / "run"):
        for _ in range(3):
            w.square().sum().backward()
            optimizer.step()
    run = sg.load_run(tmp_path / "run")
    assert run.step.tolist() == [1, 2, 3]
    assert len(run.names) == 1


def test_watching_keeps_no_model_alive(tmp_path):
    import gc
    import weakref

    with sg.watch(tmp_path / "run"):
        w = nn.Parameter(torch.ones(2))
        optimizer = torch.optim.SGD([w], lr=0.1)
        w.sum().backward()
        optimizer.step()
        alive = weakref.ref(optimizer)
        del optimizer, w
        gc.collect()
        assert alive() is None


def test_loss_of_a_scaler_is_the_unscaled_one(tmp_path):
    w = nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([w], lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    with sg.watch(tmp_path / "run"):
        scaler.scale((3 * w).sum()).backward()
        scaler.step(optimizer)
        scaler.update()
    run = sg.load_run(tmp_path / "run")
    assert run.loss.tolist() == [3.0]
    assert run.total_norm.tolist() == [3.0]


def test_active_is_cleared_after_an_error_on_entering(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(sg.SteadygradError), sg.watch(tmp_path / "file"):
        pass
    assert watching.watch._active is None
