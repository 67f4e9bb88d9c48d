"""The sampled readings."""

import numpy as np
import pytest
import torch
from torch import nn

import steadygrad as sg
from steadygrad.measure.checkup import Checkup


class Kept:
    def __init__(self):
        self.rows = []

    def checkup(self, **row):
        self.rows.append(row)


def test_due_at_1_10_and_every_100th():
    assert [step for step in range(1, 301) if Checkup.due(step)] == [1, 10, 100, 200, 300]


def test_update_ratio_is_that_of_the_step(tmp_path):
    w = nn.Parameter(torch.full((5000,), 2.0))
    optimizer = torch.optim.SGD([w], lr=0.5)
    guard = sg.Guard(optimizer, record=tmp_path / "run")
    w.grad = torch.full((5000,), 0.4)
    w.grad[7] = -3.0
    optimizer.step()
    guard.detach()
    checkups = sg.load_run(tmp_path / "run").checkups
    assert checkups.abs_max[0, 0] == 3.0
    assert checkups.param_norm[0, 0] == pytest.approx(2 * 5000**0.5)
    assert checkups.update_ratio[0, 0] == pytest.approx(0.1, rel=1e-4)  # a sample of the elements, and not the seventh


def test_a_step_of_several_evaluations_is_compared_with_its_beginning():
    sink = Kept()
    check = Checkup(sink)
    w = nn.Parameter(torch.ones(3))
    for _ in range(2):
        check.begin([w])
        with torch.no_grad():
            w += 1.0
    readings = sg.Readings(sg.Layout(("w",)), np, np.ones(1))
    check.finish(0, 1, [w], readings)
    assert sink.rows[0]["update_ratio"].tolist() == [2.0]
    assert not check.begun


def test_zero_parameters_have_no_ratio_and_complex_ones_count_by_modulus():
    sink = Kept()
    check = Checkup(sink)
    zero, turned = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.ones(2, dtype=torch.cfloat))
    check.begin([zero, turned])
    with torch.no_grad():
        turned *= 1j
    check.finish(0, 1, [zero, turned], sg.Readings(sg.Layout(("z", "t")), np, np.ones(2)))
    ratio = sink.rows[0]["update_ratio"]
    assert torch.isnan(ratio[0])
    assert float(ratio[1]) == pytest.approx(2**0.5)


def test_cancel_forgets():
    check = Checkup(Kept())
    check.begin([nn.Parameter(torch.ones(1))])
    check.cancel()
    assert not check.begun
