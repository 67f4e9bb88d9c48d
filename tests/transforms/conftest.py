"""A transform's own function on one gradient, without a guard around it."""

import pytest
import torch

from steadygrad.policy import Place


@pytest.fixture(scope="session")
def rewritten():
    """``rewritten(policy, grad, step=0, ...)``: a new tensor, what the policy makes of the gradient."""

    def call(policy, grad, *, name="w", step=0, shard=0, slots=None, memory=None, **numbers):
        out = torch.as_tensor(grad).clone()
        place = Place(name, None, {}, {} if slots is None else slots, {} if memory is None else memory, numbers, step, shard)
        with torch.no_grad():
            policy.rewrite(out, place)
        return out

    return call
