"""Gradients of a norm of one's own choosing: only the direction counts, or mostly.

E. Hazan, K. Levy, S. Shalev-Shwartz, "Beyond Convexity: Stochastic Quasi-Convex Optimization", NeurIPS 2015, arXiv:1507.02030,
algorithm 1 (normalised gradient descent); Z. Bu, Y.-X. Wang, S. Zha, G. Karypis, "Automatic Clipping: Differentially Private
Deep Learning Made Easier and Stronger", NeurIPS 2023, arXiv:2206.07136 (``1 / (norm + b)`` in the place of clipping).

Deviations, and why:

- A gradient of norm zero stays zero and its factor is exactly 1, whatever the epsilon. So is one whose norm is below 1e-30: a
  factor that brought it to 1 would not fit float32.
- A norm that is not finite skips the step.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from steadygrad.checks import non_negative, one_of, positive
from steadygrad.decide.limits import tensor_norms, total_norm
from steadygrad.decision import Array, Decision, Reason
from steadygrad.policy import Policy, State, stateless, text_of
from steadygrad.readings import INF, Readings

SCOPES = ("global", "tensor")
SMALLEST = 1e-30
"""A norm below it counts as zero: its inverse does not fit float32."""
_NONE, _NORMALIZED, _NON_FINITE = int(Reason.NONE), int(Reason.NORMALIZED), int(Reason.NON_FINITE)


def normalize(scope: str = "global", *, norm: float = 1.0, eps: float = 1e-8) -> Policy:
    """Bring the gradient to one norm at every step, so that only its direction counts.

    ``g <- g * norm / (n + eps)`` with n the 2-norm of all gradients, or of each tensor by itself. Small gradients are
    enlarged, so what is left of a vanished gradient becomes a full step: the learning rate alone ends training, by a schedule.
    Optimizers that divide by the gradient's own size, such as Adam, do much of this already.

    Args:
        scope: ``"global"``: one norm of all gradients; ``"tensor"``: each tensor by itself.
        norm: the norm to bring it to, > 0, in units of the gradient.
        eps: added to the norm, >= 0: gradients far below it stay small.

    Returns:
        The policy. It needs one read and, at every step, one write.

    Raises:
        ArgumentError: a number is out of range, or the scope is neither of the two.
        ArgumentTypeError: an argument is of the wrong kind.

    Example:
        >>> import numpy as np, steadygrad as sg
        >>> sg.Limiter(sg.normalize())([np.array([3.0, -4.0])])[0].round(6)
        array([ 0.6, -0.8])

    Reference:
        Hazan, Levy, Shalev-Shwartz, "Beyond Convexity: Stochastic Quasi-Convex Optimization", 2015,
        https://arxiv.org/abs/1507.02030.
    """
    call = "normalize"
    one_of(call, "scope", scope, SCOPES)
    length, epsilon = finite_positive(call, "norm", norm), non_negative(call, "eps", eps)

    def factor(xp: Any, norms: Array) -> Array:
        there = norms > SMALLEST
        return xp.where(there, length / (xp.where(there, norms, 1.0) + epsilon), 1.0)

    return Policy(stateless, by_scope(scope, factor), text_of(normalize, scope=scope, norm=length, eps=epsilon))


def smooth_normalize(a: float = 1.0, b: float = 1.0, scope: str = "global") -> Policy:
    """Normalise smoothly: large gradients get the norm ``a``, small ones the factor ``a / b``.

    ``g <- g * a / (n + b)`` with n the 2-norm of all gradients, or of each tensor by itself. The norm of the result is below
    a and grows with n, and the factor depends smoothly on the gradient.

    Args:
        a: the norm that large gradients approach, > 0, in units of the gradient.
        b: the norm at which half of it is reached, > 0, in units of the gradient.
        scope: ``"global"``: one norm of all gradients; ``"tensor"``: each tensor by itself.

    Returns:
        The policy. It needs one read and, at every step, one write.

    Raises:
        ArgumentError: a number is out of range, or the scope is neither of the two.
        ArgumentTypeError: an argument is of the wrong kind.

    Example:
        >>> import numpy as np, steadygrad as sg
        >>> float(sg.Limiter(sg.smooth_normalize())([np.array([3.0])])[0][0])
        0.75

    Reference:
        Bu, Wang, Zha, Karypis, "Automatic Clipping: Differentially Private Deep Learning Made Easier and Stronger", 2023,
        https://arxiv.org/abs/2206.07136.
    """
    call = "smooth_normalize"
    one_of(call, "scope", scope, SCOPES)
    above, below = finite_positive(call, "a", a), finite_positive(call, "b", b)

    def factor(xp: Any, norms: Array) -> Array:
        return xp.where(norms > 0.0, above / (norms + below), 1.0)

    return Policy(stateless, by_scope(scope, factor), text_of(smooth_normalize, a=above, b=below, scope=scope))


def by_scope(scope: str, factor: Callable[[Any, Array], Array]) -> Callable[[Readings, State], tuple[Decision, State]]:
    """A ``decide`` that multiplies by a factor of the norm: of all gradients, or of each tensor by itself.

    Args:
        scope: one of ``SCOPES``.
        factor: from the namespace and finite norms >= 0 to factors of the same shape.
    """

    def decide(readings: Readings, state: State) -> tuple[Decision, State]:
        xp = readings.xp
        norms = total_norm(readings, 2.0) if scope == "global" else tensor_norms(readings, 2.0)
        finite = norms < INF
        scale = xp.where(finite, factor(xp, xp.where(finite, norms, 0.0)), 1.0)
        return multiplied(readings, scale, xp.all(finite)), state

    return decide


def multiplied(readings: Readings, scale: Array, finite: Array) -> Decision:
    """The decision to multiply by ``scale``, or to skip where something is not finite."""
    xp = readings.xp
    reason = xp.where(finite, xp.where(xp.any(scale != 1.0), _NORMALIZED, _NONE), _NON_FINITE)
    return Decision(scale=scale, skip=~finite, reason=reason)


def finite_positive(call: str, name: str, value: Any) -> float:
    """The value as a finite float above zero: a gradient cannot be brought to an infinite norm."""
    return min(positive(call, name, value), non_negative(call, name, value))
