"""Directories for runs: taken before the program starts, given back where nothing was recorded."""

import time

import pytest

from steadygrad.errors import RunError
from steadygrad.place import Place


def test_new_places_never_meet(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(time, "strftime", lambda _: "now")
    assert [Place.reserve_new("train").shown for _ in range(3)] == ["runs/train-now", "runs/train-now-2", "runs/train-now-3"]


def test_only_what_was_made_and_is_empty_is_given_back(tmp_path):
    (tmp_path / "old").mkdir()
    place = Place.reserve(tmp_path / "old" / "a" / "b")
    assert place.path.is_dir()
    (tmp_path / "old" / "a" / "kept").touch()
    place.give_back()
    assert not place.path.exists()
    assert (tmp_path / "old" / "a" / "kept").exists()


def test_a_directory_that_was_there_stays(tmp_path):
    Place.reserve(tmp_path).give_back()
    assert tmp_path.is_dir()


@pytest.mark.parametrize(("blocker", "slug"), [("run.json", "run-exists"), ("deeper", "run-unwritable")])
def test_refused_places(tmp_path, blocker, slug):
    (tmp_path / blocker).touch()
    target = tmp_path if blocker == "run.json" else tmp_path / "deeper" / "run"
    with pytest.raises(RunError) as caught:
        Place.reserve(target)
    assert caught.value.slug == slug
    assert [path.name for path in tmp_path.iterdir()] == [blocker]


def test_a_file_called_runs_is_an_error(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").touch()
    with pytest.raises(RunError, match="run-unwritable"):
        Place.reserve_new("train")
