"""Decoupled decay: weights shrink by themselves, apart from the gradient and from what the optimizer divides it by.

Loshchilov and Hutter (2017) for the square penalty; for the absolute one the proximal step of ISTA (Beck and Teboulle, 2009,
equation 2.6). An L1 or L2 term in the loss passes through clipping and through Adam's second moment, which divides it by the
size of the gradient; these do not.
"""

from __future__ import annotations

# Where torch is not annotated:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
from torch import Tensor

from steadygrad.checks import flag
from steadygrad.constrain.arithmetic import constraint, finite, real, setting, wide
from steadygrad.policy import Place, Policy, text_of


def proximal_l1(strength: float) -> Policy:
    """Pull every weight towards zero by a fixed amount per step, and the smallest ones to zero: decoupled L1.

    ``w <- sign(w) * max(|w| - lr * strength, 0)`` after the step, the proximal step of ``strength * |w|_1``. Unlike a
    penalty in the loss it makes exact zeros.

    Costs one more tensor of the largest parameter's size (two in half precision), and two reads and one write of each
    parameter. What is not finite stays as it is. In half precision a weight keeps its value where the pull is less than half
    of its last digit: use float32 weights. To use for sparse weights, with any optimizer.

    Args:
        strength: the weight of the penalty, > 0; times the learning rate, in units of a parameter element.

    Returns:
        The policy; it acts after the step and wants the optimizer's setting ``lr``.

    Raises:
        ArgumentError: the number is out of range.
        ArgumentTypeError: the argument is no number.
        UnsupportedError: at the first step: a complex parameter.

    Example:
        >>> import torch, steadygrad as sg
        >>> weight = torch.tensor([0.3, -0.05])
        >>> sg.proximal_l1(1.0).constraints[0].limit(sg.policy.Place("w", weight, {"lr": 0.1}, {}, {}, {}, 0))
        >>> weight
        tensor([0.2000, 0.0000])

    Reference:
        Beck, Teboulle, "A Fast Iterative Shrinkage-Thresholding Algorithm for Linear Inverse Problems", 2009,
        https://doi.org/10.1137/080716542.
    """
    call = "proximal_l1"
    amount = finite(call, "strength", strength)

    def limit(place: Place) -> None:
        param = real(call, place.param)
        values, pull = wide(param), setting(place, "lr") * amount
        param.copy_(values.sub_(values.clamp(-pull, pull)))  # w - w is an exact zero

    return constraint(text_of(proximal_l1, strength=amount), limit, wants=("lr",))


def decoupled_l2(strength: float, *, fully: bool = False) -> Policy:
    """Shrink every weight in proportion to itself, apart from the gradient: the weight decay of AdamW, for any optimizer.

    ``w <- w - lr * strength * w_0`` after the step, with w_0 the weight before it; so Adam with this policy is AdamW with
    ``weight_decay=strength``. With ``fully=True`` the learning rate is left out, ``w <- w - strength * w_0``, so that a
    schedule of the learning rate does not change the decay. The optimizer's own ``weight_decay`` comes on top of it.

    Costs one copy of the parameters, one more tensor of the largest parameter's size (three in half precision), and three reads
    and two writes of each parameter. Where the weight before the step is not finite nothing is taken away. Biases and norms are
    usually left out: ``masked(decoupled_l2(0.1), "*.weight")``.

    Args:
        strength: the decay, > 0: a fraction per step, after multiplication by the learning rate.
        fully: whether the decay is independent of the learning rate.

    Returns:
        The policy; it acts after the step and, unless ``fully``, wants the optimizer's setting ``lr``.

    Raises:
        ArgumentError: the number is out of range.
        ArgumentTypeError: an argument is of the wrong kind.

    Example:
        >>> import torch, steadygrad as sg
        >>> before, weight = torch.tensor([1.0, -2.0]), torch.tensor([1.0, -1.5])
        >>> sg.decoupled_l2(1.0).constraints[0].limit(sg.policy.Place("w", weight, {"lr": 0.1}, {}, {}, {}, 0, before=before))
        >>> weight
        tensor([ 0.9000, -1.3000])

    Reference:
        Loshchilov, Hutter, "Decoupled Weight Decay Regularization", 2017, https://arxiv.org/abs/1711.05101.
    """
    call = "decoupled_l2"
    amount, apart = finite(call, "strength", strength), flag(call, "fully", fully)

    def limit(place: Place) -> None:
        param: Tensor = place.param.detach()
        before = wide(place.before)
        loss = before * (amount if apart else setting(place, "lr") * amount)
        param.copy_(wide(param).sub_(loss.nan_to_num_(0.0, 0.0, 0.0)))  # Inf - Inf would be NaN

    wants = () if apart else ("lr",)
    return constraint(text_of(decoupled_l2, strength=amount, fully=apart), limit, wants_before=True, wants=wants)
