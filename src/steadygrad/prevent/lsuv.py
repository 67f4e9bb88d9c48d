"""Layer-sequential unit variance: scale each layer by what a batch of data shows.

Mishkin, Matas, "All you need is a good init", 2016, arXiv:1511.06422, algorithm 1.

Deviations: all layers are done in one forward pass instead of several passes per layer. A hook measures each layer's output where
it arises, scales the weight, and hands the scaled output on, so that the next layer sees what it will see later. As biases are
zero then, one division is exact and there is no tolerance to iterate to. A layer that is called again keeps the scale of its
first call. A layer whose output is constant keeps its orthogonal weight; the reference multiplies it by 1e8.
"""

from __future__ import annotations

# Where torch is not annotated:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from steadygrad.checks import show
from steadygrad.errors import ArgumentError, ArgumentTypeError
from steadygrad.prevent.layers import Layer

_DEAD = 1e-8


def scale_by_data(call: str, model: nn.Module, layers: Sequence[Layer], data: Any) -> dict[str, str]:
    """Scale each layer's weight in place so that its output has standard deviation 1; the model runs in evaluation mode.

    Returns:
        For each weight's name what was done.

    Raises:
        ArgumentError: an output is NaN or Inf or has a single element.
        ArgumentTypeError: the data is of another kind.
    """
    args, kwargs = _inputs(call, data)
    done: dict[str, str] = {}
    modes = [(module, module.training) for module in model.modules()]
    handles = [layer.module.register_forward_hook(_hook(call, layer, done)) for layer in layers]
    try:
        model.eval()
        with torch.no_grad():
            model(*args, **kwargs)
    finally:
        for handle in handles:
            handle.remove()
        for module, mode in modes:
            module.training = mode
    return {layer.name: done.get(layer.name, "orthogonal; the data did not reach it") for layer in layers}


def _hook(call: str, layer: Layer, done: dict[str, str]) -> Callable[..., Tensor | None]:
    frozen = layer.module.bias if layer.bias is None else None  # one that is trained is zero by now

    def scale(_module: nn.Module, _inputs: Any, output: Tensor) -> Tensor | None:
        if layer.name in done:
            return None
        rest = torch.zeros((), dtype=output.dtype, device=output.device) if frozen is None else _spread(layer, frozen)
        product = output - rest
        std = float(product.to(torch.promote_types(output.dtype, torch.float32)).std(correction=0))
        if not std < math.inf or output.numel() < 2:
            what = f"a standard deviation of {std:.3g} over {output.numel()} elements"
            raise ArgumentError(
                f"`{call}` expected `data` that gives each layer finite outputs, got {what} from {layer.name!r}; the model "
                "is as it was",
                slug="init-data",
            )
        if std < _DEAD:
            done[layer.name] = "orthogonal; the output is constant"
            return None
        done[layer.name] = f"orthogonal; output std was {std:.4g}"
        layer.weight.div_(std)
        return product / std + rest

    return scale


def _spread(layer: Layer, bias: Tensor) -> Tensor:
    """The bias in the shape in which it is added to an output."""
    return bias.view(-1, *[1] * (len(layer.form) - 3))


def _inputs(call: str, data: Any) -> tuple[Sequence[Any], Mapping[str, Any]]:
    if isinstance(data, Tensor):
        return (data,), {}
    if isinstance(data, Mapping):
        return (), {str(key): value for key, value in data.items()}  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
    if isinstance(data, tuple | list):
        return tuple(data), {}  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
    raise ArgumentTypeError(
        f"`{call}` expected `data` to be a batch: a tensor, a tuple of positional or a dictionary of named arguments, got "
        f"{show(data)}",
        slug="init-data",
    )
