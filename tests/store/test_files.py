import json

import numpy as np
import pytest
import torch

from steadygrad.store import append_lines, plain, write_json


def test_json_is_replaced_whole(tmp_path):
    file = tmp_path / "run.json"
    write_json(file, {"a": 1})
    write_json(file, {"a": np.float32(2.0), "b": (np.int64(3), float("nan")), "c": torch.tensor([1.0, float("inf")])})
    assert json.loads(file.read_text()) == {"a": 2.0, "b": [3, "NaN"], "c": [1.0, "Infinity"]}
    assert [each.name for each in tmp_path.iterdir()] == ["run.json"]


def test_json_that_cannot_be_written_leaves_the_old(tmp_path, monkeypatch):
    file = tmp_path / "run.json"
    write_json(file, {"a": 1})

    def full(self, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(type(tmp_path), "replace", full)
    with pytest.raises(OSError, match="No space"):
        write_json(file, {"a": 2})
    assert json.loads(file.read_text()) == {"a": 1}
    assert [each.name for each in tmp_path.iterdir()] == ["run.json"]


def test_lines_are_appended(tmp_path):
    file = tmp_path / "events.jsonl"
    append_lines(file, [{"a": 1}])
    append_lines(file, [{"b": "\n"}, {"c": None}])
    assert [json.loads(line) for line in file.read_text().splitlines()] == [{"a": 1}, {"b": "\n"}, {"c": None}]


def test_what_json_has_no_word_for_becomes_text():
    assert plain([float("-inf"), np.bool_(True), object]) == ["-Infinity", True, "<class 'object'>"]
