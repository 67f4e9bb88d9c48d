"""The type of a policy: two pure functions in a named tuple.

``init`` makes the state from the first readings, ``decide`` maps readings and state to a decision and the next state. The
state is a flat dict of arrays, so it is its own ``state_dict``. A policy uses only functions that NumPy, torch, jax.numpy
and keras.ops share under one name, taken from ``readings.xp``.

Deviation from Optax, whose two-function shape this borrows: ``decide`` never sees a gradient, only its readings.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from steadygrad.decision import Decision
from steadygrad.readings import Readings

State = dict[str, Any]
NO_NEEDS: frozenset[str] = frozenset()


def stateless(readings: Readings) -> State:
    """The ``init`` of a policy without state."""
    del readings
    return {}


class Policy(NamedTuple):
    """How to react to one step's readings. Pure: no parameters, no I/O, no host synchronisation.

    Attributes:
        init: first readings to state.
        decide: readings and state to decision and next state.
        text: the expression that makes this policy again; what ``repr`` shows and ``--policy`` parses.
        needs: extra readings, e.g. ``{"abs_max", "param_norm", "norm_p:1.0"}``; ``sum_sq`` is always there.
        rewrites: true for a transform: it changes elements, so what follows in a chain must measure again.
        stages: for a chain that must measure again on the way, the policies between two measurements; else empty.

    Example:
        >>> import numpy as np, steadygrad as sg
        >>> policy = sg.clip_by_global_norm(2.5)
        >>> policy
        clip_by_global_norm(2.5)
        >>> readings = sg.Readings(sg.Layout(("a", "b")), np, np.array([9.0, 16.0]))
        >>> decision, state = policy.decide(readings, policy.init(readings))
        >>> round(float(decision.scale), 6)
        0.5
    """

    init: Callable[[Readings], State]
    decide: Callable[[Readings, State], tuple[Decision, State]]
    text: str
    needs: frozenset[str] = NO_NEEDS
    rewrites: bool = False
    stages: tuple[Any, ...] = ()

    def __repr__(self) -> str:
        return self.text


def expression(name: str, *args: Any, **kwargs: Any) -> str:
    """The text of a call: ``expression("f", 1.0, p=2.0) == "f(1.0, p=2.0)"``."""
    parts = [repr(a) for a in args] + [f"{key}={value!r}" for key, value in kwargs.items()]
    return f"{name}({', '.join(parts)})"
