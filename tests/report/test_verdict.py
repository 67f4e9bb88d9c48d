"""The verdict in three sentences."""

import numpy as np
import pytest
from helpers import make_run

from steadygrad.diagnose import Finding, diagnose
from steadygrad.report import verdict_of
from steadygrad.report.verdict import loss_ends


def healthy(rows=200, **changes):
    norms = np.exp(np.random.default_rng(0).normal(0, 0.1, (rows, 2)))
    return make_run(grad_norm=norms, **{"loss": np.linspace(2, 1, rows), **changes})


def test_the_worst_finding_is_the_verdict():
    findings = [
        Finding("a", "error", "Exploded at step 412", cause="Because.", remedies=("Do this.", "Or that.")),
        Finding("b", "warning", "B"),
    ]
    verdict = verdict_of(healthy(), findings)
    assert (verdict.verdict, verdict.why, verdict.next) == ("Exploded at step 412 (1 more below).", "Because.", "Do this.")
    assert verdict.severity == "error"


def test_a_healthy_run_is_called_healthy():
    run = healthy()
    verdict = verdict_of(run, diagnose(run))
    assert verdict.verdict == "No instability in 200 steps."
    assert "the loss went from 1.95 to 1.05" in verdict.why
    assert '--policy "clip_by_global_norm(' in verdict.next


def test_a_loss_that_did_not_fall_is_not_praised():
    verdict = verdict_of(healthy(loss=np.full(200, 2.3)), [])
    assert verdict.verdict == "No instability in 200 steps, but the loss did not fall."


def test_a_protected_run_says_what_the_policy_did():
    run = healthy(threshold=1.4, meta={"policy": "clip_by_global_norm(1.4)"})
    assert run.coefficient.min() < 1
    assert f"scaled the gradient in {(run.coefficient < 1).mean():.0%} of the steps" in verdict_of(run, []).next


def test_a_loss_that_was_lost_does_not_end_with_its_last_number():
    loss = np.linspace(2, 1, 200)
    loss[150:] = np.nan
    first, last = loss_ends(healthy(loss=loss))
    assert first == pytest.approx(1.95, abs=0.02)
    assert np.isnan(last)


def test_notes_do_not_spoil_a_healthy_verdict():
    assert verdict_of(healthy(), [Finding("threshold-never-binds", "info", "x")]).severity == "ok"


def test_a_run_without_rows_and_a_short_run():
    assert verdict_of(make_run(), []).verdict == "No step was recorded."
    short = make_run(grad_norm=np.ones((3, 1)), loss=np.ones(3))
    assert verdict_of(short, diagnose(short)).verdict == "Too short to judge: 3 steps."
