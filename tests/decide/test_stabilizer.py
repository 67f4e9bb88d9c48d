import copy
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from steadygrad.decide import gradient_stabilizer, masked
from steadygrad.decision import Reason
from steadygrad.errors import ArgumentError
from steadygrad.policies import parse_policy

XP = pytest.mark.parametrize("xp", [np, torch], ids=["numpy", "torch"])
BOUND = 0.3 / math.sqrt(0.1 * (1 - 0.49 / 0.9))


def run(readings_of, steps, policy=None, xp=np, state=None):
    """Norms after each step, shape (steps, n), and the last decision and state."""
    policy = policy or gradient_stabilizer()
    after = []
    for norms in steps:
        readings = readings_of(xp, norms)
        if state is None:
            state = policy.init(readings)
        decision, state = policy.decide(readings, state)
        after.append(np.asarray(decision.scale) * np.array(norms))
    return np.array(after), decision, state


def twin(norms, g1=0.7, g2=0.9, eps=1e-8, reach=2.0):
    """The equations for one tensor, with published bias corrections, and norms limited before they enter."""
    mean = square = 0.0
    out = []
    for t, norm in enumerate(norms, 1):
        usual = math.sqrt(square / (1 - g2 ** (t - 1))) if t > 1 else norm
        enters = min(max(norm, usual / reach), usual * reach)
        mean, square = g1 * mean + (1 - g1) * enters, g2 * square + (1 - g2) * enters**2
        out.append(mean / (1 - g1**t) / (math.sqrt(square / (1 - g2**t)) + eps))
    return out


@XP
def test_A11_known_answer(xp, readings_of):
    after, decision, _ = run(readings_of, [[5.0, 1e-3]] * 20, xp=xp)
    np.testing.assert_allclose(after[:, 0], 1.0, rtol=3e-9)
    np.testing.assert_allclose(after[:, 1], 0.99999, rtol=1e-9)
    assert int(decision.reason) == Reason.NORMALIZED


@given(st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=30))
def test_A11_agrees_with_the_equations(readings_of, norms):
    after, *_ = run(readings_of, [[n] for n in norms])
    np.testing.assert_allclose(after[:, 0], twin(norms), rtol=1e-9)
    assert np.all(after <= BOUND)


def test_A11_where_no_norm_is_extreme_it_is_the_published_rule(readings_of):
    norms = 1.0 + 0.3 * np.sin(np.arange(40.0))
    after, *_ = run(readings_of, [[n] for n in norms])
    np.testing.assert_allclose(after[:, 0], twin(norms, reach=math.inf), rtol=1e-12)


@pytest.mark.parametrize("size", [1e-6, 3.0, 1e3, 1e6])
def test_A11_a_spike_is_bounded_and_leaves_no_scar(size, readings_of):
    steps = [[1.0]] * 60 + [[size]] + [[1.0]] * 200
    after = run(readings_of, steps)[0][:, 0]
    assert 0.85 < after[60] < 1.15
    assert after[61:].min() > 0.92
    assert after.max() < 1.15


def test_F_the_published_rule_would_leave_one():
    after = twin([1.0] * 60 + [1e3] + [1.0] * 200, reach=math.inf)
    assert sum(value < 0.5 for value in after[61:]) == 96


@pytest.mark.parametrize(("ratio", "steps"), [(1e3, 80), (1e-3, 200)])
def test_a_new_level_is_accepted_in_bounded_time(ratio, steps, readings_of):
    after = run(readings_of, [[1.0]] * 60 + [[ratio]] * (steps + 20))[0][:, 0]
    np.testing.assert_allclose(after[60 + steps :], 1.0, atol=0.05)
    assert after.min() > 0.5


@XP
def test_zero_and_absent_gradients_enter_nothing(xp, readings_of):
    steps = [[2.0, 2.0], [0.0, 2.0], [0.0, 2.0], [2.0, 2.0]]
    after, _, state = run(readings_of, steps, xp=xp)
    assert after[1:3, 0].tolist() == [0.0, 0.0]
    np.testing.assert_allclose(after[3], 1.0, rtol=1e-8)
    _, _, shorter = run(readings_of, [[2.0]] * 2, xp=xp)
    assert all(float(state[key][0]) == float(shorter[key][0]) for key in state)


@XP
@given(st.lists(st.lists(st.floats(0.0, 1e150) | st.just(1e-30) | st.just(5e-324), min_size=2, max_size=2), max_size=5))
def test_a_bad_step_leaves_the_state_to_the_bit(xp, readings_of, steps):
    _, _, state = run(readings_of, [[1.0, 1.0], *steps], xp=xp)
    assert all(np.all(np.isfinite(np.asarray(value))) for value in state.values())
    before = copy.deepcopy(state)
    for bad in (math.nan, math.inf):
        _, decision, after = run(readings_of, [[1.0, bad]], xp=xp, state=state)
        assert decision.skip
        assert int(decision.reason) == Reason.NON_FINITE
        assert np.asarray(decision.scale).tolist() == [1.0, 1.0]
        for key, value in before.items():
            assert np.asarray(after[key]).tobytes() == np.asarray(value).tobytes() == np.asarray(state[key]).tobytes()


@given(st.lists(st.lists(st.floats(0.0, 1e100), min_size=2, max_size=2), min_size=1, max_size=8))
def test_numpy_and_torch_agree_and_a_saved_state_goes_on_to_the_bit(readings_of, steps):
    ours, _, state = run(readings_of, steps)
    theirs, *_ = run(readings_of, steps, xp=torch)
    np.testing.assert_allclose(theirs, ours, rtol=1e-13)
    again = [run(readings_of, steps, state=s)[0].tobytes() for s in (state, copy.deepcopy(state))]
    assert again[0] == again[1]


@given(st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=10), st.sampled_from([1e-6, 7.0, 1e9]))
def test_the_scale_of_the_gradient_does_not_matter(readings_of, norms, factor):
    policy = gradient_stabilizer(eps=0.0)
    plain, scaled = (run(readings_of, [[k * n] for n in norms], policy)[0] for k in (1.0, factor))
    np.testing.assert_allclose(scaled, plain, rtol=1e-12)


@XP
def test_masked_it_sees_the_chosen_tensors_alone(xp, readings_of):
    policy = masked(gradient_stabilizer(), "p1")
    readings = readings_of(xp, [5.0, 5.0])
    decision, state = policy.decide(readings, policy.init(readings))
    np.testing.assert_allclose(np.asarray(decision.scale), [1.0, 0.2], rtol=1e-8)
    assert all(value.shape == (2,) for value in state.values())


def test_text_and_refusals():
    for policy in (gradient_stabilizer(), gradient_stabilizer(0.85, 0.99999), gradient_stabilizer(eps=1e-6)):
        assert parse_policy(policy.text).text == policy.text
    assert gradient_stabilizer(0.7, 0.99).text == "gradient_stabilizer(g2=0.99)"
    for settings in ({"g1": 1.0}, {"g2": -0.1}, {"eps": math.inf}):
        with pytest.raises(ArgumentError, match="threshold-invalid"):
            gradient_stabilizer(**settings)
