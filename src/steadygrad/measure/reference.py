"""The naive twin of the fast engines: readings of NumPy arrays, one obvious line for each quantity.

Everything is computed in float64, or wider where float64 cannot hold a sum of squares. No torch, no rows, no threads: what is
fast is tested against this.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from steadygrad.errors import ArgumentError, ArgumentTypeError, UnsupportedError
from steadygrad.readings import Layout, Readings

_NORM_P = "norm_p:"
_OF_OTHERS = frozenset({"param_norm", "units", "lr", "update_rms", "second_moment"})  # not of the gradients alone


def measure_arrays(
    grads: Sequence[np.ndarray | None],
    layout: Layout,
    needs: frozenset[str] = frozenset(),
    params: Sequence[np.ndarray] | None = None,
    groups: Sequence[Mapping[str, Any]] | None = None,
    slots: Sequence[Mapping[str, Any]] | None = None,
) -> Readings:
    """Readings of NumPy gradients: ``sum_sq_i = sum_j |g_ij|^2``, and what ``needs`` asks for.

    Args:
        grads: one gradient per row of ``layout``, real or complex floating point, any shape; ``None`` where there is none.
        layout: what the rows stand for.
        needs: extra readings: ``"abs_max"``, ``"param_norm"``, ``"norm_p:<p>"``, ``"units"``, ``"lr"``, ``"update_rms"``.
        params: the parameters, for ``"param_norm"`` and ``"units"``.
        groups: parameter groups as an optimizer has them, for ``"lr"`` and, with ``betas`` and ``eps``, ``"update_rms"``.
        slots: for each row ``exp_avg_sq`` and ``step`` as Adam keeps them, or nothing; for ``"update_rms"``.

    Returns:
        The readings, float64 arrays of shape ``(n,)``; ``sum_sq`` in NumPy's ``longdouble`` where the sum of all squares of
        finite gradients overflows float64 (on platforms whose ``longdouble`` is no wider it stays infinite).

    Raises:
        ArgumentError: not as many gradients as rows; a reading without what it is taken from.
        ArgumentTypeError: an array is not floating point.
        UnsupportedError: a reading of unknown name.

    Example:
        >>> readings = measure_arrays([np.array([3.0, -4.0]), None], Layout(("a", "b")), frozenset({"abs_max", "norm_p:1.0"}))
        >>> readings.sum_sq, readings.abs_max, readings.norms(1.0)
        (array([25.,  0.]), array([4., 0.]), array([7., 0.]))
    """
    if len(grads) != len(layout):
        message = f"`measure_arrays` expected {len(layout)} gradients, one per row of the layout, got {len(grads)}"
        raise ArgumentError(message, slug="gradient-count")
    sizes = [moduli(grad, name) for grad, name in zip(grads, layout.names, strict=True)]
    wanted = {need.partition(":")[0] for need in needs}  # "param_norm:10" may be read every time
    extra = {need: _read(need, sizes) for need in needs if need.partition(":")[0] not in _OF_OTHERS}
    units = "units" in wanted
    return Readings(
        layout=layout,
        xp=np,
        sum_sq=_sum_sq(sizes),
        present=None if all(grad is not None for grad in grads) else np.array([grad is not None for grad in grads]),
        norm_p={float(need.removeprefix(_NORM_P)): value for need, value in extra.items() if need.startswith(_NORM_P)},
        abs_max=extra.get("abs_max"),
        param_norm=_param_norm(_given(params, "params", "param_norm"), layout) if "param_norm" in wanted else None,
        unit_sum_sq=_unit_sum_sq(grads, layout) if units else None,
        unit_param_norm=np.sqrt(_unit_sum_sq(_given(params, "params", "units"), layout)) if units else None,
        lr=_learning_rates(_given(groups, "groups", "lr"), layout) if "lr" in wanted else None,
        update_rms=_update_rms(grads, layout, groups, slots) if "update_rms" in wanted else None,
    )


def moduli(grad: np.ndarray | None, name: str) -> np.ndarray:
    """The moduli of an array's elements as a float64 vector (``longdouble`` stays); empty for ``None``."""
    if grad is None:
        return np.zeros(0)
    if grad.dtype.kind not in "fc":
        message = f"expected the gradient of {name!r} to be floating point, got {grad.dtype}; convert it with `astype(float)`"
        raise ArgumentTypeError(message, slug="gradient-dtype")
    with np.errstate(over="ignore", invalid="ignore"):
        size: Any = np.abs(grad.astype(np.result_type(grad.dtype, np.float64)))
    return size.reshape(-1)


def _sum_sq(sizes: list[np.ndarray]) -> np.ndarray:
    with np.errstate(over="ignore"):
        plain = np.array([np.sum(size**2) for size in sizes], dtype=np.float64)
        if np.isfinite(plain.sum()):
            return plain
        wide = np.array([np.sum(size.astype(np.longdouble) ** 2) for size in sizes], dtype=np.longdouble)
        return wide if np.isfinite(wide.sum()) else plain


def _read(need: str, sizes: list[np.ndarray]) -> np.ndarray:
    if need == "abs_max":
        return np.array([np.max(size, initial=0.0) for size in sizes], dtype=np.float64)
    if need.startswith(_NORM_P):
        p = float(need.removeprefix(_NORM_P))
        return np.array([_p_norm(size, p) for size in sizes], dtype=np.float64)
    raise UnsupportedError(
        f"`measure_arrays` knows 'abs_max', 'lr', 'norm_p:<p>', 'param_norm', 'units' and 'update_rms', not {need!r}",
        slug="reading-unknown",
    )


def _p_norm(size: np.ndarray, p: float) -> float:
    """``(sum_j |x_j|^p)^(1/p)``, with the largest modulus taken out so that no power overflows or vanishes."""
    largest = np.max(size, initial=0.0)
    if largest == 0.0 or not np.isfinite(largest):
        return largest
    with np.errstate(over="ignore"):
        return largest * np.sum((size / largest) ** p) ** (1.0 / p)


def _param_norm(params: Sequence[np.ndarray], layout: Layout) -> np.ndarray:
    return np.sqrt(_sum_sq([moduli(param, name) for param, name in zip(params, layout.names, strict=True)])).astype(np.float64)


def _given(value: Any, name: str, need: str) -> Any:
    if value is None:
        raise ArgumentError(f"`measure_arrays` was asked for {need!r} but not given `{name}`", slug="reading-unknown")
    return value


def _unit_sum_sq(arrays: Sequence[np.ndarray | None], layout: Layout) -> np.ndarray:
    if len(layout.shapes) != len(layout):
        raise ArgumentError("'units' were asked for, but the layout has no shapes", slug="layout-shapes")
    parts: list[np.ndarray] = [np.zeros(0)]
    for array, name, dim, units in zip(arrays, layout.names, layout.unit_dims, layout.num_units, strict=True):
        if array is None:
            parts.append(np.zeros(units))
            continue
        shape: tuple[int, ...] = (1, *array.shape) if dim < 0 else array.shape
        size = np.reshape(moduli(array, name), shape)
        others = tuple(d for d in range(len(shape)) if d != max(dim, 0))
        with np.errstate(over="ignore"):
            parts.append(np.sum(size**2, axis=others))
    return np.concatenate(parts)


def _learning_rates(groups: Sequence[Mapping[str, Any]], layout: Layout) -> np.ndarray:
    return np.array([float(groups[group]["lr"]) for group in layout.groups])


def _update_rms(grads: Sequence[np.ndarray | None], layout: Layout, groups: Any, slots: Any) -> np.ndarray:
    groups, slots = _given(groups, "groups", "update_rms"), _given(slots, "slots", "update_rms")
    values = np.zeros(len(layout))
    for row, (grad, name, slot) in enumerate(zip(grads, layout.names, slots, strict=True)):
        group = groups[layout.groups[row]]
        square = moduli(grad, name) ** 2
        if not square.size:
            continue
        second = square
        if "exp_avg_sq" in slot:
            beta2, old = group["betas"][1], np.ravel(slot["exp_avg_sq"]).astype(np.float64)
            second = (beta2 * old + (1.0 - beta2) * square) / (1.0 - beta2 ** (float(slot["step"]) + 1.0))
        values[row] = np.sqrt(np.mean(square / np.maximum(second, group["eps"] ** 2)))
    return values
