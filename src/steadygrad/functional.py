"""Measure, decide and apply in one call, under torch's own names and signatures.

``clip_grad_norm_``, ``clip_grad_value_``, ``get_total_norm`` and ``clip_grads_with_norm_`` replace the functions of
``torch.nn.utils`` with the same names. Where torch is right the results agree to rounding. They differ, on purpose, where
torch 2.13 is wrong:

* finite gradients whose norm overflows float32 are clipped to ``max_norm`` (torch writes zeros);
* half-precision norms are accumulated in float32 or wider (torch rounds them to the gradient's dtype, or to Inf);
* a NaN or Inf gradient never spreads to other tensors (torch turns every gradient into NaN or 0): see ``nonfinite``;
* a parameter that is passed twice counts once, and is scaled once;
* negative, NaN or bool ``max_norm``, and ``norm_type`` <= 0, raise (torch flips signs, writes NaN, or returns no norm);
* sparse, complex and empty gradients work for every norm (torch raises for some);
* gradients given where parameters are expected raise (torch does nothing, silently).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from steadygrad.apply import clamp_, coalesced_grad, scale_
from steadygrad.checks import norm_exponent, not_negative
from steadygrad.errors import ArgumentError, ArgumentTypeError, NonFiniteGradientError, SteadygradWarning
from steadygrad.measure.select import Engine, choose
from steadygrad.parameters import Held, Parameters, checked_mode, with_gradient
from steadygrad.readings import INF, Layout, Readings

NonFinite = Literal["raise", "skip", "zero", "pass"]
_EPS = 1e-6
_FLOAT32_MAX = float(np.finfo(np.float32).max)


def clip_grad_norm_(
    parameters: Parameters,
    max_norm: float,
    norm_type: float = 2.0,
    error_if_nonfinite: bool = False,
    foreach: bool | None = None,
    *,
    nonfinite: NonFinite = "skip",
) -> Tensor:
    r"""Clip the norm of all gradients together, in place: :math:`g \leftarrow g \cdot \min(1, C / (\|g\|_p + 10^{-6}))`.

    Gradients are read once, and written only where the limit binds.

    Args:
        parameters: parameters, of any shape, whose ``.grad`` is clipped: one, an iterable, or ``model.named_parameters()``,
            which puts names into messages.
        max_norm: the limit C, >= 0, in units of the gradient norm. ``inf`` measures without clipping.
        norm_type: p > 0; ``inf`` is the largest modulus.
        error_if_nonfinite: torch's spelling of ``nonfinite="raise"``.
        foreach: ``True`` asks for the foreach engine; ``None`` and ``False`` let steadygrad choose.
        nonfinite: what happens where a gradient holds NaN or Inf. ``"skip"`` sets every ``.grad`` to ``None``, so that the
            optimizer moves nothing, and warns with the tensors' names; ``"raise"`` raises before anything is changed;
            ``"zero"`` sets the gradients of those tensors to zero and clips the others; ``"pass"`` leaves all gradients as
            they are. On a GPU all but ``"pass"`` wait for the device once: whether to skip must be known on the host.

    Returns:
        The norm before clipping, shape ``()``, in float32 or wider (float64 for float64 gradients, and where float32 cannot
        hold it). 0 where there is no gradient.

    Raises:
        NonFiniteGradientError: NaN or Inf under ``"raise"``; names the tensors.
        ArgumentError: ``max_norm`` or ``norm_type`` out of range.
        ArgumentTypeError: gradients, or something else that is no parameter.

    Example:
        >>> w = torch.nn.Parameter(torch.zeros(2))
        >>> w.grad = torch.tensor([3.0, 4.0])
        >>> clip_grad_norm_([w], max_norm=1.0)
        tensor(5.)
        >>> w.grad
        tensor([0.6000, 0.8000])

    Reference:
        Pascanu, Mikolov, Bengio, "On the difficulty of training recurrent neural networks", ICML 2013, arXiv:1211.5063.
    """
    max_norm, p = not_negative("clip_grad_norm_", "max_norm", max_norm), norm_exponent("clip_grad_norm_", norm_type)
    mode = checked_mode("clip_grad_norm_", nonfinite, error_if_nonfinite)
    held = with_gradient("clip_grad_norm_", parameters)
    grads = held.grads
    engine = _engine("clip_grad_norm_", grads, foreach)
    values = _read(engine, grads, p)
    total = _total(engine, values, p)
    result = _as_result(total, grads)
    if mode != "pass" and not _finite_on_host(total):
        grads, values = _handle("clip_grad_norm_", mode, held, values)
        total = _total(engine, values, p)
    scale_(grads, _coefficient(total, max_norm))
    return result


def clip_grads_with_norm_(
    parameters: Parameters, max_norm: float, total_norm: Tensor | float, foreach: bool | None = None
) -> None:
    r"""Scale gradients in place by :math:`\min(1, C / (N + 10^{-6}))` for a norm N that is known already.

    Where N is NaN or Inf the gradients are left as they are: no factor can bring them below the limit.

    Args:
        parameters: the *parameters*, as for :func:`clip_grad_norm_`; gradients raise.
        max_norm: the limit C, >= 0.
        total_norm: the norm N, >= 0, as :func:`get_total_norm` returns it, shape ``()``.
        foreach: accepted for torch's signature.

    Raises:
        ArgumentError: ``max_norm`` or ``total_norm`` negative (some libraries return -1 for "overflow").
        ArgumentTypeError: gradients instead of parameters.

    Example:
        >>> w = torch.nn.Parameter(torch.zeros(2))
        >>> w.grad = torch.tensor([3.0, 4.0])
        >>> clip_grads_with_norm_([w], 1.0, get_total_norm([w.grad]))
        >>> w.grad
        tensor([0.6000, 0.8000])
    """
    name = "clip_grads_with_norm_"
    max_norm = not_negative(name, "max_norm", max_norm)
    grads = with_gradient(name, parameters).grads
    _engine(name, grads, foreach)
    total: Any = total_norm
    if isinstance(total, Tensor):
        total = total.detach()
        total = float(total.numpy()) if total.device.type == "cpu" else total.double()
    if not isinstance(total, Tensor) and total < 0:
        raise ArgumentError(
            f"`{name}` expected `total_norm` >= 0, got {total}; a negative norm would flip signs", slug="norm-negative"
        )
    scale_(grads, _coefficient(total, max_norm))


def clip_grad_value_(
    parameters: Parameters, clip_value: float, foreach: bool | None = None, *, nonfinite: NonFinite = "pass"
) -> None:
    r"""Limit every gradient element to ``[-clip_value, clip_value]``, in place. Costs one read and write.

    Args:
        parameters: as for :func:`clip_grad_norm_`.
        clip_value: the limit, >= 0, in units of the gradient's elements.
        foreach: accepted for torch's signature.
        nonfinite: as for :func:`clip_grad_norm_`. The default ``"pass"`` is torch's: NaN stays NaN, and Inf goes to the
            limit. The others cost one more read.

    Raises:
        ArgumentError: ``clip_value`` negative or NaN.
        UnsupportedError: a complex gradient.
        NonFiniteGradientError: NaN or Inf under ``"raise"``.

    Example:
        >>> w = torch.nn.Parameter(torch.zeros(3))
        >>> w.grad = torch.tensor([3.0, -4.0, 0.5])
        >>> clip_grad_value_([w], 1.0)
        >>> w.grad
        tensor([ 1.0000, -1.0000,  0.5000])
    """
    name = "clip_grad_value_"
    limit = not_negative(name, "clip_value", clip_value)
    mode = checked_mode(name, nonfinite, False)
    held = with_gradient(name, parameters)
    grads = held.grads
    engine = _engine(name, grads, foreach)
    if mode != "pass":
        values = _read(engine, grads, 2.0)
        if not _finite_on_host(_total(engine, values, 2.0)):
            grads, _ = _handle(name, mode, held, values)
    clamp_([coalesced_grad(p) for p in held.params if p.grad is not None], -limit, limit)


def get_total_norm(
    tensors: Tensor | Iterable[Tensor], norm_type: float = 2.0, error_if_nonfinite: bool = False, foreach: bool | None = None
) -> Tensor:
    r"""The p-norm of all tensors laid end to end, :math:`(\sum_i \sum_j |x_{ij}|^p)^{1/p}`; changes nothing.

    Args:
        tensors: tensors of any shape, for instance gradients.
        norm_type: p > 0; ``inf`` is the largest modulus.
        error_if_nonfinite: raise where the norm is NaN or Inf, with the positions of the tensors.
        foreach: as for :func:`clip_grad_norm_`.

    Returns:
        The norm, shape ``()``, in float32 or wider.

    Raises:
        ArgumentError: ``norm_type`` is not positive.
        NonFiniteGradientError: the norm is not finite and ``error_if_nonfinite`` is set.

    Example:
        >>> get_total_norm([torch.tensor([3.0]), torch.tensor([4.0])])
        tensor(5.)
        >>> get_total_norm([torch.full((100,), 300.0, dtype=torch.float16)] * 1000)  # torch: inf
        tensor(94868.3281)
    """
    name = "get_total_norm"
    p = norm_exponent(name, norm_type)
    held = [tensors] if isinstance(tensors, Tensor) else list(tensors)
    engine = _engine(name, held, foreach)
    values = _read(engine, held, p)
    total = _total(engine, values, p)
    if error_if_nonfinite and not _finite_on_host(total):
        raise NonFiniteGradientError(_message(name, Held(held, held), values), slug="nonfinite-gradient")
    return _as_result(total, held)


def _engine(call: str, grads: Sequence[Tensor], foreach: Any) -> Engine:
    if foreach is not None and not isinstance(foreach, bool):
        raise ArgumentTypeError(f"`{call}` expected `foreach` to be True, False or None, got {foreach!r}", slug="argument-type")
    return choose(grads, "foreach" if foreach else None)


def _read(engine: Engine, tensors: Sequence[Tensor], p: float) -> Any:
    """One number per tensor, from which the norm follows: the sum of squares for p = 2, else the tensor's p-norm."""
    if p == 2.0:
        return engine.read.sum_sq(tensors)
    return engine.read.abs_max(tensors) if p == INF else engine.read.p_norm(tensors, p)


def _total(engine: Engine, values: Any, p: float) -> Any:
    """The norm of all: a Python float where the readings are on the host, else a tensor."""
    if p == 2.0:
        total = engine.xp.sqrt(engine.xp.sum(values))
    else:
        total = Readings(Layout(("",) * len(values)), engine.xp, values, norm_p={p: values}, abs_max=values).total_norm(p)
    return total if isinstance(total, Tensor) else float(total)


def _coefficient(total: Any, max_norm: float) -> Any:
    """min(1, max_norm / (total + 1e-6)), and 1 where the total is not finite."""
    if not isinstance(total, Tensor):
        return np.float64(min(1.0, max_norm / (total + _EPS))) if math.isfinite(total) else np.float64(1.0)
    return torch.where(torch.isfinite(total), (max_norm / (total + _EPS)).clamp(max=1.0), 1.0)


def _finite_on_host(total: Any) -> bool:
    # On a GPU this waits for the device: skip, zero and raise must be known on the host. "pass" avoids it.
    return bool(torch.isfinite(total)) if isinstance(total, Tensor) else math.isfinite(total)


def _as_result(total: Any, tensors: Sequence[Tensor]) -> Tensor:
    double = any(t.dtype in (torch.float64, torch.complex128) for t in tensors)
    if isinstance(total, Tensor):
        return total if double else total.float()
    wide = double or (math.isfinite(total) and total > _FLOAT32_MAX)
    return torch.tensor(total, dtype=torch.float64 if wide else torch.float32)


def _handle(call: str, mode: str, held: Held, values: Any) -> tuple[list[Tensor], Any]:
    """Deal with non-finite gradients; the gradients and values that are left to clip."""
    message = _message(call, held, values)
    if mode == "raise":
        raise NonFiniteGradientError(message, slug="nonfinite-gradient")
    warnings.warn(SteadygradWarning(f"{message}; {_DONE[mode]}", slug="nonfinite-gradient"), stacklevel=3)
    if mode == "skip":
        for param in held.params:
            param.grad = None
        return [], values[:0]
    finite = _finite_rows(values)
    for grad, good in zip(held.grads, finite, strict=True):
        if not good:
            grad.zero_()
    keep = [i for i, good in enumerate(finite) if good]
    return [held.grads[i] for i in keep], values[keep]


_DONE = {"skip": "this step is skipped (every .grad is None)", "zero": "the gradients of these tensors are set to zero"}


def _finite_rows(values: Any) -> list[bool]:
    host = values.cpu().numpy() if isinstance(values, Tensor) else values
    return [bool(x) for x in np.isfinite(host)]


def _message(call: str, held: Held, values: Any) -> str:
    bad = [held.name(i) for i, good in enumerate(_finite_rows(values)) if not good]
    names = ", ".join(bad[:5]) + (f" and {len(bad) - 5} more" if len(bad) > 5 else "")
    return (
        f"`{call}` expected finite gradients, got NaN or Inf in {names or 'their sum'} ({len(bad)} of {len(held.params)} tensors)"
    )
