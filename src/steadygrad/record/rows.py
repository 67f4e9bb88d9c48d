"""From what the hot path hands over to the columns of a part. Runs on the writer's thread, for many steps at once.

Tensors are handled by what they can do (``detach``, ``cpu``, ``numpy``), so torch is never imported here. Those of one
device and shape are stacked there and fetched together: one wait for the device a flush, not one a value.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from steadygrad.decision import Decision
from steadygrad.readings import Layout, Readings
from steadygrad.record.columns import ParameterColumns
from steadygrad.store import Table, Values

_FLOAT32_MAX = float(np.finfo(np.float32).max)


class StepRecord(NamedTuple):
    """One optimizer step, as the hot path hands it over; whatever can be derived is derived later, on the writer's thread.

    Arrays and tensors are kept until then, not copied: hand over such as nobody changes in place, and no autograd graph.

    Attributes:
        optimizer: index that :meth:`Recorder.add_optimizer` returned.
        step: the optimizer's own count of steps, from 1; a skipped step counts.
        time: ``time.perf_counter()`` at the step, in seconds.
        readings: the gradients before anything was done to them.
        decision: what was done.
        loss: a number, a 0-dimensional array or tensor, or ``None`` if unknown.
        lr: learning rate of the first parameter group; a number, or a tensor (which is copied at once).
        skipped: whether the optimizer was kept from stepping; a bool or a 0-dimensional array or tensor.
    """

    optimizer: int
    step: int
    time: float
    readings: Readings
    decision: Decision
    loss: Any = None
    lr: Any = None
    skipped: Any = False


class Checkup(NamedTuple):
    """One sampled check-up, as it is handed over. Arrays have shape ``(n,)`` of that layout, or are ``None``."""

    optimizer: int
    step: int
    layout: Layout
    abs_max: Any
    param_norm: Any
    update_ratio: Any


def step_table(batch: Sequence[tuple[int, StepRecord]], columns: ParameterColumns, start: float) -> Table:
    """The columns of ``steps`` for a batch of ``(row, record)``.

    Args:
        batch: at least one pair.
        columns: where each optimizer's parameters are in the per-tensor lists.
        start: ``time.perf_counter()`` when the run began.
    """
    records = [record for _, record in batch]
    table = _scalar_columns(batch, records, start)
    groups = _group(records, lambda record: (record.optimizer, record.readings.layout))
    places = [columns.of(optimizer, layout) for optimizer, layout, _ in groups]
    size = (len(records), len(columns))
    norms, scales = _Slots(size), _Slots(size)
    for name in ("total_norm", "total_norm_after", "coefficient"):
        table[name] = Values(np.full(len(records), np.nan), np.ones(len(records), bool))
    for place, (_, _, index) in zip(places, groups, strict=True):
        _norms_of_group([records[i] for i in index], np.array(index), place, table, norms, scales)
    table["grad_norm"], table["scale"] = norms.values(), scales.values()
    return table


def checkup_table(batch: Sequence[tuple[int, Checkup]], columns: ParameterColumns) -> Table:
    """The columns of ``checkups`` for a batch of ``(row, checkup)``."""
    checkups = [checkup for _, checkup in batch]
    table: Table = {
        "row": Values(np.array([row for row, _ in batch], np.int64)),
        "step": Values(np.array([each.step for each in checkups], np.int64)),
        "optimizer": Values(np.array([each.optimizer for each in checkups], np.int16)),
    }
    groups = [(columns.of(k, at), index) for k, at, index in _group(checkups, lambda each: (each.optimizer, each.layout))]
    for name in ("abs_max", "param_norm", "update_ratio"):
        slots = _Slots((len(checkups), len(columns)))
        for place, index in groups:
            values = gather([getattr(checkups[i], name) for i in index], len(place))
            given = np.array([getattr(checkups[i], name) is not None for i in index])
            slots.put(np.array(index)[given], place, values[given], None)
        table[name] = slots.values()
    return table


def gather(values: Sequence[Any], width: int | None = None) -> np.ndarray:
    """Numbers, arrays and tensors as one float64 array; what is ``None``, or has another size, reads as NaN.

    Args:
        values: each of one element where ``width`` is ``None``, else of shape ``(width,)``.
        width: length of each value, or ``None`` for single numbers.

    Returns:
        Shape ``(len(values),)`` or ``(len(values), width)``.
    """
    out = np.full(len(values) if width is None else (len(values), width), np.nan)
    wanted = 1 if width is None else width
    stacks: dict[Any, list[int]] = {}
    for i, value in enumerate(values):
        if isinstance(value, (float, int)):
            out[i] = value
        elif hasattr(value, "detach"):
            stacks.setdefault((value.device, value.dtype, tuple(value.shape)), []).append(i)
        elif value is not None and np.size(value) == wanted:
            out[i] = np.reshape(np.asarray(value, np.float64), out.shape[1:])
    for (device, _, shape), index in stacks.items():
        if math.prod(shape) == wanted:
            out[index] = np.reshape(_fetch([values[i] for i in index], device), (len(index), *out.shape[1:]))
    return out


def _fetch(tensors: list[Any], device: Any) -> np.ndarray:
    torch: Any = sys.modules["torch"]  # where there is a tensor, there is torch
    if device.type in ("cuda", "xpu"):
        # The values may come from another stream than this thread's: wait for all of them, here and not in the training thread.
        getattr(torch, device.type).synchronize(device)
    return torch.stack([each.detach() for each in tensors]).cpu().double().numpy()


def _scalar_columns(batch: Sequence[tuple[int, StepRecord]], records: Sequence[StepRecord], start: float) -> Table:
    skipped, reason = gather([r.skipped for r in records]), gather([r.decision.reason for r in records])
    return {
        "row": Values(np.array([row for row, _ in batch], np.int64)),
        "step": Values(np.array([r.step for r in records], np.int64)),
        "optimizer": Values(np.array([r.optimizer for r in records], np.int16)),
        "time": Values(np.array([r.time for r in records]) - start),
        "loss": _optional([r.loss for r in records]),
        "skipped": Values(np.nan_to_num(skipped).astype(bool)),
        "reason": Values(np.nan_to_num(reason).astype(np.int16)),
        "lr": _optional([r.lr for r in records]),
        "threshold": _optional([r.decision.threshold for r in records]),
    }


def _optional(values: Sequence[Any]) -> Values:
    """Unknown is null, and NaN is a value that was NaN."""
    return Values(gather(values), np.array([_size(value) != 1 for value in values], bool))


def _size(value: Any) -> int:
    """Number of elements; 0 where there is no value."""
    if value is None or isinstance(value, (float, int)):
        return value is not None
    return math.prod(getattr(value, "shape", ()))


class _Slots:
    """A per-tensor column under construction: null until something is put."""

    def __init__(self, size: tuple[int, int]) -> None:
        self.data = np.full(size, np.nan, np.float32)
        self.missing = np.ones(size, bool)

    def put(self, rows: np.ndarray, places: np.ndarray, values: np.ndarray, absent: np.ndarray | None) -> None:
        at = np.ix_(rows, places)
        # A finite value that float32 cannot hold must not read as an Inf gradient.
        self.data[at] = np.where(np.isinf(values), values, np.minimum(values, _FLOAT32_MAX))
        self.missing[at] = False if absent is None else absent

    def values(self) -> Values:
        return Values(np.where(self.missing, np.float32("nan"), self.data), self.missing if self.missing.any() else None)


def _norms_of_group(
    records: Sequence[StepRecord], rows: np.ndarray, places: np.ndarray, table: Table, norms: _Slots, scales: _Slots
) -> None:
    """Fill in what follows from readings and decision, for records of one optimizer and layout."""
    n = len(places)
    factor = np.ones((len(records), n))
    uniform = np.ones(len(records))
    single, each = _kinds_of_scale(records)
    uniform[single] = gather([records[i].decision.scale for i in single])
    factor[single] = uniform[single, None]
    factor[each] = gather([records[i].decision.scale for i in each], n)
    sum_sq = gather([record.readings.sum_sq for record in records], n)
    with np.errstate(all="ignore"):
        total = np.sqrt(sum_sq.sum(1))
        after = np.sqrt((sum_sq * factor**2).sum(1))
        uniform[each] = np.where(total[each] > 0, after[each] / total[each], 1.0)
        norms.put(rows, places, np.sqrt(sum_sq), _absent(records, n))
    scales.put(rows[each], places, factor[each], None)
    clamped = np.array([record.decision.rewrites for record in records])
    for name, values, missing in (
        ("total_norm", total, np.zeros(len(records), bool)),
        ("total_norm_after", after, clamped),
        ("coefficient", uniform, clamped),
    ):
        data, mask = table[name]
        data[rows] = np.where(missing, np.nan, values)
        if mask is not None:
            mask[rows] = missing


def _kinds_of_scale(records: Sequence[StepRecord]) -> tuple[list[int], list[int]]:
    """Which records have one factor for all tensors, and which have one for each."""
    single: list[int] = []
    each: list[int] = []
    for i, record in enumerate(records):
        if record.decision.scale is not None:
            (each if len(getattr(record.decision.scale, "shape", ())) == 1 else single).append(i)
    return single, each


def _absent(records: Sequence[StepRecord], n: int) -> np.ndarray:
    """Shape ``(len(records), n)``: where a tensor had no gradient."""
    absent = np.zeros((len(records), n), bool)
    for i, record in enumerate(records):
        if record.readings.present is not None:
            absent[i] = ~np.asarray(record.readings.present, bool)
    return absent


def _group(items: Sequence[Any], key: Callable[[Any], tuple[int, Layout]]) -> list[tuple[int, Layout, list[int]]]:
    """Positions of the items by optimizer and layout, where layouts are told apart by identity."""
    groups: dict[tuple[int, int], tuple[int, Layout, list[int]]] = {}
    for i, item in enumerate(items):
        optimizer, layout = key(item)
        groups.setdefault((optimizer, id(layout)), (optimizer, layout, []))[2].append(i)
    return list(groups.values())
