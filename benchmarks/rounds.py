"""Timing side by side: every contender runs once per round, in turn, and medians of paired ratios are what counts."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping

Contenders = Mapping[str, Callable[[], None]]


def repetitions(contenders: Contenders, at_least: float) -> int:
    """How often to repeat a call so that the fastest contender takes ``at_least`` seconds; warms all up."""
    fastest = min(_seconds(call, 3) for call in contenders.values() for _ in range(2))
    return max(1, round(at_least / max(fastest, 1e-9)))


def side_by_side(contenders: Contenders, *, rounds: int, at_least: float = 0.012) -> dict[str, list[float]]:
    """Seconds per call of each contender in each round. The order turns round by round, so that nobody always comes first."""
    count = repetitions(contenders, at_least)
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    names = list(contenders)
    for i in range(rounds):
        for name in names[i % len(names) :] + names[: i % len(names)]:
            seconds[name].append(_seconds(contenders[name], count))
    return seconds


def ratio(seconds: Mapping[str, list[float]], name: str, base: str) -> float:
    """Median over the rounds of ``name`` / ``base``."""
    return statistics.median(a / b for a, b in zip(seconds[name], seconds[base], strict=True))


def median(values: list[float]) -> float:
    """The median."""
    return statistics.median(values)


def _seconds(call: Callable[[], None], count: int) -> float:
    start = time.perf_counter()
    for _ in range(count):
        call()
    return (time.perf_counter() - start) / count
