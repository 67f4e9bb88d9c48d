"""How large Adam's next update is for its second moment: the reading that `clip_update_rms` limits.

M. Wortsman, T. Dettmers, L. Zettlemoyer, A. Morcos, A. Farhadi, L. Schmidt, "Stable and low-precision training for large-scale
vision-language models", NeurIPS 2023, arXiv:2304.13013, section 3.4: ``RMS = sqrt(mean(g^2 / max(v, eps^2)))`` with v the
second moment as this step will leave it. Here ``v' = (b2 v + (1 - b2) g^2) / (1 - b2^t)``, as torch's Adam divides; that is the
paper's debiased b2 by another road. With ``amsgrad`` the running maximum takes part, as it does in the update.

Deviations, and why: it is read from the optimizer's own state before the step, so no optimizer has to be replaced, at the price
of one more read of g and v. Weight decay that an optimizer adds to the gradient (Adam's, not AdamW's) is left out of g. Without a
state, at the first step, an element's ratio is exactly 1, or 0 where the gradient is 0.
"""

from __future__ import annotations

# Where torch is not annotated:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from steadygrad.errors import ArgumentError, UnsupportedError
from steadygrad.measure import cpu, foreach
from steadygrad.measure.elements import flat

_CHUNK = 1 << 18  # elements at once: what a CPU keeps in its cache
_CHUNK_ON_DEVICE = 1 << 24
_TINY = 1e-37  # stands for an epsilon of 0, so that 0/0 reads 0
_WIDE = (torch.float32, torch.float64)


def update_rms(
    grads: Sequence[Tensor], groups: Sequence[Mapping[str, Any]], slots: Sequence[Mapping[str, Any]], loss_scale: Any = None
) -> np.ndarray:
    """``sqrt(mean(g^2 / max(v', eps^2)))`` per tensor, float64, shape ``(n,)``, for tensors on the CPU; 0 for an empty one.

    Args:
        grads: the gradients.
        groups: for each gradient its parameter group, with ``betas`` and ``eps``.
        slots: for each gradient the optimizer's state, with ``exp_avg_sq`` and ``step``; empty before the first step.
        loss_scale: the factor that the gradients still carry, which the optimizer will take out; a number or a tensor.
    """
    values = np.zeros(len(grads))
    for row, (grad, group, slot) in enumerate(zip(grads, groups, slots, strict=True)):
        pieces = _ratios(grad, group, slot, loss_scale, _CHUNK)
        values[row] = sum(float(cpu.sum_sq([piece])[0]) for piece in pieces) / _numel(grad)
    return np.sqrt(values)


def update_rms_on_device(
    grads: Sequence[Tensor], groups: Sequence[Mapping[str, Any]], slots: Sequence[Mapping[str, Any]], loss_scale: Any = None
) -> Tensor:
    """The same on any device, without waiting for it; on the device of the first gradient."""
    if not grads:
        return torch.zeros(0, dtype=torch.float64)
    home = grads[0].device
    values: list[Tensor] = []
    for grad, group, slot in zip(grads, groups, slots, strict=True):
        total = torch.zeros((), dtype=foreach.wide(home), device=home)
        for piece in _ratios(grad, group, slot, loss_scale, _CHUNK_ON_DEVICE):
            norm = torch.linalg.vector_norm(piece, dtype=foreach.wide(piece.device))
            total = total + norm.square().to(device=home, dtype=total.dtype)
        values.append(total / _numel(grad))
    return torch.stack(values).sqrt()


def _numel(grad: Tensor) -> int:
    """How many real numbers Adam sees; 1 instead of 0."""
    return max(1, grad.numel() * (2 if grad.is_complex() else 1))


def _ratios(grad: Tensor, group: Mapping[str, Any], slot: Mapping[str, Any], loss_scale: Any, chunk: int) -> Iterator[Tensor]:
    """``|g| / max(sqrt(v'), eps)`` piece by piece."""
    if grad.layout is not torch.strided:
        raise UnsupportedError("'update_rms' of a sparse gradient cannot be read: Adam takes dense ones", slug="reading-unknown")
    beta2, eps = _settings(group)
    moments = [slot[name] for name in ("exp_avg_sq", "max_exp_avg_sq") if isinstance(slot.get(name), Tensor)]
    correction = _correction(slot, beta2) if moments else 1.0
    for piece, *seconds in _pieces([grad, *moments], chunk):
        size = piece.abs() if piece.dtype in _WIDE else piece.float().abs_()
        if loss_scale is not None:
            size.div_(loss_scale)
        if not seconds:
            yield size.div_(size.clamp(min=eps))
            continue
        second = (seconds[0].to(size.dtype) * beta2).add_(size.square().mul_(1.0 - beta2))
        for largest in seconds[1:]:
            second = torch.maximum(second, largest, out=second)
        yield size.div_(second.div_(correction).sqrt_().clamp_(min=eps))


def _pieces(tensors: Sequence[Tensor], chunk: int) -> Iterator[tuple[Tensor, ...]]:
    """Pieces of tensors of one shape that lie at the same places; complex numbers as pairs of real ones, as Adam sees them."""
    plain = [torch.view_as_real(t.detach().resolve_conj()) if t.is_complex() else t.detach() for t in tensors]
    first = plain[0]
    if all(t.stride() == first.stride() for t in plain):
        plain = [flat(t) for t in plain]
        yield from zip(*(t.split(chunk) for t in plain), strict=True)
    else:
        rows = max(1, chunk * len(first) // max(1, first.numel()))
        yield from zip(*(t.split(rows) for t in plain), strict=True)


def _settings(group: Mapping[str, Any]) -> tuple[Any, Any]:
    try:
        return group["betas"][1], max(group["eps"], _TINY)
    except (KeyError, IndexError, TypeError):
        raise ArgumentError(
            "'update_rms' was asked for, but a parameter group has no 'betas' and 'eps': Adam and its kin have them",
            slug="reading-unknown",
        ) from None


def _correction(slot: Mapping[str, Any], beta2: Any) -> Any:
    """``1 - b2^t``, t the number of the step to come; a tensor where the optimizer counts in one."""
    step = slot.get("step", 0)
    if isinstance(step, Tensor):  # in float32 the difference from 1 would have four digits
        step = step.to(foreach.wide(step.device))
    return 1.0 - beta2 ** (step + 1)
