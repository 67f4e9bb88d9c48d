"""Against timm: its `adaptive_clip_grad`, which is the usual AGC in PyTorch.

timm's one file is loaded by its path: importing the package would import torchvision, which plays no part here.

What differs, and why:

- timm divides by the unit's norm or 1e-6, whichever is larger. Where the bound ``clip_factor * eps`` is itself below 1e-6, units
  between the two are scaled down to less than their bound. Ours divides by the norm, since it does so only above a bound > 0.
- a unit whose norm is its bound to the last bit is multiplied there and left alone here;
- NaN or Inf: timm hands a unit with an Inf on as NaN; ours skips the step;
- timm takes rows along the first dimension always; ours along the outputs, which in a transposed convolution is the second. The
  Guard knows that from the model's modules; for bare parameters both take the first.
"""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import steadygrad as sg

SPEC = importlib.util.find_spec("timm")
if SPEC is None or SPEC.origin is None:
    pytest.skip("timm is not installed: pip install --no-deps timm", allow_module_level=True)


@pytest.fixture(scope="module")
def adaptive_clip_grad():
    """timm's function."""
    spec = importlib.util.spec_from_file_location("timm_agc", Path(SPEC.origin).parent / "utils" / "agc.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.adaptive_clip_grad


@pytest.fixture
def timmed(adaptive_clip_grad):
    """``timmed(grads, weights, clip_factor=..., eps=...)``: what timm makes of the gradients."""

    def clip(grads, weights, **settings):
        params = {name: nn.Parameter(torch.from_numpy(value.copy())) for name, value in weights.items()}
        for name, param in params.items():
            param.grad = torch.from_numpy(grads[name].copy())
        adaptive_clip_grad(list(params.values()), **settings)
        return {name: param.grad.numpy() for name, param in params.items()}

    return clip


@pytest.mark.parametrize("eps", [1e-3, 0.5])
@pytest.mark.parametrize("clipping", [0.01, 0.3, 1e9])
def test_adaptive_grad_clip_agrees(grads, weights, guarded, close, timmed, clipping, eps):
    [ours] = guarded(sg.adaptive_grad_clip(clipping, eps=eps), [grads], weights)
    close(ours, timmed(grads, weights, clip_factor=clipping, eps=eps))


def test_units_that_are_not_limited_keep_their_bits_in_both(several, weights, guarded, close, timmed):
    [grads] = several(1, 1e-6)
    [ours] = guarded(sg.adaptive_grad_clip(1e3), [grads], weights)
    close(ours, grads, 0)
    close(timmed(grads, weights, clip_factor=1e3), grads, 0)


def test_a_tiny_bound_is_reached_here_and_undercut_there(several, weights, guarded, timmed):
    [grads] = several(1, 1e-7)
    settings = {"clipping": 1e-6, "eps": 1e-3}
    grads["gain"], weights["gain"] = np.array([5e-7], np.float32), np.array([0.0], np.float32)
    [ours] = guarded(sg.adaptive_grad_clip(**settings), [grads], weights)
    theirs = timmed(grads, weights, clip_factor=1e-6, eps=1e-3)
    assert ours["gain"] == pytest.approx(1e-9, rel=1e-5)
    assert theirs["gain"] == pytest.approx(0.5e-9, rel=1e-5)


def test_an_infinite_element_is_skipped_here_and_made_nan_there(several, weights, guarded, timmed):
    [grads] = several(1, 1.0)
    grads["linear.weight"][2, 1] = np.inf
    assert guarded(sg.adaptive_grad_clip(), [grads], weights) == [None]
    assert np.isnan(timmed(grads, weights)["linear.weight"][2, 1])
