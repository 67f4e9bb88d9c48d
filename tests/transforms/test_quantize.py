import numpy as np
import pytest
import torch
from helpers import run_transform
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from steadygrad.transforms.quantize import qsgd, terngrad
from steadygrad.transforms.random import generator

ordinary = arrays(np.float32, st.integers(1, 40), elements=st.floats(-100, 100, width=32)).map(torch.from_numpy)


def qsgd_twin(grad, levels, bucket):
    """The formula, bucket by bucket, with the same random numbers, and the fractional parts that were compared with them."""
    random, out, margin = generator("cpu", 0, 0, "w|qsgd"), [], 1.0
    full = len(grad) // bucket * bucket
    for part, width in ((grad[:full], bucket), (grad[full:], len(grad) - full)):
        if len(part):
            draws = torch.rand(len(part) // width, width, generator=random)
            for row, draw in zip(part.view(-1, width), draws, strict=True):
                norm = row.double().norm()
                exact = levels * row.double().abs() / (norm if norm > 0 else 1.0)
                out.append(norm / levels * row.sign() * (exact.floor() + (draw < exact - exact.floor())))
                margin = min(
                    margin, float((draw - (exact - exact.floor())).abs().min()), float((exact - exact.round()).abs().min())
                )
    return torch.cat(out), margin


@pytest.mark.parametrize("seed", range(20))
def test_b1_known_answer(seed):
    assert run_transform(qsgd(5, seed=seed), torch.tensor([3.0, 4.0])).tolist() == [3.0, 4.0]


@pytest.mark.parametrize("step", range(20))
def test_b1_each_bucket_has_its_own_norm_and_the_last_may_be_short(step):
    grad = torch.tensor([3.0, -4.0, 0.0, 0.0, 5.0, 12.0, -0.5])
    assert torch.equal(run_transform(qsgd(65, bucket=2), grad, step=step), grad)


@pytest.mark.parametrize(("levels", "bucket"), [(1, 7), (4, 512), (127, 10), (3, 1)])
def test_b1_agrees_with_the_formula(levels, bucket):
    grad = torch.randn(53, generator=torch.Generator().manual_seed(levels))
    expected, margin = qsgd_twin(grad, levels, bucket)
    if bucket > 1:
        assert margin > 1e-6  # so no fractional part and no random number are so close that rounding decides
    torch.testing.assert_close(run_transform(qsgd(levels, bucket=bucket), grad).double(), expected, rtol=1e-6, atol=0.0)


def test_b1_the_mean_is_the_gradient_and_the_variance_within_the_bound():
    grad, s, n = torch.randn(1000), 4, 400
    draws = torch.stack([run_transform(qsgd(s, bucket=1000), grad, step=step) for step in range(n)])
    square = float(grad.square().sum())
    variance = float((draws - grad).square().sum(1).mean()) / square
    level = s * grad.abs() / grad.norm()
    expected = float(grad.square().sum() / s**2 * (level.frac() * (1 - level.frac())).sum()) / square
    assert variance == pytest.approx(expected, rel=0.05)
    assert expected <= min(1000 / s**2, 1000**0.5 / s)
    assert float((draws.mean(0) - grad).square().sum()) / square == pytest.approx(expected / n, rel=0.3)


def test_b1_a_multiple_that_does_not_fit_the_type_becomes_the_largest_number():
    largest = torch.finfo(torch.float32).max
    out = run_transform(qsgd(1), torch.full((400,), largest))
    assert set(out.tolist()) == {0.0, largest}


@given(ordinary, st.integers(0, 5), st.sampled_from([2.5, 0.5, None]))
def test_b2_known_answer(grad, step, sigmas):
    out = run_transform(terngrad(clip_sigma=sigmas), grad, step=step)
    exact = grad.double()
    limit = exact.abs().max() if sigmas is None else min(exact.abs().max(), sigmas * exact.square().mean().sqrt())
    kept = out[out != 0].double()
    torch.testing.assert_close(kept.abs(), limit.expand(len(kept)), rtol=1e-6, atol=0.0)
    clipped = grad.abs().double() > limit * (1 + 1e-6)
    assert bool((out[clipped] != 0).all())


def test_b2_the_mean_is_the_gradient_without_the_limit():
    grad, n = torch.randn(200), 4000
    largest = float(grad.abs().max())
    mean = torch.stack([run_transform(terngrad(clip_sigma=None), grad, step=step) for step in range(n)]).mean(0)
    expected = float((grad.abs() * (largest - grad.abs())).sum() / n) ** 0.5
    assert float((mean - grad).norm()) == pytest.approx(expected, rel=0.2)


@pytest.mark.parametrize("grad", [[0.3], [5.0, 5.0, 5.0], [-1e-30], [1e30, -1e30], [1e-45]])
def test_b2_one_element_and_equal_elements_are_not_lost(grad):
    grad = torch.tensor(grad)
    assert torch.equal(run_transform(terngrad(), grad), grad)
