"""Sums of squares per unit: per row of a linear layer, per output channel of a convolution.

One read per tensor, like a reading of whole tensors, which then follows by adding up the units. On the CPU the precautions of
``cpu`` hold: long units are seen as rows of 1024 elements, half precision is widened piece by piece, squares are added in
float64, and where float32 squares overflowed or vanished the tensor is read again in float64. Deviation: a unit is read again
for vanished squares only where the whole tensor is that small. A dead unit is common, and looking twice at each would cost a
second read of nearly every embedding. So a unit's norm below 1e-15 per root of its size may read low beside larger units.
"""

from __future__ import annotations

# Where torch is not annotated:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from steadygrad.errors import UnsupportedError
from steadygrad.measure import cpu, foreach
from steadygrad.readings import Layout

_ROW = 1024
_SMALL = 1 << 16
_CHUNK = 1 << 18
_WIDE = (torch.float32, torch.float64)
_NUMPY_WIDE = (np.dtype(np.float32), np.dtype(np.float64))
_SUSPECT = 1e-22
_LOST_PER_ELEMENT = 1e-31


def unit_sum_sq(tensors: Sequence[Tensor | None], layout: Layout) -> np.ndarray:
    """Sum of squared moduli per unit, float64, shape ``(num_units,)``, in the order of the layout; tensors on the CPU.

    Args:
        tensors: one per row of the layout, of the layout's shape; ``None`` reads as zeros.
        layout: says along which dimension the units lie.
    """
    result = np.zeros(sum(layout.num_units))
    whole: list[tuple[int, Tensor]] = []
    start = 0
    for tensor, dim, units in zip(tensors, layout.unit_dims, layout.num_units, strict=True):
        if tensor is not None and dim < 0:
            whole.append((start, tensor))
        elif tensor is not None and units:
            result[start : start + units] = _of_units(tensor.detach(), dim)
        start += units
    result[[place for place, _ in whole]] = cpu.sum_sq([tensor for _, tensor in whole])
    return result


def sum_of_units(values: np.ndarray, layout: Layout) -> np.ndarray:
    """What is per unit, added up per tensor, shape ``(n,)``; 0 for a tensor without units."""
    counts = np.array(layout.num_units, np.intp)
    filled = np.flatnonzero(counts)  # `reduceat` has no empty segments
    sums = np.zeros(len(counts))
    if len(filled):
        sums[filled] = np.add.reduceat(values, (np.cumsum(counts) - counts)[filled])
    return sums


def unit_sum_sq_on_device(tensors: Sequence[Tensor | None], layout: Layout, home: torch.device) -> tuple[Tensor, Tensor]:
    """The same with torch's own kernels, on any device and without waiting for it: per unit, and added up per tensor.

    Args:
        tensors: one per row of the layout, of the layout's shape; ``None`` reads as zeros.
        layout: says along which dimension the units lie.
        home: the device that the result is put on.
    """
    wide = foreach.wide(home)
    parts: list[Tensor] = []
    for tensor, dim, units in zip(tensors, layout.unit_dims, layout.num_units, strict=True):
        if tensor is None or not tensor.numel():
            parts.append(torch.zeros(units, dtype=wide, device=home))
        else:
            parts.append(_on_device(tensor.detach(), dim).to(device=home, dtype=wide))
    if not parts:
        return torch.zeros(0, dtype=wide), torch.zeros(0, dtype=wide)
    return torch.cat(parts), torch.stack([part.sum() for part in parts])  # sums by themselves: the same bits at every run


def _on_device(tensor: Tensor, dim: int) -> Tensor:
    if tensor.layout is not torch.strided:
        values, own, rows = _sparse(tensor, dim)
        squares = _on_device(values, own)
        return squares if rows is None else squares.new_zeros(tensor.shape[dim]).index_add_(0, rows, squares)
    real = _real(tensor)
    accumulate = foreach.wide(real.device)
    if dim < 0:
        return torch.linalg.vector_norm(real, dtype=accumulate).square().reshape(1)
    others = [d for d in range(real.dim()) if d != dim]
    if not others:
        return real.to(accumulate).square()
    return torch.linalg.vector_norm(real, dim=others, dtype=accumulate).square()


def _of_units(tensor: Tensor, dim: int) -> np.ndarray:
    """One tensor on the CPU, of at least one unit."""
    if tensor.layout is not torch.strided:
        values, own, rows = _sparse(tensor, dim)
        squares = _of_units(values, own)
        return squares if rows is None else np.bincount(rows.numpy(), squares, minlength=tensor.shape[dim])
    if not tensor.numel():
        return np.zeros(tensor.shape[dim])
    view = _units_first(_real(tensor), dim)
    with np.errstate(over="ignore"):
        squares = _small(view) if view.numel() <= _SMALL else None
        if squares is None:
            squares = sum((_squares(piece) for piece in _across(view)), np.zeros(view.shape[0]))
        total = float(squares.sum())
        if _SUSPECT <= total < np.inf or _LOST_PER_ELEMENT * view.numel() <= total < np.inf:
            return squares
        return _in_float64(view)


def _units_first(x: Tensor, dim: int) -> Tensor:
    """A view with the units first and all else as one dimension, or as few as memory order allows."""
    others = sorted((d for d in range(x.dim()) if d != dim), key=lambda d: -x.stride(d))
    moved = x.permute(dim, *others)
    try:
        return moved.view(moved.shape[0], -1)
    except RuntimeError:  # units that are not the outermost dimension, or gaps in memory
        return moved.flatten(2) if moved.dim() > 2 and moved[0, 0].is_contiguous() else moved


def _small(view: Tensor) -> np.ndarray | None:
    """Row sums through NumPy, whose calls cost less; ``None`` where it has no word for the dtype or the view."""
    if view.dim() != 2 or view.dtype not in _WIDE:
        return None
    array = view.numpy()
    if array.dtype not in _NUMPY_WIDE:
        return None
    return np.einsum("ij,ij->i", array, array).astype(np.float64)


def _across(view: Tensor) -> Iterator[Tensor]:
    """Pieces with all units; of units in several dimensions so short that float32 sums stay exact."""
    if view.dim() <= 2:
        yield view
    else:
        yield from view.split(max(1, _ROW // view[0, 0].numel()), dim=1)


def _squares(view: Tensor) -> np.ndarray:
    """Sums of squares of the rows of one piece, added up in float64."""
    if view.dtype in _WIDE:
        return _squares_of_wide(view)
    rows = max(1, _CHUNK // max(1, view[0].numel()))
    return np.concatenate([_squares_of_wide(piece.float()) for piece in view.split(rows)])


def _squares_of_wide(view: Tensor) -> np.ndarray:
    if view.dim() != 2:
        return _squared_norms(view, list(range(1, view.dim())))
    if view.stride(1) != 1 and view.shape[1] > 1:  # units side by side in memory: sums run across rows
        pieces = view.split(_ROW // 4, dim=1)
        return sum((_squared_norms(piece, [1]) for piece in pieces), np.zeros(view.shape[0]))
    blocks = view.shape[1] // _ROW
    rest = _squared_norms(view[:, blocks * _ROW :], [1]) if view.shape[1] % _ROW else np.zeros(view.shape[0])
    if not blocks:
        return rest
    return rest + _squared_norms(view[:, : blocks * _ROW].unflatten(1, (blocks, _ROW)), [2]).sum(axis=1)


def _squared_norms(x: Tensor, dims: list[int]) -> np.ndarray:
    return np.square(torch.linalg.vector_norm(x, dim=dims).numpy().astype(np.float64))


def _in_float64(view: Tensor) -> np.ndarray:
    """The slow, exact way: float64 holds the square of any float32 number."""
    rows = max(1, _CHUNK // max(1, view[0].numel()))
    others = list(range(1, view.dim()))
    return np.concatenate([np.square(torch.linalg.vector_norm(p.double(), dim=others).numpy()) for p in view.split(rows)])


def _real(x: Tensor) -> Tensor:
    """A complex tensor as pairs of real numbers, which lie in the same units."""
    return torch.view_as_real(x.resolve_conj()) if x.is_complex() else x


def _sparse(tensor: Tensor, dim: int) -> tuple[Tensor, int, Tensor | None]:
    """Stored values, their dimension of units (-1: one unit), and for each entry of that dimension the unit it belongs to."""
    if tensor.layout is not torch.sparse_coo:
        raise UnsupportedError(
            f"'units' of a gradient in the layout {tensor.layout} cannot be read; use a dense one, or a sparse COO gradient",
            slug="reading-unknown",
        )
    tensor = tensor.coalesce()
    values = tensor.values()
    if dim < 0:
        return values, -1, None
    if dim < tensor.sparse_dim():
        return values, 0, tensor.indices()[dim]
    return values, dim - tensor.sparse_dim() + 1, None
