"""Readings of a few numbers in either namespace, and the way back to NumPy."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from steadygrad.readings import Layout, Readings


def as_array(xp: Any, values: Any) -> Any:
    return torch.tensor(values, dtype=torch.float64) if xp is torch else np.array(values, dtype=np.float64)


@pytest.fixture(scope="session")
def readings_of() -> Callable[..., Readings]:
    """``readings_of(xp, norms, names=..., groups=..., shapes=...)``: readings of tensors with these 2-norms."""

    def make(xp: Any, norms: Any, *, names: Any = None, groups: Any = (), shapes: Any = (), **extra: Any) -> Readings:
        names = tuple(names or (f"p{i}" for i in range(len(norms))))
        extra = {key: as_array(xp, value) for key, value in extra.items()}
        norm_p = {float(key[1:]): extra.pop(key) for key in list(extra) if key.startswith("p")}
        squares = [norm * norm for norm in norms]
        return Readings(Layout(names, tuple(groups), tuple(shapes)), xp, as_array(xp, squares), norm_p=norm_p, **extra)

    return make
