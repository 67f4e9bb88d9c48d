"""Names for an optimizer's parameters: from the model, from the optimizer, or found among the live modules."""

from __future__ import annotations

import gc
from collections.abc import Iterable, Sequence

from torch import Tensor, nn
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
    named = dict[int, str]()
    if model is not None:
        _add(named, model.named_parameters())
    for group in optimizer.param_groups:
        _add(named, zip(group.get("param_names", ()), group["params"], strict=False))
    if search and any(id(p) not in named for p in params):
        for module in _owners(params):
            _add(named, module.named_parameters())
    positions = [(g, i) for g, group in enumerate(optimizer.param_groups) for i in range(len(group["params"]))]
    return _unique([named.get(id(p), f"group{g}.param{i}") for p, (g, i) in zip(params, positions, strict=True)])


def layout_of(optimizer: Optimizer, model: nn.Module | None = None) -> Layout:
    """Names, groups, shapes and dtypes of an optimizer's parameters; names are searched for where there is no model."""
    params = [p for group in optimizer.param_groups for p in group["params"]]
    return Layout(
        names=tuple(parameter_names(optimizer, model, search=model is None)),
        groups=tuple(i for i, group in enumerate(optimizer.param_groups) for _ in group["params"]),
        shapes=tuple(tuple(p.shape) for p in params),
        dtypes=tuple(str(p.dtype).removeprefix("torch.") for p in params),
    )


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
