"""What will be written to each layer, settled for the whole model before the first is touched."""

from __future__ import annotations

# Where torch is not annotated:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from steadygrad.errors import ArgumentError
from steadygrad.prevent.activations import Activation, activation_named, gain_of
from steadygrad.prevent.critical import solve_critical
from steadygrad.prevent.fixup import Part, fixup_factors
from steadygrad.prevent.layers import Found, Layer
from steadygrad.prevent.schemes import Draw, delta_orthogonal, orthogonal, scaled

_RELU_UNLESS_TOLD = ("he", "fixup")
_DEEP = ("orthogonal", "delta_orthogonal", "lsuv")


@dataclass(frozen=True)
class Wish:
    """What the caller asked for; the fields are the arguments of `initialize_`."""

    method: str
    activation: Activation | None = None
    gain: float | None = None
    uniform: bool = False
    mode: str = "fan_in"
    q: float | None = None
    branches: Sequence[Part] | None = None
    classifier: Part | None = None


@dataclass(frozen=True)
class Plan:
    """One layer's new values.

    Attributes:
        layer: the layer.
        follower: the activation that the plan is made for.
        gain: its gain, or another factor on the standard deviation.
        why: where the gain comes from.
        values: draws the weight.
        bias_std: standard deviation of the bias.
    """

    layer: Layer
    follower: Activation | None
    gain: float
    why: str
    values: Callable[[Draw], Tensor]
    bias_std: float = 0.0

    def write(self, draw: Draw) -> None:
        """Write weight and bias in place, weight first."""
        self.layer.weight.copy_(self.values(draw))
        bias = self.layer.bias
        if bias is not None and self.bias_std:
            bias.copy_(draw.normal(tuple(bias.shape), bias).mul_(self.bias_std))
        elif bias is not None:
            bias.zero_()


def plans_for(call: str, model: nn.Module, found: Found, wish: Wish) -> list[Plan]:
    """A plan per layer.

    Raises:
        ArgumentError: the model has no layer, or not what the method needs.
    """
    if not found.layers:
        raise ArgumentError(
            f"`{call}` expected a model with linear or convolutional layers to train, got {type(model).__name__} without",
            slug="init-layers",
        )
    if wish.method == "critical":
        return _critical(call, found.layers, wish)
    if wish.method == "delta_orthogonal":
        _can_hold_deltas(call, found.layers)
    plans = [_plan(layer, wish) for layer in found.layers]
    if wish.method == "fixup":
        factors = fixup_factors(call, model, found.layers, wish.branches, wish.classifier)
        plans = [_multiplied(plan, *factors.get(plan.layer.name, (1.0, ""))) for plan in plans]
    return plans


def _plan(layer: Layer, wish: Wish) -> Plan:
    follower, gain, why = _gain(layer, wish)
    if wish.method == "lsuv":
        return Plan(layer, follower, 1.0, "orthogonal", lambda draw: orthogonal(draw, layer, 1.0))
    if wish.method == "delta_orthogonal" and not isinstance(layer.module, nn.Linear):
        if math.prod(layer.module.stride) > 1:
            why += "; lengths are not kept at this stride"
        return Plan(layer, follower, gain, why, lambda draw: delta_orthogonal(draw, layer, gain))
    if wish.method in ("orthogonal", "delta_orthogonal"):
        return Plan(layer, follower, gain, why, lambda draw: orthogonal(draw, layer, gain))
    fan = 0.5 * (layer.fan_in + layer.fan_out) if wish.method == "xavier" else getattr(layer, wish.mode)
    std = gain / math.sqrt(fan)
    return Plan(layer, follower, gain, why, lambda draw: scaled(draw, layer, std, uniform=wish.uniform))


def _gain(layer: Layer, wish: Wish) -> tuple[Activation | None, float, str]:
    follower, told = layer.follower, "follows"
    if follower is None:
        follower, told = wish.activation, "as given"
    if follower is None and wish.method in _RELU_UNLESS_TOLD:
        follower, told = activation_named("", "relu"), "assumed: nothing tells what follows; `activation` does"
    if wish.gain is not None:
        return follower, wish.gain, "as given"
    if follower is None:
        return None, 1.0, "nothing tells what follows; `activation` does"
    gain, source = gain_of(follower, deep=wish.method in _DEEP)
    if follower.name == "linear":
        return follower, gain, f"no activation {told}"
    name, _, detail = source.partition(": ")
    return follower, gain, f"{name} {told}" + (f": {detail}" if detail else "")


def _multiplied(plan: Plan, factor: float, why: str) -> Plan:
    if not why:
        return plan
    return Plan(plan.layer, plan.follower, plan.gain * factor, why, lambda draw: plan.values(draw).mul_(factor))


def _can_hold_deltas(call: str, layers: Sequence[Layer]) -> None:
    convolutions = [layer for layer in layers if not isinstance(layer.module, nn.Linear)]
    if not convolutions:
        raise ArgumentError(
            f"`{call}` expected convolutions for 'delta_orthogonal', got linear layers only; take 'orthogonal'",
            slug="init-layers",
        )
    for layer in convolutions:
        groups, outputs, inputs = layer.form[:3]
        if inputs > outputs:
            raise ArgumentError(
                f"`{call}` expected convolutions with at least as many outputs as inputs for 'delta_orthogonal', got {inputs} "
                f"inputs and {outputs} outputs{' per group' if groups > 1 else ''} in {layer.name!r}; take 'orthogonal' for this "
                "model",
                slug="init-shape",
            )


def _critical(call: str, layers: Sequence[Layer], wish: Wish) -> list[Plan]:
    kinds = {layer.follower.name: layer.follower for layer in layers if layer.follower and layer.follower.name != "linear"}
    if wish.activation is not None:
        kinds = {wish.activation.name: wish.activation}
    if len(kinds) != 1:
        raise ArgumentError(
            f"`{call}` expected one activation in the whole network for 'critical', got {', '.join(sorted(kinds)) or 'none'}; "
            "name the main one with `activation`",
            slug="init-activation",
        )
    kind = next(iter(kinds.values()))
    point = solve_critical(call, kind, 1.0 / len(layers) if wish.q is None else wish.q)
    why = f"{kind.name} is critical at q = {point.q:.4g}"
    if point.q_slope > 1.0 + 1e-9:
        why += f"; other lengths drift away ({point.q_slope:.3f} per layer)"
    gain, bias_std = math.sqrt(point.weight_variance), math.sqrt(point.bias_variance)
    return [_gaussian(layer, kind, gain, why, bias_std) for layer in layers]


def _gaussian(layer: Layer, kind: Activation, gain: float, why: str, bias_std: float) -> Plan:
    std = gain / math.sqrt(layer.fan_in)
    return Plan(layer, kind, gain, why, lambda draw: scaled(draw, layer, std), bias_std)
