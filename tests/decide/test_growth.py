import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from steadygrad.arrays import Limiter
from steadygrad.decide import clip_by_growth
from steadygrad.decision import Reason

norms = st.lists(st.floats(1e-20, 1e20), min_size=2, max_size=30)


def run(policy, values):
    limiter = Limiter(policy)
    taken = [limiter([np.array([value])]) for value in values]
    return [math.nan if grads is None else grads[0].item() for grads in taken], limiter


def test_known_answer():
    found, limiter = run(clip_by_growth(2.0), [1.0, 1.5, 100.0])
    assert found == [1.0, 1.5, 3.0]
    assert float(limiter.decision.threshold) == 3.0
    assert limiter.reason == Reason.CLIPPED


def test_known_answer_of_the_average():
    found, limiter = run(clip_by_growth(2.0, beta=0.5), [1.0, 1.5, 100.0])
    assert found == [1.0, 1.5, 2.5]
    assert float(limiter.state_dict()["level"]) == 0.5 * 1.25 + 0.5 * 2.5


@given(norms, st.floats(1.01, 10.0), st.floats(0.01, 1.0))
def test_no_step_grows_more_than_the_factor_over_the_recent_peak(values, factor, floor):
    found, _ = run(clip_by_growth(factor, floor=floor), values)
    peak = found[0]
    for last, now, wanted in zip(found, found[1:], values[1:], strict=False):
        allowed = factor * max(last, floor * peak)
        assert now == wanted or now == pytest.approx(allowed, rel=1e-12)
        assert now <= allowed * (1 + 1e-12)
        peak = max(now, 0.99 * peak)


def test_a_tiny_norm_or_a_zero_does_not_freeze_training():
    for dip in (1e-30, 0.0):
        found, _ = run(clip_by_growth(2.0), [1.0] * 10 + [dip] + [1.0] * 5)
        assert found[-1] == 1.0
        assert np.sum(np.array(found) < 0.9) <= 4


def test_a_tiny_first_norm_is_outgrown_in_logarithmic_time():
    found, _ = run(clip_by_growth(2.0), [1e-30] + [1.0] * 101)
    assert found[-1] == 1.0
    assert found[90] < 1.0


@pytest.mark.parametrize(("beta", "steps"), [(0.0, 7), (0.9, 49)])
def test_a_new_level_is_accepted_in_the_promised_number_of_steps(beta, steps):
    found, _ = run(clip_by_growth(2.0, beta=beta), [1.0] * 5 + [100.0] * 60)
    accepted = found.index(100.0) - 5
    assert accepted == pytest.approx(steps, abs=8 if beta else 1)


def test_a_nan_skips_the_step_and_moves_nothing():
    found, _ = run(clip_by_growth(2.0), [1.0, math.nan, math.inf, 100.0])
    assert np.isnan(found[1:3]).all()
    assert found[-1] == 2.0
