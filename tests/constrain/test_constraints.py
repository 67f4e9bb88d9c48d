"""What holds for every constraint, whatever the numbers."""

import copy
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import steadygrad as sg
from steadygrad.errors import ArgumentError, ArgumentTypeError, UnsupportedError

TEXTS = [
    "limit_update_ratio(0.001)",
    "lamb()",
    "max_norm_weights(0.5)",
    "spectral_bound(0.5)",
    "proximal_l1(0.01)",
    "decoupled_l2(0.01)",
    "decoupled_l2(0.01, fully=True)",
]
BOUNDS = ["limit_update_ratio(1e6)", "max_norm_weights(1e6)", "spectral_bound(1e6)"]
each = pytest.mark.parametrize("text", TEXTS)
elements = (
    st.floats(-(2.0**100), 2.0**100, width=32) | st.floats(-2.0, 2.0, width=32) | st.sampled_from([0.0, -0.0, 1e-30, -1e30])
)
matrices = st.tuples(st.integers(1, 3), st.integers(1, 3)).flatmap(
    lambda shape: st.tuples(*[st.lists(elements, min_size=shape[0] * shape[1], max_size=shape[0] * shape[1])] * 2).map(
        lambda pair: [torch.tensor(values, dtype=torch.float32).view(shape) for values in pair]
    )
)


def bits(tensor):
    """The bytes of a tensor's elements; NaN compares equal to itself."""
    return tensor.detach().reshape(-1).view(torch.uint8).numpy().tobytes()


@each
@given(matrices)
def test_finite_stays_finite(text, harness, pair):
    before, after = pair
    result = harness(sg.parse_policy(text))(after.clone(), before, lr=0.1)
    assert torch.isfinite(result).all()


@pytest.mark.parametrize("text", BOUNDS)
@given(matrices)
def test_within_the_bound_every_bit_stays(text, harness, pair):
    small = [values.clamp(-2, 2) for values in pair]
    result = harness(sg.parse_policy(text))(small[1].clone(), small[0], lr=0.1)
    assert bits(result) == bits(small[1])


@each
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_left_alone_and_does_not_spread(text, bad, harness):
    before, after = torch.full((2, 2), 3.0), torch.full((2, 2), 9.0)
    before[0, 0] = after[0, 0] = bad
    run = harness(sg.parse_policy(text))
    run(torch.full((2, 2), 2.0), torch.ones(2, 2), lr=0.1)
    memory = {key: value.clone() for key, value in run.memory.items()}
    result = run(after.clone(), before, lr=0.1)
    assert bits(result[0, 0]) == bits(after[0, 0])
    assert torch.isfinite(result.view(-1)[1:]).all()
    assert run.memory.keys() == memory.keys()
    assert all(bits(run.memory[key]) == bits(memory[key]) for key in memory)


@each
@pytest.mark.parametrize("shape", [(), (0,), (0, 3), (3, 0), (1,), (2,), (1, 1), (2, 3), (2, 3, 2, 2)])
def test_every_shape(text, shape, harness):
    result = harness(sg.parse_policy(text))(torch.full(shape, 2.0), torch.ones(shape), lr=0.1)
    assert result.shape == shape
    assert torch.isfinite(result).all()


@each
def test_zeros_stay_zeros(text, harness):
    assert not harness(sg.parse_policy(text))(torch.zeros(2, 2), torch.zeros(2, 2), lr=0.1).any()


@each
@pytest.mark.parametrize(("dtype", "digits"), [(torch.bfloat16, 2.0**-8), (torch.float16, 2.0**-11), (torch.float64, 1e-6)])
def test_other_types_compute_in_float32_or_wider(text, dtype, digits, harness):
    torch.manual_seed(1)
    before = torch.randn(30, 40).to(dtype)
    after = (before + torch.randn(30, 40)).to(dtype)
    result = harness(sg.parse_policy(text))(after.clone(), before, lr=0.1)
    expected = harness(sg.parse_policy(text))(after.double(), before.double(), lr=0.1)
    assert result.dtype is dtype
    torch.testing.assert_close(result.double(), expected, rtol=digits, atol=1e-6)


@each
def test_a_learning_rate_may_be_a_tensor(text, harness):
    before, after = torch.randn(4, 4), torch.randn(4, 4)
    policy = sg.parse_policy(text)
    as_tensor = harness(policy)(after.clone(), before, lr=torch.tensor(0.1))
    torch.testing.assert_close(as_tensor, harness(policy)(after.clone(), before, lr=0.1), rtol=1e-6, atol=0)


@each
def test_the_text_comes_back_and_the_gradient_is_left_alone(text):
    policy = sg.parse_policy(text)
    assert sg.parse_policy(policy.text).text == policy.text
    readings = sg.Readings(sg.Layout(("a",)), np, np.array([1.0]))
    assert policy.decide(readings, policy.init(readings)) == (sg.Decision(), {})
    assert not policy.needs
    assert not policy.rewrites


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("limit_update_ratio(0.01)", "limit_update_ratio()"),
        ("limit_update_ratio(0.02, floor=1)", "limit_update_ratio(0.02, floor=1.0)"),
        ("lamb(max_norm=10)", "lamb(max_norm=10.0)"),
        ("lars(0.001)", "lars()"),
        ("larc(0.02, eps=0)", "larc(eps=0.0)"),
        ("max_norm_weights(3, dim=1)", "max_norm_weights(dim=1)"),
        ("max_norm_weights(4, dim=-1)", "max_norm_weights(4.0, dim=-1)"),
        ("spectral_bound(1.0, iterations=3)", "spectral_bound(iterations=3)"),
        ("proximal_l1(1)", "proximal_l1(1.0)"),
        ("decoupled_l2(1, fully=False)", "decoupled_l2(1.0)"),
    ],
)
def test_canonical_texts(text, canonical):
    policy = sg.parse_policy(text)
    assert policy.text == canonical
    assert sg.parse_policy(canonical).text == canonical


@pytest.mark.parametrize(
    "text",
    [
        "limit_update_ratio(0)",
        "limit_update_ratio(nan)",
        "limit_update_ratio(floor=0)",
        "lamb(min_norm=2, max_norm=1)",
        "lamb(min_norm=-1)",
        "lars(0)",
        "lars(inf)",
        "lars(eps=-1)",
        "larc(-1)",
        "max_norm_weights(0)",
        "max_norm_weights(dim=0.5)",
        "spectral_bound(iterations=0)",
        "spectral_bound(iterations=1.5)",
        "proximal_l1(inf)",
        "proximal_l1(0)",
        "decoupled_l2(-1)",
        "decoupled_l2(0.1, fully=1)",
        "decoupled_l2('a')",
    ],
)
def test_numbers_that_cannot_work_are_refused(text):
    with pytest.raises((ArgumentError, ArgumentTypeError), match="threshold-invalid"):
        sg.parse_policy(text)


@pytest.mark.parametrize("text", ["spectral_bound()", "proximal_l1(0.1)"])
def test_complex_parameters_are_refused_where_they_have_no_meaning(text, harness):
    with pytest.raises(UnsupportedError, match="complex-constraint"):
        harness(sg.parse_policy(text))(torch.ones(2, 2, dtype=torch.complex64), lr=0.1)


@pytest.mark.parametrize("text", ["limit_update_ratio(0.1)", "lamb()", "max_norm_weights(0.5)", "decoupled_l2(0.1)"])
def test_a_complex_parameter_is_its_real_and_imaginary_part(text, harness):
    before, after = torch.randn(3, 2, dtype=torch.complex128), torch.randn(3, 2, dtype=torch.complex128)
    run = harness(sg.parse_policy(text))
    result = run(after.clone(), before, lr=0.1)
    parts = run(torch.view_as_real(after).clone(), torch.view_as_real(before), lr=0.1)
    torch.testing.assert_close(torch.view_as_real(result), parts, rtol=1e-12, atol=0)


def model():
    """A small network, always the same."""
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))


def trained(policy, make, steps=6, state=None, skip=()):
    """Parameters after some guarded steps, and the states of optimizer and guard."""
    net = model()
    optimizer = make(net.parameters())
    guard = None if policy is None else sg.Guard(optimizer, policy, model=net)
    start = 0
    if state is not None:
        net.load_state_dict(state[0])
        optimizer.load_state_dict(state[1])
        guard.load_state_dict(state[2])
        start = state[3]
    for step in range(start, steps):
        torch.manual_seed(step)
        optimizer.zero_grad()
        net(torch.randn(5, 4)).square().sum().backward()
        if step in skip:
            net[0].weight.grad[0, 0] = math.nan
        optimizer.step()
    kept = None if guard is None else [copy.deepcopy(x.state_dict()) for x in (net, optimizer, guard)]
    return torch.cat([p.detach().flatten() for p in net.parameters()]), None if kept is None else (*kept, steps)


def sgd(params):
    """SGD with everything."""
    return torch.optim.SGD(params, lr=0.1, momentum=0.9, weight_decay=0.01)


@pytest.mark.parametrize("text", [*TEXTS, "lars(0.01)", "larc(0.01)"])
def test_a_guarded_run_goes_on_bit_for_bit(text):
    policy = sg.parse_policy(text)
    whole, _ = trained(policy, sgd)
    _, state = trained(policy, sgd, steps=3)
    resumed, _ = trained(policy, sgd, state=state)
    assert bits(whole) == bits(resumed)
    assert bits(whole) != bits(trained(None, sgd)[0])


@pytest.mark.parametrize("text", [*TEXTS, "lars(0.01)", "larc(0.01)"])
def test_a_skipped_step_moves_nothing(text):
    policy = sg.chain(sg.skip_nonfinite(), sg.parse_policy(text))
    before, _ = trained(policy, sgd, steps=3)
    after, _ = trained(policy, sgd, steps=4, skip=(3,))
    assert bits(before) == bits(after)


def test_constraints_chain_and_mask():
    policy = sg.parse_policy("chain(clip_by_global_norm(1.0), masked(limit_update_ratio(0.001), '*.weight'))")
    net = model()
    optimizer = torch.optim.SGD(net.parameters(), lr=1.0)
    sg.Guard(optimizer, policy, model=net)
    before = [p.detach().clone() for p in net.parameters()]
    net(torch.randn(5, 4)).square().sum().backward()
    optimizer.step()
    ratios = [float((p.detach() - old).norm() / old.norm()) for p, old in zip(net.parameters(), before, strict=True)]
    assert ratios[0] == pytest.approx(0.001, rel=1e-3)
    assert ratios[1] > 0.01
