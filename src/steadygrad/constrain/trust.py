"""LARS and LARC: a learning rate per tensor, relative to the tensor's norm, by scaling the gradient before momentum.

LARS: You, Gitman, Ginsburg, "Large Batch Training of Convolutional Networks", 2017, arXiv:1708.03888, algorithm 1 with the
local rate of equation 6. LARC, which never raises the rate, is the clipping form that NVIDIA's Apex gave it.

Coupled weight decay is part of the paper's update, ``r * (g + wd * w)``, and SGD adds ``wd * w`` itself, after us. So what is
written is ``r * g + (r - 1) * wd * w``: SGD's own addition then makes exactly the paper's sum, and ``weight_decay`` stays where
schedulers and checkpoints look for it.

Deviations, and why: torch's SGD multiplies by the learning rate after the momentum and the paper before it, which differs
only while the learning rate changes; the ratio is 1 where either norm is zero, as in later work, so that tensors that start
at zero can move; where a weight is not finite the ratio is 1, so that the gradient stays as it was.
"""

from __future__ import annotations

# Where torch is not annotated:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
from typing import Any

import torch
from torch import Tensor

from steadygrad.checks import non_negative
from steadygrad.constrain.arithmetic import finite, setting
from steadygrad.decide.limits import rewriting
from steadygrad.decision import Decision
from steadygrad.policy import Place, Policy, State, stateless, text_of
from steadygrad.readings import INF, Readings

_NEEDS = frozenset({"param_norm"})
_ALWAYS = 1e30  # a local rate above every learning rate


def lars(trust: float = 1e-3, *, eps: float = 1e-8) -> Policy:
    """Scale each gradient so that SGD moves each tensor by a fixed fraction of its norm: LARS.

    ``r = trust * |w| / (|g| + wd * |w| + eps)``, and SGD then computes its momentum of ``r * (g + wd * w)``, where wd is the
    optimizer's own coupled ``weight_decay`` (taken as 0 where it is decoupled or missing). The ratio is 1 where either norm is 0.
    Biases and norms are usually left out: ``masked(lars(), "*.weight")``.

    Costs one read of the parameters, one read and write of every gradient, and with weight decay one more of each. A step
    whose gradients hold NaN or Inf is skipped. To use with SGD and very large batches; an optimizer that divides by the
    gradient's size, as Adam does, divides the ratio out again (there, `lamb`).

    Args:
        trust: the trust coefficient, > 0, a fraction of the weights' norm; the learning rate multiplies it.
        eps: >= 0, in units of the gradient's norm.

    Returns:
        The policy; it rewrites elements, and is followed in a chain by a new measurement.

    Raises:
        ArgumentError: a number is out of range.
        ArgumentTypeError: an argument is no number.

    Example:
        >>> import numpy as np, steadygrad as sg
        >>> policy = sg.lars(0.001)
        >>> readings = sg.Readings(sg.Layout(("a",)), np, np.array([1.0]), param_norm=np.array([2.0]))
        >>> numbers = policy.decide(readings, {})[0].numbers
        >>> (numbers["rate"] / numbers["norm"]).round(6)
        array([0.002])

    Reference:
        You, Gitman, Ginsburg, "Large Batch Training of Convolutional Networks", 2017, https://arxiv.org/abs/1708.03888.
    """
    call = "lars"
    k, least = finite(call, "trust", trust), non_negative(call, "eps", eps)

    def rewrite(grad: Tensor, place: Place) -> None:
        decay = _coupled_decay(place)
        _scale_sum_(grad, place, _ratio(place, decay), decay)

    text = text_of(lars, trust=k, eps=least)
    return Policy(stateless, _decide(k, least, 1.0), text, _NEEDS, True, rewrite=rewrite)


def larc(trust: float = 0.02, *, eps: float = 1e-8) -> Policy:
    """Limit each tensor's step to a fraction of its norm by scaling its gradient down: LARC, the clipping form of LARS.

    ``r = min(1, trust * |w| / (|g| + wd * |w| + eps) / lr)``, and SGD then computes its momentum of ``r * (g + wd * w)``,
    where wd is the optimizer's own coupled ``weight_decay``. The learning rate keeps its meaning, and where it is small
    enough nothing changes: the gradient keeps its bits. The ratio is 1 where either norm is 0.

    Costs one read of the parameters, one read and write of every gradient, and with weight decay one more of each. A step whose
    gradients hold NaN or Inf is skipped. To use as `lars`, where its own learning rate schedule is not wanted.

    Args:
        trust: the trust coefficient, > 0, a fraction of the weights' norm per step.
        eps: >= 0, in units of the gradient's norm.

    Returns:
        The policy; it rewrites elements, and is followed in a chain by a new measurement.

    Raises:
        ArgumentError: a number is out of range.
        ArgumentTypeError: an argument is no number.
        UnsupportedError: at the first step: the optimizer has no setting ``lr``.

    Example:
        >>> import torch, steadygrad as sg
        >>> param, grad = torch.tensor([2.0, 0.0]), torch.tensor([0.0, 1.0])
        >>> numbers = {"rate": 0.02 * 2.0, "norm": 1.0, "weight": 2.0}
        >>> sg.larc(0.02).rewrite(grad, sg.policy.Place("w", param, {"lr": 0.1}, {}, {}, numbers, 0))
        >>> grad
        tensor([0.0000, 0.4000])

    Reference:
        You, Gitman, Ginsburg, "Large Batch Training of Convolutional Networks", 2017, https://arxiv.org/abs/1708.03888.
    """
    call = "larc"
    k, least = finite(call, "trust", trust), non_negative(call, "eps", eps)

    def rewrite(grad: Tensor, place: Place) -> None:
        decay = _coupled_decay(place)
        local = _ratio(place, decay)
        _scale_sum_(grad, place, local / _larger(local, setting(place, "lr"), grad.dtype), decay)

    text = text_of(larc, trust=k, eps=least)
    return Policy(stateless, _decide(k, least, _ALWAYS), text, _NEEDS, True, rewrite=rewrite)


def _decide(trust: float, eps: float, otherwise: float) -> Any:
    """The numbers of ``r = rate / (norm + wd * weight)``, which is ``otherwise`` where a norm is zero or not finite.

    The weight decay is the parameter group's and enters with the kernel.
    """

    def decide(readings: Readings, state: State) -> tuple[Decision, State]:
        xp, weight, norm = readings.xp, readings.param_norm, readings.norms()
        if weight is None:
            raise LookupError("the reading 'param_norm' was not measured: a trust ratio needs it at every step")
        usable = (weight > 0) & (weight < INF) & (norm > 0) & (norm < INF)
        numbers = {
            "rate": xp.where(usable, trust * weight, otherwise),
            "norm": xp.where(usable, norm + eps, 1.0),
            "weight": xp.where(usable, weight, 0.0),
        }
        return rewriting(readings, numbers), state

    return decide


def _ratio(place: Place, decay: Any) -> Any:
    """The local rate, a float or a tensor of shape ``()``."""
    numbers = place.numbers
    return numbers["rate"] / (numbers["norm"] + decay * numbers["weight"])


def _scale_sum_(grad: Tensor, place: Place, ratio: Any, decay: Any) -> None:
    """``grad <- ratio * grad + (ratio - 1) * decay * w``; SGD adds ``decay * w``."""
    surplus = (ratio - 1.0) * decay
    if place.group.get("maximize"):
        surplus = -surplus  # SGD turns the gradient round before it adds the decay
    grad.mul_(ratio if isinstance(ratio, Tensor) else float(ratio))
    if isinstance(surplus, Tensor):
        grad.addcmul_(place.param.detach().to(grad.dtype), surplus.to(grad.dtype))
    elif surplus:
        grad.add_(place.param.detach(), alpha=float(surplus))


def _coupled_decay(place: Place) -> Any:
    if "weight_decay" not in place.group or place.group.get("decoupled_weight_decay"):
        return 0.0
    return setting(place, "weight_decay")


def _larger(a: Any, b: Any, dtype: torch.dtype) -> Any:
    """The larger of two numbers, of which either may be a tensor of shape ``()``."""
    if isinstance(a, Tensor):
        return a.clamp(min=b)
    return b.to(dtype).clamp(min=float(a)) if isinstance(b, Tensor) else max(a, b)
