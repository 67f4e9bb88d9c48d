import math

import numpy as np
import pytest
import torch

from steadygrad.decide import clip_by_norm, clip_by_rms
from steadygrad.decision import Reason
from steadygrad.errors import ArgumentError
from steadygrad.readings import Readings

XP = pytest.mark.parametrize("xp", [np, torch], ids=["numpy", "torch"])


def decide(policy, readings):
    return policy.decide(readings, policy.init(readings))[0]


@XP
def test_A2_known_answer(xp, readings_of):
    decision = decide(clip_by_norm(1.0), readings_of(xp, [5.0, 0.5, 0.0]))
    assert [float(s) for s in decision.scale] == pytest.approx([0.2, 1.0, 1.0], abs=0)
    assert int(decision.reason) == Reason.CLIPPED
    assert not decision.skip


@XP
@pytest.mark.parametrize(("p", "expected"), [(1.0, 1 / 7), (3.0, 91 ** (-1 / 3)), (math.inf, 1 / 4)])
def test_A2_other_norms_of_3_4(xp, p, expected, readings_of):
    readings = readings_of(xp, [5.0], p1=[7.0], p3=[91 ** (1 / 3)], abs_max=[4.0])
    assert float(decide(clip_by_norm(1.0, p), readings).scale[0]) == pytest.approx(expected, rel=1e-15)


@XP
@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("p", [2.0, math.inf])
def test_A2_one_tensor_that_is_not_finite_skips_the_step(xp, bad, p, readings_of):
    decision = decide(clip_by_norm(1.0, p), readings_of(xp, [2.0, bad], abs_max=[2.0, bad]))
    assert decision.skip
    assert [float(s) for s in decision.scale] == [0.5, 1.0]
    assert int(decision.reason) == Reason.NON_FINITE


@XP
def test_A2_no_tensors(xp, readings_of):
    decision = decide(clip_by_norm(1.0), readings_of(xp, []))
    assert len(decision.scale) == 0
    assert not decision.skip


@XP
def test_A2_rms_known_answer(xp, readings_of):
    readings = readings_of(xp, [30.0, 10.0, 0.0], shapes=((100,), (10, 10), (0,)))
    decision = decide(clip_by_rms(1.0), readings)
    assert [float(s) for s in decision.scale] == pytest.approx([1 / 3, 1.0, 1.0], rel=1e-15)
    assert float(decision.scale[1]) == 1.0


def test_A2_rms_keeps_the_readings_own_type_and_device(readings_of):
    double = readings_of(torch, [30.0], shapes=((100,),))
    single = Readings(double.layout, torch, double.sum_sq.float())
    policy = clip_by_rms(1.0)
    assert decide(policy, double).scale.dtype == torch.float64
    assert decide(policy, single).scale.dtype == torch.float32


def test_A2_rms_needs_shapes(readings_of):
    with pytest.raises(ArgumentError, match="layout-shapes"):
        clip_by_rms(1.0).init(readings_of(np, [1.0]))
