"""Real training logs: what is known to be bad is found, and nothing else is called an error."""

from functools import cache

import numpy as np
import pytest
from helpers import read_log

from steadygrad.diagnose import diagnose

KNOWN_BAD = {
    "step-back/imagenet32_resnet18_68": "nonfinite-gradient",
    "step-back/cifar100_resnet110-2_20": "loss-jump",
    "pythia/410m-seed3": "loss-jump",
    "pythia/410m-seed4": "loss-jump",
}


@cache
def serious(path):
    return [finding for finding in diagnose(read_log(path)) if finding.severity != "info"]


@pytest.mark.parametrize("name", KNOWN_BAD)
def test_known_failures_are_found(shared, name):
    assert [f.slug for f in serious(shared / "data" / "logs" / f"{name}.csv.gz")] == [KNOWN_BAD[name]]


def test_the_jump_at_a_restart_is_placed(shared):
    (finding,) = serious(shared / "data" / "logs" / "pythia" / "410m-seed3.csv.gz")
    assert 74_990 <= finding.step <= 75_005


@pytest.mark.parametrize("family", ["algoperf", "modded-nanogpt", "pythia", "step-back"])
def test_healthy_logs_have_no_error_and_at_most_isolated_spikes(shared, family):
    paths = sorted((shared / "data" / "logs" / family).glob("*.csv.gz"))
    healthy = [path for path in paths if f"{family}/{path.name.split('.')[0]}" not in KNOWN_BAD]
    assert healthy
    found = {path.name: [f.slug for f in serious(path)] for path in healthy}
    assert {slug for slugs in found.values() for slug in slugs} <= {"spike"}
    assert np.mean([bool(slugs) for slugs in found.values()]) <= 0.08


def test_spikes_called_in_real_logs_are_large(shared):
    for path in sorted((shared / "data" / "logs").glob("*/*.csv.gz")):
        for finding in serious(path):
            if finding.slug == "spike":
                assert min(finding.evidence["heights"]) >= 5
                assert finding.evidence["share_of_steps"] < 0.01
