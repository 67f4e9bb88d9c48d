import errno

import numpy as np
import pytest

from steadygrad.errors import ArgumentError, RunError
from steadygrad.importing import FORMATS, convert, import_log
from steadygrad.runs import load_run


@pytest.fixture
def imported(tmp_path):
    """Imports a log of this content and name, and reads the run."""

    def read(text, name="log.csv", **kwargs):
        file = tmp_path / name
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
        return load_run(import_log(file, tmp_path / "run", **kwargs))

    return read


def test_run_that_was_imported(imported, tmp_path):
    run = imported("step,loss,grad_norm,lr\n10,2.5,0.5,0.1\n20,nan,inf,\n")
    np.testing.assert_array_equal(run.step, [10, 20])
    np.testing.assert_array_equal(run.loss, [2.5, np.nan])
    np.testing.assert_array_equal(run.total_norm, [0.5, np.inf])
    np.testing.assert_array_equal([run.recorded("loss"), run.recorded("lr")], [[True, True], [True, False]])
    assert (len(run.layout), run.grad_norm.shape, run.scale, run.problems) == (0, (2, 0), None, ())
    assert not run.recorded("coefficient").any()
    assert not run.skipped.any()
    assert run.meta["imported"] == {
        "source": str(tmp_path / "log.csv"),
        "format": "csv",
        "columns": {"step": "step", "loss": "loss", "total_norm": "grad_norm", "lr": "lr"},
    }


@pytest.mark.parametrize(
    ("source", "slug"),
    [
        (("log.csv", "time,loss\n1,2\n"), "log-no-step"),
        (("log.csv", "step,accuracy\n1,2\n"), "log-no-values"),
        (("log.csv", "step,val_loss\n1,2\n"), "log-no-values"),
        (("log.csv", ""), "log-empty"),
        (("log.csv", "step,loss\n"), "log-empty"),
        (("log.csv", "step,loss\n1,abc\n"), "log-bad-value"),
        (("log.csv", "step,loss\n1.5,2\n"), "log-bad-value"),
        (("log.csv", b"\xff\xfe\x00"), "log-unreadable"),
        (("log.csv.gz", b"\x1f\x8b and no more"), "log-unreadable"),
        (("trainer_state.json", "{"), "log-unreadable"),
        (("trainer_state.json", '{"epoch": 1}'), "log-format-unknown"),
        (("trainer_state.json", "[]"), "log-format-unknown"),
        (("trainer_state.json", '{"log_history": []}'), "log-empty"),
        (("trainer_state.json", '{"log_history": [{"step": 1, "eval_loss": 2.0}]}'), "log-no-values"),
        (("weights.bin", "step,loss\n1,2\n"), "log-format-unknown"),
    ],
)
def test_what_is_not_understood_makes_no_directory(imported, tmp_path, source, slug):
    name, text = source
    with pytest.raises(RunError, match=rf"^expected .*\[{slug}\]$") as caught:
        imported(text, name)
    assert caught.value.slug == slug
    assert not (tmp_path / "run").exists()


def test_messages_say_what_was_found(imported):
    with pytest.raises(RunError, match=r"found 'time', 'loss'; rename one"):
        imported("time,loss\n1,2\n")
    with pytest.raises(RunError, match=r"expected a number in .*log.csv, row 3, got 'abc'"):
        imported("step,loss\n1,2\n2,abc\n")


def test_source_that_is_not_there_and_format_that_is_not_known(tmp_path):
    with pytest.raises(RunError, match=r"does not exist.*\[log-missing\]"):
        import_log(tmp_path / "log.csv", tmp_path / "run")
    with pytest.raises(RunError, match=r"found neither.*\[log-format-unknown\]"):
        import_log(tmp_path, tmp_path / "run")
    with pytest.raises(ArgumentError, match="csv, tensorboard, trainer_state, got 'xml'"):
        import_log(tmp_path, tmp_path / "run", format="xml")
    assert sorted(FORMATS) == ["csv", "tensorboard", "trainer_state"]


def test_format_that_is_given_wins(imported):
    assert len(imported("step,loss\n1,2\n", "data.json", format="csv")) == 1


def test_target_that_holds_a_run_is_left_alone(imported, tmp_path):
    imported("step,loss\n1,2\n")
    with pytest.raises(RunError, match=r"\[run-exists\]"):
        imported("step,loss\n1,3\n")
    assert load_run(tmp_path / "run").loss.tolist() == [2.0]


def test_full_disk_leaves_nothing(imported, tmp_path, monkeypatch):
    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(convert, "write_part", full)
    with pytest.raises(RunError, match=r"No space left on device.*\[run-unwritable\]"):
        imported("step,loss\n1,2\n")
    assert not (tmp_path / "run").exists()
