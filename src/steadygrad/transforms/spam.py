"""SPAM: limit spikes element by element against Adam's own second moment, and start its moments anew from time to time.

Huang, Zhu, Jin, Liu, Wang, Liu, "SPAM: Spike-Aware Adam with Momentum Reset for Stable LLM Training", ICLR 2025,
arXiv:2501.06842.

Deviations, and why:

- An element whose second moment is zero is not clipped. In the reference its limit is zero, so an element that never had a
  gradient would never get one; the same holds for all elements in the first step.
- The step in which moments are reset is one in which the optimizer steps. A skipped step counts for nothing, and so loses no
  reset.
- The factor of the warm-up is put on the update after the step: the learning rate belongs to the program and its scheduler.
  For Adam both are the same, but for decoupled weight decay, which the factor lowers as the learning rate would.
- torch's Adam corrects the bias of its moments by its global step, as the reference does, which a reset does not set back. So
  the first update after a reset is ``(1 - beta1) / sqrt(1 - beta2)`` times its usual size, 3.2 for the usual betas; that is what
  the warm-up is for.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from steadygrad.checks import count, integer, non_negative, positive
from steadygrad.decide.limits import rewriting
from steadygrad.decision import Array, Decision
from steadygrad.policy import Place, Policy, State, text_of
from steadygrad.readings import Readings

_MOMENTS = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq")
_FIRST = 0.01  # of the warm-up: the reference starts from 1 - 0.99


def spam(threshold: float = 5000.0, *, reset_every: int = 500, warmup: int = 150, guard_steps: int = 20) -> Policy:
    """Limit each gradient element to a multiple of its usual size, and reset Adam's moments from time to time, as SPAM does.

    ``g <- sign(g) * min(|g|, sqrt(threshold * v))`` with v Adam's second moment before this step, not bias-corrected; no limit
    where ``v = 0``, nor in the first ``guard_steps`` steps and as many after a reset, while v is not yet settled. Every
    ``reset_every`` steps Adam's moments become zero, and the next updates are multiplied by a factor that rises from 0.01
    to 1 along half a cosine wave of ``warmup`` steps.

    Costs one more read and write of every gradient and one read of the second moment, eight passes of arithmetic, and one
    tensor of the gradient's size at a time; a copy of the parameters during a warm-up; on a GPU, where only the device knows
    that a reset is due, also a read and write of the moments at each step.

    Args:
        threshold: how many times the second moment a squared element may be, > 0.
        reset_every: steps from one reset to the next, >= 1.
        warmup: steps of the warm-up after a reset; 0: none.
        guard_steps: steps without limit at the start and after a reset, >= 0.

    Returns:
        The policy; it rewrites elements, and needs an optimizer of the Adam family. Its state is ``step``, shape ``()``. A step
        with NaN or Inf is skipped and not counted.

    Raises:
        ArgumentError: a number is out of range.
        ArgumentTypeError: an argument is of another kind.

    Example:
        >>> import torch, steadygrad as sg
        >>> param = torch.nn.Parameter(torch.zeros(2))
        >>> optimizer = torch.optim.AdamW([param], lr=0.1)
        >>> guard = sg.Guard(optimizer, sg.spam(guard_steps=1))
        >>> for grad in ([1.0, 1.0], [100.0, 1.0]):
        ...     param.grad = torch.tensor(grad)
        ...     optimizer.step()
        >>> param.grad  # the second moment is 0.001, so the limit is the root of 5
        tensor([2.2361, 1.0000])
        >>> guard.detach()

    Reference:
        Huang et al., "SPAM: Spike-Aware Adam with Momentum Reset for Stable LLM Training", 2025, https://arxiv.org/abs/2501.06842
    """
    call = "spam"
    settings = {
        "threshold": positive(call, "threshold", threshold),
        "reset_every": count(call, "reset_every", reset_every),
        "warmup": _steps(call, "warmup", warmup),
        "guard_steps": _steps(call, "guard_steps", guard_steps),
    }
    root, every = math.sqrt(settings["threshold"]), int(settings["reset_every"])

    def decide(readings: Readings, state: State) -> tuple[Decision, State]:
        xp, step = readings.xp, state["step"]
        since = step % every
        numbers = {"keep": xp.where((since == 0) & (step > 0), 0.0, 1.0), "clip": xp.where(since < guard_steps, 0.0, 1.0)}
        factor = _warmed(readings, step, since, every, warmup) if warmup else None
        decision = replace(rewriting(readings, numbers), update_scale=factor)
        return decision, {"step": xp.where(decision.skip, step, step + 1)}

    def rewrite(grad: Tensor, place: Place) -> None:
        _reset(place.slots, place.numbers["keep"])
        _clip(grad, place.slots.get("exp_avg_sq"), root, place.numbers["clip"])

    needs = frozenset({"second_moment"})
    return Policy(_init, decide, text_of(spam, **settings), needs, rewrites=True, rewrite=rewrite)


def _steps(call: str, name: str, value: Any) -> int:
    return int(non_negative(call, name, integer(call, name, value)))


def _init(readings: Readings) -> State:
    del readings
    return {"step": np.int64(0)}


def _warmed(readings: Readings, step: Array, since: Array, every: int, warmup: int) -> Array:
    """The factor of the warm-up, shape ``(n,)``; exactly 1 before the first reset and once a warm-up is over."""
    xp = readings.xp
    done = xp.add(since, xp.zeros_like(readings.sum_sq)) / warmup  # in the readings' own floating-point type
    rising = 1.0 - (1.0 - _FIRST) * 0.5 * (1.0 + xp.cos(math.pi * done))
    return xp.where((step < every) | (done >= 1.0), 1.0, rising)


def _reset(slots: dict[str, Any], keep: Any) -> None:
    """Set Adam's moments to zero where ``keep`` is 0."""
    known = not isinstance(keep, Tensor)
    if known and keep == 1.0:  # a number of the host's own: nothing to wait for
        return
    for name in _MOMENTS:
        if name in slots:
            slots[name].mul_(0.0 if known else keep)


def _clip(grad: Tensor, second: Tensor | None, root: float, clip: Any) -> None:
    """``g <- sign(g) * min(|g|, root * sqrt(v))`` where v > 0, in place."""
    known = not isinstance(clip, Tensor)
    if second is None or (known and clip == 0.0):
        return
    bound = second.to(grad.dtype, copy=True)
    # v/v is 1, or NaN where v is 0; a bound that is NaN or infinite binds nothing under fmin and fmax.
    bound.div_(second).mul_(second).sqrt_().mul_(root)
    if not known:
        bound.div_(clip)
    torch.fmin(grad, bound, out=grad)
    torch.fmax(grad, bound.neg_(), out=grad)
