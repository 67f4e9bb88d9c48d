"""What happens to the parameters after the optimizer has moved them: factors on the update, and constraints."""

from __future__ import annotations

# Where torch is not annotated:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.optim import Optimizer

from steadygrad.guard.memory import Memory
from steadygrad.guard.rewriting import places
from steadygrad.policy import Constraint
from steadygrad.readings import Layout


class Updates:
    """Limits one optimizer's updates.

    Args:
        optimizer: the optimizer.
        constraints: what a policy wants to be done after each step.
        memory: where constraints keep their tensors.
    """

    def __init__(self, optimizer: Optimizer, constraints: Sequence[Constraint], memory: Memory) -> None:
        self._optimizer = optimizer
        self._constraints = constraints
        self._memory = memory
        self._before: dict[int, Tensor] = {}
        self._moving: list[bool] = []
        self._scale: Any = None
        self._begun = False

    def begin(self, params: Sequence[Tensor], layout: Layout, grads: Sequence[Tensor | None], scale: Any) -> None:
        """Keep what the end of the step needs; a closure's second evaluation keeps what the first one has kept."""
        if self._begun or (scale is None and not self._constraints):
            return
        self._begun, self._scale = True, scale
        self._moving = [grad is not None for grad in grads]
        for row, (param, name) in enumerate(zip(params, layout.names, strict=True)):
            scaled = scale is not None and not (isinstance(scale, np.ndarray) and scale[row] == 1.0)
            if self._moving[row] and (scaled or any(each.wants_before and _accepts(each, name) for each in self._constraints)):
                self._before[row] = param.detach().clone()

    def finish(self, layout: Layout, step: int, skipped: Any) -> None:
        """Scale the update and apply the constraints, unless the step was skipped."""
        if not self._begun:
            return
        if not bool(skipped):  # waits for a GPU: constraints write to parameters, which a skip must not
            with torch.no_grad():
                self._scale_updates()
                for number, constraint in enumerate(self._constraints):
                    self._constrain(f"c{number}", constraint, layout, step)
        self.forget()

    def forget(self) -> None:
        """Drop the copies of a step that is over."""
        self._before, self._scale, self._begun = {}, None, False

    def _scale_updates(self) -> None:
        if self._scale is None:
            return
        params = [p for group in self._optimizer.param_groups for p in group["params"]]
        for row, before in self._before.items():
            factor = self._scale[row]
            weight = factor.to(before.dtype) if isinstance(factor, Tensor) else float(factor)
            if isinstance(weight, Tensor) or weight != 1.0:
                params[row].copy_(torch.lerp(before, params[row], weight))

    def _constrain(self, owner: str, constraint: Constraint, layout: Layout, step: int) -> None:
        for row, place in places(self._optimizer, layout, self._memory, owner, step):
            if self._moving[row] and _accepts(constraint, place.name):
                constraint.limit(place._replace(before=self._before.get(row)) if constraint.wants_before else place)


def _accepts(constraint: Constraint, name: str) -> bool:
    return constraint.accepts is None or constraint.accepts(name)
