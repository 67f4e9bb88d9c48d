"""What was measured in one step, and its arithmetic under scaling.

Readings are closed under scaling: multiplying tensor ``i`` by ``s_i`` turns ``sum_sq`` into ``sum_sq·s_i²`` and
``abs_max`` into ``abs_max·|s_i|``. So the second policy of a chain sees what the first one *will have done* without
reading any gradient again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

Array = Any
INF = float("inf")


@dataclass(frozen=True, eq=False)
class Layout:
    """What the rows of the readings stand for. Made once, shared by every step.

    Attributes:
        names: one name per tensor, in the order of the rows.
        groups: index of the parameter group of each tensor.
        shapes: shape of each tensor.
        dtypes: data type of each tensor, as text (``"float32"``).
        unit_dims: the dimension of each tensor along which its units lie (a row of a linear layer, an output channel of a
            convolution); -1: the tensor is one unit. Left out: 0 for tensors of two dimensions and more, else -1.
    """

    names: tuple[str, ...]
    groups: tuple[int, ...] = ()
    shapes: tuple[tuple[int, ...], ...] = ()
    dtypes: tuple[str, ...] = ()
    unit_dims: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not self.groups:
            object.__setattr__(self, "groups", (0,) * len(self.names))
        if not self.unit_dims:
            object.__setattr__(self, "unit_dims", tuple(0 if len(shape) > 1 else -1 for shape in self.shapes))

    def __len__(self) -> int:
        return len(self.names)

    @cached_property
    def numel(self) -> tuple[int, ...]:
        """Number of elements of each tensor."""
        return tuple(int(np.prod(shape, dtype=np.int64)) for shape in self.shapes)

    @cached_property
    def num_units(self) -> tuple[int, ...]:
        """Number of units of each tensor."""
        return tuple(1 if dim < 0 else shape[dim] for shape, dim in zip(self.shapes, self.unit_dims, strict=True))

    @cached_property
    def tensor_of_unit(self) -> np.ndarray:
        """For each unit of all tensors, in order, the row of its tensor, shape ``(num_units,)``."""
        return np.repeat(np.arange(len(self)), np.array(self.num_units, np.int64))

    def select(self, index: Sequence[int]) -> Layout:
        """The layout of a subset of the tensors."""

        def take(values: tuple[Any, ...]) -> tuple[Any, ...]:
            return tuple(values[i] for i in index) if values else ()

        return Layout(take(self.names), take(self.groups), take(self.shapes), take(self.dtypes), take(self.unit_dims))


@dataclass(slots=True, eq=False)  # never changed once made; freezing it would cost every step five times the making
class Readings:
    """One step's measurements; ``n`` tensors, all arrays of the namespace ``xp`` and at least float32.

    A tensor without a gradient reads as zero and is marked in ``present``. A norm that would overflow float32 although
    every element is finite is *not* infinite here: such a tensor is read again in float64. So ``sum_sq`` is ``inf`` where
    the tensor holds an Inf element, ``nan`` where it holds a NaN, and finite otherwise (up to float64 gradients of norm 1e154).

    Attributes:
        layout: names, groups and shapes of the tensors.
        xp: the array namespace that the arrays belong to (``numpy``, ``torch``, ``jax.numpy``, ``keras.ops``).
        sum_sq: sum of the squared moduli of each tensor's elements, shape ``(n,)``.
        present: which tensors have a gradient, a NumPy boolean array of shape ``(n,)``; ``None``: all of them.
        norm_p: for each p other than 2 and inf that a policy asked for, the p-norm of each tensor, shape ``(n,)``.
        abs_max: largest modulus per tensor, shape ``(n,)``; ``None`` where nobody asked.
        param_norm: 2-norm of each parameter, shape ``(n,)``; ``None`` where nobody asked.
        unit_sum_sq: ``sum_sq`` of each unit of all tensors, shape ``(num_units,)``; ``None`` where nobody asked (``"units"``).
        unit_param_norm: 2-norm of each unit of the parameters, shape ``(num_units,)``; comes with ``unit_sum_sq``.
        lr: learning rate of each tensor, shape ``(n,)``; ``None`` where nobody asked.
        update_rms: ``sqrt(mean(g²/v))`` of each tensor with v Adam's second moment as this step will leave it, shape ``(n,)``;
            ``None`` where nobody asked.

    Example:
        >>> r = Readings(Layout(("a", "b")), np, np.array([9.0, 16.0]))
        >>> float(r.total_norm())
        5.0
        >>> r.scaled(np.array([2.0, 1.0])).norms()
        array([6., 4.])
    """

    layout: Layout
    xp: Any
    sum_sq: Array
    present: np.ndarray | None = None
    norm_p: Mapping[float, Array] = field(default_factory=dict[float, Array])
    abs_max: Array | None = None
    param_norm: Array | None = None
    unit_sum_sq: Array | None = None
    unit_param_norm: Array | None = None
    lr: Array | None = None
    update_rms: Array | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The tensors' names."""
        return self.layout.names

    def __len__(self) -> int:
        return len(self.layout)

    def norms(self, p: float = 2.0) -> Array:
        """p-norm of each tensor, shape ``(n,)``. For p other than 2 the reading must have been asked for."""
        if p == 2.0:
            return self.xp.sqrt(self.sum_sq)
        if p == INF:
            return self._measured(self.abs_max, "abs_max")
        return self._measured(self.norm_p.get(p), norm_p(p))

    def total_norm(self, p: float = 2.0) -> Array:
        """p-norm of all tensors laid end to end, shape ``()``; 0 where there is no tensor."""
        if p == 2.0:
            return self.xp.sqrt(self.xp.sum(self.sum_sq))
        if p == INF:
            peaks = self._measured(self.abs_max, "abs_max")
            return self.xp.max(peaks) if len(self) else self.xp.sum(peaks)
        norms = self.norms(p)
        if not len(self):
            return self.xp.sum(norms)
        largest = self.xp.max(norms)  # taken out, so that no p-th power can overflow or vanish
        unit = self.xp.where((largest > 0) & self.xp.isfinite(largest), largest, 1.0)
        return unit * self.xp.sum((norms / unit) ** p) ** (1.0 / p)

    def scaled(self, scale: Array) -> Readings:
        """The readings as they will be once tensor ``i`` is multiplied by ``scale[i]`` (or all by one number)."""
        size = abs(scale)
        per_unit = size[self.layout.tensor_of_unit] if self.unit_sum_sq is not None and getattr(size, "ndim", 0) else size
        return replace(
            self,
            sum_sq=self.sum_sq * (size * size),
            unit_sum_sq=None if self.unit_sum_sq is None else self.unit_sum_sq * (per_unit * per_unit),
            abs_max=None if self.abs_max is None else self.abs_max * size,
            norm_p={p: value * size for p, value in self.norm_p.items()},
            update_rms=None,  # not to be had by arithmetic; a chain measures again before a policy that needs it
        )

    def select(self, layout: Layout, index: Sequence[int]) -> Readings:
        """The readings of the tensors ``index``, whose layout is ``layout``."""
        rows = np.asarray(index)  # not a list: jax refuses one
        per_tensor = ("present", "abs_max", "param_norm", "lr", "update_rms")
        taken = {name: value[rows] for name in per_tensor if (value := getattr(self, name)) is not None}
        if self.unit_sum_sq is not None:
            units = np.flatnonzero(np.isin(self.layout.tensor_of_unit, rows))  # in the order of the layout: so must `index` be
            taken |= {name: getattr(self, name)[units] for name in ("unit_sum_sq", "unit_param_norm")}
        norms = {p: value[rows] for p, value in self.norm_p.items()}
        return replace(self, layout=layout, sum_sq=self.sum_sq[rows], norm_p=norms, **taken)

    def _measured(self, value: Array | None, need: str) -> Array:
        if value is None:
            raise LookupError(f"the reading {need!r} was not measured: the policy must list it in `needs`")
        return value


def norm_p(p: float) -> str:
    """The name under which a policy asks for p-norms in its ``needs``: ``norm_p(1.0) == "norm_p:1.0"``."""
    return f"norm_p:{float(p)}"


def needs_for_norm(p: float) -> frozenset[str]:
    """The extra readings that the p-norm wants: none for 2, ``abs_max`` for inf, ``norm_p:p`` otherwise."""
    if p == 2.0:
        return frozenset()
    return frozenset({"abs_max" if p == INF else norm_p(p)})
