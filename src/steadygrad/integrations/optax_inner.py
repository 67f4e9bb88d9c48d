"""The transformation behind a policy: run for a step that is taken, left alone for one that is skipped.

A parameter that the policy leaves out of a step hands in a gradient of zero, gets an update of zero, and what the
transformation keeps for it stays as it was. What it keeps for all parameters in common, such as Adam's count of steps, moves on.
"""

from __future__ import annotations

# Where JAX and Optax are not annotated:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownLambdaType=false, reportMissingTypeStubs=false, reportPrivateImportUsage=false
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import optax
from jax import lax
from jax import numpy as jnp

from steadygrad.decision import Decision
from steadygrad.integrations.pytrees import Rows

Array = Any
_SHARED = -1


class Handed(NamedTuple):
    """What goes into the transformation inside.

    Attributes:
        rows: the tree of gradients as it came.
        arrays: the gradients as the policy leaves them, row by row.
        decision: all of the policy's decisions as one.
        params: the tree of parameters, or ``None``.
        extra: further arguments of ``update``.
    """

    rows: Rows
    arrays: Sequence[Array | None]
    decision: Decision
    params: Any
    extra: dict[str, Any]


def update_inside(inner: Any, handed: Handed, before: Any) -> tuple[Any, Any]:
    """The transformation's updates and its next state; zeros and the state as it was for a step that is skipped."""
    decision = handed.decision

    def step() -> tuple[Any, Any]:
        gradients = handed.rows.tree(_without(handed.arrays, decision.withhold))
        updates, after = inner.update(gradients, before, handed.params, **handed.extra)
        if decision.withhold is not None:
            after = _held_back(inner, handed, decision.withhold, before, after)
        return _scaled(updates, decision), after

    if decision.skip is None:
        return step()
    shapes = jax.eval_shape(step)[0]

    def stand() -> tuple[Any, Any]:
        return jax.tree_util.tree_map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes), before

    return lax.cond(decision.skip, stand, step)


def _without(arrays: Sequence[Array | None], withhold: Array | None) -> Sequence[Array | None]:
    if withhold is None:
        return arrays
    return [None if array is None else jnp.where(withhold[row], 0, array).astype(array.dtype) for row, array in enumerate(arrays)]


def _scaled(updates: Any, decision: Decision) -> Any:
    """The parameters' updates with the decision's factors; zeros where a parameter takes no part."""
    factors = decision.update_scale
    moves, treedef = jax.tree_util.tree_flatten(updates, is_leaf=lambda node: node is None)
    if factors is not None:
        moves = [None if move is None else (move * factors[row]).astype(move.dtype) for row, move in enumerate(moves)]
    return jax.tree_util.tree_unflatten(treedef, _without(moves, decision.withhold))


def _held_back(inner: Any, handed: Handed, withhold: Array, before: Any, after: Any) -> Any:
    """The next state, in which what belongs to a parameter that takes no part is as before."""
    tree = handed.rows.tree(handed.rows.leaves) if handed.params is None else handed.params
    leaves, treedef = jax.tree_util.tree_flatten(tree, is_leaf=lambda node: node is None)
    numbers = jax.tree_util.tree_unflatten(treedef, [None if leaf is None else row for row, leaf in enumerate(leaves)])
    owner = optax.tree_utils.tree_map_params(inner, lambda _, row: row, before, numbers, transform_non_params=lambda _: _SHARED)

    def chosen(row: int, old: Any, new: Any) -> Any:
        return new if row == _SHARED else jnp.where(withhold[row], old, new)

    return jax.tree_util.tree_map(chosen, owner, before, after)
