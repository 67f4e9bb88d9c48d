"""The mean taken out of each output's gradient."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from steadygrad.policies import parse_policy
from steadygrad.transforms.centralize import centralize

numbers = st.floats(-1e6, 1e6)
matrices = arrays(np.float64, array_shapes(min_dims=2, max_dims=4, max_side=4), elements=numbers)


def naive(grad):
    return np.stack([row - row.mean() for row in grad])


def test_a16_known_answer(rewritten):
    grad = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    assert rewritten(centralize(), grad).tolist() == [[-1.0, 0.0, 1.0], [-1.0, 0.0, 1.0]]


@given(matrices)
def test_each_output_loses_its_mean_and_nothing_else(rewritten, grad):
    np.testing.assert_allclose(rewritten(centralize(), grad).numpy(), naive(grad), rtol=1e-12, atol=1e-9)


@given(matrices, st.integers(-40, 40))
def test_it_is_idempotent_commutes_with_factors_and_never_enlarges(rewritten, grad, power):
    once = rewritten(centralize(), grad)
    np.testing.assert_allclose(rewritten(centralize(), once).numpy(), once.numpy(), rtol=1e-12, atol=1e-9)
    assert rewritten(centralize(), grad * 2.0**power).equal(once * 2.0**power)
    assert float(once.norm()) <= np.linalg.norm(grad) * (1 + 1e-12)


@pytest.mark.parametrize("shape", [(), (1,), (5,)])
def test_vectors_stay_as_they_are(shape, rewritten):
    grad = torch.full(shape, 3.25)
    assert rewritten(centralize(), grad).equal(grad)


@pytest.mark.parametrize("size", [1e30, 1e-30])
def test_huge_and_tiny(size, rewritten):
    grad = size * torch.tensor([[1.0, 2.0, 3.0], [-4.0, -5.0, -6.0]])
    np.testing.assert_allclose(rewritten(centralize(), grad).numpy() / size, [[-1, 0, 1], [1, 0, -1]], atol=1e-6)


def test_a_sum_that_overflows_does_no_harm(rewritten):
    grad = torch.tensor([[3e38, 3e38, 2e38], [1.0, 2.0, 3.0]])
    assert rewritten(centralize(), grad).equal(torch.stack([grad[0], torch.tensor([-1.0, 0.0, 1.0])]))


def test_the_order_in_memory_does_not_matter(rewritten):
    grad = torch.arange(48.0).reshape(2, 3, 4, 2)
    assert rewritten(centralize(), grad.to(memory_format=torch.channels_last)).equal(rewritten(centralize(), grad))


def test_the_text_parses_back():
    assert parse_policy("centralize").text == centralize().text == "centralize()"
