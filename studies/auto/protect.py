"""One optimizer step under a contender: the only place of the study that knows how steadygrad is attached."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
from torch import nn
from torch.optim import Optimizer

import steadygrad as sg


class Protected:
    """An optimizer whose gradients a policy limits, and a count of the steps that it changed.

    Args:
        optimizer: of ``model``'s parameters.
        model: gives the names.
        policy: the contender's text; ``"none"``: the optimizer alone.

    Attributes:
        touched: for each step, whether the policy changed or skipped it.
    """

    def __init__(self, optimizer: Optimizer, model: nn.Module, policy: str) -> None:
        self.optimizer = optimizer
        self.guard = None if policy == "none" else sg.Guard(optimizer, sg.parse_policy(policy), model=model)
        self.touched: list[bool] = []

    def step(self) -> None:
        """Limit the gradients and take the optimizer's step, or skip it."""
        self.optimizer.step()
        self.touched.append(self.guard is not None and (bool(self.guard.skipped) or _changes(self.guard.decision)))

    def state_dict(self) -> dict[str, Any]:
        """Copies of the optimizer's and the policy's state."""
        guard = None if self.guard is None else self.guard.state_dict()
        return copy.deepcopy({"optimizer": self.optimizer.state_dict(), "guard": guard})

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from the state of another object like this one."""
        state = copy.deepcopy(state)
        self.optimizer.load_state_dict(state["optimizer"])
        if self.guard is not None:
            self.guard.load_state_dict(state["guard"])


def _changes(decision: sg.Decision) -> bool:
    factors = (decision.scale, decision.unit_scale, decision.update_scale)
    return any(factor is not None and bool(np.any(np.asarray(factor) != 1.0)) for factor in factors)
