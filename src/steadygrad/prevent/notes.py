"""Sentences about a whole model, from its weights before and after an initialisation.

torch initialises ``nn.Linear`` with a variance of ``1 / (3 fan_in)`` (Kaiming's uniform formula with ``a = sqrt(5)``), so that
each layer with a ReLU multiplies the mean square of the signal by 1/6. Hanin and Rolnick, "How to Start Training: The Effect of
Initialization and Architecture", 2018, arXiv:1803.01719: even with the right variance, lengths fluctuate from network to network
as ``exp(sum of 1 / width)``.
"""

from __future__ import annotations

# Where torch is not annotated:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from steadygrad.prevent.activations import mean_square
from steadygrad.prevent.plans import Plan

_HOMOGENEOUS = ("relu", "leaky_relu")


def notes_on(plans: Sequence[Plan], before: dict[str, Tensor]) -> tuple[str, ...]:
    """What the linear layers with ReLU did to the signal, and do now; whether the network is too thin for its depth."""
    notes: list[str] = []
    rectified = [plan for plan in plans if plan.follower is not None and plan.follower.name in _HOMOGENEOUS]
    linear = [plan for plan in rectified if isinstance(plan.layer.module, nn.Linear)]
    if linear:
        notes.append(
            "torch's default for nn.Linear, Var(W) = 1/(3 fan_in), shrinks the signal's mean square to 1/6 per layer with ReLU. "
            f"Measured over the {len(linear)} such layers here, by weights: {_shrinking(linear, before)} before, "
            f"{_shrinking(linear, None)} now."
        )
    thin = sum(1.0 / (plan.layer.form[0] * plan.layer.form[1]) for plan in rectified)
    if thin > 1.0:
        notes.append(
            f"The sum of 1 / width is {thin:.3g}: above about 1, lengths differ wildly from draw to draw; make the layers wider."
        )
    return tuple(notes)


def _shrinking(plans: Sequence[Plan], before: dict[str, Tensor] | None) -> str:
    logs = [_log_factor(plan, plan.layer.weight if before is None else before[plan.layer.name]) for plan in plans]
    mean = math.exp(sum(logs) / len(logs))
    return f"{mean:.3g} per layer ({math.exp(min(sum(logs), 700.0)):.3g} in all)"


def _log_factor(plan: Plan, weight: Tensor) -> float:
    """Logarithm of ``fan_in * mean(W^2) * E[phi(z)^2]``."""
    follower = plan.follower
    size = float(weight.detach().to(torch.promote_types(weight.dtype, torch.float32)).square().mean())
    factor = plan.layer.fan_in * size * (1.0 if follower is None else mean_square(follower, 1.0))
    return math.log(factor) if factor > 0.0 else -math.inf
