"""Block coordinate descent: let only some parameters take part in each step.

Nutini, Laradji, Schmidt, "Let's Make Block Coordinate Descent Converge Faster", JMLR 2022, arXiv:1712.08859 (rules of selection);
Luo, Yu, Li, "BAdam: A Memory Efficient Full Parameter Optimization Method for Large Language Models", NeurIPS 2024,
arXiv:2404.02827 (with Adam).

A block is one parameter tensor. One that is not chosen is treated as if it had no gradient: it does not move, nor do its
moments. The choice follows from seed, step and parameter names by integer arithmetic, so it is the same on all processes and in
all namespaces, and there is no generator to save.
"""

from __future__ import annotations

import math
from hashlib import blake2b
from typing import Any

import numpy as np

from steadygrad.checks import SLUG, count, flag, integer, one_of
from steadygrad.checks import fraction as checked_fraction
from steadygrad.decide.layouts import RowConstants, by_layout
from steadygrad.decide.nonfinite import integer_zero
from steadygrad.decision import Array, Decision, Reason
from steadygrad.errors import ArgumentError
from steadygrad.policy import Policy, State, text_of
from steadygrad.readings import INF, Layout, Readings

RULES = ("random", "cyclic", "gauss_southwell")
_NONE, _NON_FINITE = int(Reason.NONE), int(Reason.NON_FINITE)
_MASK = 0x7FFFFFFF  # 31 bits: the same whether a namespace's integers have 32 bits or 64
_MIX = (0x45D9F3B, 0x2C1B3C6D, 0x297A2D39)  # odd, below 2^31: a product of 31 bits and these fits 64 bits


def block_descent(
    fraction: float | None = None,
    *,
    num_blocks: int | None = None,
    select: str = "random",
    unbiased: bool = False,
    seed: int = 0,
) -> Policy:
    """Let only some of the parameters take part in each step; the others do not move, nor do their moments.

    Of the m parameters that have a gradient k are chosen: ``num_blocks``, or ``fraction * m`` rounded up. ``"random"`` chooses
    k of m anew at each step; ``"cyclic"`` goes through them in order; ``"gauss_southwell"`` takes the k largest gradient norms
    (and those that tie with the last). With ``unbiased`` the chosen gradients are multiplied by ``m / k``, so that their mean
    over the random choice is the gradient; an optimizer that divides by the gradient's size, such as Adam, undoes that.

    Args:
        fraction: share of the parameters with a gradient, in (0, 1].
        num_blocks: or their number, >= 1.
        select: the rule.
        unbiased: whether to multiply by ``m / k``; for ``"random"`` and ``"cyclic"``.
        seed: which random choice; any integer.

    Returns:
        The policy. It needs one read. Its state is ``step``, shape ``()``. A step with NaN or Inf is skipped and not counted.

    Raises:
        ArgumentError: a number is out of range, both or neither of ``fraction`` and ``num_blocks`` are given, the rule is
        unknown, or
            ``unbiased`` is asked of a rule that has a bias.
        ArgumentTypeError: an argument is of another kind.

    Example:
        >>> import numpy as np, steadygrad as sg
        >>> policy = sg.block_descent(num_blocks=1, select="gauss_southwell")
        >>> readings = sg.Readings(sg.Layout(("a", "b", "c")), np, np.array([1.0, 9.0, 4.0]))
        >>> decision, _ = policy.decide(readings, policy.init(readings))
        >>> decision.withhold
        array([ True, False,  True])

    Reference:
        Nutini, Laradji, Schmidt, "Let's Make Block Coordinate Descent Converge Faster", 2022, https://arxiv.org/abs/1712.08859
    """
    call = "block_descent"
    if (fraction is None) == (num_blocks is None):
        raise ArgumentError(f"`{call}` expected either `fraction` or `num_blocks`", slug=SLUG)
    part = None if fraction is None else checked_fraction(call, "fraction", fraction)
    number = None if num_blocks is None else count(call, "num_blocks", num_blocks)
    rule, divided, key = one_of(call, "select", select, RULES), flag(call, "unbiased", unbiased), integer(call, "seed", seed)
    if divided and rule == "gauss_southwell":
        raise ArgumentError(
            f"`{call}` cannot be `unbiased` with 'gauss_southwell': its choice depends on the gradient", slug=SLUG
        )
    scores_of = _scores(rule, key)

    def decide(readings: Readings, state: State) -> tuple[Decision, State]:
        xp, step = readings.xp, integer_zero(readings) + state["step"]
        there = None if readings.present is None or readings.present.all() else np.flatnonzero(readings.present)
        held = len(readings) if there is None else len(there)
        chosen = min(held, _number(number, part, held))
        withhold = _others(xp, scores_of(readings, step, chosen), there, chosen) if chosen else None
        finite = xp.all(readings.sum_sq < INF)
        decision = Decision(
            scale=held / chosen if divided and chosen else None,
            withhold=withhold,
            skip=~finite,
            reason=xp.where(finite, _NONE, _NON_FINITE),
        )
        return decision, {"step": xp.where(finite, step + 1, step)}

    text = text_of(block_descent, fraction=part, num_blocks=number, select=rule, unbiased=divided, seed=key)
    return Policy(_init, decide, text)


def _init(readings: Readings) -> State:
    del readings
    return {"step": np.int64(0)}


def _number(number: int | None, part: float | None, held: int) -> int:
    """How many blocks: a number, or a share rounded up, but not because ``0.1 * 30`` is a little more than 3."""
    return number or math.ceil((part or 1.0) * held * (1.0 - 1e-12))


def _others(xp: Any, scores: Array, there: np.ndarray | None, chosen: int) -> Array:
    """Which rows are not among the ``chosen`` lowest scores of the rows that are there."""
    ranked = xp.sort(scores if there is None else scores[there])
    return scores > (ranked.values if hasattr(ranked, "values") else ranked)[chosen - 1]  # torch sorts into a pair


def _scores(rule: str, seed: int) -> Any:
    """The function that gives a score per row: the lowest are chosen."""
    keys_of = by_layout(lambda layout: RowConstants(_row_keys(layout, seed)))
    rows_of = by_layout(lambda layout: RowConstants(np.arange(len(layout))))

    def random(readings: Readings, step: Array, chosen: int) -> Array:
        del chosen
        return _mixed(keys_of(readings.layout).like(step), step)

    def cyclic(readings: Readings, step: Array, chosen: int) -> Array:
        if readings.present is None or readings.present.all():
            rows, held = rows_of(readings.layout), len(readings)
        else:
            rows, held = RowConstants(np.cumsum(readings.present) - 1), int(readings.present.sum())
        return (rows.like(step) + (held - step % held * chosen % held)) % held

    def gauss_southwell(readings: Readings, step: Array, chosen: int) -> Array:
        del step, chosen
        return -readings.sum_sq

    return {"random": random, "cyclic": cyclic, "gauss_southwell": gauss_southwell}[rule]


def _row_keys(layout: Layout, seed: int) -> np.ndarray:
    """31 bits for each name, from a hash that is the same in every process."""
    texts = (f"{seed}:{name}".encode(errors="surrogatepass") for name in layout.names)
    return np.array([int.from_bytes(blake2b(t, digest_size=4).digest(), "little") & _MASK for t in texts], np.int64)


def _mixed(keys: Array, step: Array) -> Array:
    """31 bits for each key and step that look unrelated: add, multiply, and fold the upper half into the lower, three times."""
    value = keys ^ ((step & _MASK) * _MIX[1] & _MASK)
    for factor in _MIX:
        value = (value ^ value // 65536) * factor & _MASK
    return value ^ value // 32768
