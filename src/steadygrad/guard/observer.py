"""A guard that only looks, for unmodified scripts with short steps.

In the middle of a training step the caches hold the model, not Python: each call costs about a microsecond, and a step of
LeNet-5 takes two thousand. So the common step is taken here in a handful of calls: every gradient is there, small, plain and
finite, no check-up is due, and no closure was given. Anything else goes the way of :class:`~steadygrad.guard.loop.Guard`, and
a test holds the two against each other.
"""

from __future__ import annotations

import operator
import time
from typing import Any

import numpy as np
from torch import Tensor

from steadygrad.decision import Decision
from steadygrad.guard.loop import Guard
from steadygrad.measure import cpu
from steadygrad.measure.checkup import Checkup
from steadygrad.readings import Readings
from steadygrad.record import StepRecord

_NOTHING = Decision()


class Observer(Guard):
    """A guard without a policy that is quick about the common step. Same arguments, same record."""

    _plain = False

    def before(self, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> tuple[Any, Any] | None:
        """As :meth:`Guard.before`."""
        if self._plain and len(args) == 1 and not kwargs and not self.pending and self._glance():
            return None
        return super().before(args, kwargs)

    def _glance(self) -> bool:
        """Take the common step; false, and nothing changed, where it is another."""
        groups = self.optimizer.param_groups
        params = [p for group in groups for p in group["params"]]
        step = self.num_steps + 1
        if len(params) != len(self._params) or not all(map(operator.is_, params, self._params)) or Checkup.due(step):
            return False
        values = cpu.glance(params)
        if values is None or self.recorder is None or self._index is None:
            return False
        self.num_steps = step
        self.readings = Readings(self._layout, np, values)
        loss = None if self._loss is None else self._loss()
        lr = groups[0].get("lr")
        self.recorder.step(StepRecord(self._index, step, time.perf_counter(), self.readings, _NOTHING, loss, lr, False))
        return True

    def _learn(self, params: list[Tensor]) -> None:
        super()._learn(params)
        # a fused optimizer's gradients may still carry a loss scale
        self._plain = self._engine is not None and self._engine.name == "cpu" and not self._effects.foldable
