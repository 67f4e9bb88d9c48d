"""GradientStabilizer: each tensor's norm is replaced by a ratio of two averages of its norms.

T. Huang et al., "GradientStabilizer: Fix the Norm, Not the Gradient", arXiv:2502.17055v3, 2026 (in v1, "Stable-SPAM: How to Train
in 4-Bit More Stably than 16-Bit Adam", 2025, the part called AdaGN).

Deviations, and why:

- A norm enters the averages limited to between half and twice the current root mean square. Published, a spike enters the
  average of squares whole and stays there longer than in the mean: after one of 1000 times the usual norm the next 96 steps have
  less than half their length. So limited, no step after a spike is shorter than 0.95 of what it was (constant norms, defaults).
  A new level of norms, r times the old one, is taken on within about ``|ln r| / (0.375 (1 - g2))`` steps, up or down.
- The averages are divided by the weights that they have really gathered, tensor by tensor, so a tensor that has no gradient, or
  a zero one, neither counts nor loses its bias correction.
- A zero gradient stays zero; a step that is not finite is skipped and enters nothing.
"""

from __future__ import annotations

from typing import Any

from steadygrad.checks import non_negative
from steadygrad.decide.limits import tensor_norms
from steadygrad.decide.normalize import SMALLEST, multiplied
from steadygrad.decision import Array, Decision
from steadygrad.errors import ArgumentError
from steadygrad.policy import Policy, State, text_of
from steadygrad.readings import INF, Readings

_REACH = 2.0


def gradient_stabilizer(g1: float = 0.7, g2: float = 0.9, eps: float = 1e-8) -> Policy:
    """Give each tensor's gradient the norm ``mean / root mean square`` of its norms of late: about 1, whatever its scale.

    ``m <- g1 m + (1-g1) n``, ``v <- g2 v + (1-g2) n^2``, ``g <- g/n * m^/(sqrt(v^) + eps)``, where ^ is the bias correction and n
    the tensor's 2-norm, limited before it enters to between half and twice ``sqrt(v^)``. A normaliser: follow it with
    Adam, or choose the learning rate anew. While ``g1^2 < g2`` the result's norm is at most
    ``(1-g1) / sqrt((1-g2) (1 - g1^2/g2))``, 1.41 with the defaults, and 1.15 in a spike after steady norms.

    Args:
        g1: how much of the mean is kept at each step, in [0, 1).
        g2: how much of the mean of squares is kept at each step, in [0, 1).
        eps: added to the root mean square, >= 0, in units of the gradient.

    Returns:
        The policy. It needs one read and, at every step, one write. Its state is four arrays of shape ``(n,)``: ``tensor_mean``,
        ``tensor_square``, and how much weight each of them has gathered.

    Raises:
        ArgumentError: a number is out of range.
        ArgumentTypeError: an argument is no number.

    Example:
        >>> import numpy as np, steadygrad as sg
        >>> limiter = sg.Limiter(sg.gradient_stabilizer())
        >>> [round(float(limiter([np.array([x])])[0][0]), 3) for x in (5.0, 5.0, 5e6, 5.0)]
        [1.0, 1.0, 1.003, 0.955]

    Reference:
        Huang et al., "GradientStabilizer: Fix the Norm, Not the Gradient", 2026, https://arxiv.org/abs/2502.17055.
    """
    call = "gradient_stabilizer"
    keep1, keep2 = _below_one(call, "g1", g1), _below_one(call, "g2", g2)
    epsilon = non_negative(call, "eps", eps)

    def decide(readings: Readings, state: State) -> tuple[Decision, State]:
        xp = readings.xp
        norms = tensor_norms(readings, 2.0)
        finite = xp.all(norms < INF)
        counts = (norms > SMALLEST) & finite
        norms = xp.where(counts, norms, 1.0)
        entering = _within_reach(xp, norms, state)
        new = {
            "tensor_mean": keep1 * state["tensor_mean"] + (1.0 - keep1) * entering,
            "tensor_mean_weight": keep1 * state["tensor_mean_weight"] + (1.0 - keep1),
            "tensor_square": keep2 * state["tensor_square"] + (1.0 - keep2) * (entering * entering),
            "tensor_square_weight": keep2 * state["tensor_square_weight"] + (1.0 - keep2),
        }
        mean = new["tensor_mean"] / new["tensor_mean_weight"]
        root = xp.sqrt(new["tensor_square"] / new["tensor_square_weight"])
        scale = xp.where(counts, mean / (root + epsilon) / norms, 1.0)
        after = {key: xp.where(counts, value, state[key]) for key, value in new.items()}
        return multiplied(readings, scale, finite), after

    return Policy(_init, decide, text_of(gradient_stabilizer, g1=keep1, g2=keep2, eps=epsilon))


def _init(readings: Readings) -> State:
    names = ("tensor_mean", "tensor_mean_weight", "tensor_square", "tensor_square_weight")
    return {name: readings.xp.zeros_like(readings.sum_sq) for name in names}


def _within_reach(xp: Any, norms: Array, state: State) -> Array:
    """The norms, limited to what the averages of the steps before let in; whole where there are none yet."""
    weight = state["tensor_square_weight"]
    known = weight > 0.0
    usual = xp.sqrt(state["tensor_square"] / xp.where(known, weight, 1.0))
    high, low = usual * _REACH, usual / _REACH
    return xp.where(known, xp.where(norms > high, high, xp.where(norms < low, low, norms)), norms)


def _below_one(call: str, name: str, value: Any) -> float:
    result = non_negative(call, name, value)
    if result >= 1.0:
        raise ArgumentError(f"`{call}` expected `{name}` in [0, 1), got {value!r}", slug="threshold-invalid")
    return result
