import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from steadygrad.schema import STEPS
from steadygrad.store import PartWriter, Values, list_parts, parts, read_parts, write_part

FLOAT32 = st.floats(width=32, allow_nan=True, allow_infinity=True)


def make_table(first, rows, width, value=1.0):
    return {
        "row": Values(np.arange(first, first + rows)),
        "step": Values(np.arange(first, first + rows) + 1),
        "grad_norm": Values(np.full((rows, width), value, np.float32)),
    }


@given(values=hnp.arrays(np.float32, (3, 4), elements=FLOAT32), missing=hnp.arrays(bool, (3, 4)))
def test_per_tensor_values_come_back_as_they_were(tmp_path_factory, values, missing):
    folder = tmp_path_factory.mktemp("steps")
    write_part(folder, STEPS, make_table(0, 3, 4) | {"grad_norm": Values(values, missing)}, 4)
    table, width, problems = read_parts(folder, STEPS)
    assert (width, problems) == (0 if missing.all() else 4, [])
    if not missing.all():
        read = table["grad_norm"]
        np.testing.assert_array_equal(read.data, np.where(missing, np.nan, values))
        np.testing.assert_array_equal(read.missing if read.missing is not None else np.zeros((3, 4), bool), missing)


@given(values=hnp.arrays(np.float64, 5, elements=st.floats()), missing=hnp.arrays(bool, 5))
def test_scalars_come_back_as_they_were(tmp_path_factory, values, missing):
    folder = tmp_path_factory.mktemp("steps")
    write_part(folder, STEPS, make_table(0, 5, 1) | {"loss": Values(values, missing)}, 1)
    read = read_parts(folder, STEPS)[0].get("loss", Values(np.full(5, np.nan), np.ones(5, bool)))
    np.testing.assert_array_equal(read.data, np.where(missing, np.nan, values))
    np.testing.assert_array_equal(read.missing if read.missing is not None else np.zeros(5, bool), missing)


def test_nan_is_not_null(tmp_path):
    write_part(tmp_path, STEPS, make_table(0, 2, 2, np.nan), 2)
    assert pq.read_table(tmp_path).column("grad_norm").to_pylist()[0] == pytest.approx([np.nan, np.nan], nan_ok=True)
    assert read_parts(tmp_path, STEPS)[0]["grad_norm"].missing is None


def test_narrower_parts_are_padded(tmp_path):
    write_part(tmp_path, STEPS, make_table(0, 2, 1), 1)
    write_part(tmp_path, STEPS, make_table(2, 2, 3), 3)
    table, width, _ = read_parts(tmp_path, STEPS)
    assert width == 3
    np.testing.assert_array_equal(table["grad_norm"].missing[:, 1], [True, True, False, False])
    np.testing.assert_array_equal(table["grad_norm"].data[:, 0], 1.0)


def test_merging_keeps_every_row_and_few_files(tmp_path):
    writer = PartWriter(tmp_path, STEPS)
    for i in range(parts.FAN * 5 + 3):
        writer.append(make_table(2 * i, 2, 1 + i // 100, i), 2)
        writer.merge(2)
    assert len(list_parts(tmp_path)) == 5 + 3
    table, _, problems = read_parts(tmp_path, STEPS)
    np.testing.assert_array_equal(table["row"].data, np.arange(2 * (parts.FAN * 5 + 3)))
    np.testing.assert_array_equal(table["grad_norm"].data[:, 0], table["row"].data // 2)
    assert problems == []
    writer.merge_all(2)
    assert len(list_parts(tmp_path)) == 1
    np.testing.assert_array_equal(read_parts(tmp_path, STEPS)[0]["row"].data, table["row"].data)


def test_merged_parts_stay_below_the_bound(tmp_path, monkeypatch):
    monkeypatch.setattr(parts, "MAX_PART_BYTES", 40_000)
    monkeypatch.setattr(parts, "FAN", 4)
    writer = PartWriter(tmp_path, STEPS)
    noise = np.random.default_rng(0).random((200, 100, 10), np.float32)
    for i in range(200):
        writer.append(make_table(100 * i, 100, 10) | {"grad_norm": Values(noise[i])}, 10)
        writer.merge(10)
    writer.merge_all(10)
    assert max(part.path.stat().st_size for part in list_parts(tmp_path)) < 44_000  # what each file needs for itself comes on top
    assert len(list_parts(tmp_path)) < 60
    table, _, _ = read_parts(tmp_path, STEPS)
    np.testing.assert_array_equal(table["row"].data, np.arange(20_000))
    np.testing.assert_array_equal(table["grad_norm"].data, noise.reshape(-1, 10))


def test_part_that_a_crash_left_behind_is_superseded(tmp_path):
    writer = PartWriter(tmp_path, STEPS)
    for i in range(parts.FAN):
        writer.append(make_table(i, 1, 1), 1)
    left = writer.parts[3].path.read_bytes()
    writer.merge(1)
    (tmp_path / "part-000000003-000000003.parquet").write_bytes(left)
    np.testing.assert_array_equal(read_parts(tmp_path, STEPS)[0]["row"].data, np.arange(parts.FAN))


def test_parts_below_an_unreadable_merged_part_still_count(tmp_path):
    for i in range(3):
        write_part(tmp_path, STEPS, make_table(i, 1, 1), 1)
    (tmp_path / "part-000000000-000000002.parquet").write_bytes(b"PAR1 and nothing else")
    table, _, problems = read_parts(tmp_path, STEPS)
    np.testing.assert_array_equal(table["row"].data, [0, 1, 2])
    assert "part-000000000-000000002.parquet is not a whole Parquet file" in problems[0]


def test_truncated_part_is_left_out_and_named(tmp_path):
    for i in range(2):
        part = write_part(tmp_path, STEPS, make_table(i, 1, 1), 1)
    part.path.write_bytes(part.path.read_bytes()[:-20])
    table, _, problems = read_parts(tmp_path, STEPS)
    np.testing.assert_array_equal(table["row"].data, [0])
    assert len(problems) == 1
    assert part.path.name in problems[0]


def test_part_that_vanishes_while_reading_is_looked_for_again(tmp_path, monkeypatch):
    write_part(tmp_path, STEPS, make_table(0, 2, 1), 1)
    stale = [parts.Part(tmp_path / "part-000000000-000000000.parquet", 0, 0, 0)]
    listings = [stale, list_parts(tmp_path)]
    monkeypatch.setattr(parts, "list_parts", lambda folder: listings.pop(0))
    table, _, problems = read_parts(tmp_path, STEPS)
    assert (len(table["row"].data), problems) == (2, [])


def test_failed_write_leaves_nothing(tmp_path):
    with pytest.raises(FileNotFoundError):
        write_part(tmp_path / "gone" / "steps", STEPS, make_table(0, 1, 1), 1)
    assert list(tmp_path.iterdir()) == []
