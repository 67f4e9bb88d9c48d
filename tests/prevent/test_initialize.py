import math

import pytest
import torch
from torch import nn

from steadygrad.errors import ArgumentError, ArgumentTypeError, UnsupportedError
from steadygrad.prevent import initialize_

METHODS = ["xavier", "he", "orthogonal", "lsuv", "critical"]


def seed(number=0):
    return torch.Generator().manual_seed(number)


def chain(*layers):
    return nn.Sequential(*layers)


def mlp(depth, width, activation=nn.ReLU):
    return chain(*[part for _ in range(depth) for part in (nn.Linear(width, width), activation())])


def copy_of(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(model, before):
    return all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def row(report, name):
    return next(row for row in report.rows if row.name == name)


def test_c1_known_answer():
    model = nn.Linear(300, 100)
    normal = row(initialize_(model, "xavier", generator=seed()), "weight")
    assert normal.std_after == pytest.approx(0.07071, rel=0.02)
    assert normal.gain == 1.0
    initialize_(model, "xavier", distribution="uniform", generator=seed())
    assert 0.999 * 0.12247 < model.weight.abs().max().item() <= 0.122475
    assert model.weight.std().item() == pytest.approx(0.07071, rel=0.02)
    assert not model.bias.any()


def test_c1_known_answer_of_torchs_default():
    """Each layer of torch's own multiplies the mean square by 1/6 before ReLU; the report says so from the weights."""
    torch.manual_seed(0)
    model = mlp(6, 400)
    for part in model[::2]:
        nn.init.zeros_(part.bias)
    x = torch.randn(64, 400, generator=seed(1))
    factor = (model(x).square().mean() / x.square().mean()).item() ** (1 / 6)
    # By Hanin and Rolnick log-lengths fluctuate by sqrt(5 * 6 / 400) = 0.27, which is 0.045 per layer.
    assert factor == pytest.approx(1 / 6, rel=3 * 0.045)
    report = initialize_(model, "he", generator=seed())
    assert "0.167 per layer" in report.notes[0]
    assert "to 1/6 per layer" in report.notes[0]


def test_c2_known_answer_the_mean_square_is_kept_in_expectation():
    model, x, ratios = mlp(4, 200), torch.randn(8, 200, generator=seed(99)), []
    for number in range(40):
        initialize_(model, "he", generator=seed(number))
        ratios.append((model(x).square().mean() / x.square().mean()).item())
    spread = math.sqrt((1 + 5 / 200) ** 4 - 1)
    assert sum(ratios) / 40 == pytest.approx(1.0, abs=3 * spread / math.sqrt(40))


@pytest.mark.parametrize(("mode", "fan"), [("fan_in", 200), ("fan_out", 100)])
def test_c2_known_answer(mode, fan):
    model = chain(nn.Linear(200, 100), nn.LeakyReLU(0.2))
    report = initialize_(model, "he", mode=mode, generator=seed())
    assert row(report, "0.weight").std_after == pytest.approx(math.sqrt(2 / (1 + 0.2**2) / fan), rel=0.02)
    assert row(report, "0.weight").gain == pytest.approx(torch.nn.init.calculate_gain("leaky_relu", 0.2))


def test_c2_lengths_fluctuate_in_thin_networks():
    assert any("sum of 1 / width is 1.25" in note for note in initialize_(mlp(10, 8), "he").notes)
    assert len(initialize_(mlp(10, 12), "he").notes) == 1


def test_c3_known_answer():
    model = chain(nn.Linear(8, 5), nn.ReLU(), nn.Linear(5, 9), nn.Conv1d(4, 6, 3, groups=2))
    initialize_(model, "orthogonal", generator=seed())
    torch.testing.assert_close(model[0].weight @ model[0].weight.T, 2 * torch.eye(5), atol=1e-6, rtol=0)
    torch.testing.assert_close(model[2].weight.T @ model[2].weight, torch.eye(5), atol=1e-6, rtol=0)
    for group in model[3].weight.reshape(2, 3, 6):
        torch.testing.assert_close(group @ group.T, torch.eye(3), atol=1e-6, rtol=0)


def test_c3_known_answer_fifty_linear_layers_keep_the_norm():
    model = chain(*[nn.Linear(20, 20) for _ in range(50)])
    initialize_(model, "orthogonal", generator=seed())
    x = torch.randn(3, 20, generator=seed(1))
    torch.testing.assert_close(model(x).norm(dim=1), x.norm(dim=1), rtol=1e-5, atol=0)


def test_c3_orthogonal_matrices_have_no_preferred_sign():
    """Without the sign fix the diagonal of Q leans to one side: Householder's R has a negative diagonal."""
    model = chain(*[nn.Linear(3, 3, bias=False) for _ in range(300)])
    initialize_(model, "orthogonal", generator=seed())
    first = torch.stack([part.weight[0, 0] for part in model])
    assert abs((first > 0).float().mean().item() - 0.5) < 0.1


def test_orthogonal_tanh_networks_stay_critical():
    assert row(initialize_(chain(nn.Linear(4, 4), nn.Tanh()), "orthogonal"), "0.weight").gain == 1.0
    assert row(initialize_(chain(nn.Linear(4, 4), nn.Tanh()), "xavier"), "0.weight").gain == 5 / 3


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
@pytest.mark.parametrize("kernel", [3, 4])
@pytest.mark.parametrize("dims", [1, 2, 3])
def test_c8_known_answer(dims, kernel):
    conv = [nn.Conv1d, nn.Conv2d, nn.Conv3d][dims - 1](3, 5, kernel, padding="same", bias=False)
    initialize_(conv, "delta_orthogonal", generator=seed())
    x = torch.randn(2, 3, *[6] * dims, generator=seed(1))
    assert conv(x).norm().item() == pytest.approx(x.norm().item(), rel=1e-6)
    assert int((conv.weight != 0).sum()) == 15


def test_c8_more_inputs_than_outputs_are_refused_and_nothing_changes():
    model = chain(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 2, 3))
    before = copy_of(model)
    with pytest.raises(ArgumentError, match=r"4 inputs and 2 outputs in '1\.weight'") as caught:
        initialize_(model, "delta_orthogonal")
    assert caught.value.slug == "init-shape"
    assert same(model, before)
    with pytest.raises(ArgumentError, match="take 'orthogonal'"):
        initialize_(nn.Linear(2, 3), "delta_orthogonal")
    report = initialize_(chain(nn.Conv2d(3, 4, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(16, 2)), "delta_orthogonal")
    assert row(report, "0.weight").why == "relu follows; lengths are not kept at this stride"


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(8, 16, 3, padding=1, padding_mode="circular", groups=2),
        nn.ConvTranspose2d(8, 16, 4, stride=2, padding=1),
        nn.ConvTranspose1d(12, 8, 3, padding=1, groups=2),
        nn.Conv3d(4, 8, 3, padding=1, padding_mode="circular"),
    ],
    ids=["grouped", "transposed", "transposed-grouped", "3d"],
)
@pytest.mark.parametrize("method", ["he", "orthogonal"])
def test_convolutions_keep_the_mean_square(layer, method):
    dims = layer.weight.dim() - 2
    initialize_(chain(layer), method, gain=1.0, generator=seed())
    x = torch.randn(16, layer.in_channels, *[12] * dims, generator=seed(1))
    inner = (..., *[slice(3, -3)] * dims)
    strided = math.prod(layer.stride) if method == "orthogonal" else 1  # rows of length 1, of which an output meets a part
    assert layer(x)[inner].square().mean().item() * strided == pytest.approx(1.0, rel=0.12)


def test_c4_known_answer():
    source = seed()
    model = chain(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.Tanh(), nn.Dropout(), nn.Flatten())
    model = chain(model, nn.Linear(128, 10))
    model.train()
    data = 50.0 * torch.randn(16, 3, 8, 8, generator=source)
    buffers = {name: value.clone() for name, value in model.named_buffers()}
    report = initialize_(model, "lsuv", data=data, generator=source)
    assert all(module.training for module in model.modules())
    assert all(torch.equal(value, buffers[name]) for name, value in model.named_buffers())
    outputs = []
    for part in (model[0][0], model[0][3], model[1]):
        part.register_forward_hook(lambda _m, _i, output: outputs.append(output.std(correction=0).item()))
    model.eval()(data)
    assert outputs == pytest.approx([1.0, 1.0, 1.0], rel=1e-3)
    assert "output std was" in row(report, "0.0.weight").why


def test_c4_all_ways_to_pass_data():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3, 4)

        def forward(self, a, b):
            return self.layer(a + b)

    a, b = torch.randn(2, 50, 3, generator=seed()).unbind()
    for data in ((a, b), [a, b], {"a": a, "b": b}):
        model = Two()
        initialize_(model, "lsuv", data=data)
        assert model(a, b).std(correction=0).item() == pytest.approx(1.0, rel=1e-4)
    with pytest.raises(ArgumentTypeError) as caught:
        initialize_(Two(), "lsuv", data=3)
    assert caught.value.slug == "init-data"


def test_c4_a_shared_layer_is_scaled_once_and_dead_and_unreached_layers_are_left():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.shared, self.dead, self.aside = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 6)

        def forward(self, x):
            return self.shared(torch.relu(self.shared(x))) + self.dead(torch.zeros_like(x))

    model, x = Odd(), torch.randn(30, 6, generator=seed())
    report = initialize_(model, "lsuv", data=x)
    assert model.shared(x).std(correction=0).item() == pytest.approx(1.0, rel=1e-4)
    for part in (model.dead, model.aside):
        torch.testing.assert_close(part.weight @ part.weight.T, torch.eye(6), atol=1e-5, rtol=0)
    assert [row(report, f"{name}.weight").why for name in ("dead", "aside")] == [
        "orthogonal; the output is constant",
        "orthogonal; the data did not reach it",
    ]
    assert not model.shared._forward_hooks


def test_c4_a_frozen_bias_stays_and_the_rest_is_scaled():
    model = chain(nn.Linear(5, 7), nn.Conv1d(1, 3, 2))
    for part in model:
        part.bias.requires_grad_(False).fill_(4.0)
    x = torch.randn(40, 1, 5, generator=seed())
    initialize_(model, "lsuv", data=x)
    hidden = model[0](x)
    assert (hidden - 4.0).std(correction=0).item() == pytest.approx(1.0, rel=1e-4)
    assert (model(x) - 4.0).std(correction=0).item() == pytest.approx(1.0, rel=1e-4)
    assert all(part.bias.eq(4.0).all() for part in model)


@pytest.mark.parametrize("data", [torch.full((4, 3), math.nan), torch.zeros(4, 9), torch.zeros(1, 3)])
def test_c4_data_that_fails_leaves_everything_as_it_was(data):
    model = chain(nn.Linear(3, 1), nn.ReLU(), nn.Linear(1, 2)).train()
    before = copy_of(model)
    with pytest.raises((ArgumentError, RuntimeError)):
        initialize_(model, "lsuv", data=data)
    assert same(model, before)
    assert model.training
    assert not any(part._forward_hooks for part in model)


class Residual(nn.Module):
    def __init__(self, blocks=16, width=8, m=2):
        super().__init__()
        self.stem = nn.Linear(width, width)
        parts = [[part for _ in range(m) for part in (nn.Linear(width, width), nn.ReLU())][:-1] for _ in range(blocks)]
        self.blocks = nn.ModuleList(chain(*layers) for layers in parts)
        self.head = nn.Linear(width, 3)

    def forward(self, x):
        x = self.stem(x)
        for block in self.blocks:
            x = x + block(x)
        return self.head(x)


def test_c5_known_answer():
    model = Residual(16, 64)
    report = initialize_(model, "fixup", branches=[f"blocks.{i}" for i in range(16)], generator=seed())
    assert row(report, "blocks.3.0.weight").gain == pytest.approx(0.25 * math.sqrt(2))
    assert row(report, "blocks.3.0.weight").std_after == pytest.approx(0.25 * math.sqrt(2 / 64), rel=0.05)
    assert row(report, "stem.weight").std_after == pytest.approx(math.sqrt(2 / 64), rel=0.05)
    x = torch.randn(5, 64, generator=seed())
    assert not model(x).any()
    block = model.blocks[3]
    jacobian = torch.autograd.functional.jacobian(lambda x: x + block(x), x[0])
    assert torch.equal(jacobian, torch.eye(64))


def test_c5_other_depths_modules_and_classifiers():
    model = Residual(4, 8, 3)
    report = initialize_(model, "fixup", branches=list(model.blocks), classifier="stem")
    assert row(report, "blocks.0.2.weight").gain == pytest.approx(math.sqrt(2) * 4 ** (-1 / 4))
    assert row(report, "stem.weight").why == "classifier"
    assert row(report, "head.weight").std_after > 0
    single = Residual(3, 8, 1)
    initialize_(single, "fixup", branches=list(single.blocks))
    assert not any(block[0].weight.any() for block in single.blocks)


@pytest.mark.parametrize(
    "branches",
    [None, [], "blocks.0", ["blocks.99"], [nn.Linear(2, 2)], ["blocks.0", "blocks"], ["blocks.0.1"], ["blocks.1", "blocks.2"]],
)
def test_c5_branches_that_are_none(branches):
    model = Residual()
    model.blocks[2][0].weight = model.blocks[1][0].weight
    before = copy_of(model)
    with pytest.raises(ArgumentError) as caught:
        initialize_(model, "fixup", branches=branches)
    assert caught.value.slug == "init-branches"
    assert same(model, before)


def test_c7_known_answer_of_a_network():
    model = mlp(3, 300, nn.Tanh)
    report = initialize_(model, "critical", q=1 / 16, generator=seed())
    assert row(report, "2.weight").std_after == pytest.approx(math.sqrt(1.11538 / 300), rel=0.02)
    assert row(report, "2.bias").std_after == pytest.approx(math.sqrt(2.369e-4), rel=0.2)
    relu = initialize_(mlp(3, 100), "critical", generator=seed())
    assert row(relu, "0.weight").gain == pytest.approx(math.sqrt(2))
    assert row(relu, "0.bias").std_after == 0.0
    assert "drift away" in row(initialize_(mlp(3, 4, nn.GELU), "critical", q=1.0), "0.weight").why


def test_c7_a_deep_tanh_network_keeps_length_and_gradient():
    model = mlp(30, 256, nn.Tanh).double()
    initialize_(model, "critical", q=1 / 16, generator=seed())
    x = (0.25 * torch.randn(8, 256, dtype=torch.float64, generator=seed(1))).atanh().requires_grad_()
    kept = []
    for part in model[2::2]:
        part.register_full_backward_hook(lambda _m, _i, grad: kept.append(grad[0].norm().item()))
    hidden = model[:-1](x)
    assert hidden.square().mean().item() == pytest.approx(1 / 16, rel=0.25)
    hidden.sum().backward()
    assert 0.3 < kept[-1] / kept[0] < 3.0


def test_c7_needs_one_activation():
    model = chain(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 3), nn.Tanh())
    with pytest.raises(ArgumentError, match="relu, tanh") as caught:
        initialize_(model, "critical")
    assert caught.value.slug == "init-activation"
    assert "tanh is critical" in row(initialize_(model, "critical", activation="tanh"), "0.weight").why


def test_the_activation_that_follows():
    inner = chain(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout())
    model = chain(inner, nn.ReLU(), nn.Linear(4, 4), chain(nn.Tanh()), nn.Linear(4, 4), nn.Linear(4, 4), nn.Hardswish())
    reasons = [r.why for r in initialize_(model, "xavier").rows if r.gain]
    unknown = "nothing tells what follows; `activation` does"
    assert reasons == ["relu follows", "tanh follows", "no activation follows", unknown]
    assert row(initialize_(model, "he", activation="gelu"), "5.weight").why == "gelu as given: keeps the mean square"
    assert row(initialize_(model, "he"), "5.weight").gain == pytest.approx(math.sqrt(2))
    assert row(initialize_(Residual(1), "he"), "head.weight").why.startswith("relu assumed")
    assert row(initialize_(model, "he", gain=0.5), "0.0.weight").gain == 0.5


def test_one_activation_object_may_stand_in_several_places():
    relu = nn.ReLU()
    report = initialize_(chain(nn.Linear(2, 2), relu, nn.Linear(2, 2), relu), "xavier")
    assert [r.why for r in report.rows if r.gain] == ["relu follows"] * 2


def test_a_sequential_with_a_forward_of_its_own_tells_nothing():
    class Reversed(nn.Sequential):
        def forward(self, x):
            return self[0](self[1](x))

    report = initialize_(Reversed(nn.Linear(2, 2), nn.ReLU()), "xavier")
    assert row(report, "0.weight").why == "nothing tells what follows; `activation` does"


@pytest.mark.parametrize("method", METHODS)
def test_tied_frozen_and_foreign_parameters(method):
    model = chain(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6), nn.LayerNorm(6), nn.Linear(6, 6), nn.Bilinear(6, 6, 6))
    model[2].weight = model[0].weight
    model[4].weight.requires_grad_(False)
    model.forward = lambda x: nn.Sequential.forward(model[:5], x)
    before = copy_of(model)
    extra = {"data": torch.randn(20, 6)} if method == "lsuv" else {}
    report = initialize_(model, method, generator=seed(), **extra)
    assert [r.name for r in report.rows] == ["0.weight", "0.bias", "4.weight", "5.weight"]
    assert [r.why.startswith("left as it is") for r in report.rows] == [False, False, True, True]
    assert torch.equal(model[4].weight, before["4.weight"])
    assert torch.equal(model[5].weight, before["5.weight"])
    assert not torch.equal(model[0].weight, before["0.weight"])


def test_a_computed_weight_is_left():
    model = chain(nn.Linear(3, 3), torch.nn.utils.parametrizations.weight_norm(nn.Linear(3, 3)))
    before = copy_of(model[1])
    report = initialize_(model, "he")
    assert same(model[1], before)
    assert any("computed" in r.why for r in report.rows)


def test_the_report_is_a_table():
    text = str(initialize_(chain(nn.Linear(3, 4), nn.ReLU()), "he", generator=seed()))
    lines = text.splitlines()
    assert lines[0] == "initialisation: he"
    assert lines[1].split() == ["parameter", "shape", "std", "before", "std", "after", "gain", "why"]
    assert lines[2].split()[:2] == ["0.weight", "4x3"]
    assert lines[2].endswith("1.414  relu follows")
    assert lines[1].index("why") == lines[2].index("relu") == lines[3].index("zero")
    assert lines[4].startswith("torch's default for nn.Linear")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("method", ["xavier", "he", "orthogonal", "critical"])
def test_other_types_and_repeatability(method, dtype):
    models = [chain(nn.Linear(40, 30), nn.ReLU()).to(dtype) for _ in range(2)]
    reports = [initialize_(model, method, generator=seed(7)) for model in models]
    assert torch.equal(models[0][0].weight, models[1][0].weight)
    assert models[0][0].weight.dtype == dtype
    assert row(reports[0], "0.weight").std_after > 0.1


def test_without_a_generator_torchs_own_is_used():
    model = nn.Linear(3, 3)
    torch.manual_seed(5)
    initialize_(model, "he")
    first = model.weight.clone()
    torch.manual_seed(5)
    initialize_(model, "he")
    assert torch.equal(model.weight, first)


@pytest.mark.parametrize(
    ("model", "method", "extra", "slug"),
    [
        (nn.Linear(2, 2), "kaiming", {}, "init-method"),
        (nn.Linear(2, 2), "he", {"data": torch.zeros(1)}, "init-argument"),
        (nn.Linear(2, 2), "critical", {"gain": 2.0}, "init-argument"),
        (nn.Linear(2, 2), "lsuv", {}, "init-data"),
        (nn.Linear(2, 2), "lsuv", {"data": torch.ones(2, 2), "activation": "relu"}, "init-argument"),
        (nn.Linear(2, 2), "he", {"activation": "swish"}, "init-activation"),
        (nn.Linear(2, 2), "he", {"gain": 0.0}, "threshold-invalid"),
        (nn.Linear(2, 2), "he", {"mode": "in"}, "threshold-invalid"),
        (nn.Linear(2, 2), "critical", {"activation": "sigmoid"}, "no-critical-point"),
        (nn.ReLU(), "he", {}, "init-layers"),
        (nn.LazyLinear(2), "he", {}, "parameter-lazy"),
        (nn.Linear(2, 2, device="meta"), "he", {}, "parameter-meta"),
    ],
)
def test_what_is_refused_changes_nothing(model, method, extra, slug):
    whole = chain(nn.Linear(2, 2), model) if slug.startswith("parameter") else model
    first = [p for p in whole.parameters() if p.device.type == "cpu" and not torch.nn.parameter.is_lazy(p)]
    before = [p.detach().clone() for p in first]
    with pytest.raises(ArgumentError) as caught:
        initialize_(whole, method, **extra)
    assert caught.value.slug == slug
    assert all(torch.equal(a, b) for a, b in zip(first, before, strict=True))


def test_kinds_of_arguments():
    for args, extra in (((torch.zeros(2), "he"), {}), ((nn.Linear(2, 2), "he"), {"generator": 3})):
        with pytest.raises(ArgumentTypeError) as caught:
            initialize_(*args, **extra)
        assert caught.value.slug == "argument-type"


def test_sharded_parameters_are_refused():
    model = nn.Linear(2, 2)
    model.weight.placements = ()
    with pytest.raises(UnsupportedError) as caught:
        initialize_(model, "he")
    assert caught.value.slug == "parameter-sharded"
