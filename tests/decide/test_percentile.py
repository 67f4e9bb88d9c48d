import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from steadygrad.arrays import Limiter
from steadygrad.decide import percentile_clip


def factors(policy, rows):
    """The factor of each tensor at each step; NaN where the step was skipped."""
    limiter, found = Limiter(policy), []
    for row in rows:
        taken = limiter([np.array([norm]) for norm in row])
        found.append(np.array(limiter.decision.scale) if taken is not None else np.full(len(row), math.nan))
    return np.array(found), limiter.state_dict()


def test_a7_known_answer():
    rows = [(float(norm),) for norm in [*range(101, 101 + 7), *range(1, 101)]]  # the first 7 have left the window
    found, state = factors(percentile_clip(5), rows)
    assert sorted(state["tensor_history"][0]) == [float(norm) for norm in range(1, 101)]
    assert found[-1, 0] == 6.0 / 100.0


def naive(percentile, norms, window):
    """The published rule with a window that only holds what came, for one tensor."""
    found = []
    for t in range(1, len(norms) + 1):
        last = sorted(norms[max(0, t - window) : t])
        found.append(min(1.0, last[min(percentile * len(last) // 100, len(last) - 1)] / norms[t - 1]))
    return found


@given(st.lists(st.floats(1e-20, 1e20), min_size=1, max_size=30), st.integers(0, 100), st.integers(1, 12))
def test_agrees_with_the_published_rule_on_a_filled_window(norms, percentile, window):
    found, _ = factors(percentile_clip(percentile, window=window), [(norm,) for norm in norms])
    np.testing.assert_allclose(found[:, 0], naive(percentile, norms, window), rtol=1e-14)


def test_a7_no_factor_is_zero_before_the_window_is_full():
    norms = np.random.default_rng(0).lognormal(0.0, 0.2, 95)
    found, _ = factors(percentile_clip(5), [(norm,) for norm in norms])
    assert np.all(found >= norms.min() / norms.max())
    assert found[0, 0] == 1.0


def test_each_tensor_has_its_own_window():
    rows = [(1.0, 0.0, 7.0), (2.0, 3.0, 0.0), (4.0, 9.0, 7.0)]
    found, state = factors(percentile_clip(0, window=3), rows)
    assert found.tolist() == [[1.0, 1.0, 1.0], [0.5, 1.0, 1.0], [0.25, 3.0 / 9.0, 1.0]]
    assert state["tensor_num_norms"].tolist() == [3, 2, 2]
    assert state["tensor_history"].tolist() == [[1.0, 2.0, 4.0], [0.0, 3.0, 9.0], [0.0, 7.0, 7.0]]


def test_a_bad_tensor_skips_the_step_and_moves_no_window():
    found, state = factors(percentile_clip(50, window=4), [(1.0, 2.0), (3.0, math.nan)])
    assert np.all(np.isnan(found[1]))
    assert state["tensor_num_norms"].tolist() == [1, 1]


def test_a_new_level_is_accepted_within_a_window():
    found, _ = factors(percentile_clip(5, window=20), [(1.0,)] * 20 + [(10.0,)] * 20)
    assert found[20, 0] == 0.1
    assert found[-1, 0] == 1.0
