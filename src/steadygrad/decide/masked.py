"""A policy for some of the parameters, chosen by name.

The shape is that of Optax's ``masked``. Deviation: parameters are chosen by the names that the model gives them, not by a
tree of booleans, and a pattern that matches nothing is an error: it is a typing mistake that would leave training unprotected.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, cast

import numpy as np

from steadygrad.checks import show
from steadygrad.decide.layouts import by_layout
from steadygrad.decision import Decision
from steadygrad.errors import ArgumentError, ArgumentTypeError, UnsupportedError
from steadygrad.policy import Policy, State, expression
from steadygrad.readings import Layout, Readings

SLUG = "pattern-no-match"
_SHOWN = 5
Names = str | Sequence[str] | Callable[[str], bool]


def masked(policy: Policy, names: Names) -> Policy:
    """Apply a policy to the parameters with certain names, and leave the others as they are.

    The policy sees the chosen tensors as if they were all there is: a global norm is theirs, and so is a decision to skip
    the step. What is not finite among the others does not concern it; put `skip_nonfinite` before it in a `chain`.

    Args:
        policy: any policy that does not rewrite elements.
        names: a shell pattern (``*``, ``?``, ``[...]``, case counts) or several; a pattern that begins with ``!`` takes names
            away again, and patterns of that kind alone take them from all names. Or a function from name to bool; a
            policy with a function works as any other, but its text cannot be parsed back.

    Returns:
        The policy. Its state is that of the inner policy.

    Raises:
        ArgumentError: an empty pattern; at the first step: a pattern matches no name, or no name is left.
        ArgumentTypeError: no policy, or neither pattern nor function.
        UnsupportedError: the policy rewrites elements, which is not possible for a part of the parameters.

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
    if policy.rewrites or policy.stages:
        message = (
            f"`masked` cannot hold `{policy.text}`, which rewrites elements: bounds act on all parameters. "
            "Use a norm policy inside, or put `clip_by_value` outside"
        )
        raise UnsupportedError(message, slug="masked-rewrites")
    choice = _choice(names)
    rows_of = by_layout(choice.rows)

    def init(readings: Readings) -> State:
        rows = rows_of(readings.layout)
        return policy.init(readings.select(rows.layout, rows.index))

    def decide(readings: Readings, state: State) -> tuple[Decision, State]:
        xp, rows = readings.xp, rows_of(readings.layout)
        chosen = readings.select(rows.layout, rows.index)
        decision, state = policy.decide(chosen, state)
        if decision.scale is None:
            return decision, state
        ones = xp.ones_like(chosen.sum_sq)
        # One 1 behind the chosen rows' factors stands for every row that was not chosen.
        scale = xp.concatenate((decision.scale * ones, ones[:1]))[rows.source]
        threshold = decision.threshold if len(chosen) == len(readings) else None
        return Decision(scale, None, decision.skip, decision.abort, decision.reason, threshold), state

    return Policy(init, decide, expression("masked", policy, choice), policy.needs)


@dataclass(frozen=True, eq=False)
class _Rows:
    """Which rows were chosen.

    Attributes:
        layout: the layout of the chosen rows.
        index: the chosen rows.
        source: for each row, its position among the chosen ones, or their number if it was not chosen.
    """

    layout: Layout
    index: list[int]
    source: np.ndarray


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
        return _Rows(layout.select(index), index, source)


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
