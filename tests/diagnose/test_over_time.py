"""Explosions over time: the onset, the growth, who leads, and what is not an explosion."""

import numpy as np
import pytest
from helpers import make_run

from steadygrad.diagnose import diagnose
from steadygrad.diagnose.over_time import exploding_over_time, explosions
from steadygrad.diagnose.recurrent import is_recurrent
from steadygrad.diagnose.series import series_of


def calm(rows, seed=0, spread=0.1):
    return np.exp(np.random.default_rng(seed).normal(0.0, spread, rows))


def exploding(rows=500, onset=412):
    norms = np.stack([calm(rows, 1), 0.8 * calm(rows, 2)], axis=1)
    up = np.minimum(np.arange(rows - onset) + 1, 9)
    norms[onset:, 1] *= 10.0 ** (0.85 * up)
    loss = 2.0 - np.arange(rows) / rows + np.random.default_rng(3).normal(0, 0.01, rows)
    loss[onset:] += up
    return make_run(grad_norm=norms, loss=loss, names=("fc.weight", "rnn.weight_hh_l0"))


def test_says_when_how_much_and_where():
    (finding,) = exploding_over_time(exploding())
    assert (finding.slug, finding.severity, finding.step) == ("exploding-over-time", "error", 414)
    assert finding.where[0] == "rnn.weight_hh_l0"
    assert finding.evidence["norm_before"] == pytest.approx(1.28, rel=0.1)
    assert 1e7 < finding.evidence["growth_factor"] < 1e8
    assert finding.evidence["returned_at_step"] == "never"
    assert "spectral radius" in finding.cause
    assert "clip_by_global_norm(1.3)" in finding.remedies[0]


def test_one_that_ends_in_nan_is_protected_by_a_skip_as_well():
    run = exploding()
    run.total_norm[420:] = np.nan
    run.grad_norm[420:] = np.nan
    (finding,) = exploding_over_time(run)
    assert finding.evidence["became_nonfinite"] == "true"
    assert "chain(skip_nonfinite(), clip_by_global_norm(1.3))" in finding.remedies[0]


def test_growth_too_slow_to_leave_its_recent_history():
    norms = calm(1000) * 1.02 ** np.arange(1000)
    (finding,) = exploding_over_time(make_run(total_norm=norms, loss=1 + np.arange(1000) / 100))
    assert finding.severity == "error"
    assert np.isnan(finding.evidence["robust_z"])


def test_the_second_step_is_not_too_early():
    norms = np.concatenate([[0.25, 210.0, 1e6], calm(97)])
    loss = np.concatenate([[2.3, 300.0, 1e8], np.full(97, 45.0)])
    (finding,) = exploding_over_time(make_run(total_norm=norms, loss=loss))
    assert finding.step == 2


@pytest.mark.parametrize(
    "norms",
    [
        calm(500),
        50 * np.exp(-np.arange(500) / 20) + 0.5 * calm(500),
        np.concatenate([np.full(50, 1e-3), np.geomspace(1e-3, 0.05, 450)]),
        calm(500, spread=1.0),
    ],
    ids=["steady", "falling", "rising fifty-fold", "log-normal"],
)
def test_healthy_norms_do_not_explode(norms):
    assert not list(exploding_over_time(make_run(total_norm=norms, loss=np.linspace(3, 1, 500))))


def test_a_single_spike_is_no_explosion():
    norms = calm(500)
    norms[300] *= 1000
    (series,) = series_of(make_run(total_norm=norms, loss=np.linspace(3, 1, 500)))
    assert explosions(series) == []


def test_a_norm_that_comes_back_from_a_dip_has_not_exploded():
    norms = calm(600)
    norms[200:400] *= 1e-4
    assert not list(exploding_over_time(make_run(total_norm=norms, loss=np.linspace(3, 1, 600))))


def test_two_optimizers_are_judged_apart():
    norms = np.where(np.arange(400) % 2 == 0, 1e-3, 1e3) * calm(400)
    run = make_run(total_norm=norms, loss=np.linspace(3, 1, 400), optimizer=np.arange(400) % 2)
    assert [f.slug for f in diagnose(run)] == []


def test_names_of_recurrent_weights():
    assert is_recurrent("encoder.lstm.weight_hh_l1")
    assert not is_recurrent("encoder.lstm.bias_hh_l1")
    assert not is_recurrent("fc.weight")
