"""Random gradients over twelve orders of magnitude, and the way of a gradient through a Guard."""

from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from torch import nn

import steadygrad as sg

SHAPES = {"linear.weight": (8, 5), "linear.bias": (7,), "conv.weight": (4, 3, 3, 3), "gain": (1,), "silent.weight": (3, 2)}
SILENT = "silent.weight"

Tensors = dict[str, np.ndarray]


def random_tensors(seed: int, scale: float = 1.0) -> Tensors:
    """One float32 array per shape, of sizes that differ a hundredfold; the one called silent holds zeros."""
    rng = np.random.default_rng(seed)
    sizes = scale * 10.0 ** rng.uniform(-1.0, 1.0, len(SHAPES))
    drawn = {name: size * rng.standard_normal(shape) for (name, shape), size in zip(SHAPES.items(), sizes, strict=True)}
    return {name: np.float32(0.0 if name == SILENT else 1.0) * value.astype(np.float32) for name, value in drawn.items()}


@pytest.fixture(params=[1e-6, 1.0, 1e6], ids="scale={:g}".format)
def scale(request: pytest.FixtureRequest) -> float:
    """The size of the gradients."""
    return request.param


@pytest.fixture(params=range(2), ids="seed={}".format)
def grads(request: pytest.FixtureRequest, scale: float) -> Tensors:
    """Gradients of one step."""
    return random_tensors(request.param, scale)


@pytest.fixture
def weights() -> Tensors:
    """The parameters that the gradients belong to; one tensor is zero."""
    return random_tensors(99)


@pytest.fixture(scope="session")
def several() -> Callable[[int, float], list[Tensors]]:
    """``several(count, scale)``: the gradients of so many steps, whose norms jump about."""
    return lambda count, scale: [random_tensors(1000 + i, scale) for i in range(count)]


@pytest.fixture(scope="session")
def steady() -> Callable[[int, float], list[Tensors]]:
    """``steady(count, scale)``: the gradients of so many steps, whose norms stay within a factor of three, tensor by tensor."""

    def draw(count: int, scale: float) -> list[Tensors]:
        rng, base = np.random.default_rng(7), random_tensors(7, scale)
        factors = rng.uniform(0.6, 1.6, (count, len(SHAPES))).astype(np.float32)
        return [{name: base[name] * row[i] for i, name in enumerate(SHAPES)} for row in factors]

    return draw


@pytest.fixture(scope="session")
def total_norm() -> Callable[[Tensors], float]:
    """The 2-norm of all tensors together, in float64."""
    return lambda tensors: float(np.sqrt(sum(np.square(value, dtype=np.float64).sum() for value in tensors.values())))


@pytest.fixture(scope="session")
def guarded() -> Callable[..., list[Tensors | None]]:
    """``guarded(policy, steps, weights=None, optimizer=SGD that stands still)``: what a Guard makes of each step's gradients.

    ``None`` stands for a step that was skipped.
    """

    def run(
        policy: sg.Policy, steps: Sequence[Tensors], weights: Tensors | None = None, optimizer: type = torch.optim.SGD, **settings
    ) -> list[Tensors | None]:
        start = weights or {name: np.zeros(shape, np.float32) for name, shape in SHAPES.items()}
        params = {name: nn.Parameter(torch.from_numpy(value.copy())) for name, value in start.items()}
        guard = sg.Guard(optimizer(list(params.items()), **{"lr": 0.0, **settings}), policy)
        results = []
        for grads in steps:
            for name, param in params.items():
                param.grad = torch.from_numpy(grads[name].copy())
            guard.optimizer.step()
            results.append(None if guard.skipped else {name: param.grad.numpy().copy() for name, param in params.items()})
        guard.detach()
        return results

    return run


@pytest.fixture(scope="session")
def close() -> Callable[..., None]:
    """``close(ours, theirs, ulps)``: equal to so many roundings of float32, relative to the tensor's largest element."""

    def check(ours: Tensors, theirs: Tensors, ulps: float = 8.0) -> None:
        assert ours.keys() == theirs.keys()
        for name, value in ours.items():
            other = np.asarray(theirs[name], np.float64)
            largest = float(np.abs(other).max())
            np.testing.assert_allclose(value, other, rtol=0, atol=ulps * 2.0**-24 * largest, err_msg=name)

    return check
