"""What the drop-ins accept as parameters, sorted out before anything is changed."""

from __future__ import annotations

# Where torch is not annotated:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, field
from types import GeneratorType
from typing import Any

import torch
from torch import Tensor

from steadygrad.errors import ArgumentError, ArgumentTypeError, SteadygradWarning

MODES = ("raise", "skip", "zero", "pass")
Parameters = Tensor | Iterable[Tensor] | Iterable[tuple[str, Tensor]]


@dataclass(frozen=True, slots=True)
class Held:
    """The parameters that have a gradient, each once, and their gradients, in the order given.

    Attributes:
        params: the parameters.
        grads: their gradients.
        given: names of parameters, by ``id``, where the caller gave them.
    """

    params: list[Tensor] = field(default_factory=list)
    grads: list[Tensor] = field(default_factory=list)
    given: dict[int, str] = field(default_factory=dict)

    def name(self, i: int) -> str:
        """The name of parameter ``i``, or its position and shape."""
        param = self.params[i]
        return self.given.get(id(param)) or describe(i, param)


def with_gradient(call: str, parameters: Parameters) -> Held:
    """Sort out what the caller of ``call`` passed as parameters.

    Raises:
        ArgumentTypeError: something that is no parameter, gradients above all.
    """
    items: Iterable[Any] = [parameters] if isinstance(parameters, Tensor) else parameters
    held = Held()
    seen: set[int] = set()
    i = -1
    for i, item in enumerate(items):
        param = item
        if type(item) is tuple and len(item) == 2:
            held.given[id(item[1])], param = item
        if type(param) is not torch.nn.Parameter:
            _refuse_other(call, i, param)
        if id(param) in seen:
            continue
        seen.add(id(param))
        grad = param.grad
        if grad is not None:
            held.params.append(param)
            held.grads.append(grad)
    if i < 0 and isinstance(parameters, GeneratorType):
        warnings.warn(
            SteadygradWarning(
                f"`{call}` got an empty generator; was it used up by an earlier call? Nothing is done", slug="no-parameters"
            ),
            stacklevel=3,
        )
    return held


def describe(i: int, tensor: Tensor) -> str:
    """Position and shape, where there is no name."""
    return f"tensor {i} of shape {tuple(tensor.shape)}"


def _refuse_other(call: str, i: int, param: Any) -> None:
    if not isinstance(param, Tensor):
        raise ArgumentTypeError(
            f"`{call}` expected parameters, got {type(param).__name__} at position {i}", slug="not-a-parameter"
        )
    can_have_grad = (param.is_leaf or param.retains_grad) and (param.requires_grad or param.grad is not None)
    if not isinstance(param, torch.nn.Parameter) and not can_have_grad:
        raise ArgumentTypeError(
            f"`{call}` expected parameters (whose .grad it changes), got a tensor that cannot have a gradient: "
            f"{describe(i, param)}. Pass the parameters, not their gradients",
            slug="gradients-given",
        )


def checked_mode(call: str, nonfinite: str, error_if_nonfinite: bool) -> str:
    """One of the four modes; ``error_if_nonfinite`` is torch's word for ``"raise"``."""
    if nonfinite not in MODES:
        raise ArgumentError(
            f"`{call}` expected `nonfinite` to be one of {', '.join(map(repr, MODES))}, got {nonfinite!r}", slug="argument-value"
        )
    return "raise" if error_if_nonfinite else nonfinite
