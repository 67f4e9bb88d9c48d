"""Parameter groups with and without weight decay.

Weight decay pulls every element to zero. For a matrix that bounds the size of its output; for a bias or the gain of a
normalisation layer it only moves the function, and a gain drawn to zero takes the layer's signal away. He et al., "Bag of Tricks
for Image Classification with Convolutional Neural Networks", 2018, arXiv:1812.01187, section 3.1, decay only weights.

Deviation: what counts as a bias is told by the number of dimensions, as in later practice, rather than by names: all parameters
with fewer than two. So scalar multipliers and class tokens of one dimension are not decayed either.
"""

from __future__ import annotations

# Where torch is not annotated:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _NormBase  # pyright: ignore[reportPrivateUsage]
from torch.nn.parameter import is_lazy

from steadygrad.checks import flag, non_negative
from steadygrad.errors import ArgumentError, ArgumentTypeError

_NORMS = (_NormBase, nn.LayerNorm, nn.GroupNorm)


def decay_groups(model: nn.Module, weight_decay: float = 0.01, *, embeddings: bool = True) -> list[dict[str, Any]]:
    """Parameter groups for an optimizer: weights decay, biases and gains do not.

    Without decay: parameters of fewer than two dimensions, those of normalisation layers, those called "bias", and if
    ``embeddings`` is False the tables of ``nn.Embedding`` and ``nn.EmbeddingBag``. A parameter with several owners is in one
    group and once, without decay if one of its owners says so. Frozen parameters are in no group.

    Args:
        model: the model.
        weight_decay: for the group that decays, >= 0, as the optimizer takes it.
        embeddings: whether embedding tables decay.

    Returns:
        One or two groups, the one that decays first, parameters in the model's order; an empty group is left out.

    Raises:
        ArgumentError: a number is out of range, a parameter has no shape yet, or nothing can be trained.
        ArgumentTypeError: an argument is of another kind.

    Example:
        >>> import torch
        >>> model = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4))
        >>> optimizer = torch.optim.AdamW(decay_groups(model, 0.1))
        >>> [(len(group["params"]), group["weight_decay"]) for group in optimizer.param_groups]
        [(1, 0.1), (3, 0.0)]

    Reference:
        He, Zhang, Zhang, Zhang, Xie, Li, "Bag of Tricks for Image Classification with Convolutional Neural Networks", 2018,
        https://arxiv.org/abs/1812.01187
    """
    call = "decay_groups"
    if not isinstance(model, nn.Module):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ArgumentTypeError(f"`{call}` expected an `nn.Module`, got {type(model).__name__}", slug="argument-type")
    decay, tables = non_negative(call, "weight_decay", weight_decay), flag(call, "embeddings", embeddings)
    found: dict[int, tuple[nn.Parameter, bool]] = {}
    for prefix, module in model.named_modules():
        for name, param in module.named_parameters(prefix, recurse=False):
            if not param.requires_grad:
                continue
            _has_shape(call, name, param)
            exempt = _exempt(module, name, param, tables) or (id(param) in found and found[id(param)][1])
            found[id(param)] = (param, exempt)
    if not found:
        raise ArgumentError(
            f"`{call}` expected a model with parameters to train, got none with `requires_grad`", slug="decay-none"
        )
    groups = [([p for p, exempt in found.values() if exempt is kind], 0.0 if kind else decay) for kind in (False, True)]
    return [{"params": params, "weight_decay": value} for params, value in groups if params]


def _exempt(module: nn.Module, name: str, param: nn.Parameter, tables: bool) -> bool:
    norm = isinstance(module, _NORMS) or type(module).__name__.endswith("Norm")
    table = isinstance(module, nn.Embedding | nn.EmbeddingBag) and not tables
    return param.dim() < 2 or norm or table or name.rpartition(".")[2] == "bias"


def _has_shape(call: str, name: str, param: nn.Parameter) -> None:
    if is_lazy(param):
        raise ArgumentError(
            f"`{call}` expected parameters with a shape, got {name!r} of a lazy module; run the model once first",
            slug="parameter-lazy",
        )
