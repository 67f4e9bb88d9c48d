"""Spectral clipping: limit the singular values of each gradient matrix.

Jiang, Semenov, Stich, "Enhancing LLM Training via Spectral Clipping", 2026, arXiv:2603.14315 (the soft form, and where the idea
pays).

Deviations, and why:

- The factors come from the eigenvalues of the smaller Gram matrix in float64, not from a Newton-Schulz iteration: no number
  of iterations to choose, the bound holds to rounding, and an element is not changed where nothing binds.
- ``relative`` measures the limit by the matrix's own singular values, so that it needs no tuning to their size.
"""

from __future__ import annotations

# Where torch is not annotated:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
import math
from typing import Any

import torch
from torch import Tensor

from steadygrad.checks import flag, one_of, positive
from steadygrad.decide.limits import rewriting
from steadygrad.decision import Decision
from steadygrad.policy import Place, Policy, State, stateless, text_of
from steadygrad.readings import Readings

FORMS = ("hard", "soft")
_CHUNK = 1024  # columns that are held in float64 at a time


def spectral_clip(max_norm: float, *, form: str = "hard", relative: bool = False) -> Policy:
    """Limit the singular values of each gradient of two dimensions and more, seen as a matrix ``(g.shape[0], -1)``.

    ``U S V^T <- U f(S) V^T`` with ``f(s) = min(s, c)`` (hard: the nearest matrix with that spectral norm) or ``f(s) = s /
    sqrt(1 + s^2/c^2)`` (soft: ``(I + G G^T / c^2)^(-1/2) G``). A spike along a few directions is limited there, while the other
    directions keep their size; a limit on the norm would shrink them all.

    For a matrix of r rows and n columns, ``r <= n``, this reads the gradient twice, writes it once, and costs ``4 r^2 n``
    operations for products and some ``10 r^3`` for eigenvalues in float64: 0.6 s on two CPU cores at (1000, 1000), 3 s at
    (1000, 4000), and up to eight times as much for twice as many rows, so choose the parameters with `masked`. It holds four
    matrices of (r, r) in float64, one parameter at a time. On a CPU a matrix whose Frobenius norm is within a hard limit is
    left out at no cost. On a GPU, the solver for the eigenvalues makes the host wait, once per matrix.

    Args:
        max_norm: the limit c, > 0, in units of the gradient's singular values; with ``relative`` in units of the root mean square
            of the matrix's own r singular values, ``|G|_F / sqrt(r)``, and then useful above 1.
        form: ``"hard"`` or ``"soft"``.
        relative: whether the limit is measured by each matrix's own size.

    Returns:
        The policy; it rewrites elements. Gradients of one dimension stay as they are. A step with NaN or Inf is skipped.

    Raises:
        ArgumentError: the limit is not above zero, or the form unknown.
        ArgumentTypeError: an argument is of another kind.

    Example:
        >>> import steadygrad as sg
        >>> param = torch.nn.Parameter(torch.zeros(2, 2))
        >>> guard = sg.Guard(torch.optim.SGD([param], lr=1.0), sg.spectral_clip(2.0))
        >>> param.grad = torch.tensor([[3.0, 0.0], [0.0, 1.0]])
        >>> guard.optimizer.step()
        >>> param.grad
        tensor([[2., 0.],
                [0., 1.]])
        >>> guard.detach()

    Reference:
        Jiang, Semenov, Stich, "Enhancing LLM Training via Spectral Clipping", 2026, https://arxiv.org/abs/2603.14315
    """
    call = "spectral_clip"
    limit, shape = positive(call, "max_norm", max_norm), one_of(call, "form", form, FORMS)
    own_size = flag(call, "relative", relative)

    def decide(readings: Readings, state: State) -> tuple[Decision, State]:
        return rewriting(readings, {"norm": readings.norms()}), state

    def rewrite(grad: Tensor, place: Place) -> None:
        if grad.ndim < 2 or math.isinf(limit):
            return
        if shape == "hard" and not own_size and _known_within(place.numbers["norm"], limit):
            return
        matrix = grad.reshape(grad.shape[0], -1)  # a view; of a gradient in another order of memory, a copy
        _shrink(matrix if matrix.shape[0] <= matrix.shape[1] else matrix.t(), limit, shape, own_size)
        if matrix.data_ptr() != grad.data_ptr():
            grad.copy_(matrix.view(grad.shape))

    text = text_of(spectral_clip, max_norm=limit, form=shape, relative=own_size)
    return Policy(stateless, decide, text, rewrites=True, rewrite=rewrite)


def _known_within(norm: Any, limit: float) -> bool:
    """Whether the host knows that no singular value is above the limit, since their norm is not."""
    return not isinstance(norm, Tensor) and bool(norm <= limit)


def _shrink(matrix: Tensor, limit: float, form: str, relative: bool) -> None:
    """``M <- M - Q (1 - f(s)/s) Q^T M`` in place, with Q and s from the Gram matrix; M has no more rows than columns."""
    rows, columns = matrix.shape
    gram = matrix.new_zeros((rows, rows), dtype=torch.float64)
    for start in range(0, columns, _CHUNK):
        part = matrix[:, start : start + _CHUNK].double()
        gram.addmm_(part, part.t())
    values, vectors = torch.linalg.eigh(gram)
    singular = values.clamp_(min=0.0).sqrt_()
    bound = limit * (singular.square().mean().sqrt() if relative else torch.ones_like(singular[0]))
    # A difference of exactly zero where nothing binds: then the product is zero, and all bits stay.
    excess = 1.0 - _factor(singular, bound, form)
    project = (vectors * excess) @ vectors.t()
    for start in range(0, columns, _CHUNK):
        part = matrix[:, start : start + _CHUNK]
        wide = part.double()
        part.copy_(wide.addmm(project, wide, alpha=-1.0))


def _factor(singular: Tensor, bound: Tensor, form: str) -> Tensor:
    """``f(s) / s``; 1 where s is zero."""
    if form == "soft":
        ratio = singular / torch.where(bound > 0.0, bound, 1.0)
        return 1.0 / torch.hypot(ratio, torch.ones_like(ratio))
    return torch.where(singular > bound, bound / torch.where(singular > bound, singular, 1.0), 1.0)
