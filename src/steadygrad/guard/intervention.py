"""A policy at work on one optimizer: stage by stage it measures, decides and applies, and after the step limits the update."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

import numpy as np
from torch import Tensor
from torch.optim import Optimizer

from steadygrad.decision import Decision, Reason
from steadygrad.errors import ArgumentError, NonFiniteGradientError, UnsupportedError
from steadygrad.guard.effects import Effects
from steadygrad.guard.memory import Memory
from steadygrad.guard.requirements import require
from steadygrad.guard.rewriting import places, rewrite_
from steadygrad.guard.states import PolicyStates
from steadygrad.guard.updates import Updates
from steadygrad.measure.select import Engine, measure
from steadygrad.policy import NO_NEEDS, Policy
from steadygrad.readings import Layout, Readings

_ABORT_EVERY = 16  # steps between two looks at a device-side abort flag


class Intervention:
    """Carries a policy out.

    Args:
        optimizer: the optimizer.
        policy: the policy.
        effects: what decisions do to the step.

    Raises:
        UnsupportedError: the optimizer lacks what the policy needs.
    """

    def __init__(self, optimizer: Optimizer, policy: Policy, effects: Effects) -> None:
        require(policy, optimizer)
        self.policy = policy
        self._optimizer = optimizer
        self._effects = effects
        self._stages: tuple[Policy, ...] = policy.stages or (policy,)
        self._states = PolicyStates(self._stages)
        self._memory = Memory()
        self._updates = Updates(optimizer, policy.constraints, self._memory)
        self._params: list[Tensor] = []
        self._layout = Layout(())
        self._engine: Engine | None = None
        self._fresh = True
        self._resumed = False

    def learn(self, params: list[Tensor], layout: Layout, engine: Engine) -> None:
        """These are the parameters now; rows that were there before keep what they had."""
        known = {id(p): row for row, p in enumerate(self._params)}
        if known:
            self._states.realign(np.array([known.get(id(p), -1) for p in params], np.int64))
        self._memory.learn(params)
        self._params, self._layout, self._engine = params, layout, engine
        self._fresh, self._resumed = not self._resumed, False  # a saved state knows what was read before

    def before(
        self, grads: Sequence[Tensor | None], scale: Any, step: int, more_needs: frozenset[str] = NO_NEEDS
    ) -> tuple[Readings, Decision]:
        """Deal with the gradients of one step.

        Args:
            grads: one per parameter.
            scale: loss scale that they still carry, or ``None``.
            step: number of the step, from 1.
            more_needs: readings that somebody else wants of the first measurement.

        Returns:
            What was measured first, and all decisions as one.
        """
        first: Readings | None = None
        whole = Decision()
        for i, stage in enumerate(self._stages):
            needs = self._due(stage.needs, step)
            readings = self._measure(grads, needs if i else needs | more_needs, scale)
            first = first or readings
            if readings.param_norm is not None and "param_norm" not in needs:  # a check-up's: recording must change nothing
                readings = replace(readings, param_norm=None)
            decision = self._decide(i, stage, readings, step)
            whole = whole.then(decision, readings.xp) if i else decision
            if self._carry_out(i, decision, grads, scale, step):
                break
        else:
            self._updates.begin(self._params, self._layout, grads, whole.update_scale)
        self._fresh = False
        return cast(Readings, first), whole

    def after(self, step: int) -> None:
        """Limit what the optimizer has just done to the parameters."""
        self._updates.finish(self._layout, step - 1, self._effects.skipped)

    def forget(self) -> None:
        """Drop what is kept for the end of a step that has none."""
        self._updates.forget()

    def state_dict(self) -> dict[str, Any]:
        """The states of the policy and the tensors that its transforms and constraints keep."""
        return {"state": self._states.state_dict(), "memory": self._memory.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what :meth:`state_dict` gave."""
        self._states.load_state_dict(state["state"])
        self._memory.load_state_dict(state.get("memory", {}))
        self._resumed = not self._params

    def _due(self, needs: frozenset[str], step: int) -> frozenset[str]:
        """The readings to take now. One wanted every k steps (``"param_norm:10"``) is left out where it is not due."""
        periodic = [need for need in needs if need.startswith("param_norm:")]
        if not periodic:
            return needs
        due = self._fresh or any((step - 1) % int(need.partition(":")[2]) == 0 for need in periodic)
        return needs.difference(periodic) | ({"param_norm"} if due else NO_NEEDS)

    def _measure(self, grads: Sequence[Tensor | None], needs: frozenset[str], scale: Any) -> Readings:
        """The readings in true units: without the loss scale."""
        optimizer = self._optimizer
        given: dict[str, Any] = {}
        if needs:
            slots = [optimizer.state.get(p, {}) for p in self._params] if "update_rms" in needs else None
            given = {"params": self._params, "groups": optimizer.param_groups, "slots": slots, "loss_scale": scale}
        readings = measure(grads, self._layout, needs, engine=self._engine, **given)
        if scale is None:
            return readings
        return replace(readings.scaled(1.0 / scale), update_rms=readings.update_rms)

    def _decide(self, i: int, stage: Policy, readings: Readings, step: int) -> Decision:
        decision, state = stage.decide(readings, self._states.of(i, readings))
        if decision.abort is not None:
            self._stop_if(decision, step)
        self._states.put(i, state)
        return decision

    def _carry_out(self, i: int, decision: Decision, grads: Sequence[Tensor | None], scale: Any, step: int) -> bool:
        """Apply a stage's decision; whether the step is known to be skipped."""
        stage, last = self._stages[i], i == len(self._stages) - 1
        if stage.rewrite is None:
            return self._effects.carry_out(decision, self._layout, grads, scale, last=last)
        if scale is not None:
            raise UnsupportedError(
                f"`{stage.text}` rewrites elements, but the gradients still carry the GradScaler's loss scale; "
                f"call `scaler.unscale_(optimizer)` before the step",
                slug="scaled-rewrite",
            )
        if self._effects.carry_out(decision, self._layout, grads, scale, last=False, host=True):
            return True
        rewrite_(stage, decision, grads, places(self._optimizer, self._layout, self._memory, str(i), step - 1, decision.numbers))
        return False

    def _stop_if(self, decision: Decision, step: int) -> None:
        if isinstance(decision.abort, Tensor) and step % _ABORT_EVERY:
            return
        if decision.abort:  # waits for a GPU on one step in 16; the steps in between are skipped all the same
            raise NonFiniteGradientError(
                f"step {step}: {Reason.TOO_MANY_NON_FINITE.message}; policy {self.policy!r}. Parameters are as before "
                f"the first of them; lower the learning rate, or look at what `steadygrad report` names",
                slug="too-many-nonfinite",
            )


def check_state_of(policy: Policy | None, state: dict[str, Any]) -> None:
    """Refuse a state that was saved under another policy."""
    if state["policy"] != repr(policy):
        raise ArgumentError(
            f"`Guard.load_state_dict` expected the state of {policy!r}, got that of {state['policy']}; "
            f"make the Guard with the same policy",
            slug="state-mismatch",
        )
