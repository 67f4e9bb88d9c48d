"""Round every gradient element to eight bits of floating point, with a scale per tensor.

Micikevicius, Stosic, Burgess, Cornea, Dubey, Grisenthwaite, Ha, Heinecke, Judd, Kamalu, Mellempudi, Oberman, Shoeybi, Siu, Wu,
"FP8 Formats for Deep Learning", 2022, arXiv:2209.05433.

Deviations, and why:

- The scale is a power of two: the largest that keeps the tensor within the format. Usual is the largest number of the format
  divided by the largest element. So scaling rounds nothing, powers of two are exact whatever the largest element is, and a
  second cast changes nothing; in return up to one of the format's 30 (E5M2) or 15 (E4M3) normal binades stays unused.
- The scale is that of this very gradient, at the price of one more read. Scales from the history of the largest element are too
  small at a spike, and saturate there.
- The rounding is done in the gradient's own type: casts to eight bits differ between versions and devices of torch in what they
  make of numbers that are too large, and some have no such types.
"""

from __future__ import annotations

# Where torch is not annotated:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from steadygrad.checks import flag, integer, one_of
from steadygrad.policy import Place, Policy, text_of
from steadygrad.transforms.compressing import (
    PIECE,
    compressor,
    flattened,
    magnitude,
    power_of_two,
    power_of_two_of_positive,
    round_randomly_,
    saturate_,
    stream,
)

_LARGEST_SCALE = 2.0**125  # it and its inverse are normal numbers of float32; reached where the largest element is below 1e-33


class _Format(NamedTuple):
    """Eight bits.

    Attributes:
        mantissa: bits of the mantissa.
        smallest: the smallest normal number.
        largest: the largest number.
    """

    mantissa: int
    smallest: float
    largest: float


_FORMATS = {"e4m3": _Format(3, 2.0**-6, 448.0), "e5m2": _Format(2, 2.0**-14, 57344.0)}


def fp8(format: Literal["e5m2", "e4m3"] = "e5m2", *, stochastic: bool = False, seed: int = 0) -> Policy:
    """Round every gradient element to a number of eight bits, times a scale of its tensor.

    ``g <- cast(g * s) / s`` with s the largest power of two that keeps ``max|g| * s`` within the format; 1 for a tensor of
    zeros. Rounds to the nearest number, ties to even; or at random to one of the two neighbours, so that the expectation is g.

    A number of E5M2 has 3 significant bits, one of E4M3 has 4. Elements smaller than the largest of their tensor by a factor of
    some 2^31, or 2^17, become 0. A number that the gradient's own type cannot hold becomes its largest. Costs two reads and one
    write of every gradient, and one random number per element where the rounding is random; no state.

    Args:
        format: ``"e5m2"``, usual for gradients, or ``"e4m3"``.
        stochastic: whether to round at random.
        seed: of the random numbers, any integer.

    Returns:
        The policy; it rewrites elements.

    Raises:
        ArgumentError: unknown format.
        ArgumentTypeError: an argument is of another kind.

    Example:
        >>> import torch, steadygrad as sg
        >>> param = torch.nn.Parameter(torch.zeros(3))
        >>> guard = sg.Guard(torch.optim.SGD([param], lr=1.0), sg.fp8("e4m3"))
        >>> param.grad = torch.tensor([0.125, -1.2, 448.0])
        >>> guard.optimizer.step()
        >>> param.grad
        tensor([ 1.2500e-01, -1.2500e+00,  4.4800e+02])
        >>> guard.detach()

    Reference:
        Micikevicius et al., "FP8 Formats for Deep Learning", 2022, https://arxiv.org/abs/2209.05433
    """
    call = "fp8"
    chosen = _FORMATS[one_of(call, "format", format, _FORMATS)]
    stochastic, seed = flag(call, "stochastic", stochastic), integer(call, "seed", seed)

    def rewrite(flat: Tensor, place: Place) -> None:
        random = stream(place, seed, call) if stochastic else None
        scale = _scale(magnitude(flat), chosen)
        for piece in flat.split(PIECE):
            piece.mul_(scale).clamp_(-chosen.largest, chosen.largest)
            _round_(piece, chosen, random)
            piece.div_(scale)
            saturate_(piece)

    return compressor(text_of(fp8, format=format, stochastic=stochastic, seed=seed), flattened(rewrite))


def _scale(largest: Tensor, to: _Format) -> Tensor:
    """The largest power of two that keeps ``largest`` within the format; 1 for 0."""
    unit, goal = power_of_two(largest), 2.0 ** (math.frexp(to.largest)[1] - 1)
    # In units of powers of two both are in [1, 2): where the tensor's is above the format's, one binade more is needed.
    goal = torch.where(largest / unit > to.largest / goal, goal / 2.0, goal)
    return torch.where(largest > 0.0, (goal / unit).clamp_(max=_LARGEST_SCALE), 1.0)


def _round_(x: Tensor, to: _Format, random: torch.Generator | None) -> None:
    """Round to the numbers of the format, which are multiples of a power of two that depends on the size of ``x``."""
    spacing = power_of_two_of_positive(x.abs().clamp_(min=to.smallest)).mul_(2.0**-to.mantissa)
    x.div_(spacing)
    if random is None:
        x.round_()
    else:
        round_randomly_(x, random)
    x.mul_(spacing)
