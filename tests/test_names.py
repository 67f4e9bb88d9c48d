"""Names for parameters, from wherever they can be had."""

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
