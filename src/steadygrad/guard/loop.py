"""The loop: measure, decide, apply and record, in that order, for one optimizer.

This is the only room that knows that a step exists. It sits on the optimizer's own step hooks, so the training loop stays
``optimizer.step()``. A hook fires before a closure has run, so closures are wrapped and the gradients are read right after
the closure's backward pass.
"""

from __future__ import annotations

import operator
import time
from collections.abc import Callable, Sequence
from os import PathLike
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import LBFGS, Optimizer

from steadygrad.apply import loss_scale
from steadygrad.decision import Decision, Reason
from steadygrad.errors import ArgumentTypeError
from steadygrad.guard.effects import Effects
from steadygrad.guard.intervention import Intervention, check_state_of
from steadygrad.guard.values import to_host
from steadygrad.measure.checkup import Checkup
from steadygrad.measure.nonfinite import FLOAT32_MAX_SQ, describe_nonfinite
from steadygrad.measure.select import Engine, choose, measure
from steadygrad.names import layout_of
from steadygrad.policy import NO_NEEDS, Policy
from steadygrad.readings import Layout, Readings
from steadygrad.record import Recorder, StepRecord
from steadygrad.snapshot import restore_point

_NOTHING = Decision()
_SCALER_SKIPPED = "the GradScaler found Inf or NaN, so the step was skipped and the loss scale is lowered"


class Guard:
    """Keep one optimizer's steps within a policy; the loop stays ``optimizer.step()``.

    Args:
        optimizer: any ``torch.optim.Optimizer``; fused ones get the factor folded into their own pass.
        policy: what to do; ``None`` only looks.
        model: for the parameters' names; without it they come from ``param_names`` or from live modules.
        record: directory of a new run, or an open :class:`~steadygrad.record.Recorder`; ``None`` records nothing.
        engine: ``"cpu"`` or ``"foreach"`` to force how gradients are measured.
        loss: called at each step for the loss to record.
        shield: called with what is to be done inside a closure, to do it and to catch what it raises; ``None`` catches nothing.
        attach: ``False`` leaves it to the caller to call :meth:`before` and :meth:`after` around each step.

    Attributes:
        readings: what was measured at the last step, before anything was done.
        decision: what was decided at the last step.
        num_steps: steps seen, skipped ones too.
        pending: whether :meth:`after` has something to do.

    Raises:
        ArgumentTypeError: ``optimizer`` is no torch optimizer, or ``policy`` no policy.
        NonFiniteGradientError: from ``optimizer.step()``, once a policy asks to stop (``skip_nonfinite(max_consecutive=...)``).

    Example:
        >>> import steadygrad as sg
        >>> model = nn.Linear(2, 1)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> guard = sg.Guard(optimizer, sg.chain(sg.skip_nonfinite(), sg.clip_by_global_norm(1.0)), model=model)
        >>> (1e6 * model(torch.ones(1, 2))).sum().backward()
        >>> optimizer.step()
        >>> guard.readings.names, round(float(guard.total_norm)), guard.skipped
        (('weight', 'bias'), 1732051, False)
        >>> guard.detach()
    """

    def __init__(
        self,
        optimizer: Optimizer,
        policy: Policy | None = None,
        *,
        model: nn.Module | None = None,
        record: str | PathLike[str] | Recorder | None = None,
        engine: str | None = None,
        loss: Callable[[], Any] | None = None,
        shield: Callable[[Callable[[], None]], Any] | None = None,
        attach: bool = True,
    ) -> None:
        _check(optimizer, policy)
        self.optimizer = optimizer
        self.policy = policy
        self.num_steps = 0
        self.readings: Readings | None = None
        self.decision = Decision()
        self._model = model
        self._engine_name = engine
        self._loss = loss
        self._shield = shield
        self._params: list[Tensor] = []
        self._layout = Layout(())
        self._engine: Engine | None = None
        self._effects = Effects(optimizer)
        self._intervention = None if policy is None else Intervention(optimizer, policy, self._effects)
        self.pending = False
        self._index: int | None = None
        self._owns_recorder = record is not None and not isinstance(record, Recorder)
        self.recorder = record if isinstance(record, Recorder) or record is None else Recorder(record, policy=repr(policy))
        self._checkup = Checkup(self.recorder) if self.recorder else None
        self._handles: list[Any] = []
        if attach:
            self._handles = [
                optimizer.register_step_pre_hook(lambda _, args, kwargs: self.before(args, kwargs)),
                optimizer.register_step_post_hook(lambda _, args, kwargs: self.after()),
            ]

    @property
    def total_norm(self) -> Any:
        """2-norm of all gradients at the last step, before anything was done to them, shape ``()``."""
        return 0.0 if self.readings is None else self.readings.total_norm()

    @property
    def skipped(self) -> bool:
        """Whether the last step was skipped. On a GPU, asking waits for the device."""
        return bool(self._effects.skipped)

    @property
    def num_skipped(self) -> int:
        """How many steps were skipped. On a GPU, asking waits for the device."""
        return int(self._effects.num_skipped)

    def detach(self) -> None:
        """Take the hooks off the optimizer and close the run that this guard opened."""
        for handle in self._handles:
            handle.remove()
        self._handles = []
        self._effects.release()
        if self.recorder is not None and self._owns_recorder:
            self.recorder.close()

    def before(self, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> tuple[Any, Any] | None:
        """What happens before ``optimizer.step(*args, **kwargs)``; new arguments where there is a closure to wrap."""
        if self.pending:
            self._abandon()
        # torch hands the optimizer to its hooks as the first argument of the step
        rest = args[1:] if args and args[0] is self.optimizer else args
        kwargs = kwargs or {}
        closure = rest[0] if rest else kwargs.get("closure")
        if closure is None:
            self._react()
            return None
        wrapped = self._wrap(closure)
        if rest:
            return (*args[: len(args) - len(rest)], wrapped, *rest[1:]), kwargs
        return args, {**kwargs, "closure": wrapped}

    def after(self) -> None:
        """What happens after the step: its update is limited, everything borrowed is given back, and the step is recorded."""
        if self.pending and self._intervention is not None:
            self._intervention.after(self.num_steps)
        if self._effects.busy:
            self._effects.release()
        if self.pending:
            self.pending = False
            if self.recorder is not None:
                self._write_record(self.recorder)

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to go on bit for bit: plain numbers, text and tensors (loads with ``weights_only=True``)."""
        own: dict[str, Any] = {} if self._intervention is None else self._intervention.state_dict()
        return {"policy": repr(self.policy), "num_steps": self.num_steps, "num_skipped": self.num_skipped, **own}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up where :meth:`state_dict` was called.

        Raises:
            ArgumentError: the state belongs to another policy.
        """
        check_state_of(self.policy, state)
        self.num_steps, self._effects.num_skipped = state["num_steps"], state["num_skipped"]
        if self._intervention is not None:
            self._intervention.load_state_dict(state)

    # ---- one step ------------------------------------------------------------------------------------------------------

    def _wrap(self, closure: Callable[[], Any]) -> Callable[[], Any]:
        """A closure whose gradients are dealt with before the optimizer sees them.

        LBFGS moves parameters between evaluations, so a skip on the way restores what the step began with.
        """
        restore = restore_point(self.optimizer) if self._intervention is not None and isinstance(self.optimizer, LBFGS) else None

        def wrapped() -> Any:
            with torch.enable_grad():
                loss = closure()
            if self._shield is None:
                react()
            else:
                self._shield(react)
            return loss

        def react() -> None:
            self._effects.release()
            self._react()
            if restore is not None and self.skipped:
                self._effects.undo_with(restore)

        return wrapped

    def _react(self) -> None:
        params = [p for group in self.optimizer.param_groups for p in group["params"]]
        if len(params) != len(self._params) or not all(map(operator.is_, params, self._params)):
            self._learn(params)
        if not self.pending:
            self.num_steps += 1
        self.pending = True
        grads = [p.grad for p in params]
        scale = None
        scaler_skips = self._effects.begin()
        if self._effects.foldable:
            scale = to_host(loss_scale(self.optimizer))
        needs = self._checkup_needs()
        if self._intervention is not None and not scaler_skips:
            self.readings, self.decision = self._intervention.before(grads, scale, self.num_steps, needs)
        else:
            self.readings, self.decision = self._measure(grads, needs, scale), _NOTHING
        if self.readings.xp is np and not self.readings.sum_sq.sum() <= FLOAT32_MAX_SQ:
            self._report_nonfinite(grads, self.readings)
        if self._effects.skipped is True:
            self._report_skip(scaler_skips)

    def _abandon(self) -> None:
        """Forget a step that ended in an error, so that there was no "after"."""
        self.pending = False
        if self._intervention is not None:
            self._intervention.forget()
        self._effects.release()
        if self._checkup is not None:
            self._checkup.cancel()

    def _checkup_needs(self) -> frozenset[str]:
        if self._checkup is None or not self._checkup.due(self.num_steps):
            return NO_NEEDS
        self._checkup.begin(self._params)
        return self._checkup.needs

    def _measure(self, grads: Sequence[Tensor | None], needs: frozenset[str], scale: Any) -> Readings:
        readings = measure(grads, self._layout, needs, params=self._params, engine=self._engine)
        return readings if scale is None else readings.scaled(1.0 / scale)

    # ---- what the rows stand for ---------------------------------------------------------------------------------------

    def _learn(self, params: list[Tensor]) -> None:
        """Learn the parameters, at the first step and where groups were added or parameters replaced."""
        self._params = params
        self._layout = layout_of(self.optimizer, self._model)
        self._engine = choose(params, self._engine_name)
        self._effects.learn(params)
        if self._intervention is not None:
            self._intervention.learn(params, self._layout, self._engine)
        if self.recorder is not None:
            self._register(self.recorder)

    def _register(self, recorder: Recorder) -> None:
        if self._index is None:
            info = {
                "class": type(self.optimizer).__name__,
                "fused": self._effects.foldable,
                "engine": self._engine and self._engine.name,
            }
            self._index = recorder.add_optimizer(self._layout, info)
        else:
            recorder.update_optimizer(self._index, self._layout)
        recorder.event("attach", step=self.num_steps, optimizer=self._index, message=f"{len(self._layout)} parameters")

    def _write_record(self, recorder: Recorder) -> None:
        if self._index is None or self.readings is None:
            return
        loss = None if self._loss is None else self._loss()
        lr = self.optimizer.param_groups[0].get("lr")
        record = StepRecord(
            self._index, self.num_steps, time.perf_counter(), self.readings, self.decision, loss, lr, self._effects.skipped
        )
        recorder.step(record)
        if self._checkup is not None and self._checkup.begun:
            self._checkup.finish(self._index, self.num_steps, self._params, self.readings)

    def _report_skip(self, scaler_skips: bool) -> None:
        if self.recorder is not None:
            message = _SCALER_SKIPPED if scaler_skips else Reason(int(self.decision.reason)).message
            self.recorder.event("skip", step=self.num_steps, optimizer=self._index, message=message)

    def _report_nonfinite(self, grads: Sequence[Tensor | None], readings: Readings) -> None:
        if self.recorder is None or self._index is None:
            return
        found = describe_nonfinite(grads, readings)
        if found["nan"] or found["inf"] or found["overflowed"]:
            message = ", ".join(f"{len(found[kind])} {kind}" for kind in ("nan", "inf", "overflowed", "finite"))
            self.recorder.event("nonfinite", step=self.num_steps, optimizer=self._index, message=message, **found)


def _check(optimizer: Any, policy: Any) -> None:
    if not isinstance(optimizer, Optimizer):
        raise ArgumentTypeError(
            f"`Guard` expected a torch.optim.Optimizer, got {type(optimizer).__name__}, which has no step hooks; "
            f"clip with `steadygrad.clip_grad_norm_` before its step instead",
            slug="not-an-optimizer",
        )
    if policy is not None and not isinstance(policy, Policy):
        raise ArgumentTypeError(
            f"`Guard` expected a policy such as clip_by_global_norm(1.0), got {policy!r}; text goes through `parse_policy`",
            slug="not-a-policy",
        )
