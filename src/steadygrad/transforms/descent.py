"""Coordinate descent: let only some elements of each gradient through at each step.

Nesterov, "Efficiency of Coordinate Descent Methods on Huge-Scale Optimization Problems", SIAM Journal on Optimization 2012
(random coordinates); Nutini, Schmidt, Laradji, Friedlander, Koepke, "Coordinate Descent Converges Faster with the
Gauss-Southwell Rule Than Random Selection", ICML 2015, arXiv:1506.00552.

Deviations: many coordinates at a time, a share of each tensor, since a step that moves one of a million elements costs as much as
one that moves them all. An element that is not chosen has a gradient of zero, so momentum and the moments of Adam go on moving
it: for elements that truly rest use SGD without momentum, or `block_descent`, which holds back whole tensors.
"""

from __future__ import annotations

# Where torch is not annotated:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
import math
from typing import Any

import torch
from torch import Tensor

from steadygrad.checks import SLUG, flag, integer, one_of
from steadygrad.checks import fraction as checked_fraction
from steadygrad.decide.limits import rewriting
from steadygrad.decision import Decision
from steadygrad.errors import ArgumentError
from steadygrad.policy import Place, Policy, State, stateless, text_of
from steadygrad.readings import Readings
from steadygrad.transforms.random import generator

RULES = ("random", "cyclic", "gauss_southwell")


def coordinate_descent(fraction: float, *, select: str = "random", unbiased: bool = False, seed: int = 0) -> Policy:
    """Set all but a share of each gradient's elements to zero, other ones at each step.

    ``g_j <- g_j`` for j in the chosen set, else 0. ``"random"`` chooses each element with probability ``fraction``, anew at
    each step and for each tensor; ``"cyclic"`` runs through each tensor in consecutive pieces; ``"gauss_southwell"`` takes the
    elements of the largest modulus (at least the share: those that tie with the last one are chosen too). With ``unbiased`` the
    chosen ones are divided by ``fraction``, so that their mean over the random choice is the gradient.

    An element that is not chosen reads a gradient of zero and is still moved by momentum, Adam's moments and weight decay.
    Costs one more read and write of every gradient and one tensor of its size at a time; ``"random"`` draws as many random
    numbers, ``"gauss_southwell"`` looks for the k-th largest modulus, some four passes more.

    Args:
        fraction: share of the elements of each tensor, in (0, 1]; at least one element is chosen by the last two rules. 1
            changes nothing.
        select: the rule.
        unbiased: whether to divide by the share; for ``"random"`` and ``"cyclic"``.
        seed: which random choice; any integer.

    Returns:
        The policy; it rewrites elements. A step with NaN or Inf is skipped.

    Raises:
        ArgumentError: a number is out of range, the rule unknown, or ``unbiased`` asked of a rule that has a bias.
        ArgumentTypeError: an argument is of another kind.

    Example:
        >>> import steadygrad as sg
        >>> param = torch.nn.Parameter(torch.zeros(4))
        >>> guard = sg.Guard(torch.optim.SGD([param], lr=1.0), sg.coordinate_descent(0.5, select="gauss_southwell"))
        >>> param.grad = torch.tensor([1.0, -4.0, 3.0, 2.0])
        >>> guard.optimizer.step()
        >>> param.tolist()
        [0.0, 4.0, -3.0, 0.0]
        >>> guard.detach()

    Reference:
        Nutini et al., "Coordinate Descent Converges Faster with the Gauss-Southwell Rule", 2015, https://arxiv.org/abs/1506.00552
    """
    call = "coordinate_descent"
    part, rule = checked_fraction(call, "fraction", fraction), one_of(call, "select", select, RULES)
    divided, key = flag(call, "unbiased", unbiased), integer(call, "seed", seed)
    if divided and rule == "gauss_southwell":
        raise ArgumentError(
            f"`{call}` cannot be `unbiased` with 'gauss_southwell': its choice depends on the gradient", slug=SLUG
        )

    def decide(readings: Readings, state: State) -> tuple[Decision, State]:
        return rewriting(readings), state

    def rewrite(grad: Tensor, place: Place) -> None:
        if part == 1.0:
            return
        grad.mul_(_mask(grad, place, part, rule, key))
        if divided:
            grad.div_(part)

    text = text_of(coordinate_descent, fraction=part, select=rule, unbiased=divided, seed=key)
    return Policy(stateless, decide, text, rewrites=True, rewrite=rewrite)


def _mask(grad: Tensor, place: Place, part: float, rule: str, seed: int) -> Tensor:
    """1 for the chosen elements and 0 for the others, in the gradient's own type, so that there is one tensor of its size."""
    if rule == "random":
        source = generator(grad.device, seed, place.step, place.name, place.shard)
        return torch.rand(grad.shape, generator=source, dtype=grad.dtype, device=grad.device).lt_(part)
    length = chosen_of(part, grad.numel())
    if rule == "cyclic":
        pieces = math.ceil(grad.numel() / length)
        start = place.step % pieces * length
        mask = torch.zeros(grad.numel(), dtype=grad.dtype, device=grad.device)
        mask[start : start + length] = 1.0
        return mask.view(grad.shape)
    modulus = torch.empty(grad.shape, dtype=grad.dtype, device=grad.device)
    least = _kth_largest(torch.abs(grad, out=modulus), length)
    return torch.abs(grad, out=modulus).ge_(least)


def chosen_of(part: float, size: int) -> int:
    """How many of ``size`` a share is: rounded up, but not because ``0.1 * 30`` is a little more than 3.

    Example:
        >>> chosen_of(0.1, 30), chosen_of(0.1, 31), chosen_of(0.001, 5)
        (3, 4, 1)
    """
    return min(size, max(1, math.ceil(part * size * (1.0 - 1e-12))))


def _kth_largest(values: Tensor, k: int) -> Any:
    """The k-th largest value. Reorders ``values`` on a CPU, where torch's own function would copy them and as many indices."""
    flat = values.view(-1)
    if values.device.type != "cpu":
        return flat.kthvalue(flat.numel() - k + 1).values
    numbers = flat.numpy()
    numbers.partition(len(numbers) - k)
    return float(numbers[len(numbers) - k])
