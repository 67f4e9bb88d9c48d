import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from steadygrad.errors import ArgumentError, ArgumentTypeError, UnsupportedError
from steadygrad.measure.reference import measure_arrays
from steadygrad.readings import Layout

floats = arrays(np.float64, array_shapes(min_dims=0, max_dims=3, max_side=4), elements=st.floats(-1e100, 1e100))


def read(*grads, needs=(), **kwargs):
    return measure_arrays(grads, Layout(tuple("abcdef"[: len(grads)])), frozenset(needs), **kwargs)


@given(floats)
def test_readings_are_those_of_exact_arithmetic(grad):
    readings = read(grad, needs=["abs_max", "norm_p:1.0", "norm_p:3.0"])
    values = [abs(x) for x in grad.ravel().tolist()]
    assert readings.sum_sq[0] == pytest.approx(math.fsum(x * x for x in values), rel=1e-14)
    assert readings.abs_max[0] == max(values, default=0.0)
    assert readings.norm_p[1.0][0] == pytest.approx(math.fsum(values), rel=1e-14)
    assert readings.norm_p[3.0][0] == pytest.approx(math.fsum(x**3 for x in values) ** (1 / 3), rel=1e-13, abs=1e-107)


def test_half_precision_is_summed_wide():
    readings = read(np.full(100_000, 300.0, np.float16))
    assert readings.total_norm() == pytest.approx(94868.33, rel=1e-6)


def test_complex_numbers_count_by_their_modulus():
    readings = read(np.array([3 + 4j], np.complex64), needs=["abs_max", "norm_p:1.0"])
    assert (readings.sum_sq[0], readings.abs_max[0], readings.norm_p[1.0][0]) == (25.0, 5.0, 5.0)


def test_empty_and_absent_gradients_read_as_zero():
    readings = read(np.zeros((0, 3)), None, np.ones(1), needs=["abs_max", "norm_p:1.0"])
    assert readings.sum_sq.tolist() == readings.abs_max.tolist() == readings.norm_p[1.0].tolist() == [0.0, 0.0, 1.0]
    assert readings.present.tolist() == [True, False, True]
    assert read(np.ones(1)).present is None


@pytest.mark.parametrize("need", ["abs_max", "norm_p:1.0", "norm_p:3.0"])
def test_nan_and_inf_are_told_apart(need):
    readings = read(np.array([1.0, math.nan]), np.array([1.0, math.inf]), np.array([-math.inf, math.nan]), needs=[need])
    extra = readings.abs_max if need == "abs_max" else readings.norms(float(need[7:]))
    for values in (readings.sum_sq, extra):
        assert [math.isnan(values[0]), math.isinf(values[1]), math.isnan(values[2])] == [True] * 3


@pytest.mark.skipif(np.finfo(np.longdouble).max == np.finfo(np.float64).max, reason="longdouble is no wider here")
def test_squares_that_overflow_float64_are_summed_wider():
    readings = read(np.array([3e200]), np.array([4e200]))
    assert float(readings.total_norm()) == pytest.approx(5e200, rel=1e-12)


def test_large_powers_do_not_overflow():
    assert read(np.full(4, 1e100), needs=["norm_p:10.0"]).norm_p[10.0][0] == pytest.approx(1e100 * 4**0.1, rel=1e-13)


def test_parameters_are_read_where_they_are_needed():
    assert read(np.zeros(2), needs=["param_norm"], params=[np.array([3.0, 4.0])]).param_norm.tolist() == [5.0]
    with pytest.raises(ArgumentError, match="params"):
        read(np.zeros(2), needs=["param_norm"])


@pytest.mark.parametrize("dtype", [np.int64, np.bool_, object, "U1"])
def test_arrays_that_are_not_floating_point_are_refused(dtype):
    with pytest.raises(ArgumentTypeError, match=r"'a'.*gradient-dtype"):
        read(np.zeros(1, dtype))


def test_an_unknown_reading_and_a_wrong_count_are_refused():
    with pytest.raises(UnsupportedError, match="reading-unknown"):
        read(np.zeros(1), needs=["curvature"])
    with pytest.raises(ArgumentError, match="gradient-count"):
        measure_arrays([np.zeros(1)], Layout(("a", "b")))
