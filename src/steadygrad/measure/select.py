"""Which engine reads, and why; and the one function that everybody calls."""

from __future__ import annotations

# Where torch is not annotated:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor

from steadygrad.errors import ArgumentError, UnsupportedError
from steadygrad.measure import cpu, foreach
from steadygrad.measure.groups import Given, learning_rates
from steadygrad.measure.units import sum_of_units, unit_sum_sq, unit_sum_sq_on_device
from steadygrad.measure.update_rms import update_rms, update_rms_on_device
from steadygrad.readings import Layout, Readings

_CPU = torch.device("cpu")
_PREFIX = "norm_p:"
_KNOWN = ("abs_max", "lr", "param_norm", "units", "update_rms")


class Engine(NamedTuple):
    """An engine and the reason for choosing it.

    Attributes:
        name: ``"cpu"`` or ``"foreach"``.
        reason: why, in words.
        read: the module with ``sum_sq``, ``abs_max`` and ``p_norm``.
        xp: the namespace of the arrays that it returns.
    """

    name: str
    reason: str
    read: Any
    xp: Any


def choose(tensors: Sequence[Tensor], prefer: str | None = None) -> Engine:
    """The engine for these gradients.

    Args:
        tensors: gradients or parameters; only their devices matter.
        prefer: ``"cpu"`` or ``"foreach"`` to force one.

    Raises:
        ArgumentError: unknown engine, or the CPU engine for tensors elsewhere.
        UnsupportedError: a DTensor, of which each rank holds a part only.

    Example:
        >>> choose([torch.zeros(2)]).reason
        'all tensors are on the CPU'
    """
    _refuse_sharded(tensors)
    elsewhere = {str(d) for d in {t.device for t in tensors} if d != _CPU}
    if prefer is None:
        if elsewhere:
            return Engine("foreach", f"tensors are on {', '.join(sorted(elsewhere))}", foreach, torch)
        return Engine("cpu", "all tensors are on the CPU", cpu, np)
    if prefer not in ("cpu", "foreach"):
        raise ArgumentError(f"`measure` knows the engines 'cpu' and 'foreach', not {prefer!r}", slug="engine-unknown")
    if prefer == "cpu" and elsewhere:
        raise ArgumentError(
            f"the CPU engine was asked for, but tensors are on {', '.join(sorted(elsewhere))}; use 'foreach'",
            slug="engine-unsuited",
        )
    return Engine(prefer, "it was asked for", cpu if prefer == "cpu" else foreach, np if prefer == "cpu" else torch)


def measure(
    grads: Sequence[Tensor | None],
    layout: Layout,
    needs: frozenset[str] = frozenset(),
    *,
    params: Sequence[Tensor] | None = None,
    engine: Engine | None = None,
    groups: Sequence[Mapping[str, Any]] | None = None,
    slots: Sequence[Mapping[str, Any]] | None = None,
    loss_scale: Any = None,
) -> Readings:
    """Read every gradient once.

    Args:
        grads: one gradient per row of ``layout``; ``None`` where a parameter has none.
        layout: what the rows stand for.
        needs: extra readings: ``"abs_max"``, ``"norm_p:<p>"``, ``"param_norm"`` and ``"update_rms"`` cost one more read each.
            ``"units"`` costs a read of the parameters; ``"lr"`` costs none. ``"param_norm:<k>"`` is read here every time.
        params: the parameters, for ``"param_norm"`` and ``"units"``.
        engine: from :func:`choose`; chosen anew where it is left out.
        groups: the optimizer's parameter groups, for ``"lr"`` and ``"update_rms"``; ``layout.groups`` points into them.
        slots: the optimizer's state of each parameter, empty before its first step, for ``"update_rms"``.
        loss_scale: the factor that the gradients still carry and the optimizer will take out. Only ``"update_rms"`` is read
            without it; ``Readings.scaled`` takes it out of all else, and drops that one.

    Returns:
        The readings, as NumPy arrays in float64 on the CPU, else as tensors on the device of the first gradient.

    Raises:
        ArgumentError: a reading of unknown name, or one that needs what was not given.

    Example:
        >>> r = measure([torch.tensor([3.0, 4.0]), None], Layout(("a", "b")))
        >>> r.norms()
        array([5., 0.])
    """
    held = [g for g in grads if g is not None]
    engine = engine or choose(held)
    present = None if len(held) == len(grads) else np.fromiter([g is not None for g in grads], np.bool_, len(grads))
    if "units" in needs:
        units, sum_sq = _units(engine, grads, layout, _home(held, params))
    else:
        units, sum_sq = None, spread(engine.read.sum_sq(held), present, engine.xp)
    readings = Readings(layout, engine.xp, sum_sq, present, unit_sum_sq=units)
    return _with_extra(readings, needs, engine, grads, Given(params, groups, slots, loss_scale)) if needs else readings


def _with_extra(
    readings: Readings, needs: frozenset[str], engine: Engine, grads: Sequence[Tensor | None], given: Given
) -> Readings:
    """The readings with all else that was asked for."""
    held = [g for g in grads if g is not None]
    norms: dict[float, Any] = {}
    for need in needs:
        if need == "abs_max":
            readings.abs_max = spread(engine.read.abs_max(held), readings.present, engine.xp)
        elif need.startswith(_PREFIX):
            p = float(need.removeprefix(_PREFIX))
            norms[p] = spread(engine.read.p_norm(held, p), readings.present, engine.xp)
        elif need.partition(":")[0] == "param_norm":
            readings.param_norm = engine.xp.sqrt(engine.read.sum_sq([p.detach() for p in given.get("params", need)]))
        elif need == "units":
            params = given.get("params", need)
            readings.unit_param_norm = engine.xp.sqrt(_units(engine, params, readings.layout, _home(held, params))[0])
        elif need == "lr":
            readings.lr = learning_rates(
                given.get("groups", need), readings.layout, None if engine.xp is np else _home(held, given.params)
            )
        elif need == "update_rms":
            readings.update_rms = spread(_update_rms(engine, grads, readings.layout, given), readings.present, engine.xp)
        elif need != "second_moment":  # a condition on the optimizer, checked when the policy is attached
            message = f"`measure` cannot read {need!r}; it knows {', '.join(map(repr, _KNOWN))} and 'norm_p:<p>'"
            raise ArgumentError(message, slug="reading-unknown")
    readings.norm_p = norms
    return readings


def _home(held: Sequence[Tensor], params: Sequence[Tensor] | None) -> torch.device:
    """The device of the readings: that of the first gradient, or where there is none, of the first parameter."""
    return next((t.device for t in (*held, *(params or ()))), _CPU)


def _units(engine: Engine, tensors: Sequence[Tensor | None], layout: Layout, home: torch.device) -> tuple[Any, Any]:
    """Sums of squares per unit and per tensor."""
    if len(layout.shapes) != len(layout):
        raise ArgumentError("'units' were asked for, but the layout has no shapes", slug="layout-shapes")
    if engine.xp is not np:
        return unit_sum_sq_on_device(tensors, layout, home)
    squares = unit_sum_sq(tensors, layout)
    return squares, sum_of_units(squares, layout)


def _update_rms(engine: Engine, grads: Sequence[Tensor | None], layout: Layout, given: Given) -> Any:
    groups, slots = given.get("groups", "update_rms"), given.get("slots", "update_rms")
    rows = [row for row, grad in enumerate(grads) if grad is not None]
    read = update_rms if engine.xp is np else update_rms_on_device
    held = cast(list[Tensor], [grads[row] for row in rows])
    return read(held, [groups[layout.groups[row]] for row in rows], [slots[row] for row in rows], given.loss_scale)


def spread(values: Any, present: np.ndarray | None, xp: Any) -> Any:
    """Values of the tensors that are there, with zeros for the others."""
    if present is None:
        return values
    if xp is np:
        full = np.zeros(len(present))
        full[present] = values
        return full
    full = values.new_zeros(len(present))
    return full.index_copy(0, torch.from_numpy(np.flatnonzero(present)).to(values.device), values)


def _refuse_sharded(grads: Sequence[Tensor]) -> None:
    """Raise where a tensor is a shard: a norm of shards is not the norm of the whole."""
    for g in grads:
        if type(g) is not Tensor and hasattr(g, "placements"):
            raise UnsupportedError(
                "this tensor is a DTensor (FSDP2, tensor parallel), of which each rank holds a part; steadygrad reads "
                "whole tensors only, so far",
                slug="sharded-unsupported",
            )
