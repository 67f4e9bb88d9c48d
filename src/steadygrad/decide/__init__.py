"""Policies: from one step's readings to a decision. One family a file.

``global_norm`` and ``tensor_norm`` limit norms, ``nonfinite`` skips steps, ``decay`` multiplies by a factor, ``chain`` and
``masked`` build policies from policies. A policy never sees a gradient, waits for no device and uses only functions that
NumPy, torch, jax.numpy and keras.ops share under one name.
"""

from steadygrad.decide.chain import chain, parts_of
from steadygrad.decide.decay import decay
from steadygrad.decide.global_norm import clip_by_global_norm, clip_by_group_norm
from steadygrad.decide.masked import masked
from steadygrad.decide.nonfinite import skip_nonfinite
from steadygrad.decide.schedules import Schedule, cosine, exponential, inverse_time
from steadygrad.decide.tensor_norm import clip_by_norm, clip_by_rms

__all__ = [
    "Schedule",
    "chain",
    "clip_by_global_norm",
    "clip_by_group_norm",
    "clip_by_norm",
    "clip_by_rms",
    "cosine",
    "decay",
    "exponential",
    "inverse_time",
    "masked",
    "parts_of",
    "skip_nonfinite",
]
