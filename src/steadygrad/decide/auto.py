"""Clipping with no threshold to choose: each gradient against its own history, and all steps against the weights.

Own rule; no paper. Its parts are known: a test on the logarithm of the norm, Huber's winsorised location and scale as running
means (P. J. Huber, "Robust Estimation of a Location Parameter", 1964), a trust ratio like that of LARS (You, Gitman, Ginsburg
2017, arXiv:1708.03888) used as a bound only. What differs, and why:

- Two mechanisms, because there are two ways to fail. A test against history stops an isolated spike, but follows a network that
  explodes over many steps. A bound by the weights stops the latter from the first step on, but knows nothing of a spike under
  Adam, where the step does not grow with the gradient.
- The statistics see every finite gradient, winsorised: a spike moves them by a bounded amount, and a new level that stays is
  taken over in a time that grows with the logarithm of the jump. Rules that feed back the clipped norm need thousands of steps.
- A spike is scaled to the usual norm and not to the limit, and only in the tensors that are out of line themselves.
- The bound is one for all tensors together, so that it turns no direction and a bias that begins at zero may grow.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from steadygrad.checks import positive
from steadygrad.decide.limits import limit
from steadygrad.decision import Array, Decision, Reason
from steadygrad.policy import NO_NEEDS, Policy, State, text_of
from steadygrad.readings import INF, Readings

DEVIATIONS, MAX_UPDATE = 6.0, 0.005
MEMORY = 32
"""A new reading's weight in the running means is one over this, once as many have been seen."""
START = 8
"""Readings of a tensor before its history is used; until then nothing is winsorised."""
WINSOR, FLOOR, FIRST_SPREAD = 2.5, 0.05, 1.0
_TO_SIGMA = 1.25
"""Standard deviation over mean absolute deviation of a normal distribution, ``sqrt(pi/2)``."""
_NONE, _CLIPPED, _NON_FINITE = int(Reason.NONE), int(Reason.CLIPPED), int(Reason.NON_FINITE)


class _History(NamedTuple):
    """Running statistics of the logarithms of norms, shape ``(n + 1,)``: the tensors' and, last, the total's."""

    center: Array
    spread: Array
    seen: Array


def auto(*, deviations: float = DEVIATIONS, max_update: float = MAX_UPDATE) -> Policy:
    r"""Clip spikes and runaway steps without a threshold to choose: it is found from the run's own gradients and weights.

    With :math:`x = \log \|g_i\|` of each tensor, and likewise of all tensors together, a running centre :math:`m` and spread
    :math:`s \ge 0.05` (means over about 32 steps of :math:`x` and of :math:`1.25\,|x - m|`, each reading first brought to
    within :math:`m \pm 2.5 s`):

    1. Test against history, after 8 readings. The total is out of line where :math:`x > m + k s`. Then every tensor out of
       line itself is scaled to its usual norm :math:`e^m`; if the total still is, all are. A tensor beyond :math:`2 k s` is
       scaled whatever the total is.
    2. Bound by the weights, from the first step: with learning rates :math:`\eta_i` all gradients are scaled by
       :math:`\min(1, \rho \|w\| / \|(\eta_i g_i)_i\|)`. Under Adam the left side is small and this does nothing.

    What holds: gradients keep their bits where neither acts. A plain SGD step moves the weights by at most
    :math:`\rho \|w\|`, the first step included (with momentum b: by :math:`\rho \|w\| / (1 - b)` in the long run). After the
    first 8 readings one spike of whatever size moves the centre by at most 0.08 s and widens the spread by at most 7 %. A
    level ten times higher that stays is accepted within 40 steps, one a thousand times higher within 60. Multiplying the loss
    by a constant and dividing the learning rate by it changes no update of SGD; the test does not depend on the scale at all. A
    step with NaN or Inf is skipped and leaves the state as it was; a tensor without gradient, or with one of zero, is left out.

    Args:
        deviations: k, spreads above the centre from which a norm is out of line, > 0; ``inf``: no test against history.
        max_update: rho, largest norm of ``lr * gradient`` over the norm of all weights, > 0; ``inf``: no bound. The default is
            the largest value with which no run diverged in ``studies/auto``; a recurrent network under plain SGD may want 0.003.

    Returns:
        The policy. It needs one read; with the bound also the learning rates and, every tenth step, the weights' norms.

    Raises:
        ArgumentError: a number is out of range.
        ArgumentTypeError: an argument is no number.

    Example:
        >>> import numpy as np, steadygrad as sg
        >>> policy = sg.parse_policy("auto(max_update=inf)")
        >>> layout, state = sg.Layout(("a", "b")), None
        >>> for norms in [*[(1.0, 2.0)] * 20, (1000.0, 2.0)]:
        ...     readings = sg.Readings(layout, np, np.square(norms))
        ...     decision, state = policy.decide(readings, state or policy.init(readings))
        >>> decision.scale
        array([0.001, 1.   ])
    """
    call = "auto"
    k, rho = positive(call, "deviations", deviations), positive(call, "max_update", max_update)
    bounded = rho < INF

    def decide(readings: Readings, state: State) -> tuple[Decision, State]:
        xp = readings.xp
        if not len(readings):
            return Decision(), state
        with np.errstate(over="ignore"):
            total = xp.sum(readings.sum_sq)
        finite = total < INF  # false for NaN as well
        squares = xp.where(finite, readings.sum_sq, 0.0)
        scale, after = _tested(xp, squares, xp.where(finite, total, 0.0), state, k)
        if bounded:
            after["weight_norm"] = weight = _weight_norm(readings, state["weight_norm"], finite)
            scale = scale * _bound(readings, squares, scale, weight, rho)
        reason = xp.where(finite, xp.where(xp.any(scale < 1.0), _CLIPPED, _NONE), _NON_FINITE)
        return Decision(scale=scale, skip=~finite, reason=reason), after

    needs = frozenset({"lr", "param_norm:10"}) if bounded else NO_NEEDS
    return Policy(_begin(bounded), decide, text_of(auto, deviations=k, max_update=rho), needs)


def _begin(bounded: bool) -> Callable[[Readings], State]:
    def init(readings: Readings) -> State:
        n = len(readings) + 1
        history = _History(np.zeros(n), np.full(n, FIRST_SPREAD), np.zeros(n))
        return _parted(history) | ({"weight_norm": np.float64(0.0)} if bounded else {})

    return init


def _parted(history: _History) -> State:
    """The state: rows of tensors, which grow and are chosen with them, and beside these the total."""
    rows = {f"tensor_{name}": values[:-1] for name, values in zip(_History._fields, history, strict=True)}
    return rows | {f"total_{name}": values[-1:] for name, values in zip(_History._fields, history, strict=True)}


def _joined(xp: Any, state: State) -> _History:
    return _History(*(xp.concatenate((state[f"tensor_{name}"], state[f"total_{name}"])) for name in _History._fields))


def _tested(xp: Any, squares: Array, total: Array, state: State, k: float) -> tuple[Array, State]:
    """Scale of each tensor by the test against history, and the state of the statistics with these norms."""
    history = _joined(xp, state)
    every = xp.concatenate((squares, xp.reshape(total, (1,))))
    live = every > 0.0
    spread = xp.where(history.spread > FLOOR, history.spread, FLOOR)
    away = 0.5 * xp.log(xp.where(live, every, 1.0)) - history.center
    out = (away > k * spread) & live & (history.seen >= START)
    usual = xp.exp(xp.where(out, -away, 0.0))
    scale = xp.where(out[:-1] & (out[-1:] | (away > 2.0 * k * spread)[:-1]), usual[:-1], 1.0)
    # What the tensors' own factors leave of the total; the rest of the way to the usual total goes to all alike.
    left = xp.sum(squares * scale * scale)
    left = 0.5 * xp.log(xp.where(left > 0.0, left, 1.0)) - history.center[-1]
    rest = xp.exp(xp.where(out[-1] & (left > k * spread[-1]), -left, 0.0))
    return scale * rest, _parted(_followed(xp, away, live, history, spread))


def _followed(xp: Any, away: Array, live: Array, history: _History, spread: Array) -> _History:
    """The statistics with one more reading; rows that are not live stay as they are."""
    seen = history.seen
    reach = xp.where(seen < START, INF, WINSOR * spread)
    away = xp.minimum(xp.maximum(away, -reach), reach)
    count = xp.where(seen < MEMORY - 1, seen + 1.0, MEMORY)  # more is not needed, and a count that stops stays exact
    center = history.center + away / count  # the first reading becomes the centre
    widened = spread + (_TO_SIGMA * abs(away) - spread) / (count + 1.0)  # the spread begins with a guess that counts as one
    return _History(
        xp.where(live, center, history.center),
        xp.where(live & (seen > 0.0), widened, history.spread),
        xp.where(live, count, seen),
    )


def _weight_norm(readings: Readings, known: Array, finite: Array) -> Array:
    """The last norm of all weights that was read."""
    if readings.param_norm is None:
        return known
    xp, norms = readings.xp, readings.param_norm
    norm = xp.sqrt(xp.sum(norms * norms))
    return xp.where(finite & (norm < INF), norm, known)


def _bound(readings: Readings, squares: Array, scale: Array, weight: Array, rho: float) -> Array:
    """One factor for all: ``lr * gradient`` is at most ``rho`` times the weights. Weights that are all zero bound nothing."""
    xp, factor = readings.xp, readings.lr * scale
    size = xp.sqrt(xp.sum(squares * factor * factor))
    return limit(xp, size, xp.where(weight > 0.0, rho * weight, INF)).scale
