import numpy as np
import pytest
import torch
from helpers import run_transform
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from steadygrad.transforms.sign import onebit, sign

ordinary = arrays(np.float32, st.integers(1, 40), elements=st.floats(-100, 100, width=32)).map(torch.from_numpy)


def test_b3_known_answer():
    votes = sum(run_transform(sign(), torch.tensor(grad)) for grad in ([1.0, -2.0], [3.0, -1.0], [-5.0, 4.0]))
    assert run_transform(sign(), votes).tolist() == [1.0, -1.0]


def test_b3_the_sign_of_zero_is_zero():
    assert run_transform(sign(), torch.tensor([0.0, -0.0, 1e-45, -1e-45])).tolist() == [0.0, 0.0, 1.0, -1.0]
    assert run_transform(sign(scaled=True), torch.tensor([0.0, 3.0, -6.0])).tolist() == [0.0, 3.0, -3.0]


@given(ordinary)
def test_b3_scaled_by_the_mean_modulus(grad):
    expected = grad.double().abs().mean() * grad.double().sign()
    torch.testing.assert_close(run_transform(sign(scaled=True), grad).double(), expected, rtol=1e-6, atol=1e-45)


@pytest.mark.parametrize("value", [1e-45, 1e-30, 1.0, 3e38])
def test_b3_the_mean_neither_overflows_nor_vanishes(value):
    grad = torch.full((3, 100), value)
    assert torch.equal(run_transform(sign(scaled=True), grad), grad)
    assert torch.equal(run_transform(onebit(), grad), grad)


def test_b3_small_elements_beside_a_huge_one_keep_their_signs():
    assert run_transform(sign(scaled=True), torch.tensor([3e38, -1e-30])).sign().tolist() == [1.0, -1.0]
    assert run_transform(onebit(), torch.tensor([3e38, -1e-30])).sign()[0] == 1.0


def test_b4_known_answer():
    memory = {}
    assert run_transform(onebit(), torch.tensor([1.0, 3.0, -2.0, -4.0]), memory).tolist() == [2.0, 2.0, -3.0, -3.0]
    assert memory["residual"].tolist() == [-1.0, 1.0, 1.0, -1.0]


def test_b4_zeros_belong_to_neither_mean():
    assert run_transform(onebit(feedback=False), torch.tensor([0.0, 4.0, 0.0, -1.0, 2.0])).tolist() == [0.0, 3.0, 0.0, -1.0, 3.0]


@given(ordinary)
def test_b4_agrees_with_the_formula(grad):
    exact, expected = grad.double(), torch.zeros_like(grad, dtype=torch.float64)
    for side in (exact > 0, exact < 0):
        if side.any():
            expected[side] = exact[side].mean()
    torch.testing.assert_close(run_transform(onebit(feedback=False), grad).double(), expected, rtol=1e-6, atol=1e-37)
