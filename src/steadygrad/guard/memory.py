"""Tensors that transforms and constraints keep from step to step: one dict for each of them and each parameter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

Slots = dict[str, Tensor]


class Memory:
    """Memory by owner (a stage or a constraint, as text) and parameter."""

    def __init__(self) -> None:
        self._params: list[Tensor] = []
        self._slots: dict[tuple[str, int], Slots] = {}
        self._loaded: dict[tuple[str, int], Slots] = {}

    def learn(self, params: Sequence[Tensor]) -> None:
        """These are the parameters now; what belonged to others is forgotten."""
        self._params = list(params)
        here = {id(p) for p in params}
        self._slots = {key: slots for key, slots in self._slots.items() if key[1] in here}

    def of(self, owner: str, row: int) -> Slots:
        """The memory of one owner for the parameter in ``row``; it may be written to."""
        param = self._params[row]
        slots = self._slots.setdefault((owner, id(param)), {})
        loaded = self._loaded.pop((owner, row), None) if self._loaded else None
        if loaded:
            slots.update({name: tensor.to(param.device) for name, tensor in loaded.items()})
        return slots

    def state_dict(self) -> dict[str, Tensor]:
        """All tensors, copied to the CPU, by owner, row and name: ``"0|3|residual"``."""
        rows = {id(p): row for row, p in enumerate(self._params)}
        held = {(owner, rows[key]): slots for (owner, key), slots in self._slots.items()} | self._loaded
        return {
            f"{owner}|{row}|{name}": tensor.detach().to("cpu", copy=True)
            for (owner, row), slots in held.items()
            for name, tensor in slots.items()
        }

    def load_state_dict(self, flat: Mapping[str, Tensor]) -> None:
        """Go on from what :meth:`state_dict` gave."""
        self._slots, self._loaded = {}, {}
        for key, tensor in flat.items():
            owner, row, name = key.split("|", 2)
            self._loaded.setdefault((owner, int(row)), {})[name] = tensor.clone()
