"""steadygrad keeps neural-network training stable: it watches gradients, stops the damage, and explains what happened.

Three sizes of commitment::

    import steadygrad as sg

    total_norm = sg.clip_grad_norm_(model.parameters(), max_norm=1.0)      # torch's own signature; faster, safer
    guard = sg.Guard(optimizer, sg.chain(sg.skip_nonfinite(), sg.clip_by_global_norm(1.0)), model=model)
    with sg.watch("runs/a"): train()                                       # look, touch nothing

or, with an unmodified script: ``steadygrad run train.py``. Importing this package does nothing but name things: each name is
looked up when it is first used, so that reading a recorded run never imports torch.
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
    from steadygrad.decide import chain as chain
    from steadygrad.decide import clip_by_global_norm as clip_by_global_norm
    from steadygrad.decide import clip_by_group_norm as clip_by_group_norm
    from steadygrad.decide import clip_by_norm as clip_by_norm
    from steadygrad.decide import clip_by_rms as clip_by_rms
    from steadygrad.decide import decay as decay
    from steadygrad.decide import masked as masked
    from steadygrad.decide import skip_nonfinite as skip_nonfinite
    from steadygrad.decision import Decision as Decision
    from steadygrad.errors import ArgumentError as ArgumentError
    from steadygrad.errors import NonFiniteGradientError as NonFiniteGradientError
    from steadygrad.errors import SteadygradError as SteadygradError
    from steadygrad.errors import SteadygradWarning as SteadygradWarning
    from steadygrad.functional import clip_grad_norm_ as clip_grad_norm_
    from steadygrad.functional import clip_grad_value_ as clip_grad_value_
    from steadygrad.functional import clip_grads_with_norm_ as clip_grads_with_norm_
    from steadygrad.functional import get_total_norm as get_total_norm
    from steadygrad.guard import Guard as Guard
    from steadygrad.policies import parse_policy as parse_policy
    from steadygrad.policy import Policy as Policy
    from steadygrad.readings import Layout as Layout
    from steadygrad.readings import Readings as Readings
    from steadygrad.runs import load_run as load_run
    from steadygrad.transforms.value import clip_by_value as clip_by_value
    from steadygrad.watching import watch as watch


def __getattr__(name: str) -> Any:
    if name in _HOME:
        value = getattr(import_module(f"steadygrad.{_HOME[name]}"), name)
    elif not name.startswith("_") and name in (registry := import_module("steadygrad.policies").POLICIES):
        value = registry[name]  # every word that `--policy` knows
    else:
        raise AttributeError(f"module 'steadygrad' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
