"""Measure how much differences between methods vary: `python -m sa_bench.weights variance RUN`.

For every pair of methods that a board of the run compares: the spread of their difference between
base models and between seeds of one base. `plan` turns it into the smallest difference that a run
can find.
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
    variances: dict[str, dict[str, dict[str, float | int | str | None]]] = {}
    for board in make_boards(read_results([run])):
        if board.scale != "full" or any(c["overrides"] for line in board.lines for c in line.cells):
            continue
        lines = {line.label: line for line in board.lines}
        pairs = compare_all_pairs(board)
        for name in dict.fromkeys(row.metric for row in pairs):
            compared = []
            for pair in pairs:
                if pair.metric != name:
                    continue
                by_base = differences_by_base(name, lines[pair.a], lines[pair.b])
                if sum(len(seeds) > 1 for seeds in by_base.values()) > 1:
                    compared.append((pair, by_base))
            # Collapsed lines are left out, unless all lines are.
            compared = [p for p in compared if not lines[p[0].a].collapsed] or compared
            if not compared:
                continue
            most_runs = max(pair.runs for pair, _ in compared)
            compared = [p for p in compared if p[0].runs == most_runs]
            sds = [components(by_base) for _, by_base in compared]
            variances.setdefault(board.task, {})[name] = {
                "unit": compared[0][0].unit,
                "pairs": len(compared),
                "runs": most_runs,
                "base": fmean(b**2 for b, _ in sds) ** 0.5,
                "seed": fmean(s**2 for _, s in sds) ** 0.5,
            }
            say(f"{board.task} {name}: {json.dumps(variances[board.task][name])}")
    if not variances:
        raise SystemExit(f"{run} compares no methods at scale full; nothing was written.")
    names = {benchmarks.find_benchmark(task) for task in variances}
    if len(names) > 1:
        raise SystemExit(f"{run} mixes benchmarks ({names}); nothing was written.")
    file = WEIGHTS / f"variance-{names.pop()}.json"
    write_atomic(file, json.dumps(variances, indent=1).encode() + b"\n")
