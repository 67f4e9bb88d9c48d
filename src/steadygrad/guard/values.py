"""Numbers between the host and the device, and between a policy's state and a checkpoint."""

from __future__ import annotations

# Where torch is not annotated:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from steadygrad.policy import State


def to_host(value: Any) -> Any:
    """A one-element CPU tensor as a NumPy number; one on a device in float64, where it is; other values as they are."""
    if not isinstance(value, Tensor):
        return value
    if value.device.type != "cpu":
        return value.double()
    return np.float64(value.detach().numpy().reshape(()))


def packed(states: Sequence[State]) -> dict[str, Tensor]:
    """The states of a guard's stages as one flat dict of CPU tensors, keys as in ``"0.consecutive"``."""
    return {f"{i}.{key}": _as_tensor(value) for i, state in enumerate(states) for key, value in state.items()}


def unpacked(flat: Mapping[str, Tensor], num_stages: int) -> list[State]:
    """The states again, as NumPy values."""
    states: list[State] = [{} for _ in range(num_stages)]
    for key, value in flat.items():
        stage, name = key.split(".", 1)
        states[int(stage)][name] = value.numpy()[()]
    return states


def _as_tensor(value: Any) -> Tensor:
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    return torch.from_numpy(np.array(value))
