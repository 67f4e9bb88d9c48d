"""The elements of a gradient as one plain, strided, real or complex tensor, whatever its layout."""

from __future__ import annotations

import torch
from torch import Tensor


def elements(grad: Tensor) -> Tensor:
    """All stored elements of ``grad`` in a strided tensor that shares memory where it can.

    Sparse gradients are coalesced first: duplicates add up before anything is measured, as they will in the optimizer.
    """
    grad = grad.detach()
    if grad.layout is torch.sparse_coo:
        return grad.coalesce().values()
    return grad if grad.layout is torch.strided else grad.values()


def flat(grad: Tensor) -> Tensor:
    """The elements as a vector, in memory order: a view of every dense tensor, channels-last and transposed ones too."""
    dense = elements(grad)
    if dense.is_conj():
        dense = dense.resolve_conj()
    if not dense.is_contiguous():
        dense = dense.permute(sorted(range(dense.dim()), key=lambda d: -dense.stride(d)))
    return dense.reshape(-1)
