"""Soft limits on the norm: the factor goes smoothly from 1 to ``max_norm / n`` instead of turning a corner.

A. Koloskova, H. Hendrikx, S. Stich, "Revisiting Gradient Clipping: Stochastic bias and tight convergence guarantees", ICML 2023,
arXiv:2305.01588, studies clipping of this kind. Deviations from the formulas as they are usually written: both are computed from
ratios that are at most 1, so nothing overflows; a gradient of norm zero has the factor 1; a norm that is not finite
skips the step.
"""

from __future__ import annotations

from typing import Any

from steadygrad.checks import one_of
from steadygrad.decide.normalize import SCOPES, by_scope, finite_positive
from steadygrad.decision import Array
from steadygrad.policy import Policy, stateless, text_of

_FORMS = ("rational", "sqrt")


def soft_clip_norm(max_norm: float, *, form: str = "rational", scope: str = "global") -> Policy:
    """Limit the norm smoothly: the result's norm grows with the gradient's and stays below ``max_norm``.

    ``g <- g / (1 + n/max_norm)`` (``"rational"``) or ``g <- g / sqrt(1 + (n/max_norm)^2)`` (``"sqrt"``), with n the 2-norm of
    all gradients, or of each tensor by itself. Every gradient is made shorter, not only large ones: at ``n = max_norm`` to
    0.5 or 0.707 of its norm.

    Args:
        max_norm: the norm that large gradients approach, > 0, in units of the gradient.
        form: ``"rational"``, or ``"sqrt"``, which leaves small gradients more nearly as they are.
        scope: ``"global"``: one norm of all gradients; ``"tensor"``: each tensor by itself.

    Returns:
        The policy. It needs one read and, at every step, one write.

    Raises:
        ArgumentError: the number is out of range, or the form or the scope is not known.
        ArgumentTypeError: an argument is of the wrong kind.

    Example:
        >>> import numpy as np, steadygrad as sg
        >>> float(sg.Limiter(sg.soft_clip_norm(1.0))([np.array([3.0])])[0][0])
        0.75

    Reference:
        Koloskova, Hendrikx, Stich, "Revisiting Gradient Clipping: Stochastic bias and tight convergence guarantees", 2023,
        https://arxiv.org/abs/2305.01588.
    """
    call = "soft_clip_norm"
    maximum = finite_positive(call, "max_norm", max_norm)
    one_of(call, "form", form, _FORMS)
    one_of(call, "scope", scope, SCOPES)

    def rational(xp: Any, norms: Array) -> Array:
        del xp
        return maximum / (maximum + norms)

    def root(xp: Any, norms: Array) -> Array:
        largest = xp.where(norms > maximum, norms, maximum)
        ours, theirs = maximum / largest, norms / largest
        return ours / xp.sqrt(ours * ours + theirs * theirs)

    text = text_of(soft_clip_norm, max_norm=maximum, form=form, scope=scope)
    return Policy(stateless, by_scope(scope, rational if form == "rational" else root), text)
