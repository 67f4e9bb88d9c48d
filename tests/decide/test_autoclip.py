import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from steadygrad.arrays import Limiter
from steadygrad.decide import autoclip
from steadygrad.decide.autoclip import CAPACITY
from steadygrad.decision import Reason
from steadygrad.readings import Layout, Readings


def thresholds(policy, norms):
    limiter, found = Limiter(policy), []
    for norm in norms:
        limiter([np.array([norm])])
        found.append(float(limiter.decision.threshold))
    return found


@pytest.mark.parametrize(("percentile", "threshold", "scale"), [(50.0, 3.0, 0.3), (10.0, 1.4, 0.14)])
@pytest.mark.parametrize("window", [None, 5])
def test_a6_known_answer(percentile, threshold, scale, window):
    limiter = Limiter(autoclip(percentile, window=window))
    for norm in (1.0, 2.0, 3.0, 4.0, 10.0):
        limiter([np.array([norm])])
    assert float(limiter.decision.threshold) == pytest.approx(threshold, rel=1e-15)
    assert float(limiter.decision.scale) == pytest.approx(scale, rel=1e-15)
    assert limiter.reason == Reason.CLIPPED


@pytest.mark.parametrize(("percentile", "share"), [(10.0, 0.90), (90.0, 0.10)])
def test_a6_share_of_limited_steps_on_equally_distributed_norms(percentile, share):
    norms = np.random.default_rng(0).lognormal(0.0, 0.5, 3000)
    limited = np.mean(np.array(thresholds(autoclip(percentile), norms)) < norms)
    assert limited == pytest.approx(share, abs=0.02)


def naive(percentile, norms, window=None):
    """The published rule, on norms that it can cope with."""
    return [np.percentile(norms[max(0, t - (window or t)) : t], percentile) for t in range(1, len(norms) + 1)]


@given(
    st.lists(st.floats(1e-20, 1e20), max_size=40), st.floats(0.0, 100.0).map(lambda p: round(p, 2)), st.none() | st.integers(1, 9)
)
def test_agrees_with_the_published_rule_on_finite_norms(norms, tenths, window):
    percentile = tenths / 10
    np.testing.assert_allclose(
        thresholds(autoclip(percentile, window=window), norms), naive(percentile, norms, window), rtol=1e-9
    )


@pytest.mark.parametrize("window", [None, 4])
def test_one_nan_changes_no_later_threshold(window):
    before, after = [1.0, 2.0, 3.0], [4.0, 5.0]
    with_nan = thresholds(autoclip(30.0, window=window), [*before, math.nan, *after])
    assert with_nan[:3] + with_nan[4:] == thresholds(autoclip(30.0, window=window), before + after)


def test_a_window_forgets():
    assert thresholds(autoclip(0.0, window=2), [1.0, 5.0, 6.0]) == [1.0, 1.0, 5.0]
    assert thresholds(autoclip(0.0), [1.0, 5.0, 6.0]) == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("window", [20, None])
def test_a_new_level_is_accepted(window):
    found = thresholds(autoclip(50.0, window=window), [1.0] * 20 + [10.0] * 21)
    assert found[-1] == 10.0
    assert found[20] == 1.0


def last_of(policy, norms):
    """The last threshold and state, without the arrays around."""
    layout = Layout(("a",))
    state = policy.init(Readings(layout, np, np.ones(1)))
    for square in np.square(norms):
        decision, state = policy.decide(Readings(layout, np, np.array([square])), state)
    return float(decision.threshold), state


def test_the_full_history_stays_close_once_it_is_thinned():
    norms = np.random.default_rng(1).lognormal(0.0, 1.0, 4 * CAPACITY)
    for percentile in (10.0, 50.0, 99.0):
        threshold, state = last_of(autoclip(percentile), norms)
        rank = 100.0 * np.mean(norms <= threshold)
        assert rank == pytest.approx(percentile, abs=1.0)
    assert int(state["num_norms"]) == len(norms)
    assert int(state["stride"]) == 4 or int(state["stride"]) == 8
    assert CAPACITY // 2 <= int(state["num_kept"]) < CAPACITY
    assert np.count_nonzero(state["history"]) == int(state["num_kept"])
    assert np.all(np.diff(state["history"]) >= 0.0)


def test_the_full_history_is_exact_up_to_its_capacity():
    norms = np.random.default_rng(2).lognormal(0.0, 1.0, CAPACITY)
    threshold, state = last_of(autoclip(37.5), norms)
    assert threshold == pytest.approx(np.percentile(norms, 37.5), rel=1e-14)
    assert (int(state["num_kept"]), int(state["stride"])) == (CAPACITY // 2, 2)
    np.testing.assert_array_equal(state["history"][CAPACITY // 2 :], np.sort(np.sqrt(np.square(norms)))[1::2])


def test_the_hundredth_percentile_limits_nothing():
    limiter = Limiter(autoclip(100.0))
    for norm in (1.0, 5.0, 1e9, 2.0):
        assert limiter([np.array([norm])])[0].item() == norm
