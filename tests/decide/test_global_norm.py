import math

import numpy as np
import pytest
import torch

from steadygrad.decide import clip_by_global_norm, clip_by_group_norm
from steadygrad.decision import Reason
from steadygrad.errors import ArgumentError

XP = pytest.mark.parametrize("xp", [np, torch], ids=["numpy", "torch"])


def decide(policy, readings):
    return policy.decide(readings, policy.init(readings))[0]


@XP
def test_A3_known_answer(xp, readings_of):
    decision = decide(clip_by_global_norm(2.5, eps=0.0), readings_of(xp, [3.0, 4.0]))
    assert float(decision.scale) == 0.5
    assert int(decision.reason) == Reason.CLIPPED
    assert not decision.skip
    assert decision.threshold == 2.5


@XP
def test_A3_known_answer_of_the_1_norm_and_the_inf_norm(xp, readings_of):
    readings = readings_of(xp, [3.0, 4.0], p1=[3.0, 4.0], abs_max=[3.0, 4.0])
    assert float(decide(clip_by_global_norm(3.5, 1, eps=0.0), readings).scale) == 0.5
    assert float(decide(clip_by_global_norm(2.0, math.inf, eps=0.0), readings).scale) == 0.5


@XP
def test_A3_torch_adds_its_epsilon_and_optax_none(xp, readings_of):
    readings = readings_of(xp, [5e-7])
    assert float(decide(clip_by_global_norm(1e-7), readings).scale) * 5e-7 == pytest.approx(3.3333e-8, rel=1e-4)
    assert float(decide(clip_by_global_norm(1e-7, eps=0.0), readings).scale) * 5e-7 == pytest.approx(1e-7, rel=1e-12)


@XP
@pytest.mark.parametrize("norms", [[3.0, 4.0], [0.0, 0.0], []])
def test_A3_a_limit_that_does_not_bind_gives_exactly_one(xp, norms, readings_of):
    decision = decide(clip_by_global_norm(5.0), readings_of(xp, norms))
    assert float(decision.scale) == 1.0
    assert int(decision.reason) == Reason.NONE
    assert not decision.skip


@XP
@pytest.mark.parametrize("p", [2.0, 1.0, math.inf])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_not_finite_is_skipped_and_scales_nothing(xp, p, bad, readings_of):
    readings = readings_of(xp, [3.0, bad], p1=[3.0, bad], abs_max=[3.0, bad])
    decision = decide(clip_by_global_norm(1.0, p), readings)
    assert decision.skip
    assert float(decision.scale) == 1.0
    assert int(decision.reason) == Reason.NON_FINITE


@XP
def test_a_maximum_that_overlooks_nan_does_not_hide_it(xp, readings_of):
    readings = readings_of(xp, [3.0, math.nan], abs_max=[3.0, 0.0])
    assert decide(clip_by_global_norm(1.0, math.inf), readings).skip


@XP
@pytest.mark.parametrize("norms", [[3.0], [math.inf], [math.nan], [0.0]])
@pytest.mark.parametrize("maximum", [math.inf, 1.7e308])
def test_trap_04_a_limit_without_bound_measures_and_changes_nothing(xp, norms, maximum, readings_of):
    decision = decide(clip_by_global_norm(maximum), readings_of(xp, norms))
    assert float(decision.scale) == 1.0
    assert bool(decision.skip) is (not math.isfinite(norms[0]))


@pytest.mark.parametrize("maximum", [1e39, 1e-50, math.inf])
def test_limits_beyond_float32_make_no_nan_of_float32_readings(maximum, readings_of):
    readings = readings_of(torch, [0.0, 0.0])
    wide = decide(clip_by_global_norm(maximum, eps=0.0), readings)
    narrow = type(readings)(readings.layout, torch, readings.sum_sq.float())
    assert float(wide.scale) == float(decide(clip_by_global_norm(maximum, eps=0.0), narrow).scale) == 1.0


def test_finite_squares_whose_sum_overflows_are_skipped_without_a_warning(readings_of):
    decision = decide(clip_by_global_norm(1.0), readings_of(np, [1.3e154, 1.3e154]))
    assert decision.skip
    assert float(decision.scale) == 1.0


def test_the_threshold_of_another_norm_is_not_reported(readings_of):
    readings = readings_of(np, [3.0], abs_max=[3.0])
    assert decide(clip_by_global_norm(1.0, math.inf), readings).threshold is None


@XP
def test_A4_known_answer_only_one_group_is_over_its_limit(xp, readings_of):
    readings = readings_of(xp, [3.0, 0.5, 4.0], groups=(0, 1, 0))
    decision = decide(clip_by_group_norm((2.5, 1.0), eps=0.0), readings)
    assert [float(s) for s in decision.scale] == [0.5, 1.0, 0.5]
    assert int(decision.reason) == Reason.CLIPPED


@XP
def test_A4_one_limit_serves_every_group_and_every_norm(xp, readings_of):
    readings = readings_of(xp, [3.0, 1.0, 4.0], groups=(0, 1, 0), abs_max=[3.0, 1.0, 4.0])
    decision = decide(clip_by_group_norm(2.0, math.inf, eps=0.0), readings)
    assert [float(s) for s in decision.scale] == [0.5, 1.0, 0.5]


@XP
def test_A4_one_group_that_is_not_finite_skips_the_step(xp, readings_of):
    decision = decide(clip_by_group_norm(1.0), readings_of(xp, [3.0, math.nan], groups=(0, 1)))
    assert decision.skip
    assert float(decision.scale[1]) == 1.0
    assert int(decision.reason) == Reason.NON_FINITE


def test_A4_no_tensors_no_decision(readings_of):
    assert decide(clip_by_group_norm(1.0), readings_of(np, [])).scale is None


@pytest.mark.parametrize("limits", [(1.0,), (1.0, 1.0, 1.0)])
def test_A4_the_number_of_limits_must_be_the_number_of_groups(limits, readings_of):
    policy = clip_by_group_norm(limits)
    with pytest.raises(ArgumentError, match=r"each of the 2 parameter groups.*group-count"):
        policy.init(readings_of(np, [3.0, 1.0], groups=(0, 1)))
