import copy
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from steadygrad.decide import weight_relative_clip
from steadygrad.decision import Reason
from steadygrad.errors import ArgumentError
from steadygrad.policies import parse_policy

XP = pytest.mark.parametrize("xp", [np, torch], ids=["numpy", "torch"])
norms = st.floats(0.0, 1e150) | st.floats(0.0, 2.0) | st.sampled_from([1e-30, 1e30])


@pytest.fixture(scope="session")
def readings_with(readings_of):
    """Readings of tensors with these norms, learning rates and, where they were read, norms of weights."""

    def make(xp, norms, *, lr, param_norm=None):
        readings = readings_of(xp, norms, lr=lr)
        if param_norm is not None:
            readings.param_norm = xp.asarray(np.array(param_norm, np.float64))
        return readings

    return make


@XP
def test_G1b_known_answer(xp, readings_with):
    policy = weight_relative_clip(0.01, floor=0.5)
    readings = readings_with(xp, [4.0, 4.0, 0.01, 0.0], lr=[0.1, 0.0, 0.1, 0.1], param_norm=[2.0, 2.0, 0.0, 1.0])
    decision, state = policy.decide(readings, policy.init(readings))
    np.testing.assert_allclose(np.asarray(decision.scale), [0.05, 1.0, 1.0, 1.0], rtol=1e-14)
    assert np.asarray(decision.scale)[1:].tolist() == [1.0, 1.0, 1.0]
    assert int(decision.reason) == Reason.CLIPPED
    assert np.asarray(state["tensor_weight_norm"]).tolist() == [2.0, 2.0, 0.0, 1.0]


@XP
def test_between_two_readings_the_last_one_counts_and_before_the_first_the_floor(xp, readings_with):
    policy = weight_relative_clip(0.1)
    without = readings_with(xp, [1.0], lr=[1.0])
    read = readings_with(xp, [1.0], lr=[1.0], param_norm=[5.0])
    decision, state = policy.decide(without, policy.init(without))
    assert float(decision.scale[0]) == pytest.approx(0.01, rel=1e-14)
    _, state = policy.decide(read, state)
    decision, state = policy.decide(without, state)
    assert float(decision.scale[0]) == pytest.approx(0.5, rel=1e-14)


@XP
@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("rate", [0.0, 1.0])
def test_a_bad_step_is_skipped_and_leaves_the_state_to_the_bit(xp, bad, rate, readings_with):
    policy = weight_relative_clip()
    _, state = policy.decide(
        readings := readings_with(xp, [1.0, 1.0], lr=[1.0] * 2, param_norm=[3.0, 0.1]), policy.init(readings)
    )
    before = copy.deepcopy(state)
    decision, after = policy.decide(readings_with(xp, [1.0, bad], lr=[rate] * 2, param_norm=[9.0, 9.0]), state)
    assert decision.skip
    assert int(decision.reason) == Reason.NON_FINITE
    assert np.all(np.isfinite(np.asarray(decision.scale)))
    for key, value in before.items():
        assert np.asarray(after[key]).tobytes() == np.asarray(value).tobytes() == np.asarray(state[key]).tobytes()


@XP
def test_a_bad_weight_does_not_enter_the_state(xp, readings_with):
    policy = weight_relative_clip()
    readings = readings_with(xp, [1.0, 1.0, 1.0], lr=[1.0] * 3, param_norm=[math.nan, math.inf, 2.0])
    _, state = policy.decide(readings, policy.init(readings))
    assert np.asarray(state["tensor_weight_norm"]).tolist() == [0.0, 0.0, 2.0]


@given(st.lists(st.tuples(norms, norms, st.floats(0.0, 10.0)), max_size=4))
def test_the_step_stays_within_the_bound_and_torch_agrees(readings_with, rows):
    grads, weights, rates = ([row[i] for row in rows] for i in range(3))
    policy, results = weight_relative_clip(), []
    for xp in (np, torch):
        readings = readings_with(xp, grads, lr=rates, param_norm=weights)
        decision, _ = policy.decide(readings, policy.init(readings))
        results.append(np.asarray(decision.scale))
        assert not decision.skip
    np.testing.assert_allclose(results[1], results[0], rtol=1e-14)
    steps, most = np.array(rates) * grads, 3e-3 * np.maximum(weights, 0.1)
    assert np.all(results[0] * steps <= most * (1 + 1e-12))
    assert np.all(results[0][steps <= most * (1 - 1e-12)] == 1.0)


@given(st.floats(1.0, 1e6), st.floats(1.0, 1e6), st.sampled_from([0.5, 16.0, 1e9]))
def test_it_follows_the_scale_of_weights_and_gradients(readings_with, grad, weight, k):
    def scale(factor):
        readings = readings_with(np, [factor * grad], lr=[0.1], param_norm=[factor * weight])
        return policy.decide(readings, policy.init(readings))[0].scale[0]

    policy = weight_relative_clip()
    assert scale(k) == pytest.approx(scale(1.0), rel=1e-13)


def test_it_works_on_readings_of_no_tensor(readings_with):
    policy = weight_relative_clip()
    readings = readings_with(np, [], lr=[], param_norm=[])
    assert not policy.decide(readings, policy.init(readings))[0].skip


def test_text_needs_and_refusals():
    assert weight_relative_clip().needs == {"lr", "param_norm:10"}
    texts = [weight_relative_clip(*args).text for args in ((), (3e-3,), (0.01,))] + [weight_relative_clip(floor=1).text]
    assert texts == [
        "weight_relative_clip()",
        "weight_relative_clip()",
        "weight_relative_clip(0.01)",
        "weight_relative_clip(floor=1.0)",
    ]
    assert [parse_policy(text).text for text in texts] == texts
    for settings in ({"ratio": 0.0}, {"floor": 0.0}, {"floor": math.inf}):
        with pytest.raises(ArgumentError, match="threshold-invalid"):
            weight_relative_clip(**settings)
