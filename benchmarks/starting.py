"""What starting costs, each in fresh processes: importing the package beside torch, and the report of a recorded run."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from rounds import median

RECORD = """
import sys, torch, steadygrad as sg
w = torch.nn.Linear(64, 64)
optimizer = torch.optim.SGD(w.parameters(), lr=0.01)
with sg.watch(sys.argv[1]):
    for _ in range(1000):
        w(torch.randn(8, 64)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
"""
IMPORT = """
import time, torch
start = time.perf_counter()
import steadygrad
steadygrad.clip_grad_norm_
print(time.perf_counter() - start)
"""
BARE_IMPORT = IMPORT.replace("steadygrad.clip_grad_norm_", "")


def run(rounds: int = 7) -> list[dict[str, Any]]:
    """Seconds, medians over fresh processes."""
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder, "run"))
        subprocess.run([sys.executable, "-c", RECORD, path], check=True)
        report = [sys.executable, "-m", "steadygrad", "report", path]
        rows = [
            ("import steadygrad, torch being there", [_printed(BARE_IMPORT) for _ in range(rounds)], 0.05),
            ("... and use clip_grad_norm_", [_printed(IMPORT) for _ in range(rounds)], None),
            ("steadygrad report RUN (1000 steps)", [_wall(report) for _ in range(rounds)], 0.7),
        ]
    return [{"what": what, "seconds": median(values), "budget": budget} for what, values, budget in rows]


def _printed(code: str) -> float:
    return float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)


def _wall(command: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, capture_output=True, check=True)
    return time.perf_counter() - start
