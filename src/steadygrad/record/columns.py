"""Which column of the per-tensor lists belongs to which parameter of which optimizer."""

from __future__ import annotations

from typing import Any

import numpy as np

from steadygrad.readings import Layout

_MAX_CACHED = 256


class ParameterColumns:
    """The parameters of a run, in the order of the per-tensor columns. Columns are added and never move.

    Two optimizers that hold equally named parameters get columns of their own; the later name gets a suffix: ``weight#2``.

    Example:
        >>> columns = ParameterColumns()
        >>> columns.add(0, Layout(("a", "b")))
        >>> columns.add(1, Layout(("a",)))
        >>> [each["name"] for each in columns.parameters]
        ['a', 'b', 'a#2']
        >>> columns.of(1, Layout(("a",)))
        array([2])
    """

    def __init__(self) -> None:
        self.parameters: list[dict[str, Any]] = []
        """What ``run.json`` lists."""
        self._columns: dict[tuple[int, str, int], int] = {}
        self._names: set[str] = set()
        self._cache: dict[tuple[int, int], tuple[Layout, np.ndarray]] = {}

    def __len__(self) -> int:
        return len(self.parameters)

    def add(self, optimizer: int, layout: Layout) -> None:
        """Give a column to every parameter of the layout that has none yet."""
        self._cache[optimizer, id(layout)] = (layout, self._match(optimizer, layout))

    def of(self, optimizer: int, layout: Layout) -> np.ndarray:
        """The columns of the layout's rows, shape ``(n,)``; the layout itself is kept, so that its identity stays its own."""
        known = self._cache.get((optimizer, id(layout)))
        if known is None:
            if len(self._cache) > _MAX_CACHED:
                self._cache.clear()  # somebody makes a new layout every step
            known = self._cache[optimizer, id(layout)] = (layout, self._match(optimizer, layout))
        return known[1]

    def _match(self, optimizer: int, layout: Layout) -> np.ndarray:
        columns = np.empty(len(layout), np.int64)
        seen: dict[str, int] = {}
        for row, name in enumerate(layout.names):
            seen[name] = seen.get(name, 0) + 1  # one name twice in one layout: told apart by their order
            key = (optimizer, name, seen[name])
            if key not in self._columns:
                self._columns[key] = len(self.parameters)
                self.parameters.append(self._describe(optimizer, layout, row))
            columns[row] = self._columns[key]
        return columns

    def _describe(self, optimizer: int, layout: Layout, row: int) -> dict[str, Any]:
        shape = layout.shapes[row] if layout.shapes else None
        return {
            "name": self._unique(layout.names[row]),
            "shape": shape if shape is None else list(shape),
            "dtype": layout.dtypes[row] if layout.dtypes else None,
            "numel": layout.numel[row] if layout.shapes else None,
            "optimizer": optimizer,
            "group": layout.groups[row],
        }

    def _unique(self, name: str) -> str:
        unique, count = name, 1
        while unique in self._names:
            count += 1
            unique = f"{name}#{count}"
        self._names.add(unique)
        return unique
