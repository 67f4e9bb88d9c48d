import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from steadygrad.arrays import Limiter
from steadygrad.decide import (
    chain,
    clip_by_global_norm,
    clip_by_norm,
    decay,
    exponential,
    masked,
    skip_nonfinite,
)
from steadygrad.decision import Reason
from steadygrad.errors import ArgumentError, ArgumentTypeError, NonFiniteGradientError, UnsupportedError
from steadygrad.policy import Policy, stateless
from steadygrad.transforms.value import clip_by_value

BAD = [np.array([math.nan]), np.array([1.0])]
GOOD = [np.array([3.0]), np.array([4.0])]
gradients = st.lists(
    arrays(np.float32, st.integers(0, 5), elements=st.floats(-(2.0**40), 2.0**40, width=32)), min_size=1, max_size=4
)


def test_gradients_are_limited_into_new_arrays():
    grads = [np.array([3.0]), np.array([4.0])]
    limiter = Limiter(clip_by_global_norm(2.5, eps=0.0))
    limited = limiter(grads)
    assert [g.tolist() for g in limited] == [[1.5], [2.0]]
    assert [g.tolist() for g in grads] == [[3.0], [4.0]]
    assert (limiter.total_norm, limiter.skipped, limiter.reason) == (5.0, False, Reason.CLIPPED)
    assert float(limiter.decision.scale) == 0.5


def test_what_is_not_changed_is_a_copy_all_the_same():
    grads = [np.array([3.0, -0.0])]
    limited = Limiter(clip_by_global_norm(10.0))(grads)
    assert not np.shares_memory(limited[0], grads[0])
    assert limited[0].tobytes() == grads[0].tobytes()


@pytest.mark.parametrize("kind", [list, tuple])
def test_sequences_keep_their_kind(kind):
    limited = Limiter(clip_by_norm(1.0))(kind(GOOD))
    assert type(limited) is kind
    assert [g.tolist() for g in limited] == [[1.0], [1.0]]


def test_mappings_give_names():
    limiter = Limiter(masked(clip_by_norm(1.0), "w*"))
    assert limiter({"w1": GOOD[0], "b1": GOOD[1]}) == {"w1": [1.0], "b1": [4.0]}
    assert limiter.readings.names == ("w1", "b1")


def test_names_may_be_given():
    limited = Limiter(masked(clip_by_norm(1.0), "w"), names=["w", "b"])(GOOD)
    assert [g.tolist() for g in limited] == [[1.0], [4.0]]
    with pytest.raises(ArgumentError, match="gradient-count"):
        Limiter(clip_by_norm(1.0), names=["w"])(GOOD)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.complex64, np.complex128, np.longdouble])
def test_data_types_and_shapes_are_kept(dtype):
    grads = [np.full((2, 3), 10, dtype), np.array(10, dtype), np.zeros((0, 2), dtype)]
    limited = Limiter(clip_by_norm(1.0))(grads)
    assert [(g.dtype, g.shape) for g in limited] == [(g.dtype, g.shape) for g in grads]
    assert abs(limited[1]) == pytest.approx(1.0, rel=1e-15)


def test_scalars_and_absent_gradients_are_taken():
    limited = Limiter(clip_by_norm(1.0))([2.0, np.float32(2.0), None])
    assert [limited[0], limited[1], limited[2]] == [1.0, 1.0, None]


def test_half_precision_gradients_whose_norm_overflows_are_clipped():
    limited = Limiter(clip_by_global_norm(1.0))([np.full((300, 300), 6e4, np.float16)])
    assert np.sqrt(np.sum(limited[0].astype(float) ** 2)) == pytest.approx(1.0, rel=1e-3)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("policy", [skip_nonfinite(), clip_by_global_norm(1.0), clip_by_norm(1.0, 1.0)])
def test_a_step_that_must_not_be_taken_gives_none(policy, bad):
    limiter = Limiter(policy)
    assert limiter([np.array([bad]), np.array([1.0])]) is None
    assert limiter.skipped
    assert limiter.reason == Reason.NON_FINITE
    assert limiter(GOOD) is not None
    assert not limiter.skipped


def test_too_many_skips_raise_with_the_names():
    limiter = Limiter(skip_nonfinite(max_consecutive=1), names=["w", "b"])
    assert limiter(BAD) is None
    with pytest.raises(NonFiniteGradientError, match=r"in a row.*: w;.*too-many-nonfinite"):
        limiter(BAD)


def test_stages_measure_again():
    limiter = Limiter(chain(clip_by_value(1.0), clip_by_global_norm(1.0, eps=0.0)))
    limited = limiter([np.array([100.0, 0.0]), np.array([-7.0])])
    np.testing.assert_allclose(np.concatenate(limited), np.array([1.0, 0.0, -1.0]) / math.sqrt(2.0), rtol=1e-15)
    assert len(limiter.decisions) == 2
    assert limiter.total_norm == pytest.approx(math.hypot(100.0, 7.0))
    assert limiter.reason == Reason.CLIPPED


def test_a_scale_and_a_final_clamp_are_both_applied():
    limited = Limiter(chain(decay(0.5), clip_by_value(1.0)))([np.array([1.0, 8.0])])
    assert limited[0].tolist() == [0.5, 1.0]


@pytest.mark.parametrize("rewrite", [False, True])
def test_a_saved_state_goes_on_where_it_was(rewrite):
    parts = [skip_nonfinite(max_consecutive=2), decay(exponential(0.5))]
    policy = chain(clip_by_value(100.0), *parts) if rewrite else chain(*parts)
    first, second = Limiter(policy), Limiter(policy)
    for grads in (GOOD, GOOD, BAD):
        first(grads)
    second.load_state_dict(first.state_dict())
    assert {key: int(value) for key, value in second.state_dict().items()} == {
        ("1.0.consecutive" if rewrite else "0.consecutive"): 1,
        ("1.1.step" if rewrite else "1.step"): 2,
    }
    assert [g.tolist() for g in first(GOOD)] == [g.tolist() for g in second(GOOD)] == [[0.75], [1.0]]


def test_a_state_is_a_copy_and_empty_before_the_first_step():
    limiter = Limiter(skip_nonfinite())
    assert limiter.state_dict() == {}
    assert math.isnan(limiter.total_norm)
    limiter(BAD)
    saved = limiter.state_dict()
    limiter(BAD)
    assert int(saved["consecutive"]) == 1


def test_the_state_of_another_policy_is_refused():
    limiter = Limiter(decay(exponential(0.5)))
    limiter.load_state_dict({"consecutive": np.array(1)})
    with pytest.raises(ArgumentError, match=r"\['step'\].*\['consecutive'\].*state-mismatch"):
        limiter(GOOD)


@pytest.mark.parametrize("grads", [np.ones((2, 2)), "ab", 1.0, None, (g for g in GOOD)])
def test_what_is_no_container_of_arrays_is_refused(grads):
    with pytest.raises(ArgumentTypeError, match="gradient-container"):
        Limiter(clip_by_norm(1.0))(grads)


@pytest.mark.parametrize("grad", [torch.ones(2), [1.0], "a", 1])
def test_what_is_no_array_is_refused(grad):
    with pytest.raises(ArgumentTypeError, match=r"'0'.*gradient-container"):
        Limiter(clip_by_norm(1.0))([grad])


def test_policies_are_checked():
    with pytest.raises(ArgumentTypeError, match="policy-expected"):
        Limiter("clip_by_norm(1.0)")
    with pytest.raises(UnsupportedError, match="needs param_norm of parameters"):
        Limiter(Policy(stateless, lambda readings, state: (None, state), "p", frozenset({"param_norm"})))


@pytest.mark.parametrize("p", [1.0, 2.0, 3.0, math.inf])
@given(gradients, st.floats(0.1, 1e6))
def test_agrees_with_torch_on_float32(p, grads, max_norm):
    params = [torch.nn.Parameter(torch.zeros(g.shape)) for g in grads]
    for param, grad in zip(params, grads, strict=True):
        param.grad = torch.tensor(grad)
    if p != math.inf or all(g.size for g in grads):  # torch has no maximum of an empty tensor
        torch.nn.utils.clip_grad_norm_(params, max_norm, p)
        for ours, param in zip(Limiter(clip_by_global_norm(max_norm, p))(grads), params, strict=True):
            # torch already scales by 1 - 1e-6 / max_norm where the norm is that close to the limit
            np.testing.assert_allclose(ours, param.grad.numpy(), rtol=2e-6 + 1e-6 / max_norm, atol=1e-37)


@given(gradients, st.floats(0.1, 1e6))
def test_clip_by_norm_is_the_textbook_formula(grads, max_norm):
    for ours, grad in zip(Limiter(clip_by_norm(max_norm))(grads), grads, strict=True):
        norm = np.linalg.norm(grad.astype(float))
        expected = grad if norm <= max_norm else grad * (max_norm / norm)
        np.testing.assert_allclose(ours, expected, rtol=1e-6, atol=1e-37)
