"""Norms that cannot overflow, and writes that leave every bit where nothing binds."""

from __future__ import annotations

# Where torch is not annotated:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from steadygrad.checks import non_negative, positive
from steadygrad.decision import Decision
from steadygrad.errors import UnsupportedError
from steadygrad.policy import Constraint, Place, Policy, State, stateless
from steadygrad.readings import Readings

_HALF = (torch.float16, torch.bfloat16)


def constraint(text: str, limit: Callable[[Place], None], *, wants_before: bool = False, wants: tuple[str, ...] = ()) -> Policy:
    """The policy that leaves gradients alone and calls ``limit`` after the step."""

    def decide(readings: Readings, state: State) -> tuple[Decision, State]:
        del readings
        return Decision(), state

    def not_empty(place: Place) -> None:
        if place.param.numel():
            limit(place)

    return Policy(stateless, decide, text, constraints=(Constraint(not_empty, wants_before, wants),))


def finite(call: str, name: str, value: Any) -> float:
    """The value as a finite float above zero."""
    return min(non_negative(call, name, value), positive(call, name, value))


def wide(values: Tensor) -> Tensor:
    """The values in float32 or wider: a copy of half-precision ones, else the tensor itself."""
    return values.float() if values.dtype in _HALF else values


def real(call: str, param: Tensor) -> Tensor:
    """The parameter without its history.

    Raises:
        UnsupportedError: it is complex.
    """
    if param.is_complex():
        message = f"`{call}` is defined for real parameters, got {param.dtype}; leave the parameter out with `masked`"
        raise UnsupportedError(message, slug="complex-constraint")
    return param.detach()


def parts_of_norm(
    values: Tensor, dims: tuple[int, ...] | None = None, *, out: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """``(unit, peak, size)`` with ``values = unit * peak`` and the 2-norm of ``unit`` being ``size``.

    The norm is ``peak * size``. Peak is the largest modulus (of a complex tensor, that of a real or imaginary part), so
    ``size`` lies between 1 and the square root of the number of elements: no square overflows or vanishes, as those of
    float32 do beyond 1e19 and below 1e-19. Zeros give peak 0 and size 0; where an element is not finite, neither is ``size``.

    Args:
        values: not empty, float32 or wider.
        dims: the dimensions of one norm, which are kept with length 1; ``None``: one norm, shape ``()``.
        out: where ``unit`` is written; may be ``values``. ``None``: a new tensor.
    """
    keep = dims is not None
    peak = _peak(values, dims)
    unit = torch.div(values, torch.where(peak > 0, peak, 1.0), out=out)
    return unit, peak, torch.linalg.vector_norm(unit, 2.0, dims, keepdim=keep)


def _peak(values: Tensor, dims: tuple[int, ...] | None) -> Tensor:
    # Two reductions that are fast and need no memory; the infinity norm of torch is ten times slower on a CPU.
    parts = torch.view_as_real(values) if values.is_complex() else values
    if dims is None:
        low, high = torch.aminmax(parts)
        return torch.maximum(-low, high)
    every = (*dims, values.ndim) if values.is_complex() else dims
    peak = torch.maximum(-parts.amin(every, keepdim=True), parts.amax(every, keepdim=True))
    return peak.squeeze(-1) if values.is_complex() else peak


def put(param: Tensor, values: Tensor, where: Tensor) -> None:
    """Write ``values`` to the parameter if ``where`` (boolean, shape ``()``) is true; else it keeps its bits."""
    torch.where(where, values.to(param.dtype), param, out=param)


def setting(place: Place, name: str) -> Any:
    """A setting of the parameter's group; one that is a tensor, on the parameter's device.

    Raises:
        UnsupportedError: the group has no such setting.
    """
    if name not in place.group:
        message = f"expected an optimizer that has the setting {name!r}, but at {place.name!r} there is none"
        raise UnsupportedError(f"{message}; take another policy or another optimizer", slug="policy-optimizer")
    value = place.group[name]
    return value.to(place.param.device) if isinstance(value, Tensor) else value
