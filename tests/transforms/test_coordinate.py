"""ACClip: momentum limited coordinate by coordinate."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from steadygrad.errors import ArgumentError, ArgumentTypeError
from steadygrad.policies import parse_policy
from steadygrad.transforms.coordinate import acclip

alphas = st.sampled_from([1.0, 1.5, 2.0])
steps = st.lists(arrays(np.float64, 3, elements=st.floats(-1.0, 1.0)), min_size=1, max_size=8)
huge = st.lists(arrays(np.float32, 3, elements=st.floats(-(2.0**127), 2.0**127, width=32)), min_size=1, max_size=8)


def run(rewritten, policy, grads):
    memory = {}
    return [rewritten(policy, grad, memory=memory) for grad in grads], memory


def published(grads, alpha, betas, eps):
    """The paper's algorithm, with the threshold divided by the weight of what entered."""
    m, power, weight = np.zeros(3), np.zeros(3), 0.0
    for g in grads:
        m = betas[0] * m + (1 - betas[0]) * g
        power = betas[1] * power + (1 - betas[1]) * np.abs(g) ** alpha
        weight = betas[1] * weight + 1 - betas[1]
    tau = (power / weight) ** (1 / alpha)
    return np.minimum(tau / (np.abs(m) + eps), 1.0) * m


@pytest.mark.parametrize(("m", "expected"), [(2.0, 2.0 / (2.0 + 1e-5)), (0.5, 0.5)])
def test_a13_known_answer(m, expected, rewritten):
    before = {"m": m, "tau": 1.0 + 0.01 * (1.0 - m) / 0.99, "weight": 1.0}  # so that this gradient leaves momentum m, threshold 1
    memory = {key: torch.full((1,) * (key != "weight"), value, dtype=torch.float64) for key, value in before.items()}
    out = rewritten(acclip(), torch.tensor([m], dtype=torch.float64), memory=memory)
    assert memory["m"].item() == pytest.approx(m, rel=1e-12)
    assert memory["tau"].item() == pytest.approx(1.0, rel=1e-12)
    assert out.item() == pytest.approx(expected, rel=1e-9)


@given(steps, alphas)
def test_it_is_the_paper_where_no_entry_is_cut(rewritten, grads, alpha):
    grads = [np.sign(g + 0.5) * (0.75 + np.abs(g) * 0.25) for g in grads]  # sizes from 0.75 to 1: their powers do not double
    outs, _ = run(rewritten, acclip(alpha=alpha), grads)
    np.testing.assert_allclose(outs[-1].numpy(), published(grads, alpha, (0.9, 0.99), 1e-5), rtol=1e-9)


def test_the_first_update_is_not_damped(rewritten):
    outs, _ = run(rewritten, acclip(betas=(0.0, 0.99)), [torch.tensor([1.0, -4.0])])
    assert outs[0].tolist() == pytest.approx([1.0, -4.0], rel=2e-5)


@given(huge, alphas)
def test_finite_stays_finite_and_every_coordinate_is_within_its_threshold(rewritten, grads, alpha):
    outs, memory = run(rewritten, acclip(alpha=alpha), grads)
    assert all(bool(value.isfinite().all()) for value in [*outs, *memory.values()])
    tau = (memory["tau"] / memory["weight"]) ** (1 / alpha)
    assert bool((outs[-1].abs() <= tau * (1 + 1e-6)).all())


def test_a_spike_at_most_doubles_the_largest_threshold(rewritten):
    _, before = run(rewritten, acclip(), [torch.ones(3)] * 20)
    memory = {key: value.clone() for key, value in before.items()}
    out = rewritten(acclip(), torch.tensor([1e9, 1.0, -1e9]), memory=memory)
    assert float((memory["tau"] / memory["weight"]).max()) <= 2.01
    assert float(out.abs().max()) <= 2.01


def test_a_lasting_growth_is_accepted_in_bounded_time(rewritten):
    outs, _ = run(rewritten, acclip(), [torch.ones(1)] * 20 + [torch.full((1,), 1e6)] * 200)
    assert float(outs[-1]) > 0.8e6


@given(steps, st.integers(-20, 20))
def test_it_is_equivariant_but_for_eps(rewritten, grads, power):
    policy = acclip(eps=1e-300)
    plain, _ = run(rewritten, policy, grads)
    scaled, _ = run(rewritten, policy, [2.0**power * g for g in grads])
    assert scaled[-1].equal(2.0**power * plain[-1])


def test_zero_gradients_are_no_trouble(rewritten):
    outs, memory = run(rewritten, acclip(alpha=2.0, eps=1e-300), [torch.zeros(2), torch.tensor([0.0, 3.0])])
    assert outs[0].tolist() == [0.0, 0.0]
    assert outs[1].tolist() == pytest.approx([0.0, 0.3])
    assert all(bool(value.isfinite().all()) for value in memory.values())


def test_text_and_refusals():
    assert acclip().text == "acclip()"
    text = "acclip(alpha=1.5, betas=(0.5, 0.9), eps=0.1)"
    assert parse_policy(text).text == text
    for bad in ({"alpha": 0.5}, {"alpha": 2.1}, {"betas": (0.9, 1.0)}, {"eps": 0.0}, {"alpha": math.nan}):
        with pytest.raises(ArgumentError, match="threshold-invalid"):
            acclip(**bad)
    for bad in (0.9, (0.9,), ("a", "b")):
        with pytest.raises(ArgumentTypeError, match="threshold-invalid"):
            acclip(betas=bad)
