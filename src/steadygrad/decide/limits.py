"""The step that all norm-based policies share: from a norm and a limit to a coefficient.

Pascanu, Mikolov, Bengio, "On the difficulty of training recurrent neural networks", ICML 2013, arXiv:1211.5063, algorithm 1.

Deviations, and why:

- A norm at or below the limit gives a coefficient of exactly 1 (torch multiplies by ``max_norm / (norm + 1e-6)`` as soon as
  that quotient is below 1, which is a little earlier). So the write can be left out and the gradient keeps its bits.
- A norm that is not finite gives 1 and asks for the step to be skipped. Dividing by it would turn finite gradients
  into zero or NaN.
- A norm of zero gives 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from steadygrad.decision import Array, Decision, Reason
from steadygrad.readings import INF, Readings

_SMALLEST, _LARGEST = 1e-37, 1e38
_NONE, _CLIPPED, _NON_FINITE = int(Reason.NONE), int(Reason.CLIPPED), int(Reason.NON_FINITE)
_REWRITTEN = int(Reason.REWRITTEN)


class Limited(NamedTuple):
    """Outcome of a comparison with a limit; each field has the shape of the norm.

    Attributes:
        scale: the coefficient, in (0, 1]; exactly 1 where the limit does not bind.
        binding: whether the norm is finite and above the limit.
        finite: whether the norm is finite.
    """

    scale: Array
    binding: Array
    finite: Array


def limit(xp: Any, norm: Array, maximum: Array, eps: float = 0.0) -> Limited:
    """Coefficient ``min(1, maximum / (norm + eps))``, exactly 1 where ``norm <= maximum``.

    Args:
        xp: the array namespace.
        norm: one norm or several, >= 0, or NaN or Inf.
        maximum: the limit, > 0, possibly infinite; a number or an array of the norm's shape.
        eps: added to the norm where the limit binds.

    Returns:
        Coefficient, whether it binds, whether the norm is finite.

    Example:
        >>> limit(np, np.array([0.5, 4.0, np.nan]), 2.0).scale
        array([1. , 0.5, 1. ])
    """
    finite = norm < INF  # false for NaN as well, and much cheaper than `isfinite` on a NumPy scalar
    binding = (norm > maximum) & finite
    # `where` keeps zero and Inf out of the divisor: no warning on NumPy, no NaN in the branch not taken.
    if isinstance(maximum, float) and _SMALLEST < maximum < _LARGEST:
        return Limited(maximum / xp.where(binding, norm + eps, maximum), binding, finite)
    # A limit that float32 cannot hold must not become the divisor: 0/0 and inf/inf are NaN.
    return Limited(xp.where(binding, maximum / xp.where(binding, norm + eps, 1.0), 1.0), binding, finite)


def limited_total(xp: Any, outcome: Limited, threshold: float | None) -> Decision:
    """The decision of a policy with one norm."""
    reason = xp.where(outcome.finite, xp.where(outcome.binding, _CLIPPED, _NONE), _NON_FINITE)
    return Decision(scale=outcome.scale, skip=~outcome.finite, reason=reason, threshold=threshold)


def limited_parts(xp: Any, outcome: Limited) -> Decision:
    """The decision of a policy with a norm per tensor: one norm that is not finite skips the whole step.

    No threshold is reported: the record compares it with the total norm, and this limit is for a part.
    """
    whole = Limited(outcome.scale, xp.any(outcome.binding), xp.all(outcome.finite))
    return limited_total(xp, whole, None)


def total_norm(readings: Readings, p: float) -> Array:
    """The readings' total p-norm, infinite where an element is not finite, whatever the p-norm makes of it."""
    with np.errstate(over="ignore"):
        total = readings.total_norm(p)
        if p == 2.0:
            return total
        return readings.xp.where(readings.xp.all(readings.sum_sq < INF), total, INF)


def tensor_norms(readings: Readings, p: float) -> Array:
    """The p-norm of each tensor, infinite where it holds an element that is not finite."""
    with np.errstate(over="ignore"):
        norms = readings.norms(p)
        return norms if p == 2.0 else readings.xp.where(readings.sum_sq < INF, norms, INF)


def rewriting(readings: Readings, numbers: Mapping[str, Array] | None = None) -> Decision:
    """The decision of a transform: to rewrite with these numbers, but where an element is not finite to skip the step."""
    xp = readings.xp
    finite = xp.all(readings.sum_sq < INF)
    return Decision(numbers=numbers or {}, skip=~finite, reason=xp.where(finite, _REWRITTEN, _NON_FINITE))
