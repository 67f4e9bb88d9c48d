"""Initialise a model's weights, and say what was done.

The methods are in files of their own, with their papers: `schemes`, `critical`, `lsuv`, `fixup`. Here they are chosen, applied to
each layer in the order of the modules, and undone as a whole should anything fail.
"""

from __future__ import annotations

# Where torch is not annotated:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from steadygrad.checks import one_of, positive, show
from steadygrad.errors import ArgumentError, ArgumentTypeError
from steadygrad.prevent.activations import activation_named
from steadygrad.prevent.fixup import Part
from steadygrad.prevent.layers import Found, layers_of
from steadygrad.prevent.lsuv import scale_by_data
from steadygrad.prevent.notes import notes_on
from steadygrad.prevent.plans import Plan, Wish, plans_for
from steadygrad.prevent.schemes import Draw
from steadygrad.prevent.summary import InitReport, InitRow

METHODS = ("xavier", "he", "orthogonal", "delta_orthogonal", "lsuv", "fixup", "critical")
_OWN = {
    "activation": tuple(method for method in METHODS if method != "lsuv"),
    "branches": ("fixup",),
    "classifier": ("fixup",),
    "data": ("lsuv",),
    "distribution": ("xavier", "he"),
    "gain": ("xavier", "he", "orthogonal", "delta_orthogonal"),
    "mode": ("he",),
    "q": ("critical",),
}


def initialize_(
    model: nn.Module,
    method: str,
    *,
    activation: str | None = None,
    gain: float | None = None,
    distribution: str | None = None,
    mode: str | None = None,
    data: Any = None,
    q: float | None = None,
    branches: Sequence[Part] | None = None,
    classifier: Part | None = None,
    generator: torch.Generator | None = None,
) -> InitReport:
    """Initialise the linear and convolutional layers of a model in place.

    With ``a`` the gain of the activation that follows a layer, the standard deviation or form of its weight is

    - "xavier": ``a * sqrt(2 / (fan_in + fan_out))``;
    - "he": ``a / sqrt(fan)``, which is ``sqrt(2 / fan_in)`` before ReLU;
    - "orthogonal": ``W W^T = a^2 I``; for tanh and its kin ``a`` is 1, at which deep networks are critical;
    - "delta_orthogonal": for convolutions the same at the centre of a kernel that is zero elsewhere; keeps lengths at stride 1;
    - "lsuv": orthogonal, then divided by the standard deviation of the layer's output for ``data``;
    - "fixup": "he" for residual networks, with the last layer of each branch and the classifier zero, other layers of the L
      branches of m layers times ``L^(-1/(2m - 2))``;
    - "critical": ``sqrt(sw2 / fan_in)``, and biases of variance ``sb2``, with `critical_point` of ``q``.

    Biases become zero, but for "critical". ``nn.Sequential`` tells which activation follows; elsewhere it is ``activation``, and
    without that none, or ReLU for "he" and "fixup". Layers are ``nn.Linear`` and convolutions, transposed ones too. Tied weights
    are initialised once; frozen ones and those of other modules are left as they are and reported. Needs memory for a second copy
    of the weights while it runs. On several processes give each the same generator seed and data, or broadcast afterwards.

    Args:
        model: the model, with its parameters in memory and whole.
        method: one of the names above.
        activation: name of the activation ("relu", "leaky_relu", "tanh", "gelu" …) wherever ``nn.Sequential`` does not tell; for
            "critical" that of the whole network.
        gain: the gain of every layer, > 0, instead of the activation's.
        distribution: "normal" (so without it) or "uniform", for "xavier" and "he".
        mode: "fan_in" (so without it) keeps the signal, "fan_out" the gradient; for "he".
        data: a batch for "lsuv": a tensor, a tuple of positional or a dictionary of named arguments of the model.
        q: mean square of the activations' inputs for "critical", > 0; without it 1 / number of layers.
        branches: residual branches for "fixup", without their skip connections, as module names or modules; which layer of
            one is the last goes by the order of its modules.
        classifier: the layer that "fixup" sets to zero; without it the last layer, if that is linear and in no branch.
        generator: source of the random numbers; without it torch's own.

    Returns:
        A report with a row per parameter; it prints as a table.

    Raises:
        ArgumentError: the method is unknown or was given another's argument, the model has no layer for it, or see the slugs
            ``init-...`` and ``parameter-...``. Nothing has changed then.
        ArgumentTypeError: an argument is of another kind.
        UnsupportedError: a parameter is spread over several processes.

    Example:
        >>> model = nn.Sequential(nn.Linear(300, 100), nn.ReLU(), nn.Linear(100, 10))
        >>> report = initialize_(model, "he", generator=torch.Generator().manual_seed(0))
        >>> [(row.name, row.why) for row in report.rows if row.gain]
        [('0.weight', 'relu follows'), ('2.weight', 'no activation follows')]

    Reference:
        He, Zhang, Ren, Sun, "Delving Deep into Rectifiers", 2015, https://arxiv.org/abs/1502.01852; Glorot, Bengio, 2010,
        https://proceedings.mlr.press/v9/glorot10a.html; Saxe et al., 2014, https://arxiv.org/abs/1312.6120; Xiao et al., 2018,
        https://arxiv.org/abs/1806.05393; Mishkin, Matas, 2016, https://arxiv.org/abs/1511.06422; Zhang et al., 2019,
        https://arxiv.org/abs/1901.09321; Schoenholz et al., 2017, https://arxiv.org/abs/1611.01232
    """
    call = "initialize_"
    own = {"activation": activation, "data": data, "q": q, "branches": branches, "classifier": classifier, "mode": mode}
    _check(call, model, method, {**own, "distribution": distribution, "gain": gain}, generator)
    wish = Wish(
        method,
        None if activation is None else activation_named(call, activation),
        None if gain is None else positive(call, "gain", gain),
        one_of(call, "distribution", distribution or "normal", ("normal", "uniform")) == "uniform",
        one_of(call, "mode", mode or "fan_in", ("fan_in", "fan_out")),
        None if q is None else positive(call, "q", q),
        branches,
        classifier,
    )
    found = layers_of(call, model)
    plans = plans_for(call, model, found, wish)
    return _carry_out(call, model, found, plans, wish, Draw(generator), data)


def _check(call: str, model: Any, method: str, given: dict[str, Any], generator: Any) -> None:
    if not isinstance(model, nn.Module):
        raise ArgumentTypeError(f"`{call}` expected an `nn.Module`, got {type(model).__name__}", slug="argument-type")
    if method not in METHODS:
        raise ArgumentError(
            f"`{call}` expected `method` to be one of {', '.join(map(repr, METHODS))}, got {show(method)}", slug="init-method"
        )
    for name, value in given.items():
        if value is not None and method not in _OWN[name]:
            fitting = ", ".join(map(repr, _OWN[name]))
            raise ArgumentError(f"`{call}` expected `{name}` with {fitting} only, got it with {method!r}", slug="init-argument")
    if method == "lsuv" and given["data"] is None:
        raise ArgumentError(
            f"`{call}` expected `data` for 'lsuv': a batch like those to train on; without data take 'orthogonal'",
            slug="init-data",
        )
    if generator is not None and not isinstance(generator, torch.Generator):
        raise ArgumentTypeError(f"`{call}` expected a `torch.Generator`, got {show(generator)}", slug="argument-type")


def _carry_out(call: str, model: nn.Module, found: Found, plans: Sequence[Plan], wish: Wish, draw: Draw, data: Any) -> InitReport:
    """Write the plans; put everything back if that fails."""
    params = {plan.layer.name: plan.layer.weight for plan in plans}
    params |= {plan.layer.bias_name: plan.layer.bias for plan in plans if plan.layer.bias is not None}
    before = {name: param.detach().clone() for name, param in params.items()}
    whole = False
    try:
        with torch.no_grad():
            for plan in plans:
                plan.write(draw)
            reasons = scale_by_data(call, model, found.layers, data) if wish.method == "lsuv" else {}
        whole = True
    finally:
        if not whole:
            with torch.no_grad():
                for name, param in params.items():
                    param.copy_(before[name])
    rows = [row for plan in plans for row in _rows(plan, before, reasons)]
    rows += [InitRow(name, tuple(p.shape), s := spread(p), s, None, f"left as it is: {why}") for name, p, why in found.left]
    return InitReport(wish.method, tuple(rows), notes_on(plans, before))


def _rows(plan: Plan, before: dict[str, Tensor], reasons: dict[str, str]) -> list[InitRow]:
    layer, name = plan.layer, plan.layer.name
    why = reasons.get(name, plan.why)
    rows = [InitRow(name, tuple(layer.weight.shape), spread(before[name]), spread(layer.weight), plan.gain, why)]
    if layer.bias is not None:
        name, said = layer.bias_name, f"variance {plan.bias_std**2:.4g}" if plan.bias_std else "zero"
        rows.append(InitRow(name, tuple(layer.bias.shape), spread(before[name]), spread(layer.bias), None, said))
    return rows


def spread(tensor: Tensor) -> float:
    """The standard deviation of a tensor's elements; 0 for none."""
    if tensor.numel() == 0 or not tensor.is_floating_point():
        return 0.0
    return float(tensor.detach().to(torch.promote_types(tensor.dtype, torch.float32)).std(correction=0))
