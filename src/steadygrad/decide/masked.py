"""A policy for some of the parameters, chosen by name.

The shape is that of Optax's ``masked``. Deviation: parameters are chosen by the names that the model gives them, not by a
tree of booleans, and a pattern that matches nothing is an error: it is a typing mistake that would leave training unprotected.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any, cast

import numpy as np

from steadygrad.checks import show
from steadygrad.decide.layouts import by_layout
from steadygrad.decision import Array, Decision
from steadygrad.errors import ArgumentError, ArgumentTypeError, UnsupportedError
from steadygrad.policy import PER_TENSOR, Policy, State, expression
from steadygrad.readings import Layout, Readings

SLUG = "pattern-no-match"
_SHOWN = 5
Names = str | Sequence[str] | Callable[[str], bool]


def masked(policy: Policy, names: Names) -> Policy:
    """Apply a policy to the parameters with certain names, and leave the others as they are.

    The policy sees the chosen tensors as if they were all there is: a global norm is theirs, and so is a decision to skip
    the step. What is not finite among the others does not concern it; put `skip_nonfinite` before it in a `chain`.

    Args:
        policy: any policy but a chain that must measure on the way.
        names: a shell pattern (``*``, ``?``, ``[...]``, case counts) or several; a pattern that begins with ``!`` takes names
            away again, and patterns of that kind alone take them from all names. Or a function from name to bool; a
            policy with a function works as any other, but its text cannot be parsed back.

    Returns:
        The policy. Its state is that of the inner policy.

    Raises:
        ArgumentError: an empty pattern; at the first step: a pattern matches no name, or no name is left.
        ArgumentTypeError: no policy, or neither pattern nor function.
        UnsupportedError: the policy is a chain that rewrites elements before its last policy.

    Example:
        >>> import numpy as np, steadygrad as sg
        >>> policy = sg.masked(sg.clip_by_norm(1.0), ("rnn.*", "!*.bias"))
        >>> readings = sg.Readings(sg.Layout(("rnn.weight", "rnn.bias", "out")), np, np.array([16.0, 16.0, 16.0]))
        >>> decision, _ = policy.decide(readings, policy.init(readings))
        >>> decision.scale
        array([0.25, 1.  , 1.  ])
    """
    if not isinstance(policy, Policy):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ArgumentTypeError(f"`masked` expected a policy as first argument, got {show(policy)}", slug="policy-expected")
    if policy.stages:
        message = (
            f"`masked` cannot hold `{policy.text}`, which must measure on the way; mask each policy, and chain the masked ones"
        )
        raise UnsupportedError(message, slug="masked-stages")
    choice = _choice(names)
    rows_of = by_layout(choice.rows)

    def init(readings: Readings) -> State:
        rows = rows_of(readings.layout)
        return rows.widened_state(readings.xp, policy.init(readings.select(rows.layout, rows.index)))

    def decide(readings: Readings, state: State) -> tuple[Decision, State]:
        rows = rows_of(readings.layout)
        chosen = readings.select(rows.layout, rows.index)
        decision, state = policy.decide(chosen, rows.narrowed_state(state))
        threshold = decision.threshold if len(chosen) == len(readings) else None
        wide = replace(rows.widened(readings, decision), rows=rows.chosen, threshold=threshold)
        return wide, rows.widened_state(readings.xp, state)

    constraints = tuple(
        constraint._replace(accepts=_both(choice.accepts, constraint.accepts)) for constraint in policy.constraints
    )
    text = expression("masked", policy, choice)
    return Policy(init, decide, text, policy.needs, policy.rewrites, rewrite=policy.rewrite, constraints=constraints)


def _both(first: Callable[[str], bool], second: Callable[[str], bool] | None) -> Callable[[str], bool]:
    return first if second is None else lambda name: first(name) and second(name)


@dataclass(frozen=True, eq=False)
class _Rows:
    """Which rows were chosen.

    Attributes:
        layout: the layout of the chosen rows.
        index: the chosen rows.
        source: for each row, its position among the chosen ones, or their number if it was not chosen.
        unit_source: the same for units; ``None`` where the layout has no shapes.
    """

    layout: Layout
    index: list[int]
    source: np.ndarray
    unit_source: np.ndarray | None

    @property
    def chosen(self) -> np.ndarray:
        """Which rows were chosen."""
        return self.source < len(self.index)

    def widened(self, readings: Readings, decision: Decision) -> Decision:
        """A decision on the chosen rows as one on all rows, in which nothing happens to the others."""
        xp = readings.xp

        def scale(value: Array | None, source: np.ndarray | None) -> Array | None:
            if value is None or source is None:
                return None
            per_row = value if getattr(value, "ndim", 0) else value * xp.ones_like(readings.sum_sq[: len(self.index)])
            return _gather(xp, per_row, source, 1)

        numbers = decision.numbers and {
            key: _gather(xp, value, self.source, 0) if getattr(value, "ndim", 0) else value
            for key, value in decision.numbers.items()
        }
        return replace(
            decision,
            scale=scale(decision.scale, self.source),
            unit_scale=scale(decision.unit_scale, self.unit_source),
            update_scale=scale(decision.update_scale, self.source),
            # A mask of zeros and ones again: `_gather` counts the value that it puts behind the others as a number.
            withhold=None if decision.withhold is None else _gather(xp, decision.withhold, self.source, 0) != 0,
            numbers=numbers,
        )

    def widened_state(self, xp: Any, state: State) -> State:
        """The state with rows for all tensors; those of the others stay zero."""
        return {
            key: _gather(np if isinstance(value, np.ndarray) else xp, value, self.source, 0) if _per_tensor(key) else value
            for key, value in state.items()
        }

    def narrowed_state(self, state: State) -> State:
        """The rows of the chosen tensors."""
        return {key: value[np.asarray(self.index)] if _per_tensor(key) else value for key, value in state.items()}


@dataclass(frozen=True)
class _Choice:
    """Names chosen by a function; the base of the choice by patterns."""

    accepts: Callable[[str], bool]

    def __repr__(self) -> str:
        return f"<function {getattr(self.accepts, '__name__', type(self.accepts).__name__)}>"

    def rows(self, layout: Layout) -> _Rows:
        index = [row for row, name in enumerate(layout.names) if self.accepts(name)]
        if not index:
            raise ArgumentError(
                f"`masked` expected {self!r} to choose a parameter, but it chose none {_known(layout)}", slug=SLUG
            )
        source = np.full(len(layout), len(index), dtype=np.intp)
        source[index] = np.arange(len(index))
        if not layout.shapes:
            return _Rows(layout.select(index), index, source, None)
        inside = np.isin(layout.tensor_of_unit, index)
        units = np.where(inside, np.cumsum(inside) - 1, inside.sum())
        return _Rows(layout.select(index), index, source, units)


@dataclass(frozen=True, repr=False)
class _Patterns(_Choice):
    """Names chosen by shell patterns."""

    patterns: tuple[str, ...]

    def __repr__(self) -> str:
        return repr(self.patterns[0] if len(self.patterns) == 1 else self.patterns)

    def rows(self, layout: Layout) -> _Rows:
        for pattern in self.patterns:
            if not any(fnmatchcase(name, pattern.removeprefix("!")) for name in layout.names):
                raise ArgumentError(f"`masked` found no parameter whose name matches {pattern!r} {_known(layout)}", slug=SLUG)
        return super().rows(layout)


def _gather(xp: Any, values: Array, source: np.ndarray, other: int) -> Array:
    """``values`` at ``source``; one more value behind the chosen rows' own stands for every row that was not chosen."""
    return xp.concatenate((values, xp.zeros_like(values[:1]) + other))[source]


def _per_tensor(key: str) -> bool:
    return key.rpartition(".")[2].startswith(PER_TENSOR)


def _choice(names: Any) -> _Choice:
    if callable(names):
        return _Choice(cast("Callable[[str], bool]", names))
    patterns: tuple[Any, ...] = tuple(cast("Sequence[Any]", names)) if isinstance(names, (list, tuple)) else (names,)
    if not patterns or not all(isinstance(pattern, str) for pattern in patterns):
        message = f"`masked` expected a name pattern, several of them, or a function from name to bool, got {show(names)}"
        raise ArgumentTypeError(message, slug="pattern-invalid")
    if not all(pattern.removeprefix("!") for pattern in patterns):
        raise ArgumentError(f"`masked` expected patterns with at least one character, got {show(names)}", slug="pattern-invalid")
    inside = [pattern for pattern in patterns if not pattern.startswith("!")] or ["*"]
    outside = [pattern[1:] for pattern in patterns if pattern.startswith("!")]

    def accepts(name: str) -> bool:
        return any(fnmatchcase(name, p) for p in inside) and not any(fnmatchcase(name, p) for p in outside)

    return _Patterns(accepts, patterns)


def _known(layout: Layout) -> str:
    """Some of the names, for a message."""
    if not len(layout):
        return "(there are no parameters)"
    more = ", ..." if len(layout) > _SHOWN else ""
    return f"(names: {', '.join(repr(name) for name in layout.names[:_SHOWN])}{more})"
