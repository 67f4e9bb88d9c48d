"""The linear and convolutional layers of a model, and their weights as matrices.

Every weight is thought of in one form, ``(groups, outputs of a group, inputs of a group, *kernel)``, whichever way round the
module keeps it; that is how transposed and grouped convolutions get the right fans. ``torch.nn.init`` takes the second dimension
for the inputs always, which for a transposed convolution exchanges the two. The stride of a transposed convolution
divides its fan_in, since each output then meets only that part of the kernel; the stride of a convolution, which would divide
fan_out, is left out as He et al. leave it out.
"""

from __future__ import annotations

# Where torch is not annotated:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd  # pyright: ignore[reportPrivateUsage]
from torch.nn.parameter import is_lazy

from steadygrad.errors import ArgumentError, UnsupportedError
from steadygrad.prevent.activations import Activation
from steadygrad.prevent.following import followers


@dataclass(frozen=True)
class Layer:
    """A layer whose weight can be initialised.

    Attributes:
        name: the weight's name in the model.
        module: the module.
        weight: its weight.
        bias: its bias, unless it has none or it is frozen.
        form: ``(groups, outputs, inputs, *kernel)``.
        follower: the activation that follows, "linear" for none; None: unknown.
    """

    name: str
    module: nn.Linear | _ConvNd
    weight: nn.Parameter
    bias: nn.Parameter | None
    form: tuple[int, ...]
    follower: Activation | None

    @property
    def bias_name(self) -> str:
        """The bias's name in the model."""
        return self.name.removesuffix("weight") + "bias"

    @property
    def fan_in(self) -> float:
        """How many products an output sums up, on average over the outputs."""
        thinned = math.prod(self.module.stride) if isinstance(self.module, _ConvTransposeNd) else 1
        return self.form[2] * math.prod(self.form[3:]) / thinned

    @property
    def fan_out(self) -> float:
        """How many outputs an input goes into; of a strided convolution as if it had none."""
        return self.form[1] * math.prod(self.form[3:])

    def own(self, values: Tensor) -> Tensor:
        """Values of the shape ``form`` in the order in which the module keeps its weight."""
        if isinstance(self.module, _ConvTransposeNd):
            values = values.transpose(1, 2)
        return values.reshape(self.weight.shape)


@dataclass(frozen=True)
class Found:
    """What a model holds.

    Attributes:
        layers: the layers to initialise, each weight once, in module order.
        left: parameters that stay as they are: name, parameter, reason.
    """

    layers: list[Layer]
    left: list[tuple[str, Tensor, str]]


def layers_of(call: str, model: nn.Module) -> Found:
    """Sort out a model's parameters, before anything is changed.

    Raises:
        ArgumentError: a parameter is lazy or has no memory.
        UnsupportedError: a parameter is spread over several processes.
    """
    for name, param in model.named_parameters():
        _refuse(call, name, param)
    after, found, seen = followers(model), Found([], []), set[int]()
    for prefix, module in model.named_modules():
        if isinstance(module, nn.Linear | _ConvNd):
            _sort(found, f"{prefix}." if prefix else "", module, after.get(id(module)), seen)
    covered = seen | {id(layer.bias) for layer in found.layers}
    for name, param in model.named_parameters():
        if id(param) not in covered and (param.dim() > 1 or not param.requires_grad):
            reason = "belongs to no linear or convolutional layer" if param.requires_grad else "frozen"
            found.left.append((name, param, reason))
    return found


def _sort(found: Found, prefix: str, module: nn.Linear | _ConvNd, after: Activation | None, seen: set[int]) -> None:
    own = dict(module.named_parameters(recurse=False))
    weight, bias = own.get("weight"), own.get("bias")
    if weight is None:  # computed by a parametrization
        for name, param in module.named_parameters(prefix.removesuffix(".")):
            if id(param) not in seen and param.dim() > 1:
                found.left.append((name, param, "the weight is computed from it"))
            seen.add(id(param))
        return
    if id(weight) in seen:
        return
    seen.add(id(weight))
    reason = _untouched(weight)
    if reason:
        found.left.append((f"{prefix}weight", weight, reason))
        return
    bias = bias if bias is not None and bias.requires_grad else None
    found.layers.append(Layer(f"{prefix}weight", module, weight, bias, _form(module, weight.shape), after))


def _untouched(weight: Tensor) -> str:
    if not weight.requires_grad:
        return "frozen"
    if weight.numel() == 0:
        return "empty"
    return "" if weight.is_floating_point() else f"of the type {str(weight.dtype).removeprefix('torch.')}"


def _form(module: nn.Linear | _ConvNd, shape: Sequence[int]) -> tuple[int, ...]:
    if isinstance(module, nn.Linear):
        return (1, *shape)
    if isinstance(module, _ConvTransposeNd):
        return (module.groups, shape[1], shape[0] // module.groups, *shape[2:])
    return (module.groups, shape[0] // module.groups, *shape[1:])


def _refuse(call: str, name: str, param: Tensor) -> None:
    if is_lazy(param):
        raise ArgumentError(
            f"`{call}` expected parameters with a shape, got {name!r} of a lazy module; run the model once first",
            slug="parameter-lazy",
        )
    if param.device.type == "meta":
        raise ArgumentError(
            f"`{call}` expected parameters with memory, got {name!r} on the device 'meta'; call `model.to_empty(device=...)` "
            "first",
            slug="parameter-meta",
        )
    if hasattr(param, "placements"):
        raise UnsupportedError(
            f"`{call}` expected whole parameters, got {name!r} spread over several processes; initialise before the model is "
            "sharded",
            slug="parameter-sharded",
        )
