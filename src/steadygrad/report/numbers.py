"""How numbers and names are written for people and for machines."""

from __future__ import annotations

import math
from typing import Any, cast

import numpy as np


def short(value: float | None) -> str:
    """A number with three significant digits; ``-`` if there is none.

    Example:
        >>> short(0.123456), short(31_234_567.0), short(None), short(float("nan")), short(float("inf"))
        ('0.123', '3.12e+07', '-', '-', 'Inf')
    """
    if value is None or math.isnan(value):
        return "-"
    if math.isinf(value):
        return "Inf" if value > 0 else "-Inf"
    return f"{value:.3g}"


def plain(text: object) -> str:
    r"""Text without control characters, which a terminal or a page could obey: they are shown as escapes.

    Example:
        >>> plain("a\x1b[31mb")
        'a\\x1b[31mb'
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))


def strict(value: Any) -> Any:
    """A value that strict JSON can hold: NaN becomes ``None``, infinities become ``"Infinity"`` and ``"-Infinity"``.

    Example:
        >>> strict({"a": [1.0, float("nan"), float("-inf")]})
        {'a': [1.0, None, '-Infinity']}
    """
    if isinstance(value, dict):
        return {str(key): strict(item) for key, item in cast("dict[Any, Any]", value).items()}
    if isinstance(value, (list, tuple)):
        return [strict(item) for item in cast("list[Any]", value)]
    if isinstance(value, np.ndarray):
        return strict(value.tolist())
    if isinstance(value, (np.generic,)):
        return strict(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value if isinstance(value, (str, int, float, bool)) or value is None else str(value)
