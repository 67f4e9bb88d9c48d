"""Smooth limits on elements."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from steadygrad.decision import Reason
from steadygrad.errors import ArgumentError, ArgumentTypeError
from steadygrad.policies import parse_policy
from steadygrad.readings import Layout, Readings
from steadygrad.transforms.soft import FORMS, soft_clip

each_form = pytest.mark.parametrize("form", FORMS)
CURVES = {"tanh": np.tanh, "softsign": lambda x: x / (1 + np.abs(x)), "arctan": np.arctan}
BOUNDS = {"tanh": 1.0, "softsign": 1.0, "arctan": math.pi / 2}
wide = arrays(np.float32, st.integers(0, 20), elements=st.floats(-(2.0**120), 2.0**120, width=32))
limits = st.sampled_from([1e-30, 1e-3, 0.7, 1.0, 1e3, 1e30])


@pytest.mark.parametrize(("form", "expected"), [("tanh", 0.761594), ("softsign", 0.5), ("arctan", math.pi / 4)])
def test_a14_known_answer(form, expected, rewritten):
    assert float(rewritten(soft_clip(1.0, form), torch.ones(1, dtype=torch.float64))) == pytest.approx(expected, abs=4e-7)


@each_form
@given(wide, limits)
def test_it_is_the_formula_in_exact_enough_arithmetic(form, rewritten, grad, limit):
    expected = limit * CURVES[form](grad.astype(np.float64) / limit)
    np.testing.assert_allclose(rewritten(soft_clip(limit, form), grad).numpy(), expected, rtol=1e-6, atol=1e-44)


@each_form
@given(wide, limits)
def test_it_is_odd_bounded_and_never_enlarges(form, rewritten, grad, limit):
    out = rewritten(soft_clip(limit, form), grad)
    assert out.equal(-rewritten(soft_clip(limit, form), -grad))
    assert bool((out.abs() <= np.float32(limit * BOUNDS[form])).all())
    assert bool((out.abs() <= torch.from_numpy(np.abs(grad)) * (1 + 2e-7)).all())


@each_form
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_elements_far_below_the_limit_keep_their_bits(form, dtype, rewritten):
    digits = {torch.float32: 24, torch.float64: 53}[dtype]
    reach = 2.0 ** -(digits + 1 if form == "softsign" else digits // 2 + 2)
    grad = reach * torch.cat([torch.linspace(-1, 1, 999, dtype=dtype), torch.tensor([1e-30, -1e-30, 0.0, -0.0], dtype=dtype)])
    assert rewritten(soft_clip(1.0, form), grad).numpy().tobytes() == grad.numpy().tobytes()


@each_form
def test_an_infinite_element_goes_to_the_bound_and_not_to_nan(form, rewritten):
    out = rewritten(soft_clip(2.0, form), torch.tensor([math.inf, -math.inf]))
    assert out.tolist() == pytest.approx([2 * BOUNDS[form], -2 * BOUNDS[form]])


@pytest.mark.parametrize("limit", [math.inf, 1e300, 5e-324])
def test_limits_that_float32_cannot_hold(limit, rewritten):
    grad = torch.tensor([1.0, -2.0, 0.0])
    out = rewritten(soft_clip(limit), grad)
    assert out.equal(grad if limit > 1.0 else torch.finfo(torch.float32).tiny * grad.sign())


def test_a_step_with_nan_is_skipped():
    policy = soft_clip(1.0)
    decision, state = policy.decide(Readings(Layout(("a",)), np, np.array([math.nan])), {})
    assert decision.skip
    assert (int(decision.reason), state) == (Reason.NON_FINITE, {})


def test_text_and_refusals():
    assert soft_clip(1).text == "soft_clip(1.0)"
    assert parse_policy("soft_clip(2, 'arctan')").text == "soft_clip(2.0, 'arctan')"
    with pytest.raises(ArgumentError, match=r"'tanh', 'softsign', 'arctan'.*threshold-invalid"):
        soft_clip(1.0, "relu")
    with pytest.raises(ArgumentTypeError, match="threshold-invalid"):
        soft_clip(1.0, 3)
    with pytest.raises(ArgumentError, match="threshold-invalid"):
        soft_clip(0.0)
