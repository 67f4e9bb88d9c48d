"""The states of a policy's stages: begun at the first step, grown where parameters are added, saved and taken up again."""

from __future__ import annotations

# Where torch is not annotated:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from steadygrad.errors import ArgumentError
from steadygrad.guard.values import packed, unpacked
from steadygrad.policy import PER_TENSOR, Policy, State
from steadygrad.readings import Readings


class PolicyStates:
    """One state per stage.

    Args:
        stages: the policies between two measurements.
    """

    def __init__(self, stages: Sequence[Policy]) -> None:
        self._stages = stages
        self._states: list[State] = [{} for _ in stages]
        self._loaded: list[State] = [{} for _ in stages]
        self._origin: list[np.ndarray | None] = [None] * len(stages)

    def of(self, i: int, readings: Readings) -> State:
        """The state of stage ``i`` at these readings."""
        if not self._states[i]:
            self._states[i] = self._begun(i, readings)
        elif self._origin[i] is not None:
            self._states[i] = self._grown(i, readings)
        return self._states[i]

    def put(self, i: int, state: State) -> None:
        """What stage ``i`` goes on from."""
        self._states[i] = state

    def realign(self, origin: np.ndarray) -> None:
        """Parameters have changed: row ``k`` is what was row ``origin[k]``, or is new where that is -1."""
        for i, known in enumerate(self._origin):  # twice between two steps: through both
            self._origin[i] = origin if known is None else np.where(origin < 0, -1, known[origin])

    def state_dict(self) -> dict[str, Tensor]:
        """All states in one flat dict of CPU tensors, keys as in ``"0.consecutive"``."""
        return packed([state or loaded for state, loaded in zip(self._states, self._loaded, strict=True)])

    def load_state_dict(self, flat: Mapping[str, Tensor]) -> None:
        """Go on from what :meth:`state_dict` gave."""
        self._states, self._loaded = [{} for _ in self._stages], unpacked(flat, len(self._stages))
        self._origin = [None] * len(self._stages)

    def _begun(self, i: int, readings: Readings) -> State:
        fresh, loaded = self._stages[i].init(readings), self._loaded[i]
        for key, value in loaded.items():
            here = np.shape(fresh[key]) if key in fresh else None
            if np.shape(value) != here:
                raise ArgumentError(
                    f"`Guard.load_state_dict` was given {key!r} of shape {np.shape(value)}, but here its shape is {here}: "
                    f"the state was saved with other parameters, or by another version",
                    slug="state-mismatch",
                )
        return _on_device({**fresh, **loaded}, readings)

    def _grown(self, i: int, readings: Readings) -> State:
        """Rows for added parameters begin as at a first step; the others keep theirs."""
        origin, self._origin[i] = self._origin[i], None
        fresh = _on_device(self._stages[i].init(readings), readings)
        new = np.flatnonzero(np.asarray(origin) >= 0)
        old = np.asarray(origin)[new]
        for key, value in self._states[i].items():
            if not key.rpartition(".")[2].startswith(PER_TENSOR):
                fresh[key] = value
            elif readings.xp is np:
                fresh[key] = fresh[key].copy()
                fresh[key][new] = value[old]
            else:
                rows, source = (torch.from_numpy(each).to(value.device) for each in (new, old))
                fresh[key] = fresh[key].index_copy(0, rows, value[source])
        return fresh


def _on_device(state: State, readings: Readings) -> dict[str, Any]:
    if readings.xp is np:
        return state
    return {key: torch.as_tensor(value, device=readings.sum_sq.device) for key, value in state.items()}
