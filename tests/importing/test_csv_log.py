import csv
import gzip

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from steadygrad.importing import import_log
from steadygrad.importing.csv_log import read_csv
from steadygrad.runs import load_run

FIELDS = {"loss": "loss", "total_norm": "grad_norm", "lr": "lr"}


def read(folder, text):
    file = folder / "log.csv"
    file.write_text(text)
    return read_csv(file)


@pytest.mark.parametrize(
    "header",
    [
        "step,loss,grad_norm",
        "Iteration;Train Loss;Gradient Norm",
        "global_step\ttrain/loss\ttrain/grad_norm",
        "iter,training_loss,global_grad_norm",
        "# epoch loss total_norm",
        '"Step","run a - train/loss","run a - train.grad-norm"',
        "\ufeffstep,train_loss_step,grad_2.0_norm_total",
    ],
)
def test_spellings_of_the_header(tmp_path, header):
    delimiter = next(each for each in ",;\t " if each in header.lstrip("# ").replace("run a - ", "") and header.count(each) > 1)
    log = read(tmp_path, header + "\n" + delimiter.join(["1", "2.5", "0.5"]))
    assert (log.steps, log.rows) == ([1], [{"loss": 2.5, "total_norm": 0.5}])


def test_held_out_losses_are_not_the_loss(tmp_path):
    log = read(tmp_path, "step,val/loss,eval/loss,train/ce/loss\n1,9,9,2\n")
    assert log.names["loss"] == "train/ce/loss"


def test_header_in_the_middle_blank_lines_and_short_rows(tmp_path):
    log = read(tmp_path, "step,loss,lr\n1,2,0.1\n\n2,3\nstep,loss,lr\n,4,1\n3,,\n4,inf,null\n")
    assert log.steps == [1, 2, 4]
    assert log.rows == [{"loss": 2, "lr": 0.1}, {"loss": 3}, {"loss": np.inf}]


def test_neighbouring_rows_of_one_step_are_joined(tmp_path):
    log = read(tmp_path, "step,train_loss,lr-SGD,lr,val_loss\n0,,,0.1,\n0,2.0,,,\n0,,,,1.5\n1,1.0,,,\n1,1.1,,,\n")
    assert log.steps == [0, 1, 1]
    assert log.rows == [{"lr": 0.1, "loss": 2.0}, {"loss": 1.0}, {"loss": 1.1}]


NUMBER = st.none() | st.floats()


@given(rows=st.lists(st.tuples(NUMBER, NUMBER, NUMBER), min_size=1))
def test_every_value_comes_back(tmp_path_factory, rows):
    folder = tmp_path_factory.mktemp("csv")
    with (folder / "log.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["step", *FIELDS.values()])
        writer.writerows([i, *("" if each is None else repr(each) for each in row)] for i, row in enumerate(rows))
    kept = [(i, row) for i, row in enumerate(rows) if any(each is not None for each in row)]
    if kept:
        run = load_run(import_log(folder / "log.csv", folder / "run"))
        np.testing.assert_array_equal(run.step, [i for i, _ in kept])
        for at, field in enumerate(FIELDS):
            values = [row[at] for _, row in kept]
            np.testing.assert_array_equal(getattr(run, field), np.array(values, dtype=float))
            np.testing.assert_array_equal(run.recorded(field), [each is not None for each in values])


@pytest.mark.parametrize("family", ["algoperf", "modded-nanogpt", "pythia", "step-back"])
def test_real_logs(shared, tmp_path, family):
    files = sorted((shared / "data" / "logs" / family).glob("*.csv.gz"), key=lambda file: file.stat().st_size)
    for number, file in enumerate([*files[:6], files[-1]]):
        run = load_run(import_log(file, tmp_path / str(number)))
        with gzip.open(file, "rt") as lines:
            header, *rows = list(csv.reader(lines))
        expected = np.array(rows, dtype=float)
        np.testing.assert_array_equal(run.step, expected[:, 0])
        np.testing.assert_array_equal(run.loss, expected[:, 1])
        assert run.recorded("total_norm").all() == ("grad_norm" in header)
        if "grad_norm" in header:
            np.testing.assert_array_equal(run.total_norm, expected[:, 2])
