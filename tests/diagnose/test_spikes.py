"""Isolated spikes of the norm, and what only looks like one."""

import numpy as np
import pytest
from helpers import make_run
from hypothesis import given
from hypothesis import strategies as st

from steadygrad.diagnose.excursions import tail_limit
from steadygrad.diagnose.spikes import spike


def noise(rows=1000, spread=0.15, seed=0):
    return np.exp(np.random.default_rng(seed).normal(0, spread, rows))


def falling(rows=1000):
    return 1 + np.exp(-np.arange(rows) / 200)


def test_counts_places_and_heights():
    norms = noise()
    norms[[300, 700]] = [50.0, 200.0]
    (finding,) = spike(make_run(total_norm=norms, loss=falling()))
    assert finding.severity == "warning"
    assert finding.step == 301
    assert finding.evidence["count"] == 2
    assert finding.evidence["steps"] == [301, 701]
    assert finding.evidence["heights"] == pytest.approx([50, 200], rel=0.1)
    assert finding.evidence["peak_step"] == 701


def test_names_the_parameter_that_carries_it():
    norms = np.stack([noise(), noise(seed=1)], axis=1)
    norms[500, 1] = 300.0
    (finding,) = spike(make_run(grad_norm=norms, loss=falling(), names=("a.weight", "b.weight")))
    assert finding.where == ("b.weight",)


@given(seed=st.integers(0, 50), tail=st.sampled_from([0.15, 0.5, 1.0]))
def test_a_stationary_log_normal_norm_has_none(seed, tail):
    assert not list(spike(make_run(total_norm=noise(600, tail, seed), loss=falling(600))))


def test_a_power_law_tail_has_none():
    norms = np.random.default_rng(0).pareto(2.0, 3000) + 1
    assert norms.max() > 20 * np.median(norms)
    assert not list(spike(make_run(total_norm=norms, loss=falling(3000))))


def test_a_bump_of_the_loss_alone_is_none():
    loss = falling()
    loss[400] = 30.0
    assert not list(spike(make_run(total_norm=noise(), loss=loss)))


def test_a_rise_that_stays_is_none():
    norms = noise()
    norms[500:] *= 20
    assert not list(spike(make_run(total_norm=norms, loss=falling())))


def test_the_tail_limit_follows_the_tail_of_the_series():
    light = tail_limit(np.random.default_rng(0).normal(0, 0.1, 5000))
    heavy = tail_limit(np.random.default_rng(0).exponential(0.3, 5000))
    assert 0.5 < light < 1.0 < 3.0 < heavy
