import sys

import numpy as np
import pytest

from steadygrad.errors import RunError
from steadygrad.importing import import_log
from steadygrad.runs import load_run


@pytest.fixture
def writer(tmp_path):
    pytest.importorskip("tensorboard")
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(tmp_path / "logs") as writer:
        yield writer


def write(writer, tag, points):
    for step, value in points.items():
        writer.add_scalar(tag, value, step, walltime=1000.0 + step)
    writer.flush()


def test_scalars_become_columns(writer, tmp_path):
    write(writer, "train/loss", {1: 2.0, 2: float("nan"), 3: 1.0, 4: 0.5})
    write(writer, "train/grad_norm", {2: 4.0, 4: float("inf")})
    write(writer, "val/loss", {5: 9.0})
    (file,) = (tmp_path / "logs").iterdir()
    for number, source in enumerate([file, tmp_path / "logs"]):
        run = load_run(import_log(source, tmp_path / str(number)))
        np.testing.assert_array_equal(run.step, [1, 2, 3, 4])
        np.testing.assert_array_equal(run.loss, [2, np.nan, 1, 0.5])
        np.testing.assert_array_equal(run.total_norm, [np.nan, 4, np.nan, np.inf])
        np.testing.assert_array_equal(run.recorded("total_norm"), [False, True, False, True])
        np.testing.assert_array_equal(run.time, [0, 1, 2, 3])
        assert run.meta["imported"]["columns"] == {"loss": "train/loss", "total_norm": "train/grad_norm"}


def test_more_points_than_the_viewer_keeps(writer, tmp_path):
    write(writer, "loss", {step: 1.0 / step for step in range(1, 12_001)})
    assert len(load_run(import_log(tmp_path / "logs", tmp_path / "run"))) == 12_000


def test_tensors_of_one_number_count_as_scalars(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.compat.proto import event_pb2, summary_pb2
    from tensorboard.summary.writer.event_file_writer import EventFileWriter
    from tensorboard.util.tensor_util import make_tensor_proto

    events = EventFileWriter(str(tmp_path / "logs"))
    for step in (1, 2):
        value = summary_pb2.Summary.Value(tag="loss", tensor=make_tensor_proto(np.float32(step)))
        value.metadata.plugin_data.plugin_name = "scalars"
        events.add_event(event_pb2.Event(wall_time=step, step=step, summary=summary_pb2.Summary(value=[value])))
    events.close()
    assert load_run(import_log(tmp_path / "logs", tmp_path / "run")).loss.tolist() == [1.0, 2.0]


def test_no_loss_and_no_norm(writer, tmp_path):
    write(writer, "accuracy", {1: 0.5})
    with pytest.raises(RunError, match=r"found 'accuracy'; rename one \[log-no-values\]"):
        import_log(tmp_path / "logs", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_without_tensorboard_the_extra_is_named(tmp_path, monkeypatch):
    (tmp_path / "events.out.tfevents.1").touch()
    monkeypatch.setitem(sys.modules, "tensorboard.backend.event_processing.event_accumulator", None)
    with pytest.raises(RunError, match=r"pip install 'steadygrad\[tensorboard\]'.*\[extra-missing\]"):
        import_log(tmp_path, tmp_path / "run")
