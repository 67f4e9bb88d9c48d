"""Few levels at random: the stochastic quantisers whose expectation is the gradient itself.

Alistarh, Grubic, Li, Tomioka, Vojnovic, "QSGD: Communication-Efficient SGD via Gradient Quantization and Encoding", NeurIPS 2017,
arXiv:1610.02132, section 3. Wen, Xu, Yan, Wu, Wang, Chen, Li, "TernGrad: Ternary Gradients to Reduce Communication in Distributed
Deep Learning", NeurIPS 2017, arXiv:1705.07878, equations 1-4 and 11.

Deviations, and why:

- A bucket or tensor of zeros stays zero; the formulas divide by its norm.
- The largest element is taken out as a power of two before squares are summed, so no norm overflows or vanishes.
- TernGrad clips at a multiple of the standard deviation, which is 0 for a tensor of equal elements or of one: the gradient of a
  single bias would be lost for ever. Here the deviation is about 0, as the method assumes of gradients anyway.
- One scale per tensor as each process sees it; the authors share TernGrad's among the workers.
"""

from __future__ import annotations

# Where torch is not annotated:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
import torch
from torch import Tensor

from steadygrad.checks import SLUG, count, integer, positive, show
from steadygrad.errors import ArgumentError
from steadygrad.policy import Place, Policy, text_of
from steadygrad.transforms.compressing import (
    PIECE,
    compressor,
    flattened,
    magnitude,
    mean_over,
    power_of_two,
    round_randomly_,
    saturate_,
    stream,
)

_MOST_LEVELS = 1 << 20  # times any fraction that float32 holds, still told apart


def qsgd(levels: int = 127, *, bucket: int = 512, seed: int = 0) -> Policy:
    """Round every gradient element at random to one of ``levels`` multiples of its bucket's norm; without bias.

    ``g <- n/s * sign(g) * R(s*|g|/n)`` with n the 2-norm of the bucket, s the levels, and R rounding up with the probability of
    the fractional part. ``E[Q(g)] = g`` and ``E|Q(g) - g|^2 <= min(d/s^2, sqrt(d)/s) |g|^2`` for a bucket of d elements.

    A multiple beyond the largest number of the type becomes that number. Costs one read and one write of every gradient, in
    pieces on which all the arithmetic is done, and one random number per element; no state. The random numbers depend on
    seed, step and parameter alone.

    Args:
        levels: s, from 1 to 1048576. 127 and a sign make 8 bits.
        bucket: consecutive elements that share a norm, from 1 to 1048576; the last bucket of a tensor may be shorter.
        seed: of the random numbers, any integer.

    Returns:
        The policy; it rewrites elements.

    Raises:
        ArgumentError: a number is out of range.
        ArgumentTypeError: an argument is no integer.

    Example:
        >>> import torch, steadygrad as sg
        >>> param = torch.nn.Parameter(torch.zeros(3))
        >>> guard = sg.Guard(torch.optim.SGD([param], lr=1.0), sg.qsgd(5))  # |g| = 5, so each element is a level already
        >>> param.grad = torch.tensor([3.0, 4.0, 0.0])
        >>> guard.optimizer.step()
        >>> param.grad
        tensor([3., 4., 0.])
        >>> guard.detach()

    Reference:
        Alistarh et al., "QSGD: Communication-Efficient SGD via Gradient Quantization and Encoding", 2017,
        https://arxiv.org/abs/1610.02132
    """
    call = "qsgd"
    levels, bucket = _at_most(_MOST_LEVELS, call, "levels", levels), _at_most(PIECE, call, "bucket", bucket)
    seed = integer(call, "seed", seed)

    def rewrite(flat: Tensor, place: Place) -> None:
        random = stream(place, seed, call)
        full = flat.numel() // bucket * bucket
        for part, width in ((flat[:full], bucket), (flat[full:], flat.numel() - full)):
            if part.numel():
                for buckets in part.view(-1, width).split(max(1, PIECE // width)):
                    _quantize_(buckets, levels, random)

    return compressor(text_of(qsgd, levels=levels, bucket=bucket, seed=seed), flattened(rewrite))


def _quantize_(buckets: Tensor, levels: int, random: torch.Generator) -> None:
    """Quantise each row by its own norm."""
    unit = power_of_two(torch.maximum(buckets.amax(1, keepdim=True), -buckets.amin(1, keepdim=True)))
    buckets.div_(unit)
    norm = torch.linalg.vector_norm(buckets, dim=1, keepdim=True)
    norm = torch.where(norm > 0.0, norm, 1.0)
    buckets.mul_(levels / norm).clamp_(-levels, levels)
    round_randomly_(buckets, random)
    buckets.mul_(norm / levels).mul_(unit)
    saturate_(buckets)


def terngrad(*, clip_sigma: float | None = 2.5, seed: int = 0) -> Policy:
    """Replace every gradient element by ``-S``, 0 or ``S`` at random, with S the tensor's largest modulus after clipping.

    ``g <- S * sign(g) * b`` with b 1 with probability ``|g|/S``, else 0. Before that, elements are limited to ``clip_sigma``
    times the tensor's root mean square, which makes S, and with it the variance, smaller, and biases what is limited; without the
    limit the expectation is the gradient.

    Costs three reads and one write of every gradient and one random number per element; no state. The random numbers depend
    on seed, step and parameter alone.

    Args:
        clip_sigma: limit in root mean squares, > 0; ``None``: no limit.
        seed: of the random numbers, any integer.

    Returns:
        The policy; it rewrites elements.

    Raises:
        ArgumentError: the limit is out of range.
        ArgumentTypeError: an argument is of another kind.

    Example:
        >>> import torch, steadygrad as sg
        >>> param = torch.nn.Parameter(torch.zeros(3))
        >>> guard = sg.Guard(torch.optim.SGD([param], lr=1.0), sg.terngrad())
        >>> param.grad = torch.tensor([0.0, -4.0, 4.0])
        >>> guard.optimizer.step()
        >>> param.grad
        tensor([ 0., -4.,  4.])
        >>> guard.detach()

    Reference:
        Wen et al., "TernGrad: Ternary Gradients to Reduce Communication in Distributed Deep Learning", 2017,
        https://arxiv.org/abs/1705.07878
    """
    call = "terngrad"
    sigmas = None if clip_sigma is None else positive(call, "clip_sigma", clip_sigma)
    seed = integer(call, "seed", seed)

    def rewrite(flat: Tensor, place: Place) -> None:
        random, largest = stream(place, seed, call), magnitude(flat)
        unit = power_of_two(largest)
        largest = largest / unit
        if sigmas is not None:
            squares = ((piece.div(unit).square_().sum(), piece.numel()) for piece in flat.split(PIECE))
            largest = torch.minimum(largest, sigmas * mean_over(squares).sqrt())
        largest = torch.where(largest > 0.0, largest, 1.0)
        for piece in flat.split(PIECE):
            piece.div_(unit).div_(largest).clamp_(-1.0, 1.0)
            round_randomly_(piece, random)
            piece.mul_(largest * unit)

    return compressor(text_of(terngrad, clip_sigma=sigmas, seed=seed), flattened(rewrite))


def _at_most(most: int, call: str, name: str, value: int) -> int:
    result = count(call, name, value)
    if result > most:
        raise ArgumentError(f"`{call}` expected `{name}` <= {most}, got {show(value)}", slug=SLUG)
    return result
