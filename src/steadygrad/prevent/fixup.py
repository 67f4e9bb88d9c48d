"""Fixup: residual networks without normalisation.

Zhang, Dauphin, Ma, "Fixup Initialization: Residual Learning Without Normalization", 2019, arXiv:1901.09321, section 3: the last
layer of each residual branch and the classifier start at zero, and the other layers of the branches are scaled by
``L^(-1/(2m - 2))`` with L branches of m layers. So each update changes the function by an amount that does not grow with depth.

Deviations: the scalar biases and the multiplier of the paper's third rule are parts of the model, which is not rebuilt here.
Branches must be named, because a model does not tell where its sums are.
"""

from __future__ import annotations

# Where torch is not annotated:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
from collections.abc import Sequence

from torch import nn

from steadygrad.checks import show
from steadygrad.errors import ArgumentError
from steadygrad.prevent.layers import Layer

Part = str | nn.Module
SLUG = "init-branches"


def fixup_factors(
    call: str, model: nn.Module, layers: Sequence[Layer], branches: Sequence[Part] | None, classifier: Part | None
) -> dict[str, tuple[float, str]]:
    """The factor on the He standard deviation and the reason, by weight name, for layers in branches and the classifier.

    Raises:
        ArgumentError: there are no branches, one is not in the model, has no layers, or shares layers with another.
    """
    if not branches or isinstance(branches, str):
        raise ArgumentError(
            f"`{call}` expected `branches` for 'fixup': a list of the model's residual branches, as names or modules (what is "
            f"added to the skip connection, without it), got {show(branches)}; for a model without them take 'he'",
            slug=SLUG,
        )
    factors: dict[str, tuple[float, str]] = {}
    for given in branches:
        name, branch = _part(call, model, given)
        own = _layers_in(call, name, branch, layers, factors)
        inner = len(branches) ** (-0.5 / max(len(own) - 1, 1))
        for layer in own[:-1]:
            factors[layer.name] = (inner, f"L = {len(branches)}, m = {len(own)}: L^(-1/(2m - 2)) = {inner:.4g}")
        factors[own[-1].name] = (0.0, "last of its branch")
    last = _classifier(call, model, layers, factors, classifier)
    if last is not None:
        factors[last.name] = (0.0, "classifier")
    return factors


def _part(call: str, model: nn.Module, given: Part) -> tuple[str, nn.Module]:
    for name, module in model.named_modules():
        if module is given or (isinstance(given, str) and name == given):
            return name, module
    kind = show(given) if isinstance(given, str) else f"a {type(given).__name__} from elsewhere"
    raise ArgumentError(f"`{call}` expected names or modules of parts of the model, got {kind}", slug=SLUG)


def _layers_in(
    call: str, name: str, branch: nn.Module, layers: Sequence[Layer], taken: dict[str, tuple[float, str]]
) -> list[Layer]:
    modules = {id(module): module for module in branch.modules()}
    own = [layer for layer in layers if id(layer.module) in modules]
    if not own:
        raise ArgumentError(f"`{call}` expected branches with layers to initialise, got {name!r} without any", slug=SLUG)
    weights = {id(layer.weight) for layer in own}
    shared = [layer.name for layer in own if layer.name in taken]
    elsewhere = [
        m
        for m in modules.values()
        if isinstance(w := getattr(m, "weight", None), nn.Parameter)
        and w.dim() > 1
        and w.requires_grad
        and id(w) not in weights
        and any(w is layer.weight for layer in layers)
    ]
    if shared or elsewhere:
        raise ArgumentError(
            f"`{call}` expected branches that share no weights, got {name!r} with a weight that stands elsewhere too", slug=SLUG
        )
    return own


def _classifier(
    call: str, model: nn.Module, layers: Sequence[Layer], factors: dict[str, tuple[float, str]], given: Part | None
) -> Layer | None:
    """The layer that was named, or the last one if it is linear and in no branch."""
    if given is None:
        last = layers[-1]
        return last if isinstance(last.module, nn.Linear) and last.name not in factors else None
    name, module = _part(call, model, given)
    own = [layer for layer in layers if layer.module is module and layer.name not in factors]
    if not own:
        raise ArgumentError(f"`{call}` expected `classifier` to be a layer outside of the branches, got {name!r}", slug=SLUG)
    return own[0]
