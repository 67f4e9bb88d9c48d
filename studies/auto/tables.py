"""The study's tables in Markdown, from its results."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from steadygrad.policies import parse_policy

BEGIN, END = "<!-- tables: begin -->", "<!-- tables: end -->"
DRAWS, LOST = 2000, 1e6
Rows = list[dict[str, Any]]
SPIKES = ("gradient x1000", "bad batch", "one tensor x1000", "random direction x100", "one NaN")
SETTINGS = ("lenet x1", "lenet x3", "lenet x10", "lenet adam x1", "lenet adam x3", "lenet adam x10")
PIXELS = ("pixels x1", "pixels x3", "pixels x10")
HEALTHY = ("spikes", "lenet x1", "lenet adam x1", "pixels x1")


def interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean and its 95 % bootstrap interval over seeds (percentiles of the means of samples with replacement)."""
    sample = np.asarray(values, dtype=float)
    draws = np.random.default_rng(0).choice(sample, (DRAWS, len(sample))).mean(1)
    low, high = np.quantile(draws, [0.025, 0.975])
    return float(sample.mean()), float(low), float(high)


def spread(values: Sequence[float], digits: int = 3) -> str:
    """``mean [low, high]`` as text."""
    if not values:
        return "-"
    return "{:.{d}f} [{:.{d}f}, {:.{d}f}]".format(*interval(values), d=digits)


def table(title: str, rows: Rows, columns: dict[str, Callable[[Rows], str]]) -> str:
    """One line per contender, in the order of their first results."""
    contenders = list(dict.fromkeys(row["contender"] for row in rows))
    lines = [f"### {title}", "", f"| contender | {' | '.join(columns)} |", "|---|" + "--:|" * len(columns)]
    for contender in sorted(contenders, key=_order):
        mine = [row for row in rows if row["contender"] == contender]
        lines.append(f"| `{shown(contender)}` | {' | '.join(column(mine) for column in columns.values())} |")
    return "\n".join(lines)


def shown(contender: str) -> str:
    """The contender's text as the policy shows it, without defaults."""
    return contender if contender == "none" else parse_policy(contender).text


def _order(contender: str) -> tuple[int, float, str]:
    kinds = ("none", "clip_by_global_norm", "auto(")
    kind = next((i for i, name in enumerate(kinds) if contender.startswith(name)), 1.5)
    number = contender.partition("norm(")[2].rstrip(")")
    return (int(kind * 2), float(number) if number else 0.0, contender)


def scar(kind: str) -> Callable[[Rows], str]:
    """A column: loss after a kind of spike over the loss of the same run without it, or how many runs were lost."""

    def cell(rows: Rows) -> str:
        mine = [row for row in rows if row["case"] == "spikes"]
        values = [row[kind] / row["clean"] for row in mine]
        lost = sum(row[kind] >= LOST for row in mine)
        return f"lost {lost}/{len(values)}" if lost else spread(values)

    return cell


def accuracy(case: str) -> Callable[[Rows], str]:
    """A column: test accuracy, and how many runs ended in NaN."""

    def cell(rows: Rows) -> str:
        mine = [row for row in rows if row["case"] == case]
        lost = sum(row["loss"] is None for row in mine)
        return spread([row["accuracy"] for row in mine]) + (f", NaN {lost}/{len(mine)}" if lost else "")

    return cell


def solved(case: str) -> Callable[[Rows], str]:
    """A column: how many runs solved the task, and after how many updates (median)."""

    def cell(rows: Rows) -> str:
        mine = [row["solved"] for row in rows if row["case"] == case]
        when = sorted(value for value in mine if value is not None)
        return f"{len(when)}/{len(mine)}" + (f" ({when[len(when) // 2]})" if when else "") if mine else "-"

    return cell


def touched(case: str) -> Callable[[Rows], str]:
    """A column: share of the steps that were changed, in per cent."""
    return lambda rows: spread([100.0 * row["touched"] for row in rows if row["case"] == case], 1)


def regrowth(case: str) -> Callable[[Rows], str]:
    """A column: the highest loss after the lowest one, median over seeds."""

    def cell(rows: Rows) -> str:
        values = [row["log10 regrowth"] for row in rows if row["case"] == case]
        return f"1e{math.floor(float(np.median(values)))}" if values else "-"

    return cell


def all_tables(rows: Rows) -> str:
    """Every table of the study."""
    parts = [
        table(
            "Spikes: loss in the 500 steps after, over that of the same run without",
            _for(rows, ("spikes",)),
            _spikes(),
        ),
        table("LeNet-5: test accuracy", _for(rows, SETTINGS), {case: accuracy(case) for case in SETTINGS}),
        table("LeNet-5: test loss", _for(rows, SETTINGS), {c: of_finite(c) for c in SETTINGS}),
        table("Recurrent network on pixels: test accuracy", _for(rows, PIXELS), {case: accuracy(case) for case in PIXELS}),
        table("Temporal order: solved (median update)", _for(rows, ("temporal 30-60", "temporal 20")), _temporal()),
        table("Healthy steps touched, per cent", _for(rows, HEALTHY), {case: touched(case) for case in HEALTHY}),
        table("Adam on x²/2: highest loss after the lowest", _for(rows, _ADAM), {case: regrowth(case) for case in _ADAM}),
    ]
    return "\n\n".join(parts)


def of_finite(case: str) -> Callable[[Rows], str]:
    """A column: mean test loss of the runs that did not end in NaN."""
    return lambda rows: spread([row["loss"] for row in rows if row["case"] == case and row["loss"] is not None])


_ADAM = tuple(f"adam beta2={beta2}" for beta2 in (0.99,))


def _for(rows: Rows, cases: Sequence[str]) -> Rows:
    return [row for row in rows if row["case"] in cases]


def _spikes() -> dict[str, Callable[[Rows], str]]:
    return {"loss without a spike, x 1000": _clean} | {kind: scar(kind) for kind in SPIKES}


def _clean(rows: Rows) -> str:
    return spread([1000.0 * row["before"] * row["clean"] for row in rows if row["case"] == "spikes"], 2)


def _temporal() -> dict[str, Callable[[Rows], str]]:
    cases = {"lengths 30-60": "temporal 30-60", "length 20": "temporal 20"}
    return {name: solved(case) for name, case in cases.items()} | {
        f"{name}, touched %": touched(case) for name, case in cases.items()
    }


def write_into(page: Path, rows: Rows) -> None:
    """Put the tables between the page's markers."""
    text = page.read_text(encoding="utf-8")
    before, after = text.partition(BEGIN)[0], text.partition(END)[2]
    page.write_text(f"{before}{BEGIN}\n\n{all_tables(rows)}\n\n{END}{after}", encoding="utf-8")
