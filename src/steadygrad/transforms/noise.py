"""Add noise to the gradients.

Neelakantan, Vilnis, Le, Sutskever, Kaiser, Kurach, Martens, "Adding Gradient Noise Improves Learning for Very Deep Networks",
2015, arXiv:1511.06807, equation 1. There ``eta / (1 + t)^gamma`` is the variance; code that takes it for the standard
deviation, as is often seen, adds a tenth of the noise at first and lets it fall twice as fast.

Deviations: ``relative`` measures the noise by each gradient tensor's own size; a gradient that is zero then stays so.
"""

from __future__ import annotations

# Where torch is not annotated:
# pyright: reportUnknownMemberType=false
import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from steadygrad.checks import flag, integer, non_negative
from steadygrad.decide.layouts import RowConstants, by_layout
from steadygrad.decide.limits import rewriting
from steadygrad.decision import Decision
from steadygrad.errors import ArgumentError
from steadygrad.policy import Place, Policy, State, text_of
from steadygrad.readings import Layout, Readings
from steadygrad.transforms.random import generator

_ETA, _GAMMA = 0.01, 0.55


def add_noise(eta: float = _ETA, *, gamma: float = _GAMMA, relative: bool = False, seed: int = 0) -> Policy:
    """Add Gaussian noise to every gradient element: ``g <- g + N(0, s_t^2)`` with the variance ``s_t^2 = eta / (1 + t)^gamma``.

    t counts the optimizer's steps from 0, skipped ones too. With ``relative`` the standard deviation is ``s_t * rms(g_i)``,
    with the root mean square of each tensor; so the noise keeps its proportion whatever the size of the gradients.

    The numbers depend on seed, step, parameter name and shard alone, so a run that goes on after a break gets the noise that it
    would have got, copies of a model on several processes get the same, and the program's own random numbers are not touched.
    Where the elements are in the gradient matters, not how it lies in memory. Costs one more read and write of every gradient,
    the drawing of as many random numbers, and one tensor of its size at a time.

    Args:
        eta: variance at the first step, >= 0, in units of the squared gradient element; with ``relative`` without unit. The paper
            tries 0.01, 0.3 and 1.
        gamma: how fast the variance falls, >= 0; 0: not at all.
        relative: whether noise is measured by the size of the gradient tensor.
        seed: which noise; any integer.

    Returns:
        The policy; it rewrites elements. A step with NaN or Inf is skipped.

    Raises:
        ArgumentError: a number is out of range; with ``relative`` at the first step: the layout has no shapes.
        ArgumentTypeError: an argument is of another kind.

    Example:
        >>> import steadygrad as sg
        >>> param = torch.nn.Parameter(torch.zeros(10000))
        >>> guard = sg.Guard(torch.optim.SGD([param], lr=1.0), sg.add_noise(eta=0.01))
        >>> param.grad = torch.zeros(10000)
        >>> guard.optimizer.step()
        >>> round(float(param.grad.std()), 2)
        0.1
        >>> guard.detach()

    Reference:
        Neelakantan et al., "Adding Gradient Noise Improves Learning for Very Deep Networks", 2015,
        https://arxiv.org/abs/1511.06807
    """
    call = "add_noise"
    variance, power = non_negative(call, "eta", eta), non_negative(call, "gamma", gamma)
    own_size, key = flag(call, "relative", relative), integer(call, "seed", seed)
    rms_of = by_layout(lambda layout: RowConstants(_inverse_root_numel(call, layout)))

    def init(readings: Readings) -> State:
        if own_size:
            rms_of(readings.layout)  # missing shapes are told before the first decision
        return {}

    def decide(readings: Readings, state: State) -> tuple[Decision, State]:
        if not own_size:
            return rewriting(readings), state
        return rewriting(readings, {"rms": readings.norms() * rms_of(readings.layout).like(readings.sum_sq)}), state

    def rewrite(grad: Tensor, place: Place) -> None:
        spread = math.sqrt(variance) * (1.0 + place.step) ** (-0.5 * power)
        source = generator(grad.device, key, place.step, place.name, place.shard)
        noise = torch.randn(grad.shape, generator=source, dtype=grad.dtype, device=grad.device)
        grad.add_(noise.mul_(_of(place) * spread if own_size else spread))

    text = text_of(add_noise, eta=variance, gamma=power, relative=own_size, seed=key)
    return Policy(init, decide, text, rewrites=True, rewrite=rewrite)


def _of(place: Place) -> Any:
    """The root mean square of the gradient: a float, or a tensor where only the device knows."""
    rms = place.numbers["rms"]
    return rms if isinstance(rms, Tensor) else float(rms)


def _inverse_root_numel(call: str, layout: Layout) -> np.ndarray:
    """``1 / sqrt(numel)`` of each tensor; 1 for an empty one."""
    if len(layout.shapes) != len(layout):
        raise ArgumentError(f"`{call}` expected a layout with the shape of each tensor", slug="layout-shapes")
    return np.sqrt(1.0 / np.maximum(np.array(layout.numel, dtype=np.float64), 1.0))
