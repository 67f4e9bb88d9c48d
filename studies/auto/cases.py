"""What is run: cases by name, contenders by their texts, and which of them meet."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import adam
import digits
import spikes
import temporal

CONTENDERS = (
    "none",
    "clip_by_global_norm(0.1)",
    "clip_by_global_norm(0.25)",
    "clip_by_global_norm(0.5)",
    "clip_by_global_norm(1.0)",
    "clip_by_global_norm(5.0)",
    "autoclip()",
    "zclip()",
    "adagc()",
    "adaptive_grad_clip()",
    "auto(max_update=0.005)",
)
"""Numbers are written out, so that a result stays what it is should a default change; the tables show the policy's own text."""
VARIANTS = (
    "auto(max_update=0.003)",
    "auto(max_update=0.01)",
    "auto(max_update=0.03)",
    "auto(max_update=inf)",
    "auto(deviations=inf, max_update=0.01)",
)
"""``auto`` with other values of the constant that matters, and each of its halves alone."""

SEEDS = tuple(range(5))
SEEDS_OF_VARIANTS = SEEDS[:2]

CASES: dict[str, Callable[[str, int], dict[str, Any]]] = {
    "spikes": spikes.run,
    **{
        f"{net} x{times}": partial(digits.run, net=net, times=times)
        for net in ("lenet", "lenet adam", "pixels")
        for times in (1, 3, 10)
    },
    "temporal 30-60": partial(temporal.run, low=30, high=60, updates=6000),
    "temporal 20": partial(temporal.run, low=20, high=20, updates=3000),
    **{f"adam beta2={beta2}": partial(adam.run, beta2=beta2) for beta2 in (0.99,)},
}
QUICK = ("spikes", "lenet x1", "lenet x10", "adam beta2=0.99")
"""The cases of a quick run, with one seed."""
