"""All benchmarks: a table on stdout, and JSON beside it.

    python benchmarks/run.py [--quick] [--json FILE] [clipping] [watching] [starting]

Everything that is compared runs side by side in one process, in turn, and ratios are medians over paired rounds, so that they
hold on a machine whose speed drifts. Times in milliseconds are this machine's and mean nothing elsewhere.
"""

from __future__ import annotations

import argparse
import json
import platform
from pathlib import Path
from typing import Any

import clipping
import starting
import torch
import watching
from rich.console import Console
from rich.table import Table

# What the project promises, as multiples of torch's `clip_grad_norm_` on GPT-2 124M (and of the floor), and of a bare step.
BUDGETS = {
    "GPT-2 124M": {
        ("not binding", "steadygrad clip_grad_norm_"): (0.45, 1.25),
        ("not binding", "Guard, SGD"): (0.45, 1.25),
        ("not binding", "Guard, fused SGD"): (0.45, 1.25),
        ("binding", "steadygrad clip_grad_norm_"): (0.85, None),
        ("binding", "Guard, SGD"): (0.85, None),
        ("binding", "Guard, fused SGD"): (0.45, 1.25),
    },
}
NEVER_SLOWER = ("1000 x 64x64", "LeNet-5")
STEP_BUDGETS = {"LeNet-5": 0.03, "LSTM, 2 layers": 0.015, "transformer, 6 layers": 0.015}


def main() -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help="default: all")
    parser.add_argument("--quick", action="store_true", help="few rounds; figures are rough")
    parser.add_argument("--json", type=Path, default=Path("bench.json"))
    args = parser.parse_args()
    parts = args.parts or ["clipping", "watching", "starting"]
    console = Console(width=120)
    results: dict[str, Any] = {"environment": environment()}
    console.print(*(f"{key} {value}" for key, value in results["environment"].items()), sep=", ")
    if "clipping" in parts:
        results["clipping"] = clipping.run(rounds=5 if args.quick else 21)
        console.print(clipping_table(results["clipping"]))
    if "watching" in parts:
        results["watching"] = watching.run(pairs=15 if args.quick else 120)
        console.print(watching_table(results["watching"]))
    if "starting" in parts:
        results["starting"] = starting.run(rounds=3 if args.quick else 7)
        console.print(starting_table(results["starting"]))
    args.json.write_text(json.dumps(results, indent=1) + "\n")
    console.print(f"written to {args.json}")


def environment() -> dict[str, Any]:
    """What the figures depend on."""
    return {
        "torch": torch.__version__,
        "python": platform.python_version(),
        "threads": torch.get_num_threads(),
        "machine": platform.machine(),
    }


def clipping_table(rows: list[dict[str, Any]]) -> Table:
    """Time of one call, and ratios."""
    table = Table("model", "case", "call", "ms", "x torch", "x one read", "budget", title="Clipping: one call")
    for row in rows:
        budget = BUDGETS.get(row["model"], {}).get((row["case"], row["contender"]))
        if row["model"] in NEVER_SLOWER and "torch" not in row["contender"] and "dot" not in row["contender"]:
            budget = (1.0, None)
        figures = f"{row['milliseconds']:.3f}", f"{row['times_torch']:.2f}", f"{row['times_floor']:.2f}"
        table.add_row(
            row["model"], row["case"], row["contender"], *figures, _verdict((row["times_torch"], row["times_floor"]), budget)
        )
    return table


def watching_table(rows: list[dict[str, Any]]) -> Table:
    """Share of a training step that watching adds."""
    table = Table(
        "model", "bare step, ms", "hooks", "quartiles", "writer", "together", "budget", title="Watching: share of a step"
    )
    for row in rows:
        low, high = row["hooks_quartiles"]
        spread = f"{low:.1%} .. {high:.1%}"
        figures = f"{row['bare_ms']:.2f}", f"{row['hooks']:.2%}", spread, f"{row['writer']:.2%}", f"{row['overhead']:.2%}"
        table.add_row(row["model"], *figures, _verdict((row["overhead"],), (STEP_BUDGETS.get(row["model"]),)))
    return table


def starting_table(rows: list[dict[str, Any]]) -> Table:
    """Seconds to start."""
    table = Table("what", "seconds", "budget", title="Starting")
    for row in rows:
        table.add_row(row["what"], f"{row['seconds']:.3f}", _verdict((row["seconds"],), (row["budget"],)))
    return table


def _verdict(values: tuple[float, ...], budget: tuple[float | None, ...] | None) -> str:
    limits = [(value, limit) for value, limit in zip(values, budget or (), strict=False) if limit is not None]
    if not limits:
        return ""
    words = " and ".join(f"<= {limit:g}" for _, limit in limits)
    return f"{words}: {'yes' if all(value <= limit for value, limit in limits) else 'NO'}"


if __name__ == "__main__":
    main()
