import copy
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import steadygrad as sg
from steadygrad.decide.auto import FLOOR, auto
from steadygrad.decision import Reason
from steadygrad.errors import ArgumentError, ArgumentTypeError
from steadygrad.policies import parse_policy
from steadygrad.readings import Layout, Readings

HISTORY = auto(max_update=math.inf)
norms = st.floats(1e-30, 1e30) | st.floats(0.1, 10.0) | st.sampled_from([0.0, math.nan, math.inf])
steps_of_two = st.lists(st.tuples(norms, norms), min_size=1, max_size=30)


def readings_of(values, xp=np, *, weights=(10.0, 10.0), lr=0.1, layout=None):
    as_array = (lambda v: torch.tensor(v, dtype=torch.float64)) if xp is torch else (lambda v: np.array(v, float))
    layout = layout or Layout(tuple(f"p{i}" for i in range(len(values))))
    weights = None if weights is None else as_array(weights[: len(values)])
    squares = as_array([v * v for v in values])
    return Readings(layout, xp, squares, param_norm=weights, lr=as_array([lr] * len(values)))


def run(policy, steps, **extra):
    """All decisions, and the state at the end."""
    state, decisions = None, []
    for values in steps:
        readings = readings_of(values, **extra)
        decision, state = policy.decide(readings, state or policy.init(readings))
        decisions.append(decision)
    return decisions, state


def noisy(num, *sizes, sd=0.3, seed=0):
    """Log-normal norms around the sizes: a common factor and one of each tensor's own."""
    rng = np.random.default_rng(seed)
    log = rng.normal(0, sd, (num, 1)) * 0.7 + rng.normal(0, sd, (num, len(sizes))) * 0.7
    return [tuple(map(float, row)) for row in np.exp(log) * np.array(sizes)]


def same(a, b):
    return set(a) == set(b) and all(np.asarray(a[key]).tobytes() == np.asarray(b[key]).tobytes() for key in a)


def test_text_and_arguments():
    for text in ("auto()", "auto(deviations=4.0)", "auto(deviations=4.0, max_update=inf)"):
        assert parse_policy(text).text == text
    assert HISTORY.needs == frozenset()
    assert auto().needs == {"lr", "param_norm:10"}
    with pytest.raises(ArgumentError, match="deviations"):
        auto(deviations=0.0)
    with pytest.raises(ArgumentTypeError, match="max_update"):
        auto(max_update="small")


# ---- the test against history ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("factor", [30.0, 1e3, 1e15, 1e30])
def test_a_spike_of_all_tensors_is_scaled_to_the_usual_norms(factor):
    steps = noisy(200, 1.0, 5.0)
    decisions, _ = run(HISTORY, [*steps, (1.0 * factor, 5.0 * factor)])
    assert decisions[-1].scale * factor == pytest.approx([1.0, 1.0], rel=0.25)  # a mean over 32 steps of sd .3
    assert int(decisions[-1].reason) == Reason.CLIPPED


def test_a_spike_of_one_tensor_leaves_the_others_their_bits():
    decisions, _ = run(HISTORY, [*noisy(200, 1.0, 5.0), (1000.0, 5.0)])
    assert decisions[-1].scale[0] == pytest.approx(1e-3, rel=0.25)
    assert decisions[-1].scale[1] == 1.0


def test_a_small_tensor_that_spikes_below_the_total_is_scaled_as_well():
    decisions, _ = run(HISTORY, [*noisy(200, 1e-4, 5.0), (1.0, 5.0)])
    assert decisions[-1].scale[0] == pytest.approx(1e-4, rel=0.25)
    assert decisions[-1].scale[1] == 1.0


def test_where_only_the_total_is_out_of_line_all_tensors_are_scaled_alike():
    # Two tensors take turns, each with a wide spread of its own; their total is steady until both come at once.
    turns = [(1.0, 0.01) if i % 2 else (0.01, 1.0) for i in range(200)]
    decisions, _ = run(HISTORY, [*turns, (3.0, 3.0)])
    assert decisions[-1].scale[0] == decisions[-1].scale[1]
    assert 3.0 * math.sqrt(2.0) * decisions[-1].scale[0] == pytest.approx(1.0, rel=1e-3)


@pytest.mark.parametrize("sd", [0.02, 0.3, 1.0])
def test_healthy_norms_are_not_touched(sd):
    decisions, _ = run(HISTORY, noisy(3000, 1.0, 5.0, 0.02, sd=sd))
    assert sum(bool(np.any(d.scale < 1.0)) for d in decisions) == 0


@pytest.mark.parametrize("per_step", [0.02, -0.02])
def test_a_ramp_is_not_touched(per_step):
    steps = [tuple(v * math.exp(per_step * i) for v in row) for i, row in enumerate(noisy(1000, 1.0, 5.0, sd=0.2))]
    decisions, _ = run(HISTORY, steps)
    assert sum(bool(np.any(d.scale < 1.0)) for d in decisions) == 0


@pytest.mark.parametrize(("jump", "within"), [(10.0, 40), (1e3, 60), (1e6, 75)])
@pytest.mark.parametrize("sd", [0.0, 0.2])
def test_a_new_level_is_accepted_in_a_time_that_grows_with_the_logarithm(jump, within, sd):
    decisions, _ = run(HISTORY, noisy(200, 1.0, 5.0, sd=sd) + noisy(200, jump, 5.0 * jump, sd=sd, seed=1))
    clipped = [bool(np.any(d.scale < 1.0)) for d in decisions[200:]]
    assert clipped[0]
    assert not any(clipped[within:])


def test_after_a_fall_of_the_level_a_spike_is_seen_again():
    decisions, _ = run(HISTORY, noisy(200, 1.0, 5.0) + noisy(200, 0.01, 0.05, seed=1) + [(1.0, 5.0)])
    assert decisions[-1].scale[1] < 0.03


@pytest.mark.parametrize("spike", [1e2, 1e30])
def test_the_influence_of_a_spike_is_bounded(spike):
    _, before = run(HISTORY, noisy(200, 1.0, 5.0))
    _, after = run(HISTORY, [*noisy(200, 1.0, 5.0), (spike, 5.0 * spike)])
    for name in ("tensor", "total"):
        spread = np.maximum(before[f"{name}_spread"], FLOOR)
        assert np.all(np.abs(after[f"{name}_center"] - before[f"{name}_center"]) <= 0.0782 * spread)
        assert np.all(after[f"{name}_spread"] <= before[f"{name}_spread"] + 0.0665 * spread)


def test_one_spike_in_eight_never_passes():
    steps = [(v if i % 8 else 1e4,) for i, (v,) in enumerate(noisy(2000, 1.0))]
    decisions, _ = run(HISTORY, steps)
    assert all(d.scale[0] < 1e-2 for d in decisions[200::8])


@given(st.lists(st.tuples(st.floats(0.01, 100.0), st.floats(0.01, 100.0)), min_size=10, max_size=40), st.integers(-60, 60))
def test_multiplying_all_gradients_changes_no_decision(steps, exponent):
    factor = 2.0**exponent
    plain, _ = run(HISTORY, steps)
    scaled, _ = run(HISTORY, [(a * factor, b * factor) for a, b in steps])
    for a, b in zip(plain, scaled, strict=True):
        np.testing.assert_allclose(a.scale, b.scale, rtol=1e-9)


# ---- the bound by the weights ---------------------------------------------------------------------------------------------


def test_the_first_step_is_bounded():
    (decision,), _ = run(auto(max_update=0.01), [(30.0, 40.0)], weights=(3.0, 4.0), lr=0.1)
    assert decision.scale == pytest.approx([0.01] * 2, rel=1e-15)  # 0.1 * 50 * scale = 0.01 * 5


def test_loss_scale_and_learning_rate_cancel():
    (a,), _ = run(auto(), [(30.0, 40.0)], lr=0.1)
    (b,), _ = run(auto(), [(30.0 * 1024, 40.0 * 1024)], lr=0.1 / 1024)
    assert np.array_equal(a.scale, b.scale)


def test_weights_of_zero_bound_nothing():
    (decision,), _ = run(auto(), [(30.0, 40.0)], weights=(0.0, 0.0))
    assert np.all(decision.scale == 1.0)


def test_a_learning_rate_of_zero_bounds_nothing():
    (decision,), _ = run(auto(), [(1e30, 1e30)], lr=0.0)
    assert np.all(decision.scale == 1.0)


def test_the_last_weights_that_were_read_count():
    _, state = run(auto(), [(1.0, 1.0)], weights=(3.0, 4.0))
    decision, state = auto().decide(readings_of((300.0, 400.0), weights=None), state)
    assert decision.scale == pytest.approx([0.005 * 5.0 / 50.0] * 2, rel=1e-12)


@given(st.tuples(st.floats(0.0, 1e150), st.floats(0.0, 1e150)), st.floats(1e-6, 1e3), st.floats(1e-6, 1e6))
def test_no_step_is_longer_than_the_bound(values, lr, weight):
    (decision,), _ = run(auto(), [values], lr=lr, weights=(weight, weight))
    length = math.hypot(*(lr * np.array(values) * decision.scale))
    assert length <= 0.005 * math.hypot(weight, weight) * (1 + 1e-12)


# ---- what holds for every limit -------------------------------------------------------------------------------------------


@given(steps_of_two)
def test_finite_factors_numpy_and_torch_alike_and_nothing_bad_enters_the_state(steps):
    states, policy = {}, auto()
    for values in steps:
        scales = []
        for xp in (np, torch):
            readings = readings_of(values, xp)
            before = states.get(xp) or {
                key: torch.as_tensor(value) if xp is torch else value for key, value in policy.init(readings).items()
            }
            kept = copy.deepcopy(before)
            decision, states[xp] = policy.decide(readings, before)
            assert same(before, kept)  # nothing is changed in place
            assert all(np.all(np.isfinite(np.asarray(value))) for value in states[xp].values())
            scales.append(np.asarray(decision.scale))
            finite = all(map(math.isfinite, values))
            assert bool(decision.skip) is not finite
            if not finite:
                assert same(states[xp], kept)
                assert int(decision.reason) == Reason.NON_FINITE
        assert np.all((scales[0] > 0.0) & (scales[0] <= 1.0))
        np.testing.assert_allclose(scales[0], scales[1], rtol=1e-9)


@given(steps_of_two, steps_of_two)
def test_a_saved_state_gives_the_same_decisions_to_the_bit(before, after):
    policy = auto()
    _, state = run(policy, before)
    saved = copy.deepcopy(state)
    for values in after:
        a, state = policy.decide(readings_of(values), state)
        b, saved = policy.decide(readings_of(values), saved)
        assert a.scale.tobytes() == b.scale.tobytes()
        assert same(state, saved)


def test_absent_and_zero_gradients_are_left_out_of_the_history():
    with_gaps = [(a, b if i % 3 else 0.0) for i, (a, b) in enumerate(noisy(300, 1.0, 5.0))]
    _, state = run(HISTORY, with_gaps)
    assert np.exp(state["tensor_center"]) == pytest.approx([1.0, 5.0], rel=0.25)
    decisions, _ = run(HISTORY, [*with_gaps, (0.0, 0.0), (1.0, 5000.0)])
    assert np.all(decisions[-2].scale == 1.0)
    assert decisions[-1].scale[1] < 2e-3


def test_no_tensors():
    (decision,), _ = run(auto(), [()])
    assert decision.scale is None
    assert decision.skip is None


def test_masked_and_chained():
    policy = parse_policy("masked(chain(skip_nonfinite(), auto(max_update=inf)), 'p1')")
    decisions, _ = run(policy, [*[(1.0, 1.0)] * 20, (100.0, 100.0)])
    assert np.asarray(decisions[-1].scale) == pytest.approx([1.0, 0.01], rel=1e-9)


def test_in_a_guard_the_first_plain_sgd_step_is_at_most_the_bound():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 1))
    before = torch.cat([p.detach().flatten().clone() for p in model.parameters()])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    guard = sg.Guard(optimizer, auto(), model=model)
    (1e4 * model(torch.ones(1, 4)).square()).sum().backward()
    optimizer.step()
    after = torch.cat([p.detach().flatten() for p in model.parameters()])
    assert float((after - before).norm() / before.norm()) == pytest.approx(0.005, rel=1e-4)
    assert Reason(int(guard.decision.reason)) is Reason.CLIPPED
    guard.detach()
