"""Names for parameters, from wherever they can be had."""

import pytest
import torch
from torch import nn

from steadygrad.names import layout_of, parameter_names


def test_names_from_the_model():
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    optimizer = torch.optim.SGD([{"params": model[1].parameters()}, {"params": model[0].parameters()}], lr=0.1)
    assert parameter_names(optimizer, model) == ["1.weight", "1.bias", "0.weight", "0.bias"]


def test_names_from_the_optimizer():
    model = nn.Linear(2, 3)
    optimizer = torch.optim.SGD([(f"mine.{name}", p) for name, p in model.named_parameters()], lr=0.1)
    assert parameter_names(optimizer) == ["mine.weight", "mine.bias"]


def test_names_are_found_among_live_modules_innermost_first():
    class Wrapper(nn.Module):
        def __init__(self, module):
            super().__init__()
            self.module = module

    wrapped = Wrapper(nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1)))
    optimizer = torch.optim.SGD(wrapped.parameters(), lr=0.1)
    assert parameter_names(optimizer, search=True) == ["0.weight", "0.bias", "1.weight", "1.bias"]


def test_two_models_in_one_optimizer_and_a_loose_parameter():
    a, b, loose = nn.Linear(2, 3), nn.Linear(3, 4), nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([*a.parameters(), *b.parameters(), loose], lr=0.1)
    names = parameter_names(optimizer, search=True)
    assert names == ["weight", "bias", "weight#2", "bias#2", "group0.param4"]


def test_without_anything_names_are_positions():
    params = [nn.Parameter(torch.ones(1)) for _ in range(3)]
    optimizer = torch.optim.SGD([{"params": params[:1]}, {"params": params[1:]}], lr=0.1)
    layout = layout_of(optimizer)
    assert layout.names == ("group0.param0", "group1.param0", "group1.param1")
    assert layout.groups == (0, 1, 1)
    assert layout.dtypes == ("float32",) * 3


def test_a_proxy_among_live_objects_runs_no_code():
    class Proxy:
        @property
        def __class__(self):
            raise RuntimeError("touched")

    proxies = [Proxy()]
    optimizer = torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=0.1)
    assert parameter_names(optimizer, search=True)
    assert len(proxies) == 1


class Conv1D(nn.Module):
    """As in transformers: a linear layer whose weight is (in, out)."""

    def __init__(self, nf, nx):
        super().__init__()
        self.nf = nf
        self.weight = nn.Parameter(torch.ones(nx, nf))
        self.bias = nn.Parameter(torch.ones(nf))


UNITS = [
    (lambda: nn.Linear(2, 3), {"weight": 0, "bias": -1}),
    (lambda: nn.Conv2d(2, 4, 3), {"weight": 0, "bias": -1}),
    (lambda: nn.Embedding(5, 2), {"weight": 0}),
    (lambda: nn.ConvTranspose1d(2, 4, 3), {"weight": 1, "bias": -1}),
    (lambda: nn.ConvTranspose2d(4, 8, 3, groups=2), {"weight": 1, "bias": -1}),
    (lambda: nn.ConvTranspose3d(4, 4, 3, groups=4), {"weight": 0, "bias": -1}),
    (lambda: Conv1D(3, 2), {"weight": 1, "bias": -1}),
    (lambda: nn.LayerNorm(3), {"weight": -1, "bias": -1}),
    (
        lambda: nn.MultiheadAttention(4, 2),
        {"in_proj_weight": 0, "in_proj_bias": -1, "out_proj.weight": 0, "out_proj.bias": -1},
    ),
]


@pytest.mark.parametrize(("make", "expected"), UNITS)
@pytest.mark.parametrize("known", [True, False])
def test_units_lie_along_the_output_channels(make, expected, known):
    model = nn.Sequential(make())
    layout = layout_of(torch.optim.SGD(model.parameters(), lr=0.1), model if known else None)
    assert {n.removeprefix("0."): dim for n, dim in zip(layout.names, layout.unit_dims, strict=True)} == expected


def test_units_of_parameters_that_only_the_optimizer_has_named():
    model = nn.ConvTranspose1d(2, 4, 3)
    named = torch.optim.SGD([(f"mine.{name}", p) for name, p in model.named_parameters()], lr=0.1)
    assert layout_of(named).names == ("mine.weight", "mine.bias")
    assert layout_of(named).unit_dims == (1, -1)
    assert layout_of(torch.optim.SGD([nn.Parameter(torch.ones(2, 3)), nn.Parameter(torch.ones(2))], lr=0.1)).unit_dims == (0, -1)
