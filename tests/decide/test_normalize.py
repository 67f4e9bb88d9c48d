import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from steadygrad.arrays import Limiter
from steadygrad.decide import normalize, smooth_normalize, soft_clip_norm
from steadygrad.decision import Reason
from steadygrad.errors import ArgumentError, ArgumentTypeError
from steadygrad.policies import parse_policy

XP = pytest.mark.parametrize("xp", [np, torch], ids=["numpy", "torch"])
SCOPES = pytest.mark.parametrize("scope", ["global", "tensor"])
EACH = [
    normalize(),
    normalize("tensor", norm=2.0, eps=0.0),
    smooth_normalize(),
    smooth_normalize(2.0, 0.5, "tensor"),
    soft_clip_norm(2.0),
    soft_clip_norm(2.0, scope="tensor"),
    soft_clip_norm(2.0, form="sqrt"),
    soft_clip_norm(2.0, form="sqrt", scope="tensor"),
]
each = pytest.mark.parametrize("policy", EACH, ids=repr)
norms = st.lists(st.floats(0.0, 1e150) | st.floats(0.0, 3.0) | st.just(1e-30), min_size=1, max_size=4)


def decide(policy, readings):
    return policy.decide(readings, policy.init(readings))[0]


@XP
def test_A15_known_answer(xp, readings_of):
    decision = decide(normalize(eps=0.0), readings_of(xp, [3.0, 4.0]))
    assert float(decision.scale) == 0.2
    assert int(decision.reason) == Reason.NORMALIZED
    np.testing.assert_allclose(Limiter(normalize())([np.array([3.0, 4.0])])[0], [0.6, 0.8], rtol=1e-8)


@XP
def test_A15_of_each_tensor_leaves_a_zero_gradient_zero(xp, readings_of):
    decision = decide(normalize("tensor", norm=2.0, eps=0.0), readings_of(xp, [4.0, 0.0, 0.5, 1e-31]))
    assert [float(s) for s in decision.scale] == [0.5, 1.0, 4.0, 1.0]


@XP
def test_A15_the_epsilon_keeps_what_is_far_below_it_small(xp, readings_of):
    scale = decide(normalize("tensor"), readings_of(xp, [1e-14, 1e-8, 1e8])).scale
    np.testing.assert_allclose(np.asarray(scale) * [1e-14, 1e-8, 1e8], [1e-6, 0.5, 1.0], rtol=1e-5)


@XP
@SCOPES
def test_A14_smooth_normalisation_known_answer(xp, scope, readings_of):
    scale = decide(smooth_normalize(1.0, 1.0, scope), readings_of(xp, [3.0])).scale
    assert 3.0 * float(scale if scope == "global" else scale[0]) == 0.75


@XP
@SCOPES
def test_A14_soft_clipping_known_answers(xp, scope, readings_of):
    readings = readings_of(xp, [2.0])
    for form, expected in [("rational", 0.5), ("sqrt", 0.5**0.5)]:
        scale = decide(soft_clip_norm(2.0, form=form, scope=scope), readings).scale
        assert float(xp.sum(scale)) == pytest.approx(expected, rel=1e-15)
        small = decide(soft_clip_norm(2.0, form=form, scope=scope), readings_of(xp, [1e-9])).scale
        assert float(xp.sum(small)) == pytest.approx(1.0, abs=1e-9)


@XP
@SCOPES
def test_a_gradient_of_zero_stays_as_it_is(xp, scope, readings_of):
    for policy in (normalize(scope), smooth_normalize(5.0, 1.0, scope), soft_clip_norm(1.0, scope=scope)):
        decision = decide(policy, readings_of(xp, [0.0]))
        assert float(xp.sum(decision.scale)) == 1.0
        assert int(decision.reason) == Reason.NONE
        assert not decision.skip
        assert not decide(policy, readings_of(xp, [])).skip


@XP
@each
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_one_bad_norm_skips_the_step(xp, policy, bad, readings_of):
    decision = decide(policy, readings_of(xp, [1.0, bad]))
    assert decision.skip
    assert int(decision.reason) == Reason.NON_FINITE
    assert np.all(np.isfinite(np.asarray(decision.scale)))


@each
@given(norms)
def test_finite_stays_finite_and_within_the_bound_and_torch_agrees(policy, readings_of, values):
    ours, theirs = (decide(policy, readings_of(xp, values)) for xp in (np, torch))
    np.testing.assert_allclose(np.asarray(theirs.scale), np.asarray(ours.scale), rtol=1e-14)
    results = np.asarray(ours.scale) * np.array(values)
    bound = 1.0 if "2.0" not in policy.text else 2.0
    limited = results if "tensor" in policy.text else [np.hypot.reduce(results)]
    assert np.all(np.asarray(limited) <= bound * (1 + 1e-12))
    assert np.all(np.asarray(ours.scale) >= 0.0)
    assert not ours.skip


@pytest.mark.parametrize("policy", [normalize(eps=0.0), normalize("tensor", eps=0.0)], ids=repr)
@given(st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=4), st.sampled_from([1e-6, 0.3, 1e20]))
def test_normalising_forgets_the_scale_and_twice_is_once(policy, readings_of, values, factor):
    once = np.asarray(decide(policy, readings_of(np, values)).scale) * values
    scaled = np.asarray(decide(policy, readings_of(np, [factor * v for v in values])).scale) * values * factor
    twice = np.asarray(decide(policy, readings_of(np, list(once))).scale) * once
    np.testing.assert_allclose(scaled, once, rtol=1e-13)
    np.testing.assert_allclose(twice, once, rtol=1e-13)


@each
def test_the_text_parses_back(policy):
    assert parse_policy(policy.text).text == policy.text


def test_defaults_are_left_out_of_the_text():
    shown = [normalize(), normalize("tensor"), smooth_normalize(), smooth_normalize(2.0), soft_clip_norm(1)]
    assert [p.text for p in shown] == [
        "normalize()",
        "normalize('tensor')",
        "smooth_normalize()",
        "smooth_normalize(2.0)",
        "soft_clip_norm(1.0)",
    ]
    assert smooth_normalize(b=2.0, scope="tensor").text == "smooth_normalize(b=2.0, scope='tensor')"


@pytest.mark.parametrize(
    "make",
    [
        lambda: normalize("layer"),
        lambda: normalize(norm=0.0),
        lambda: normalize(norm=math.inf),
        lambda: normalize(eps=-1.0),
        lambda: smooth_normalize(0.0),
        lambda: smooth_normalize(1.0, math.nan),
        lambda: soft_clip_norm(math.inf),
        lambda: soft_clip_norm(1.0, form="tanh"),
        lambda: soft_clip_norm(1.0, scope="group"),
    ],
)
def test_what_makes_no_sense_is_refused(make):
    with pytest.raises(ArgumentError, match="threshold-invalid"):
        make()


def test_wrong_types_are_refused():
    with pytest.raises(ArgumentTypeError):
        normalize(1.0)
    with pytest.raises(ArgumentTypeError):
        soft_clip_norm("1")
