"""Copies to go back to."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from typing import Any, cast

import torch
from torch import Tensor
from torch.optim import Optimizer


def restore_point(optimizer: Optimizer) -> Callable[[], None]:
    """Copy the parameters and the state of ``optimizer``.

    Returns:
        A function that puts both back, in place.

    Example:
        >>> w = torch.nn.Parameter(torch.ones(1))
        >>> restore = restore_point(torch.optim.SGD([w], lr=1.0))
        >>> with torch.no_grad():
        ...     _ = w.fill_(7.0)
        >>> restore()
        >>> w.item()
        1.0
    """
    params = [p for group in optimizer.param_groups for p in group["params"]]
    values = [p.detach().clone() for p in params]
    state = {key: {name: _copied(v) for name, v in entry.items()} for key, entry in optimizer.state.items()}

    def restore() -> None:
        with torch.no_grad():
            for param, value in zip(params, values, strict=True):
                param.copy_(value)
        optimizer.state.clear()
        optimizer.state.update(state)

    return restore


def _copied(value: Any) -> Any:
    """Tensors are cloned; a list, such as LBFGS keeps of tensors that it never writes to again, is copied itself."""
    if isinstance(value, Tensor):
        return value.clone()
    return copy(cast(list[Any], value)) if type(value) is list else value
