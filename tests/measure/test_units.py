"""Readings per unit, learning rates and update RMS: every engine against the naive twin."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from steadygrad.errors import ArgumentError, UnsupportedError
from steadygrad.measure.reference import measure_arrays
from steadygrad.measure.select import choose, measure
from steadygrad.readings import INF, Layout

ENGINES = ["cpu", "foreach"]
UNITS = frozenset({"units"})
SHAPES = [(), (0,), (3,), (7, 5), (0, 4), (4, 0), (3, 4097), (300, 401), (2, 1 << 16), (64, 3, 7, 7), (6, 70, 3, 3), (5, 4, 3)]
DIMS = [-1, -1, -1, 0, 0, 0, 0, 1, 0, 0, 1, 2]


def layout_of(tensors, dims):
    names = tuple(f"t{i}" for i in range(len(tensors)))
    return Layout(names, shapes=tuple(tuple(t.shape) for t in tensors), unit_dims=tuple(dims))


def as_array(tensor):
    return np.asarray(tensor.to_dense().to(torch.complex128 if tensor.is_complex() else torch.float64).resolve_conj().numpy())


def assert_units_agree(grads, params, dims, engine, rel=2e-6):
    layout = layout_of(params, dims)
    ours = measure(grads, layout, UNITS, params=params, engine=choose(params, engine))
    arrays = [None if g is None else as_array(g) for g in grads]
    twin = measure_arrays(arrays, layout, UNITS, params=[as_array(p) for p in params])
    for name in ("sum_sq", "unit_sum_sq", "unit_param_norm"):
        np.testing.assert_allclose(np.asarray(getattr(ours, name)), getattr(twin, name), rtol=rel, err_msg=name)
    return ours


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.complex64], ids=str)
def test_units_agree_with_the_naive_twin(engine, dtype):
    grads = [torch.randn(shape, dtype=dtype) for shape in SHAPES]
    assert_units_agree(grads, [2 * g for g in grads], DIMS, engine)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("dim", [0, 1, 2, 3])
def test_memory_layout_does_not_matter(engine, dim):
    x = torch.randn(20, 6, 30, 40)
    grads = [
        x.to(memory_format=torch.channels_last),
        x.transpose(0, 3),
        x[:, ::2, 1:],
        x.transpose(1, 2).half(),
        torch.randn(9, 2, 3, 4, dtype=torch.cfloat).conj(),
        torch.ones(1).expand(300, 5, 4, 7),
    ]
    assert_units_agree(grads, grads, [dim] * len(grads), engine)


@pytest.mark.filterwarnings("ignore:Sparse CSR")
@pytest.mark.parametrize("engine", ENGINES)
def test_sparse_gradients_and_absent_ones(engine):
    rows = torch.sparse_coo_tensor([[0, 2, 2]], torch.randn(3, 4), (6, 4), check_invariants=True)
    both = torch.sparse_coo_tensor([[0, 2, 2], [1, 0, 1]], torch.randn(3), (6, 4), check_invariants=True)
    none = torch.sparse_coo_tensor(torch.zeros(1, 0, dtype=torch.int64), torch.zeros(0, 4), (6, 4), check_invariants=True)
    params = [torch.randn(6, 4) for _ in range(7)]
    readings = assert_units_agree([rows, rows, rows, both, both, none, None], params, [0, 1, -1, 0, 1, 0, 0], engine)
    assert readings.present.tolist() == [True] * 6 + [False]
    with pytest.raises(UnsupportedError, match="reading-unknown"):
        measure([params[0].to_sparse_csr()], layout_of(params[:1], [0]), UNITS, params=params, engine=choose(params, engine))


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("value", [3e38, 3e-30, 1e-45, 2e19, 0.0])
def test_float32_squares_that_overflow_or_vanish(engine, value):
    for shape, dim in [((2, 3), 0), ((3, 50_000), 0), ((50_000, 3), 1), ((2, 30_000, 3), 0), ((9, 3, 3000), 1)]:
        grads = [torch.full(shape, value), torch.ones(2)]
        assert_units_agree(grads, grads, [dim, -1], engine)


@pytest.mark.parametrize("engine", ENGINES)
def test_one_bad_element_spoils_its_own_unit_alone(engine):
    grad = torch.ones(4, 70_000)
    grad[1, 3], grad[2, 9] = INF, float("nan")
    readings = measure([grad], layout_of([grad], [0]), UNITS, params=[grad], engine=choose([grad], engine))
    units = np.asarray(readings.unit_sum_sq)
    np.testing.assert_allclose(units[[0, 3]], 70_000.0, rtol=1e-15)
    assert units[1] == INF
    assert np.isnan(units[2])
    assert np.isnan(np.asarray(readings.sum_sq)[0])


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 3), st.integers(-1, 1)), max_size=5), st.integers(0, 2**32))
def test_any_shapes_in_any_order(shapes, seed):
    generator = torch.Generator().manual_seed(seed)
    grads = [torch.randn(rows, columns, generator=generator) for rows, columns, _ in shapes]
    for engine in ENGINES:
        readings = assert_units_agree(grads, grads, [dim for *_, dim in shapes], engine)
        whole = measure(grads, readings.layout, engine=choose(grads, engine))
        np.testing.assert_allclose(np.asarray(readings.sum_sq), np.asarray(whole.sum_sq), rtol=1e-6)


@pytest.mark.parametrize("engine", ENGINES)
def test_learning_rates_are_those_of_the_groups(engine):
    layout = Layout(("a", "b", "c"), groups=(1, 0, 1))
    grads = [torch.ones(1), None, torch.ones(2)]
    for groups in ([{"lr": 0.5}, {"lr": 0.25}], [{"lr": 0.5}, {"lr": torch.tensor(0.25)}]):
        readings = measure(grads, layout, frozenset({"lr"}), groups=groups, engine=choose(grads[:1], engine))
        assert np.asarray(readings.lr).tolist() == [0.25, 0.5, 0.25]
        assert np.asarray(readings.lr).dtype == np.float64
    assert measure_arrays([None] * 3, layout, frozenset({"lr"}), groups=groups).lr.tolist() == [0.25, 0.5, 0.25]


@pytest.mark.parametrize("need", ["units", "param_norm", "param_norm:10", "lr", "update_rms"])
def test_a_reading_without_what_it_is_taken_from_is_refused(need):
    layout = Layout(("a",), shapes=((1,),))
    with pytest.raises(ArgumentError, match=r"not given.*reading-unknown"):
        measure([torch.ones(1)], layout, frozenset({need}))
    with pytest.raises(ArgumentError, match=r"not given.*reading-unknown"):
        measure_arrays([np.ones(1)], layout, frozenset({need}))


def test_groups_without_the_settings_and_layouts_without_shapes_are_refused():
    layout, grads = Layout(("a",)), [torch.ones(1)]
    with pytest.raises(ArgumentError, match="learning rate"):
        measure(grads, layout, frozenset({"lr"}), groups=[{}])
    with pytest.raises(ArgumentError, match="betas"):
        measure(grads, layout, frozenset({"update_rms"}), groups=[{"lr": 1.0}], slots=[{}])
    with pytest.raises(ArgumentError, match="layout-shapes"):
        measure(grads, layout, UNITS, params=grads)


def test_a_cadence_is_a_leave_to_read_less_and_a_condition_is_no_reading():
    grads = [torch.tensor([3.0, 4.0])]
    readings = measure(grads, Layout(("a",)), frozenset({"param_norm:10", "second_moment"}), params=grads)
    assert readings.param_norm.tolist() == [5.0]
