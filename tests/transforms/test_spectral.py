"""Limits on singular values, compared with the singular value decomposition."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from steadygrad.errors import ArgumentError, ArgumentTypeError
from steadygrad.policies import parse_policy
from steadygrad.readings import Layout, Readings
from steadygrad.transforms.spectral import FORMS, spectral_clip

shapes = st.tuples(st.integers(1, 5), st.integers(1, 5))
matrices = shapes.flatmap(lambda shape: arrays(np.float64, shape, elements=st.floats(-100.0, 100.0)))
each_form = pytest.mark.parametrize("form", FORMS)
UNKNOWN = torch.tensor(math.inf)  # a norm on a device: nothing is left out


def naive(grad, limit, form):
    left, values, right = np.linalg.svd(grad, full_matrices=False)
    kept = np.minimum(values, limit) if form == "hard" else values / np.sqrt(1 + (values / limit) ** 2)
    return (left * kept) @ right


def test_a20_known_answers(rewritten):
    grad = torch.diag(torch.tensor([3.0, 1.0], dtype=torch.float64))
    hard = rewritten(spectral_clip(2.0), grad, norm=UNKNOWN)
    np.testing.assert_allclose(hard.numpy(), np.diag([2.0, 1.0]), atol=1e-15)
    soft = rewritten(spectral_clip(3.0, form="soft"), grad, norm=UNKNOWN)
    np.testing.assert_allclose(np.diag(soft.numpy()), [3 / math.sqrt(2), 1 / math.sqrt(1 + 1 / 9)], rtol=1e-15)


@each_form
@given(matrices, st.floats(0.1, 50.0))
def test_it_is_the_decomposition(form, rewritten, grad, limit):
    out = rewritten(spectral_clip(limit, form=form), grad, norm=UNKNOWN).numpy()
    np.testing.assert_allclose(out, naive(grad, limit, form), atol=1e-6 * max(1.0, np.abs(grad).max()))
    assert np.linalg.norm(out, 2) <= limit * (1 + 1e-6)


@each_form
@pytest.mark.parametrize("shape", [(40, 3000), (3000, 40), (6, 5, 3, 3), (60, 60)])
def test_larger_ones_in_float32(form, shape, rewritten):
    grad = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    grad.view(shape[0], -1)[0] *= 1e4
    out = rewritten(spectral_clip(1.0, form=form), grad, norm=UNKNOWN)
    expected = naive(grad.double().reshape(shape[0], -1).numpy(), 1.0, form)
    np.testing.assert_allclose(out.reshape(shape[0], -1).numpy(), expected, atol=1e-6)


@given(matrices)
def test_within_a_hard_limit_every_bit_stays(rewritten, grad):
    limit = max(np.linalg.norm(grad), 1e-3) * (1 + 1e-9)
    for norm in (UNKNOWN, np.linalg.norm(grad)):
        assert rewritten(spectral_clip(limit), grad, norm=norm).numpy().tobytes() == grad.tobytes()


@given(matrices, st.floats(0.1, 50.0))
def test_a_hard_limit_twice_is_once(rewritten, grad, limit):
    once = rewritten(spectral_clip(limit), grad, norm=UNKNOWN)
    np.testing.assert_allclose(rewritten(spectral_clip(limit), once, norm=UNKNOWN), once, atol=1e-12 * max(1.0, limit))


@each_form
@given(matrices, st.integers(-20, 20))
def test_a_relative_limit_is_equivariant(form, rewritten, grad, power):
    policy = spectral_clip(1.2, form=form, relative=True)
    plain = rewritten(policy, grad, norm=UNKNOWN).numpy()
    np.testing.assert_allclose(
        rewritten(policy, grad * 2.0**power, norm=UNKNOWN) / 2.0**power, plain, atol=1e-9 * (1 + np.abs(grad).max())
    )


def test_a_relative_limit_is_in_units_of_the_mean_singular_value(rewritten):
    grad = torch.diag(torch.tensor([7.0, 1.0], dtype=torch.float64))
    out = rewritten(spectral_clip(1.2, relative=True), grad, norm=UNKNOWN)
    np.testing.assert_allclose(out.diagonal(), [6.0, 1.0], rtol=1e-14)


@each_form
@pytest.mark.parametrize("relative", [False, True])
def test_zeros_vectors_huge_and_tiny(form, relative, rewritten):
    policy = spectral_clip(1.0, form=form, relative=relative)
    assert not rewritten(policy, torch.zeros(3, 4), norm=UNKNOWN).any()
    vector = torch.tensor([5.0, 6.0])
    assert rewritten(policy, vector, norm=UNKNOWN).equal(vector)
    for size in (1e30, 1e-30):
        assert bool(rewritten(policy, torch.full((3, 4), size), norm=UNKNOWN).isfinite().all())


def test_another_order_in_memory(rewritten):
    grad = torch.randn(4, 3, 2, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    policy = spectral_clip(1.0)
    out = rewritten(policy, grad.to(memory_format=torch.channels_last), norm=UNKNOWN)
    np.testing.assert_allclose(out, rewritten(policy, grad, norm=UNKNOWN), atol=1e-14)


def test_an_infinite_limit_changes_nothing(rewritten):
    grad = torch.full((2, 2), 1e30)
    assert rewritten(spectral_clip(math.inf), grad, norm=UNKNOWN).equal(grad)


def test_the_decision_holds_the_norms():
    policy = spectral_clip(1.0)
    decision, _ = policy.decide(Readings(Layout(("a", "b")), np, np.array([9.0, 4.0])), {})
    assert decision.numbers["norm"].tolist() == [3.0, 2.0]


def test_text_and_refusals():
    text = "spectral_clip(2.0, form='soft', relative=True)"
    assert parse_policy(text).text == text
    assert spectral_clip(1).text == "spectral_clip(1.0)"
    for bad in ({"max_norm": 0.0}, {"max_norm": 1.0, "form": "medium"}):
        with pytest.raises(ArgumentError, match="threshold-invalid"):
            spectral_clip(**bad)
    with pytest.raises(ArgumentTypeError, match="threshold-invalid"):
        spectral_clip(1.0, relative="yes")
