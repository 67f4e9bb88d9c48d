import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import steadygrad as sg
from steadygrad.errors import ArgumentError


def test_b10_max_norm_known_answer(harness):
    result = harness(sg.max_norm_weights(3.0))(torch.tensor([[3.0, 4.0], [0.0, 0.0], [1.0, 1.0]]))
    torch.testing.assert_close(result, torch.tensor([[1.8, 2.4], [0.0, 0.0], [1.0, 1.0]]), rtol=1e-7, atol=0)


@pytest.mark.parametrize("dim", [0, 1, 3, -1, -4])
@given(st.floats(1e-25, 1e25), st.floats(1e-3, 1e3))
def test_b10_max_norm_agrees_with_the_definition(harness, dim, size, maximum):
    torch.manual_seed(0)
    weight = torch.randn(3, 4, 2, 2) * size
    slices = weight.double().movedim(dim, 0).flatten(1)
    norms = slices.norm(dim=1, keepdim=True)
    expected = (slices * (maximum / norms).clamp(max=1.0)).float()
    result = harness(sg.max_norm_weights(maximum, dim=dim))(weight.clone())
    torch.testing.assert_close(result.movedim(dim, 0).flatten(1), expected, rtol=1e-6, atol=0)
    assert bool((result.double().movedim(dim, 0).flatten(1).norm(dim=1) <= maximum * (1 + 1e-6)).all())


def test_b10_max_norm_of_one_row_does_not_touch_the_others(harness):
    weight = torch.tensor([[1e30, 1e30], [0.1, -0.0], [math.nan, 9.0]])
    result = harness(sg.max_norm_weights(1.0))(weight.clone())
    assert result[1:].numpy().tobytes() == weight[1:].numpy().tobytes()
    assert float(result[0].norm()) == pytest.approx(1.0, rel=1e-6)


@pytest.mark.parametrize("dim", [2, -3])
def test_b10_max_norm_of_a_dimension_that_is_not_there(harness, dim):
    with pytest.raises(ArgumentError, match="constraint-dim"):
        harness(sg.max_norm_weights(dim=dim))(torch.ones(2, 2))


@pytest.mark.parametrize("policy", [sg.max_norm_weights(1.0), sg.spectral_bound(1.0)], ids=repr)
@pytest.mark.parametrize("shape", [(), (4,)])
def test_b10_biases_are_left_alone(harness, policy, shape):
    assert bool((harness(policy)(torch.full(shape, 9.0)) == 9.0).all())


def test_b10_spectral_known_answer(harness):
    weight = torch.diag(torch.tensor([5.0, 1.0]))
    result = harness(sg.spectral_bound(2.0, iterations=20))(weight.clone())
    torch.testing.assert_close(result, weight * 0.4, rtol=1e-6, atol=0)


def with_singular_values(shape, ratio):
    """A matrix of this shape whose singular values are 1 and then ``ratio`` times the one before."""
    rows, columns = shape[0], math.prod(shape[1:])
    u, _, v = torch.linalg.svd(torch.randn(rows, columns, dtype=torch.float64), full_matrices=False)
    return (u * ratio ** torch.arange(u.shape[1]) @ v).view(shape)


@pytest.mark.parametrize("shape", [(40, 40), (10, 80), (80, 10), (8, 4, 3, 3), (1, 5), (5, 1)])
@pytest.mark.parametrize("seed", range(10))
def test_b10_spectral_within_1_percent_after_20_iterations(harness, shape, seed):
    torch.manual_seed(seed)
    result = harness(sg.spectral_bound(0.5, iterations=20))(with_singular_values(shape, 0.8))
    assert 0.5 * (1 - 1e-12) <= float(torch.linalg.matrix_norm(result.flatten(1), 2)) <= 0.5 * 1.01


@pytest.mark.parametrize("seed", range(10))
def test_b10_spectral_of_a_random_matrix_whose_singular_values_are_close(harness, seed):
    torch.manual_seed(seed)
    weight, run = torch.randn(80, 10, dtype=torch.float64), harness(sg.spectral_bound(0.5))
    found = [float(torch.linalg.matrix_norm(run(weight.clone()), 2)) for _ in range(200)]
    assert found[20] <= 0.5 * 1.05
    assert found[199] <= 0.5 * 1.01


def test_b10_spectral_carries_its_vector_from_step_to_step(harness):
    torch.manual_seed(0)
    start, run = torch.randn(30, 20, dtype=torch.float64), harness(sg.spectral_bound(0.5))
    run(torch.randn(30, 20, dtype=torch.float64))
    found = [float(torch.linalg.matrix_norm(run(start.clone()), 2)) for _ in range(40)]
    assert found[0] > 0.5 * 1.02
    assert found[39] <= 0.5 * 1.01


def test_b10_spectral_recovers_after_a_matrix_of_zeros_and_one_at_right_angles(harness):
    run = harness(sg.spectral_bound(1.0))
    for _ in range(40):
        run(torch.diag(torch.tensor([5.0, 0.0])))
    run(torch.zeros(2, 2))
    for diagonal in ([5.0, 0.0], [0.0, 5.0]):
        for _ in range(40):
            result = run(torch.diag(torch.tensor(diagonal)))
        assert float(result.max()) == pytest.approx(1.0, rel=1e-6)


@pytest.mark.parametrize("size", [1e-30, 1.0, 1e30])
def test_b10_spectral_of_any_size(harness, size):
    torch.manual_seed(0)
    weight = torch.randn(6, 4) * size
    result = harness(sg.spectral_bound(size, iterations=50))(weight.clone())
    assert float(torch.linalg.matrix_norm((result / size).double(), 2)) == pytest.approx(1.0, rel=1e-4)


def test_b10_spectral_starts_the_same_and_leaves_the_random_numbers_alone(harness):
    state = torch.get_rng_state()
    runs = [harness(sg.spectral_bound(0.1)) for _ in range(2)]
    for run in runs:
        run(torch.ones(7, 3))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(runs[0].memory["u"], runs[1].memory["u"])
    assert float(runs[0].memory["u"].norm()) == pytest.approx(1.0, rel=1e-6)
