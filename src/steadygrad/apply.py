"""One write, or a fold into the fused optimizer's own pass, or a true skip.

* **Write**: the gradients are multiplied in place, only where the factor is not 1.
* **Fold**: torch's fused optimizers divide every gradient by ``optimizer.grad_scale`` inside their own pass and leave
  everything as it is where ``optimizer.found_inf`` is exactly 1. These are the attributes that ``GradScaler`` uses; they are
  not a documented interface, and this file is the only one that touches them. They must be gone after the step, or they act
  on the next one.
* **Skip**: a zero gradient is no skip (momentum and weight decay still move the parameters), so gradients are taken away
  for the duration of the step and given back after it.

Checked against torch 2.13: fused Adam, AdamW, SGD and Adagrad read both attributes; the foreach and single-tensor forms of
these raise on them; RMSprop, NAdam, RAdam, Adamax, Adadelta and Muon ignore them without a word, so those are written to.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.optim import SGD, Optimizer

from steadygrad.errors import UnsupportedError
from steadygrad.readings import Layout

_HALF = (torch.float16, torch.bfloat16)
_NUMPY = {torch.float32: np.float32, torch.float64: np.float64}
_TINY = 1e-30  # below it a factor, or its inverse, no longer fits float32


def scale_(grads: Sequence[Tensor], scale: Any) -> None:
    """Multiply gradients in place by one factor, shape ``()``, or one each, shape ``(n,)``.

    NumPy factors are known on the host: tensors whose factor is 1 are not touched. Tensor factors are applied without a
    host synchronisation. The parameters' ``.grad`` stays the same tensor object.
    """
    if isinstance(scale, Tensor):
        _scale_on_device(grads, scale)
    elif not getattr(scale, "ndim", 0):
        _scale_on_host(grads, float(scale))
    else:
        for grad, factor in zip(grads, list(scale), strict=True):
            _scale_on_host([grad], float(factor))


def scale_units_(grads: Sequence[Tensor | None], layout: Layout, unit_scale: Any) -> None:
    """Multiply each unit (row, output channel) of the gradients in place by its own factor.

    NumPy factors are known on the host: tensors all of whose factors are 1 are not touched. Tensor factors are applied without
    a host synchronisation. A sparse gradient's stored values get the factors of the units that they lie in.

    Args:
        grads: one per row of the layout; ``None`` where there is none.
        layout: says along which dimension the units lie.
        unit_scale: factors, shape ``(num_units,)``, in the order of the layout; a NumPy array or a tensor.
    """
    start = 0
    on_host = not isinstance(unit_scale, Tensor)
    with torch.no_grad():
        for grad, dim, units in zip(grads, layout.unit_dims, layout.num_units, strict=True):
            factors = unit_scale[start : start + units]
            start += units
            if grad is None or (on_host and np.all(factors == 1.0)):
                continue
            _scale_units(grad, dim, _fitting(factors, grad) if on_host else factors.to(grad.device))


def clamp_(grads: Sequence[Tensor], low: Any, high: Any) -> None:
    """Limit every element to ``[low, high]`` in place. NaN stays NaN; Inf goes to the bound.

    Sparse gradients must be coalesced: a sum of limited duplicates may exceed the limit.
    """
    for grad in grads:
        if grad.is_complex():
            raise UnsupportedError(
                "`clip_by_value` has no meaning for a complex gradient (complex numbers have no order); use a norm policy",
                slug="complex-value-clip",
            )
        if grad.layout is not torch.strided and isinstance(low, float) and not low <= 0.0 <= high:
            raise UnsupportedError(
                f"bounds [{low}, {high}] leave out 0, so a sparse gradient would become dense; use bounds around 0",
                slug="sparse-value-clip",
            )
    for grad in grads:
        _written(grad).clamp_(low, high)


def coalesced_grad(param: Tensor) -> Tensor:
    """The gradient of a parameter that has one, with a sparse one's duplicates added up first, for :func:`clamp_`."""
    if param.grad is not None and param.grad.layout is torch.sparse_coo:
        param.grad = param.grad.coalesce()
    return cast(Tensor, param.grad)


def _scale_on_host(grads: Sequence[Tensor], factor: float) -> None:
    if factor == 1.0:
        return
    if 0.0 < abs(factor) < _TINY:  # a subnormal float32 factor has few digits: use its square root twice
        root = abs(factor) ** 0.5
        _multiply(grads, root)
        factor = float(np.copysign(root, factor))
    _multiply(grads, factor)


def _multiply(grads: Sequence[Tensor], factor: float) -> None:
    needs_no_grad = any([g.requires_grad for g in grads])  # noqa: C419 -- a generator is slower
    with torch.no_grad() if needs_no_grad else nullcontext():
        for dtype in {g.dtype for g in grads}:
            tensors = [g if g.layout is torch.strided else _written(g) for g in grads if g.dtype is dtype]
            # a tensor of the same dtype takes a third of the time of a number; in half precision it would lose digits
            same = _NUMPY.get(dtype) if tensors[0].is_cpu else None
            cast(Any, torch)._foreach_mul_(tensors, torch.as_tensor(np.array(factor, same)) if same else factor)


def _scale_on_device(grads: Sequence[Tensor], scale: Tensor) -> None:
    factors = list(scale.unbind()) if scale.dim() else [scale] * len(grads)
    with torch.no_grad():
        for device, dtype in {(g.device, g.dtype) for g in grads}:
            rows = [i for i, g in enumerate(grads) if g.device == device and g.dtype is dtype]
            tensors = [_written(grads[i]) for i in rows]
            here = [factors[i].to(device) for i in rows] if scale.dim() else [scale.to(device)] * len(rows)
            if dtype in _HALF:  # the kernel would round the factor to half precision first, and a small one to zero
                for tensor, factor in zip(tensors, here, strict=True):
                    tensor.copy_(tensor.float().mul_(factor))
            else:
                cast(Any, torch)._foreach_mul_(tensors, here if scale.dim() else here[0])


def _fitting(factors: np.ndarray, grad: Tensor) -> Tensor:
    """Factors in the gradient's own precision, which is faster, unless they need the wider range."""
    single = grad.dtype is not torch.float64 and grad.dtype is not torch.complex128
    fits = single and np.all((factors >= _TINY) | (factors == 0.0))
    return torch.as_tensor(np.asarray(factors, np.float32 if fits else np.float64), device=grad.device)


def _scale_units(grad: Tensor, dim: int, factors: Tensor) -> None:
    """Factors of a wider type than the gradient's lose no digits: torch multiplies in the wider one and rounds once."""
    if grad.layout is torch.sparse_coo and 0 <= dim < grad.sparse_dim():
        factors, dim = factors[grad._indices()[dim]], 0
    elif grad.layout is torch.sparse_coo and dim >= 0:
        dim += 1 - grad.sparse_dim()
    values = _written(grad)
    values.mul_(factors.reshape(()) if dim < 0 else factors.view(-1, *[1] * (values.dim() - dim - 1)))


def _written(grad: Tensor) -> Tensor:
    """The tensor to write into: a sparse gradient's stored values, duplicates and all."""
    if grad.layout is torch.strided:
        return grad
    if grad.layout is torch.sparse_coo:
        return grad._values()  # values() needs a coalesced tensor, and scaling is linear
    return grad.values()


def can_fold(optimizer: Optimizer) -> bool:
    """Whether every parameter group of the optimizer honours ``grad_scale`` and ``found_inf``."""
    return bool(getattr(optimizer, "_step_supports_amp_scaling", False)) and all(g.get("fused") for g in optimizer.param_groups)


def can_fold_skip(optimizer: Optimizer) -> bool:
    """Whether a skip may be folded too.

    Fused SGD creates its momentum buffers uninitialised before it looks at ``found_inf``, so a skipped first step would
    leave whatever was in memory.
    """
    if not can_fold(optimizer):
        return False
    first = isinstance(optimizer, SGD) and any(
        g["momentum"]
        and any(optimizer.state.get(p, {}).get("momentum_buffer") is None for p in g["params"] if p.grad is not None)
        for g in optimizer.param_groups
    )
    return not first


def loss_scale(optimizer: Optimizer) -> Tensor | None:
    """The factor that gradients still carry because a ``GradScaler`` leaves unscaling to the fused optimizer."""
    return getattr(optimizer, "grad_scale", None)


def scaler_found_inf(optimizer: Optimizer) -> Tensor | None:
    """The flag by which a ``GradScaler`` keeps a fused optimizer from stepping, where it is set."""
    return getattr(optimizer, "found_inf", None)


def fold(optimizer: Optimizer, *, scale: Any = None, skip: Any = None) -> Callable[[], None]:
    """Hand a factor and a skip to the fused optimizer's own pass.

    Args:
        optimizer: one for which :func:`can_fold` is true.
        scale: factor on all gradients, shape ``()``; a zero acts as 1e-30.
        skip: boolean, shape ``()``.

    Returns:
        A function that must be called after the step; it puts both attributes back as they were.
    """
    set_already = {name: vars(optimizer)[name] for name in ("grad_scale", "found_inf") if name in vars(optimizer)}
    device = next(p.device for g in optimizer.param_groups for p in g["params"])
    changed: dict[str, Tensor] = {}
    if scale is not None:
        inverse = 1.0 / _as_tensor(scale, device).double().clamp(min=_TINY)
        changed["grad_scale"] = (inverse if (other := set_already.get("grad_scale")) is None else inverse * other).float()
    if skip is not None:  # the kernel tests for exactly 1
        flag = _as_tensor(skip, device).float()
        changed["found_inf"] = (
            flag if (other := set_already.get("found_inf")) is None else ((flag + other.to(device)) > 0).float()
        )
    for name, value in changed.items():
        setattr(optimizer, name, value)

    def restore() -> None:
        for name, value in changed.items():
            if getattr(optimizer, name, None) is not value:
                continue  # somebody else has set or deleted it meanwhile
            if name in set_already:  # a GradScaler deletes what it has set, even where it set None
                setattr(optimizer, name, set_already[name])
            else:
                delattr(optimizer, name)

    return restore


def withhold(optimizer: Optimizer, params: Iterable[Tensor] | None = None) -> Callable[[], None]:
    """Take gradients away so that the step moves nothing.

    Args:
        optimizer: the optimizer.
        params: whose gradients; ``None``: all.

    Returns:
        A function that must be called after the step; it gives the gradients back and undoes what an optimizer may have counted
        in its parameter groups.
    """
    if params is not None:
        _begin_momentum(optimizer)
    chosen = [p for g in optimizer.param_groups for p in g["params"]] if params is None else params
    held = [(p, p.grad) for p in chosen if p.grad is not None]
    counters = [{k: v for k, v in g.items() if isinstance(v, (int, float))} for g in optimizer.param_groups]
    for param, _ in held:
        param.grad = None

    def restore() -> None:
        for param, grad in held:
            param.grad = grad
        if params is None:
            for group, saved in zip(optimizer.param_groups, counters, strict=True):
                group.update(saved)

    return restore


def _begin_momentum(optimizer: Optimizer) -> None:
    """Give every parameter of fused SGD its momentum buffer: torch 2.13's kernel fails where only some have one.

    Momentum that begins at zero is that of a first step as long as there is no dampening.
    """
    if not isinstance(optimizer, SGD):
        return
    for group in optimizer.param_groups:
        if group.get("fused") and group["momentum"]:
            if group["dampening"]:
                raise UnsupportedError(
                    "fused SGD with dampening cannot leave out single parameters; set `fused=False`, or `dampening=0`",
                    slug="withhold-unsupported",
                )
            for param in group["params"]:
                state = optimizer.state[param]
                if param.grad is not None and state.get("momentum_buffer") is None:
                    state["momentum_buffer"] = torch.zeros_like(param)


def _as_tensor(value: Any, device: torch.device) -> Tensor:
    if isinstance(value, Tensor):
        return value.to(device)
    return torch.as_tensor(np.array(value), device=device)
