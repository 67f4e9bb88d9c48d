"""Against Optax: the same gradients, through a Guard and through the transformation of the same meaning.

What differs, and why:

- `clip_by_global_norm` adds torch's 1e-6 to the norm unless told ``eps=0.0``; Optax adds nothing. Below about 1e-6 the default
  therefore stays under the limit.
- Optax's `clip_by_global_norm` makes every gradient NaN where one element is not finite; ours skips the step. `zero_nans` zeroes
  the element and goes on, with a gradient that nobody computed; nothing of ours does that.
- Units: Optax takes the last dimension for the outputs, as Flax stores weights; torch's outputs come first. With ``axis`` told,
  the numbers agree.
- `lars`: Optax divides by the norm of ``g + wd * w``, the paper and ours by ``|g| + wd * |w|``. Without weight decay they agree.
- `add_noise`: the random numbers are others, so spreads are compared. Optax counts from 1 and divides by ``count**gamma``, the
  paper from 0 and by ``(1 + t)**gamma``: the same schedule.
"""

import math

import numpy as np
import pytest
import torch
from torch import nn

import steadygrad as sg

optax = pytest.importorskip("optax", reason="Optax is not installed: pip install 'steadygrad[peers]'")
jax = pytest.importorskip("jax")


def optaxed(transformation, steps, weights=None):
    """What Optax makes of each step's gradients."""
    tree = None if weights is None else jax.tree.map(jax.numpy.asarray, weights)
    state = transformation.init(tree or jax.tree.map(jax.numpy.asarray, steps[0]))
    results = []
    for grads in steps:
        updates, state = transformation.update(jax.tree.map(jax.numpy.asarray, grads), state, tree)
        results.append(jax.tree.map(np.asarray, updates))
    return results


@pytest.mark.parametrize("part", [0.01, 0.5, 3.0])
def test_clip_agrees(grads, scale, guarded, close, part):
    [ours] = guarded(sg.clip_by_value(part * scale), [grads])
    [theirs] = optaxed(optax.clip(part * scale), [grads])
    close(ours, theirs, 0)


@pytest.mark.parametrize("part", [0.01, 0.7, 1.5])
def test_clip_by_global_norm_agrees_without_epsilon(grads, guarded, close, total_norm, part):
    limit = part * total_norm(grads)
    [ours] = guarded(sg.clip_by_global_norm(limit, eps=0.0), [grads])
    [theirs] = optaxed(optax.clip_by_global_norm(limit), [grads])
    close(ours, theirs)


def test_the_epsilon_of_torch_shows_where_gradients_are_tiny(guarded, total_norm, several):
    [grads] = several(1, 1e-7)
    limit = 0.5 * total_norm(grads)
    [ours] = guarded(sg.clip_by_global_norm(limit), [grads])
    [theirs] = optaxed(optax.clip_by_global_norm(limit), [grads])
    assert total_norm(theirs) == pytest.approx(limit, rel=1e-5)
    assert total_norm(ours) == pytest.approx(limit * total_norm(grads) / (total_norm(grads) + 1e-6), rel=1e-5)
    assert total_norm(ours) < 0.9 * limit


@pytest.mark.parametrize("part", [0.01, 1.0, 30.0])
def test_clip_by_block_rms_agrees(grads, scale, guarded, close, part):
    [ours] = guarded(sg.clip_by_rms(part * scale), [grads])
    [theirs] = optaxed(optax.clip_by_block_rms(part * scale), [grads])
    close(ours, theirs)


def test_a_gradient_that_is_not_finite_is_skipped_here_and_spread_or_zeroed_there(guarded, several):
    [grads] = several(1, 1.0)
    grads["gain"] = np.array([math.nan], np.float32)
    assert guarded(sg.clip_by_global_norm(1.0), [grads]) == [None]
    [spread] = optaxed(optax.clip_by_global_norm(1.0), [grads])
    assert all(np.isnan(value).all() for value in spread.values())
    [zeroed] = optaxed(optax.zero_nans(), [grads])
    assert zeroed["gain"] == 0.0
    assert np.array_equal(zeroed["linear.bias"], grads["linear.bias"])


def test_trust_ratio_agrees_with_lars(grads, weights, guarded, close):
    theirs = optaxed(optax.scale_by_trust_ratio(trust_coefficient=0.02, eps=0.0), [grads], weights)[0]
    [ours] = guarded(sg.lars(0.02, eps=0.0), [grads], weights)
    close(ours, theirs)


def moved(optimizer, guard_policy, steps, weights, **settings):
    """The parameters after training on these gradients with a torch optimizer under a Guard."""
    params = {name: nn.Parameter(torch.from_numpy(value.copy())) for name, value in weights.items()}
    guard = sg.Guard(optimizer(list(params.items()), **settings), guard_policy)
    for grads in steps:
        for name, param in params.items():
            param.grad = torch.from_numpy(grads[name].copy())
        guard.optimizer.step()
    return {name: param.detach().numpy() for name, param in params.items()}


def moved_by_optax(transformation, steps, weights):
    """The parameters after training on these gradients with Optax."""
    params = jax.tree.map(jax.numpy.asarray, weights)
    state = transformation.init(params)
    for grads in steps:
        updates, state = transformation.update(jax.tree.map(jax.numpy.asarray, grads), state, params)
        params = optax.apply_updates(params, updates)
    return jax.tree.map(np.asarray, params)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_lars_trains_alike_without_weight_decay(several, weights, close, momentum):
    steps = several(5, 1.0)
    ours = moved(torch.optim.SGD, sg.lars(0.02, eps=0.0), steps, weights, lr=0.5, momentum=momentum)
    theirs = moved_by_optax(optax.lars(0.5, trust_coefficient=0.02, momentum=momentum), steps, weights)
    close(ours, theirs, 32)


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_lamb_trains_alike(several, weights, close, weight_decay):
    steps = several(5, 1.0)
    ours = moved(torch.optim.AdamW, sg.lamb(), steps, weights, lr=0.01, betas=(0.9, 0.999), eps=1e-6, weight_decay=weight_decay)
    theirs = moved_by_optax(optax.lamb(0.01, eps=1e-6, weight_decay=weight_decay), steps, weights)
    close(ours, theirs, 32)


def all_but_first(value):
    """The axes over which Optax is to take a unit's norm, so that units lie as in torch; ``None``: the tensor is one unit."""
    return tuple(range(1, value.ndim)) if value.ndim > 1 else None


@pytest.mark.parametrize("clipping", [1e-3, 0.3, 1e9])
def test_adaptive_grad_clip_agrees(grads, weights, guarded, close, clipping):
    [ours] = guarded(sg.adaptive_grad_clip(clipping), [grads], weights)
    theirs = {}
    for name, value in grads.items():
        transformation = optax.adaptive_grad_clip(clipping, axis=all_but_first(value))
        theirs |= optaxed(transformation, [{name: value}], {name: weights[name]})[0]
    close(ours, theirs)


def test_centralize_agrees(grads, guarded, close):
    [ours] = guarded(sg.centralize(), [grads])
    [theirs] = optaxed(optax.centralize(), [grads])
    close(ours, theirs, 32)  # differences of nearly equal numbers: the rounding of the mean counts by the largest element


@pytest.mark.parametrize("norm", [1e-3, 1.0, 10.0])
@pytest.mark.parametrize("eps", [0.0, 1e-6])
def test_normalize_agrees_with_normalize_by_update_norm(grads, guarded, close, norm, eps):
    [ours] = guarded(sg.normalize(norm=norm, eps=eps), [grads])
    [theirs] = optaxed(optax.normalize_by_update_norm(norm, eps), [grads])
    close(ours, theirs)


def test_gradients_that_are_all_zero_stay_zero_where_optax_divides_by_zero(guarded, several):
    [grads] = several(1, 0.0)
    [ours] = guarded(sg.normalize(eps=0.0), [grads])
    assert all(not value.any() for value in ours.values())
    [theirs] = optaxed(optax.normalize_by_update_norm(1.0, 0.0), [grads])
    assert all(np.isnan(value).all() for value in theirs.values())


def test_sign_agrees(grads, guarded, close):
    [ours] = guarded(sg.sign(), [grads])
    [theirs] = optaxed(optax.scale_by_sign(), [grads])
    close(ours, theirs, 0)


@pytest.mark.parametrize("gamma", [0.0, 0.55, 2.0])
def test_noise_has_the_same_spread_at_every_step(gamma):
    eta, num_steps, size = 0.3, 6, 200_000
    steps = [{"w": np.zeros(size, np.float32)}] * num_steps
    theirs = optaxed(optax.add_noise(eta, gamma, 0), steps)
    param = nn.Parameter(torch.zeros(size))
    guard = sg.Guard(torch.optim.SGD([param], lr=0.0), sg.add_noise(eta, gamma=gamma))
    for step in range(num_steps):
        param.grad = torch.zeros(size)
        guard.optimizer.step()
        expected = math.sqrt(eta / (1.0 + step) ** gamma)
        rel = 5.0 / math.sqrt(2.0 * size)  # five standard errors of a standard deviation
        assert param.grad.std().item() == pytest.approx(expected, rel=rel)
        assert theirs[step]["w"].std() == pytest.approx(expected, rel=rel)
        assert not np.array_equal(param.grad.numpy(), theirs[step]["w"])
