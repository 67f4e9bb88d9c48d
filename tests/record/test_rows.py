import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from steadygrad.decision import Decision, Reason
from steadygrad.readings import Layout, Readings
from steadygrad.record.columns import ParameterColumns
from steadygrad.record.rows import StepRecord, gather, step_table

NAMES = ("a", "b", "c")
NOTHING = Decision()
SQUARES = hnp.arrays(np.float64, 3, elements=st.floats(0, 1e60) | st.sampled_from([np.inf, np.nan]))


def table_of(readings, decision=NOTHING):
    columns = ParameterColumns()
    columns.add(0, readings.layout)
    return step_table([(0, StepRecord(0, 1, 0.0, readings, decision))], columns, 0.0)


@given(sum_sq=SQUARES, scale=hnp.arrays(np.float64, 3, elements=st.floats(0, 2)))
def test_derived_columns_are_what_the_readings_say(sum_sq, scale):
    readings = Readings(Layout(NAMES), np, sum_sq)
    with np.errstate(all="ignore"):
        table = table_of(readings, Decision(scale=scale))
        np.testing.assert_allclose(table["total_norm"].data[0], readings.total_norm(), rtol=1e-12)
        np.testing.assert_allclose(table["total_norm_after"].data[0], readings.scaled(scale).total_norm(), rtol=1e-12)
        finite = np.isfinite(sum_sq)
        expected = np.where(finite, np.minimum(np.sqrt(sum_sq), np.finfo(np.float32).max), np.sqrt(sum_sq))
        np.testing.assert_allclose(table["grad_norm"].data[0], expected.astype(np.float32))
    np.testing.assert_array_equal(table["scale"].data[0], scale.astype(np.float32))


@pytest.mark.parametrize("scale", [0.5, np.float32(0.5), np.array(0.5), torch.tensor(0.5), torch.tensor([0.5] * 3)])
def test_coefficient_of_every_kind_of_scale(scale):
    table = table_of(Readings(Layout(NAMES), np, np.array([4.0, 4.0, 1.0])), Decision(scale=scale))
    assert table["coefficient"].data[0] == pytest.approx(0.5)
    assert table["total_norm_after"].data[0] == pytest.approx(1.5)


def test_nothing_done_is_a_coefficient_of_one():
    table = table_of(Readings(Layout(NAMES), np, np.zeros(3)))
    assert table["coefficient"].data[0] == 1.0
    assert table["scale"].missing.all()


def test_after_a_clamp_the_norm_is_unknown():
    table = table_of(Readings(Layout(NAMES), np, np.ones(3)), Decision(scale=0.5, clamp=(-1.0, 1.0)))
    assert table["total_norm_after"].missing.all()
    assert table["coefficient"].missing.all()
    assert not table["total_norm"].missing.any()


def test_absent_gradients_are_null_and_not_zero():
    table = table_of(Readings(Layout(NAMES), np, np.array([1.0, 0.0, 0.0]), np.array([True, True, False])))
    np.testing.assert_array_equal(table["grad_norm"].missing, [[False, False, True]])
    np.testing.assert_array_equal(table["grad_norm"].data, [[1.0, 0.0, np.nan]])


def test_tensors_and_numbers_mix():
    values = [1.0, torch.tensor(2.0, requires_grad=True), torch.tensor([3.0], dtype=torch.bfloat16), None, np.float32(5), 6, True]
    np.testing.assert_array_equal(gather(values), [1, 2, 3, np.nan, 5, 6, 1])


def test_values_of_another_size_are_unknown():
    np.testing.assert_array_equal(gather([torch.ones(2), np.ones(3), torch.ones(())]), [np.nan, np.nan, 1])
    np.testing.assert_array_equal(gather([torch.ones(2), None], 2), [[1, 1], [np.nan, np.nan]])


def test_columns_of_torch_readings():
    readings = Readings(Layout(NAMES), torch, torch.tensor([9.0, 16.0, torch.inf]))
    decision = Decision(skip=torch.tensor(True), reason=torch.tensor(int(Reason.NON_FINITE)), threshold=torch.tensor(1.0))
    record = StepRecord(0, 1, 2.5, readings, decision, torch.tensor(torch.nan), 0.1, torch.tensor(True))
    columns = ParameterColumns()
    table = step_table([(7, record)], columns, 1.0)
    assert [table[k].data[0] for k in ("row", "time", "reason", "threshold", "skipped")] == [
        7,
        1.5,
        int(Reason.NON_FINITE),
        1.0,
        True,
    ]
    assert np.isnan(table["loss"].data[0])
    assert not table["loss"].missing.any()
    np.testing.assert_array_equal(table["grad_norm"].data, [[3, 4, np.inf]])


def test_equal_names_of_two_optimizers_are_told_apart():
    columns = ParameterColumns()
    layout = Layout(("w", "w#2"))
    columns.add(0, layout)
    columns.add(1, layout)
    assert [each["name"] for each in columns.parameters] == ["w", "w#2", "w#3", "w#2#2"]
    readings = Readings(layout, np, np.array([1.0, 4.0]))
    table = step_table([(i, StepRecord(i, 1, 0.0, readings, Decision())) for i in (0, 1)], columns, 0.0)
    np.testing.assert_array_equal(table["grad_norm"].data, [[1, 2, np.nan, np.nan], [np.nan, np.nan, 1, 2]])


def test_new_layouts_match_by_name_at_any_position():
    columns = ParameterColumns()
    columns.add(0, Layout(("a", "b")))
    columns.add(0, Layout(("new", "b", "a")))
    np.testing.assert_array_equal(columns.of(0, Layout(("new", "b", "a"))), [2, 1, 0])
