"""Run the study: every case with every contender and seed that is not in the results yet; then write the tables.

python studies/auto/run.py [--quick] [--tables] [--cases TEXT] [--workers 2]
"""

from __future__ import annotations

import argparse
import json
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import tables
import torch
from cases import CASES, CONTENDERS, QUICK, SEEDS, SEEDS_OF_VARIANTS, VARIANTS

HERE = Path(__file__).parent


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a few cases with one seed, into quick.jsonl; no tables are written")
    parser.add_argument("--tables", action="store_true", help="run nothing, only write the tables")
    parser.add_argument("--cases", default="", help="only cases whose name holds this text")
    parser.add_argument("--workers", type=int, default=2, help="processes, each on one thread")
    args = parser.parse_args()
    results = HERE / ("quick.jsonl" if args.quick else "results.jsonl")
    if not args.tables:
        cases = [case for case in (QUICK if args.quick else CASES) if args.cases in case]
        seeds = SEEDS[:1] if args.quick else SEEDS
        todo = [(case, contender, seed) for seed in seeds for case in cases for contender in CONTENDERS]
        todo += [
            (case, contender, seed) for seed in seeds if seed in SEEDS_OF_VARIANTS for case in cases for contender in VARIANTS
        ]
        run_all(todo, results, args.workers)
    rows = read(results)
    if args.quick:
        print(tables.all_tables(rows))
    else:
        tables.write_into(HERE / "README.md", rows)


def run_all(todo: list[tuple[str, str, int]], results: Path, workers: int) -> None:
    """Run what is not finished, and add a line for each to the results as it ends."""
    finished = {(row["case"], row["contender"], row["seed"]) for row in read(results)}
    left = [key for key in todo if key not in finished]
    print(f"{len(left)} runs to do, {len(todo) - len(left)} done before", flush=True)
    with ProcessPoolExecutor(workers) as pool, results.open("a") as file:
        for done, future in enumerate(as_completed([pool.submit(one, *key) for key in left]), 1):
            file.write(json.dumps(future.result()) + "\n")
            file.flush()
            if done % 25 == 0:
                print(f"{done} of {len(left)}", flush=True)


def one(case: str, contender: str, seed: int) -> dict[str, Any]:
    """One run, as a line of the results."""
    torch.set_num_threads(1)
    start = time.perf_counter()
    result = CASES[case](contender, seed)
    return {"case": case, "contender": contender, "seed": seed, **result, "seconds": round(time.perf_counter() - start, 1)}


def read(results: Path) -> list[dict[str, Any]]:
    """The lines of the results; a last line that was cut off does not count."""
    rows: list[dict[str, Any]] = []
    for line in results.read_text().splitlines() if results.exists() else ():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return rows


if __name__ == "__main__":
    main()
