"""AdaGC: each tensor's norm may be little more than a moving average of its own limited norms.

G. Wang, S. Li, C. Chen, J. Zeng, J. Yang, D. Yu, Y. Ma, L. Shen, "AdaGC: Enhancing LLM Pretraining Stability via Adaptive
Gradient Clipping", 2025, arXiv:2502.11034, algorithm 1. On gradients that are finite and not zero the numbers are those of the
paper.

Deviations, and why:

- A norm of zero, and a tensor without a gradient in this step, leave the average as it is. In the published code one zero
  gradient during the warm-up makes the average, a running minimum there, zero, and the tensor never moves again; that happens
  to branches and adapters that begin at zero, to experts without tokens and to embeddings of rare words.
- The warm-up is counted for each tensor by itself, in the norms that entered, so that a tensor that joins late has one too.
- A step with NaN or Inf is skipped and changes no average. In the published code NaN turns off the limit of its tensor for good.
- During the warm-up a limited norm below a tenth of the smallest so far does not enter if the global limit binds: a spike in one
  tensor scales all of them down, and as published the healthy ones would keep that as their minimum.
- The coefficient is ``limit / norm`` without an epsilon.
- `patience`, off by default: as published the average grows by 0.04 % a step at most, so gradients that have really become 10
  times larger are held down for 5,800 steps.
"""

from __future__ import annotations

import numpy as np

from steadygrad.checks import count, positive
from steadygrad.decide.history import above_one, enters, smoothing, unless_skipped, whole_number
from steadygrad.decide.limits import Limited, limit, limited_parts, tensor_norms, total_norm
from steadygrad.decision import Array, Decision
from steadygrad.policy import Policy, State, text_of
from steadygrad.readings import INF, Readings

SPIKE_ELSEWHERE = 0.1
"""A sudden fall of a tensor's limited norm to less than this is put down to the global limit, where that binds."""


def adagc(
    relative: float = 1.04, *, beta: float = 0.99, warmup: int = 100, absolute: float = 1.0, patience: int | None = None
) -> Policy:
    """Limit each tensor's norm to `relative` times the moving average of its own limited norms.

    ``g_i <- g_i * min(1, r * y_i / n_i)``, ``y_i <- b * y_i + (1 - b) * min(n_i, r * y_i)``. During the first `warmup` steps
    all gradients together are limited to the norm `absolute`, and y_i is the smallest limited norm so far. After the warm-up,
    multiplying all gradients by one number multiplies the results by it.

    Because the average holds limited norms and begins at a minimum, most steps are scaled down even where nothing is wrong: this
    gives each tensor a nearly constant norm rather than removing rare spikes.

    Args:
        relative: r, > 1: at 1 the average could only fall.
        beta: b, weight of the past in the average, in [0, 1).
        warmup: number of norms of a tensor before its own limit holds, >= 0; its first norm is always part of it.
        absolute: limit on the global norm during the warm-up, > 0, in units of the gradient; ``inf``: none.
        patience: after this many limited steps of a tensor in a row its norms enter the average as they are, >= 1; ``None``:
            never, as published. With the default `beta`, norms 10 times larger are accepted about 310 steps after that.

    Returns:
        The policy. It needs one read. Its state is ``tensor_average``, ``tensor_num_norms`` and ``tensor_num_limited`` (in a
        row), each of shape ``(n,)``.

    Raises:
        ArgumentError: a number is out of range.
        ArgumentTypeError: an argument is no number.

    Example:
        >>> import steadygrad as sg
        >>> limiter = sg.Limiter(sg.adagc(warmup=1))
        >>> [round(limiter([np.array([norm])])[0].item(), 6) for norm in (1.0, 2.0, 1.03)]
        [1.0, 1.04, 1.03]

    Reference:
        Wang, Li, Chen, Zeng, Yang, Yu, Ma, Shen, "AdaGC: Enhancing LLM Pretraining Stability via Adaptive Gradient
        Clipping", 2025,
        https://arxiv.org/abs/2502.11034
    """
    call = "adagc"
    ratio, past = above_one(call, "relative", relative), smoothing(call, "beta", beta)
    num_warm, first = whole_number(call, "warmup", warmup), positive(call, "absolute", absolute)
    most = None if patience is None else count(call, "patience", patience)

    def decide(readings: Readings, state: State) -> tuple[Decision, State]:
        xp, norms = readings.xp, tensor_norms(readings, 2.0)
        total = limit(xp, total_norm(readings, 2.0), first)
        average, num_norms = state["tensor_average"], state["tensor_num_norms"]
        warm = (num_norms < num_warm) | (average == 0.0)
        own = limit(xp, norms, xp.where(warm, INF, ratio * average))
        scale = xp.where(warm, total.scale, own.scale)
        accepted = enters(norms, total.finite)
        limited = scale * xp.where(accepted, norms, 0.0)
        num_limited = xp.where(own.binding, state["tensor_num_limited"] + 1, 0)
        learnt = limited if most is None else xp.where(num_limited > most, xp.where(accepted, norms, 0.0), limited)
        elsewhere = total.binding & (limited < SPIKE_ELSEWHERE * average)
        smallest = xp.where((average == 0.0) | ((limited < average) & ~elsewhere), limited, average)
        new = {
            "tensor_average": xp.where(warm, smallest, past * average + (1.0 - past) * learnt),
            "tensor_num_norms": xp.where(num_norms < num_warm, num_norms + 1, num_norms),
            "tensor_num_limited": num_limited,
        }
        binding = own.binding | (warm & total.binding)
        decision = limited_parts(xp, Limited(scale, binding, total.finite & (norms < INF)))
        return decision, unless_skipped(xp, accepted, new, state)

    text = text_of(adagc, relative=ratio, beta=past, warmup=num_warm, absolute=first, patience=most)
    return Policy(_init, decide, text)


def _init(readings: Readings) -> State:
    n = len(readings)
    zeros: Array = np.zeros(n, np.int64)
    return {"tensor_average": np.zeros(n), "tensor_num_norms": zeros, "tensor_num_limited": zeros}
