"""Against pytorch_optimizer: AGC, gradient centralization, AdaGC, SPAM and StableAdamW.

Its AdaGC and SPAM are optimizers. With ``beta1 = 0`` their first moment is the gradient as they have limited it, and that is
compared; StableAdamW is compared by the parameters that it arrives at.

What differs, and why:

- `agc`: for tensors of three dimensions it takes a norm over the second alone, so that a channel of a one-dimensional convolution
  is several units; ours, timm and the paper's code take all dimensions but the first. Not compared.
- `AdaGC`: ``warmup_steps`` is one more than our ``warmup``. A zero gradient in the warm-up makes its average zero, and the tensor
  is held at about 1e-8 from then on; ours keeps the average. One NaN makes its average NaN; ours skips the step. Where the global
  limit of the warm-up presses a tensor to less than a tenth of its smallest norm so far, its minimum takes that in and ours
  does not; so the gradients compared here do not jump.
- `SPAM`: an element whose second moment is zero is clipped to zero, and never moves if it had no gradient before clipping began;
  ours leaves it alone. ``grad_accu_steps`` is one more than our ``guard_steps``, since it counts from 1. Its moments are reset
  one step earlier, and its learning rate is warmed up from there; ours warms up the update. Compared up to the first reset.
- `StableAdamW` keeps moments that need no bias correction; torch's AdamW corrects them. The update is the same.
"""

import numpy as np
import pytest
import torch
from torch import nn

import steadygrad as sg

peer = pytest.importorskip(
    "pytorch_optimizer", reason="pytorch_optimizer is not installed: pip install 'steadygrad[peers]'", exc_type=ImportError
)


def trained(kind, steps, weights, look, **settings):
    """What ``look(param, optimizer.state[param])`` gives after each step of one of their optimizers."""
    params = {name: nn.Parameter(torch.from_numpy(value.copy())) for name, value in weights.items()}
    optimizer = kind(list(params.values()), **settings)
    results = []
    for grads in steps:
        for name, param in params.items():
            param.grad = torch.from_numpy(grads[name].copy())
        optimizer.step()
        seen = {name: look(param, optimizer.state[param]) for name, param in params.items()}
        results.append({name: value.detach().numpy().reshape(weights[name].shape).copy() for name, value in seen.items()})
    return results


def limited_gradient(param, state):
    """The first moment, which for ``beta1 = 0`` is the last gradient that went in."""
    del param
    return state["exp_avg"]


@pytest.mark.parametrize("clipping", [1e-3, 0.3, 1e9])
def test_adaptive_grad_clip_agrees(grads, weights, guarded, close, clipping):
    [ours] = guarded(sg.adaptive_grad_clip(clipping), [grads], weights)
    from_numpy = torch.from_numpy
    close(ours, {name: peer.agc(from_numpy(weights[name]), from_numpy(grads[name]), 1e-3, clipping).numpy() for name in grads})


def test_centralize_agrees(grads, guarded, close):
    [ours] = guarded(sg.centralize(), [grads])
    theirs = {name: torch.from_numpy(value.copy()) for name, value in grads.items()}
    for value in theirs.values():
        peer.centralize_gradient(value)
    close(ours, {name: value.numpy() for name, value in theirs.items()}, 0)


@pytest.mark.parametrize("foreach", [False, True])
def test_adagc_agrees(steady, scale, weights, guarded, close, foreach):
    steps = steady(30, scale)
    ours = guarded(sg.adagc(1.05, beta=0.98, warmup=10, absolute=3.0 * scale), steps)
    settings = {"lr": 0.0, "betas": (0.0, 0.999), "weight_decay": 0.0, "eps": 1e-12, "foreach": foreach}
    theirs = trained(peer.AdaGC, steps, weights, limited_gradient, lambda_abs=3.0 * scale, warmup_steps=11, **settings)
    for mine, other in zip(ours, theirs, strict=True):
        close(mine, other, 32)
    changed = [not np.array_equal(mine["linear.bias"], grads["linear.bias"]) for mine, grads in zip(ours, steps, strict=True)]
    assert sum(changed[10:]) > 10  # the relative limit did bind


def test_a_zero_gradient_in_the_warm_up_freezes_a_tensor_of_theirs(several, weights, guarded):
    steps = several(8, 1.0)
    for grads in steps[1:]:
        grads["linear.bias"] = steps[0]["linear.bias"].copy()
    steps[1]["linear.bias"][:] = 0.0
    ours = guarded(sg.adagc(1.05, beta=0.98, warmup=4, absolute=1e9), steps)
    theirs = trained(
        peer.AdaGC, steps, weights, limited_gradient, lr=0.0, betas=(0.0, 0.999), weight_decay=0.0, lambda_abs=1e9, warmup_steps=5
    )
    assert np.array_equal(ours[-1]["linear.bias"], steps[0]["linear.bias"])
    assert np.abs(theirs[-1]["linear.bias"]).max() < 1e-6 * np.abs(steps[0]["linear.bias"]).max()


def test_spam_limits_the_same_elements_to_the_same_size(several, scale, weights, guarded, close):
    steps = [{name: value for name, value in grads.items() if name != "silent.weight"} for grads in several(12, scale)]
    for i in (8, 11):
        steps[i]["conv.weight"][1, 2] *= 1e4
    own = {name: value for name, value in weights.items() if name in steps[0]}
    ours = guarded(sg.spam(50.0, guard_steps=5), steps, own, torch.optim.AdamW, betas=(0.0, 0.999), weight_decay=0.0)
    theirs = trained(
        peer.SPAM, steps, own, limited_gradient, lr=0.0, betas=(0.0, 0.999), threshold=50, grad_accu_steps=6, foreach=False
    )
    for mine, other in zip(ours, theirs, strict=True):
        close(mine, other, 32)
    assert np.abs(ours[8]["conv.weight"][1, 2]).max() < 0.1 * np.abs(steps[8]["conv.weight"][1, 2]).max()


def test_spam_lets_an_element_move_that_never_had_a_gradient(several, weights, guarded):
    steps = several(4, 1.0)
    steps[-1]["silent.weight"][:] = 1.0
    ours = guarded(sg.spam(guard_steps=1), steps, weights, torch.optim.AdamW)
    theirs = trained(peer.SPAM, steps, weights, limited_gradient, lr=0.0, betas=(0.0, 0.999), grad_accu_steps=2, foreach=False)
    assert (ours[-1]["silent.weight"] == 1.0).all()
    assert (theirs[-1]["silent.weight"] == 0.0).all()


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("betas", [(0.9, 0.99), (0.5, 0.999)])
def test_adamw_with_clip_update_rms_is_stable_adamw(several, scale, weights, close, betas, weight_decay):
    quiet, loud = several(6, scale), several(12, 30.0 * scale)[6:]
    settings = {"lr": 1e-2, "betas": betas, "eps": 1e-12, "weight_decay": weight_decay}
    theirs = trained(peer.StableAdamW, quiet + loud, weights, lambda param, _: param, kahan_sum=False, **settings)[-1]

    def with_torch(policy):
        return trained(
            lambda params, **kwargs: sg.Guard(torch.optim.AdamW(params, **kwargs), policy).optimizer,
            quiet + loud,
            weights,
            lambda param, _: param,
            **settings,
        )[-1]

    ours = with_torch(sg.clip_update_rms())
    close(ours, theirs, 64)  # twelve steps of rounding, and moments kept in another way
    assert any(not np.array_equal(value, ours[name]) for name, value in with_torch(None).items())  # the limit did bind
