import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from steadygrad.apply import scale_units_
from steadygrad.decide import adaptive_grad_clip, chain, clip_by_global_norm, masked
from steadygrad.decision import Reason
from steadygrad.errors import ArgumentError, ArgumentTypeError
from steadygrad.measure.select import choose, measure
from steadygrad.policies import parse_policy
from steadygrad.readings import Layout

ENGINES = pytest.mark.parametrize("engine", ["cpu", "foreach"])
matrices = arrays(
    np.float64, (3, 4), elements=st.floats(-1e100, 1e100) | st.floats(-1.0, 1.0) | st.sampled_from([0.0, 1e-30, 1e30])
)


def clip(policy, grads, params, engine="cpu", names=None, unit_dims=()):
    """The gradients as the policy leaves them, and its decision."""
    grads, params = ([torch.as_tensor(x, dtype=torch.float64).clone() for x in xs] for xs in (grads, params))
    names = tuple(names or (f"p{i}" for i in range(len(params))))
    layout = Layout(names, shapes=tuple(tuple(p.shape) for p in params), unit_dims=tuple(unit_dims))
    readings = measure(grads, layout, policy.needs, params=params, engine=choose(params, engine))
    decision, state = policy.decide(readings, policy.init(readings))
    assert state == {}
    scale_units_(grads, layout, decision.unit_scale)
    return [g.numpy() for g in grads], decision


def naive(grad, weight, clipping=0.01, eps=1e-3):
    """The equation, row by row."""
    out = np.array(grad, np.float64)
    for row, w in zip(out, np.asarray(weight, np.float64), strict=True):
        norm, most = math.hypot(*row), clipping * max(math.hypot(*w), eps)
        if norm > most:
            row *= most / norm
    return out


@ENGINES
def test_A5_known_answer(engine):
    (after,), decision = clip(adaptive_grad_clip(), [[[1.0, 0.0], [1.0, 0.0]]], [[[3.0, 4.0], [0.0, 0.0]]], engine)
    np.testing.assert_allclose(after, [[0.05, 0.0], [1e-5, 0.0]], rtol=1e-14)
    assert int(decision.reason) == Reason.CLIPPED
    assert not decision.skip
    assert decision.scale is None


@ENGINES
def test_A5_without_a_limit_nothing_happens(engine):
    (after,), decision = clip(adaptive_grad_clip(math.inf), [[[1e30, 0.0], [1.0, 0.0]]], [[[3.0, 4.0], [0.0, 0.0]]], engine)
    assert after.tolist() == [[1e30, 0.0], [1.0, 0.0]]
    assert np.asarray(decision.unit_scale).tolist() == [1.0, 1.0]
    assert int(decision.reason) == Reason.NONE


@ENGINES
@given(matrices, matrices)
def test_A5_is_the_equation_bounded_and_finite(engine, grad, weight):
    (after,), _ = clip(adaptive_grad_clip(), [grad], [weight], engine)
    np.testing.assert_allclose(after, naive(grad, weight), rtol=1e-9, atol=1e-300)
    most = 0.01 * np.maximum([math.hypot(*w) for w in weight], 1e-3)
    assert np.all(np.array([math.hypot(*row) for row in after]) <= most * (1 + 1e-9))


@given(matrices, arrays(np.float64, (3, 4), elements=st.floats(0.5, 2.0)), st.sampled_from([0.25, 8.0, 1e6]))
def test_A5_rescaling_weights_and_gradients_rescales_the_result_and_twice_is_once(grad, weight, k):
    (once,), _ = clip(adaptive_grad_clip(), [grad], [weight])
    (scaled,), _ = clip(adaptive_grad_clip(), [k * grad], [k * weight])
    (twice,), _ = clip(adaptive_grad_clip(), [once], [weight])
    np.testing.assert_allclose(scaled, k * once, rtol=1e-12, atol=1e-300)
    np.testing.assert_allclose(twice, once, rtol=1e-14)


@ENGINES
def test_A5_units_lie_where_the_layout_says_and_vectors_are_one(engine):
    ones = np.ones((2, 3))
    after, decision = clip(
        adaptive_grad_clip(1.0), [ones, ones[0], np.zeros((2, 3))], [ones, ones[0] / 3, ones], engine, unit_dims=(1, -1, 0)
    )
    assert after[0].tolist() == ones.tolist()
    np.testing.assert_allclose(after[1], 1 / 3, rtol=1e-14)
    assert after[2].tolist() == np.zeros((2, 3)).tolist()
    assert len(decision.unit_scale) == 3 + 1 + 2


@ENGINES
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_A5_one_bad_element_skips_the_step(engine, bad):
    grad = np.ones((2, 2))
    grad[1, 1] = bad
    (after, _), decision = clip(adaptive_grad_clip(), [np.ones((2, 2)), grad], [np.ones((2, 2))] * 2, engine)
    assert decision.skip
    assert int(decision.reason) == Reason.NON_FINITE
    assert np.all(np.isfinite(after))


@ENGINES
@pytest.mark.parametrize("exclude", ["head.*", ("head.w*", "x"), ["head.weight", "x"]])
def test_A5_what_is_left_out_is_not_touched(engine, exclude):
    ones, names = np.ones((2, 3)), ("body.weight", "head.weight", "x")
    policy = adaptive_grad_clip(exclude=exclude)
    (body, head, _), decision = clip(policy, [ones, ones, ones], [ones, ones, ones], engine, names)
    assert np.all(body < 1.0)
    assert head.tolist() == ones.tolist()
    assert np.asarray(decision.unit_scale)[2:4].tolist() == [1.0, 1.0]
    assert parse_policy(policy.text).text == policy.text


def test_A5_a_pattern_without_a_match_and_a_layout_without_shapes_are_refused():
    with pytest.raises(ArgumentError, match=r"'haed\.\*'.*pattern-no-match"):
        clip(adaptive_grad_clip(exclude=("p*", "haed.*")), [np.ones(2)], [np.ones(2)])
    readings = measure([torch.ones(2)], Layout(("a",)))
    with pytest.raises(ArgumentError, match="layout-shapes"):
        adaptive_grad_clip().init(readings)
    with pytest.raises(LookupError, match="units"):
        adaptive_grad_clip().decide(readings, {})


@ENGINES
def test_A5_masked(engine):
    ones = np.ones((2, 3))
    (first, second), decision = clip(masked(adaptive_grad_clip(), "p1"), [ones, ones], [ones, ones], engine)
    assert first.tolist() == ones.tolist()
    np.testing.assert_allclose(second, naive(ones, ones), rtol=1e-14)
    assert np.asarray(decision.unit_scale)[:2].tolist() == [1.0, 1.0]


def test_A5_what_follows_in_a_chain_measures_again():
    policy = chain(adaptive_grad_clip(), clip_by_global_norm(1.0))
    assert [stage.text for stage in policy.stages] == ["adaptive_grad_clip()", "clip_by_global_norm(1.0)"]


def test_A5_text_and_refusals():
    assert adaptive_grad_clip().text == "adaptive_grad_clip()"
    policy = adaptive_grad_clip(0.1, eps=0.01, exclude=("a", "b"))
    assert policy.text == "adaptive_grad_clip(0.1, eps=0.01, exclude=('a', 'b'))"
    assert parse_policy(policy.text).text == policy.text
    for settings in ({"clipping": 0.0}, {"eps": -1.0}, {"exclude": ""}, {"exclude": ("a", "")}):
        with pytest.raises(ArgumentError):
            adaptive_grad_clip(**settings)
    for settings in ({"clipping": "1"}, {"exclude": 3}, {"exclude": (None,)}):
        with pytest.raises(ArgumentTypeError):
            adaptive_grad_clip(**settings)
