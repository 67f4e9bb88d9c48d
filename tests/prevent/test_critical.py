import math

import numpy as np
import pytest
import torch

from steadygrad.errors import ArgumentError
from steadygrad.prevent import critical_point, mean_field
from steadygrad.prevent.activations import NAMES, activation_named, gain_of, growth, mean_square, mean_square_slope

FUNCTIONS = {"linear": lambda x: x, "erf": torch.erf, "sigmoid": torch.sigmoid, "tanh": torch.tanh}


def of_torch(name):
    return FUNCTIONS.get(name) or getattr(torch.nn.functional, name)


# Weight variance, chi1 and depth scale of tanh at a bias variance of 0.05.
TANH = [(1.0, 0.759, 3.6), (1.3, 0.880, 7.8), (1.5, 0.939, 15.8), (1.7, 0.987, 74.9), (1.8, 1.008, 122)]
TANH += [(2.0, 1.048, 21.5), (2.5, 1.134, 8.0), (3.0, 1.209, 5.3), (4.0, 1.342, 3.4)]


@pytest.mark.parametrize(("weights", "chi1", "scale"), TANH)
def test_c7_known_answer_of_tanh(weights, chi1, scale):
    field = mean_field("tanh", weights, 0.05)
    assert round(field.chi1, 3) == chi1
    assert field.depth_scale == pytest.approx(scale, abs=0.5 if scale == 122 else 0.05)


@pytest.mark.parametrize(("q", "weights", "biases"), [(1 / 16, 1.11538, 2.369e-4), (1 / 100, 1.01971, 1.258e-6)])
def test_c7_known_answer_critical_pairs(q, weights, biases):
    point = critical_point("tanh", q)
    assert round(point.weight_variance, 5) == weights
    assert float(f"{point.bias_variance:.3e}") == biases
    assert point.q_slope < 1.0


def test_c7_known_answer_critical_line_at_a_bias_variance_of_a_twentieth():
    low, high = 0.1, 2.0
    for _ in range(60):
        q = 0.5 * (low + high)
        low, high = (q, high) if critical_point("tanh", q).bias_variance < 0.05 else (low, q)
    assert round(q, 3) == 0.570
    assert round(critical_point("tanh", q).weight_variance, 4) == 1.7610


@pytest.mark.parametrize("q", [1e-3, 0.5, 30.0])
def test_c7_relu_is_critical_at_he_for_every_length(q):
    point = critical_point("relu", q)
    assert point.weight_variance == pytest.approx(2.0, rel=1e-12)
    assert point.bias_variance == 0.0
    assert point.q_slope == pytest.approx(1.0, rel=1e-12)


@pytest.mark.parametrize("q", [0.01, 1.0, 4.0])
def test_c7_erf_has_a_closed_form(q):
    erf = activation_named("", "erf")
    assert mean_square(erf, q) == pytest.approx(2 / math.pi * math.asin(2 * q / (1 + 2 * q)), rel=1e-6)
    assert mean_square_slope(erf, q) == pytest.approx(4 / math.pi / math.sqrt(1 + 4 * q), rel=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_activations_and_slopes_are_those_of_torch(name):
    x = torch.linspace(-6, 6, 121, dtype=torch.float64)[torch.arange(121) != 60].requires_grad_()
    y = of_torch(name)(x)
    y.sum().backward()
    activation = activation_named("", name)
    np.testing.assert_allclose(activation.phi(x.detach().numpy()), y.detach().numpy(), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(activation.slope(x.detach().numpy()), x.grad.numpy(), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_growth_is_the_derivative_of_the_mean_square(name):
    activation, q, step = activation_named("", name), 0.7, 1e-5
    numeric = (mean_square(activation, q + step) - mean_square(activation, q - step)) / (2 * step)
    assert growth(activation, q) == pytest.approx(numeric, rel=1e-6)


@pytest.mark.parametrize("name", ["linear", "sigmoid", "tanh", "relu", "selu"])
def test_gains_are_those_of_torch(name):
    assert gain_of(activation_named("", name))[0] == torch.nn.init.calculate_gain(name)


@pytest.mark.parametrize("name", ["relu", "leaky_relu", "gelu", "silu", "elu", "softplus", "erf"])
def test_gains_keep_the_mean_square(name):
    gain = gain_of(activation_named("", name, 0.2))[0]
    assert gain**2 * mean_square(activation_named("", name, 0.2), 1.0) == pytest.approx(1.0, rel=1e-12)


def test_critical_networks_of_other_activations_keep_their_length():
    for name, q in (("sigmoid", 100.0), ("gelu", 1.0), ("elu", 1.0), ("erf", 0.1)):
        point = critical_point(name, q)
        activation = activation_named("", name)
        assert point.weight_variance * mean_square(activation, q) + point.bias_variance == pytest.approx(q, rel=1e-12)
        assert point.weight_variance * mean_square_slope(activation, q) == pytest.approx(1.0, rel=1e-12)
        assert point.bias_variance > 0


def test_a_length_that_cannot_be_critical_is_refused_with_one_that_can():
    with pytest.raises(ArgumentError, match="smallest that works is about") as caught:
        critical_point("sigmoid", 1.0)
    assert caught.value.slug == "no-critical-point"
    smallest = float(str(caught.value).split("about ")[1].split()[0])
    assert critical_point("sigmoid", smallest * 1.05).bias_variance >= 0


def test_a_signal_that_dies_or_grows():
    assert mean_field("tanh", 0.5, 0.0)[:2] == (0.0, pytest.approx(0.5, rel=1e-15))
    with pytest.raises(ArgumentError, match="smaller `weight_variance`") as caught:
        mean_field("relu", 2.5, 0.0)
    assert caught.value.slug == "no-critical-point"
    assert mean_field("relu", 2.0, 0.0) == (pytest.approx(1.0, rel=1e-12), pytest.approx(1.0), math.inf, math.inf)


def test_unknown_activation_and_lengths():
    with pytest.raises(ArgumentError) as caught:
        critical_point("Tanh", 1.0)
    assert caught.value.slug == "init-activation"
    for q in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(ArgumentError):
            critical_point("tanh", q)
