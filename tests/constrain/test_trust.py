import copy
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import steadygrad as sg
from steadygrad.decision import Reason
from steadygrad.errors import UnsupportedError
from steadygrad.policy import Place


def readings_of(xp, norms, weights):
    """Readings of tensors with these norms."""
    layout = sg.Layout(tuple(f"p{i}" for i in range(len(norms))))
    squares, weights = np.array(norms) ** 2, np.array(weights)
    if xp is torch:
        squares, weights = torch.from_numpy(squares), torch.from_numpy(weights)
    return sg.Readings(layout, xp, squares, param_norm=weights)


def rewritten(policy, grad, param, xp=np, **group):
    """A gradient after the policy, as the guard would do it."""
    weight = float(param.double().norm())
    readings = readings_of(xp, [float(grad.double().norm())], [weight])
    numbers = policy.decide(readings, policy.init(readings))[0].numbers
    grad = grad.clone()
    policy.rewrite(grad, Place("w", param, group, {}, {}, {key: value[0] for key, value in numbers.items()}, 0))
    return grad


@pytest.mark.parametrize("xp", [np, torch], ids=["numpy", "torch"])
def test_a19_lars_known_answer(xp):
    param, grad = torch.tensor([0.0, 2.0]), torch.tensor([1.0, 0.0])
    result = rewritten(sg.lars(0.001, eps=0.0), grad, param, xp, weight_decay=0.0, lr=1.0)
    torch.testing.assert_close(result, torch.tensor([0.002, 0.0]), rtol=1e-6, atol=0)


def naive(weights, grads, lr, momentum, decay, trust, eps, clip):
    """Algorithm 1 of the paper at a constant learning rate; with ``clip``, the local rate is at most the global one."""
    velocity = [torch.zeros_like(w) for w in weights]
    for step in grads:
        for i, grad in enumerate(step):
            norms = float(weights[i].norm()), float(grad.norm())
            local = trust * norms[0] / (norms[1] + decay * norms[0] + eps)
            local = min(local / lr, 1.0) if clip else local
            local = local if min(norms) > 0 else 1.0
            velocity[i] = momentum * velocity[i] + lr * local * (grad + decay * weights[i])
            weights[i] -= velocity[i]


@pytest.mark.parametrize("decay", [0.0, 0.05])
@pytest.mark.parametrize("clip", [False, True], ids=["lars", "larc"])
def test_a19_is_the_papers_with_torchs_sgd(clip, decay):
    torch.manual_seed(0)
    start = [torch.randn(4, 3).double(), torch.randn(3).double(), torch.zeros(2).double()]
    grads = [[torch.randn_like(w) for w in start] for _ in range(20)]
    ours, theirs = [torch.nn.Parameter(w.clone()) for w in start], [w.clone() for w in start]
    optimizer = torch.optim.SGD(ours, lr=0.05, momentum=0.9, weight_decay=decay)
    sg.Guard(optimizer, sg.larc(0.05, eps=1e-3) if clip else sg.lars(0.05, eps=1e-3))
    for step in grads:
        for param, grad in zip(ours, step, strict=True):
            param.grad = grad.clone()
        optimizer.step()
    naive(theirs, grads, 0.05, 0.9, decay, 0.05, 1e-3, clip)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a.detach(), b, rtol=1e-10, atol=1e-13)


def test_a19_maximize_turns_the_gradient_and_not_the_decay():
    param, grad = torch.tensor([0.0, 2.0]), torch.tensor([1.0, 0.0])
    weights = []
    for maximize in (False, True):
        weight = torch.nn.Parameter(param.clone())
        optimizer = torch.optim.SGD([weight], lr=0.1, weight_decay=0.5, maximize=maximize)
        sg.Guard(optimizer, sg.lars(0.1))
        weight.grad = -grad if maximize else grad.clone()
        optimizer.step()
        weights.append(weight.detach())
    assert torch.equal(weights[0], weights[1])


def test_a19_decoupled_decay_is_not_part_of_the_ratio():
    param, grad = torch.tensor([0.0, 2.0]), torch.tensor([1.0, 0.0])
    plain = rewritten(sg.lars(), grad, param, lr=1.0)
    assert torch.equal(rewritten(sg.lars(), grad, param, lr=1.0, weight_decay=0.5, decoupled_weight_decay=True), plain)
    assert not torch.equal(rewritten(sg.lars(), grad, param, lr=1.0, weight_decay=0.5), plain)


@pytest.mark.parametrize("policy", [sg.lars(), sg.larc()], ids=repr)
@pytest.mark.parametrize(("grad", "param"), [([0.0, -0.0], [1.0, 2.0]), ([1.0, -2.0], [0.0, 0.0]), ([1.0, 2.0], [math.nan, 1.0])])
@pytest.mark.parametrize("lr", [1e-3, 1e3])
def test_a19_the_ratio_is_1_where_a_norm_is_zero_or_a_weight_is_not_finite(policy, grad, param, lr):
    given_grad = torch.tensor(grad)
    result = rewritten(policy, given_grad, torch.tensor(param), lr=lr, weight_decay=0.0)
    assert result.numpy().tobytes() == given_grad.numpy().tobytes()


def test_a19_larc_keeps_the_bits_where_the_learning_rate_is_small():
    torch.manual_seed(0)
    grad, param = torch.randn(50), torch.randn(50)
    assert torch.equal(rewritten(sg.larc(), grad, param, lr=1e-3, weight_decay=0.1), grad)
    assert not torch.equal(rewritten(sg.larc(), grad, param, lr=1.0, weight_decay=0.1), grad)


@given(st.floats(1e-30, 1e30))
def test_a19_lars_does_not_depend_on_the_size_of_the_gradient(size):
    torch.manual_seed(0)
    grad, param = torch.randn(6, dtype=torch.float64), torch.randn(6, dtype=torch.float64)
    policy = sg.lars(eps=0.0)
    reference = rewritten(policy, grad, param, lr=1.0, weight_decay=0.0)
    torch.testing.assert_close(rewritten(policy, grad * size, param, lr=1.0, weight_decay=0.0), reference, rtol=1e-12, atol=0)


@pytest.mark.parametrize("policy", [sg.lars(), sg.larc()], ids=repr)
@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize("lr", [0.5, torch.tensor(0.5)], ids=["number", "tensor"])
def test_a19_numpy_and_torch_agree(policy, decay, lr):
    torch.manual_seed(0)
    grad, param = torch.randn(6, dtype=torch.float64), torch.randn(6, dtype=torch.float64)
    one, two = (rewritten(policy, grad, param, xp, lr=lr, weight_decay=decay) for xp in (np, torch))
    torch.testing.assert_close(one, two, rtol=1e-14, atol=0)


@pytest.mark.parametrize("policy", [sg.lars(), sg.larc()], ids=repr)
@pytest.mark.parametrize("xp", [np, torch], ids=["numpy", "torch"])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a19_a_gradient_that_is_not_finite_skips_the_step(policy, xp, bad):
    readings = readings_of(xp, [1.0, bad], [1.0, 1.0])
    state = policy.init(readings)
    decision, after = policy.decide(readings, copy.deepcopy(state))
    assert decision.skip
    assert int(decision.reason) == Reason.NON_FINITE
    assert all(np.isfinite(np.asarray(value)).all() for value in decision.numbers.values())
    assert after == state == {}


def test_a19_half_precision_parameters():
    param, grad = torch.randn(6).bfloat16(), torch.randn(6)
    for xp in (np, torch):
        result = rewritten(sg.lars(), grad, param, xp, lr=1.0, weight_decay=0.1)
        expected = rewritten(sg.lars(), grad.double(), param.double(), xp, lr=1.0, weight_decay=0.1)
        torch.testing.assert_close(result.double(), expected, rtol=1e-5, atol=1e-7)


def test_a19_larc_refuses_an_optimizer_without_a_learning_rate():
    with pytest.raises(UnsupportedError, match="policy-optimizer"):
        rewritten(sg.larc(), torch.ones(2), torch.ones(2))
