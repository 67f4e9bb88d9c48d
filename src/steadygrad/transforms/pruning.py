"""Gradient pruning: set small elements to zero, by a threshold or by rank.

Aji, Heafield, "Sparse Communication for Distributed Gradient Descent", EMNLP 2017, arXiv:1704.05021 (a share of the largest, with
the rest fed back, see `error_feedback`); Donoho, "De-Noising by Soft-Thresholding", IEEE Transactions on Information Theory 1995.

Deviation: the k largest elements are those of each tensor, and found exactly; the paper estimates one threshold for all tensors.
"""

from __future__ import annotations

# Where torch is not annotated:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
import torch
from torch import Tensor
from torch.nn.functional import hardshrink

from steadygrad.checks import fraction as checked_fraction
from steadygrad.checks import positive
from steadygrad.policy import Place, Policy, text_of
from steadygrad.transforms.compressing import compressor


def prune_hard(threshold: float) -> Policy:
    """Set the gradient elements with a modulus at or below a threshold to zero: ``g <- g`` where ``|g| > t``, else 0.

    The others keep their bits. Costs one read and one write of every gradient; no state.

    Args:
        threshold: t, > 0, in units of a gradient element.

    Returns:
        The policy; it rewrites elements.

    Raises:
        ArgumentError: the threshold is out of range.
        ArgumentTypeError: it is no number.

    Example:
        >>> import torch, steadygrad as sg
        >>> param = torch.nn.Parameter(torch.zeros(3))
        >>> guard = sg.Guard(torch.optim.SGD([param], lr=1.0), sg.prune_hard(1.0))
        >>> param.grad = torch.tensor([3.0, -0.5, -2.0])
        >>> guard.optimizer.step()
        >>> param.grad
        tensor([ 3.,  0., -2.])
        >>> guard.detach()

    Reference:
        Aji, Heafield, "Sparse Communication for Distributed Gradient Descent", 2017, https://arxiv.org/abs/1704.05021
    """
    limit = positive("prune_hard", "threshold", threshold)

    def rewrite(grad: Tensor, place: Place) -> None:
        del place
        grad.copy_(hardshrink(grad, _held(limit, grad)))

    return compressor(text_of(prune_hard, threshold=limit), rewrite)


def prune_soft(threshold: float) -> Policy:
    """Move every gradient element towards zero by a threshold, and no further: ``g <- sign(g) * max(|g| - t, 0)``.

    What is left is too small by t; in return the result depends on the gradient without a jump. It is the proximal step of
    ``t * |g|_1``. Costs one read and one write of every gradient; no state.

    Args:
        threshold: t, > 0, in units of a gradient element.

    Returns:
        The policy; it rewrites elements.

    Raises:
        ArgumentError: the threshold is out of range.
        ArgumentTypeError: it is no number.

    Example:
        >>> import torch, steadygrad as sg
        >>> param = torch.nn.Parameter(torch.zeros(3))
        >>> guard = sg.Guard(torch.optim.SGD([param], lr=1.0), sg.prune_soft(1.0))
        >>> param.grad = torch.tensor([3.0, -0.5, -2.0])
        >>> guard.optimizer.step()
        >>> param.grad
        tensor([ 2.,  0., -1.])
        >>> guard.detach()

    Reference:
        Donoho, "De-Noising by Soft-Thresholding", 1995, https://doi.org/10.1109/18.382009
    """
    limit = positive("prune_soft", "threshold", threshold)

    def rewrite(grad: Tensor, place: Place) -> None:
        del place
        bound = _held(limit, grad)
        grad.sub_(grad.clamp(-bound, bound))

    return compressor(text_of(prune_soft, threshold=limit), rewrite)


def prune_topk(fraction: float = 0.01) -> Policy:
    """Keep the k elements of each gradient that are largest in modulus, and set the others to zero.

    ``k = max(1, round(fraction * numel))``, exactly: of elements that tie for the last place as many stay as fit, and torch's
    ``topk`` settles which. Those that stay keep their bits. What is dropped is lost, and an element that is always small never
    moves its parameter: ``error_feedback(prune_topk())`` keeps it for later. Of a sharded tensor each shard keeps its own share.

    Costs two reads and one write of every gradient and the search for the k-th largest, for which torch takes work space of
    its own; no state.

    Args:
        fraction: the share that is kept, in (0, 1].

    Returns:
        The policy; it rewrites elements.

    Raises:
        ArgumentError: the fraction is out of range.
        ArgumentTypeError: it is no number.

    Example:
        >>> import torch, steadygrad as sg
        >>> param = torch.nn.Parameter(torch.zeros(3))
        >>> guard = sg.Guard(torch.optim.SGD([param], lr=1.0), sg.prune_topk(0.3))
        >>> param.grad = torch.tensor([3.0, -0.5, -2.0])
        >>> guard.optimizer.step()
        >>> param.grad
        tensor([3., 0., 0.])
        >>> guard.detach()

    Reference:
        Aji, Heafield, "Sparse Communication for Distributed Gradient Descent", 2017, https://arxiv.org/abs/1704.05021
    """
    share = checked_fraction("prune_topk", "fraction", fraction)

    def rewrite(grad: Tensor, place: Place) -> None:
        del place
        k = how_many(share, grad)
        if k < grad.numel():
            grad.masked_fill_(all_but_largest(grad, k), 0.0)

    return compressor(text_of(prune_topk, fraction=share), rewrite)


def how_many(fraction: float, tensor: Tensor) -> int:
    """A share of a tensor's elements, one at least."""
    return min(tensor.numel(), max(1, round(fraction * tensor.numel())))


def all_but_largest(tensor: Tensor, k: int) -> Tensor:
    """True where an element is not among the k largest in modulus, exactly k; a bool tensor of the same shape."""
    # Laid out in order whatever the strides of `tensor`, so that it can be viewed as a row without a copy.
    sizes = torch.abs(tensor, out=torch.empty(tensor.shape, dtype=tensor.dtype, device=tensor.device))
    largest = sizes.view(-1).topk(k, sorted=False).indices
    del sizes  # before the mask is made: one tensor of this size at a time
    dropped = torch.ones(tensor.numel(), dtype=torch.bool, device=tensor.device)
    return dropped.index_fill_(0, largest, False).view(tensor.shape)


def _held(limit: float, grad: Tensor) -> float:
    """The limit as the gradient's type can hold it; nothing in there is above its largest number."""
    return min(limit, torch.finfo(grad.dtype).max)
