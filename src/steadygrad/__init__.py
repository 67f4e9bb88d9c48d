"""steadygrad keeps neural-network training stable: it watches gradients, stops the damage, and explains what happened.

Three sizes of commitment::

    import steadygrad as sg

    total_norm = sg.clip_grad_norm_(model.parameters(), max_norm=1.0)      # torch's own signature; faster, safer
    guard = sg.Guard(optimizer, sg.chain(sg.skip_nonfinite(), sg.clip_by_global_norm(1.0)), model=model)
    with sg.watch("runs/a"): train()                                       # look, touch nothing

or, with an unmodified script: ``steadygrad run train.py``. Importing this package does nothing but name things: each name is looked up
when it is first used, so that reading a recorded run never imports torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOME = {
    "ArgumentError": "errors",
    "Decision": "decision",
    "Guard": "guard",
    "Layout": "readings",
    "Limiter": "arrays",
    "NonFiniteGradientError": "errors",
    "Policy": "policy",
    "Readings": "readings",
    "SteadygradError": "errors",
    "SteadygradWarning": "errors",
    "chain": "decide",
    "clip_by_global_norm": "decide",
    "clip_by_group_norm": "decide",
    "clip_by_norm": "decide",
    "clip_by_rms": "decide",
    "clip_by_value": "transforms.value",
    "clip_grad_norm_": "functional",
    "clip_grad_value_": "functional",
    "clip_grads_with_norm_": "functional",
    "decay": "decide",
    "get_total_norm": "functional",
    "load_run": "runs",
    "masked": "decide",
    "parse_policy": "policies",
    "skip_nonfinite": "decide",
    "watch": "watching",
}

__all__ = sorted(_HOME)  # pyright: ignore[reportUnsupportedDunderAll]

if TYPE_CHECKING:
    from steadygrad.arrays import Limiter as Limiter


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'steadygrad' has no attribute {name!r}")
    value = getattr(import_module(f"steadygrad.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
