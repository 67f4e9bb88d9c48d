"""Against torch: policies through a Guard give the gradients and the training of `torch.nn.utils` called before the step.

`tests/test_functional.py` compares the functions of the same name. Here it is the loop: a Guard on the optimizer, several steps,
optimizers that fold the factor into their own pass.

What differs, and why:

- a norm at or below the limit leaves the gradient's bits; torch multiplies as soon as ``max_norm / (norm + 1e-6)`` is below 1,
  a relative 1e-6 / norm earlier;
- norms with p other than 1, 2 and inf: torch raises to the power in float32 and ends up to 1e-6 from the exact norm, ours 1e-7;
- NaN or Inf skips the step; torch spreads NaN over all gradients.
"""

import math

import numpy as np
import pytest
import torch
from torch import nn

import steadygrad as sg


def clipped(call, grads):
    """The gradients after one of torch's functions."""
    params = {name: nn.Parameter(torch.zeros(value.shape)) for name, value in grads.items()}
    for name, param in params.items():
        param.grad = torch.from_numpy(grads[name].copy())
    call(list(params.values()))
    return {name: param.grad.numpy() for name, param in params.items()}


@pytest.mark.parametrize("p", [1.0, 2.0, math.inf], ids="p={:g}".format)
@pytest.mark.parametrize("part", [0.01, 0.7, 1.5])
def test_clip_by_global_norm_agrees(grads, guarded, close, p, part):
    norm = torch.nn.utils.get_total_norm([torch.from_numpy(value) for value in grads.values()], p).item()
    [ours] = guarded(sg.clip_by_global_norm(part * norm, p), [grads])
    theirs = clipped(lambda params: torch.nn.utils.clip_grad_norm_(params, part * norm, p), grads)
    close(ours, theirs)


def test_other_exponents_are_nearer_to_the_exact_norm_than_torch(grads, guarded, close):
    elements = np.concatenate([value.ravel() for value in grads.values()]).astype(np.float64)
    exact = float((np.abs(elements) ** 3).sum() ** (1 / 3))
    [ours] = guarded(sg.clip_by_global_norm(0.5 * exact, 3.0), [grads])
    close(ours, {name: value * (0.5 * exact / (exact + 1e-6)) for name, value in grads.items()}, 4)
    theirs = torch.nn.utils.get_total_norm([torch.from_numpy(value) for value in grads.values()], 3.0).item()
    assert theirs == pytest.approx(exact, rel=2e-6)


@pytest.mark.parametrize("part", [0.01, 0.5, 3.0])
def test_clip_by_value_agrees(grads, scale, guarded, close, part):
    [ours] = guarded(sg.clip_by_value(part * scale), [grads])
    close(ours, clipped(lambda params: torch.nn.utils.clip_grad_value_(params, part * scale), grads), 0)


def test_clip_by_norm_is_one_call_of_torch_per_tensor(grads, scale, guarded, close):
    def one_by_one(params):
        for param in params:
            torch.nn.utils.clip_grad_norm_([param], scale)

    [ours] = guarded(sg.clip_by_norm(scale), [grads])
    expected = clipped(one_by_one, grads)
    norms = {name: np.linalg.norm(value.astype(np.float64)) for name, value in grads.items()}
    # torch adds 1e-6 to the norm, `clip_by_norm` nothing; the norms here are in float64
    exact = {name: grads[name] if norm <= scale else expected[name] * ((norm + 1e-6) / norm) for name, norm in norms.items()}
    close(ours, exact)


@pytest.mark.parametrize("settings", [{}, {"fused": True}, {"foreach": True}], ids=repr)
@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW], ids=lambda kind: kind.__name__)
def test_training_under_a_guard_is_training_with_torch_before_the_step(several, weights, close, optimizer, settings):
    def train(step):
        params = {name: nn.Parameter(torch.from_numpy(value.copy())) for name, value in weights.items()}
        chosen = optimizer(list(params.items()), lr=0.01, **settings)
        before = step(chosen, list(params.values()))
        for grads in several(8, 1.0):
            for name, param in params.items():
                param.grad = torch.from_numpy(grads[name].copy())
            before()
            chosen.step()
        return {name: param.detach().numpy() for name, param in params.items()}

    def guard(chosen, _):
        sg.Guard(chosen, sg.clip_by_global_norm(20.0))
        return lambda: None

    ours = train(guard)
    theirs = train(lambda _, params: lambda: torch.nn.utils.clip_grad_norm_(params, 20.0))
    bare = train(lambda _, params: lambda: None)
    close(ours, theirs, 32)
    assert any(not np.array_equal(bare[name], ours[name]) for name in ours)  # the limit did bind


def test_a_nan_is_spread_by_torch_and_skipped_here(several, guarded):
    [grads] = several(1, 1.0)
    grads["gain"] = np.array([math.nan], np.float32)
    theirs = clipped(lambda params: torch.nn.utils.clip_grad_norm_(params, 1.0), grads)
    assert all(np.isnan(value).all() for value in theirs.values())
    assert guarded(sg.clip_by_global_norm(1.0), [grads]) == [None]
