"""What an optimizer's parameter groups say of each tensor: its learning rate."""

from __future__ import annotations

# Where torch is not annotated:
# pyright: reportUnknownMemberType=false
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from steadygrad.errors import ArgumentError
from steadygrad.measure import foreach
from steadygrad.readings import Layout


class Given(NamedTuple):
    """What readings other than those of gradients are taken from, each where the caller has it."""

    params: Sequence[Tensor] | None
    groups: Sequence[Mapping[str, Any]] | None
    slots: Sequence[Mapping[str, Any]] | None
    loss_scale: Any = None

    def get(self, name: str, need: str) -> Any:
        """The part of that name, or an error that says which reading wants it."""
        found = getattr(self, name)
        if found is None:
            raise ArgumentError(f"{need!r} was asked for, but `measure` was not given `{name}`", slug="reading-unknown")
        return found


def learning_rates(groups: Sequence[Mapping[str, Any]], layout: Layout, device: torch.device | None = None) -> Any:
    """Learning rate of each tensor, shape ``(n,)``: a NumPy array, or a tensor on ``device``.

    A learning rate that is a tensor itself is read without waiting for its device, so without a ``device`` it must be on the CPU.
    """
    if any("lr" not in group for group in groups):
        message = "'lr' was asked for, but a parameter group has no learning rate `lr`"
        raise ArgumentError(message, slug="reading-unknown")
    rates = [group["lr"] for group in groups]
    index = list(layout.groups)
    if device is None:
        rates = [rate.detach().numpy() if isinstance(rate, Tensor) else rate for rate in rates]
        return np.array(rates, np.float64).reshape(len(rates))[index]
    wide = foreach.wide(device)
    if not any(isinstance(rate, Tensor) for rate in rates):
        return torch.tensor([rates[i] for i in index], dtype=wide, device=device)
    here = [torch.as_tensor(rate).detach().to(device=device, dtype=wide).reshape(()) for rate in rates]
    return torch.stack([here[i] for i in index]) if index else torch.zeros(0, dtype=wide, device=device)
