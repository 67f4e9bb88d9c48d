"""Limits on the update: how far the optimizer may move a parameter in one step, relative to the parameter itself.

`limit_update_ratio` keeps the ratio of update to weight below a limit, the quantity that practice watches (about 1e-3 when
training goes well). The floor is that of Adafactor (Shazeer, Stern, 2018, section 8), whose steps are relative to
``max(eps2, RMS(w))`` with eps2 = 1e-3.

`lamb` makes LAMB (You et al., 2019, algorithm 2) out of AdamW. AdamW's update is ``-lr * u`` with LAMB's own
``u = m/(sqrt(v) + eps) + weight_decay * w``, so what is left to do is to give it the norm ``lr * phi(|w|)``. Deviations: the
update is the difference of the parameter before and after the step, so it is rounded to the parameter's precision (a float32
weight of 1 and an update of 1e-3: 6e-5 of the update; for bfloat16 weights it is too coarse); the layer is a tensor; the
global norm is not clipped first, as some implementations do: chain `clip_by_global_norm` before it.
"""

from __future__ import annotations

# Where torch is not annotated:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
import math

import torch
from torch import Tensor

from steadygrad.checks import SLUG, non_negative, positive, show
from steadygrad.constrain.arithmetic import constraint, parts_of_norm, put, setting, wide
from steadygrad.errors import ArgumentError
from steadygrad.policy import Place, Policy, text_of


def limit_update_ratio(ratio: float = 0.01, *, floor: float = 1e-3) -> Policy:
    """Limit each tensor's update to a fraction of the tensor's own norm.

    ``d <- d * min(1, ratio * max(|w|, floor * sqrt(n)) / |d|)`` with w the parameter before the step, d the update, n the number
    of elements and ``|.|`` the 2-norm. The floor is a root mean square, so it means the same for every size: a tensor that
    starts at zero may move by ``ratio * floor`` per element and step. Decoupled weight decay is part of the update.

    Costs one copy of the parameters, one more tensor of the largest parameter's size (two in half precision), and about ten reads
    and five writes of each parameter. Where the limit does not bind the parameter keeps its bits. It is left alone where it
    or the update is not finite. To use where single steps go too far although the gradient norm is ordinary: a stale second
    moment, a learning rate that fits most layers only.

    Args:
        ratio: the largest ratio of update to weight, > 0; 1e-2 is loose, 1e-3 about what a healthy run does by itself.
        floor: root mean square below which a tensor counts as that large, > 0, in units of a parameter element.

    Returns:
        The policy; it acts after the step.

    Raises:
        ArgumentError: a number is out of range.
        ArgumentTypeError: an argument is no number.

    Example:
        >>> import torch, steadygrad as sg
        >>> policy = sg.limit_update_ratio(0.01)
        >>> policy.constraints[0].wants_before
        True
        >>> before, param = torch.tensor([3.0, 4.0]), torch.tensor([3.0, 9.0])
        >>> policy.constraints[0].limit(sg.policy.Place("w", param, {}, {}, {}, {}, 0, before=before))
        >>> param  # moved by 0.05, which is 1 % of 5
        tensor([3.0000, 4.0500])

    Reference:
        Shazeer, Stern, "Adafactor: Adaptive Learning Rates with Sublinear Memory Cost", 2018,
        https://arxiv.org/abs/1804.04235 (the floor).
    """
    call = "limit_update_ratio"
    fraction, least = positive(call, "ratio", ratio), positive(call, "floor", floor)

    def limit(place: Place) -> None:
        param, before = place.param.detach(), wide(place.before)
        scratch, peak, size = parts_of_norm(before)
        largest = fraction * (peak * size).clamp(min=least * math.sqrt(param.numel()))
        torch.sub(wide(param), before, out=scratch)
        unit, peak, size = parts_of_norm(scratch, out=scratch)
        binding = (peak * size > largest) & torch.isfinite(size)
        put(param, unit.mul_(_quotient(largest, size, binding)).add_(before), binding)

    return constraint(text_of(limit_update_ratio, ratio=fraction, floor=least), limit, wants_before=True)


def lamb(*, min_norm: float = 0.0, max_norm: float = math.inf) -> Policy:
    """Make LAMB of AdamW: give each tensor's update the norm ``lr * |w|``, whatever the gradient was.

    ``d <- d * lr * phi(|w|) / |d|`` with w the parameter before the step, d the update with its weight decay, and
    ``phi(x) = min(max(x, min_norm), max_norm)``. The factor is 1 where ``|w|`` or ``|d|`` is zero, so tensors that start at zero
    move as AdamW moves them. Biases and norms are usually left out: ``masked(lamb(), "*.weight")``. The optimizer's ``lr``
    becomes LAMB's, a fraction of the weight per step.

    Costs one copy of the parameters, one more tensor of the largest parameter's size (two in half precision), and about ten reads
    and five writes of each parameter. The write always happens; it leaves the bits where the factor is 1, and a
    parameter or update that is not finite alone. To use for very large batches.

    Args:
        min_norm: lower bound of phi, >= 0, in units of the parameter's norm; 0 as by default is the paper's own experiment.
        max_norm: upper bound of phi, above the lower one; 10 is common.

    Returns:
        The policy; it acts after the step and wants the optimizer's setting ``lr``.

    Raises:
        ArgumentError: a number is out of range.
        ArgumentTypeError: an argument is no number.

    Example:
        >>> import torch, steadygrad as sg
        >>> before, param = torch.tensor([3.0, 4.0]), torch.tensor([3.0, 3.0])
        >>> sg.lamb().constraints[0].limit(sg.policy.Place("w", param, {"lr": 0.1}, {}, {}, {}, 0, before=before))
        >>> param  # moved by 0.5, a tenth of 5
        tensor([3.0000, 3.5000])

    Reference:
        You, Li, Reddi, Hseu, Kumar, Bhojanapalli, Song, Demmel, Keutzer, Hsieh, "Large Batch Optimization for Deep Learning:
        Training BERT in 76 minutes", 2019, https://arxiv.org/abs/1904.00962.
    """
    call = "lamb"
    low, high = non_negative(call, "min_norm", min_norm), positive(call, "max_norm", max_norm)
    if low > high:
        raise ArgumentError(f"`lamb` expected min_norm <= max_norm, got {show(min_norm)} and {show(max_norm)}", slug=SLUG)

    def limit(place: Place) -> None:
        param, before = place.param.detach(), wide(place.before)
        scratch, peak, size = parts_of_norm(before)
        weight = peak * size
        torch.sub(wide(param), before, out=scratch)
        unit, peak, size = parts_of_norm(scratch, out=scratch)
        usable = (weight > 0) & torch.isfinite(weight) & (peak > 0) & torch.isfinite(size)
        target = weight.clamp(low, high) * setting(place, "lr")
        put(param, unit.mul_(_quotient(target, size, usable)).add_(before), usable)

    return constraint(text_of(lamb, min_norm=low, max_norm=high), limit, wants_before=True, wants=("lr",))


def _quotient(numerator: Tensor, denominator: Tensor, where: Tensor) -> Tensor:
    """``numerator / denominator``, and 0 where the result is not used."""
    return torch.where(where, numerator / denominator, 0.0)
