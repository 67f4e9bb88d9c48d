"""Adaptive gradient clipping: a limit per unit, relative to the unit's own weights.

A. Brock, S. De, S. L. Smith, K. Simonyan, "High-Performance Large-Scale Image Recognition Without Normalization", ICML 2021,
arXiv:2102.06171, equation 3. A unit is a row of a linear layer or an output channel of a convolution; a tensor of one dimension
is one unit.

Deviations, and why: nothing is added to the gradient's norm, which is divided by only where it is above its limit; a unit at or
below its limit keeps its bits; units that are known by their modules lie along the output channels of transposed convolutions
too; where any gradient is not finite the step is skipped.
"""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any, cast

import numpy as np

from steadygrad.checks import positive, show
from steadygrad.decide.layouts import RowConstants, by_layout
from steadygrad.decide.limits import limit, limited_parts
from steadygrad.decision import Decision
from steadygrad.errors import ArgumentError, ArgumentTypeError
from steadygrad.policy import Policy, State, text_of
from steadygrad.readings import INF, Layout, Readings

_CALL = "adaptive_grad_clip"
_NEEDS = frozenset({"units"})
_SHOWN = 5


def adaptive_grad_clip(clipping: float = 0.01, *, eps: float = 1e-3, exclude: str | Sequence[str] = ()) -> Policy:
    """Limit the gradient of each unit to a share of the norm of its weights (AGC).

    ``g_u <- g_u * min(1, clipping * max(||w_u||, eps) / ||g_u||)`` for every row of a linear layer, output channel of a
    convolution, or tensor of one dimension. Weights that begin at zero are held to ``clipping * eps``, 1e-5 with the defaults, so
    leave out what is meant to grow from zero: gains of residual branches, the second matrix of a low-rank adapter. The paper
    leaves out the last linear layer too.

    Args:
        clipping: the largest gradient, > 0, as a share of the norm of the weights. The paper uses 0.01 at a batch of 4096, and
            more for smaller batches.
        eps: what weights of a smaller norm count as, > 0, in units of the weights.
        exclude: names of parameters to leave alone: a shell pattern (``*``, ``?``, ``[...]``, case counts) or several.

    Returns:
        The policy. It needs one read of the gradients and one of the parameters; it may change a tensor's direction, so what
        follows it in a chain measures again.

    Raises:
        ArgumentError: a number is out of range, or a pattern is empty; at the first step: a pattern matches no name, or the
            layout has no shapes.
        ArgumentTypeError: an argument is of the wrong kind.

    Example:
        >>> import numpy as np, steadygrad as sg
        >>> policy = sg.adaptive_grad_clip(exclude="head.*")
        >>> layout = sg.Layout(("body.weight", "head.weight"), shapes=((2, 3), (1, 3)))
        >>> units, weights = np.array([1.0, 1e-6, 1.0]), np.array([5.0, 2.0, 1.0])
        >>> readings = sg.Readings(layout, np, np.array([1.0, 1.0]), unit_sum_sq=units, unit_param_norm=weights)
        >>> decision, _ = policy.decide(readings, policy.init(readings))
        >>> decision.unit_scale
        array([0.05, 1.  , 1.  ])

    Reference:
        Brock, De, Smith, Simonyan, "High-Performance Large-Scale Image Recognition Without Normalization", 2021,
        https://arxiv.org/abs/2102.06171.
    """
    share, least, patterns = positive(_CALL, "clipping", clipping), positive(_CALL, "eps", eps), _patterns(exclude)
    extra_of = by_layout(lambda layout: RowConstants(_unlimited(layout, patterns)))

    def init(readings: Readings) -> State:
        extra_of(readings.layout)  # a pattern without a match is told before the first decision
        return {}

    def decide(readings: Readings, state: State) -> tuple[Decision, State]:
        xp, weights = readings.xp, readings.unit_param_norm
        if readings.unit_sum_sq is None or weights is None:
            raise LookupError("the reading 'units' was not measured: it needs the parameters")
        maximum = share * xp.where(weights > least, weights, least) + extra_of(readings.layout).like(readings.unit_sum_sq)
        decision = limited_parts(xp, limit(xp, xp.sqrt(readings.unit_sum_sq), maximum))
        return Decision(unit_scale=decision.scale, skip=decision.skip, reason=decision.reason), state

    shown = patterns[0] if len(patterns) == 1 else patterns
    text = text_of(adaptive_grad_clip, clipping=share, eps=least, exclude=shown)
    return Policy(init, decide, text, _NEEDS, rewrites=True)


def _unlimited(layout: Layout, patterns: tuple[str, ...]) -> np.ndarray:
    """What is added to each unit's limit: infinity where its tensor is left out, else 0."""
    if len(layout.shapes) != len(layout):
        message = f"`{_CALL}` expected a layout with the shape of each tensor, got {len(layout.shapes)} of {len(layout)} shapes"
        raise ArgumentError(message, slug="layout-shapes")
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in layout.names):
            known = ", ".join(repr(name) for name in layout.names[:_SHOWN]) + (", ..." if len(layout) > _SHOWN else "")
            message = f"`{_CALL}` found no parameter whose name matches {pattern!r} of `exclude` (names: {known})"
            raise ArgumentError(message, slug="pattern-no-match")
    left_out = np.array([any(fnmatchcase(name, pattern) for pattern in patterns) for name in layout.names], np.bool_)
    return np.where(left_out, INF, 0.0)[layout.tensor_of_unit]


def _patterns(exclude: Any) -> tuple[str, ...]:
    patterns: tuple[Any, ...] = tuple(cast("Sequence[Any]", exclude)) if isinstance(exclude, (list, tuple)) else (exclude,)
    if not all(isinstance(pattern, str) for pattern in patterns):
        message = f"`{_CALL}` expected `exclude` to be a name pattern or several, got {show(exclude)}"
        raise ArgumentTypeError(message, slug="pattern-invalid")
    if not all(patterns):
        message = f"`{_CALL}` expected patterns with at least one character in `exclude`, got {show(exclude)}"
        raise ArgumentError(message, slug="pattern-invalid")
    return patterns
