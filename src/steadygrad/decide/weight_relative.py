"""A limit on each tensor's step relative to its weights: stateless, scale-free, and for plain SGD.

The limit of You, Gitman, Ginsburg, "Large Batch Training of Convolutional Networks", arXiv:1708.03888 (LARS), used as a ceiling
only, as in LARC: ``lr * ||g||`` may not exceed a share of ``||w||``. It bounds a systematic explosion, which limits taken from
the history of norms follow upward.

Deviations, and why: weights below ``floor`` count as ``floor``, or a tensor that begins at zero would never move; the norm of
the weights is read at the first step and every tenth after it, since the limit itself bounds how far it drifts in between; a norm
that is not finite skips the step.
"""

from __future__ import annotations

from steadygrad.checks import positive
from steadygrad.decide.limits import limit, limited_parts, tensor_norms
from steadygrad.decide.normalize import finite_positive
from steadygrad.decision import Decision
from steadygrad.policy import Policy, State, text_of
from steadygrad.readings import INF, Readings

_NEEDS = frozenset({"lr", "param_norm:10"})


def weight_relative_clip(ratio: float = 3e-3, *, floor: float = 0.1) -> Policy:
    """Limit the step that plain SGD makes with each tensor to a share of the tensor's own norm.

    ``g_i <- g_i * min(1, ratio * max(||w_i||, floor) / (lr_i * ||g_i||))``. With momentum the update is up to ``1/(1-momentum)``
    times longer than this step. Adam and its kin divide by the gradient's size, so a limit before them means nothing: use
    the constraint `limit_update_ratio`, which limits the update itself.

    Args:
        ratio: the largest step, > 0, as a share of the norm of the weights.
        floor: what weights of a smaller norm count as, > 0, in units of the weights.

    Returns:
        The policy. It needs one read of the gradients and, every tenth step, one of the parameters. Its state is
        ``tensor_weight_norm``, shape ``(n,)``.

    Raises:
        ArgumentError: a number is out of range.
        ArgumentTypeError: an argument is no number.

    Example:
        >>> import numpy as np, steadygrad as sg
        >>> policy = sg.weight_relative_clip(0.01)
        >>> layout, squares = sg.Layout(("a", "b")), np.array([16.0, 0.01])
        >>> readings = sg.Readings(layout, np, squares, param_norm=np.array([2.0, 0.0]), lr=np.array([0.1, 0.001]))
        >>> decision, _ = policy.decide(readings, policy.init(readings))
        >>> decision.scale
        array([0.05, 1.  ])

    Reference:
        You, Gitman, Ginsburg, "Large Batch Training of Convolutional Networks", 2017, https://arxiv.org/abs/1708.03888.
    """
    call = "weight_relative_clip"
    share, least = positive(call, "ratio", ratio), finite_positive(call, "floor", floor)

    def decide(readings: Readings, state: State) -> tuple[Decision, State]:
        xp, weights = readings.xp, state["tensor_weight_norm"]
        norms = tensor_norms(readings, 2.0)
        readable = norms < INF
        finite = xp.all(readable)
        if readings.param_norm is not None:
            weights = xp.where(finite & (readings.param_norm < INF), readings.param_norm, weights)
        steps = xp.where(readable, xp.where(readable, norms, 0.0) * readings.lr, norms)  # Inf times a rate of 0 is NaN
        outcome = limit(xp, steps, share * xp.where(weights > least, weights, least))
        return limited_parts(xp, outcome), {"tensor_weight_norm": weights}

    return Policy(_init, decide, text_of(weight_relative_clip, ratio=share, floor=least), _NEEDS)


def _init(readings: Readings) -> State:
    return {"tensor_weight_norm": readings.xp.zeros_like(readings.sum_sq)}
