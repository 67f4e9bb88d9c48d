import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import steadygrad as sg


def ratio_of(after, before):
    return float((after - before).norm() / before.norm())


def test_b10_known_answer(harness):
    before = torch.tensor([3.0, 4.0])
    result = harness(sg.limit_update_ratio(0.01))(torch.tensor([3.0, 9.0]), before)
    torch.testing.assert_close(result, torch.tensor([3.0, 4.05]), rtol=1e-7, atol=0)


@given(st.floats(1e-6, 1.0), st.floats(1e-30, 1e30), st.floats(1e-30, 1e30))
def test_b10_the_bound_holds_and_the_direction_stays(harness, ratio, size, moved):
    torch.manual_seed(0)
    before = torch.randn(5, 4, dtype=torch.float64) * size
    delta = torch.randn(5, 4, dtype=torch.float64) * moved
    result = harness(sg.limit_update_ratio(ratio))(before + delta, before)
    limit = ratio * max(float(before.norm()), 1e-3 * math.sqrt(20))
    update = result - before
    rounding = 1e-15 * float((before + delta).abs().max() + before.abs().max())
    assert float(update.norm()) <= limit * (1 + 1e-6) + rounding
    if rounding < 1e-10 * min(limit, moved):
        assert float((update * delta).sum() / (update.norm() * delta.norm())) == pytest.approx(1.0, abs=1e-9)


def test_b10_limiting_twice_is_limiting_once(harness):
    before, after = torch.randn(5, 4, dtype=torch.float64), torch.randn(5, 4, dtype=torch.float64)
    run = harness(sg.limit_update_ratio(0.01))
    once = run(after.clone(), before)
    torch.testing.assert_close(run(once.clone(), before), once, rtol=1e-14, atol=0)


def test_b10_an_update_whose_squares_overflow_is_limited(harness):
    before = torch.tensor([3.0, 4.0])
    result = harness(sg.limit_update_ratio(0.01))(torch.tensor([3.0, 1e30]), before)
    torch.testing.assert_close(result, torch.tensor([3.0, 4.05]), rtol=1e-7, atol=0)


@pytest.mark.parametrize("size", [1, 100, 10000])
def test_b10_a_tensor_of_zeros_moves_by_the_floor_per_element_whatever_its_size(harness, size):
    result = harness(sg.limit_update_ratio(0.01, floor=1e-2))(torch.full((size,), 5.0), torch.zeros(size))
    torch.testing.assert_close(result, torch.full((size,), 1e-4), rtol=1e-5, atol=0)


def test_b10_a_tensor_of_zeros_arrives_in_bounded_time(harness):
    weight, run, steps = torch.zeros(3), harness(sg.limit_update_ratio(0.01)), 0
    while float(weight[0]) < 1.0 and steps < 1000:
        before = weight.clone()
        weight, steps = run(before + 1.0, before), steps + 1
    assert steps == pytest.approx(100 + math.log(1000) / math.log(1.01), rel=0.02)


def naive_lamb(weights, grads, lr, betas, eps, decay, phi=lambda norm: norm):
    """Algorithm 2 of the paper, one list of tensors, in place."""
    m = [torch.zeros_like(w) for w in weights]
    v = [torch.zeros_like(w) for w in weights]
    for t, step in enumerate(grads, start=1):
        for i, grad in enumerate(step):
            m[i] = betas[0] * m[i] + (1 - betas[0]) * grad
            v[i] = betas[1] * v[i] + (1 - betas[1]) * grad * grad
            r = (m[i] / (1 - betas[0] ** t)) / ((v[i] / (1 - betas[1] ** t)).sqrt() + eps)
            u = r + decay * weights[i]
            norms = float(weights[i].norm()), float(u.norm())
            ratio = phi(norms[0]) / norms[1] if min(norms) > 0 else 1.0
            weights[i] -= lr * ratio * u


@pytest.mark.parametrize(("low", "high"), [(0.0, math.inf), (0.5, 2.0)])
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_a19_lamb_is_the_papers(harness, low, high, decay):
    torch.manual_seed(0)
    start = [torch.randn(4, 3).double(), torch.randn(3).double(), torch.zeros(2).double()]
    grads = [[torch.randn_like(w) for w in start] for _ in range(20)]
    ours, theirs = [torch.nn.Parameter(w.clone()) for w in start], [w.clone() for w in start]
    optimizer = torch.optim.AdamW(ours, lr=0.02, betas=(0.9, 0.99), eps=1e-6, weight_decay=decay)
    harness(sg.lamb(min_norm=low, max_norm=high)).train(optimizer, grads)
    naive_lamb(theirs, grads, 0.02, (0.9, 0.99), 1e-6, decay, lambda norm: min(max(norm, low), high))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a.detach(), b, rtol=1e-10, atol=1e-13)


def test_a19_lamb_in_float32_is_the_papers_to_the_rounding_of_the_weights(harness):
    torch.manual_seed(0)
    start = [torch.randn(40, 30)]
    grads = [[torch.randn(40, 30)] for _ in range(5)]
    ours, theirs = [torch.nn.Parameter(start[0].clone())], [start[0].double()]
    harness(sg.lamb()).train(torch.optim.AdamW(ours, lr=1e-3, weight_decay=0.1), grads)
    naive_lamb(theirs, [[g.double() for g in step] for step in grads], 1e-3, (0.9, 0.999), 1e-8, 0.1)
    moved = (theirs[0] - start[0].double()).norm()
    assert float((ours[0].detach().double() - theirs[0]).norm() / moved) < 1e-4


@given(st.floats(1e-6, 1e30))
def test_a19_lamb_moves_by_the_learning_rate_whatever_the_update(harness, size):
    torch.manual_seed(0)
    before, delta = torch.randn(5, dtype=torch.float64) * 1e-20, torch.randn(5, dtype=torch.float64)
    after = before + delta * size * 1e-20
    assert ratio_of(harness(sg.lamb())(after, before, lr=0.01), before) == pytest.approx(0.01, rel=1e-6)


@pytest.mark.parametrize(("before", "after"), [([0.0, 0.0], [1.0, 2.0]), ([1.0, -0.0], [1.0, -0.0])])
def test_a19_lamb_keeps_the_bits_where_a_norm_is_zero(harness, before, after):
    result = harness(sg.lamb())(torch.tensor(after), torch.tensor(before), lr=0.1)
    assert result.numpy().tobytes() == torch.tensor(after).numpy().tobytes()
