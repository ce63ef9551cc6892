"""How much a difference between two methods varies: `python -m sa_bench.weights variance RUN`.

From the board's runs: for every pair of methods that was compared, the spread of their difference between
base models and between seeds of one base. `plan` turns it into the smallest difference a run can find.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from statistics import fmean

from sa_bench.analysis.pairwise import compare_all_pairs, differences_by_base
from sa_bench.analysis.ranking import make_boards
from sa_bench.core.store import write_atomic
from sa_bench.data.assets.shipped import WEIGHTS
from sa_bench.engine import benchmarks
from sa_bench.results.files import read_results
from sa_bench.statistics import components


def measure(run: Path, say: Callable[[str], None]) -> None:
    """Write variance-<benchmark>.json from the boards of `run`, which are of one benchmark."""
    found: dict[str, dict[str, dict[str, float | int | str | None]]] = {}
    for board in make_boards(read_results([run])):
        if board.scale != "full" or any(c["overrides"] for line in board.lines for c in line.cells):
            continue
        lines = {line.label: line for line in board.lines}
        pairs = compare_all_pairs(board)
        for name in dict.fromkeys(row.metric for row in pairs):
            named = (
                (r, differences_by_base(name, lines[r.a], lines[r.b]))
                for r in pairs
                if r.metric == name
            )
            rows = [
                (r, by_base)
                for r, by_base in named
                if sum(len(v) > 1 for v in by_base.values()) > 1
            ]
            rows = [
                (r, by_base) for r, by_base in rows if not lines[r.a].collapsed
            ] or rows  # wrecks where all are
            most = [
                (row, by_base) for row, by_base in rows if row.runs == max(r.runs for r, _ in rows)
            ]
            if not most:
                continue
            sds = [components(by_base) for _, by_base in most]
            found.setdefault(board.task, {})[name] = {
                "unit": most[0][0].unit,
                "pairs": len(most),
                "runs": most[0][0].runs,
                "base": fmean(b**2 for b, _ in sds) ** 0.5,
                "seed": fmean(s**2 for _, s in sds) ** 0.5,
            }
            say(f"{board.task} {name}: {json.dumps(found[board.task][name])}")
    if not found:
        raise SystemExit(f"{run} compares no methods at scale full; nothing was written.")
    names = {benchmarks.find_benchmark(task) for task in found}
    if len(names) > 1:
        raise SystemExit(f"{run} mixes benchmarks ({names}); nothing was written.")
    file = WEIGHTS / f"variance-{names.pop()}.json"
    write_atomic(file, json.dumps(found, indent=1).encode() + b"\n")
