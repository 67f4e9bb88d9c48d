"""Which activation follows a module, as far as the model's structure tells.

Only ``nn.Sequential`` tells an order. What a module's own ``forward`` calls cannot be seen from outside; there the answer is
"unknown", and the caller says which activation it is or gets a default that the report names.
"""

from __future__ import annotations

# Where torch is not annotated:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
import math
from collections.abc import Iterator
from typing import TypeGuard

from torch import nn

from steadygrad.prevent.activations import Activation, activation_named

_NAMES: dict[type[nn.Module], str] = {
    nn.ReLU: "relu",
    nn.ReLU6: "relu",
    nn.Tanh: "tanh",
    nn.Sigmoid: "sigmoid",
    nn.GELU: "gelu",
    nn.SiLU: "silu",
    nn.SELU: "selu",
    nn.Softplus: "softplus",
    nn.Softsign: "softsign",
}
_NORMS = ("BatchNorm", "LayerNorm", "GroupNorm", "RMSNorm", "InstanceNorm", "LocalResponseNorm", "SyncBatchNorm")
_SHAPES = ("Dropout", "AlphaDropout", "Identity", "Flatten", "Unflatten", "MaxPool", "AvgPool", "AdaptiveAvgPool", "Upsample")
_PASSED = (*_NORMS, *_SHAPES)
LINEAR = activation_named("", "linear")
Found = Activation | None


def followers(model: nn.Module) -> dict[int, Found]:
    """For each module, by ``id``: the activation that follows; "linear" for none, None where nothing tells.

    A module that stands in several places has the answer of the first.
    """
    found: dict[int, Found] = {}
    for module, after in _walk(model, LINEAR):
        found.setdefault(id(module), after)
    return found


def _walk(module: nn.Module, after: Found) -> Iterator[tuple[nn.Module, Found]]:
    yield module, after
    ordered = _in_order(module)
    children = [*module] if _in_order(module) else list(module.children())  # children() would leave out repetitions
    answers: list[Found] = []
    for child in reversed(children):
        answers.append(after if ordered else None)
        after = _head(child, after)
    for child, answer in zip(children, reversed(answers), strict=True):
        yield from _walk(child, answer)


def _in_order(module: nn.Module) -> TypeGuard[nn.Sequential]:
    """Whether the module calls its children one after the other: a subclass with a ``forward`` of its own may not."""
    return isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward


def _head(module: nn.Module, after: Found) -> Found:
    """The activation that a signal going into ``module`` meets first; ``after`` if it passes through."""
    if _in_order(module):
        for child in reversed([*module]):
            after = _head(child, after)
        return after
    activation = activation_of(module)
    if activation is not None:
        return activation
    if type(module).__name__.rstrip("123d") in _PASSED:
        return after
    return LINEAR if isinstance(module, nn.Linear | nn.modules.conv._ConvNd) else None  # pyright: ignore[reportPrivateUsage]


def activation_of(module: nn.Module) -> Found:
    """The activation that a module is, if it is one of those whose gain is known."""
    kind = type(module)
    if kind in _NAMES:
        return activation_named("", _NAMES[kind])
    if isinstance(module, nn.LeakyReLU):
        return activation_named("", "leaky_relu", module.negative_slope)
    if isinstance(module, nn.PReLU):
        weight = module.weight.detach()
        below = float(weight.mean()) if weight.numel() and weight.device.type != "meta" else math.nan
        return activation_named("", "leaky_relu", below) if math.isfinite(below) else None
    if isinstance(module, nn.ELU) and module.alpha == 1.0:
        return activation_named("", "elu")
    return None
