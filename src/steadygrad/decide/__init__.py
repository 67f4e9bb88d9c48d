"""Policies: from one step's readings to a decision. One family a file.

``global_norm``, ``tensor_norm`` and ``soft_clip`` limit norms, ``unitwise``, ``weight_relative`` and ``update_rms`` limit steps,
``autoclip``, ``percentile``, ``zclip``, ``adagc``, ``growth`` and ``aggc`` limit norms by their own history,
``normalize`` and ``stabilizer`` replace norms, ``nonfinite`` skips steps, ``decay`` multiplies by a factor, ``chain`` and
``masked`` build policies from policies. A policy never sees a gradient, waits for no device and uses only functions that
NumPy, torch, jax.numpy and keras.ops share under one name.
"""

from steadygrad.decide.adagc import adagc
from steadygrad.decide.aggc import aggc
from steadygrad.decide.auto import auto
from steadygrad.decide.autoclip import autoclip
from steadygrad.decide.blocks import block_descent
from steadygrad.decide.chain import chain, parts_of
from steadygrad.decide.decay import decay
from steadygrad.decide.global_norm import clip_by_global_norm, clip_by_group_norm
from steadygrad.decide.growth import clip_by_growth
from steadygrad.decide.masked import masked
from steadygrad.decide.nonfinite import skip_nonfinite
from steadygrad.decide.normalize import normalize, smooth_normalize
from steadygrad.decide.percentile import percentile_clip
from steadygrad.decide.schedules import Schedule, cosine, exponential, inverse_time
from steadygrad.decide.soft_clip import soft_clip_norm
from steadygrad.decide.stabilizer import gradient_stabilizer
from steadygrad.decide.tensor_norm import clip_by_norm, clip_by_rms
from steadygrad.decide.unitwise import adaptive_grad_clip
from steadygrad.decide.update_rms import clip_update_rms
from steadygrad.decide.weight_relative import weight_relative_clip
from steadygrad.decide.zclip import zclip

__all__ = [
    "Schedule",
    "adagc",
    "adaptive_grad_clip",
    "aggc",
    "auto",
    "autoclip",
    "block_descent",
    "chain",
    "clip_by_global_norm",
    "clip_by_group_norm",
    "clip_by_growth",
    "clip_by_norm",
    "clip_by_rms",
    "clip_update_rms",
    "cosine",
    "decay",
    "exponential",
    "gradient_stabilizer",
    "inverse_time",
    "masked",
    "normalize",
    "parts_of",
    "percentile_clip",
    "skip_nonfinite",
    "smooth_normalize",
    "soft_clip_norm",
    "weight_relative_clip",
    "zclip",
]
