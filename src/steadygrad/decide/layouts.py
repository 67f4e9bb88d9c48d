"""Facts about a layout that a policy works out once: which rows belong together, how large each tensor is.

A layout is made once and shared by all steps, so what follows from it alone is kept beside it, for as long as it lives.
That is a cache and no state: it is not saved, and throwing it away changes no decision.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import numpy as np

from steadygrad.readings import Layout

T = TypeVar("T")


def by_layout(build: Callable[[Layout], T]) -> Callable[[Layout], T]:
    """``build``, called once per layout object.

    Example:
        >>> length = by_layout(lambda layout: len(layout.names))
        >>> length(Layout(("a", "b")))
        2
    """
    known: WeakKeyDictionary[Layout, T] = WeakKeyDictionary()

    def look_up(layout: Layout) -> T:
        found = known.get(layout)
        if found is None:
            found = known[layout] = build(layout)
        return found

    return look_up


class RowConstants:
    """One constant per row of the readings, handed out as an array that goes with the readings' own.

    NumPy and JAX compute with a NumPy array as it is. Torch wants a tensor of the same type and device, which is made once.

    Args:
        values: shape ``(n,)``.

    Example:
        >>> RowConstants(np.array([1.0, 2.0])).like(np.zeros(2))
        array([1., 2.])
    """

    def __init__(self, values: np.ndarray) -> None:
        self._values = values
        self._made: dict[tuple[Any, Any], Any] = {}

    def like(self, array: Any) -> Any:
        """The constants for arithmetic with ``array``, shape ``(n,)``."""
        if not hasattr(array, "new_tensor"):
            return self._values
        key = (array.dtype, array.device)
        if key not in self._made:
            self._made[key] = array.new_tensor(self._values)
        return self._made[key]
