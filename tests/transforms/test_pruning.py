import numpy as np
import pytest
import torch
from helpers import run_transform
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from steadygrad.transforms.pruning import prune_hard, prune_soft, prune_topk

ordinary = arrays(np.float32, st.integers(1, 40), elements=st.floats(-100, 100, width=32)).map(torch.from_numpy)
GRAD = torch.tensor([3.0, -0.5, -2.0])


def test_b7_known_answers():
    assert run_transform(prune_topk(1 / 3), GRAD).tolist() == [3.0, 0.0, 0.0]
    assert run_transform(prune_soft(1.0), GRAD).tolist() == [2.0, 0.0, -1.0]
    assert run_transform(prune_hard(1.0), GRAD).tolist() == [3.0, 0.0, -2.0]


@given(ordinary, st.floats(0.125, 50, width=32))
def test_b7_thresholds_agree_with_their_formulas(grad, t):
    assert torch.equal(run_transform(prune_hard(t), grad), grad * (grad.abs() > t))
    assert torch.equal(run_transform(prune_soft(t), grad), grad.sign() * (grad.abs() - t).clamp(min=0.0))


@pytest.mark.parametrize("t", [3.0, 1e300, float("inf")])
def test_b7_an_element_at_the_threshold_goes_and_no_threshold_is_too_large(t):
    assert run_transform(prune_hard(t), GRAD).tolist() == [0.0, 0.0, 0.0]
    assert run_transform(prune_soft(t), GRAD).tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("t", [1e-300, 0.4])
def test_b7_below_the_threshold_of_every_element_bits_stay(t):
    assert torch.equal(run_transform(prune_hard(t), GRAD), GRAD)


@given(ordinary, st.floats(0.001, 1.0))
def test_b7_exactly_k_of_the_largest_stay(grad, fraction):
    out = run_transform(prune_topk(fraction), grad)
    k = max(1, round(fraction * len(grad)))
    kept = out != 0
    assert torch.equal(out[kept], grad[kept])
    assert torch.equal(out.abs().sort(descending=True).values[:k], grad.abs().sort(descending=True).values[:k])
    assert int(kept.sum()) == min(k, int((grad != 0).sum()))


@pytest.mark.parametrize(("fraction", "k"), [(0.01, 1), (0.24, 2), (0.26, 3), (1.0, 10)])
def test_b7_of_equal_elements_as_many_stay_as_fit(fraction, k):
    out = run_transform(prune_topk(fraction), torch.full((2, 5), -7.0))
    assert sorted(out.flatten().tolist()) == [-7.0] * k + [0.0] * (10 - k)
