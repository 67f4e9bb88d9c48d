"""NaN and Inf: the first step, the tensors, the bracket around the fault."""

import numpy as np
import pytest
from helpers import make_run

from steadygrad.diagnose import diagnose
from steadygrad.diagnose.nonfinite import nonfinite, norm_overflow

NAMES = ("conv1.weight", "conv2.weight", "norm.weight", "fc.weight")


def run_with(bad, rows=50, at=30, **changes):
    norms = np.ones((rows, 4))
    norms[at, list(bad)] = list(bad.values())
    settings = {"loss": np.linspace(2, 1, rows), "names": NAMES, **changes}
    return make_run(grad_norm=norms, **settings)


def test_lists_what_is_bad_and_what_stayed_finite():
    (finding,) = nonfinite(run_with({0: np.nan, 1: np.nan, 2: np.inf}))
    assert (finding.severity, finding.step) == ("error", 31)
    assert finding.evidence["nan"] == ["conv1.weight", "conv2.weight"]
    assert finding.evidence["inf"] == ["norm.weight"]
    assert finding.evidence["finite"] == ["fc.weight"]
    assert finding.evidence["loss_at_step"] == pytest.approx(1.39, abs=0.01)
    assert finding.where[0] == "norm.weight"
    assert "fc.weight stayed finite" in finding.cause


def test_a_bad_loss_points_at_the_forward_pass():
    loss = np.linspace(2, 1, 50)
    loss[30:] = np.nan
    (finding,) = nonfinite(run_with(dict.fromkeys(range(4), np.nan), loss=loss))
    assert "loss was already NaN" in finding.cause


def test_the_update_that_blew_up_the_weights_is_named():
    run = run_with(dict.fromkeys(range(4), np.nan), names=("rnn.weight_hh_l0", *NAMES[1:]), at=1)
    run.loss[1:] = np.nan
    run.grad_norm[0, 0], run.total_norm[0] = 500.0, 500.0
    (finding,) = nonfinite(run)
    assert finding.where == ("rnn.weight_hh_l0",)
    assert any("orthogonal" in remedy for remedy in finding.remedies)


def test_a_few_skipped_steps_are_only_a_warning():
    skipped = np.zeros(50, bool)
    skipped[30] = True
    (finding,) = nonfinite(run_with({0: np.inf}, skipped=skipped))
    assert finding.severity == "warning"
    assert finding.evidence["steps_skipped"] == 1


def test_events_say_more_than_columns():
    event = {"kind": "nonfinite", "step": 12, "optimizer": 0, "nan": ["fc.weight"], "inf": [], "finite": ["conv1.weight"]}
    (finding,) = nonfinite(make_run(grad_norm=np.ones((50, 4)), loss=np.ones(50), names=NAMES, events=[event]))
    assert (finding.step, finding.where) == (12, ("fc.weight",))


def test_an_overflowed_norm_of_finite_elements_is_its_own_finding():
    event = {"kind": "nonfinite", "step": 7, "optimizer": 0, "nan": [], "inf": [], "overflowed": ["fc.weight"]}
    run = make_run(grad_norm=np.ones((50, 4)), loss=np.ones(50), names=NAMES, events=[event])
    (finding,) = norm_overflow(run)
    assert (finding.slug, finding.step, finding.where) == ("norm-overflow", 7, ("fc.weight",))
    assert not list(nonfinite(run))


def test_a_log_without_a_norm_column_is_not_taken_for_nan():
    slugs = [f.slug for f in diagnose(make_run(loss=np.linspace(3, 1, 100)))]
    assert slugs == ["norm-not-usable"]


def test_a_run_of_two_steps_still_tells_of_its_nan():
    slugs = [f.slug for f in diagnose(make_run(grad_norm=[[1.0], [np.nan]], loss=[2.0, np.nan]))]
    assert slugs == ["nonfinite-gradient", "too-short"]
