"""Numbers between the host and the device, and between a policy's state and a checkpoint."""

from __future__ import annotations

# Where torch is not annotated:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
from typing import Any

import numpy as np
import torch
from torch import Tensor


def to_host(value: Any) -> Any:
    """A one-element CPU tensor as a NumPy number; one on a device in float64, where it is; other values as they are."""
    if not isinstance(value, Tensor):
        return value
    if value.device.type != "cpu":
        return value.double()
    return np.float64(value.detach().numpy().reshape(()))


def as_tensor(value: Any) -> Tensor:
    """A value of a policy's state as a CPU tensor of its own."""
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    return torch.from_numpy(np.array(value))
