"""The type of a policy: two pure functions in a named tuple.

``init`` makes the state from the first readings, ``decide`` maps readings and state to a decision and the next state. The
state is a flat dict of arrays, so it is its own ``state_dict``. A policy uses only functions that NumPy, torch, jax.numpy
and keras.ops share under one name, taken from ``readings.xp``.

Deviation from Optax, whose two-function shape this borrows: ``decide`` never sees a gradient, only its readings.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from itertools import takewhile
from typing import Any, NamedTuple

from steadygrad.decision import Decision
from steadygrad.readings import Readings

State = dict[str, Any]
"""Arrays by name. Those whose name begins with ``tensor_`` have one row per tensor, shape ``(n, ...)``: where parameters are
added, rows are added."""
PER_TENSOR = "tensor_"
NO_NEEDS: frozenset[str] = frozenset()


def stateless(readings: Readings) -> State:
    """The ``init`` of a policy without state."""
    del readings
    return {}


class Place(NamedTuple):
    """One tensor's surroundings, for a function that rewrites its gradient or limits its update.

    Attributes:
        name: the parameter's name.
        param: the parameter. Only a constraint may write to it.
        group: the optimizer's parameter group that it belongs to: learning rate and so on.
        slots: the optimizer's state of this parameter, such as ``exp_avg_sq``; empty before its first step.
        memory: tensors of the function's own that live on from step to step. Saved with the guard; empty at first.
        numbers: this tensor's row of ``Decision.numbers``.
        step: steps taken before this one, from 0.
        shard: which part of a sharded tensor this is; 0 for a whole one.
        before: a constraint's copy of the parameter before the step, where it asked for one.
    """

    name: str
    param: Any
    group: Mapping[str, Any]
    slots: dict[str, Any]
    memory: dict[str, Any]
    numbers: Mapping[str, Any]
    step: int
    shard: int = 0
    before: Any = None


class Constraint(NamedTuple):
    """What is done to a parameter after the optimizer has moved it. Not called for a step that was skipped.

    Attributes:
        limit: writes to ``place.param`` in place, under ``no_grad``; no host synchronisation.
        wants_before: whether ``place.before`` is needed. Costs a copy of the parameters.
        wants: names of optimizer settings that must be there (``"lr"``, ``"weight_decay"``), checked when it is attached.
        accepts: which parameters, by name; ``None``: all.
    """

    limit: Callable[[Place], None]
    wants_before: bool = False
    wants: tuple[str, ...] = ()
    accepts: Callable[[str], bool] | None = None


class Policy(NamedTuple):
    """How to react to one step's readings. Pure: no parameters, no I/O, no host synchronisation.

    Attributes:
        init: first readings to state.
        decide: readings and state to decision and next state.
        text: the expression that makes this policy again; what ``repr`` shows and ``--policy`` parses.
        needs: extra readings, e.g. ``{"abs_max", "norm_p:1.0"}``, see :class:`~steadygrad.readings.Readings`; ``sum_sq`` is
            always there. ``"param_norm:10"`` stands for a reading at the first step and every tenth after it.
        rewrites: true for a transform: it changes elements, so what follows in a chain must measure again.
        stages: for a chain that must measure again on the way, the policies between two measurements; else empty.
        rewrite: for a transform, what it does to one dense, real gradient in float32 or float64, in place. It is not called for a
            step that is skipped, so nothing that is not finite reaches it; it allocates one tensor of that size at most.
        constraints: what is done to the parameters after the step.

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
    rewrite: Callable[[Any, Place], None] | None = None
    constraints: tuple[Constraint, ...] = ()

    def __repr__(self) -> str:
        return self.text


def expression(name: str, *args: Any, **kwargs: Any) -> str:
    """The text of a call: ``expression("f", 1.0, p=2.0) == "f(1.0, p=2.0)"``."""
    parts = [repr(a) for a in args] + [f"{key}={value!r}" for key, value in kwargs.items()]
    return f"{name}({', '.join(parts)})"


def text_of(factory: Callable[..., Any], /, **settings: Any) -> str:
    """The text of a call of a factory: what equals its default is left out, and names stand only where they must.

    Args:
        factory: the function; its signature gives order and defaults. One with ``*args`` or ``**kwargs`` has no such text.
        **settings: the value of every parameter, by name.

    Returns:
        The text.

    Example:
        >>> def f(limit, norm_type=2.0, *, eps=1e-6, patience=None): ...
        >>> text_of(f, limit=1.0, norm_type=2.0, eps=0.0, patience=None)
        'f(1.0, eps=0.0)'
    """
    parameters = inspect.signature(factory).parameters
    changed = {name for name, p in parameters.items() if not _same(settings[name], p.default)}
    unnamed = [name for name, p in parameters.items() if p.kind is p.POSITIONAL_ONLY]
    while unnamed and unnamed[-1] not in changed:
        unnamed.pop()
    given = {name: settings[name] for name in parameters if name in changed or name in unnamed}
    row = [name for name, p in parameters.items() if p.kind is not p.KEYWORD_ONLY]
    args = [given.pop(name) for name in takewhile(given.__contains__, row)]
    return expression(factory.__name__, *args, **given)


def _same(value: Any, default: Any) -> bool:
    """Whether a value equals the default; ``True`` does not equal 1."""
    return isinstance(value, bool) == isinstance(default, bool) and value == default
