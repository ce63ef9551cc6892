"""The table of docs/cluster.md: what a paper's tables take on 1, 8 and 64 GPUs, by the shipped figures."""

import random

from sa_bench.commands import plan
from sa_bench.commands.stage_times import StageTimes
from sa_bench.core.store import Store
from sa_bench.engine.graph import find_lengths, make_graph
from sa_bench.engine.rates import NOTHING
from sa_bench.engine.scheduler import bound, simulate
from sa_bench.engine.suites import resolve_suite

SUITES = ("table1", "table2", "table4")
GPUS = (1, 8, 64)
SPREAD = 0.3  # standard deviation of the logarithm of a stage's time in a simulated run
SEEDS = range(5)


def plan_suite(name, store):
    """Return a suite's graph, and the seconds of each job on the GPU of the figures."""
    cells = resolve_suite(name)
    graph, seconds = make_graph(cells, Store(store), "cuda"), {}
    times = StageTimes(device="cuda")
    vars(times)["speed"] = 1.0  # MNIST's rates are a processor's, and no part of hours
    for cell in cells:
        list(plan._plan_cell(graph, cell, times, seconds))
    return graph, {id: (seconds.get(id) or NOTHING).middle for id in graph.jobs}


def hours(graph, seconds, workers):
    """Simulate a run whose scheduler knows the times; in hours."""
    lengths = find_lengths(graph, lambda job, chain: seconds[job.id])
    return simulate(graph, seconds, workers, lengths) / 3600


def ratio(graph, seconds, workers, seed):
    """Divide a simulated run by the shortest possible, where times vary and the scheduler knows their means."""
    dice = random.Random(seed)
    varied = {id: value * dice.lognormvariate(0, SPREAD) for id, value in seconds.items()}
    lengths = find_lengths(graph, lambda job, chain: seconds[job.id])
    return simulate(graph, varied, workers, lengths) / bound(graph, varied, workers)


def make_table(store):
    """Write the table as Markdown."""
    lines = [
        "| | cells | GPU-hours | on 1 GPU | on 8 | on 64 | against the shortest possible on 8 and on 64 |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in SUITES:
        graph, seconds = plan_suite(name, store)
        work = sum(seconds[job.id] for job in graph.to_do()) / 3600
        spans = [f"{hours(graph, seconds, n):.1f} h" for n in GPUS]
        worst = [max(ratio(graph, seconds, n, seed) for seed in SEEDS) for n in GPUS[1:]]
        shown = " and ".join(f"at most {value:.2f} x" for value in worst)
        cells = len(graph.of_cell)
        lines.append(f"| `{name}` | {cells} | {work:.0f} | {' | '.join(spans)} | {shown} |")
    return "\n".join(lines)
