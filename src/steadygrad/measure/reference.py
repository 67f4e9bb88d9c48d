"""The naive twin of the fast engines: readings of NumPy arrays, one obvious line for each quantity.

Everything is computed in float64, or wider where float64 cannot hold a sum of squares. No torch, no rows, no threads: what is
fast is tested against this.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from steadygrad.errors import ArgumentError, ArgumentTypeError, UnsupportedError
from steadygrad.readings import Layout, Readings

_NORM_P = "norm_p:"


def measure_arrays(
    grads: Sequence[np.ndarray | None],
    layout: Layout,
    needs: frozenset[str] = frozenset(),
    params: Sequence[np.ndarray] | None = None,
) -> Readings:
    """Readings of NumPy gradients: ``sum_sq_i = sum_j |g_ij|^2``, and what ``needs`` asks for.

    Args:
        grads: one gradient per row of ``layout``, real or complex floating point, any shape; ``None`` where there is none.
        layout: what the rows stand for.
        needs: extra readings: ``"abs_max"``, ``"param_norm"``, ``"norm_p:<p>"``.
        params: the parameters, for ``"param_norm"``.

    Returns:
        The readings, float64 arrays of shape ``(n,)``; ``sum_sq`` in NumPy's ``longdouble`` where the sum of all squares of
        finite gradients overflows float64 (on platforms whose ``longdouble`` is no wider it stays infinite).

    Raises:
        ArgumentError: not as many gradients as rows; ``"param_norm"`` without parameters.
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
    extra = {need: _read(need, sizes) for need in needs if need != "param_norm"}
    param_norm = _param_norm(params, layout) if "param_norm" in needs else None
    return Readings(
        layout=layout,
        xp=np,
        sum_sq=_sum_sq(sizes),
        present=None if all(grad is not None for grad in grads) else np.array([grad is not None for grad in grads]),
        norm_p={float(need.removeprefix(_NORM_P)): value for need, value in extra.items() if need.startswith(_NORM_P)},
        abs_max=extra.get("abs_max"),
        param_norm=param_norm,
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
        f"`measure_arrays` knows 'abs_max', 'param_norm' and 'norm_p:<p>', not {need!r}", slug="reading-unknown"
    )


def _p_norm(size: np.ndarray, p: float) -> float:
    """``(sum_j |x_j|^p)^(1/p)``, with the largest modulus taken out so that no power overflows or vanishes."""
    largest = np.max(size, initial=0.0)
    if largest == 0.0 or not np.isfinite(largest):
        return largest
    with np.errstate(over="ignore"):
        return largest * np.sum((size / largest) ** p) ** (1.0 / p)


def _param_norm(params: Sequence[np.ndarray] | None, layout: Layout) -> np.ndarray:
    if params is None:
        raise ArgumentError("`measure_arrays` was asked for 'param_norm' but not given `params`", slug="reading-unknown")
    return np.sqrt(_sum_sq([moduli(param, name) for param, name in zip(params, layout.names, strict=True)])).astype(np.float64)
