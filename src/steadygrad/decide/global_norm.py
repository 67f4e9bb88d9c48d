"""Limits on the norm of many tensors laid end to end: all of them, or each optimizer parameter group.

Pascanu, Mikolov, Bengio, "On the difficulty of training recurrent neural networks", ICML 2013, arXiv:1211.5063. The file
`limits.py` says where the coefficient deviates from torch's, and why.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np

from steadygrad.checks import SLUG, non_negative, norm_exponent, positive
from steadygrad.decide.layouts import by_layout
from steadygrad.decide.limits import Limited, limit, limited_parts, limited_total, total_norm
from steadygrad.decision import Decision
from steadygrad.errors import ArgumentError
from steadygrad.policy import Policy, State, stateless, text_of
from steadygrad.readings import Layout, Readings, needs_for_norm

EPS = 1e-6
"""What torch adds to the norm. Optax, Keras and TensorFlow add nothing: give ``eps=0.0`` to get their numbers."""


def clip_by_global_norm(max_norm: float, norm_type: float = 2.0, *, eps: float = EPS) -> Policy:
    """Limit the norm of all gradients together; the direction stays.

    ``g_i <- g_i * min(1, max_norm / (n + eps))`` with ``n = (sum_i sum_j |g_ij|^p)^(1/p)``, and ``max |g_ij|`` for p = inf.
    Where ``n <= max_norm`` the coefficient is exactly 1. Where n is NaN or Inf the step is skipped.

    The default ``eps`` gives torch's numbers, at a price: where the norm is no larger than about ``eps`` itself, the result is
    well below the limit. With ``eps=0.0`` the policy gives the numbers of Optax and Keras.

    Args:
        max_norm: limit, > 0, in units of the gradient; ``inf`` only skips what is not finite.
        norm_type: the exponent p, > 0; 1, 2 and inf are the usual ones.
        eps: added to the norm, >= 0.

    Returns:
        The policy. It needs one read; p other than 2 asks for an extra reading.

    Raises:
        ArgumentError: a number is out of range.
        ArgumentTypeError: an argument is no number.

    Example:
        >>> import numpy as np, steadygrad as sg
        >>> policy = sg.clip_by_global_norm(2.5, eps=0.0)
        >>> readings = sg.Readings(sg.Layout(("a", "b")), np, np.array([9.0, 16.0]))
        >>> decision, _ = policy.decide(readings, policy.init(readings))
        >>> float(decision.scale)
        0.5

    Reference:
        Pascanu, Mikolov, Bengio, "On the difficulty of training recurrent neural networks", 2013,
        https://arxiv.org/abs/1211.5063
    """
    call = "clip_by_global_norm"
    maximum, p, tiny = positive(call, "max_norm", max_norm), norm_exponent(call, norm_type), non_negative(call, "eps", eps)
    # The record compares the threshold with the 2-norm, so the limit of another norm is not reported.
    threshold = maximum if p == 2.0 else None

    def decide(readings: Readings, state: State) -> tuple[Decision, State]:
        xp = readings.xp
        outcome = limit(xp, total_norm(readings, p), maximum, tiny)
        return limited_total(xp, outcome, threshold), state

    return Policy(stateless, decide, text_of(clip_by_global_norm, max_norm=maximum, norm_type=p, eps=tiny), needs_for_norm(p))


def clip_by_group_norm(max_norm: float | Sequence[float], norm_type: float = 2.0, *, eps: float = EPS) -> Policy:
    """Limit the norm of each optimizer parameter group by itself.

    ``g_i <- g_i * min(1, C_G / (n_G + eps))`` for every tensor i of group G, with n_G the p-norm of the group's tensors laid
    end to end. Where any group's norm is NaN or Inf the whole step is skipped.

    Args:
        max_norm: one limit for every group, or one per group in the optimizer's order; > 0, in units of the gradient.
        norm_type: the exponent p, > 0.
        eps: added to the norm, >= 0; see `clip_by_global_norm`.

    Returns:
        The policy. It needs one read; p other than 2 asks for an extra reading.

    Raises:
        ArgumentError: a number is out of range; at the first step: there are not as many limits as groups.
        ArgumentTypeError: an argument is no number.

    Example:
        >>> import numpy as np, steadygrad as sg
        >>> policy = sg.clip_by_group_norm((2.5, 1.0), eps=0.0)
        >>> readings = sg.Readings(sg.Layout(("a", "b", "c"), groups=(0, 0, 1)), np, np.array([9.0, 16.0, 0.25]))
        >>> decision, _ = policy.decide(readings, policy.init(readings))
        >>> decision.scale
        array([0.5, 0.5, 1. ])
    """
    call = "clip_by_group_norm"
    limits = _group_limits(call, max_norm)
    p, tiny = norm_exponent(call, norm_type), non_negative(call, "eps", eps)
    groups_of = by_layout(lambda layout: _Groups(layout, limits))

    def init(readings: Readings) -> State:
        groups_of(readings.layout)  # a wrong number of limits is told before the first decision
        return {}

    def decide(readings: Readings, state: State) -> tuple[Decision, State]:
        xp, groups = readings.xp, groups_of(readings.layout)
        if not groups.members:
            return Decision(), state
        parts = [
            limit(xp, total_norm(readings.select(layout, rows), p), maximum, tiny) for layout, rows, maximum in groups.members
        ]
        outcome = Limited(*(xp.stack(list(field)) for field in zip(*parts, strict=True)))
        decision = limited_parts(xp, Limited(outcome.scale[groups.group_of_row], outcome.binding, outcome.finite))
        return decision, state

    return Policy(init, decide, text_of(clip_by_group_norm, max_norm=limits, norm_type=p, eps=tiny), needs_for_norm(p))


class _Groups:
    """The rows of each parameter group of a layout, with the group's limit.

    Args:
        layout: the layout.
        limits: one limit for all groups, or one per group.
    """

    def __init__(self, layout: Layout, limits: float | tuple[float, ...]) -> None:
        present = sorted(set(layout.groups))
        num_groups = max(present, default=-1) + 1
        if isinstance(limits, tuple) and len(limits) != num_groups:
            message = (
                f"`clip_by_group_norm` expected one limit for each of the {num_groups} parameter groups, got {len(limits)}: "
                "give as many as the optimizer has groups, or one number for all"
            )
            raise ArgumentError(message, slug="group-count")
        self.members: list[tuple[Layout, list[int], float]] = []
        for group in present:
            rows = [row for row, owner in enumerate(layout.groups) if owner == group]
            self.members.append((layout.select(rows), rows, limits[group] if isinstance(limits, tuple) else limits))
        self.group_of_row = np.array([present.index(group) for group in layout.groups], dtype=np.intp)


def _group_limits(call: str, max_norm: Any) -> float | tuple[float, ...]:
    if not isinstance(max_norm, (list, tuple)):
        return positive(call, "max_norm", max_norm)
    values = cast("Sequence[Any]", max_norm)
    if not values:
        raise ArgumentError(f"`{call}` expected at least one limit, got an empty sequence", slug=SLUG)
    return tuple(positive(call, f"max_norm[{index}]", value) for index, value in enumerate(values))
