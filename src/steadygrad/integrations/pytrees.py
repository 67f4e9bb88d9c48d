"""A tree of JAX arrays as rows of readings: names from the paths, one read, one write, all of it under `jax.jit`.

Everything is added up in float32, or in float64 where JAX computes in 64 bits; half precision is widened first. Deviation
from the readings of the other engines: without 64 bits a sum of squares overflows at a norm of 1.8e19. Then, and only then, the
gradients are read again with the largest modulus taken out, and a tensor whose norm exceeds 2^56 counts as one of norm 2^56. It
is brought there before its factor is applied, unless the policy leaves it as it is. So the result has the norm that the policy
asked for. Elements below about 1e-19 read as zero, as their squares vanish.
"""

from __future__ import annotations

# Where JAX is not annotated:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownLambdaType=false
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import lax
from jax import numpy as jnp

from steadygrad.decision import Decision
from steadygrad.errors import ArgumentTypeError, UnsupportedError
from steadygrad.readings import Layout, Readings

Array = Any
_NORM_P = "norm_p:"
_ALONE = "param"
"""The name of an array that is the whole tree."""


class Rows(NamedTuple):
    """A tree laid out in rows.

    Attributes:
        layout: names, shapes and types.
        arrays: one per row; ``None`` where the tree holds ``None``, or JAX's mark for "no gradient".
        leaves: what the tree holds, in the order of the rows.
        treedef: the tree without its leaves.
    """

    layout: Layout
    arrays: tuple[Array | None, ...]
    leaves: tuple[Any, ...]
    treedef: Any

    def tree(self, values: Sequence[Any]) -> Any:
        """The tree with other leaves; those that are no arrays stay."""
        pairs = zip(self.arrays, self.leaves, values, strict=True)
        return jax.tree_util.tree_unflatten(self.treedef, [old if array is None else new for array, old, new in pairs])


class Measured(NamedTuple):
    """Readings, and what they were made with.

    Attributes:
        readings: for a policy.
        shrink: factor per tensor that keeps the sum of all squares finite, shape ``(n,)``; 1 where nothing overflows.
    """

    readings: Readings
    shrink: Array


def rows_of(units_last: bool) -> Callable[..., Rows]:
    """A function from tree to rows, which makes one layout for all trees of the same names, shapes and types.

    It takes ``gradients=False`` for a tree of parameters, in which whole numbers may stand.

    Args:
        units_last: whether the units of an array of two dimensions and more lie along its last dimension, or its first.

    Example:
        >>> rows = rows_of(True)({"dense": {"bias": jnp.zeros(2), "kernel": jnp.zeros((3, 2))}, "gain": None})
        >>> rows.layout.names, rows.layout.num_units
        (('dense.bias', 'dense.kernel', 'gain'), (1, 2, 1))
    """

    @lru_cache(maxsize=64)
    def layout_of(names: tuple[str, ...], shapes: tuple[tuple[int, ...], ...], dtypes: tuple[str, ...]) -> Layout:
        dims = tuple((len(shape) - 1 if units_last else 0) if len(shape) > 1 else -1 for shape in shapes)
        return Layout(names, shapes=shapes, dtypes=dtypes, unit_dims=dims)

    def rows(tree: Any, *, gradients: bool = True) -> Rows:
        pairs, treedef = jax.tree_util.tree_flatten_with_path(tree, is_leaf=lambda leaf: leaf is None)
        names = tuple(_name(path) for path, _ in pairs)
        leaves = tuple(leaf for _, leaf in pairs)
        arrays = tuple(_as_array(leaf, name, gradients) for leaf, name in zip(leaves, names, strict=True))
        shapes = tuple(() if array is None else tuple(array.shape) for array in arrays)
        dtypes = tuple("none" if array is None else str(array.dtype) for array in arrays)
        return Rows(layout_of(names, shapes, dtypes), arrays, leaves, treedef)

    return rows


def accumulator() -> Any:
    """The type that readings are made in: float64 where JAX computes in 64 bits, else float32."""
    return jax.dtypes.canonicalize_dtype(jnp.float64)


def blank(layout: Layout, needs: frozenset[str]) -> Readings:
    """Readings of gradients that are zero, with learning rates and parameter norms of zero, for a policy's ``init``."""
    zeros = jnp.zeros(len(layout), accumulator())
    units = jnp.zeros(sum(layout.num_units), accumulator())
    return Readings(
        layout=layout,
        xp=jnp,
        sum_sq=zeros,
        norm_p={float(need.removeprefix(_NORM_P)): zeros for need in needs if need.startswith(_NORM_P)},
        abs_max=zeros,
        param_norm=zeros,
        unit_sum_sq=units,
        unit_param_norm=units,
        lr=zeros,
    )


def measure(rows: Rows, needs: frozenset[str], params: Sequence[Array | None], lr: Array) -> Measured:
    """Readings of gradients that are JAX arrays.

    Args:
        rows: the gradients.
        needs: readings beside ``sum_sq``: ``"abs_max"``, ``"norm_p:<p>"``, ``"param_norm"``, ``"units"``, ``"lr"``.
        params: the parameters, row by row; empty where no reading wants them.
        lr: the learning rate, shape ``()``; anything where no reading wants it.

    Returns:
        The readings, arrays of shape ``(n,)`` or ``(num_units,)`` in float32 or float64.
    """
    arrays, layout = rows.arrays, rows.layout
    wanted = {need.partition(":")[0] for need in needs}  # "param_norm:10" may be read every time
    there = np.array([array is not None for array in arrays], np.bool_)
    sum_sq, shrink = _sums_of_squares(arrays)
    sizes = [_modulus(array) * factor for array, factor in zip(arrays, shrink, strict=True)] if needs else []
    units = "units" in wanted
    readings = Readings(
        layout=layout,
        xp=jnp,
        sum_sq=sum_sq,
        present=None if there.all() else there,
        norm_p={p: _stacked([_p_norm(size, p) for size in sizes]) for p in _exponents(needs)},
        abs_max=_stacked([jnp.max(size, initial=0.0) for size in sizes]) if "abs_max" in wanted else None,
        param_norm=jnp.sqrt(_plain(params)) if "param_norm" in wanted else None,
        unit_sum_sq=_per_unit(sizes, layout) if units else None,
        unit_param_norm=jnp.sqrt(_per_unit([_modulus(param) for param in params], layout)) if units else None,
        lr=jnp.zeros(len(layout), accumulator()) + lr if "lr" in wanted else None,
    )
    return Measured(readings, shrink)


def written(rows: Rows, measured: Measured, decision: Decision) -> tuple[Array | None, ...]:
    """The gradients as the decision wants them: scaled, then limited to its bounds, each in its own type."""
    factors = _factors(measured, decision, rows.layout)
    bounded = [True] * len(rows.arrays) if decision.rows is None else decision.rows.tolist()
    bounds = decision.clamp
    return tuple(
        None if array is None else _changed(array, *factor, bounds if limited else None)
        for array, factor, limited in zip(rows.arrays, factors, bounded, strict=True)
    )


def _changed(array: Array, first: Array | None, second: Array | None, bounds: tuple[Array, Array] | None) -> Array:
    if bounds is not None and jnp.iscomplexobj(array):
        raise UnsupportedError(
            f"`clip_by_value` expected real gradients, got {array.dtype}: complex numbers have no order; limit a norm instead",
            slug="complex-value-clip",
        )
    if second is None and bounds is None:
        return array
    wide = array.astype(jnp.promote_types(array.dtype, accumulator()))
    if second is not None:
        wide = wide * first * second  # one after the other: their product may be too small for the type
    return (wide if bounds is None else jnp.clip(wide, *bounds)).astype(array.dtype)


def _factors(measured: Measured, decision: Decision, layout: Layout) -> list[tuple[Array | None, Array | None]]:
    """For each tensor the factor that undoes an overflow and the decision's own; ``None``: there is none."""
    n, dtype = len(layout), accumulator()
    if decision.scale is None and decision.unit_scale is None:
        return [(None, None)] * n
    scale = jnp.asarray(1.0 if decision.scale is None else decision.scale, dtype)
    whole = decision.scale is not None and scale.ndim == 0 and decision.unit_scale is None
    shrink = jnp.broadcast_to(_of_all(measured) if whole else measured.shrink, (n,))
    per_tensor = jnp.broadcast_to(scale, (n,))
    own = [per_tensor[row] for row in range(n)]
    if decision.unit_scale is not None:
        own = [factor * units for factor, units in zip(own, _spread(decision.unit_scale, layout), strict=True)]
    return [(jnp.where(factor == 1.0, 1.0, shrink[row]).astype(dtype), factor.astype(dtype)) for row, factor in enumerate(own)]


def _of_all(measured: Measured) -> Array:
    """One factor for all tensors, which brings their true total norm to the one that was read."""
    shrink = measured.shrink
    least = jnp.min(shrink, initial=1.0)
    norms = measured.readings.norms()
    shrunk = jnp.sqrt(jnp.sum(jnp.square(norms * (least / shrink))))  # the true norm times `least`, which does not overflow
    return jnp.where(least < 1.0, least * (jnp.sqrt(jnp.sum(norms * norms)) / jnp.where(shrunk > 0.0, shrunk, 1.0)), 1.0)


def _spread(values: Array, layout: Layout) -> list[Array]:
    """Values per unit, for each tensor in a shape that multiplies it."""
    parts: list[Array] = []
    start = 0
    for shape, dim, units in zip(layout.shapes, layout.unit_dims, layout.num_units, strict=True):
        part = values[start : start + units]
        parts.append(part[0] if dim < 0 else part.reshape([units if d == dim else 1 for d in range(len(shape))]))
        start += units
    return parts


def _sums_of_squares(arrays: Sequence[Array | None]) -> tuple[Array, Array]:
    plain = _plain(arrays)

    def again() -> tuple[Array, Array]:
        pairs = [_kept_finite(array, value) for array, value in zip(arrays, plain, strict=True)]
        return _stacked([value for value, _ in pairs]), _stacked([shrink for _, shrink in pairs])

    return lax.cond(jnp.sum(plain) < jnp.inf, lambda: (plain, jnp.ones_like(plain)), again)


def _kept_finite(array: Array | None, plain: Array) -> tuple[Array, Array]:
    """Sum of squares of one tensor as if its norm were at most 2^56 (2^504 in float64), and the factor that makes it so."""
    size = _modulus(array)
    most = 2.0 ** (jnp.finfo(size.dtype).maxexp // 2 - 8)
    largest = jnp.max(size, initial=0.0)
    usable = (largest > 0.0) & (largest < jnp.inf)
    unit = jnp.where(usable, largest, 1.0)
    factor = (most / unit) / jnp.sqrt(jnp.sum(jnp.square(size / unit)))
    shrink = jnp.where(usable & (factor < 1.0), factor, 1.0)
    return jnp.where(shrink < 1.0, most * most, plain), shrink


def _plain(arrays: Sequence[Array | None]) -> Array:
    return _stacked([jnp.sum(_square(array)) for array in arrays])


def _stacked(values: Sequence[Array]) -> Array:
    return jnp.stack(values).astype(accumulator()) if values else jnp.zeros(0, accumulator())


def _square(array: Array | None) -> Array:
    if array is not None and jnp.iscomplexobj(array):
        return jnp.square(array.real.astype(accumulator())) + jnp.square(array.imag.astype(accumulator()))
    return jnp.square(_modulus(array))


def _modulus(array: Array | None) -> Array:
    """The moduli of an array's elements in the type of the readings; empty for ``None``."""
    if array is None:
        return jnp.zeros(0, accumulator())
    return jnp.abs(array if jnp.iscomplexobj(array) else array.astype(accumulator())).astype(accumulator())


def _p_norm(size: Array, p: float) -> Array:
    """``(sum_j |x_j|^p)^(1/p)``, with the largest modulus taken out so that no power overflows or vanishes."""
    largest = jnp.max(size, initial=0.0)
    unit = jnp.where((largest > 0.0) & (largest < jnp.inf), largest, 1.0)
    return unit * jnp.sum((size / unit) ** p) ** (1.0 / p)


def _per_unit(sizes: Sequence[Array], layout: Layout) -> Array:
    parts = [jnp.zeros(0, accumulator())]
    for size, shape, dim, units in zip(sizes, layout.shapes, layout.unit_dims, layout.num_units, strict=True):
        if dim < 0:
            parts.append(jnp.sum(jnp.square(size)).reshape(1))
        else:
            others = tuple(d for d in range(len(shape)) if d != dim)
            parts.append(jnp.sum(jnp.square(size), axis=others).reshape(units))
    return jnp.concatenate(parts)


def _exponents(needs: frozenset[str]) -> list[float]:
    return [float(need.removeprefix(_NORM_P)) for need in needs if need.startswith(_NORM_P)]


def _as_array(leaf: Any, name: str, gradient: bool) -> Array | None:
    if leaf is None or getattr(leaf, "dtype", None) == jax.dtypes.float0:
        return None
    array = jnp.asarray(leaf)
    if not jnp.issubdtype(array.dtype, jnp.inexact):
        if not gradient:  # a parameter of whole numbers has no gradient
            return None
        raise ArgumentTypeError(
            f"`steadygrad.integrations.optax` expected floating-point arrays, got {array.dtype} for {name!r}; "
            f"leave it out with `optax.masked`, or convert it",
            slug="gradient-dtype",
        )
    return array


def _name(path: Sequence[Any]) -> str:
    """The path of a leaf with dots: ``params.dense.kernel``."""
    return ".".join(str(_key(entry)) for entry in path) or _ALONE


def _key(entry: Any) -> Any:
    """What a step of a path is called: the key of a mapping, the index of a sequence, the name of an attribute."""
    return next((getattr(entry, kind) for kind in ("key", "idx", "name") if hasattr(entry, kind)), entry)
