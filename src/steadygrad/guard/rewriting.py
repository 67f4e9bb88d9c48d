"""Transforms: a policy's own function, called on one gradient after the other, in place."""

from __future__ import annotations

# Where torch is not annotated:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from steadygrad.decision import Decision
from steadygrad.errors import UnsupportedError
from steadygrad.guard.memory import Memory
from steadygrad.policy import Place, Policy
from steadygrad.readings import Layout

_HALF = (torch.float16, torch.bfloat16)


def places(
    optimizer: Optimizer, layout: Layout, memory: Memory, owner: str, step: int, numbers: Mapping[str, Any] | None = None
) -> Iterator[tuple[int, Place]]:
    """A place for each parameter of the optimizer, with its row."""
    row = -1
    for group in optimizer.param_groups:
        for param in group["params"]:
            row += 1
            own = {key: value[row] if getattr(value, "ndim", 0) else value for key, value in (numbers or {}).items()}
            slots = optimizer.state.get(param, {})
            yield row, Place(layout.names[row], param, group, slots, memory.of(owner, row), own, step)


def rewrite_(policy: Policy, decision: Decision, grads: Sequence[Tensor | None], around: Iterator[tuple[int, Place]]) -> None:
    """Call a transform on every gradient that is there and was chosen.

    Half-precision gradients are rewritten in float32 and rounded back.

    Raises:
        UnsupportedError: a sparse or complex gradient; raised before anything is changed.
    """
    if policy.rewrite is None:
        return
    chosen = [grad if decision.rows is None or decision.rows[row] else None for row, grad in enumerate(grads)]
    for grad in chosen:
        _check(policy, grad)
    with torch.no_grad():
        for row, place in around:
            grad = chosen[row]
            if grad is None or not grad.numel():
                continue
            if grad.dtype in _HALF:
                wide = grad.float()
                policy.rewrite(wide, place)
                largest = torch.finfo(grad.dtype).max  # rounding up must not make Inf of a number that half precision holds
                grad.copy_(wide.clamp_(-largest, largest))
            else:
                policy.rewrite(grad, place)


def _check(policy: Policy, grad: Tensor | None) -> None:
    if grad is None:
        return
    if grad.layout is not torch.strided:
        raise UnsupportedError(
            f"`{policy.text}` rewrites elements, and a sparse gradient holds only some of them; leave its parameter out with "
            f"`masked`",
            slug="sparse-rewrite",
        )
    if grad.is_complex():
        raise UnsupportedError(
            f"`{policy.text}` is defined for real gradients, got {grad.dtype}; leave the parameter out with `masked`",
            slug="complex-rewrite",
        )
