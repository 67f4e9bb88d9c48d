"""Limits on each tensor by itself: its norm, or its root mean square.

Same rule as `tf.clip_by_norm` and the `clipnorm` of Keras optimizers (2-norm), and as Optax's block RMS clipping. Deviation:
where one tensor holds NaN or Inf the whole step is skipped, since a step that updates only some of the layers is no step
that anyone asked for.
"""

from __future__ import annotations

import numpy as np

from steadygrad.checks import norm_exponent, positive
from steadygrad.decide.layouts import RowConstants, by_layout
from steadygrad.decide.limits import limit, limited_parts, tensor_norms
from steadygrad.decision import Decision
from steadygrad.errors import ArgumentError
from steadygrad.policy import Policy, State, stateless, text_of
from steadygrad.readings import Layout, Readings, needs_for_norm


def clip_by_norm(max_norm: float, norm_type: float = 2.0) -> Policy:
    """Limit the norm of each gradient tensor by itself, like `tf.clip_by_norm` and the `clipnorm` of Keras.

    ``g_i <- g_i * min(1, max_norm / n_i)`` with n_i the p-norm of tensor i; nothing is added to the norm. The direction
    of each tensor stays, the proportions between the tensors do not. Where any norm is NaN or Inf the step is skipped.

    Args:
        max_norm: limit for every tensor, > 0, in units of the gradient.
        norm_type: the exponent p, > 0; 1, 2 and inf are the usual ones.

    Returns:
        The policy. It needs one read; p other than 2 asks for an extra reading.

    Raises:
        ArgumentError: a number is out of range.
        ArgumentTypeError: an argument is no number.

    Example:
        >>> import numpy as np, steadygrad as sg
        >>> policy = sg.clip_by_norm(1.0)
        >>> readings = sg.Readings(sg.Layout(("a", "b")), np, np.array([16.0, 0.25]))
        >>> decision, _ = policy.decide(readings, policy.init(readings))
        >>> decision.scale
        array([0.25, 1.  ])
    """
    call = "clip_by_norm"
    maximum, p = positive(call, "max_norm", max_norm), norm_exponent(call, norm_type)

    def decide(readings: Readings, state: State) -> tuple[Decision, State]:
        xp = readings.xp
        return limited_parts(xp, limit(xp, tensor_norms(readings, p), maximum)), state

    return Policy(stateless, decide, text_of(clip_by_norm, max_norm=maximum, norm_type=p), needs_for_norm(p))


def clip_by_rms(max_rms: float) -> Policy:
    """Limit the root mean square of each gradient tensor by itself, so that the limit does not depend on the tensor's size.

    ``g_i <- g_i / max(1, rms_i / max_rms)`` with ``rms_i = sqrt(mean |g_ij|^2)``. Where any tensor holds NaN or Inf
    the step is skipped.

    Args:
        max_rms: limit, > 0, in units of a gradient element.

    Returns:
        The policy. It needs one read, and a layout with shapes.

    Raises:
        ArgumentError: the number is out of range; at the first step: the layout has no shapes.
        ArgumentTypeError: the argument is no number.

    Example:
        >>> import numpy as np, steadygrad as sg
        >>> policy = sg.clip_by_rms(1.0)
        >>> layout = sg.Layout(("a",), shapes=((10, 10),))
        >>> decision, _ = policy.decide(sg.Readings(layout, np, np.array([1600.0])), {})
        >>> decision.scale
        array([0.25])
    """
    call = "clip_by_rms"
    maximum = positive(call, "max_rms", max_rms)
    max_norms_of = by_layout(lambda layout: RowConstants(maximum * _root_numel(call, layout)))

    def init(readings: Readings) -> State:
        max_norms_of(readings.layout)  # missing shapes are told before the first decision
        return {}

    def decide(readings: Readings, state: State) -> tuple[Decision, State]:
        xp = readings.xp
        max_norms = max_norms_of(readings.layout).like(readings.sum_sq)
        return limited_parts(xp, limit(xp, tensor_norms(readings, 2.0), max_norms)), state

    return Policy(init, decide, text_of(clip_by_rms, max_rms=maximum))


def _root_numel(call: str, layout: Layout) -> np.ndarray:
    """``sqrt(numel)`` of each tensor; 1 for an empty one, whose norm of zero no limit touches."""
    if len(layout.shapes) != len(layout):
        message = (
            f"`{call}` expected a layout with the shape of each of the {len(layout)} tensors, got {len(layout.shapes)} shapes"
        )
        raise ArgumentError(message, slug="layout-shapes")
    return np.sqrt(np.maximum(np.array(layout.numel, dtype=np.float64), 1.0))
