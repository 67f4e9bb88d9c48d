"""Which engine reads, and why; and the one function that everybody calls."""

from __future__ import annotations

# Where torch is not annotated:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from steadygrad.errors import ArgumentError, UnsupportedError
from steadygrad.measure import cpu, foreach
from steadygrad.readings import Layout, Readings

_CPU = torch.device("cpu")
_PREFIX = "norm_p:"


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
) -> Readings:
    """Read every gradient once.

    Args:
        grads: one gradient per row of ``layout``; ``None`` where a parameter has none.
        layout: what the rows stand for.
        needs: extra readings: ``"abs_max"``, ``"param_norm"``, ``"norm_p:<p>"``. Each costs one more read.
        params: the parameters, for ``"param_norm"``.
        engine: from :func:`choose`; chosen anew where it is left out.

    Returns:
        The readings, as NumPy arrays in float64 on the CPU, else as tensors on the device of the first gradient.

    Example:
        >>> r = measure([torch.tensor([3.0, 4.0]), None], Layout(("a", "b")))
        >>> r.norms()
        array([5., 0.])
    """
    held = [g for g in grads if g is not None]
    engine = engine or choose(held)
    present = None
    sum_sq = engine.read.sum_sq(held)
    if len(held) < len(grads):
        present = np.fromiter([g is not None for g in grads], np.bool_, len(grads))
        sum_sq = spread(sum_sq, present, engine.xp)
    if not needs:
        return Readings(layout, engine.xp, sum_sq, present)
    extra = {need: spread(_read(engine, need, held), present, engine.xp) for need in needs if need != "param_norm"}
    return Readings(
        layout=layout,
        xp=engine.xp,
        sum_sq=sum_sq,
        present=present,
        norm_p={float(need.removeprefix(_PREFIX)): value for need, value in extra.items() if need.startswith(_PREFIX)},
        abs_max=extra.get("abs_max"),
        param_norm=_param_norm(engine, params) if "param_norm" in needs else None,
    )


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


def _read(engine: Engine, need: str, grads: Sequence[Tensor]) -> Any:
    if need == "abs_max":
        return engine.read.abs_max(grads)
    if need.startswith(_PREFIX):
        return engine.read.p_norm(grads, float(need.removeprefix(_PREFIX)))
    raise ArgumentError(
        f"`measure` cannot read {need!r}; it knows 'abs_max', 'param_norm' and 'norm_p:<p>'", slug="reading-unknown"
    )


def _param_norm(engine: Engine, params: Sequence[Tensor] | None) -> Any:
    if params is None:
        raise ArgumentError("'param_norm' was asked for, but `measure` was not given `params`", slug="reading-unknown")
    return engine.xp.sqrt(engine.read.sum_sq([p.detach() for p in params]))
