"""The report as text."""

import numpy as np
import pytest
from helpers import make_run

from steadygrad.report import text_report
from steadygrad.report.text import sparkline


@pytest.mark.parametrize("unicode", [True, False])
@pytest.mark.parametrize("width", [40, 80, 120])
def test_lines_fit_the_width_whatever_the_run(odd_run, width, unicode):
    text = text_report([odd_run], width=width, unicode=unicode)
    assert all(len(line) <= width and line == line.rstrip() for line in text.splitlines())
    assert "verdict" in text
    assert text.isascii() or unicode


def test_says_verdict_why_next_and_the_findings(exploded):
    lines = text_report([exploded], width=80).splitlines()
    assert lines[1].startswith("verdict  Exploded at step 203")
    assert lines[2].startswith("why      rnn.weight_hh_l0: gradient norm rose from")
    assert any(line.startswith("next     Run again with --policy") for line in lines)
    assert "[error] Exploded at step 203 (exploding-over-time, from step 203)" in lines


def test_several_runs_follow_one_another(exploded, clipped):
    text = text_report([exploded, clipped])
    assert text.index("Exploded at step 203") < text.index("No instability in 300 steps.")


def test_names_cannot_command_the_terminal_or_the_markup():
    names = ("\x1b[31mred", "[bold]w[/bold]")
    text = text_report([make_run(grad_norm=np.ones((30, 2)), loss=np.linspace(2, 1, 30), names=names)])
    assert "\x1b" not in text
    assert "\\x1b[31mred" in text
    assert "[bold]w[/bold]" in text


def test_a_sparkline_keeps_the_peak_and_marks_what_is_not_finite():
    values = np.ones(1000)
    values[500], values[900] = 9.0, np.nan
    line = sparkline(values, 10, ascii_only=True)
    assert line == "_____@___!"


def test_no_runs_give_an_empty_text():
    assert text_report([]).strip() == ""


@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_numbers_are_never_cut_and_names_keep_their_end(width):
    names = tuple(f"a.very.long.module.path.that.goes.on.and.on.block.{i}.weight" for i in range(9))
    norms = np.exp(np.random.default_rng(0).normal(0, 0.1, (30, 9))) * 1.23456e7
    text = text_report([make_run(grad_norm=norms, loss=np.linspace(2, 1, 30), names=names)], width=width)
    table = text[text.index("parameter ") :]
    assert table.count(".weight") == 8
    assert table.count("e+07") >= 16
    assert max(map(len, table.splitlines())) <= width
