"""What the compressors share: tensors in pieces, scales that are powers of two, rounding at random.

A compressor maps a gradient to few values, as if it had been sent over a narrow channel and decoded at the other end. Only the
decoded gradient matters here; the packed form, and how many bytes it would take, are out of scope.

What depends on the elements (norm, maximum, mean, the k-th largest) is worked out by the compressor on the tensor that it is
given and not taken from the readings. So it is right as well where `error_feedback` has added a residual since the reading.
"""

from __future__ import annotations

# Where torch is not annotated:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from steadygrad.decide.limits import rewriting
from steadygrad.decision import Decision
from steadygrad.policy import Place, Policy, State, stateless
from steadygrad.readings import Readings
from steadygrad.transforms.random import generator

PIECE = 1 << 20
"""Elements that are worked on at a time: what is allocated on the way is of this size, however large the gradient is."""
Kernel = Callable[[Tensor, Place], None]


def compressor(text: str, kernel: Kernel) -> Policy:
    """The policy that runs a kernel on every gradient and knows nothing but the tensor; a step that is not finite is skipped."""
    return Policy(stateless, _decide, text, rewrites=True, rewrite=kernel)


def _decide(readings: Readings, state: State) -> tuple[Decision, State]:
    return rewriting(readings), state


def flattened(kernel: Kernel) -> Kernel:
    """A kernel for one-dimensional, contiguous, not empty tensors, made fit for all. Copies only what is not contiguous."""

    def rewrite(grad: Tensor, place: Place) -> None:
        if not grad.numel():
            return
        if grad.is_contiguous():
            kernel(grad.view(-1), place)
            return
        flat = grad.flatten()
        kernel(flat, place)
        grad.copy_(flat.view(grad.shape))

    return rewrite


def power_of_two(x: Tensor) -> Tensor:
    """The largest power of two that is not above each ``x >= 0``; 1 where x is 0.

    Multiplying and dividing by it is exact, so it can be taken out before squares are summed, and no digit is lost.

    Example:
        >>> power_of_two(torch.tensor([3.0, 0.25, 0.0]))
        tensor([2.0000, 0.2500, 1.0000])
    """
    return power_of_two_of_positive(torch.where(x > 0.0, x, 1.0))


def power_of_two_of_positive(x: Tensor) -> Tensor:
    """The same where no x is 0, which spares a selection."""
    return x / torch.frexp(x).mantissa.mul_(2.0)  # the mantissa is in [0.5, 1), and the quotient has no other digits


def magnitude(flat: Tensor) -> Tensor:
    """The largest modulus, shape ``()``, in one read. Much cheaper on a CPU than the inf-norm, and without a copy."""
    low, high = torch.aminmax(flat)
    return torch.maximum(-low, high)


def mean_over(parts: Iterable[tuple[Tensor, int | Tensor]]) -> Tensor:
    """The quotient of two sums, given piece by piece: of the values and of how many they are. 0 where there are none."""
    rows = [torch.stack((total, total.new_zeros(()) + count)) for total, count in parts]
    total, count = torch.stack(rows).sum(0)
    return total / count.clamp(min=1.0)


def stream(place: Place, seed: int, call: str) -> torch.Generator:
    """The random numbers of one transform, for one tensor, at one step."""
    return generator(place.param.device, seed, place.step, f"{place.name}|{call}", place.shard)


def round_randomly_(x: Tensor, random: torch.Generator) -> None:
    """Round to one of the two nearest integers, up with the probability of the fractional part: the expectation is ``x``.

    An integer stays as it is. Allocates three tensors of the size of ``x``, so give it a piece.
    """
    low = x.abs().floor_()
    fraction = x.abs().sub_(low)
    low.add_(torch.rand(x.shape, dtype=x.dtype, device=x.device, generator=random) < fraction)
    x.copy_(low.copysign_(x))


def saturate_(x: Tensor) -> None:
    """Bring what is beyond the largest number of the type, such as Inf, to that number."""
    largest = torch.finfo(x.dtype).max
    x.clamp_(-largest, largest)
