import math

import numpy as np
import pytest
import torch

from steadygrad.decide import (
    chain,
    clip_by_global_norm,
    clip_by_norm,
    decay,
    exponential,
    masked,
    percentile_clip,
    skip_nonfinite,
)
from steadygrad.errors import ArgumentError, ArgumentTypeError, UnsupportedError
from steadygrad.readings import Layout, Readings
from steadygrad.transforms.value import clip_by_value

XP = pytest.mark.parametrize("xp", [np, torch], ids=["numpy", "torch"])
NAMES = ("emb.weight", "rnn.weight", "rnn.bias", "out.weight")


def decide(policy, readings):
    return policy.decide(readings, policy.init(readings))[0]


@XP
@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        ("rnn.*", [1, 2]),
        (("rnn.*", "!*.bias"), [1]),
        ("!*.weight", [2]),
        (["emb.*", "out.*"], [0, 3]),
        ("*", [0, 1, 2, 3]),
        (lambda name: name.endswith("bias"), [2]),
    ],
)
def test_only_the_chosen_tensors_are_scaled(xp, names, chosen, readings_of):
    readings = readings_of(xp, [2.0, 2.0, 2.0, 2.0], names=NAMES, shapes=((1,),) * 4)
    decision = decide(masked(clip_by_norm(1.0), names), readings)
    assert [float(s) for s in decision.scale] == [0.5 if row in chosen else 1.0 for row in range(4)]


@XP
def test_a_global_norm_is_that_of_the_chosen_tensors(xp, readings_of):
    readings = readings_of(xp, [100.0, 3.0, 4.0, 100.0], names=NAMES)
    decision = decide(masked(clip_by_global_norm(2.5, eps=0.0), "rnn.*"), readings)
    assert [float(s) for s in decision.scale] == [1.0, 0.5, 0.5, 1.0]
    assert decision.threshold is None


@XP
def test_what_is_not_finite_outside_does_not_concern_it(xp, readings_of):
    readings = readings_of(xp, [math.nan, 2.0, 2.0, 2.0], names=NAMES)
    assert not decide(masked(skip_nonfinite(), "rnn.*"), readings).skip
    assert decide(masked(skip_nonfinite(), "emb.*"), readings).skip


def test_every_reading_is_restricted(readings_of):
    readings = readings_of(np, [9.0, 9.0, 9.0, 9.0], names=NAMES, abs_max=[8.0, 2.0, 1.0, 8.0], p1=[8.0, 3.0, 1.0, 8.0])
    inner = chain(clip_by_global_norm(1.0, math.inf, eps=0.0), clip_by_global_norm(1.0, 1, eps=0.0))
    assert masked(inner, "rnn.*").needs == {"abs_max", "norm_p:1.0"}
    assert decide(masked(inner, "rnn.*"), readings).scale.tolist() == [1.0, 0.25, 0.25, 1.0]


def test_the_state_is_that_of_the_inner_policy(readings_of):
    policy = masked(decay(exponential(0.5)), "rnn.*")
    readings = readings_of(np, [1.0] * 4, names=NAMES)
    state = policy.init(readings)
    for expected in (1.0, 0.5, 0.25):
        decision, state = policy.decide(readings, state)
        assert decision.scale.tolist() == [1.0, expected, expected, 1.0]
    assert list(state) == ["step"]


def test_masked_policies_can_be_chained_and_nested(readings_of):
    readings = readings_of(np, [2.0] * 4, names=NAMES)
    policy = chain(masked(masked(clip_by_norm(1.0), "*.weight"), "rnn.*"), masked(decay(0.5), "out.*"))
    assert decide(policy, readings).scale.tolist() == [1.0, 0.5, 1.0, 0.5]


def test_an_inner_pattern_sees_only_the_names_that_the_outer_one_chose(readings_of):
    policy = masked(masked(clip_by_norm(1.0), "emb.*"), "rnn.*")
    with pytest.raises(ArgumentError, match=r"'emb\.\*'.*pattern-no-match"):
        policy.init(readings_of(np, [2.0] * 4, names=NAMES))


@pytest.mark.parametrize("names", ["lstm.*", ("rnn.*", "lstm.*"), ("rnn.*", "!*.gain")])
def test_a_pattern_that_matches_nothing_is_told_with_names(names, readings_of):
    with pytest.raises(ArgumentError, match=r"'rnn.weight'.*pattern-no-match"):
        masked(clip_by_norm(1.0), names).init(readings_of(np, [2.0] * 4, names=NAMES))


@pytest.mark.parametrize("names", [("rnn.*", "!rnn.*"), lambda name: False])
def test_a_choice_of_nothing_is_told(names, readings_of):
    with pytest.raises(ArgumentError, match=r"chose none.*pattern-no-match"):
        masked(clip_by_norm(1.0), names).init(readings_of(np, [2.0] * 4, names=NAMES))


def test_a_new_layout_is_looked_at_anew(readings_of):
    policy = masked(clip_by_norm(1.0), "rnn.*")
    assert decide(policy, readings_of(np, [2.0] * 4, names=NAMES)).scale.tolist() == [1.0, 0.5, 0.5, 1.0]
    assert decide(policy, readings_of(np, [2.0] * 2, names=NAMES[:2])).scale.tolist() == [1.0, 0.5]


def test_bounds_inside_are_for_the_chosen_rows():
    policy = masked(clip_by_value(1.0), "a")
    readings = Readings(Layout(("a", "b")), np, np.ones(2))
    decision, _ = policy.decide(readings, policy.init(readings))
    assert decision.clamp == (-1.0, 1.0)
    assert decision.rows.tolist() == [True, False]
    assert policy.rewrites


@pytest.mark.parametrize("inner", [chain(clip_by_value(1.0), clip_by_norm(1.0))])
def test_chains_that_measure_on_the_way_are_refused(inner):
    with pytest.raises(UnsupportedError, match="masked-stages"):
        masked(inner, "*")


@pytest.mark.parametrize("names", [1, None, ("a", 1), (), exponential(0.5)])
def test_names_of_another_kind_are_refused(names):
    with pytest.raises(ArgumentTypeError, match="pattern-invalid"):
        masked(clip_by_norm(1.0), names)


@pytest.mark.parametrize("names", ["", "!", ("a", "")])
def test_empty_patterns_are_refused(names):
    with pytest.raises(ArgumentError, match="pattern-invalid"):
        masked(clip_by_norm(1.0), names)


def test_only_a_policy_can_be_masked():
    with pytest.raises(ArgumentTypeError, match="policy-expected"):
        masked("clip_by_norm(1.0)", "*")


def test_state_of_torch_readings_has_rows_for_all_tensors():
    policy = masked(percentile_clip(50, window=4), "b*")
    readings = Readings(Layout(("a", "b", "b2")), torch, torch.tensor([1.0, 4.0, 9.0], dtype=torch.float64))
    state = {key: torch.as_tensor(value) for key, value in policy.init(readings).items()}
    for _ in range(3):
        decision, state = policy.decide(readings, state)
    assert decision.scale.tolist() == [1.0, 1.0, 1.0]
    assert all(value.shape[0] == 3 for key, value in state.items() if key.startswith("tensor_"))
    assert not any(value[0].any() for key, value in state.items() if key.startswith("tensor_"))
