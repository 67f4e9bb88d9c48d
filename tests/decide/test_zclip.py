import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from steadygrad.arrays import Limiter
from steadygrad.decide import zclip
from steadygrad.decision import Reason
from steadygrad.readings import Layout, Readings

LAYOUT = Layout(("a",))


def decide(policy, norm, state):
    return policy.decide(Readings(LAYOUT, np, np.array([norm * norm])), state)


def measured(policy, mean=1.0, deviation=0.5):
    """A state after the warm-up."""
    start = policy.init(Readings(LAYOUT, np, np.ones(1)))
    return {**start, "mean": np.float64(mean), "deviation": np.float64(deviation), "num_norms": np.int64(25)}


def test_a8_known_answer():
    policy = zclip(max_norm=None, eps=0.0)
    decision, state = decide(policy, 3.0, measured(policy))
    assert 3.0 * float(decision.scale) == pytest.approx(1.78125, rel=1e-15)
    assert float(state["mean"]) == pytest.approx(1.0234375, rel=1e-15)
    assert float(state["deviation"]) ** 2 == pytest.approx(0.2597284, abs=5e-8)
    assert int(decision.reason) == Reason.CLIPPED
    assert float(decision.threshold) == 2.25


def test_a8_known_answer_below_the_threshold():
    policy = zclip(max_norm=None)
    decision, state = decide(policy, 2.2, measured(policy))
    assert float(decision.scale) == 1.0
    assert float(state["mean"]) == pytest.approx(0.97 + 0.03 * 2.2, rel=1e-15)


@pytest.mark.parametrize(("mode", "norm"), [("mean", 1.0), ("threshold", 2.25), ("reciprocal", 1.78125)])
def test_a8_known_answer_of_each_mode(mode, norm):
    policy = zclip(max_norm=None, mode=mode, eps=0.0)
    assert 3.0 * float(decide(policy, 3.0, measured(policy))[0].scale) == pytest.approx(norm, rel=1e-15)
    policy = zclip(max_norm=None, mode=mode, eps=0.0, clip_factor=0.5)
    assert 3.0 * float(decide(policy, 3.0, measured(policy))[0].scale) == pytest.approx(0.5 * norm, rel=1e-15)


def test_max_norm_limits_but_does_not_enter_the_statistic():
    policy = zclip(max_norm=1.5, eps=0.0)
    decision, state = decide(policy, 3.0, measured(policy))
    assert 3.0 * float(decision.scale) == pytest.approx(1.5, rel=1e-15)
    assert float(state["mean"]) == pytest.approx(1.0234375, rel=1e-15)
    assert float(zclip().decide(Readings(LAYOUT, np, np.array([4.0])), measured(zclip(), 2.0))[0].scale) == 0.5


class Naive:
    """The published rule with its absolute epsilon, in plain Python; returns the norm that is let pass."""

    def __init__(self, warmup, mode, max_norm):
        self.first, self.warmup, self.mode, self.max_norm = [], warmup, mode, max_norm

    def __call__(self, norm):
        if len(self.first) < self.warmup:
            self.first.append(norm)
            self.mean, self.variance = np.mean(self.first), np.var(self.first)
            return min(norm, self.max_norm)
        sigma = math.sqrt(self.variance)
        score = (norm - self.mean) / (sigma + 1e-6)
        target = norm
        if score > 2.5:
            spread = {"mean": 0.0, "threshold": 2.5 * sigma, "reciprocal": 2.5 * sigma / (score / 2.5)}[self.mode]
            target = self.mean + spread
        self.mean = 0.97 * self.mean + 0.03 * target
        self.variance = 0.97 * self.variance + 0.03 * (target - self.mean) ** 2
        return min(target, self.max_norm)


@pytest.mark.parametrize("mode", ["reciprocal", "mean", "threshold"])
@pytest.mark.parametrize("max_norm", [None, 1.2])
def test_agrees_with_the_published_rule_on_norms_without_outliers(mode, max_norm):
    norms = np.random.default_rng(3).lognormal(0.0, 0.3, 600)
    limiter, naive = Limiter(zclip(mode=mode, max_norm=max_norm)), Naive(25, mode, max_norm or math.inf)
    ours = [limiter([np.array([norm])])[0].item() for norm in norms]
    # The published epsilon is absolute, ours in units of the mean, which is close to 1 here.
    np.testing.assert_allclose(ours, [naive(norm) for norm in norms], rtol=1e-6)
    assert np.sum(np.array(ours) < norms) > 5


def passed(policy, norms):
    limiter = Limiter(policy)
    taken = [limiter([np.array([norm])]) for norm in norms]
    return [math.nan if grads is None else grads[0].item() for grads in taken], limiter


def test_clipping_is_still_on_after_a_nan():
    norms = list(np.random.default_rng(4).lognormal(0.0, 0.1, 40))
    found, _ = passed(zclip(max_norm=None), [*norms, math.nan, math.inf, 1e6])
    assert found[-1] < 1.1
    assert np.all(np.isnan(found[-3:-1]))


def test_constant_norms_leave_room_for_a_small_change():
    found, _ = passed(zclip(max_norm=None), [1.0] * 30 + [1.00001, 1.02])
    assert found[-2:] == [1.00001, 1.02]
    assert passed(zclip(max_norm=None), [1.0] * 30 + [1.03])[0][-1] < 1.03


@given(st.integers(0, 24), st.floats(1e2, 1e12))
def test_a_spike_in_the_warmup_hides_no_later_one(position, size):
    norms = list(np.random.default_rng(5).lognormal(0.0, 0.2, 30))
    norms[position] = size
    found, limiter = passed(zclip(max_norm=None), [*norms, 50.0])
    assert found[-1] < 1.7
    assert float(limiter.state_dict()["mean"]) < 1.5


def test_only_max_norm_protects_during_the_warmup():
    assert passed(zclip(), [1e6])[0] == [1.0]
    assert passed(zclip(max_norm=None), [1e6])[0] == [1e6]


def test_a_larger_spike_is_cut_harder_and_the_rule_is_continuous():
    policy = zclip(max_norm=None, eps=0.0)
    outs = [n * float(decide(policy, n, measured(policy))[0].scale) for n in (2.25, 2.25 + 1e-9, 3.0, 10.0, 1e9)]
    assert outs[0] == pytest.approx(outs[1], rel=1e-8)
    assert outs[1] > outs[2] > outs[3] > outs[4] > 1.0
    assert outs[4] == pytest.approx(1.0, rel=1e-8)


@pytest.mark.parametrize("mode", ["reciprocal", "mean", "threshold"])
@pytest.mark.parametrize("factor", [3.0, 10.0, 1e4])
def test_a_new_level_is_accepted_soon_after_the_patience(mode, factor):
    norms = np.random.default_rng(6).lognormal(0.0, 0.1, 160)
    norms[60:] *= factor
    found, _ = passed(zclip(max_norm=None, mode=mode), norms)
    assert found[60] < 1.5
    assert found[-40:] == pytest.approx(norms[-40:], rel=0.05)
    published, _ = passed(zclip(max_norm=None, mode="reciprocal", patience=None), norms)
    assert published[-1] < 0.5 * norms[-1]


def test_a_spike_can_be_skipped():
    norms = [*np.random.default_rng(7).lognormal(0.0, 0.1, 30), 9.0, 1.0]
    found, limiter = passed(zclip(max_norm=None, skip_spikes=True), norms[:-1])
    assert math.isnan(found[-1])
    assert limiter.reason == Reason.SPIKE
    scaled = passed(zclip(max_norm=None), norms[:-1])[1]
    assert float(limiter.state_dict()["mean"]) == float(scaled.state_dict()["mean"])
    assert limiter([np.array([1.0])]) is not None


def test_a_downward_step_is_no_spike():
    found, _ = passed(zclip(max_norm=None), [1.0] * 30 + [1e-3] * 5)
    assert found[-5:] == [1e-3] * 5
