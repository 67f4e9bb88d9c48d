import math

import numpy as np
import pytest
import torch

from steadygrad.decide import chain, clip_by_global_norm, clip_by_norm, decay, exponential, parts_of, skip_nonfinite
from steadygrad.decision import Reason
from steadygrad.errors import ArgumentTypeError, UnsupportedError
from steadygrad.transforms.value import clip_by_value

XP = pytest.mark.parametrize("xp", [np, torch], ids=["numpy", "torch"])


def decide(policy, readings):
    return policy.decide(readings, policy.init(readings))


@XP
def test_the_second_policy_sees_what_the_first_will_have_done(xp, readings_of):
    policy = chain(clip_by_norm(3.0), clip_by_global_norm(2.5, eps=0.0))
    decision, _ = decide(policy, readings_of(xp, [3.0, 8.0]))
    coefficient = 2.5 / math.sqrt(18.0)
    assert [float(s) for s in decision.scale] == pytest.approx([coefficient, coefficient * 3 / 8], rel=1e-12)
    assert decision.threshold == 2.5


@XP
def test_a_skip_anywhere_skips_and_the_worst_reason_is_told(xp, readings_of):
    policy = chain(decay(0.5), clip_by_norm(1.0), skip_nonfinite())
    decision, state = decide(policy, readings_of(xp, [2.0, math.nan]))
    assert decision.skip
    assert int(decision.reason) == Reason.NON_FINITE
    assert int(state["2.consecutive"]) == 1


def test_states_lie_side_by_side_under_the_position(readings_of):
    policy = chain(skip_nonfinite(), clip_by_global_norm(1.0), decay(exponential(0.5)))
    readings = readings_of(np, [2.0])
    state = policy.init(readings)
    assert set(state) == {"0.consecutive", "2.step"}
    for _ in range(3):
        _, state = policy.decide(readings, state)
    assert {key: int(value) for key, value in state.items()} == {"0.consecutive": 0, "2.step": 3}


def test_more_than_ten_policies_keep_their_states_apart(readings_of):
    policy = chain(*[decay(exponential(0.5))] * 12)
    _, state = decide(policy, readings_of(np, [1.0]))
    assert len(state) == 12
    assert float(policy.decide(readings_of(np, [1.0]), state)[0].scale) == 0.5**12


def test_chains_are_flattened():
    a, b, c = skip_nonfinite(), clip_by_norm(1.0), clip_by_global_norm(1.0)
    policy = chain(chain(a, chain(b)), c)
    assert policy.text == "chain(skip_nonfinite(), clip_by_norm(1.0), clip_by_global_norm(1.0))"
    assert parts_of(policy) == (a, b, c)


def test_a_chain_of_one_is_that_policy_and_a_chain_of_none_does_nothing(readings_of):
    single = clip_by_norm(1.0)
    assert chain(single) is single
    decision, state = decide(chain(), readings_of(np, [math.nan]))
    assert (decision.scale, decision.skip, decision.reason, state) == (None, None, 0, {})
    assert chain().text == "chain()"


def test_needs_are_those_of_all():
    policy = chain(clip_by_norm(1.0, 1.0), clip_by_global_norm(1.0, math.inf))
    assert policy.needs == {"norm_p:1.0", "abs_max"}


def test_a_rewriting_policy_at_the_end_is_the_final_clamp(readings_of):
    policy = chain(clip_by_global_norm(1.0, eps=0.0), clip_by_value(0.5))
    decision, _ = decide(policy, readings_of(np, [2.0]))
    assert (float(decision.scale), decision.clamp, policy.stages) == (0.5, (-0.5, 0.5), ())
    assert policy.rewrites


def test_a_rewriting_policy_before_another_cuts_the_chain_into_stages(readings_of):
    policy = chain(skip_nonfinite(), clip_by_value(0.5), clip_by_norm(1.0), clip_by_value(0.1))
    assert [stage.text for stage in policy.stages] == [
        "chain(skip_nonfinite(), clip_by_value(0.5))",
        "chain(clip_by_norm(1.0), clip_by_value(0.1))",
    ]
    for call in (policy.init, lambda readings: policy.decide(readings, {})):
        with pytest.raises(UnsupportedError, match=r"stages.*chain-stages"):
            call(readings_of(np, [1.0]))


def test_a_cut_chain_inside_a_chain_is_flattened_too():
    inner = chain(clip_by_value(0.5), clip_by_norm(1.0))
    assert len(inner.stages) == 2
    outer = chain(skip_nonfinite(), inner)
    assert outer.text == "chain(skip_nonfinite(), clip_by_value(0.5), clip_by_norm(1.0))"
    assert len(outer.stages) == 2


@pytest.mark.parametrize("other", [1.0, "clip_by_norm(1.0)", clip_by_norm, None, exponential(0.5)])
def test_only_policies_can_be_chained(other):
    with pytest.raises(ArgumentTypeError, match="position 1"):
        chain(clip_by_norm(1.0), other)
