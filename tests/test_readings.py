"""Readings are closed under scaling."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from steadygrad.measure.reference import measure_arrays
from steadygrad.readings import INF, Layout, Readings, needs_for_norm

NEEDS = frozenset({"abs_max", "norm_p:1.0", "norm_p:3.0"})
LAYOUT = Layout(("a", "b", "c"), shapes=((4,), (2, 3), ()))
finite = st.floats(-1e6, 1e6)


@given(
    st.lists(st.lists(finite, min_size=1, max_size=5), min_size=3, max_size=3), st.lists(st.floats(0, 10), min_size=3, max_size=3)
)
def test_scaled_readings_are_the_readings_of_scaled_gradients(rows, factors):
    grads = [np.array(row) for row in rows]
    predicted = measure_arrays(grads, LAYOUT, NEEDS).scaled(np.array(factors))
    actual = measure_arrays([g * f for g, f in zip(grads, factors, strict=True)], LAYOUT, NEEDS)
    for p in (1.0, 2.0, 3.0, INF):
        np.testing.assert_allclose(predicted.norms(p), actual.norms(p), rtol=1e-9, atol=1e-300)
        np.testing.assert_allclose(predicted.total_norm(p), actual.total_norm(p), rtol=1e-9, atol=1e-300)


def test_p_norms_of_any_size_neither_overflow_nor_vanish():
    for size in (1e300, 1e-300):
        readings = Readings(Layout(("a", "b")), np, np.zeros(2), norm_p={100.0: np.array([size, size])})
        assert readings.total_norm(100.0) == pytest.approx(size * 2**0.01)


def test_selection_keeps_rows_together():
    readings = measure_arrays([np.ones(4), np.full((2, 3), 2.0), np.array(3.0)], LAYOUT, NEEDS)
    part = readings.select(LAYOUT.select([2, 0]), [2, 0])
    assert part.names == ("c", "a")
    assert part.layout.numel == (1, 4)
    assert part.norms(INF).tolist() == [3.0, 1.0]


def test_a_reading_that_nobody_asked_for_is_refused():
    readings = Readings(Layout(("a",)), np, np.ones(1))
    with pytest.raises(LookupError, match="needs"):
        readings.norms(3.0)


def test_needs_for_norm():
    assert [needs_for_norm(p) for p in (2.0, INF, 1.0)] == [frozenset(), {"abs_max"}, {"norm_p:1.0"}]
