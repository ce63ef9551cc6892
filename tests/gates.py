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
            gates.Reading(b, s, k[b, s] / images, *WILSON[images][k[b, s]])
            for b in range(bases)
            for s in range(seeds)
        ]
        now += gates.estimate(runs, "rate").bounds()[1] <= GATE
        before += max(run.high for run in runs) <= GATE
    return now / trials, before / trials


class _Wilson(dict):
    def __missing__(self, images):
        from sa_bench.statistics import wilson

        self[images] = [wilson(k, images) for k in range(images + 1)]
        return self[images]


WILSON = _Wilson()


def tables(trials=4000, images=500):
    """Both tables as Markdown lines."""
    spread, lines = fit()
    other, more = fit("recovery")
    yield (
        f"Spread of runs on the three micro boards, fitted: between base models {spread.base:.3f}, between seeds "
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


if __name__ == "__main__":
    text = (
        PAGE.read_text() if BEGIN in PAGE.read_text() else PAGE.read_text() + f"\n{BEGIN}\n{END}\n"
    )
    before, rest = text.split(BEGIN)
    found = "\n".join(tables())
    print(found)
    PAGE.write_text(f"{before}{BEGIN}\n{found}\n{END}{rest.split(END)[1]}")
