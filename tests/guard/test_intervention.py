"""Transforms, constraints, factors on the update and per-tensor state, carried out on real optimizers."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

import steadygrad as sg
from steadygrad.decide.limits import rewriting
from steadygrad.decision import Decision
from steadygrad.errors import UnsupportedError
from steadygrad.policy import Constraint, Policy, stateless


def halving(**numbers):
    """A transform that halves every element and counts its calls in its memory."""

    def rewrite(grad, place):
        place.memory.setdefault("count", torch.zeros(())).add_(1)
        grad.mul_(0.5)

    return Policy(stateless, lambda r, s: (rewriting(r, numbers), s), "halving()", rewrites=True, rewrite=rewrite)


def constrained(limit, **kwargs):
    return Policy(stateless, lambda r, s: (Decision(), s), "constrained()", constraints=(Constraint(limit, **kwargs),))


def counting():
    """A policy with one counter per tensor."""

    def init(readings):
        return {"tensor_steps": np.zeros(len(readings)), "steps": np.int64(0)}

    def decide(readings, state):
        return Decision(), {"tensor_steps": state["tensor_steps"] + 1, "steps": state["steps"] + 1}

    return Policy(init, decide, "counting()")


def a_model(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))


def backward(model, scale=1.0):
    model.zero_grad()
    (scale * model(torch.ones(5, 3)).square().sum()).backward()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_transform_rewrites_in_place(dtype):
    model = a_model().to(dtype)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    sg.Guard(optimizer, halving(), model=model)
    model.zero_grad()
    model(torch.ones(5, 3, dtype=dtype)).square().sum().backward()
    before = [(p.detach().clone(), p.grad.clone()) for p in model.parameters()]
    optimizer.step()
    for p, (old, grad) in zip(model.parameters(), before, strict=True):
        torch.testing.assert_close(p.detach(), old - grad / 2, rtol=0, atol=0)


@pytest.mark.parametrize("engine", ["cpu", "foreach"])
@pytest.mark.parametrize("fused", [False, True])
def test_a_transform_never_sees_what_is_not_finite(engine, fused):
    model = a_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0, fused=fused)
    guard = sg.Guard(optimizer, halving(), model=model, engine=engine)
    backward(model)
    optimizer.step()
    saved, weights = copy.deepcopy(guard.state_dict()), copy.deepcopy(model.state_dict())
    backward(model)
    model[0].weight.grad[0, 0] = float("nan")
    optimizer.step()
    assert guard.skipped
    for key, value in guard.state_dict()["memory"].items():
        assert torch.equal(value, saved["memory"][key])
    assert all(torch.equal(v, weights[k]) for k, v in model.state_dict().items())


def test_masked_transforms_leave_the_others_alone():
    model = a_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    sg.Guard(optimizer, sg.masked(halving(), "*.weight"), model=model)
    backward(model)
    grads = {name: p.grad.clone() for name, p in model.named_parameters()}
    optimizer.step()
    for name, p in model.named_parameters():
        assert torch.equal(p.grad, grads[name] * (0.5 if name.endswith("weight") else 1.0))


def test_masked_bounds_leave_the_others_alone():
    model = a_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    sg.Guard(optimizer, sg.masked(sg.clip_by_value(1e-3), "0.*"), model=model)
    backward(model)
    grads = {name: p.grad.clone() for name, p in model.named_parameters()}
    optimizer.step()
    for name, p in model.named_parameters():
        assert torch.equal(p.grad, grads[name].clamp(-1e-3, 1e-3) if name.startswith("0.") else grads[name])


def test_after_a_transform_a_chain_measures_again():
    model = a_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    sg.Guard(optimizer, sg.chain(sg.clip_by_global_norm(2.0, eps=0.0), halving(), sg.clip_by_global_norm(0.75, eps=0.0)))
    backward(model, 100.0)
    optimizer.step()
    assert sg.get_total_norm([p.grad for p in model.parameters()]).item() == pytest.approx(0.75, rel=1e-6)


def test_what_a_transform_cannot_do_is_told_before_anything_is_changed():
    embedding = nn.Embedding(4, 2, sparse=True)
    optimizer = torch.optim.SGD(embedding.parameters(), lr=1.0)
    sg.Guard(optimizer, halving())
    embedding(torch.tensor([1, 1])).sum().backward()
    with pytest.raises(UnsupportedError, match="sparse-rewrite"):
        optimizer.step()
    w = nn.Parameter(torch.ones(2, dtype=torch.complex64))
    optimizer = torch.optim.SGD([w], lr=1.0)
    sg.Guard(optimizer, halving())
    w.grad = torch.ones(2, dtype=torch.complex64)
    with pytest.raises(UnsupportedError, match="complex-rewrite"):
        optimizer.step()
    assert torch.equal(w.grad, torch.ones(2, dtype=torch.complex64))


def test_a_loss_scale_must_be_gone_before_a_transform():
    model = a_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0, fused=True)
    sg.Guard(optimizer, halving())
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    scaler.scale(model(torch.ones(1, 3)).sum()).backward()
    with pytest.raises(UnsupportedError, match="scaled-rewrite"):
        scaler.step(optimizer)


def test_constraints_act_after_the_step_and_only_on_what_moved():
    model = a_model()
    model[2].bias.requires_grad_(False)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    seen = []

    def limit(place):
        seen.append((place.name, place.step, place.group["lr"]))
        place.param.copy_(place.before)

    sg.Guard(optimizer, constrained(limit, wants_before=True, wants=("lr",)), model=model)
    weights = copy.deepcopy(model.state_dict())
    backward(model)
    optimizer.step()
    assert all(torch.equal(v, weights[k]) for k, v in model.state_dict().items())
    assert seen == [("0.weight", 0, 1.0), ("0.bias", 0, 1.0), ("2.weight", 0, 1.0)]


def test_constraints_leave_skipped_steps_alone():
    model = a_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    sg.Guard(optimizer, sg.chain(sg.skip_nonfinite(), constrained(lambda place: place.param.zero_())), model=model)
    backward(model, float("inf"))
    optimizer.step()
    assert all(p.abs().sum() > 0 for p in model.parameters())


def test_masked_constraints():
    model = a_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    sg.Guard(optimizer, sg.masked(constrained(lambda place: place.param.zero_()), "2.*"), model=model)
    backward(model)
    optimizer.step()
    assert [bool(p.any()) for p in model.parameters()] == [True, True, False, False]


@pytest.mark.parametrize("engine", ["cpu", "foreach"])
def test_a_factor_on_the_update(engine):
    model, twin = a_model(), a_model()
    factors = np.array([1.0, 0.5, 0.25, 1.0])

    def decide(readings, state):
        return Decision(update_scale=factors if readings.xp is np else torch.from_numpy(factors)), state

    optimizers = [torch.optim.AdamW(m.parameters(), lr=0.1) for m in (model, twin)]
    sg.Guard(optimizers[0], Policy(stateless, decide, "scaled()"), model=model, engine=engine)
    for m, optimizer in zip((model, twin), optimizers, strict=True):
        backward(m)
        before = [p.detach().clone() for p in m.parameters()]
        optimizer.step()
    for p, q, old, factor in zip(model.parameters(), twin.parameters(), before, factors, strict=True):
        torch.testing.assert_close(p, old + factor * (q - old))
        if factor == 1.0:
            assert torch.equal(p, q)


def test_withheld_parameters_take_no_part():
    model = a_model()
    away = np.array([False, True, False, True])
    policy = Policy(stateless, lambda r, s: (Decision(withhold=away), s), "away()")
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    sg.Guard(optimizer, policy, model=model)
    weights = [p.detach().clone() for p in model.parameters()]
    backward(model)
    optimizer.step()
    for p, old, gone in zip(model.parameters(), weights, away, strict=True):
        assert torch.equal(p, old) == gone
        assert (p in optimizer.state) != gone
        assert p.grad is not None


def test_state_grows_with_the_parameters():
    model = a_model()
    optimizer = torch.optim.SGD(model[0].parameters(), lr=0.1)
    guard = sg.Guard(optimizer, sg.chain(sg.skip_nonfinite(), counting()), model=model)
    for _ in range(3):
        backward(model)
        optimizer.step()
    optimizer.add_param_group({"params": list(model[2].parameters())})
    backward(model)
    optimizer.step()
    assert guard.state_dict()["state"]["0.1.tensor_steps"].tolist() == [4, 4, 1, 1]
    assert guard.state_dict()["state"]["0.1.steps"] == 4


def test_a_saved_guard_goes_on_bit_for_bit():
    def train(policy, resume_at=None):
        model = a_model()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
        guard = sg.Guard(optimizer, policy, model=model)
        for step in range(6):
            if step == resume_at:
                saved = copy.deepcopy(guard.state_dict())
                guard.detach()
                guard = sg.Guard(optimizer, policy, model=model)
                guard.load_state_dict(saved)
            backward(model)
            optimizer.step()
        return guard.state_dict(), model.state_dict()

    policy = sg.chain(counting(), halving())
    (state, weights), (again, others) = train(policy), train(policy, resume_at=3)
    assert state["memory"].keys() == again["memory"].keys()
    for key, value in {**state["memory"], **state["state"]}.items():
        assert torch.equal(value, {**again["memory"], **again["state"]}[key])
    assert all(torch.equal(v, others[k]) for k, v in weights.items())


def test_state_of_other_parameters_is_refused():
    guard = sg.Guard(torch.optim.SGD((model := a_model()).parameters(), lr=0.1), counting())
    backward(model)
    guard.optimizer.step()
    other = nn.Linear(2, 2)
    fresh = sg.Guard(torch.optim.SGD(other.parameters(), lr=0.1), counting())
    fresh.load_state_dict(guard.state_dict())
    other(torch.ones(1, 2)).sum().backward()
    with pytest.raises(sg.ArgumentError, match="state-mismatch"):
        fresh.optimizer.step()


@pytest.mark.parametrize("needs", [{"second_moment"}, {"update_rms"}])
def test_a_missing_second_moment_is_told_when_attached(needs):
    policy = Policy(stateless, lambda r, s: (Decision(), s), "wanting()", frozenset(needs))
    model = a_model()
    for refused in (torch.optim.SGD, torch.optim.Adamax, torch.optim.RMSprop):
        with pytest.raises(UnsupportedError, match="policy-optimizer"):
            sg.Guard(refused(model.parameters(), lr=0.1), policy)
    for taken in (torch.optim.Adam, torch.optim.AdamW, torch.optim.NAdam, torch.optim.RAdam):
        sg.Guard(taken(model.parameters(), lr=0.1), policy)


def test_a_missing_setting_is_told_when_attached():
    with pytest.raises(UnsupportedError, match="'weight_decay' in each"):
        sg.Guard(torch.optim.Rprop(a_model().parameters()), constrained(lambda place: None, wants=("weight_decay",)))


def test_a_rewritten_half_precision_gradient_stays_finite():
    w = nn.Parameter(torch.ones(3, dtype=torch.float16))
    optimizer = torch.optim.SGD([w], lr=0.0)
    sg.Guard(
        optimizer, Policy(stateless, lambda r, s: (rewriting(r), s), "up()", rewrites=True, rewrite=lambda g, _: g.mul_(1.5))
    )
    w.grad = torch.tensor([65504.0, -65504.0, 2.0], dtype=torch.float16)
    optimizer.step()
    assert w.grad.tolist() == [65504.0, -65504.0, 3.0]


def test_weights_norms_are_read_every_tenth_step():
    seen = []

    def decide(readings, state):
        seen.append(readings.param_norm is not None)
        return Decision(), state

    model = a_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    sg.Guard(optimizer, Policy(stateless, decide, "now_and_then()", frozenset({"param_norm:10"})), model=model)
    for _ in range(21):
        backward(model)
        optimizer.step()
    assert [i for i, there in enumerate(seen) if there] == [0, 10, 20]


def test_recording_changes_no_decision(tmp_path):
    """Check-ups read the weights' norms more often than the policy asked for; it must not see them."""

    def train(record):
        model = a_model()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
        guard = sg.Guard(optimizer, sg.weight_relative_clip(0.01), model=model, record=record)
        for _ in range(14):
            backward(model)
            optimizer.step()
        guard.detach()
        return model.state_dict()

    bare, recorded = train(None), train(tmp_path / "run")
    assert all(torch.equal(value, recorded[key]) for key, value in bare.items())
