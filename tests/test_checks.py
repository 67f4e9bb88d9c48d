import math

import numpy as np
import pytest
import torch

from steadygrad.decide import (
    clip_by_global_norm,
    clip_by_group_norm,
    clip_by_norm,
    clip_by_rms,
    cosine,
    decay,
    exponential,
    inverse_time,
    skip_nonfinite,
)
from steadygrad.errors import ArgumentError, ArgumentTypeError

LIMITS = [clip_by_global_norm, clip_by_group_norm, clip_by_norm, clip_by_rms]


@pytest.mark.parametrize("factory", LIMITS)
@pytest.mark.parametrize("value", [-1.0, 0, 0.0, -0.0, math.nan, -math.inf])
def test_a_limit_out_of_range_is_refused_with_its_value(factory, value):
    with pytest.raises(ArgumentError, match="threshold-invalid") as caught:
        factory(value)
    assert repr(value)[:20] in str(caught.value)
    assert f"`{factory.__name__}`" in str(caught.value)


@pytest.mark.parametrize("factory", LIMITS)
@pytest.mark.parametrize("value", [True, "1.0", None, 1j, torch.tensor(1.0), np.ones(1), {}])
def test_a_limit_of_another_kind_is_refused(factory, value):
    with pytest.raises(ArgumentTypeError, match="threshold-invalid"):
        factory(value)


def test_an_integer_beyond_all_floats_is_refused():
    with pytest.raises(ArgumentError, match=r"an integer of 30001 bits.*use `inf`"):
        clip_by_norm(2**30000)


def test_zero_comes_with_advice():
    with pytest.raises(ArgumentError, match="requires_grad=False"):
        clip_by_global_norm(0.0)


@pytest.mark.parametrize("value", [1, 1.0, np.float32(1.0), np.int64(1)])
def test_real_numbers_of_all_kinds_are_taken(value):
    assert clip_by_global_norm(value).text == "clip_by_global_norm(1.0)"


@pytest.mark.parametrize("factory", [clip_by_global_norm, clip_by_group_norm, clip_by_norm])
@pytest.mark.parametrize("p", [0, -1.0, -math.inf, math.nan])
def test_trap_09_a_norm_type_that_bounds_nothing_is_refused(factory, p):
    with pytest.raises(ArgumentError, match=r"norm_type.*norm-type-invalid"):
        factory(1.0, p)


@pytest.mark.parametrize("p", [True, "2", None, np.ones(2)])
def test_a_norm_type_of_another_kind_is_refused(p):
    with pytest.raises(ArgumentTypeError, match="norm_type"):
        clip_by_norm(1.0, p)


def test_the_text_inf_is_taken_as_torch_takes_it():
    assert clip_by_norm(1.0, "inf").text == "clip_by_norm(1.0, inf)"


@pytest.mark.parametrize("eps", [-1e-6, math.inf, math.nan])
def test_eps_must_be_finite_and_not_negative(eps):
    with pytest.raises(ArgumentError, match="eps"):
        clip_by_global_norm(1.0, eps=eps)


@pytest.mark.parametrize("value", [0, -1])
def test_skip_nonfinite_wants_one_or_more(value):
    with pytest.raises(ArgumentError, match="max_consecutive"):
        skip_nonfinite(value)


@pytest.mark.parametrize("value", [1.5, True, "3"])
def test_skip_nonfinite_wants_an_integer(value):
    with pytest.raises(ArgumentTypeError, match="max_consecutive"):
        skip_nonfinite(max_consecutive=value)


@pytest.mark.parametrize("make", [lambda: decay(1.5), lambda: decay(0), lambda: exponential(1.1), lambda: exponential(0.5, 0)])
def test_a_factor_must_be_above_zero_and_at_most_one(make):
    with pytest.raises(ArgumentError, match="threshold-invalid"):
        make()


@pytest.mark.parametrize("make", [lambda: cosine(0), lambda: cosine(10, 1.0), lambda: inverse_time(math.inf)])
def test_a_schedule_out_of_range_is_refused(make):
    with pytest.raises(ArgumentError, match="threshold-invalid"):
        make()


@pytest.mark.parametrize("value", [None, "exponential(0.9)", (0.5,), True])
def test_decay_wants_a_number_a_schedule_or_a_function(value):
    with pytest.raises(ArgumentTypeError, match="decay"):
        decay(value)


@pytest.mark.parametrize("value", [(), []])
def test_no_group_limits_are_refused(value):
    with pytest.raises(ArgumentError, match="at least one limit"):
        clip_by_group_norm(value)
