import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from steadygrad.arrays import Limiter
from steadygrad.decision import Reason
from steadygrad.errors import ArgumentError, ArgumentTypeError, UnsupportedError
from steadygrad.policies import parse_policy
from steadygrad.transforms.value import clip_by_value

finite = arrays(np.float32, st.integers(0, 20), elements=st.floats(-(2.0**100), 2.0**100, width=32))


@pytest.mark.parametrize(
    ("grad", "limit", "expected"),
    [([3.0, -4.0, 0.5], 1.0, [1.0, -1.0, 0.5]), ([math.nan, -math.inf], 0.5, [math.nan, -0.5]), ([math.inf], 2.0, [2.0])],
)
def test_A1_known_answers(grad, limit, expected):
    np.testing.assert_array_equal(Limiter(clip_by_value(limit))([np.array(grad)])[0], expected)


def test_A1_bounds_may_differ():
    assert Limiter(clip_by_value(-1, 2.0))([np.array([3.0, -4.0, 0.5])])[0].tolist() == [2.0, -1.0, 0.5]


def test_A1_the_decision_names_the_bounds():
    policy = clip_by_value(1.0)
    decision, state = policy.decide(None, policy.init(None))
    assert (decision.clamp, decision.scale, decision.reason, state) == ((-1.0, 1.0), None, Reason.CLAMPED, {})
    assert policy.rewrites


@given(finite)
def test_A1_is_idempotent_and_keeps_what_is_inside(grad):
    limiter = Limiter(clip_by_value(1.0))
    once = limiter([grad])[0]
    assert np.all(np.abs(once) <= 1.0)
    np.testing.assert_array_equal(limiter([once])[0], once)
    np.testing.assert_array_equal(once[np.abs(grad) <= 1.0], grad[np.abs(grad) <= 1.0])


@given(finite)
def test_A1_agrees_with_torch(grad):
    param = torch.nn.Parameter(torch.zeros(grad.shape))
    param.grad = torch.tensor(grad)
    torch.nn.utils.clip_grad_value_([param], 0.7)
    np.testing.assert_array_equal(Limiter(clip_by_value(0.7))([grad])[0], param.grad.numpy())


def test_trap_12_complex_gradients_are_refused():
    with pytest.raises(UnsupportedError, match="complex-value-clip"):
        Limiter(clip_by_value(1.0))([np.array([1j])])


@pytest.mark.parametrize(
    ("policy", "text"),
    [
        (clip_by_value(1), "clip_by_value(1.0)"),
        (clip_by_value(-1, 1), "clip_by_value(1.0)"),
        (clip_by_value(-1, 2), "clip_by_value(-1.0, 2.0)"),
        (clip_by_value(-math.inf, 0), "clip_by_value(-inf, 0.0)"),
    ],
)
def test_the_text_is_short_and_parses_back(policy, text):
    assert policy.text == text
    assert parse_policy(text).text == text
    assert parse_policy(text).decide(None, {})[0].clamp == policy.decide(None, {})[0].clamp


@pytest.mark.parametrize(
    "bounds", [(0.0,), (-1.0,), (math.nan,), (1.0, 2.0), (2.0, -1.0), (0.0, 0.0), (-1.0, math.nan), (10**400,)]
)
def test_bounds_that_cannot_work_are_refused(bounds):
    with pytest.raises(ArgumentError, match="threshold-invalid"):
        clip_by_value(*bounds)


@pytest.mark.parametrize("bounds", [(True,), ("1.0",), (None,), (-1.0, "2"), (1j,)])
def test_bounds_of_another_kind_are_refused(bounds):
    with pytest.raises(ArgumentTypeError, match="threshold-invalid"):
        clip_by_value(*bounds)
