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

from typing import Any, NamedTuple

import numpy as np

from steadygrad.checks import positive
from steadygrad.decide.limits import limit
from steadygrad.decision import Array, Decision, Reason
from steadygrad.policy import NO_NEEDS, Policy, State, expression
from steadygrad.readings import INF, Readings

DEVIATIONS, MAX_UPDATE = 6.0, 0.01
RATE = 1 / 32
"""Weight of a new reading in the running means, once as many have been seen."""
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
        max_update: rho, largest norm of ``lr * gradient`` over the norm of all weights, > 0; ``inf``: no bound.

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
        finite = xp.all(readings.sum_sq < INF)
        norms = xp.sqrt(xp.where(finite, readings.sum_sq, 0.0))
        history = _joined(xp, state)
        scale, history = _tested(xp, norms, history, k)
        after = _parted(history)
        if bounded:
            after["tensor_weight_norm"] = weights = _weight_norms(readings, state, finite)
            scale = scale * _bound(readings, norms * scale, weights, rho)
        reason = xp.where(finite, xp.where(xp.any(scale < 1.0), _CLIPPED, _NONE), _NON_FINITE)
        return Decision(scale=scale, skip=~finite, reason=reason), after

    extra = {"deviations": k} if k != DEVIATIONS else {}
    extra |= {"max_update": rho} if rho != MAX_UPDATE else {}
    needs = frozenset({"lr", "param_norm:10"}) if bounded else NO_NEEDS
    return Policy(_begin(bounded), decide, expression(call, **extra), needs)


def _begin(bounded: bool) -> Any:
    def init(readings: Readings) -> State:
        n = len(readings)
        history = _History(np.zeros(n + 1), np.full(n + 1, FIRST_SPREAD), np.zeros(n + 1))
        return _parted(history) | ({"tensor_weight_norm": np.zeros(n)} if bounded else {})

    return init


def _parted(history: _History) -> State:
    """The state: rows of tensors, which grow and are chosen with them, and beside these the total."""
    names = _History._fields
    rows = {f"tensor_{name}": values[:-1] for name, values in zip(names, history, strict=True)}
    return rows | {f"total_{name}": values[-1:] for name, values in zip(names, history, strict=True)}


def _joined(xp: Any, state: State) -> _History:
    return _History(*(xp.concatenate((state[f"tensor_{name}"], state[f"total_{name}"])) for name in _History._fields))


def _tested(xp: Any, norms: Array, history: _History, k: float) -> tuple[Array, _History]:
    """Scale of each tensor by the test against history, and the history with these norms."""
    total = _length(xp, norms)
    every = xp.concatenate((norms, xp.stack((total,))))
    live = every > 0.0
    x = xp.log(xp.where(live, every, 1.0))
    spread = xp.where(history.spread > FLOOR, history.spread, FLOOR)
    excess = xp.where(live & (history.seen >= START), (x - history.center) / spread, 0.0)
    out = excess > k
    usual = xp.where(out, xp.exp(xp.where(out, history.center - x, 0.0)), 1.0)
    scale = xp.where(out[:-1] & (out[-1:] | (excess[:-1] > 2.0 * k)), usual[:-1], 1.0)
    # What the tensors' own scales leave of the total, as a factor; the rest of the way to the usual total goes to all alike.
    left = _length(xp, norms * scale) / xp.where(total > 0.0, total, 1.0)
    still = out[-1] & (xp.log(xp.where(left > 0.0, left, 1.0)) + (excess * spread)[-1] > k * spread[-1])
    rest = usual[-1] / xp.where(still, left, 1.0)
    return xp.where(still, scale * rest, scale), _followed(xp, x, live, history, spread)


def _followed(xp: Any, x: Array, live: Array, history: _History, spread: Array) -> _History:
    """The statistics with one more reading; rows that are not live stay as they are."""
    center, known_spread, seen = history
    first = seen < 0.5
    away = xp.where(first, 0.0, x - center)
    reach = xp.where(seen < START, INF, WINSOR * spread)
    away = xp.minimum(xp.maximum(away, -reach), reach)
    rate = 1.0 / xp.where(seen + 1.0 < 1.0 / RATE, seen + 1.0, 1.0 / RATE)
    slower = 1.0 / xp.where(seen + 2.0 < 1.0 / RATE, seen + 2.0, 1.0 / RATE)  # the spread begins with a guess that counts as two
    moved = xp.where(first, x, center + rate * away)
    widened = known_spread + slower * (_TO_SIGMA * abs(away) - known_spread)
    count = xp.where(seen + 1.0 < 1.0 / RATE, seen + 1.0, 1.0 / RATE)  # more is not needed, and a count that stops stays exact
    return _History(
        xp.where(live, moved, center),
        xp.where(live & ~first, widened, known_spread),
        xp.where(live, count, seen),
    )


def _weight_norms(readings: Readings, state: State, finite: Array) -> Array:
    """The last weights' norms that were read."""
    known = state["tensor_weight_norm"]
    if readings.param_norm is None:
        return known
    return readings.xp.where(finite & (readings.param_norm < INF), readings.param_norm, known)


def _bound(readings: Readings, norms: Array, weights: Array, rho: float) -> Array:
    """One factor for all: ``lr * gradient`` is at most ``rho`` times the weights. Weights that are all zero bound nothing."""
    xp = readings.xp
    size, weight = _length(xp, norms * readings.lr), _length(xp, weights)
    return limit(xp, size, xp.where(weight > 0.0, rho * weight, INF)).scale


def _length(xp: Any, norms: Array) -> Array:
    """2-norm of several norms, shape ``()``; the largest is taken out, so that no square overflows or vanishes."""
    largest = xp.max(norms)
    unit = xp.where(largest > 0.0, largest, 1.0)
    return unit * xp.sqrt(xp.sum((norms / unit) ** 2))
