"""What the gates rest on, measured: the spread of runs on the published boards, and how often a gate is passed.

`python tests/gates.py` fits the spread, simulates the gate and writes both tables into docs/metrics.md.
"""

import json
import lzma
import sys
from functools import cache
from pathlib import Path

import numpy as np
import scipy

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from sa_bench.analysis import gates  # noqa: E402

BOARDS = ("micro-1", "micro-ddpm-1", "micro-t2i-1")
PAGE = ROOT / "docs" / "metrics.md"
BEGIN, END = "<!-- gates: written by tests/gates.py -->", "<!-- end of gates -->"
RUNS = ((1, 1), (3, 1), (3, 3), (3, 8))  # (bases, seeds on each)
RATES = (0.01, 0.02, 0.03, 0.04, 0.05, 0.07, 0.10, 0.13)
GATE = 0.1
FLOOR = 0.2  # what an attack brings back in retrain, in the simulation
FLAGGED = (0.02, 0.1, 0.3, 0.5, 0.8)  # shares of all runs
EXCESS = (-0.1, 0.0, 0.1, 0.2, 0.3, 0.5, 0.7)  # what it brings back beyond that
ATTACKS = (
    (48, 16, 3),
    (48, 16, 8),
    (200, 36, 3),
    (200, 36, 8),
)  # (images, points of the grid, bases)


def published_rows():
    """Rows of methods and references, once each: a reference that serves three tasks is one measurement."""
    for board in BOARDS:
        seen = set()
        text = lzma.decompress((ROOT / "docs" / "data" / f"{board}.jsonl.xz").read_bytes()).decode()
        for row in map(json.loads, text.splitlines()):
            model = (row["method"], row["artifacts"].get("model"))
            if row["status"] == "done" and row["standing"] != "control" and model not in seen:
                seen.add(model)
                yield board, row


def spreads(metric="forget_top1"):
    """(variance of base means, within-base variance or None, images' variance, bases, seeds) of every line."""
    lines = {}
    for board, row in published_rows():
        found = next(
            (m for m in row["measurements"] if m["name"] == metric and m["value"] is not None), None
        )
        if found:
            key = (board, row["task"], row["method"], json.dumps(row["fields"], sort_keys=True))
            lines.setdefault(key, []).append((row["base_seed"], found))
    for runs in lines.values():
        # At 0 or 1 nothing varies, and the scale no longer stabilises.
        if not 0.005 < np.mean([m["value"] for _, m in runs]) < 0.995:
            continue
        by_base, variances = {}, []
        for base, m in runs:
            y, v = gates._transform(gates.Reading(base, 0, m["value"], m["low"], m["high"]), True)
            by_base.setdefault(base, []).append(y)
            variances.append(v)
        if len(by_base) > 1:
            seeds = float(np.mean([len(v) for v in by_base.values()]))
            within = (
                float(np.mean([np.var(v, ddof=1) for v in by_base.values()])) if seeds > 1 else None
            )
            between = float(np.var([np.mean(v) for v in by_base.values()], ddof=1))
            yield between, within, float(np.mean(variances)), len(by_base), seeds


@cache
def fit(metric="forget_top1"):
    """(Spread, number of lines) by maximum likelihood: variances are scaled F about what is expected."""
    lines = list(spreads(metric))

    def misfit(x):
        base, seed, df = np.exp(x)
        total = 0.0
        for between, within, images, bases, seeds in lines:
            expected = base + (seed + images) / seeds
            total -= scipy.stats.f.logpdf(between / expected, bases - 1, df) - np.log(expected)
            if within is not None:
                expected = seed + images
                ratio = max(within, 1e-7) / expected
                total -= scipy.stats.f.logpdf(ratio, bases * (seeds - 1), df) - np.log(expected)
        return total

    found = scipy.optimize.minimize(
        misfit, np.log([0.003, 0.001, 4]), method="Nelder-Mead", options={"maxiter": 4000}
    )
    base, seed, df = np.exp(found.x)
    return gates.Spread(float(base**0.5), float(seed**0.5), float(df)), len(lines)


def passes(rate, bases, seeds, images, trials=4000, spread=gates.SPREAD):
    """(share of simulated rows that pass the gate now, share under the rule of before: the largest upper bound).

    A row's own variance is drawn about the expected one with `spread.df` degrees of freedom, as the boards' are.
    """
    rng = np.random.default_rng([int(1000 * rate), bases, seeds, images])
    y = np.arcsin(np.sqrt(rate))
    now = before = 0
    for _ in range(trials):
        scale = (spread.df / rng.chisquare(spread.df)) ** 0.5
        of_base = rng.normal(0, scale * spread.base, bases)
        shown = y + of_base[:, None] + rng.normal(0, scale * spread.seed, (bases, seeds))
        k = rng.binomial(images, np.sin(np.clip(shown, 0, np.pi / 2)) ** 2)
        runs = [
            gates.Reading(b, s, k[b, s] / images, *WILSON[images, 1][k[b, s]])
            for b in range(bases)
            for s in range(seeds)
        ]
        now += gates.estimate(runs, "rate").bounds()[1] <= GATE
        before += max(run.high for run in runs) <= GATE
    return now / trials, before / trials


def comes_back(excess, images, looks, bases, trials=4000, spread=gates.SPREAD):
    """(share of simulated rows shown to bring back more than retrain, share shown to bring back no more).

    The row and retrain have one run on each base; their intervals are widened for the points of the grid. The rest is as
    in `passes`.
    """
    rng = np.random.default_rng([int(1000 * (1 + excess)), images, looks, bases])
    tau = (spread.base**2 + spread.seed**2) ** 0.5

    def draw(rate):
        scale = (spread.df / rng.chisquare(spread.df)) ** 0.5
        shown = np.arcsin(np.sqrt(rate)) + rng.normal(0, scale * tau, bases)
        k = rng.binomial(images, np.sin(np.clip(shown, 0, np.pi / 2)) ** 2)
        ends = WILSON[images, looks]
        runs = [gates.Reading(b, 0, k[b] / images, *ends[k[b]]) for b in range(bases)]
        return gates.estimate(runs, "rate")

    more = no_more = 0
    for _ in range(trials):
        low, high = gates.difference_bounds(draw(FLOOR + excess), draw(FLOOR))
        more += low > 0
        no_more += low <= 0 and high <= gates.MORE
    return more / trials, no_more / trials


class _Wilson(dict):
    def __missing__(self, key):
        from sa_bench.statistics import wilson

        images, looks = key
        self[key] = [wilson(k, images, looks) for k in range(images + 1)]
        return self[key]


WILSON = _Wilson()


def tables(trials=4000, images=500):
    """All tables as Markdown lines."""
    spread, lines = fit()
    other, more = fit("recovery")
    yield (
        f"Spread of runs on the three first micro boards, fitted: between base models {spread.base:.3f}, between seeds "
        f"{spread.seed:.3f}, {spread.df:.1f} degrees of freedom, from {lines} rows of forgetting (of recovery, from "
        f"{more}: {other.base:.3f}, {other.seed:.3f}, {other.df:.1f}; its intervals are widened for the attacker's grid)."
    )
    yield ""
    yield (
        f"Share of rows that pass the gate of {100 * GATE:.0f} %, by the true mean rate, {images} images a run, simulated "
        f"{trials:,} times; in brackets the rule of before, the largest upper bound of all runs. At {100 * GATE:.0f} % and "
        "above every pass is an error."
    )
    yield ""
    head = [
        f"{b * s} run{'s' if b * s > 1 else ''} ({b} base{'s' if b > 1 else ''})" for b, s in RUNS
    ]
    yield f"| true rate | {' | '.join(head)} |"
    yield f"| --- |{' --- |' * len(RUNS)}"
    for rate in RATES:
        cells = [passes(rate, b, s, images, trials) for b, s in RUNS]
        yield f"| {100 * rate:.0f} % | {' | '.join(f'{now:.2f} ({before:.2f})' for now, before in cells)} |"
    yield ""
    yield (
        f"Share of rows that an attack is shown to bring back more often than {100 * FLOOR:.0f} %, which it brings back in "
        f"retrain, and in brackets of those shown to be at most {100 * gates.MORE:.0f} percentage points above it; the rest "
        "is left open. One run on each base, by images a run, points of the attacker's grid and bases; simulated "
        f"{trials:,} times. Up to {100 * FLOOR:.0f} % every row that is shown to be above is an error; from "
        f"{100 * (FLOOR + gates.MORE):.0f} % on every row in brackets is."
    )
    yield ""
    yield f"| brought back in truth | {' | '.join(f'{n} images, {k} points, {b} bases' for n, k, b in ATTACKS)} |"
    yield f"| --- |{' --- |' * len(ATTACKS)}"
    for excess in EXCESS:
        cells = [comes_back(excess, *attack, trials=trials) for attack in ATTACKS]
        words = " | ".join(f"{more:.2f} ({no_more:.2f})" for more, no_more in cells)
        yield f"| {100 * (FLOOR + excess):.0f} % | {words} |"
    yield ""
    yield from collapse_table()


def collapses(flagged, runs):
    """Probability that a row of so many runs counts as collapsed where the guard flags a share of all runs."""
    from sa_bench.analysis.ranking import TOLERATED
    from sa_bench.statistics import compute_tail

    fewest = next(
        k for k in range(1, runs + 2) if compute_tail(k, runs, TOLERATED) <= TOLERATED + 1e-9
    )
    return compute_tail(fewest, runs, flagged)


def collapse_table():
    """The collapse gate as Markdown lines; exact, nothing is drawn."""
    yield (
        "Probability that a row counts as collapsed, by the share of all its method's runs that the guard would flag; "
        "exact. At a tenth every such row is an error."
    )
    yield ""
    runs = [b * s for b, s in RUNS]
    yield f"| flagged in truth | {' | '.join(f'{n} run' + ('s' if n > 1 else '') for n in runs)} |"
    yield f"| --- |{' --- |' * len(runs)}"
    for flagged in FLAGGED:
        yield f"| {flagged:g} | {' | '.join(f'{collapses(flagged, n):.2f}' for n in runs)} |"


if __name__ == "__main__":
    text = (
        PAGE.read_text() if BEGIN in PAGE.read_text() else PAGE.read_text() + f"\n{BEGIN}\n{END}\n"
    )
    before, rest = text.split(BEGIN)
    found = "\n".join(tables())
    print(found)
    PAGE.write_text(f"{before}{BEGIN}\n{found}\n{END}{rest.split(END)[1]}")
