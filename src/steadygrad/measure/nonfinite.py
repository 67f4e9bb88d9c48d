"""Which gradients are not finite, in which of the three ways, and which still are.

The finite ones matter as much: in a chain of layers they bracket the place where NaN or Inf began.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from steadygrad.measure.cpu import count_nonfinite
from steadygrad.readings import Readings

FLOAT32_MAX_SQ = float(np.finfo(np.float32).max) ** 2


def describe_nonfinite(grads: Sequence[Tensor | None], readings: Readings) -> dict[str, list[str] | list[int]]:
    """Sort the tensors' names by what their gradients hold. Reads only the tensors that are not finite once more.

    Args:
        grads: the gradients on the CPU, in the order of the readings' rows.
        readings: what was measured, as NumPy arrays.

    Returns:
        Names under ``"nan"`` (with ``"nan_elements"``, how many), ``"inf"`` (with ``"inf_elements"``), ``"overflowed"`` (finite,
        though the norm exceeds float32), and ``"finite"``; an element count belongs to the name at the same place.
    """
    found: dict[str, list[str] | list[int]] = {}
    names: dict[str, list[str]] = {"nan": [], "inf": [], "overflowed": [], "finite": []}
    counts: dict[str, list[int]] = {"nan_elements": [], "inf_elements": []}
    for name, grad, value in zip(readings.names, grads, readings.sum_sq, strict=True):
        if grad is None:
            continue
        if np.isfinite(value):
            names["overflowed" if value > FLOAT32_MAX_SQ else "finite"].append(name)
            continue
        nan, inf = count_nonfinite(grad)
        kind = "nan" if nan else "inf"
        names[kind].append(name)
        counts[f"{kind}_elements"].append(nan or inf)
    found.update(names)
    found.update(counts)
    return found
