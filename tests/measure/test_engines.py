"""Every engine against the naive twin in NumPy."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from steadygrad.errors import ArgumentError
from steadygrad.measure.nonfinite import describe_nonfinite
from steadygrad.measure.reference import measure_arrays
from steadygrad.measure.select import choose, measure
from steadygrad.readings import INF, Layout, needs_for_norm

ENGINES = ["cpu", "foreach"]
NEEDS = frozenset({"abs_max", "norm_p:1.0", "norm_p:3.0", "param_norm"})


def layout_of(tensors):
    return Layout(tuple(f"t{i}" for i in range(len(tensors))), shapes=tuple(tuple(t.shape) for t in tensors))


def twin(grads, needs=NEEDS):
    wide = [g.to_dense() if g.layout is not torch.strided else g for g in grads]
    arrays = [np.asarray(g.to(torch.complex128 if g.is_complex() else torch.float64).resolve_conj().numpy()) for g in wide]
    return measure_arrays(arrays, layout_of(grads), needs, params=arrays)


def assert_agree(readings, expected, rel):
    for ours, theirs in [
        (readings.sum_sq, expected.sum_sq),
        (readings.abs_max, expected.abs_max),
        (readings.norm_p[1.0], expected.norm_p[1.0]),
        (readings.norm_p[3.0], expected.norm_p[3.0]),
        (readings.param_norm, expected.param_norm),
    ]:
        np.testing.assert_allclose(np.asarray(ours), np.asarray(theirs), rtol=rel)


SHAPES = [(), (0,), (1,), (7, 5), (4096,), (8193,), (3, 4097), (64, 3, 7, 7), (300, 401)]
DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.complex64, torch.complex128]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_engine_agrees_with_the_naive_twin(engine, dtype):
    grads = [torch.randn(shape, dtype=dtype) for shape in SHAPES]
    readings = measure(grads, layout_of(grads), NEEDS, params=grads, engine=choose(grads, engine))
    assert_agree(readings, twin(grads), 2e-6)


@pytest.mark.parametrize("engine", ENGINES)
def test_memory_layout_does_not_matter(engine):
    x = torch.randn(20, 6, 30, 40)
    grads = [
        x.to(memory_format=torch.channels_last),
        x.transpose(0, 3),
        x[:, ::2, 1:],
        x[0, 0].t(),
        torch.randn(9, dtype=torch.cfloat).conj(),
    ]
    readings = measure(grads, layout_of(grads), NEEDS, params=grads, engine=choose(grads, engine))
    assert_agree(readings, twin(grads), 2e-6)


@pytest.mark.parametrize("engine", ENGINES)
def test_sparse_gradients_are_added_up_before_they_are_measured(engine):
    twice = torch.sparse_coo_tensor([[1, 1, 3]], torch.tensor([3.0, 4.0, -2.0]), (5,), check_invariants=True)
    rows = torch.sparse_coo_tensor([[0, 2]], torch.randn(2, 4), (6, 4), check_invariants=True)
    grads = [twice, rows]
    readings = measure(grads, layout_of(grads), NEEDS, params=grads, engine=choose(grads, engine))
    assert_agree(readings, twin(grads), 1e-6)
    assert float(readings.sum_sq[0]) == pytest.approx(53.0)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("values", [[3e38, 3e38], [3e-30, 4e-30], [1e-45, 0.0], [2e19] * 3, [0.0, 0.0]])
def test_float32_squares_that_overflow_or_vanish(engine, values):
    for size in (1, 5000):  # the small path and the row path
        grads = [torch.tensor(values * size)]
        readings = measure(grads, layout_of(grads), NEEDS, params=grads, engine=choose(grads, engine))
        assert_agree(readings, twin(grads), 2e-6)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("size", [2, 9000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.complex64], ids=str)
def test_non_finite_is_told_apart(engine, size, dtype):
    clean = torch.ones(size, dtype=dtype)
    inf, nan, both = clean.clone(), clean.clone(), clean.clone()
    inf[-1] = -INF
    nan[0] = float("nan")
    both[0], both[1] = INF, float("nan")
    grads = [clean, inf, nan, both]
    readings = measure(grads, layout_of(grads), frozenset({"abs_max"}), engine=choose(grads, engine))
    for row in (np.asarray(readings.sum_sq), np.asarray(readings.abs_max)):
        assert np.isfinite(row[0])
        assert row[1] == INF
        assert np.isnan(row[2:]).all()


def test_large_sums_are_more_exact_than_one_float32_reduction():
    constant = torch.full((10_000_000,), 1.1)
    exact = np.sqrt(1e7) * float(np.float32(1.1))
    ours = float(measure([constant], layout_of([constant])).norms()[0])
    assert abs(ours / exact - 1) < 1e-6


@given(st.lists(st.lists(st.floats(width=32), max_size=40), min_size=1, max_size=6))
def test_any_floats(rows):
    grads = [torch.tensor(row, dtype=torch.float32) for row in rows]
    expected = twin(grads, frozenset({"abs_max"}))
    for engine in ENGINES:
        readings = measure(grads, layout_of(grads), frozenset({"abs_max"}), engine=choose(grads, engine))
        np.testing.assert_allclose(np.asarray(readings.sum_sq), expected.sum_sq, rtol=1e-5)
        np.testing.assert_allclose(np.asarray(readings.abs_max), expected.abs_max, rtol=1e-6)


@pytest.mark.parametrize("engine", ENGINES)
def test_absent_gradients_read_as_zero(engine):
    grads = [None, torch.tensor([3.0, 4.0]), None]
    layout = Layout(("a", "b", "c"))
    readings = measure(grads, layout, needs_for_norm(INF), engine=choose([grads[1]], engine))
    assert np.asarray(readings.norms()).tolist() == [0.0, 5.0, 0.0]
    assert readings.present.tolist() == [False, True, False]
    assert float(readings.total_norm(INF)) == 4.0


def test_no_gradient_at_all():
    readings = measure([None, None], Layout(("a", "b")))
    assert float(readings.total_norm()) == 0.0
    assert float(measure([], Layout(())).total_norm()) == 0.0


def test_choice_says_why_and_can_be_forced():
    meta = [torch.empty(2, device="meta")]
    assert choose(meta).name == "foreach"
    assert "meta" in choose(meta).reason
    assert choose([torch.zeros(1)], "foreach").reason == "it was asked for"
    with pytest.raises(ArgumentError, match="engine-unsuited"):
        choose(meta, "cpu")
    with pytest.raises(ArgumentError, match="engine-unknown"):
        choose([], "triton")


def test_unknown_reading_is_refused():
    with pytest.raises(ArgumentError, match="reading-unknown"):
        measure([torch.ones(1)], Layout(("a",)), frozenset({"kurtosis"}))


def test_describe_nonfinite_names_counts_and_brackets():
    grads = [torch.ones(3), torch.tensor([1.0, INF, INF]), None, torch.tensor([float("nan"), INF]), torch.tensor([3e38, 3e38])]
    layout = Layout(("conv", "fc", "frozen", "head", "scale"))
    found = describe_nonfinite(grads, measure(grads, layout))
    assert found == {
        "nan": ["head"],
        "nan_elements": [1],
        "inf": ["fc"],
        "inf_elements": [2],
        "overflowed": ["scale"],
        "finite": ["conv"],
    }
