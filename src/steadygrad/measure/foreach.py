"""The foreach engine: a few kernels for all tensors, on any device, without host synchronisation.

Norms are accumulated in float64 (float32 where the device has no float64, such as Apple's MPS). That costs no extra memory
traffic, makes half-precision norms exact, and leaves no finite float32 gradient whose norm overflows, so nothing has to
be read twice and nothing has to be asked of the host.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor

from steadygrad.measure.elements import elements

INF = float("inf")
_NO_FLOAT64 = frozenset({"mps"})


def sum_sq(grads: Sequence[Tensor]) -> Tensor:
    """Sum of squared moduli per tensor, shape ``(n,)``, on the device of the first gradient."""
    return _norms(grads, 2.0).square()


def abs_max(grads: Sequence[Tensor]) -> Tensor:
    """Largest modulus per tensor, shape ``(n,)``; 0 for an empty tensor."""
    return _norms(grads, INF)


def p_norm(grads: Sequence[Tensor], p: float) -> Tensor:
    """p-norm per tensor, shape ``(n,)``; for p other than 1 and 2 relative to the largest modulus, one more read."""
    if p in (1.0, 2.0):
        return _norms(grads, p)
    peaks = abs_max(grads)
    units = torch.where((peaks > 0) & torch.isfinite(peaks), peaks, 1.0)
    scaled = [elements(g).abs().to(units.dtype) / unit.to(g.device) for g, unit in zip(grads, units.unbind(), strict=True)]
    return _norms(scaled, p).to(units.device) * units


def wide(device: torch.device) -> torch.dtype:
    """The widest type that the device can add in."""
    return torch.float32 if device.type in _NO_FLOAT64 else torch.float64


def _norms(grads: Sequence[Tensor], p: float) -> Tensor:
    if not grads:
        return torch.zeros(0, dtype=torch.float64)
    home = grads[0].device
    dense = [_filled(elements(g)) for g in grads]
    result: list[Tensor] = [dense[0]] * len(dense)
    for rows in _same_kind(dense):
        norms = _foreach_norm([dense[i] for i in rows], p)
        for i, norm in zip(rows, norms, strict=True):
            result[i] = norm.to(device=home, dtype=wide(home))
    return torch.stack(result)


def _foreach_norm(tensors: list[Tensor], p: float) -> Sequence[Tensor]:
    """Norms accumulated in float64 or, for complex tensors and devices without it, as wide as can be."""
    first = tensors[0]
    if first.is_complex() or first.device.type in _NO_FLOAT64:
        tensors = [t.abs() if t.is_complex() else t.float() for t in tensors]
    return cast(Any, torch)._foreach_norm(tensors, p, wide(first.device))


def _filled(x: Tensor) -> Tensor:
    return x if x.numel() else x.new_zeros(1)


def _same_kind(tensors: list[Tensor]) -> list[list[int]]:
    """Indices grouped by device and dtype: a foreach kernel takes one kind at a time."""
    kinds: dict[tuple[torch.device, torch.dtype], list[int]] = {}
    for i, t in enumerate(tensors):
        kinds.setdefault((t.device, t.dtype), []).append(i)
    return list(kinds.values())
