"""Every policy and transform on GPT-2 124M, against our own clip of the global norm and the published implementations.

    python benchmarks/methods.py [--quick] [--json FILE] [--only TEXT]

What a Guard does around a step is timed, without the optimizer's own step. Before each timed call, gradients and the policy's
state are put back, so that every call of a row has the same to do; a policy that writes is compared with a clip that writes.
Ratios are medians over paired rounds, taken in turn. Extra memory is the most that is allocated at once during one call, beyond
what it leaves behind, in units of the largest gradient.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # read by torch's profiler when it is imported

import references
import torch
from cases import BINDS, CONSTRAINTS, NOT_TIMED, POLICIES, RESTS, TRANSFORMS, Case
from rich.console import Console
from rich.table import Table
from run import environment
from shapes import Shapes, gpt2, resnet50
from torch import nn
from torch.profiler import ProfilerActivity, profile

import steadygrad as sg

BASES = {BINDS: sg.clip_by_global_norm(0.5), RESTS: sg.clip_by_global_norm(1e30)}
MOST_MEMORY = 1.01
"""Budget for a transform: one tensor of the largest gradient's size, and a few numbers."""


class Workbench:
    """Parameters with gradients that can be put back.

    Args:
        shapes: of the parameters.
    """

    def __init__(self, shapes: Shapes) -> None:
        self.params = [nn.Parameter(0.02 * torch.randn(shape)) for shape in shapes]
        self.originals = [torch.randn(shape) for shape in shapes]
        norm = torch.nn.utils.get_total_norm(self.originals)
        for param, original in zip(self.params, self.originals, strict=True):
            original.div_(norm)
            param.grad = original.clone()
        self.largest = max(4 * param.numel() for param in self.params)
        self.norms = [float(original.norm()) for original in self.originals]

    def put_back(self, size: float) -> None:
        """Gradients whose global norm is ``size``."""
        for param, original in zip(self.params, self.originals, strict=True):
            torch.mul(original, size, out=param.grad)


class Contender:
    """One call to be timed, and what has to be restored before it."""

    def __init__(self, bench: Workbench, call: Callable[[], Any], size: float = 1.0, restore: Callable[[], Any] | None = None):
        self.bench, self.call, self.size, self.restore = bench, call, size, restore

    def seconds(self, calls: int = 1) -> float:
        """Seconds of so many calls."""
        self.bench.put_back(self.size)
        if self.restore is not None:
            self.restore()
        start = time.perf_counter()
        for _ in range(calls):
            self.call()
        return time.perf_counter() - start

    def extra_memory(self) -> float:
        """The most bytes that one call allocates beyond what it leaves, as a multiple of the largest gradient."""
        self.bench.put_back(self.size)
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as profiled:
            self.call()
        events = [event for event in profiled.profiler.kineto_results.events() if event.name() == "[memory]"]
        held = most = 0
        for event in sorted(events, key=lambda event: event.start_ns()):
            held += event.nbytes()
            most = max(most, held)
        return (most - max(held, 0)) / self.bench.largest


def guarded(bench: Workbench, policy: sg.Policy, *, adam: bool = False) -> tuple[sg.Guard, Callable[[], None]]:
    """A guard on all parameters, and what it does around a step."""
    kind = torch.optim.AdamW if adam else torch.optim.SGD
    guard = sg.Guard(kind(bench.params, lr=1e-9), policy, attach=False)

    def call() -> None:
        guard.before()
        guard.after()

    return guard, call


def jitter(step: int) -> float:
    """Sizes of the steps before the one that is timed: between 0.8 and 1.2."""
    return 0.8 + 0.4 * ((step * 0.6180339887) % 1.0)


def ours(bench: Workbench, case: Case) -> Contender:
    """The policy after its first steps."""
    guard, call = guarded(bench, sg.parse_policy(case.text), adam=case.adam)
    for step in range(case.warm):
        bench.put_back(jitter(step))
        call()
        if case.adam:
            guard.optimizer.step()
    stateful = bool(case.warm) and case.calls == 1 and not case.rewrites
    if not stateful:
        return Contender(bench, call, case.size)
    saved = guard.state_dict()
    return Contender(bench, call, case.size, lambda: guard.load_state_dict(saved))


def published(bench: Workbench, case: Case) -> Contender | None:
    """The implementation that ours is timed against, after the same steps; ``None`` if it is not installed."""
    sizes = [jitter(step) for step in range(case.warm)]
    if case.reference == "timm":
        spec = importlib.util.find_spec("timm")
        if spec is None or spec.origin is None:
            return None
        own = importlib.util.spec_from_file_location("timm_agc", Path(spec.origin).parent / "utils" / "agc.py")
        module = importlib.util.module_from_spec(own)
        own.loader.exec_module(module)
        factor = float(case.text.partition("(")[2].rstrip(")"))
        return Contender(bench, lambda: module.adaptive_clip_grad(bench.params, factor), case.size)
    if case.reference == "AdaGC":
        smallest = [min(sizes) * norm for norm in bench.norms]
        reference = references.AdaGC(bench.params, smallest)
        return Contender(bench, reference, case.size, lambda: setattr(reference, "average", list(smallest)))
    if case.reference == "ZClip":
        most = float("inf") if "max_norm=None" in case.text else 1.0
        reference = references.ZClip(bench.params, sizes, most)
        mean, variance = reference.mean, reference.variance
        return Contender(bench, reference, case.size, lambda: reference.__dict__.update(mean=mean, variance=variance))
    percentile = 90.0 if "90" in case.text else 10.0
    return Contender(bench, references.AutoClip(bench.params, sizes * 40, percentile), case.size)


def paired(contenders: Sequence[Contender], rounds: int, calls: int) -> list[list[float]]:
    """Milliseconds per call of each contender in each round, in turn."""
    for contender in contenders:
        contender.seconds(calls)
    times: list[list[float]] = [[] for _ in contenders]
    for i in range(rounds):
        for k in range(len(contenders)):
            which = (i + k) % len(contenders)
            times[which].append(1e3 * contenders[which].seconds(calls) / calls)
    return times


def median_ratio(a: Sequence[float], b: Sequence[float]) -> float:
    """Median over the rounds of ``a / b``."""
    return statistics.median(x / y for x, y in zip(a, b, strict=True))


def row_of(bench: Workbench, case: Case, rounds: int) -> dict[str, Any]:
    """The figures of one case."""
    base = Contender(bench, guarded(bench, BASES[case.base], adam=case.adam)[1])
    contenders = [ours(bench, case), base]
    other = published(bench, case) if case.reference else None
    mine, clip, *rest = paired([*contenders, *([other] if other else [])], rounds, case.calls)
    row: dict[str, Any] = {
        "policy": case.text,
        "acts": case.acts,
        "against": case.base,
        "milliseconds": statistics.median(mine),
        "times_clip": median_ratio(mine, clip),
        "budget": case.budget,
        "extra_memory": contenders[0].extra_memory(),
        "memory_budget": MOST_MEMORY if case in TRANSFORMS else None,
        "reference": case.reference if rest else "",
        "times_faster": median_ratio(rest[0], mine) if rest else None,
        "faster_budget": case.faster if rest else None,
    }
    row["kept"] = verdicts(row)
    return row


def verdicts(row: dict[str, Any]) -> str:
    """Every promise about this row and whether this run kept it."""
    checks = [
        (row["budget"], row["times_clip"], "<= {:g} x clip", False),
        (row["faster_budget"], row["times_faster"], f">= {{:g}} x as fast as {row['reference']}", True),
        (row["memory_budget"], row["extra_memory"], "<= 1 tensor", False),
    ]
    told = []
    for limit, value, words, least in checks:
        if limit is not None:
            kept = value >= limit if least else value <= limit
            told.append(f"{words.format(limit)}: {'yes' if kept else 'NO'}")
    return ", ".join(told)


def table_of(title: str, rows: Sequence[dict[str, Any]]) -> Table:
    """The rows for people."""
    table = Table("policy", "the timed step", "ms", "x clip", "extra memory", "x as fast", "budget", title=title)
    for row in rows:
        faster = "" if row["times_faster"] is None else f"{row['times_faster']:.2f}"
        figures = f"{row['milliseconds']:.2f}", f"{row['times_clip']:.2f}", f"{row['extra_memory']:.2f}", faster
        table.add_row(row["policy"], row["acts"], *figures, row["kept"])
    return table


def main() -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="ResNet-50 instead of GPT-2 and few rounds; figures are rough")
    parser.add_argument("--only", default="", metavar="TEXT", help="only policies whose text contains this")
    parser.add_argument("--json", type=Path, default=Path("bench-methods.json"))
    args = parser.parse_args()
    console = Console(width=150)
    torch.manual_seed(0)
    name, shapes, rounds = ("ResNet-50", resnet50(), 3) if args.quick else ("GPT-2 124M", gpt2(), 11)
    bench = Workbench(shapes)
    results: dict[str, Any] = {"environment": {**environment(), "model": name, "rounds": rounds}}
    console.print(*(f"{key} {value}" for key, value in results["environment"].items()), sep=", ")
    for title, cases in {"policies": POLICIES, "transforms": TRANSFORMS, "constraints": CONSTRAINTS}.items():
        results[title] = [row_of(bench, case, rounds) for case in cases if args.only in case.text]
        console.print(table_of(f"{title} on {name}, against our own clip of the global norm", results[title]))
    for left_out, why in NOT_TIMED.items():
        console.print(f"not timed: {left_out}: {why}")
    args.json.write_text(json.dumps(results, indent=1) + "\n")
    console.print(f"written to {args.json}")


if __name__ == "__main__":
    main()
