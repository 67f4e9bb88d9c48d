"""Gradient noise: how much of it, and that it is the same where it must be."""

import math

import numpy as np
import pytest
import torch

import steadygrad as sg
from steadygrad.errors import ArgumentError, ArgumentTypeError
from steadygrad.policies import parse_policy
from steadygrad.readings import Layout, Readings
from steadygrad.transforms.noise import add_noise

N = 40_000
FOUR_SIGMA = 4 / math.sqrt(2 * N)  # relative, of a standard deviation from N numbers


@pytest.mark.parametrize(("step", "expected"), [(0, 0.1), (99, 0.0281838)])
def test_b8_known_answer(step, expected, rewritten):
    noise = rewritten(add_noise(0.01), torch.zeros(N, dtype=torch.float64), step=step)
    assert float(noise.std()) == pytest.approx(expected, rel=FOUR_SIGMA)
    assert abs(float(noise.mean())) < 4 * expected / math.sqrt(N)
    # Exactly: the same stream, without and with the factor of this step.
    plain = rewritten(add_noise(1.0, gamma=0.0), torch.zeros(N, dtype=torch.float64), step=step)
    np.testing.assert_allclose(noise.numpy(), plain.numpy() * 0.1 * (1 + step) ** -0.275, rtol=1e-14)


def test_relative_noise_has_the_size_of_the_gradient(rewritten):
    policy = add_noise(0.25, gamma=0.0, relative=True)
    grad = torch.full((N,), 1e-12, dtype=torch.float64)
    readings = Readings(Layout(("w", "e"), shapes=((N,), (0,))), np, np.array([N * 1e-24, 0.0]))
    decision, _ = policy.decide(readings, policy.init(readings))
    assert decision.numbers["rms"].tolist() == pytest.approx([1e-12, 0.0])
    noise = rewritten(policy, grad, rms=decision.numbers["rms"][0]) - grad
    assert float(noise.std()) == pytest.approx(0.5e-12, rel=FOUR_SIGMA)
    on_device = rewritten(policy, grad, rms=torch.tensor(decision.numbers["rms"][0])) - grad
    assert on_device.equal(noise)
    assert rewritten(policy, torch.zeros(3), rms=np.float32(0.0)).tolist() == [0.0] * 3


def test_equal_where_name_step_shard_and_seed_are_and_different_elsewhere(rewritten):
    def noise(seed=0, **place):
        return rewritten(add_noise(seed=seed, gamma=0.0), torch.zeros(20), **place)

    assert noise().equal(noise())
    others = [noise(step=1), noise(shard=1), noise(name="v"), noise(seed=1)]
    assert not any(other.equal(noise()) for other in others)


def test_the_order_in_memory_does_not_matter(rewritten):
    grad = torch.zeros(2, 3, 4, 4)
    assert rewritten(add_noise(), grad.to(memory_format=torch.channels_last)).equal(rewritten(add_noise(), grad))


def test_a_resumed_run_gets_the_same_noise_and_the_programs_random_numbers_stay():
    def train(stop, state=None):
        param = torch.nn.Parameter(torch.zeros(4))
        optimizer = torch.optim.SGD([param], lr=1.0)
        guard = sg.Guard(optimizer, add_noise())
        if state is not None:
            param.data = state[0].clone()
            guard.load_state_dict(state[1])
        for _ in range(stop):
            param.grad = torch.ones(4)
            optimizer.step()
        guard.detach()
        return param.detach().clone(), guard.state_dict()

    before = torch.get_rng_state()
    whole, _ = train(6)
    resumed, _ = train(3, train(3))
    assert whole.equal(resumed)
    assert torch.get_rng_state().equal(before)


def test_relative_needs_shapes():
    readings = Readings(Layout(("w",)), np, np.ones(1))
    with pytest.raises(ArgumentError, match="layout-shapes"):
        add_noise(relative=True).init(readings)
    assert add_noise().init(readings) == {}


def test_text_and_refusals():
    assert add_noise().text == "add_noise()"
    text = "add_noise(0.3, gamma=0.0, relative=True, seed=-5)"
    assert parse_policy(text).text == text
    for bad in ({"eta": -1.0}, {"gamma": -0.1}, {"eta": math.inf}):
        with pytest.raises(ArgumentError, match="threshold-invalid"):
            add_noise(**bad)
    for bad in ({"seed": 1.0}, {"relative": 1}, {"eta": "a"}):
        with pytest.raises(ArgumentTypeError, match="threshold-invalid"):
            add_noise(**bad)
