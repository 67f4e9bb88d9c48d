"""Prevention: what is done before training starts, so that less goes wrong during it. One idea a file."""

from steadygrad.prevent.critical import CriticalPoint, MeanField, critical_point, mean_field
from steadygrad.prevent.grouping import decay_groups
from steadygrad.prevent.initialize import initialize_
from steadygrad.prevent.logits import QKNorm, soft_cap, z_loss
from steadygrad.prevent.summary import InitReport, InitRow

__all__ = [
    "CriticalPoint",
    "InitReport",
    "InitRow",
    "MeanField",
    "QKNorm",
    "critical_point",
    "decay_groups",
    "initialize_",
    "mean_field",
    "soft_cap",
    "z_loss",
]
