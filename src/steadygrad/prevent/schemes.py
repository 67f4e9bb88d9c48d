"""Weights by formula: Xavier, He, orthogonal and delta-orthogonal.

Glorot, Bengio, "Understanding the difficulty of training deep feedforward neural networks", AISTATS 2010, equation 16; He et al.,
"Delving Deep into Rectifiers", 2015, arXiv:1502.01852, equations 10 and 14; Saxe, McClelland, Ganguli, "Exact solutions to the
nonlinear dynamics of learning in deep linear neural networks", 2014, arXiv:1312.6120; Xiao et al., "Dynamical Isometry and a Mean
Field Theory of CNNs", 2018, arXiv:1806.05393, algorithm 1.

Deviations: grouped convolutions get one orthogonal matrix per group. Numbers are drawn in float32 at least and rounded to
the parameter's type. A kernel of even size has its delta at ``(size - 1) // 2``, where ``padding="same"`` puts the centre.
"""

from __future__ import annotations

# Where torch is not annotated:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from steadygrad.prevent.layers import Layer


@dataclass(frozen=True)
class Draw:
    """Where random numbers come from.

    Attributes:
        generator: the generator, on whose device numbers are drawn; None for torch's own on the parameter's device.
    """

    generator: torch.Generator | None = None

    def normal(self, shape: tuple[int, ...], like: Tensor) -> Tensor:
        """Standard normal numbers."""
        return torch.randn(shape, generator=self.generator, device=self._device(like), dtype=_wide(like))

    def uniform(self, shape: tuple[int, ...], like: Tensor) -> Tensor:
        """Uniform numbers with mean 0 and variance 1."""
        numbers = torch.rand(shape, generator=self.generator, device=self._device(like), dtype=_wide(like))
        return numbers.mul_(2.0).sub_(1.0).mul_(math.sqrt(3.0))

    def _device(self, like: Tensor) -> torch.device:
        return like.device if self.generator is None else self.generator.device


def scaled(draw: Draw, layer: Layer, std: float, *, uniform: bool = False) -> Tensor:
    """Independent numbers of this standard deviation; uniform ones lie within ``sqrt(3) * std``."""
    source = draw.uniform if uniform else draw.normal
    return layer.own(source(layer.form, layer.weight).mul_(std))


def orthogonal(draw: Draw, layer: Layer, gain: float) -> Tensor:
    """``W W^T = gain^2 I``, or ``W^T W`` where there are more outputs than inputs; W is (outputs, inputs times kernel)."""
    groups, outputs, inputs, *kernel = layer.form
    matrix = _orthonormal(draw, (groups, outputs, inputs * math.prod(kernel)), layer.weight)
    return layer.own(matrix.mul_(gain).reshape(layer.form))


def delta_orthogonal(draw: Draw, layer: Layer, gain: float) -> Tensor:
    """Zero but for the centre of the kernel, which holds ``W^T W = gain^2 I`` with W of (outputs, inputs)."""
    groups, outputs, inputs, *kernel = layer.form
    matrix = _orthonormal(draw, (groups, outputs, inputs), layer.weight).mul_(gain)
    values = matrix.new_zeros(layer.form)
    values[(..., *[(size - 1) // 2 for size in kernel])] = matrix
    return layer.own(values)


def _orthonormal(draw: Draw, shape: tuple[int, int, int], like: Tensor) -> Tensor:
    """Orthonormal rows, or columns where there are fewer of them; evenly distributed thanks to the signs of R's diagonal."""
    groups, rows, columns = shape
    q, r = torch.linalg.qr(draw.normal((groups, max(rows, columns), min(rows, columns)), like))
    diagonal = r.diagonal(dim1=-2, dim2=-1)
    q = q * torch.where(diagonal < 0, -1.0, 1.0).unsqueeze(-2)
    return (q if rows >= columns else q.mT).contiguous()


def _wide(like: Tensor) -> torch.dtype:
    return torch.promote_types(like.dtype, torch.float32)
