"""Names for an optimizer's parameters: from the model, from the optimizer, or found among the live modules."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Sequence

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvTransposeNd  # pyright: ignore[reportPrivateUsage]
from torch.optim import Optimizer

from steadygrad.readings import Layout


def parameter_names(optimizer: Optimizer, model: nn.Module | None = None, *, search: bool = False) -> list[str]:
    """One name per parameter of ``optimizer``, in the order of its parameter groups.

    Args:
        optimizer: the optimizer.
        model: its ``named_parameters()`` are used first.
        search: look through all live modules for what is still without a name. Takes some milliseconds, once.

    Returns:
        Unique names; ``group0.param3`` for a parameter that nobody has named.
    """
    params = [p for group in optimizer.param_groups for p in group["params"]]
    return _names(optimizer, params, [] if model is None else [model], lambda: _owners(params) if search else [])


def layout_of(optimizer: Optimizer, model: nn.Module | None = None) -> Layout:
    """Names, groups, shapes, dtypes and units of an optimizer's parameters.

    Names, and the modules whose kind tells how units lie, are searched for among the live modules where there is no model.
    """
    params = [p for group in optimizer.param_groups for p in group["params"]]
    owners = _owners(params) if model is None else [model]
    return Layout(
        names=tuple(_names(optimizer, params, [] if model is None else owners, lambda: owners)),
        groups=tuple(i for i, group in enumerate(optimizer.param_groups) for _ in group["params"]),
        shapes=tuple(tuple(p.shape) for p in params),
        dtypes=tuple(str(p.dtype).removeprefix("torch.") for p in params),
        unit_dims=_unit_dims(params, owners),
    )


def _names(
    optimizer: Optimizer, params: Sequence[Tensor], first: Sequence[nn.Module], last: Callable[[], Sequence[nn.Module]]
) -> list[str]:
    """Names from the first modules, then from the optimizer, then from the last modules, if still need be."""
    named = dict[int, str]()
    for module in first:
        _add(named, module.named_parameters())
    for group in optimizer.param_groups:
        _add(named, zip(group.get("param_names", ()), group["params"], strict=False))
    if any(id(p) not in named for p in params):
        for module in last():
            _add(named, module.named_parameters())
    positions = [(g, i) for g, group in enumerate(optimizer.param_groups) for i in range(len(group["params"]))]
    return _unique([named.get(id(p), f"group{g}.param{i}") for p, (g, i) in zip(params, positions, strict=True)])


def _unit_dims(params: Sequence[Tensor], modules: Sequence[nn.Module]) -> tuple[int, ...]:
    """For each parameter the dimension of its units, by the kind of the module that holds it; 0 where no module is known."""
    across = {
        id(param)
        for module in modules
        for part in module.modules()
        if _has_units_across(part)
        for param in part.parameters(recurse=False)
    }
    return tuple(-1 if p.dim() < 2 else 1 if id(p) in across else 0 for p in params)


def _has_units_across(module: nn.Module) -> bool:
    """Whether the output channels lie along the weight's second dimension.

    So it is for transposed convolutions, but for depthwise ones, whose second dimension is 1, and for transformers' `Conv1D`, a
    linear layer with its weight the other way round. That one is known by its name, so that transformers need not be there.
    """
    if isinstance(module, _ConvTransposeNd):
        return module.out_channels > module.groups
    return type(module).__name__ == "Conv1D" and hasattr(module, "nf")


def _add(named: dict[int, str], pairs: Iterable[tuple[str, Tensor]]) -> None:
    for name, param in pairs:
        named.setdefault(id(param), name)


def _owners(params: Sequence[Tensor]) -> list[nn.Module]:
    """Live modules that hold some of the parameters: most first, and of equal ones the innermost."""
    wanted = {id(p) for p in params}
    found: list[tuple[int, int, int, nn.Module]] = []
    for number, thing in enumerate(gc.get_objects()):
        # type(), not isinstance(): a proxy's __class__ may be a property that runs somebody's code
        if issubclass(type(thing), nn.Module) and "_parameters" in getattr(thing, "__dict__", {}):
            held = sum(id(p) in wanted for p in thing.parameters())
            if held:
                found.append((-held, sum(1 for _ in thing.modules()), number, thing))
    return [module for *_, module in sorted(found, key=lambda f: f[:3])]


def _unique(names: Sequence[str]) -> list[str]:
    seen: dict[str, int] = {}
    result: list[str] = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        result.append(name if seen[name] == 1 else f"{name}#{seen[name]}")
    return result
