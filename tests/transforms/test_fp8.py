import numpy as np
import pytest
import torch
from helpers import run_transform
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from steadygrad.transforms.fp8 import fp8

FORMATS = {"e4m3": (torch.float8_e4m3fn, 448.0), "e5m2": (torch.float8_e5m2, 57344.0)}
each = pytest.mark.parametrize("name", FORMATS)


def with_largest(largest):
    """Arrays of all sizes below ``largest``, which is their first element: so the scale is 1."""
    sizes = st.floats(0.0, largest, width=32) | st.floats(0.0, 1.0, width=32) | st.floats(0.0, 2.0**-12, width=32)
    values = st.tuples(sizes, st.sampled_from([1.0, -1.0])).map(lambda pair: pair[0] * pair[1])
    return arrays(np.float32, st.integers(0, 30), elements=values).map(lambda a: torch.tensor([largest, *a.tolist()]))


@pytest.mark.parametrize("name", FORMATS)
@given(st.data())
def test_b5_agrees_with_torchs_own_cast(name, data):
    kind, largest = FORMATS[name]
    grad = data.draw(with_largest(largest))
    assert torch.equal(run_transform(fp8(name), grad), grad.to(kind).float())


@each
def test_b5_agrees_with_torchs_own_cast_on_every_number_and_every_tie(name):
    kind, largest = FORMATS[name]
    numbers = torch.arange(256, dtype=torch.uint8).view(kind).float()
    numbers = numbers[numbers.isfinite()].sort().values
    grad = torch.cat([numbers, (numbers[1:] + numbers[:-1]) / 2])
    assert float(grad.max()) == largest
    assert torch.equal(run_transform(fp8(name), grad), grad.to(kind).float())
    assert torch.equal(run_transform(fp8(name), numbers), numbers)


def test_b5_known_answer():
    powers = torch.tensor([448.0, *(2.0**k for k in range(-9, 9))])
    assert torch.equal(run_transform(fp8("e4m3"), powers), powers)


@each
@pytest.mark.parametrize("largest", [1e-30, 3e-5, 300.0, 449.0, 7e30, 3.4e38])
def test_b5_powers_of_two_are_exact_whatever_the_largest_element(name, largest):
    exponent = np.floor(np.log2(largest))
    powers = torch.tensor([2.0 ** (exponent - k) for k in range(14)] + [largest])
    assert torch.equal(run_transform(fp8(name), powers)[:-1], powers[:-1])


@each
@given(st.floats(2.0**-100, 2.0**127, width=32) | st.sampled_from([448.0, 449.0, 57344.0, 57345.0, 3.4028234663852886e38]))
def test_b5_the_largest_element_uses_the_format_and_does_not_overflow(name, value):
    out = float(run_transform(fp8(name), torch.tensor([value])))
    assert abs(out - value) <= value * 2.0 ** -(3 if name == "e5m2" else 4)


@each
def test_b5_zeros_and_the_smallest_numbers_are_finite(name):
    assert run_transform(fp8(name), torch.zeros(3)).tolist() == [0.0, 0.0, 0.0]
    out = run_transform(fp8(name), torch.tensor([1e-38, -1e-45]))
    assert float(out[0]) == pytest.approx(1e-38, rel=0.13)
    assert float(out[1]) == 0.0


@each
def test_b5_random_rounding_goes_to_a_neighbour_and_keeps_the_mean(name):
    kind, largest = FORMATS[name]
    grad = torch.cat([torch.tensor([largest]), torch.randn(50), torch.randn(50) * 2.0**-8, torch.randn(50) * 2.0**-15])
    numbers = torch.arange(256, dtype=torch.uint8).view(kind).float()
    numbers = numbers[numbers.isfinite()].sort().values.unique()
    above = numbers[torch.searchsorted(numbers, grad)]
    below = numbers[torch.searchsorted(numbers, grad, right=True) - 1]
    n = 2000
    draws = torch.stack([run_transform(fp8(name, stochastic=True), grad, step=step) for step in range(n)])
    assert bool(((draws == above) | (draws == below)).all())
    deviation = ((above - grad) * (grad - below) / n).sqrt()
    assert bool(((draws.mean(0) - grad).abs() <= 5 * deviation + 1e-6 * grad.abs()).all())
