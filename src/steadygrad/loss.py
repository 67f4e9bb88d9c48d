"""The loss of a step, taken from the tensor that backward is called on."""

from __future__ import annotations

# Where torch is not annotated:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


class LossTap:
    """Notes every scalar that ``backward`` is called on, between :meth:`install` and :meth:`remove`.

    Several backward calls between two steps add up, as their gradients do. Optimizers that step on the same backward pass get
    the same loss. A loss that ``GradScaler.scale`` has multiplied is noted as it was before.

    Args:
        shield: called with a function and its arguments, to call it and to catch what it raises.
    """

    def __init__(self, shield: Callable[..., Any]) -> None:
        self._shield = shield
        self._total: Any = None  # a running sum, since a program may call backward for ever without a step
        self._used = False
        self._unscaled: tuple[Tensor, Tensor] | None = None
        self._backward: Callable[..., Any] | None = None
        self._scale: Callable[..., Any] | None = None

    def install(self) -> None:
        """Wrap ``torch.autograd.backward``, which ``Tensor.backward`` calls, and ``GradScaler.scale``."""
        self._backward = backward = torch.autograd.backward
        self._scale = scale = torch.amp.GradScaler.scale

        @functools.wraps(backward)
        def noting_backward(tensors: Any, *args: Any, **kwargs: Any) -> Any:
            # the common case in as few calls as can be: on the CPU nothing waits, and nothing here can fail
            if self._used and self._unscaled is None and type(tensors) is Tensor and tensors.is_cpu and tensors.numel() == 1:
                self._total, self._used = tensors.item(), False  # now, since the script may write to it
            else:
                self._shield(self._note, tensors)
            return backward(tensors, *args, **kwargs)

        @functools.wraps(scale)
        def noting_scale(scaler: Any, outputs: Any) -> Any:
            scaled = scale(scaler, outputs)
            if isinstance(outputs, Tensor):
                self._unscaled = (scaled, outputs)
            return scaled

        torch.autograd.backward = noting_backward
        torch.amp.GradScaler.scale = noting_scale  # pyright: ignore[reportAttributeAccessIssue] -- same call, other names

    def remove(self) -> None:
        """Put torch's own functions back."""
        if self._backward is not None and self._scale is not None:
            torch.autograd.backward = self._backward
            torch.amp.GradScaler.scale = self._scale  # pyright: ignore[reportAttributeAccessIssue] -- it is what was there
        self._backward = self._scale = None

    def value(self) -> Any:
        """The loss since the step before: a number, a tensor of shape ``()`` on a device, or ``None``."""
        self._used = True
        return self._total

    def _note(self, tensors: Any) -> None:
        if self._used:
            self._total, self._used = None, False
        for tensor in [tensors] if isinstance(tensors, Tensor) else tensors:
            if isinstance(tensor, Tensor) and tensor.numel() == 1:
                known = self._unscaled is not None and self._unscaled[0] is tensor
                loss = (self._unscaled[1] if self._unscaled and known else tensor).detach().reshape(())
                self._add(loss.item() if loss.is_cpu else loss)
        self._unscaled = None

    def _add(self, value: Any) -> None:
        self._total = value if self._total is None else self._total + value
