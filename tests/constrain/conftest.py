"""A constraint by itself: one parameter, moved by hand or by a real optimizer."""

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from steadygrad.policy import Place, Policy


class NoSync(TorchDispatchMode):
    """Fails where a value would have to come from the device to the host."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if "_local_scalar_dense" in str(func) or "nonzero" in str(func):
            raise AssertionError(f"a host synchronisation: {func}")
        return func(*args, **(kwargs or {}))


class Harness:
    """Calls a policy's constraints as the guard does."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.memory: dict[str, Any] = {}
        self.step = 0

    def __call__(self, param: Any, before: Any = None, **group: Any) -> Any:
        """The parameter after the constraints."""
        for constraint in self.policy.constraints:
            assert (before is not None) or not constraint.wants_before
            place = Place("w", param, group, {}, self.memory, {}, self.step, before=before)
            with torch.no_grad(), NoSync():
                constraint.limit(place)
        self.step += 1
        return param

    def train(self, optimizer: torch.optim.Optimizer, grads: list[list[torch.Tensor]]) -> None:
        """Steps of a real optimizer with these gradients, and the constraints after each."""
        for step in grads:
            params = optimizer.param_groups[0]["params"]
            before = [param.detach().clone() for param in params]
            for param, grad in zip(params, step, strict=True):
                param.grad = grad.clone()
            optimizer.step()
            for param, old in zip(params, before, strict=True):
                self(param, old, **optimizer.param_groups[0])


@pytest.fixture(scope="session")
def harness() -> type[Harness]:
    """``harness(policy)(param, before, lr=...)``."""
    return Harness
