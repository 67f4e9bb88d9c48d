"""The loop around one optimizer."""

import numpy as np
import pytest
import torch
from torch import nn

import steadygrad as sg
from steadygrad.decision import Reason

NAN = float("nan")
ENGINES = ["cpu", "foreach"]
OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.1),
    "dampened": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, dampening=0.5),
    "fused_sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, fused=True),
    "fused_dampened": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, dampening=0.5, fused=True),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01, weight_decay=0.1),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01),
    "foreach_adamw": lambda p: torch.optim.AdamW(p, lr=0.01, foreach=True),
    "fused_adam": lambda p: torch.optim.Adam(p, lr=0.01, weight_decay=0.1, fused=True),
    "fused_adamw": lambda p: torch.optim.AdamW(p, lr=0.01, fused=True),
    "fused_adagrad": lambda p: torch.optim.Adagrad(p, lr=0.1, fused=True),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.01),
    "nadam": lambda p: torch.optim.NAdam(p, lr=0.01),
    "radam": lambda p: torch.optim.RAdam(p, lr=0.01),
    "adamax": lambda p: torch.optim.Adamax(p, lr=0.01),
    "adadelta": lambda p: torch.optim.Adadelta(p),
    "adafactor": lambda p: torch.optim.Adafactor(p),
}


def model_and(make):
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
    return model, make(model.parameters())


def backward(model, step, poison=None):
    generator = torch.Generator().manual_seed(step)
    x = torch.randn(16, 4, generator=generator)
    loss = (model(x) - x.sum(1, keepdim=True)).square().mean()
    model.zero_grad()
    (loss * (NAN if step == poison else 1.0)).backward()
    return loss


def parameters(model):
    return [p.detach().clone() for p in model.parameters()]


def assert_close(a, b, rtol=0.0):
    for x, y in zip(a, b, strict=True):
        torch.testing.assert_close(x, y, rtol=rtol, atol=rtol)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_clipping_equals_clipping_by_hand(name, engine):
    by_hand, optimizer = model_and(OPTIMIZERS[name])
    for step in range(6):
        backward(by_hand, step)
        torch.nn.utils.clip_grad_norm_(by_hand.parameters(), 0.2)
        optimizer.step()
    guarded, optimizer = model_and(OPTIMIZERS[name])
    guard = sg.Guard(optimizer, sg.clip_by_global_norm(0.2), model=guarded, engine=engine)
    for step in range(6):
        backward(guarded, step)
        optimizer.step()
    assert_close(parameters(guarded), parameters(by_hand), rtol=2e-5)
    assert int(guard.decision.reason) == Reason.CLIPPED
    assert not hasattr(optimizer, "grad_scale")


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("poison", [0, 3])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_skip_moves_no_parameter_no_moment_no_counter(name, poison, engine):
    bare, optimizer = model_and(OPTIMIZERS[name])
    for step in range(6):
        backward(bare, step)
        if step != poison:
            optimizer.step()
    guarded, watched = model_and(OPTIMIZERS[name])
    guard = sg.Guard(watched, sg.skip_nonfinite(), engine=engine)
    for step in range(6):
        backward(guarded, step, poison)
        watched.step()
        assert guard.skipped is (step == poison)
    assert_close(parameters(guarded), parameters(bare))
    for p, q in zip(guarded.parameters(), bare.parameters(), strict=True):
        for key, value in optimizer.state[q].items():
            assert value is None or torch.equal(torch.as_tensor(watched.state[p][key]), torch.as_tensor(value)), key
    assert (guard.num_steps, guard.num_skipped) == (6, 1)
    assert not hasattr(watched, "found_inf")


def test_gradients_are_given_back_after_a_skip():
    model, optimizer = model_and(OPTIMIZERS["adam"])
    sg.Guard(optimizer, sg.skip_nonfinite())
    backward(model, 0, poison=0)
    grads = [p.grad for p in model.parameters()]
    optimizer.step()
    assert all(p.grad is g for p, g in zip(model.parameters(), grads, strict=True))


@pytest.mark.parametrize("name", ["momentum", "fused_adamw", "adam"])
def test_closures_are_wrapped(name):
    by_hand, optimizer = model_and(OPTIMIZERS[name])
    guarded, watched = model_and(OPTIMIZERS[name])
    guard = sg.Guard(watched, sg.clip_by_global_norm(0.2))
    for step in range(4):
        backward(by_hand, step)
        torch.nn.utils.clip_grad_norm_(by_hand.parameters(), 0.2)
        optimizer.step()
        if step % 2:
            loss = watched.step(closure=lambda step=step: backward(guarded, step))
        else:
            loss = watched.step(lambda step=step: backward(guarded, step))
        assert loss.ndim == 0
    assert_close(parameters(guarded), parameters(by_hand), rtol=1e-5)
    assert guard.num_steps == 4


def test_lbfgs_with_a_limit_that_does_not_bind_is_bit_equal():
    results = []
    for limit in (None, 1e9):
        model, optimizer = model_and(lambda p: torch.optim.LBFGS(p, lr=0.5, line_search_fn="strong_wolfe"))
        if limit:
            sg.Guard(optimizer, sg.clip_by_global_norm(limit))
        for _ in range(3):
            optimizer.step(lambda model=model: backward(model, 0))
        results.append(parameters(model))
    assert_close(*results)


def test_lbfgs_skip_in_the_middle_of_a_step_restores_its_beginning():
    model, optimizer = model_and(lambda p: torch.optim.LBFGS(p, lr=0.5))
    guard = sg.Guard(optimizer, sg.skip_nonfinite())
    optimizer.step(lambda: backward(model, 0))
    before = parameters(model)
    state = {k: v.clone() if torch.is_tensor(v) else v for k, v in next(iter(optimizer.state.values())).items()}
    calls = []

    def closure():
        calls.append(1)
        return backward(model, 0, poison=0 if len(calls) == 3 else None)

    optimizer.step(closure)
    assert len(calls) >= 3
    assert guard.skipped
    assert_close(parameters(model), before)
    after = next(iter(optimizer.state.values()))
    assert torch.equal(after["prev_flat_grad"], state["prev_flat_grad"])
    assert after["n_iter"] == state["n_iter"]


def test_parameter_groups_and_add_param_group():
    a, b, c = (nn.Parameter(torch.ones(2)) for _ in range(3))
    optimizer = torch.optim.SGD([{"params": [a]}, {"params": [b], "lr": 0.01}], lr=1.0)
    guard = sg.Guard(optimizer, sg.clip_by_group_norm(1.0))
    for p in (a, b):
        p.grad = torch.tensor([30.0, 40.0])
    optimizer.step()
    torch.testing.assert_close(a.detach(), torch.tensor([0.4, 0.2]))
    torch.testing.assert_close(b.detach(), torch.tensor([0.994, 0.992]))
    optimizer.add_param_group({"params": [c]})
    for p in (a, b, c):
        p.grad = torch.tensor([0.3, 0.4])
    optimizer.step()
    assert guard.readings.layout.groups == (0, 1, 2)
    assert guard.readings.names[2] == "group2.param0"


def test_absent_gradients_and_per_tensor_factors():
    a, b = (nn.Parameter(torch.ones(2)) for _ in range(2))
    optimizer = torch.optim.SGD([a, b], lr=1.0)
    sg.Guard(optimizer, sg.clip_by_norm(1.0))
    b.grad = torch.tensor([30.0, 40.0])
    optimizer.step()
    assert a.tolist() == [1.0, 1.0]
    torch.testing.assert_close(b.detach(), torch.tensor([0.4, 0.2]))


def test_a_transform_in_the_middle_measures_again():
    a = nn.Parameter(torch.zeros(2))
    optimizer = torch.optim.SGD([a], lr=1.0)
    guard = sg.Guard(optimizer, sg.chain(sg.clip_by_value(3.0), sg.clip_by_global_norm(1.0)))
    a.grad = torch.tensor([3.0, 400.0])
    optimizer.step()
    torch.testing.assert_close(-a.detach(), torch.tensor([0.5**0.5, 0.5**0.5]))
    assert float(guard.total_norm) == pytest.approx(400.01125)


@pytest.mark.parametrize("engine", ENGINES)
def test_max_consecutive_raises_and_leaves_parameters_alone(engine):
    model, optimizer = model_and(OPTIMIZERS["adamw"])
    guard = sg.Guard(optimizer, sg.skip_nonfinite(max_consecutive=2), engine=engine)
    before = parameters(model)

    def train():
        for _ in range(40):
            backward(model, 0, poison=0)
            optimizer.step()

    with pytest.raises(sg.NonFiniteGradientError, match="too-many-nonfinite"):
        train()
    assert_close(parameters(model), before)
    assert guard.num_steps <= 16


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", ["momentum", "fused_adam"])
def test_resume_is_bit_for_bit(name, engine, tmp_path):
    policy = sg.chain(sg.skip_nonfinite(max_consecutive=9), sg.decay(0.9), sg.clip_by_global_norm(0.3))

    def run(first, last, model, optimizer, guard):
        for step in range(first, last):
            backward(model, step, poison=2)
            optimizer.step()
        return {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "guard": guard.state_dict()}

    model, optimizer = model_and(OPTIMIZERS[name])
    whole = run(0, 8, model, optimizer, sg.Guard(optimizer, policy, engine=engine))
    model, optimizer = model_and(OPTIMIZERS[name])
    torch.save(run(0, 3, model, optimizer, sg.Guard(optimizer, policy, engine=engine)), tmp_path / "c.pt")
    model, optimizer = model_and(OPTIMIZERS[name])
    guard = sg.Guard(optimizer, policy, engine=engine)
    saved = torch.load(tmp_path / "c.pt", weights_only=True)
    model.load_state_dict(saved["model"])
    optimizer.load_state_dict(saved["optimizer"])
    guard.load_state_dict(saved["guard"])
    resumed = run(3, 8, model, optimizer, guard)
    for key, value in whole["model"].items():
        assert torch.equal(resumed["model"][key], value)
    assert resumed["guard"]["num_steps"] == 8
    assert resumed["guard"]["num_skipped"] == whole["guard"]["num_skipped"] == 1
    for key, value in whole["guard"]["state"].items():
        assert torch.equal(resumed["guard"]["state"][key], value)


def test_state_of_another_policy_is_refused():
    _, optimizer = model_and(OPTIMIZERS["sgd"])
    guard = sg.Guard(optimizer, sg.skip_nonfinite())
    with pytest.raises(ValueError, match="state-mismatch"):
        guard.load_state_dict(sg.Guard(optimizer, sg.clip_by_norm(1.0)).state_dict())


def test_detach_leaves_the_optimizer_as_it_was():
    model, optimizer = model_and(OPTIMIZERS["sgd"])
    guard = sg.Guard(optimizer, sg.clip_by_global_norm(1e-9))
    guard.detach()
    before = parameters(model)
    backward(model, 0)
    optimizer.step()
    assert guard.num_steps == 0
    assert not torch.equal(before[0], parameters(model)[0])


def test_an_error_in_the_step_leaves_nothing_behind():
    model, optimizer = model_and(OPTIMIZERS["fused_adamw"])
    guard = sg.Guard(optimizer, sg.clip_by_global_norm(1e-3))
    backward(model, 0)
    optimizer.param_groups[0]["betas"] = None
    with pytest.raises(TypeError):
        optimizer.step()
    optimizer.param_groups[0]["betas"] = (0.9, 0.999)
    before = parameters(model)
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    assert not hasattr(optimizer, "grad_scale")
    assert torch.isfinite(parameters(model)[0] - before[0]).all()
    assert guard.num_steps == 2


def test_record_holds_what_happened(tmp_path):
    model, optimizer = model_and(OPTIMIZERS["fused_adamw"])
    guard = sg.Guard(optimizer, sg.chain(sg.skip_nonfinite(), sg.clip_by_global_norm(0.1)), model=model, record=tmp_path / "run")
    norms = []
    for step in range(12):
        backward(model, step, poison=5)
        norms.append([float(p.grad.norm()) for p in model.parameters()])
        optimizer.step()
    guard.detach()
    run = sg.load_run(tmp_path / "run")
    np.testing.assert_allclose(run.grad_norm, np.array(norms), rtol=1e-5)
    assert run.names == ("0.weight", "0.bias", "2.weight", "2.bias")
    assert run.skipped.tolist() == [step == 5 for step in range(12)]
    np.testing.assert_allclose(np.delete(run.total_norm_after, 5), 0.1, rtol=1e-4)
    assert [e["kind"] for e in run.events] == ["attach", "nonfinite", "skip"]
    assert run.events[2]["message"] == Reason.NON_FINITE.message
    assert run.events[1]["nan"] == list(run.names)
    assert run.meta["policy"] == "chain(skip_nonfinite(), clip_by_global_norm(0.1))"
    assert run.checkups.step.tolist() == [1, 10]
    assert np.isfinite(run.checkups.update_ratio).all()


def test_what_is_no_optimizer_or_policy_is_refused():
    _, optimizer = model_and(OPTIMIZERS["sgd"])
    with pytest.raises(TypeError, match="not-an-optimizer"):
        sg.Guard(object(), sg.skip_nonfinite())
    with pytest.raises(TypeError, match="not-a-policy"):
        sg.Guard(optimizer, "skip_nonfinite()")
