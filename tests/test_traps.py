"""Semantics that catch everybody, one test each; numbers are those of the list that the project keeps.

1-20: torch's clip_grad_norm_. 21-32: scaler, hooks, fused optimizers. Each test shows torch's behaviour where it can, and ours.
"""

import math
import warnings

import numpy as np
import pytest
import torch
from torch import nn

import steadygrad as sg

INF, NAN = float("inf"), float("nan")


def param(*values, dtype=torch.float32):
    p = nn.Parameter(torch.zeros(len(values), dtype=dtype))
    p.grad = torch.tensor(values, dtype=dtype)
    return p


def torch_clips(params, *args, **kwargs):
    return torch.nn.utils.clip_grad_norm_(params, *args, **kwargs)


def test_trap_01_a_nan_stays_in_its_own_tensor():
    theirs, ours = [param(3.0), param(NAN)], [param(3.0), param(NAN)]
    torch_clips(theirs, 1.0)
    assert math.isnan(theirs[0].grad.item())
    sg.clip_grad_norm_(ours, 1.0, nonfinite="pass")
    assert ours[0].grad.item() == 3.0


def test_trap_01_adam_stays_healthy():
    p = param(1.0)
    optimizer = torch.optim.Adam([p], lr=0.1)
    for value in (1.0, NAN, 1.0):
        p.grad = torch.tensor([value])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", sg.SteadygradWarning)
            sg.clip_grad_norm_([p], 1.0)
        optimizer.step()
    assert torch.isfinite(p).all()
    assert torch.isfinite(optimizer.state[p]["exp_avg"]).all()


def test_trap_02_an_inf_does_not_zero_the_others():
    theirs, ours = [param(1.0, INF, 2.0)], [param(1.0, INF, 2.0), param(5.0)]
    torch_clips(theirs, 1.0)
    np.testing.assert_array_equal(theirs[0].grad, [0.0, NAN, 0.0])
    sg.clip_grad_norm_(ours, 1.0, nonfinite="pass")
    assert ours[1].grad.item() == 5.0


@pytest.mark.parametrize("foreach", [None, True])
def test_trap_03_finite_gradients_whose_norm_overflows_are_clipped(foreach):
    theirs, ours = param(3e38, 3e38), param(3e38, 3e38)
    torch_clips([theirs], 1.0)
    assert theirs.grad.tolist() == [0.0, 0.0]
    sg.clip_grad_norm_([ours], 1.0, foreach=foreach)
    torch.testing.assert_close(ours.grad, torch.tensor([0.5**0.5, 0.5**0.5]))


def test_trap_03_the_norm_is_returned_as_it_is():
    assert float(sg.clip_grad_norm_([param(3e38, 3e38)], 1.0)) == pytest.approx(3e38 * 2**0.5)


@pytest.mark.parametrize("foreach", [None, True])
def test_trap_04_max_norm_inf_only_measures(foreach):
    theirs, ours = param(3e38, 3e38), param(3e38, 3e38)
    torch_clips([theirs], INF)
    assert torch.isnan(theirs.grad).all()
    sg.clip_grad_norm_([ours], INF, foreach=foreach)
    assert ours.grad.tolist() == [np.float32(3e38)] * 2


@pytest.mark.parametrize("bad", [-1.0, NAN, True])
def test_trap_05_senseless_limits_raise(bad):
    with pytest.raises(sg.SteadygradError, match="threshold-invalid"):
        sg.clip_grad_norm_([param(3.0)], bad)
    for policy in (sg.clip_by_global_norm, sg.clip_by_norm, sg.clip_by_group_norm, sg.clip_by_rms, sg.clip_by_value):
        with pytest.raises(sg.SteadygradError, match="threshold-invalid"):
            policy(bad)


def test_trap_05_zero_is_zero_in_the_drop_in_and_refused_by_policies():
    p = param(3.0)
    sg.clip_grad_norm_([p], 0.0)
    assert p.grad.item() == 0.0
    with pytest.raises(sg.SteadygradError, match="threshold-invalid"):
        sg.clip_by_global_norm(0.0)


def test_trap_06_epsilon_is_torchs_by_default_and_can_be_left_out():
    p, q = param(1e-7), param(1e-7)
    sg.clip_grad_norm_([p], 1e-7)
    torch_clips([q], 1e-7)
    torch.testing.assert_close(p.grad, q.grad)
    limiter = sg.Limiter(sg.clip_by_global_norm(1e-7, eps=0.0))
    assert limiter([np.array([2e-7])])[0] == pytest.approx(1e-7)


@pytest.mark.parametrize("foreach", [None, True])
def test_trap_07_half_precision_norms_are_exact(foreach):
    half = [torch.full((100_000,), 300.0, dtype=torch.float16)]
    assert torch.nn.utils.get_total_norm(half) == INF
    assert float(sg.get_total_norm(half, foreach=foreach)) == pytest.approx(94868.33, rel=1e-6)
    brain = [torch.full((100_000,), 300.0, dtype=torch.bfloat16)]
    assert float(sg.get_total_norm(brain, foreach=foreach)) == pytest.approx(94868.33, rel=1e-6)
    p = nn.Parameter(torch.zeros(100_000, dtype=torch.float16))
    p.grad = half[0]
    sg.clip_grad_norm_([p], 1.0, foreach=foreach)
    assert float(p.grad.float().norm()) == pytest.approx(1.0, rel=1e-2)


def test_trap_07_guard_clips_half_precision():
    p = nn.Parameter(torch.zeros(100_000, dtype=torch.float16))
    p.grad = torch.full_like(p, 300.0)
    optimizer = torch.optim.SGD([p], lr=1.0)
    sg.Guard(optimizer, sg.clip_by_global_norm(1.0))
    optimizer.step()
    assert float(p.detach().float().norm()) == pytest.approx(1.0, rel=1e-2)


def test_trap_08_a_parameter_passed_twice_counts_once():
    theirs, ours = param(3.0, 4.0), param(3.0, 4.0)
    assert float(torch_clips([theirs, theirs], 1.0)) == pytest.approx(50**0.5)
    assert sg.clip_grad_norm_([ours, ours], 1.0) == 5.0
    torch.testing.assert_close(ours.grad, torch.tensor([0.6, 0.8]))


@pytest.mark.parametrize("norm_type", [0, -1.0, -INF, NAN])
def test_trap_09_what_is_no_norm_raises(norm_type):
    with pytest.raises(ValueError, match="norm-type-invalid"):
        sg.clip_grad_norm_([param(3.0)], 1.0, norm_type)
    with pytest.raises(sg.SteadygradError):
        sg.clip_by_global_norm(1.0, norm_type=norm_type)


@pytest.mark.parametrize("norm_type", [1.0, 2.0, 3.0, INF])
@pytest.mark.parametrize("foreach", [None, True])
def test_trap_10_empty_gradients_work_for_every_norm(norm_type, foreach):
    params = [param(), param(8.0)]
    if norm_type == INF:
        with pytest.raises(RuntimeError):
            torch_clips(params, 1.0, norm_type)
    assert sg.clip_grad_norm_(params, 1.0, norm_type, foreach=foreach) == pytest.approx(8.0)
    assert params[1].grad.item() == pytest.approx(1.0)


@pytest.mark.parametrize("norm_type", [1.0, 2.0, 3.0, INF])
@pytest.mark.parametrize("foreach", [None, True])
def test_trap_11_sparse_gradients_work_for_every_norm(norm_type, foreach):
    def sparse():
        p = nn.Parameter(torch.zeros(5))
        p.grad = torch.sparse_coo_tensor([[1, 1, 3]], [3.0, 4.0, 0.0], (5,), check_invariants=True)
        return p

    with pytest.raises(NotImplementedError):
        torch_clips([sparse()], 1.0, norm_type)
    p = sparse()
    assert sg.clip_grad_norm_([p], 1.0, norm_type, foreach=foreach) == pytest.approx(7.0)
    torch.testing.assert_close(p.grad.to_dense(), torch.tensor([0.0, 1.0, 0.0, 0.0, 0.0]))


def test_trap_11_sparse_gradients_under_a_guard():
    embedding = nn.Embedding(10, 4, sparse=True)
    optimizer = torch.optim.SparseAdam(embedding.parameters(), lr=0.1)
    guard = sg.Guard(optimizer, sg.chain(sg.skip_nonfinite(), sg.clip_by_global_norm(1.0)))
    embedding(torch.tensor([1, 1, 3])).sum().backward()
    optimizer.step()
    assert float(guard.total_norm) == pytest.approx((4 * 2**2 + 4) ** 0.5)


@pytest.mark.parametrize("norm_type", [1.0, 2.0, 3.0, INF])
def test_trap_12_complex_gradients_count_by_modulus(norm_type):
    p = param(3 + 4j, dtype=torch.complex64)
    assert sg.clip_grad_norm_([p], 1.0, norm_type) == pytest.approx(5.0)
    assert abs(p.grad.item() - (0.6 + 0.8j)) < 1e-6
    with pytest.raises(sg.SteadygradError, match="complex-value-clip"):
        sg.clip_grad_value_([p], 1.0)


def test_trap_13_value_clip_says_what_nan_and_inf_become():
    p = param(NAN, INF, -INF)
    sg.clip_grad_value_([p], 0.5)
    np.testing.assert_array_equal(p.grad, [NAN, 0.5, -0.5])
    with pytest.raises(sg.NonFiniteGradientError, match="tensor 0"):
        sg.clip_grad_value_([param(NAN)], 0.5, nonfinite="raise")


def test_trap_14_nothing_to_clip():
    no_grad = nn.Parameter(torch.ones(2))
    for empty in ([], [no_grad]):
        assert sg.clip_grad_norm_(empty, 1.0) == 0.0
    with pytest.warns(sg.SteadygradWarning, match="no-parameters"):
        sg.clip_grad_norm_((p for p in []), 1.0)


def test_trap_15_error_if_nonfinite_says_names():
    params = [("encoder.weight", param(1.0)), ("head.bias", param(NAN))]
    with pytest.raises(RuntimeError, match=r"head\.bias"):
        sg.clip_grad_norm_(params, 1.0, error_if_nonfinite=True)
    assert params[0][1].grad.item() == 1.0


def test_trap_16_gradients_instead_of_parameters_raise():
    grads = [torch.tensor([3.0, 4.0])]
    torch.nn.utils.clip_grads_with_norm_(grads, 1.0, torch.tensor(5.0))
    assert grads[0].tolist() == [3.0, 4.0]  # torch: silently nothing
    with pytest.raises(TypeError, match="gradients-given"):
        sg.clip_grads_with_norm_(grads, 1.0, torch.tensor(5.0))


def test_trap_17_a_negative_norm_raises():
    p = param(3.0, 4.0)
    for sentinel in (-1.0, torch.tensor(-1.0)):
        with pytest.raises(ValueError, match="norm-negative"):
            sg.clip_grads_with_norm_([p], 1.0, sentinel)
    assert p.grad.tolist() == [3.0, 4.0]


def test_trap_18_engines_agree():
    grads = [torch.randn(1000), torch.randn(33, 7)]
    torch.testing.assert_close(sg.get_total_norm(grads), sg.get_total_norm(grads, foreach=True), rtol=1e-6, atol=0)


def test_trap_19_tied_parameters_count_once():
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    model[1].weight = model[0].weight
    model(torch.ones(1, 2)).sum().backward()
    expected = float(model[0].weight.grad.norm())
    twice = list(model.named_parameters(remove_duplicate=False))
    assert len(twice) == 2
    assert float(sg.clip_grad_norm_(twice, INF)) == pytest.approx(expected)


def test_trap_20_under_torch_compile():
    p = param(3.0, 4.0)

    @torch.compile(backend="eager")
    def clip():
        return sg.clip_grad_norm_([p], 1.0, nonfinite="pass")

    assert clip() == 5.0
    torch.testing.assert_close(p.grad, torch.tensor([0.6, 0.8]))


def scaled_setup(fused, scale=65536.0):
    p = nn.Parameter(torch.zeros(2))
    optimizer = torch.optim.SGD([p], lr=1.0, fused=fused)
    return p, optimizer, torch.amp.GradScaler("cpu", init_scale=scale)


@pytest.mark.parametrize("fused", [False, True])
def test_trap_21_clipping_acts_on_unscaled_gradients(fused):
    p, optimizer, scaler = scaled_setup(fused)
    guard = sg.Guard(optimizer, sg.clip_by_global_norm(1.0))
    scaler.scale((p * torch.tensor([3.0, 4.0])).sum()).backward()
    scaler.step(optimizer)
    scaler.update()
    assert float(guard.total_norm) == pytest.approx(5.0)
    torch.testing.assert_close(-p.detach(), torch.tensor([0.6, 0.8]))


def test_trap_22_gradients_are_read_after_the_closure():
    p = nn.Parameter(torch.zeros(2))
    optimizer = torch.optim.SGD([p], lr=1.0)
    guard = sg.Guard(optimizer, sg.clip_by_global_norm(1.0))

    def closure():
        optimizer.zero_grad()
        loss = (p * torch.tensor([3.0, 4.0])).sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    assert float(guard.total_norm) == 5.0
    torch.testing.assert_close(-p.detach(), torch.tensor([0.6, 0.8]))


@pytest.mark.parametrize("fused", [False, True])
def test_trap_23_a_step_that_the_scaler_skips_is_no_step_of_ours(fused):
    p, optimizer, scaler = scaled_setup(fused)
    guard = sg.Guard(optimizer, sg.chain(sg.skip_nonfinite(max_consecutive=1), sg.clip_by_global_norm(1.0)))
    for _ in range(4):
        scaler.scale((p * INF).sum()).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
    assert p.tolist() == [0.0, 0.0]
    assert guard.num_steps - guard.num_skipped == 0
    assert not hasattr(optimizer, "found_inf")


def test_trap_24_after_unscale_only_found_inf_is_set():
    p, optimizer, scaler = scaled_setup(fused=True)
    guard = sg.Guard(optimizer, sg.clip_by_global_norm(1.0))
    scaler.scale((p * torch.tensor([3.0, 4.0])).sum()).backward()
    scaler.unscale_(optimizer)
    scaler.step(optimizer)
    scaler.update()
    assert float(guard.total_norm) == pytest.approx(5.0)
    torch.testing.assert_close(-p.detach(), torch.tensor([0.6, 0.8]))
    assert not hasattr(optimizer, "grad_scale")


def test_trap_24_a_users_own_grad_scale_is_multiplied_in():
    p = nn.Parameter(torch.zeros(2))
    p.grad = torch.tensor([6.0, 8.0])
    optimizer = torch.optim.SGD([p], lr=1.0, fused=True)
    sg.Guard(optimizer, sg.clip_by_global_norm(1.0))
    optimizer.grad_scale = torch.tensor(2.0)
    optimizer.step()
    torch.testing.assert_close(-p.detach(), torch.tensor([0.6, 0.8]))
    assert float(optimizer.grad_scale) == 2.0  # the user's own, and as it was


def test_trap_25_a_disabled_scaler_guards_nothing_so_we_do():
    p = nn.Parameter(torch.zeros(2))
    optimizer = torch.optim.SGD([p], lr=1.0)
    guard = sg.Guard(optimizer, sg.skip_nonfinite())
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    scaler.scale((p * NAN).sum()).backward()
    scaler.step(optimizer)
    assert p.tolist() == [0.0, 0.0]
    assert guard.num_skipped == 1


def test_trap_26_skip_comes_after_the_scalers_own_check():
    p, optimizer, scaler = scaled_setup(fused=False)
    sg.Guard(optimizer, sg.skip_nonfinite())
    scaler.scale((p * NAN).sum()).backward()
    scaler.step(optimizer)  # no "No inf checks were recorded": gradients are there when the scaler looks
    scaler.update()
    assert p.tolist() == [0.0, 0.0]


def test_trap_27_half_precision_parameters_need_no_scaler_to_be_guarded():
    p = nn.Parameter(torch.zeros(2, dtype=torch.float16))
    optimizer = torch.optim.SGD([p], lr=1.0)
    scaler = torch.amp.GradScaler("cpu")
    scaler.scale(p.sum()).backward()
    with pytest.raises(ValueError, match="FP16 gradients"):
        scaler.unscale_(optimizer)
    guard = sg.Guard(optimizer, sg.skip_nonfinite())
    p.grad = torch.tensor([INF, 1.0], dtype=torch.float16)
    optimizer.step()
    assert guard.skipped
    assert p.tolist() == [0.0, 0.0]


def test_trap_28_a_skip_is_no_step_with_zero_gradients():
    zeroed, skipped = (nn.Parameter(torch.ones(1)) for _ in range(2))
    for p, poison in ((zeroed, 0.0), (skipped, NAN)):
        optimizer = torch.optim.AdamW([p], lr=0.1)
        if p is skipped:
            sg.Guard(optimizer, sg.skip_nonfinite())
        p.grad = torch.ones(1)
        optimizer.step()
        before = p.item()
        p.grad = torch.tensor([poison])
        optimizer.step()
        assert (p.item() == before) is (p is skipped)


def test_trap_29_skipped_steps_can_be_told_to_the_scheduler():
    p = nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([p], lr=1.0)
    guard = sg.Guard(optimizer, sg.skip_nonfinite())
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    for value in (1.0, NAN, NAN, 1.0):
        p.grad = torch.tensor([value])
        optimizer.step()
        if not guard.skipped:
            scheduler.step()
    assert optimizer.param_groups[0]["lr"] == 0.25


def test_trap_30_two_optimizers_on_one_scaler():
    a, b = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))
    first, second = torch.optim.SGD([a], lr=1.0, fused=True), torch.optim.SGD([b], lr=1.0)
    guards = [sg.Guard(o, sg.clip_by_global_norm(1.0)) for o in (first, second)]
    scaler = torch.amp.GradScaler("cpu")
    scaler.scale(3 * a.sum() + 4 * b.sum()).backward()
    scaler.step(first)
    scaler.step(second)
    scaler.update()
    assert [float(g.total_norm) for g in guards] == [3.0, 4.0]
    assert (a.item(), b.item()) == (pytest.approx(-1.0), pytest.approx(-1.0))


def test_trap_32_inf_is_caught_where_anomaly_mode_passes_it():
    p = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([p], lr=1.0)
    guard = sg.Guard(optimizer, sg.skip_nonfinite())
    with pytest.warns(UserWarning, match="Anomaly Detection"), torch.autograd.detect_anomaly():
        p.sqrt().sum().backward()
    assert p.grad.item() == INF
    optimizer.step()
    assert guard.skipped
    assert p.item() == 0.0
