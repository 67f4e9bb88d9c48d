"""What a decision does to one optimizer's step, and how it is undone after the step."""

from __future__ import annotations

# Where torch is not annotated:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.optim import Optimizer

from steadygrad.apply import (
    can_fold,
    can_fold_skip,
    clamp_,
    coalesced_grad,
    fold,
    scale_,
    scale_units_,
    scaler_found_inf,
    withhold,
)
from steadygrad.decision import Decision
from steadygrad.readings import Layout

_TINY = 1e-30  # a smaller factor is written: its inverse would not fit float32


class Effects:
    """Carries out decisions on one optimizer: skip, scale and clamp, by folding where it can.

    Args:
        optimizer: the optimizer.

    Attributes:
        skipped: whether this step is skipped: a bool, or a boolean tensor where only the device knows.
        num_skipped: how many steps were; a number, or a tensor.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self.skipped: Any = False
        self.num_skipped: Any = 0
        self._optimizer = optimizer
        self._foldable = False
        self._undo: list[Callable[[], None]] = []

    @property
    def busy(self) -> bool:
        """Whether anything is borrowed and must be given back."""
        return bool(self._undo)

    @property
    def foldable(self) -> bool:
        """Whether one factor for all gradients can ride along in the optimizer's own pass."""
        return self._foldable

    def learn(self, params: Sequence[Tensor]) -> None:
        """Look at the optimizer again, whose parameters are ``params`` now.

        The fold's factor is a float32: too coarse for float64.
        """
        self._foldable = can_fold(self._optimizer) and all(p.dtype is not torch.float64 for p in params)

    def begin(self) -> bool:
        """Start a step; whether a ``GradScaler`` is known to keep its fused optimizer from taking it."""
        self.skipped = False
        if not self._foldable:
            return False
        found = scaler_found_inf(self._optimizer)
        if found is None:
            return False
        if found.device.type != "cpu":
            self.skipped = found > 0
            return False
        if found.numpy().any():
            self._count_skip(True)
        return self.skipped

    def carry_out(
        self,
        decision: Decision,
        layout: Layout,
        grads: Sequence[Tensor | None],
        loss_scale: Any,
        *,
        last: bool,
        host: bool = False,
    ) -> bool:
        """Apply one decision.

        Args:
            decision: what to do, in units of the true (unscaled) gradients.
            layout: the optimizer's parameters, in the order of the decision's rows.
            grads: their gradients.
            loss_scale: factor that the gradients still carry, or ``None``.
            last: whether nothing else will be measured in this step, so that the factor may be folded.
            host: whether the host must know of a skip, since what follows must not see what is not finite.

        Returns:
            Whether the step is known to be skipped.
        """
        if decision.skip is not None and self._skip(decision.skip, host):
            return True
        if decision.scale is not None:
            self._scale(decision, grads, last)
        if decision.unit_scale is not None:
            scale_units_(grads, layout, decision.unit_scale)
        if decision.clamp is not None:
            low, high = decision.clamp if loss_scale is None else (bound * loss_scale for bound in decision.clamp)
            clamp_([coalesced_grad(p) for p in self._chosen(decision.rows) if p.grad is not None], low, high)
        if decision.withhold is not None:
            self._undo.append(withhold(self._optimizer, self._chosen(decision.withhold)))
        return False

    def _chosen(self, rows: Any) -> list[Tensor]:
        """The parameters of these rows; all of them for ``None``."""
        params = [p for group in self._optimizer.param_groups for p in group["params"]]
        if rows is None:
            return params
        flags = rows.to("cpu").numpy() if isinstance(rows, Tensor) else rows  # waits for a GPU
        return [p for p, flag in zip(params, flags, strict=True) if flag]

    def undo_with(self, restore: Callable[[], None]) -> None:
        """After the step, call ``restore`` last."""
        if restore not in self._undo:
            self._undo.insert(0, restore)

    def release(self) -> None:
        """Give back everything that was borrowed for the step."""
        while self._undo:
            self._undo.pop()()

    def _skip(self, skip: Any, host: bool) -> bool:
        if isinstance(skip, Tensor) and not host and can_fold_skip(self._optimizer):
            self._undo.append(fold(self._optimizer, skip=skip))
            self._count_skip(skip)
            return False
        if not skip:  # waits for a GPU: an optimizer that is not fused can only be kept from stepping by the host
            return False
        self._undo.append(withhold(self._optimizer))
        self._count_skip(True)
        return True

    def _count_skip(self, skip: Any) -> None:
        self.skipped = skip
        self.num_skipped = self.num_skipped + (skip.long() if isinstance(skip, Tensor) else int(skip))

    def _scale(self, decision: Decision, grads: Sequence[Tensor | None], last: bool) -> None:
        scale: Any = decision.scale
        known = not isinstance(scale, Tensor)
        if not getattr(scale, "ndim", 0):
            if known and scale == 1.0:
                return
            alone = decision.clamp is None and decision.unit_scale is None
            if last and alone and self._foldable and not (known and scale < _TINY):
                self._undo.append(fold(self._optimizer, scale=scale))
                return
        held = [g for g in grads if g is not None]
        if getattr(scale, "ndim", 0) and len(held) < len(grads):
            there = np.flatnonzero([g is not None for g in grads])
            scale = scale[torch.from_numpy(there).to(scale.device) if isinstance(scale, Tensor) else there]
        scale_(held, scale)
