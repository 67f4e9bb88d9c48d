import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from steadygrad.decide import chain, clip_by_global_norm, clip_update_rms
from steadygrad.decision import Reason
from steadygrad.errors import ArgumentError
from steadygrad.measure.select import measure
from steadygrad.policies import parse_policy
from steadygrad.readings import Layout

XP = pytest.mark.parametrize("xp", [np, torch], ids=["numpy", "torch"])


def decide(policy, readings):
    return policy.decide(readings, policy.init(readings))[0]


def test_A12_known_answer():
    policy = clip_update_rms()
    slots = [{"exp_avg_sq": torch.ones(4, dtype=torch.float64), "step": torch.tensor(1e4)}]
    groups = [{"lr": 1e-3, "betas": (0.9, 0.99), "eps": 1e-6}]
    grads = [torch.full((4,), 3.0, dtype=torch.float64)]
    decision = decide(policy, measure(grads, Layout(("a",)), policy.needs, groups=groups, slots=slots))
    assert float(decision.update_scale[0]) == pytest.approx(1 / 2.88675, rel=1e-6)
    assert int(decision.reason) == Reason.UPDATE_LIMITED


@XP
def test_A12_other_known_answers(xp, readings_of):
    decision = decide(clip_update_rms(), readings_of(xp, [1.0] * 4, update_rms=[4.0, 1.0, 0.3, 0.0]))
    assert np.asarray(decision.update_scale).tolist() == [0.25, 1.0, 1.0, 1.0]
    assert decision.scale is None
    quiet = decide(clip_update_rms(2.0), readings_of(xp, [1.0] * 2, update_rms=[2.0, 1.0]))
    assert np.asarray(quiet.update_scale).tolist() == [1.0, 1.0]
    assert int(quiet.reason) == Reason.NONE


@XP
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_not_finite_skips_the_step(xp, bad, readings_of):
    for readings in (
        readings_of(xp, [1.0, bad], update_rms=[4.0, 4.0]),
        readings_of(xp, [1.0, 1.0], update_rms=[4.0, bad]),
    ):
        decision = decide(clip_update_rms(), readings)
        assert decision.skip
        assert int(decision.reason) == Reason.NON_FINITE
        assert np.all(np.isfinite(np.asarray(decision.update_scale)))


@given(st.lists(st.floats(0.0, 1e300), max_size=5), st.floats(1e-3, 1e3))
def test_the_bound_holds_and_torch_agrees(readings_of, rms, maximum):
    policy = clip_update_rms(maximum)
    ours, theirs = (decide(policy, readings_of(xp, [1.0] * len(rms), update_rms=rms)) for xp in (np, torch))
    np.testing.assert_allclose(np.asarray(theirs.update_scale), ours.update_scale, rtol=1e-14)
    after = ours.update_scale * np.array(rms)
    assert np.all(after <= maximum * (1 + 1e-15))
    assert np.all(ours.update_scale[np.array(rms) <= maximum] == 1.0)


def test_in_a_chain_it_has_a_measurement_of_its_own():
    policy = chain(clip_by_global_norm(1.0), clip_update_rms())
    assert [stage.text for stage in policy.stages] == ["clip_by_global_norm(1.0)", "clip_update_rms()"]


def test_text_needs_and_refusals(readings_of):
    assert clip_update_rms().needs == {"update_rms", "second_moment"}
    texts = [clip_update_rms().text, clip_update_rms(2).text]
    assert texts == ["clip_update_rms()", "clip_update_rms(2.0)"]
    assert [parse_policy(text).text for text in texts] == texts
    with pytest.raises(ArgumentError, match="threshold-invalid"):
        clip_update_rms(0.0)
    with pytest.raises(LookupError, match="update_rms"):
        decide(clip_update_rms(), readings_of(np, [1.0]))
