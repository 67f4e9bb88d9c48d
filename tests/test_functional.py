"""The drop-ins: equal to torch's where torch is right, right where it is wrong."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import steadygrad as sg

INF, NAN = float("inf"), float("nan")


def params_with(*grads):
    params = [torch.nn.Parameter(torch.zeros_like(g)) for g in grads]
    for p, g in zip(params, grads, strict=True):
        p.grad = g.clone()
    return params


def random_params(dtype=torch.float32):
    return params_with(*(torch.randn(s, dtype=dtype) for s in [(5,), (3, 4), (), (2, 3, 3, 3), (100, 100)]))


@pytest.mark.parametrize("foreach", [None, True, False])
@pytest.mark.parametrize("norm_type", [1, 2, 2.0, 3.5, INF, "inf"])
@pytest.mark.parametrize("max_norm", [0.0, 1e-3, 1.0, 1e6, INF])
def test_clip_grad_norm_agrees_with_torch(foreach, norm_type, max_norm):
    ours = random_params()
    theirs = params_with(*(p.grad for p in ours))
    norm = sg.clip_grad_norm_(ours, max_norm, norm_type, foreach=foreach)
    expected = torch.nn.utils.clip_grad_norm_(theirs, max_norm, norm_type)
    assert norm.dtype is expected.dtype
    torch.testing.assert_close(norm, expected, rtol=5e-6, atol=0)  # torch adds 1-norms one by one
    for p, q in zip(ours, theirs, strict=True):
        torch.testing.assert_close(p.grad, q.grad, rtol=6e-6, atol=0)


def test_bits_are_unchanged_where_the_limit_does_not_bind():
    params = random_params()
    before = [p.grad.clone() for p in params]
    sg.clip_grad_norm_(params, 1e6)
    assert all(torch.equal(p.grad, b) for p, b in zip(params, before, strict=True))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16, torch.complex64], ids=str)
def test_other_dtypes_are_clipped_to_the_limit(dtype):
    params = random_params(dtype)
    sg.clip_grad_norm_(params, 1.0)
    wide = [p.grad.to(torch.complex128 if dtype.is_complex else torch.float64) for p in params]
    clipped = torch.nn.utils.get_total_norm(wide)
    assert float(clipped) == pytest.approx(1.0, rel=1e-2 if dtype in (torch.bfloat16, torch.float16) else 1e-5)


def test_get_total_norm_agrees_with_torch_and_changes_nothing():
    grads = [torch.randn(7), torch.randn(3, 3)]
    for p in (1, 2, 3, INF):
        torch.testing.assert_close(sg.get_total_norm(grads, p), torch.nn.utils.get_total_norm(grads, p), rtol=1e-6, atol=0)
    assert sg.get_total_norm(torch.tensor([3.0, 4.0])) == 5.0
    assert sg.get_total_norm([]) == torch.nn.utils.get_total_norm([])


def test_value_clip_agrees_with_torch():
    ours = random_params()
    theirs = params_with(*(p.grad for p in ours))
    sg.clip_grad_value_(ours, 0.3)
    torch.nn.utils.clip_grad_value_(theirs, 0.3)
    assert all(torch.equal(p.grad, q.grad) for p, q in zip(ours, theirs, strict=True))


def test_value_clip_of_a_sparse_gradient_limits_the_sum_of_duplicates():
    param = torch.nn.Parameter(torch.zeros(4))
    param.grad = torch.sparse_coo_tensor([[1, 1]], [0.7, 0.7], (4,), check_invariants=True)
    sg.clip_grad_value_(param, 1.0)
    assert param.grad.to_dense().tolist() == [0.0, 1.0, 0.0, 0.0]


def test_complex_value_clip_raises_before_anything_is_changed():
    params = params_with(torch.tensor([9.0]), torch.tensor([3 + 4j]))
    with pytest.raises(sg.SteadygradError, match="complex-value-clip"):
        sg.clip_grad_value_(params, 1.0)
    assert params[0].grad.item() == 9.0


def test_split_form_equals_the_whole():
    whole = random_params()
    split = params_with(*(p.grad for p in whole))
    sg.clip_grad_norm_(whole, 0.5)
    sg.clip_grads_with_norm_(split, 0.5, sg.get_total_norm([p.grad for p in split]))
    assert all(torch.equal(p.grad, q.grad) for p, q in zip(whole, split, strict=True))


BAD = [torch.tensor([1.0, NAN]), torch.tensor([1.0, INF])]


@pytest.mark.parametrize("bad", BAD, ids=["nan", "inf"])
@pytest.mark.parametrize("foreach", [None, True])
def test_nonfinite_skip_takes_all_gradients_away_and_names_the_tensors(bad, foreach):
    params = params_with(torch.tensor([3.0]), bad)
    with pytest.warns(sg.SteadygradWarning, match="in fc.bias .1 of 2 tensors.*skipped"):
        norm = sg.clip_grad_norm_([("fc.weight", params[0]), ("fc.bias", params[1])], 1.0, foreach=foreach)
    assert not torch.isfinite(norm)
    assert all(p.grad is None for p in params)


@pytest.mark.parametrize("bad", BAD, ids=["nan", "inf"])
def test_nonfinite_raise_names_the_tensors_and_changes_nothing(bad):
    params = params_with(torch.tensor([3.0]), bad)
    for how in ({"nonfinite": "raise"}, {"error_if_nonfinite": True}):
        with pytest.raises(sg.NonFiniteGradientError, match=r"tensor 1 of shape \(2,\)"):
            sg.clip_grad_norm_(params, 1.0, **how)
    assert params[0].grad.item() == 3.0
    with pytest.raises(sg.NonFiniteGradientError, match="tensor 1"):
        sg.get_total_norm([p.grad for p in params], error_if_nonfinite=True)


@pytest.mark.parametrize("bad", BAD, ids=["nan", "inf"])
def test_nonfinite_zero_clips_the_others(bad):
    params = params_with(torch.tensor([3.0, 4.0]), bad)
    with pytest.warns(sg.SteadygradWarning, match="set to zero"):
        sg.clip_grad_norm_(params, 1.0, nonfinite="zero")
    torch.testing.assert_close(params[0].grad, torch.tensor([0.6, 0.8]), rtol=1e-6, atol=0)
    assert params[1].grad.tolist() == [0.0, 0.0]


@pytest.mark.parametrize("bad", BAD, ids=["nan", "inf"])
@pytest.mark.parametrize("foreach", [None, True])
def test_nonfinite_pass_leaves_everything(bad, foreach):
    params = params_with(torch.tensor([3.0, 4.0]), bad)
    sg.clip_grad_norm_(params, 1.0, nonfinite="pass", foreach=foreach)
    assert params[0].grad.tolist() == [3.0, 4.0]
    np.testing.assert_array_equal(params[1].grad.numpy(), bad.numpy())


def test_value_clip_with_nonfinite_modes():
    params = params_with(torch.tensor([NAN, 5.0]), torch.tensor([5.0]))
    with pytest.raises(sg.NonFiniteGradientError):
        sg.clip_grad_value_(params, 1.0, nonfinite="raise")
    with pytest.warns(sg.SteadygradWarning):
        sg.clip_grad_value_(params, 1.0, nonfinite="zero")
    assert [p.grad.tolist() for p in params] == [[0.0, 0.0], [1.0]]


@pytest.mark.parametrize("value", [-1.0, NAN, True, "1", None, -INF])
def test_bad_limits_raise_and_change_nothing(value):
    params = params_with(torch.tensor([3.0]))
    for call in (
        lambda: sg.clip_grad_norm_(params, value),
        lambda: sg.clip_grad_value_(params, value),
        lambda: sg.clip_grads_with_norm_(params, value, 1.0),
    ):
        with pytest.raises(sg.SteadygradError, match="threshold-invalid"):
            call()
    assert params[0].grad.item() == 3.0


def test_what_is_no_parameter_raises():
    with pytest.raises(TypeError, match="gradients-given"):
        sg.clip_grad_norm_([torch.ones(2)], 1.0)
    with pytest.raises(TypeError, match="gradients-given"):
        sg.clip_grads_with_norm_(torch.ones(2), 1.0, 5.0)
    with pytest.raises(TypeError, match="not-a-parameter"):
        sg.clip_grad_norm_(["weight"], 1.0)
    with pytest.raises(ValueError, match="argument-value"):
        sg.clip_grad_norm_([], 1.0, nonfinite="ignore")


def test_frozen_parameters_are_fine():
    frozen = torch.nn.Parameter(torch.ones(2), requires_grad=False)
    params = [frozen, *params_with(torch.tensor([3.0, 4.0]))]
    assert sg.clip_grad_norm_(params, 1.0) == 5.0


def test_used_up_generator_is_told():
    generator = (p for p in params_with(torch.tensor([3.0])))
    assert sg.clip_grad_norm_(generator, 1.0) == 3.0
    with pytest.warns(sg.SteadygradWarning, match="no-parameters"):
        assert sg.clip_grad_norm_(generator, 1.0) == 0.0
    assert sg.clip_grad_norm_([], 1.0) == 0.0


@given(
    st.lists(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), max_size=20), max_size=5), st.floats(1e-3, 1e3)
)
def test_finite_gradients_end_within_the_limit(rows, max_norm):
    params = params_with(*(torch.tensor(row) for row in rows))
    before = [p.grad.clone() for p in params]
    sg.clip_grad_norm_(params, max_norm)
    after = float(sg.get_total_norm([p.grad for p in params]))
    assert after <= max_norm * (1 + 1e-5)
    for p, b in zip(params, before, strict=True):
        assert torch.isfinite(p.grad).all()
        assert (torch.sign(p.grad) * torch.sign(b) >= 0).all()
