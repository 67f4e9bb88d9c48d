"""The smaller rules: thresholds, skips, missing gradients, the loss, and the order of findings."""

import numpy as np
import pytest
from helpers import make_run

from steadygrad.diagnose import Finding, diagnose
from steadygrad.diagnose.loss import lasting_rise, loss_diverged
from steadygrad.diagnose.no_gradient import no_gradient
from steadygrad.diagnose.skips import longest_run, many_skips
from steadygrad.diagnose.threshold import threshold

RNG = np.random.default_rng(0)
NORMS = np.exp(RNG.normal(0, 0.2, 400))
LOSS = 1 + np.exp(-np.arange(400) / 100) + RNG.normal(0, 0.01, 400)


def test_a_healthy_run_has_no_findings():
    assert diagnose(make_run(grad_norm=np.stack([NORMS, NORMS], axis=1), loss=LOSS)) == []


def test_a_threshold_that_always_binds():
    (finding,) = threshold(make_run(total_norm=NORMS, loss=LOSS, threshold=0.1))
    assert (finding.slug, finding.severity) == ("threshold-always-binds", "info")
    assert finding.evidence["share_clipped"] == 1.0
    assert finding.evidence["median_coefficient"] == pytest.approx(0.1, rel=0.05)
    assert finding.evidence["suggested_threshold"] == pytest.approx(np.percentile(NORMS[40:], 99), rel=0.05)
    assert f"clip_by_global_norm({finding.evidence['suggested_threshold']})" in finding.remedies[0]


def test_a_threshold_that_never_binds_is_only_a_note():
    (finding,) = threshold(make_run(total_norm=NORMS, loss=LOSS, threshold=100.0))
    assert (finding.slug, finding.severity) == ("threshold-never-binds", "info")


def test_a_threshold_that_binds_now_and_then_is_as_it_should_be():
    assert not list(threshold(make_run(total_norm=NORMS, loss=LOSS, threshold=1.5)))


def test_many_skips_and_the_longest_stretch():
    skipped = np.zeros(400, bool)
    skipped[100:130] = True
    (finding,) = many_skips(make_run(total_norm=NORMS, loss=LOSS, skipped=skipped))
    assert finding.evidence == {"skipped": 30, "share_skipped": 30 / 400, "longest_run": 30}
    assert finding.step == 101


def test_a_skip_now_and_then_is_normal():
    skipped = np.arange(400) % 100 == 0
    assert not list(many_skips(make_run(total_norm=NORMS, loss=LOSS, skipped=skipped)))
    assert longest_run(skipped) == 1


def test_parameters_without_gradient_and_with_zero_gradient():
    grads = np.ones((30, 3))
    grads[:, 1] = 0.0
    present = np.ones((30, 3), bool)
    present[:, 2] = False
    found = list(no_gradient(make_run(grad_norm=grads, present=present, names=("a", "dead", "frozen"))))
    assert [(f.slug, f.where) for f in found] == [("no-gradient", ("frozen",)), ("zero-gradient", ("dead",))]


def test_one_step_with_a_gradient_is_enough():
    grads = np.zeros((30, 1))
    grads[7] = 1e-30
    assert not list(no_gradient(make_run(grad_norm=grads)))


def test_a_loss_that_diverges_while_norms_stay_normal():
    loss = LOSS.copy()
    loss[300:] += np.linspace(0, 3, 100)
    (finding,) = loss_diverged(make_run(total_norm=NORMS, loss=loss))
    assert (finding.slug, finding.severity) == ("loss-diverged", "error")
    assert 300 < finding.step < 325
    assert finding.evidence["norm_before"] == pytest.approx(1.0, abs=0.1)
    assert "did not explode" in finding.cause


def test_a_loss_that_comes_back_has_jumped():
    loss = LOSS.copy()
    loss[200:230] += 3.0
    (finding,) = loss_diverged(make_run(total_norm=NORMS, loss=loss))
    assert (finding.slug, finding.severity, finding.step) == ("loss-jump", "warning", 201)


def test_a_loss_that_becomes_nan_while_gradients_stay_finite():
    loss = LOSS.copy()
    loss[300:] = np.nan
    (finding,) = loss_diverged(make_run(total_norm=NORMS, loss=loss))
    assert (finding.slug, finding.step) == ("loss-nonfinite", 301)


def test_a_loss_that_never_trained_at_all():
    loss = np.concatenate([[2.3], np.full(99, 40.0)]) + RNG.normal(0, 1e-2, 100)
    rise = lasting_rise(loss)
    assert rise is not None
    assert (rise.onset, rise.recovered) == (1, False)


def test_bumps_of_single_batches_and_heavy_tails_are_no_divergence():
    bumps, two_modes = LOSS.copy(), LOSS + 2.5 * (np.random.default_rng(1).random(400) < 0.25)
    bumps[[50, 150, 151, 300]] += 10.0
    assert lasting_rise(bumps) is None
    assert lasting_rise(two_modes) is None


def test_a_loss_recorded_now_and_then_is_not_taken_for_nan():
    loss = np.where(np.arange(400) % 10 == 0, LOSS, np.nan)
    assert not list(loss_diverged(make_run(total_norm=NORMS, loss=loss)))


def test_an_explosion_explains_the_loss():
    norms, loss = NORMS.copy(), LOSS.copy()
    norms[300:] *= 1e5
    loss[300:] += 10
    assert [f.slug for f in diagnose(make_run(total_norm=norms, loss=loss))] == ["exploding-over-time"]


@pytest.mark.parametrize("rows", [0, 1, 9])
def test_a_short_run_gets_no_guesses(rows):
    run = make_run(total_norm=np.geomspace(1, 1e9, rows) if rows else [], loss=np.ones(rows))
    assert [f.slug for f in diagnose(run)] == ["too-short"]


@pytest.mark.parametrize("norms", [np.zeros(100), np.repeat([0.5, 0.6], 50)], ids=["zero", "stale"])
def test_a_norm_column_that_nobody_filled_is_not_judged(norms):
    (finding,) = diagnose(make_run(total_norm=norms, loss=LOSS[:100]))
    assert (finding.slug, finding.severity) == ("norm-not-usable", "info")


def test_a_loss_that_was_not_recorded_is_said():
    assert [f.slug for f in diagnose(make_run(total_norm=NORMS))] == ["loss-not-recorded"]


def test_findings_are_sorted_by_severity_and_then_by_step():
    found = [
        Finding("a", "info", ""),
        Finding("b", "error", "", step=9),
        Finding("c", "error", "", step=2),
        Finding("d", "warning", ""),
    ]
    assert [f.slug for f in sorted(found, key=Finding.order)] == ["c", "b", "d", "a"]


def test_evidence_is_plain_python():
    norms, skipped = NORMS.copy(), NORMS > 1.3
    norms[200] *= 1e3
    norms[300:] *= 1e5
    run = make_run(grad_norm=np.stack([norms] * 5, axis=1), loss=LOSS, skipped=skipped, threshold=0.1)
    found = diagnose(run)
    assert len(found) >= 3
    for finding in found:
        for value in finding.evidence.values():
            assert {type(v) for v in (value if isinstance(value, list) else [value])} <= {int, float, str}
