"""Watch a training loop that knows nothing of steadygrad, on torch's global optimizer hooks.

Watching changes nothing: losses, parameters and random state are bit for bit those of the bare run. And it may not break
training: the one boundary that swallows errors is here. It counts them, switches the watcher off, and says so at exit. A
policy is another matter: if a protection fails, the error goes through.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import Any
from weakref import WeakSet

from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from steadygrad.errors import ArgumentError, ArgumentTypeError
from steadygrad.guard import Guard, Observer
from steadygrad.loss import LossTap
from steadygrad.policy import Policy
from steadygrad.record import Recorder

_KEY = "_steadygrad_guard"
_NO_STEP = (
    "no-optimizer-step: no torch optimizer took a step. Is the script's training code reached? Optimizers that are no "
    "torch.optim.Optimizer cannot be seen, nor steps in other processes"
)


class watch:
    """Record every optimizer step in this process; with a policy, protect it too.

    One :class:`~steadygrad.guard.Guard` is made per optimizer, at its first step. The optimizer may exist before, and there may
    be several (a GAN has two).

    Args:
        path: directory of the new run.
        policy: what to do to gradients, a :class:`~steadygrad.policy.Policy`; ``None`` only looks.
        argv: the command line to note down.
        flush_interval: seconds between two writes; what a killed process loses.

    Attributes:
        path: the run's directory.
        notes: what should be said at exit, in words.

    Raises:
        RunError: on entering, where the directory cannot be written or holds a run already.
        ArgumentError: on entering, inside another ``watch``.

    Example:
        >>> import tempfile, torch, steadygrad as sg
        >>> w = torch.nn.Parameter(torch.ones(2))
        >>> optimizer = torch.optim.SGD([w], lr=0.1)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with sg.watch(f"{folder}/run") as session:
        ...         (w * w).sum().backward()
        ...         optimizer.step()
        ...     sg.load_run(session.path).total_norm
        array([2.82842712])
    """

    _active: watch | None = None

    def __init__(
        self,
        path: str | PathLike[str],
        policy: Any = None,
        *,
        argv: Sequence[str] = (),
        flush_interval: float = 5.0,
    ) -> None:
        if policy is not None and not isinstance(policy, Policy):
            raise ArgumentTypeError(
                f"`watch` expected a policy or None, got {policy!r}; text goes through `parse_policy`", slug="not-a-policy"
            )
        self.path = Path(path)
        self.notes: list[str] = []
        self._policy: Policy | None = policy
        self._argv = tuple(argv)
        self._flush_interval = flush_interval
        self._recorder: Recorder | None = None
        self._tap = LossTap(self._shielded)
        self._handles: list[Any] = []
        self._stepping: list[Guard] = []
        self._watched: WeakSet[Optimizer] = WeakSet()
        self._off = False
        self._pid = 0

    @property
    def num_steps(self) -> int:
        """Optimizer steps recorded so far."""
        return 0 if self._recorder is None else self._recorder.num_steps

    def __enter__(self) -> watch:
        if watch._active is not None:
            raise ArgumentError("`watch` is on already; one run at a time", slug="watch-nested")
        policy = repr(self._policy) if self._policy else ""
        self._recorder = Recorder(self.path, argv=self._argv, policy=policy, flush_interval=self._flush_interval)
        self._pid = os.getpid()
        self._hook()
        watch._active = self
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        watch._active = None
        self._unhook()
        for optimizer in self._watched:
            optimizer.__dict__.pop(_KEY, None)
        recorder = self._recorder
        if recorder is None or os.getpid() != self._pid:
            return
        if self._off:
            recorder.event("warning", message=self.notes[0], slug="watch-off")
        recorder.close(status=_status(error), error=error)
        if recorder.problem:
            self.notes.append(f"the record is incomplete: {recorder.problem}")
        if not recorder.num_steps:
            self.notes.append(_NO_STEP)

    def _hook(self) -> None:
        self._tap.install()
        self._handles = [
            register_optimizer_step_pre_hook(self._before_step),
            register_optimizer_step_post_hook(self._after_step),
        ]

    def _unhook(self) -> None:
        self._tap.remove()
        while self._handles:
            self._handles.pop().remove()

    def _before_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> Any:
        if self._off or (self._policy is None and os.getpid() != self._pid):
            return None
        try:  # as in `_shielded`, without its call: this is in the middle of every step
            guard = optimizer.__dict__.get(_KEY) or self._new_guard(optimizer)
            if self._stepping and self._is_inner(guard):
                return None
            self._stepping.append(guard)
            return guard.before(args, kwargs)
        except Exception as error:
            if self._policy is not None:
                raise
            self._failed(error)

    def _after_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        del args, kwargs
        guard = optimizer.__dict__.get(_KEY)
        if guard is None or not self._stepping or self._stepping[-1] is not guard:
            return
        self._stepping.pop()
        if guard.pending:
            self._shielded(guard.after)

    def _shielded(self, action: Callable[..., Any], *args: Any) -> Any:
        """The one boundary: a watcher's error is not the script's. It is noted, and the watcher switches itself off."""
        if self._off:
            return None
        try:
            return action(*args)
        except Exception as error:
            if self._policy is not None:
                raise
            self._failed(error)

    def _new_guard(self, optimizer: Optimizer) -> Guard:
        """A guard for an optimizer seen for the first time, kept on the optimizer so that watching keeps nothing alive."""
        kind = Guard if self._policy is not None else Observer
        guard = kind(optimizer, self._policy, record=self._recorder, loss=self._tap.value, attach=False, shield=self._shielded)
        optimizer.__dict__[_KEY] = guard
        self._watched.add(optimizer)
        return guard

    def _is_inner(self, guard: Guard) -> bool:
        """Whether another optimizer is in the middle of a step on the same parameters: one wraps the other."""
        while self._stepping and self._stepping[-1] is guard:
            self._stepping.pop()  # its last step ended in an error, so there was no "after"
        if not self._stepping:
            return False
        mine = {id(p) for group in guard.optimizer.param_groups for p in group["params"]}
        return any(id(p) in mine for outer in self._stepping for group in outer.optimizer.param_groups for p in group["params"])

    def _failed(self, error: Exception) -> None:
        self._off = True
        self.notes.append(
            f"watch-off: the watcher switched itself off after step {self.num_steps}, training went on: "
            f"{type(error).__name__}: {error}"
        )


def _status(error: BaseException | None) -> str:
    if error is None or (isinstance(error, SystemExit) and not error.code):
        return "finished"
    return "interrupted" if isinstance(error, KeyboardInterrupt) else "crashed"
