"""Parameters that get no gradient: frozen, unused, or cut off."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from steadygrad.diagnose.finding import Finding
from steadygrad.diagnose.numbers import names_text
from steadygrad.runs import Run

MIN_ROWS = 2
"""A zero or missing gradient in a single step says nothing."""


def no_gradient(run: Run) -> Iterable[Finding]:
    """Parameters that never had a gradient, and parameters whose gradient was exactly 0 in every step."""
    if not run.names or len(run) < MIN_ROWS:
        return
    seen = np.asarray(run.present.any(axis=0), dtype=bool)
    never = _names(run, ~seen)
    if never:
        yield Finding(
            slug="no-gradient",
            severity="warning",
            title=f"{_count(never)} never had a gradient",
            where=never,
            evidence={"parameters": len(never), "of": len(run.names)},
            cause=f"{names_text(never)}: frozen, unused in the forward pass, or cut off by `detach` or `no_grad`.",
            remedies=(
                "If this is on purpose, leave them out of the optimizer.",
                "Otherwise look for `detach`, `.data`, `.item` or an unused branch in `forward`.",
            ),
        )
    moved = np.asarray((run.present & (run.grad_norm != 0)).any(axis=0), dtype=bool)
    zero = _names(run, seen & ~moved)
    if zero:
        yield Finding(
            slug="zero-gradient",
            severity="warning",
            title=f"The gradient of {_count(zero)} was exactly 0 in every step",
            where=zero,
            evidence={"parameters": len(zero), "of": len(run.names)},
            cause=f"{names_text(zero)}: dead units (a ReLU that never fires), a factor of 0, or underflow in half precision.",
            remedies=(
                "Lower the learning rate and check the initialisation and the scale of the inputs; try LeakyReLU or GELU.",
                "In float16, use a gradient scaler or bfloat16.",
            ),
        )


def _names(run: Run, mask: np.ndarray) -> tuple[str, ...]:
    return tuple(run.names[i] for i in np.flatnonzero(mask))


def _count(names: tuple[str, ...]) -> str:
    return "1 parameter" if len(names) == 1 else f"{len(names)} parameters"
