"""Mean-field theory of wide networks: the edge of chaos.

Poole, Lahiri, Raghu, Sohl-Dickstein, Ganguli, "Exponential expressivity in deep neural networks through transient chaos", 2016,
arXiv:1606.05340; Schoenholz, Gilmer, Ganguli, Sohl-Dickstein, "Deep Information Propagation", 2017, arXiv:1611.01232. With
weights of variance ``sw2 / fan_in`` and biases of variance ``sb2`` the mean square q of a layer's inputs to the activation obeys
``q <- sw2 E[phi(sqrt(q) z)^2] + sb2``, and a gradient's mean square grows from layer to layer by the factor
``chi1 = sw2 E[phi'(sqrt(q) z)^2]``.

Deviations: the papers sweep (sw2, sb2); here q is chosen and the one critical pair that has it as its fixed point is given in
closed form, so that no search can fail. The length scale of gradients, ``1 / |ln chi1|``, is given on both sides; in the ordered
phase it is the correlation length as well. Dropout removes the critical point, which these equations do not know of.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from steadygrad.checks import non_negative, positive, show
from steadygrad.errors import ArgumentError
from steadygrad.prevent.activations import Activation, activation_named, growth, mean_square, mean_square_slope

SLUG = "no-critical-point"
_ITERATIONS, _TOLERANCE, _ROUNDING, _UNBOUNDED = 20_000, 1e-14, 1e-9, 1e12


class MeanField(NamedTuple):
    """The fixed point of a wide, deep network.

    Attributes:
        q: mean square of the inputs to the activation.
        chi1: factor on the mean square of gradients per layer: below 1 they vanish, above 1 they explode.
        depth_scale: ``1 / |ln chi1|``, in layers: over that depth gradients change by a factor of e. Networks train up to about
            6 times as deep.
        q_scale: ``1 / |ln(dq_next / dq)|``, in layers: how soon the signal forgets its first length.
    """

    q: float
    chi1: float
    depth_scale: float
    q_scale: float


class CriticalPoint(NamedTuple):
    """Variances at which gradients neither vanish nor explode.

    Attributes:
        weight_variance: ``sw2``; a weight has the variance ``sw2 / fan_in``.
        bias_variance: ``sb2``.
        q: the fixed point that was asked for.
        q_slope: ``dq_next / dq`` there: below 1 signals of another length come to q, above 1 they leave it.
    """

    weight_variance: float
    bias_variance: float
    q: float
    q_slope: float


def mean_field(activation: str, weight_variance: float, bias_variance: float) -> MeanField:
    """Where the signal settles, and how gradients change per layer.

    ``q = sw2 E[phi(sqrt(q) z)^2] + sb2``, ``chi1 = sw2 E[phi'(sqrt(q) z)^2]``, reached by iteration from ``q = 1``.

    Args:
        activation: name of the activation: "tanh", "erf", "relu", "leaky_relu", "sigmoid", "gelu", "silu", "elu",
            "selu", "softplus", "softsign" or "linear".
        weight_variance: ``sw2 > 0``: variance of a weight times fan_in.
        bias_variance: ``sb2 >= 0``: variance of a bias.

    Returns:
        The fixed point.

    Raises:
        ArgumentError: a number is out of range, or the signal settles nowhere.

    Example:
        >>> round(mean_field("tanh", 1.0, 0.05).chi1, 3)
        0.759

    Reference:
        Schoenholz et al., "Deep Information Propagation", 2017, https://arxiv.org/abs/1611.01232
    """
    call = "mean_field"
    kind = activation_named(call, activation)
    weights = positive(call, "weight_variance", weight_variance)
    biases = non_negative(call, "bias_variance", bias_variance)
    q = _settle(call, kind, weights, biases)
    chi1 = weights * mean_square_slope(kind, q)
    return MeanField(q, chi1, _scale(chi1), _scale(weights * growth(kind, q)) if q > 0 else _scale(chi1))


def critical_point(activation: str, q: float) -> CriticalPoint:
    """The critical variances with fixed point ``q``: ``sw2 = 1 / E[phi'(sqrt(q) z)^2]``, ``sb2 = q - sw2 E[phi(sqrt(q) z)^2]``.

    Args:
        activation: name of the activation, as for `mean_field`.
        q: mean square of the inputs to the activation, > 0. Small values suit deep networks: 1 / depth is usual.

    Returns:
        The variances, for which ``chi1 = 1``.

    Raises:
        ArgumentError: q is out of range, or no bias variance of 0 or more makes this q a fixed point.

    Example:
        >>> point = critical_point("tanh", 1 / 16)
        >>> round(point.weight_variance, 5), round(point.bias_variance, 7)
        (1.11538, 0.0002369)

    Reference:
        Schoenholz et al., "Deep Information Propagation", 2017, https://arxiv.org/abs/1611.01232
    """
    call = "critical_point"
    kind, size = activation_named(call, activation), positive(call, "q", q)
    if math.isinf(size):
        raise ArgumentError(f"`{call}` expected `q` to be finite, got inf", slug=SLUG)
    return solve_critical(call, kind, size)


def solve_critical(call: str, kind: Activation, q: float) -> CriticalPoint:
    """The same for an activation; ``call`` is for the message."""
    weights, biases = _pair(kind, q)
    if biases < -_ROUNDING * q:
        possible = [float(g) for g in np.geomspace(1e-4, 1e4, 161) if _pair(kind, float(g))[1] >= 0.0]
        advice = f"the smallest that works is about {min(possible):.3g}" if possible else "no q works; use another activation"
        raise ArgumentError(
            f"`{call}` expected a `q` that {kind.name} can have at the critical point, got {show(q)}, which would take a bias "
            f"variance of {biases:.3g}: {advice}",
            slug=SLUG,
        )
    return CriticalPoint(weights, max(biases, 0.0) if biases > _ROUNDING * q else 0.0, q, weights * growth(kind, q))


def _pair(kind: Activation, q: float) -> tuple[float, float]:
    weights = 1.0 / mean_square_slope(kind, q)
    return weights, q - weights * mean_square(kind, q)


def _settle(call: str, kind: Activation, weights: float, biases: float) -> float:
    q = 1.0
    for _ in range(_ITERATIONS):
        following = weights * mean_square(kind, q) + biases
        if not following < _UNBOUNDED:
            break
        if abs(following - q) <= _TOLERANCE * q:
            return following
        if following < _TOLERANCE:
            return 0.0
        q = following
    raise ArgumentError(
        f"`{call}` expected variances for which the signal settles, got sw2 = {show(weights)}, sb2 = {show(biases)}: with "
        f"{kind.name} it is at {q:.3g} after many layers and still moves; take a smaller `weight_variance`",
        slug=SLUG,
    )


def _scale(factor: float) -> float:
    distance = abs(math.log(factor)) if factor > 0.0 else math.inf
    return math.inf if distance < _TOLERANCE else 1.0 / distance
