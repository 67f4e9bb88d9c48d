"""One write, one fold, one true skip."""

import numpy as np
import pytest
import torch

from steadygrad.apply import can_fold, can_fold_skip, clamp_, fold, scale_, scale_units_, withhold
from steadygrad.errors import UnsupportedError
from steadygrad.readings import Layout

HOST_AND_DEVICE = [np.float64, lambda v: torch.tensor(v, dtype=torch.float64)]


@pytest.mark.parametrize("as_scale", HOST_AND_DEVICE)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.complex64], ids=str)
def test_scale_multiplies_in_place_and_keeps_the_dtype(as_scale, dtype):
    grad = torch.full((3,), 8.0, dtype=dtype)
    scale_([grad], as_scale(0.25))
    assert grad.dtype is dtype
    assert torch.equal(grad, torch.full((3,), 2.0, dtype=dtype))


@pytest.mark.parametrize("as_scale", HOST_AND_DEVICE)
def test_scale_per_tensor(as_scale):
    a, b, c = torch.ones(2), torch.ones(3), torch.sparse_coo_tensor([[1, 1]], [1.0, 2.0], (4,), check_invariants=True)
    scale_([a, b, c], as_scale([0.5, 1.0, 2.0]))
    assert a.tolist() == [0.5, 0.5]
    assert b.tolist() == [1.0] * 3
    assert c.to_dense().tolist() == [0.0, 6.0, 0.0, 0.0]


def test_a_factor_of_one_is_not_written():
    grad = torch.ones(3)
    version = grad._version
    scale_([grad], np.float64(1.0))
    assert grad._version == version


def units_of(*pairs):
    shapes, dims = zip(*pairs, strict=True)
    return Layout(tuple(f"t{i}" for i in range(len(shapes))), shapes=shapes, unit_dims=dims)


@pytest.mark.parametrize("as_scale", HOST_AND_DEVICE)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.complex64], ids=str)
def test_scale_per_unit(as_scale, dtype):
    layout = units_of(((2, 3), 0), ((2, 3), 1), ((), -1), ((0, 3), 0), ((2, 2, 2), 1), ((3,), -1))
    grads = [torch.ones(shape, dtype=dtype) for shape in layout.shapes]
    scale_units_([*grads[:5], None], layout, as_scale([0.5, 1.0, 0.25, 1.0, 2.0, 4.0, 0.5, 8.0, 0.0]))
    assert grads[0].tolist() == [[0.5] * 3, [1.0] * 3]
    assert grads[1].tolist() == [[0.25, 1.0, 2.0]] * 2
    assert float(grads[2].real) == 4.0
    assert grads[4].tolist() == [[[0.5] * 2, [8.0] * 2]] * 2
    assert all(grad.dtype is dtype for grad in grads)


@pytest.mark.parametrize("as_scale", HOST_AND_DEVICE)
def test_scale_per_unit_of_sparse_gradients(as_scale):
    layout = units_of(((3, 2), 0), ((3, 2), 1), ((3, 2), 1), ((3, 2), -1))
    rows = [torch.sparse_coo_tensor([[2, 0, 2]], torch.ones(3, 2), (3, 2), check_invariants=True) for _ in range(3)]
    both = torch.sparse_coo_tensor([[2, 0], [0, 1]], torch.ones(2), (3, 2), check_invariants=True)
    grads = [rows[0], rows[1], both, rows[2]]
    dense = [grad.to_dense() for grad in grads]
    scale_units_(grads, layout, as_scale([2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0]))
    factors = [torch.tensor([[2.0], [3.0], [4.0]]), torch.tensor([5.0, 6.0]), torch.tensor([7.0, 8.0]), 9.0]
    for grad, before, factor in zip(grads, dense, factors, strict=True):
        assert torch.equal(grad.to_dense(), before * factor)


def test_units_whose_factors_are_one_are_not_written_and_a_tiny_factor_keeps_its_digits():
    layout = units_of(((2, 1), 0), ((2, 1), 0))
    grads = [torch.ones(2, 1), torch.tensor([[3e38], [1.0]], requires_grad=True)]
    version = grads[0]._version
    scale_units_(grads, layout, np.array([1.0, 1.0, 1e-44, 1.0]))
    assert grads[0]._version == version
    np.testing.assert_allclose(grads[1].detach().numpy(), np.float32([[3e-6], [1.0]]), rtol=1e-6)


def test_subnormal_factor_keeps_its_digits():
    grad = torch.tensor([3e38, 3e38])
    scale_([grad], np.float64(1e-44))
    np.testing.assert_allclose(grad.numpy(), np.float32(3e-6), rtol=1e-6)


def test_clamp_keeps_nan_and_limits_inf():
    grad = torch.tensor([float("nan"), -float("inf"), 0.2])
    clamp_([grad], -0.5, 0.5)
    np.testing.assert_array_equal(grad.numpy(), np.float32([np.nan, -0.5, 0.2]))


def test_clamp_refuses_what_has_no_meaning():
    plain = torch.ones(2)
    with pytest.raises(UnsupportedError, match="complex-value-clip"):
        clamp_([plain * 9, torch.ones(2, dtype=torch.cfloat)], -1.0, 1.0)
    with pytest.raises(UnsupportedError, match="sparse-value-clip"):
        clamp_([torch.ones(2).to_sparse()], 0.5, 1.0)


def weights(n=2):
    params = [torch.nn.Parameter(torch.ones(3)) for _ in range(n)]
    for p in params:
        p.grad = torch.full_like(p, 2.0)
    return params


FUSED = [
    lambda p: torch.optim.SGD(p, lr=0.1, fused=True),
    lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, fused=True),
    lambda p: torch.optim.Adam(p, lr=0.1, weight_decay=0.1, fused=True),
    lambda p: torch.optim.AdamW(p, lr=0.1, fused=True),
    lambda p: torch.optim.Adagrad(p, lr=0.1, fused=True),
]
IGNORANT = [
    torch.optim.RMSprop,
    torch.optim.NAdam,
    torch.optim.RAdam,
    torch.optim.Adamax,
    torch.optim.Adadelta,
    torch.optim.SGD,
    torch.optim.AdamW,
]


@pytest.mark.parametrize("make", FUSED)
def test_fold_equals_scaling_before_the_step(make):
    folded, scaled = weights(), weights()
    a, b = make(folded), make(scaled)
    for _ in range(3):
        for p, q in zip(folded, scaled, strict=True):
            p.grad, q.grad = torch.full_like(p, 2.0), torch.full_like(q, 0.5)
        restore = fold(a, scale=np.float64(0.25))
        a.step()
        restore()
        b.step()
    for p, q in zip(folded, scaled, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-6, atol=0)
    assert not hasattr(a, "grad_scale")


@pytest.mark.parametrize("make", FUSED)
def test_folded_skip_moves_nothing(make):
    params = weights()
    optimizer = make(params)
    optimizer.step()
    before = [p.detach().clone() for p in params]
    state = {k: v.clone() for k, v in optimizer.state[params[0]].items() if v is not None}
    restore = fold(optimizer, skip=torch.tensor(True))
    optimizer.step()
    restore()
    for p, q in zip(params, before, strict=True):
        assert torch.equal(p, q)
    for key, value in state.items():
        assert torch.equal(optimizer.state[params[0]][key], value)
    assert not hasattr(optimizer, "found_inf")


@pytest.mark.parametrize("make", IGNORANT)
def test_optimizers_that_ignore_the_attributes_are_not_folded(make):
    assert not can_fold(make(weights()))


def test_first_step_of_fused_sgd_with_momentum_is_not_folded():
    params = weights()
    optimizer = torch.optim.SGD(params, lr=0.1, momentum=0.9, fused=True)
    assert can_fold(optimizer)
    assert not can_fold_skip(optimizer)
    optimizer.step()
    assert can_fold_skip(optimizer)


def test_fold_multiplies_into_what_a_scaler_has_set():
    params = weights(1)
    optimizer = torch.optim.SGD(params, lr=1.0, fused=True)
    optimizer.grad_scale = torch.tensor(4.0)
    restore = fold(optimizer, scale=np.float64(0.5))
    assert float(optimizer.grad_scale) == 8.0
    optimizer.step()
    restore()
    assert params[0].tolist() == [0.75] * 3
    assert float(optimizer.grad_scale) == 4.0


@pytest.mark.parametrize(
    "make", [*IGNORANT, torch.optim.SparseAdam, torch.optim.LBFGS, torch.optim.ASGD, torch.optim.Rprop, torch.optim.Adafactor]
)
def test_withhold_is_a_true_skip(make):
    params = weights()
    optimizer = make(params)
    grads = [p.grad for p in params]
    restore = withhold(optimizer)
    optimizer.step(*([lambda: torch.tensor(1.0)] if make is torch.optim.LBFGS else []))
    restore()
    assert all(p.grad is g for p, g in zip(params, grads, strict=True))
    assert all(torch.equal(p, torch.ones(3)) for p in params)
    moments = [v for s in optimizer.state.values() for k, v in s.items() if isinstance(v, torch.Tensor)]
    assert not moments or make is torch.optim.LBFGS


def test_withhold_undoes_counters_in_groups():
    params = weights(1)
    optimizer = torch.optim.SGD(params, lr=0.1)
    optimizer.param_groups[0]["k"] = 3
    restore = withhold(optimizer)
    optimizer.param_groups[0]["k"] += 1
    restore()
    assert optimizer.param_groups[0]["k"] == 3
