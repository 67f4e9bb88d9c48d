"""What an initialisation did: one row per parameter, and notes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple


class InitRow(NamedTuple):
    """One parameter.

    Attributes:
        name: its name in the model.
        shape: its shape.
        std_before: standard deviation of its elements before.
        std_after: and after.
        gain: the factor on the standard deviation for the activation; None where the parameter has none, or was left as it is.
        why: where the numbers come from, or why it was left as it is.
    """

    name: str
    shape: tuple[int, ...]
    std_before: float
    std_after: float
    gain: float | None
    why: str


@dataclass(frozen=True)
class InitReport:
    """The rows of an initialisation; prints as a table.

    Attributes:
        method: the method.
        rows: one row per parameter, in the order of the model's modules; those left as they are come last.
        notes: sentences about the whole model.
    """

    method: str
    rows: tuple[InitRow, ...]
    notes: tuple[str, ...] = field(default=())

    def __str__(self) -> str:
        """A table of the rows, then the notes."""
        head = ("parameter", "shape", "std before", "std after", "gain", "why")
        cells = [head, *(_cells(row) for row in self.rows)]
        widths = [max(len(line[i]) for line in cells) for i in range(5)]
        lines = ["  ".join([*(c.ljust(w) for c, w in zip(line, widths, strict=False)), line[5]]) for line in cells]
        return "\n".join([f"initialisation: {self.method}", *lines, *self.notes])


def _cells(row: InitRow) -> tuple[str, ...]:
    shape = "x".join(map(str, row.shape)) or "scalar"
    gain = "" if row.gain is None else f"{row.gain:.4g}"
    return row.name, shape, f"{row.std_before:.4g}", f"{row.std_after:.4g}", gain, row.why
