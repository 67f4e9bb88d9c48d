"""The report as JSON."""

import json

from steadygrad.report import json_report


def test_every_odd_run_is_strict_json(odd_run):
    report = json_report([odd_run])
    assert json.loads(json.dumps(report, allow_nan=False)) == report


def test_holds_verdict_findings_and_parameters(exploded):
    report = json_report([exploded])
    assert (report["format"], report["version"]) == ("steadygrad-report", 1)
    (run,) = report["runs"]
    assert run["verdict"]["severity"] == "error"
    assert run["findings"][0]["slug"] == "exploding-over-time"
    assert run["findings"][0]["step"] == 203
    assert run["parameters"][1]["name"] == "rnn.weight_hh_l0"
    assert run["parameters"][1]["last"] is None
    assert run["parameters"][1]["nonfinite"] == 20
    assert run["meta"]["environment"]["torch"] == "2.13.0"


def test_infinities_are_told_from_nan():
    from helpers import make_run

    (run,) = json_report([make_run(grad_norm=[[1.0], [float("inf")]], loss=[1.0, float("inf")])])["runs"]
    assert run["findings"][0]["evidence"]["loss_at_step"] == "Infinity"
