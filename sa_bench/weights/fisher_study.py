"""What a cheaper Fisher costs: `python -m sa_bench.weights fisher RUN` (of the suite fisher-ddpm).

λ absorbs F's scale, so two questions are asked of an estimate: its shape at matched trace, and what becomes of
forgetting and retention along a path of λ, by an equivalence test with margins declared here. Its unit is the seed:
runs of one seed at several λ share their noise and their order of images, so they are averaged before they are compared.
All runs are of one base model, and nothing is said of another.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import stats

from sa_bench.contracts import FisherOptions, image_seed
from sa_bench.core.errors import SaBenchError
from sa_bench.core.settings import store_folder
from sa_bench.core.store import Store
from sa_bench.engine.cells import resolve
from sa_bench.engine.stages import Chain
from sa_bench.results.files import read_results
from sa_bench.results.rows import metric_of
from sa_bench.training import fisher

MARGINS = {"forget_top1": 0.05, "retain_bound": 0.01}  # points of the rate, bits/dim
ESTIMATORS = ("plain", "stratified", "product")


def study(run: Path, say: Callable[[str], None]) -> None:
    """Print both tables as Markdown."""
    rows = [r for r in read_results([run]) if r["status"] == "done"]
    if not rows:
        raise SystemExit(f"{run} holds no finished cells of the suite fisher-ddpm.")
    options = sorted(
        {r["fields"]["fisher"]["timesteps"] for r in rows if r["fields"]["fisher"]["timesteps"]}
    )
    (cell,) = resolve([rows[0]["task"]], ["sa"], sets=["fisher.timesteps=0"])
    chain = Chain(Store(store_folder()), cell, lambda *event: None)
    n = cell.fields["fisher"]["n"]
    truth, spent = timed(chain, n, 0, "stratified", "study")
    say(
        f"| F from | of | CPU s | trace | shape error | rank correlation | entries < 0 |\n|{' --- |' * 7}"
    )
    say(f"| all 1,000 timesteps | {n} images | {spent:.1f} | 1 | 0 | 1 | 0 % |")
    again, spent = timed(chain, n, 0, "stratified", "study again")
    say(shape("all 1,000, other ε: the floor", "", again[0], truth[0], spent, again[1]))
    for k in options[::-1]:
        for estimator in ESTIMATORS:
            found, spent = timed(chain, n, k, estimator, "study")
            say(shape(f"{k} timesteps", estimator, found[0], truth[0], spent, found[1]))
    say("")

    def trace(option: Mapping[str, Any]) -> float:
        (one,) = resolve(
            [rows[0]["task"]], ["sa"], sets=[f"fisher.{k}={v}" for k, v in option.items()]
        )
        kept = Chain(Store(store_folder()), one, lambda *event: None).fisher(
            FisherOptions(**option)
        )
        return float(sum(float(v.double().sum()) for v in kept.values()))

    say(outcomes(rows, trace))


def timed(
    chain: Chain, n: int, k: int, estimator: Any, seed: str
) -> tuple[tuple[dict[str, torch.Tensor], float], float]:
    """(F and its negative share, CPU seconds); the same images whatever `seed`, other ε and t."""
    model, task = chain.base_model_copy(), chain.task
    rng = torch.Generator().manual_seed(image_seed("fisher study images", 0))
    c = model.conditions(torch.arange(n) % len(task.classes))
    x = model.simulate(c, rng, task.sampler)
    rng = torch.Generator().manual_seed(image_seed(f"fisher {seed}", 0))
    started = time.process_time()
    options = FisherOptions(n=n, timesteps=k, estimator=estimator)
    found = fisher.fisher_over_time(model, [(x, c, None)], options, rng)  # type: ignore[arg-type, list-item]
    return found, time.process_time() - started


def shape(
    name: str,
    estimator: str,
    found: Mapping[str, torch.Tensor],
    truth: Mapping[str, torch.Tensor],
    spent: float,
    negative: float,
) -> str:
    """A row: half the L1 distance at matched trace (0 … 1), Spearman's rank correlation over all weights."""
    a, b = (torch.cat([v.double().flatten() for v in F.values()]).numpy() for F in (found, truth))
    error = 0.5 * np.abs(a / a.sum() - b / b.sum()).sum()
    rank = float(stats.spearmanr(a, b)[0])  # type: ignore[arg-type]
    figures = (
        f"{spent:.1f} | {a.sum() / b.sum():.3f} | {error:.3f} | {rank:.3f} | {100 * negative:.1f} %"
    )
    return f"| {name} | {estimator} | {figures} |"


Found = dict[tuple[float, int], dict[str, float]]
"""(λ, seed) to the value of each metric."""
Pair = tuple[dict[str, float], dict[str, float]]
"""Values of a run with an estimate, and with the exact F at the same seed."""


def outcomes(rows: list[dict[str, Any]], trace: Callable[[Mapping[str, Any]], float]) -> str:
    """Differences from the exact F's runs, paired by λ and seed, and whether their mean is within the margins.

    The mean over λ within each seed is one value; the interval is Student's t over the seeds, of one base model.

    Twice: at the same λ, and at the λ at which the two penalties have the same trace, where the exact F's runs
    are interpolated in log λ and an estimate's run beyond the ends of their path is left out.

    Args:
        rows: results of the suite.
        trace: of the F that a method's fields name.

    Raises:
        SaBenchError: no run with the exact F, or runs of several base models, whose seeds are not one sample.
    """
    if len(bases := sorted({r["base_seed"] for r in rows})) > 1:
        raise SaBenchError(
            f"these runs are of the bases {', '.join(map(str, bases))}, the study is of one: give a run of one --base-seed."
        )
    by: dict[tuple[int, str], Found] = {}
    traces: dict[tuple[int, str], float] = {}
    for r in rows:
        option = r["fields"]["fisher"]
        key = (option["timesteps"], option["estimator"] if option["timesteps"] else "")
        values = {metric_of(m): m["value"] for m in r["measurements"]}
        by.setdefault(key, {})[r["fields"]["lam"], r["seed"]] = values
        if key not in traces:
            traces[key] = trace(option)
    exact, whole = by.pop((0, ""), None), traces.pop((0, ""), None)
    if exact is None or whole is None:
        raise SaBenchError(
            "the runs with fisher.timesteps=0 are missing: what follows is compared with them"
        )
    order = sorted(by, key=lambda key: (-key[0], ESTIMATORS.index(key[1])))
    lines = []
    for title, ratio in (("the same λ", False), ("the same trace", True)):
        lines += [
            f"| F from, at {title} | | runs, seeds | forgetting: difference | equivalent? |"
            " retention: difference, bits/dim | equivalent? |",
            "|" + " --- |" * 7,
        ]
        for key in order:
            scale = traces[key] / whole if ratio else 1.0
            pairs: dict[int, list[Pair]] = {}  # by seed
            for at, values in by[key].items():
                if there := along(exact, at, scale):
                    pairs.setdefault(at[1], []).append((values, there))
            runs = sum(map(len, pairs.values()))
            lines.append(
                f"| {key[0]} timesteps | {key[1]} | {runs}, {len(pairs)} {_verdicts(pairs)}|"
            )
        lines.append("")
    return "\n".join(lines)


def along(exact: Found, at: tuple[float, int], scale: float) -> dict[str, float] | None:
    """The exact F's values of the same seed at λ · `scale`, interpolated in log λ; None beyond its path."""
    path = sorted((lam, values) for (lam, seed), values in exact.items() if seed == at[1])
    where = at[0] * scale
    known = [lam for lam, _ in path]
    if not path or not known[0] * 0.999 <= where <= known[-1] * 1.001:
        return None
    return {
        name: float(np.interp(np.log(where), np.log(known), [values[name] for _, values in path]))
        for name in MARGINS
    }


def _verdicts(pairs: Mapping[int, Sequence[Pair]]) -> str:
    """Mean difference ± half its 90 % interval and the verdict, of each metric; each seed's mean over λ is one value."""
    parts = []
    for metric, margin in MARGINS.items():
        d = np.array(
            [np.mean([ours[metric] - exact[metric] for ours, exact in of]) for of in pairs.values()]
        )
        if len(d) < 3:
            parts.append("| – | too few seeds ")
            continue
        mean, half = d.mean(), stats.t.ppf(0.95, len(d) - 1) * d.std(ddof=1) / len(d) ** 0.5
        same = (
            "yes"
            if abs(mean) + half < margin
            else "no"
            if abs(mean) - half > margin
            else "not shown"
        )
        digits = 3 if metric == "forget_top1" else 4
        parts.append(f"| {mean:+.{digits}f} ± {half:.{digits}f} | {same} (margin {margin:g}) ")
    return "".join(parts)
