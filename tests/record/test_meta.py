import json
import os
import shutil
import subprocess
import sys

import pytest

from steadygrad.record.meta import environment, git_state, new_meta
from steadygrad.schema import RUN_FIELDS


@pytest.fixture
def repository(tmp_path):
    if shutil.which("git") is None:
        pytest.skip("needs git")

    def git(*args):
        identity = ["-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
        return subprocess.run(["git", *identity, *args], cwd=tmp_path, check=True, capture_output=True, text=True).stdout.strip()

    git("init", "-q")
    (tmp_path / "train.py").write_text("a = 1\n")
    git("add", "train.py")
    git("commit", "-qm", "first")
    return tmp_path, git


def test_commit_and_changes(repository):
    folder, git = repository
    commit = git("rev-parse", "HEAD")
    (folder / "untracked").touch()
    assert git_state(str(folder)) == {"git_commit": commit, "git_dirty": False}
    (folder / "train.py").write_text("a = 2\n")
    assert git_state(str(folder)) == {"git_commit": commit, "git_dirty": True}


def test_no_repository_and_no_git(tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert git_state(str(tmp_path)) == {}
    monkeypatch.setenv("PATH", os.devnull)
    assert git_state(str(tmp_path)) == {}


def test_versions_of_what_is_imported():
    assert environment()["numpy"] == sys.modules["numpy"].__version__
    assert environment().keys() >= {"python", "platform", "cpu_count", "steadygrad"}


def test_command_line_is_text():
    assert new_meta(argv=["train.py", 3])["argv"] == ["train.py", "3"]


def test_recording_and_reading_import_neither_torch_nor_pandas(tmp_path):
    log = tmp_path / "log.csv"
    log.write_text("step,loss\n1,2.0\n2,\n")
    code = """
import sys
from steadygrad.importing import import_log
from steadygrad.runs import load_run
assert len(load_run(import_log(*sys.argv[1:]))) == 1
sys.exit(bool({"torch", "pandas", "tensorboard"} & set(sys.modules)))
"""
    assert subprocess.run([sys.executable, "-c", code, log, tmp_path / "run"], check=False).returncode == 0


def test_every_field_of_run_json_is_described(start):
    recorder = start("a")
    recorder.close()
    meta = json.loads((recorder.path / "run.json").read_text())
    assert set(meta) == set(RUN_FIELDS) - {"imported"}
    assert set(meta["parameters"][0]) == {"name", "shape", "dtype", "numel", "optimizer", "group"}
