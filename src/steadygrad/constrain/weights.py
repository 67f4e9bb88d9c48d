"""Bounds on the weights themselves: the norm of each unit's weights, and the largest singular value of a matrix.

`max_norm_weights` is the constraint of Srebro and Shraibman (2005) that Hinton et al. (2012) used with dropout. `spectral_bound`
keeps the power iteration of Miyato et al. (2018, algorithm 1): one vector per matrix that is carried from step to step.
Deviations from the latter: the weight is only scaled down where it exceeds the bound, it is not divided by sigma always; and
it is changed after the step rather than reparametrised in the forward pass, so there is no gradient through sigma.

Both move weights behind the optimizer's back. Momentum does not mind; LBFGS, which infers curvature from its own past steps,
does: do not combine them.
"""

from __future__ import annotations

# Where torch is not annotated:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
import torch
from torch import Tensor

from steadygrad.checks import SLUG, count, positive, show
from steadygrad.constrain.arithmetic import constraint, parts_of_norm, real, wide
from steadygrad.errors import ArgumentError, ArgumentTypeError
from steadygrad.policy import Place, Policy, text_of

_FIRST = 20  # iterations of the first step, in which u is far from where it belongs


def max_norm_weights(max_norm: float = 3.0, *, dim: int = 0) -> Policy:
    """Limit the 2-norm of each unit's weights after the step.

    ``w_j <- w_j * min(1, max_norm / |w_j|)`` for each slice ``w_j`` along ``dim``. With ``dim=0`` a slice is what feeds one
    unit of a linear layer or one output channel of a convolution (of a transposed one: ``dim=1``). Tensors of fewer than two
    dimensions (biases, gains) are left alone.

    Costs one more tensor of the largest parameter's size, and about four reads and two writes of each parameter. The write
    always happens; slices within the limit, and those that are not finite, are multiplied by exactly 1. To use with dropout
    and high learning rates, where weights grow without limit.

    Args:
        max_norm: the limit, > 0, in units of the weights' norm; 3 or 4 is usual.
        dim: the dimension along which the units lie; negative ones count from the end.

    Returns:
        The policy; it acts after the step.

    Raises:
        ArgumentError: the number is out of range; at the first step: a parameter has no such dimension.
        ArgumentTypeError: an argument is no number.

    Example:
        >>> import torch, steadygrad as sg
        >>> weight = torch.tensor([[3.0, 4.0], [1.0, 0.0]])
        >>> sg.max_norm_weights(3.0).constraints[0].limit(sg.policy.Place("w", weight, {}, {}, {}, {}, 0))
        >>> weight
        tensor([[1.8000, 2.4000],
                [1.0000, 0.0000]])

    Reference:
        Hinton, Srivastava, Krizhevsky, Sutskever, Salakhutdinov, "Improving neural networks by preventing co-adaptation of
        feature detectors", 2012, https://arxiv.org/abs/1207.0580.
    """
    call = "max_norm_weights"
    maximum = positive(call, "max_norm", max_norm)
    if isinstance(dim, bool) or not isinstance(dim, int):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ArgumentTypeError(f"`{call}` expected `dim` to be an integer, got {show(dim)}", slug=SLUG)

    def limit(place: Place) -> None:
        param = place.param.detach()
        if param.ndim < 2:
            return
        if not -param.ndim <= dim < param.ndim:
            message = f"`{call}` expected parameters with a dimension {dim}, got {place.name!r} of shape {tuple(param.shape)}"
            raise ArgumentError(f"{message}; leave it out with `masked`", slug="constraint-dim")
        others = tuple(d for d in range(param.ndim) if d != dim % param.ndim)
        values = wide(param)
        _, peak, size = parts_of_norm(values, others)
        param.copy_(values.mul_(_factor(maximum, peak, size)))

    return constraint(text_of(max_norm_weights, max_norm=maximum, dim=dim), limit)


def spectral_bound(max_norm: float = 1.0, *, iterations: int = 1) -> Policy:
    """Limit the largest singular value of each weight matrix after the step.

    ``w <- w * min(1, max_norm / sigma)`` with sigma from power iteration: ``v = W^T u / |W^T u|``, ``sigma = |W v|``,
    ``u = W v / sigma``. The vector u lives on from step to step, so one iteration per step follows weights that change slowly;
    the first step makes at least 20. The estimate comes from below, so a weight may exceed the bound a little: by less
    than 1 % after 20 iterations where the second singular value is at most 0.8 of the largest, by a few where they are closer.

    A weight of more than two dimensions is taken as the matrix ``(shape[0], rest)``. For a convolution sigma is then not the
    norm of the operator; that is at most sigma times the square root of the number of kernel positions. Tensors of fewer than two
    dimensions are left alone.

    Costs two reads of each matrix per iteration and one read and write to scale it, besides a copy in half precision; two
    vectors of ``shape[0]`` numbers are kept per matrix. The write always happens; within the bound, at sigma 0, and where a
    weight is not finite it multiplies by exactly 1. To use for layers that feed back into themselves, critics, and attention
    that saturates.

    Args:
        max_norm: the limit of the largest singular value, > 0.
        iterations: power iterations per step, >= 1.

    Returns:
        The policy; it acts after the step.

    Raises:
        ArgumentError: a number is out of range.
        ArgumentTypeError: an argument is no number.
        UnsupportedError: at the first step: a complex parameter.

    Example:
        >>> import torch, steadygrad as sg
        >>> weight = torch.diag(torch.tensor([5.0, 1.0]))
        >>> sg.spectral_bound(2.0, iterations=20).constraints[0].limit(sg.policy.Place("w", weight, {}, {}, {}, {}, 0))
        >>> weight
        tensor([[2.0000, 0.0000],
                [0.0000, 0.4000]])

    Reference:
        Miyato, Kataoka, Koyama, Yoshida, "Spectral Normalization for Generative Adversarial Networks", 2018,
        https://arxiv.org/abs/1802.05957.
    """
    call = "spectral_bound"
    maximum, rounds = positive(call, "max_norm", max_norm), count(call, "iterations", iterations)

    def limit(place: Place) -> None:
        param = real(call, place.param)
        if param.ndim < 2:
            return
        values = wide(param)
        peak, size = _largest_singular_value(values.flatten(1), place, rounds)
        param.copy_(values.mul_(_factor(maximum, peak, size)))

    return constraint(text_of(spectral_bound, max_norm=maximum, iterations=rounds), limit)


def _largest_singular_value(matrix: Tensor, place: Place, rounds: int) -> tuple[Tensor, Tensor]:
    """The estimate as a product of two factors, each of shape ``()``; moves the vectors in ``place.memory`` on.

    A matrix that is not finite leaves u as it was. One that u does not feel (zero, or orthogonal to u) starts it anew: else
    u would stay where it is for ever.
    """
    memory = place.memory
    if "u" not in memory:
        memory["start"] = _start(matrix)
        memory["u"] = memory["start"].clone()
        rounds = max(rounds, _FIRST)
    u = memory["u"]
    for _ in range(rounds):
        v, inner, length = parts_of_norm(matrix.mT @ u)
        v = v / torch.where(length > 0, length, 1.0)
        moved, peak, size = parts_of_norm(matrix @ v)
        alive = (peak > 0) & (inner > 0)
        moved = torch.where(alive, moved / torch.where(alive, size, 1.0), memory["start"])
        u = torch.where(torch.isfinite(size), moved, u)
    memory["u"] = u
    return peak, size  # pyright: ignore[reportPossiblyUnboundVariable]  # there is at least one round


def _start(matrix: Tensor) -> Tensor:
    """A unit vector of one entry per row, always the same: random, for no fixed pattern meets every matrix; from a generator of
    its own, so that the model's random numbers are not touched.
    """
    rows = matrix.shape[0]
    noise = torch.randn(rows, generator=torch.Generator().manual_seed(rows), dtype=torch.float64)
    return (noise / torch.linalg.vector_norm(noise)).to(matrix)


def _factor(maximum: float, peak: Tensor, size: Tensor) -> Tensor:
    """``min(1, maximum / norm)`` for ``norm = peak * size``; exactly 1 where it does not bind or is not finite."""
    binding = (peak * size > maximum) & torch.isfinite(size)
    return torch.where(binding, maximum / torch.where(binding, peak, 1.0) / torch.where(binding, size, 1.0), 1.0)
