"""Activation functions with their derivatives, and what they do to a Gaussian signal, in NumPy.

The gain of an activation is the factor on the weights' standard deviation that makes up for what the activation takes away.
For the names that ``torch.nn.init.calculate_gain`` knows it is torch's number (He et al. 2015 for ReLU and its leaky kin; 5/3
for tanh and 3/4 for SELU are torch's own). For the others it is ``1 / sqrt(E[phi(z)^2])`` with ``z ~ N(0, 1)``: the same
reasoning as He's, which gives sqrt(2) for ReLU. A test holds the two against each other.

Expectations are Gauss-Hermite sums with an even number of points, so that no point falls on the kink of ReLU at zero; for
functions that are polynomials on each side of zero they are then exact.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from steadygrad.checks import show
from steadygrad.errors import ArgumentError

Values = np.ndarray[Any, np.dtype[np.float64]]
_POINTS = 200
_TORCH_GAINS = {"linear": 1.0, "sigmoid": 1.0, "tanh": 5.0 / 3.0, "relu": math.sqrt(2.0), "selu": 0.75}
_SATURATING = ("tanh", "erf", "softsign")
_SELU = (1.0507009873554805, 1.6732632423543772)


@dataclass(frozen=True)
class Activation:
    """An activation function.

    Attributes:
        name: its name, as in ``torch.nn.functional``.
        phi: the function.
        slope: its derivative.
    """

    name: str
    phi: Callable[[Values], Values]
    slope: Callable[[Values], Values]


def _leaky(name: str, below: float) -> Activation:
    return Activation(name, lambda x: np.where(x > 0, x, below * x), lambda x: np.where(x > 0, 1.0, below))


def _elu(name: str, scale: float, alpha: float) -> Activation:
    def phi(x: Values) -> Values:
        return scale * np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0.0)))

    return Activation(name, phi, lambda x: scale * np.where(x > 0, 1.0, alpha * np.exp(np.minimum(x, 0.0))))


def _erf(x: Values) -> Values:
    return np.asarray(np.vectorize(math.erf, otypes=[np.float64])(x), dtype=np.float64)


def _sigmoid(x: Values) -> Values:
    return 0.5 * (1.0 + np.tanh(0.5 * x))


def _gaussian(x: Values) -> Values:
    return np.exp(-0.5 * x * x) / math.sqrt(2.0 * math.pi)


def _below(x: Values) -> Values:
    return 0.5 * (1.0 + _erf(x / math.sqrt(2.0)))


_ALL = (
    _leaky("linear", 1.0),
    _leaky("relu", 0.0),
    _elu("elu", 1.0, 1.0),
    _elu("selu", *_SELU),
    Activation("tanh", np.tanh, lambda x: 1.0 - np.tanh(x) ** 2),
    Activation("erf", _erf, lambda x: 2.0 / math.sqrt(math.pi) * np.exp(-x * x)),
    Activation("softsign", lambda x: x / (1.0 + np.abs(x)), lambda x: (1.0 + np.abs(x)) ** -2.0),
    Activation("sigmoid", _sigmoid, lambda x: _sigmoid(x) * _sigmoid(-x)),
    Activation("softplus", lambda x: np.logaddexp(0.0, x), _sigmoid),
    Activation("gelu", lambda x: x * _below(x), lambda x: _below(x) + x * _gaussian(x)),
    Activation("silu", lambda x: x * _sigmoid(x), lambda x: _sigmoid(x) * (1.0 + x * _sigmoid(-x))),
)
_KNOWN = {activation.name: activation for activation in _ALL}
NAMES = (*_KNOWN, "leaky_relu")


def activation_named(call: str, name: object, below: float = 0.01) -> Activation:
    """The activation of this name; ``below`` is the slope of ``leaky_relu`` for negative values."""
    if name == "leaky_relu":
        return _leaky("leaky_relu", below)
    if not isinstance(name, str) or name not in _KNOWN:
        raise ArgumentError(
            f"`{call}` expected `activation` to be one of {', '.join(map(repr, NAMES))}, got {show(name)}; for another one give "
            "the name of the closest, or a `gain`",
            slug="init-activation",
        )
    return _KNOWN[name]


def _nodes() -> tuple[Values, Values]:
    points, weights = np.polynomial.hermite_e.hermegauss(_POINTS)
    return points, weights / weights.sum()


POINTS, WEIGHTS = _nodes()


def mean_square(activation: Activation, q: float) -> float:
    """``E[phi(sqrt(q) z)^2]``."""
    return float(WEIGHTS @ activation.phi(math.sqrt(q) * POINTS) ** 2)


def mean_square_slope(activation: Activation, q: float) -> float:
    """``E[phi'(sqrt(q) z)^2]``."""
    return float(WEIGHTS @ activation.slope(math.sqrt(q) * POINTS) ** 2)


def growth(activation: Activation, q: float) -> float:
    """``d/dq E[phi(sqrt(q) z)^2] = E[phi'^2 + phi phi'']``, by Stein's identity without a second derivative."""
    x = math.sqrt(q) * POINTS
    return float(WEIGHTS @ (activation.phi(x) * activation.slope(x) * POINTS)) / math.sqrt(q)


def gain_of(activation: Activation, *, deep: bool = False) -> tuple[float, str]:
    """The gain for an activation, and where it comes from.

    Args:
        activation: the activation that follows the layer.
        deep: for orthogonal weights, whose purpose is depth: tanh and its kin get the gain at which small signals neither grow
            nor shrink, ``1 / phi'(0)``. With 5/3 a deep tanh network is chaotic.
    """
    name = activation.name
    if deep and name in _SATURATING:
        return 1.0 / float(activation.slope(np.zeros(1))[0]), f"{name}: critical for small signals"
    if name in _TORCH_GAINS:
        return _TORCH_GAINS[name], name
    return mean_square(activation, 1.0) ** -0.5, f"{name}: keeps the mean square"
