"""Coordinate descent: which elements of a gradient come through."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from steadygrad.errors import ArgumentError, ArgumentTypeError
from steadygrad.policies import parse_policy
from steadygrad.transforms.descent import RULES, chosen_of, coordinate_descent

each_rule = pytest.mark.parametrize("rule", RULES)
grads = arrays(np.float32, st.integers(1, 40), elements=st.floats(-(2.0**100), 2.0**100, width=32))
shares = st.floats(0.01, 1.0)


@each_rule
def test_b9_a_share_of_one_is_the_full_gradient(rule, rewritten):
    grad = torch.tensor([1.0, -2.0, -0.0])
    assert rewritten(coordinate_descent(1.0, select=rule), grad).numpy().tobytes() == grad.numpy().tobytes()


@each_rule
@given(grads, shares)
def test_elements_come_through_with_all_bits_or_not_at_all(rule, rewritten, grad, share):
    out = rewritten(coordinate_descent(share, select=rule), grad).numpy()
    assert np.all((out == grad) | (out == 0))


@given(grads, shares)
def test_gauss_southwell_takes_the_largest(rewritten, grad, share):
    out = rewritten(coordinate_descent(share, select="gauss_southwell"), grad).numpy()
    least = np.sort(np.abs(grad))[-chosen_of(share, grad.size)]
    assert out.tolist() == np.where(np.abs(grad) >= least, grad, 0).tolist()


@given(st.integers(1, 30), shares)
def test_cyclic_takes_every_element_once_in_a_round(rewritten, size, share):
    policy = coordinate_descent(share, select="cyclic")
    rounds = -(-size // chosen_of(share, size))
    total = sum(rewritten(policy, torch.ones(size), step=step) for step in range(7 * rounds, 8 * rounds))
    assert total.tolist() == [1.0] * size


def test_random_is_without_bias_and_seeded(rewritten):
    policy = coordinate_descent(0.2, unbiased=True)
    n = 100_000
    out = rewritten(policy, torch.ones(n, dtype=torch.float64))
    assert set(out.tolist()) == {0.0, 5.0}
    assert abs(float(out.mean()) - 1.0) < 4 * (0.8 / 0.2 / n) ** 0.5
    assert out.equal(rewritten(policy, torch.ones(n, dtype=torch.float64)))
    for other in ({"step": 1}, {"name": "v"}, {"shard": 1}):
        assert not out.equal(rewritten(policy, torch.ones(n, dtype=torch.float64), **other))
    assert not out.equal(rewritten(coordinate_descent(0.2, unbiased=True, seed=1), torch.ones(n, dtype=torch.float64)))


def test_cyclic_without_bias_gives_the_gradient_as_its_mean(rewritten):
    policy = coordinate_descent(0.25, select="cyclic", unbiased=True)
    grad = torch.arange(8.0)
    assert (sum(rewritten(policy, grad, step=step) for step in range(4)) / 4).equal(grad)


@each_rule
def test_the_order_in_memory_does_not_matter(rule, rewritten):
    grad = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    policy = coordinate_descent(0.3, select=rule)
    assert rewritten(policy, grad.to(memory_format=torch.channels_last)).equal(rewritten(policy, grad))


@each_rule
def test_scalars_and_zeros(rule, rewritten):
    assert float(rewritten(coordinate_descent(0.999999, select=rule), torch.tensor(3.0))) == 3.0
    assert not rewritten(coordinate_descent(0.5, select=rule), torch.zeros(5)).any()


def test_text_and_refusals():
    text = "coordinate_descent(0.5, select='cyclic', unbiased=True, seed=3)"
    assert parse_policy(text).text == text
    assert coordinate_descent(1).text == "coordinate_descent(1.0)"
    for bad in ((0.0, {}), (1.1, {}), (0.5, {"select": "best"}), (0.5, {"select": "gauss_southwell", "unbiased": True})):
        with pytest.raises(ArgumentError, match="threshold-invalid"):
            coordinate_descent(bad[0], **bad[1])
    with pytest.raises(ArgumentTypeError, match="threshold-invalid"):
        coordinate_descent(0.5, seed="a")
