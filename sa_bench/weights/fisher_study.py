"""Study what a cheaper Fisher costs: `python -m sa_bench.weights fisher RUN`, suite fisher-ddpm.

λ absorbs F's scale, so two questions are asked of an estimate: how far its shape is off at matched
trace, and how forgetting and retention change along a path of λ. The latter is answered by an
equivalence test with margins declared here. Its unit is the seed: runs of one seed at several λ
share their noise and their order of images, so they are averaged before they are compared. All runs
are of one base model, and nothing is claimed about another.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from scipy import stats

from sa_bench.contracts import Diffusion, FisherOptions, ignore_event, image_seed
from sa_bench.core.errors import SaBenchError
from sa_bench.core.settings import store_folder
from sa_bench.core.store import Store
from sa_bench.engine.cells import resolve
from sa_bench.engine.stages import Chain
from sa_bench.results.files import read_results
from sa_bench.results.rows import metric_of
from sa_bench.results.schema import ResultRow
from sa_bench.statistics import student
from sa_bench.training import fisher

MARGINS = {"forget_top1": 0.05, "retain_bound": 0.01}  # difference of the rate, bits/dim
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
    chain = Chain(Store(store_folder()), cell, ignore_event)
    n = cell.fields["fisher"]["n"]
    exact = time_estimate(chain, n, 0, "stratified", "study")
    say(
        f"| F from | of | CPU s | trace | shape error | rank correlation | entries < 0 |\n|{' --- |' * 7}"
    )
    say(f"| all 1,000 timesteps | {n} images | {exact.seconds:.1f} | 1 | 0 | 1 | 0 % |")
    repeated = time_estimate(chain, n, 0, "stratified", "study again")
    say(format_shape_row("all 1,000, other ε: the floor", "", repeated, exact))
    for timesteps in options[::-1]:
        for estimator in ESTIMATORS:
            estimate = time_estimate(chain, n, timesteps, estimator, "study")
            say(format_shape_row(f"{timesteps} timesteps", estimator, estimate, exact))
    say("")

    def trace(option: Mapping[str, Any]) -> float:
        (method_cell,) = resolve(
            [rows[0]["task"]],
            ["sa"],
            sets=[f"fisher.{k}={v}" for k, v in option.items()],
        )
        F = Chain(Store(store_folder()), method_cell, ignore_event).fisher(FisherOptions(**option))
        return float(sum(float(v.double().sum()) for v in F.values()))

    say(format_outcomes(rows, trace))


class Estimate(NamedTuple):
    """An estimate of F, and what it cost."""

    F: dict[str, torch.Tensor]
    """F by parameter name."""
    negative: float
    """Share of negative entries."""
    seconds: float
    """CPU seconds."""


def time_estimate(chain: Chain, n: int, timesteps: int, estimator: Any, seed: str) -> Estimate:
    """Estimate F and time it; the images are the same whatever `seed`, ε and t differ."""
    model, task = chain.base_model_copy(), chain.task
    rng = torch.Generator().manual_seed(image_seed("fisher study images", 0))
    c = model.conditions(torch.arange(n) % len(task.classes))
    x = model.simulate(c, rng, task.sampler)
    rng = torch.Generator().manual_seed(image_seed(f"fisher {seed}", 0))
    started = time.process_time()
    options = FisherOptions(n=n, timesteps=timesteps, estimator=estimator)
    F, negative = fisher.fisher_over_time(cast("Diffusion", model), [(x, c, None)], options, rng)
    return Estimate(F, negative, time.process_time() - started)


def format_shape_row(name: str, estimator: str, estimate: Estimate, exact: Estimate) -> str:
    """Format a table row: errors of an estimate's shape.

    The shape error is half the L1 distance at matched trace (0 … 1); the correlation is Spearman's,
    over all weights.
    """
    a, b = (
        torch.cat([v.double().flatten() for v in each.F.values()]).numpy()
        for each in (estimate, exact)
    )
    error = 0.5 * np.abs(a / a.sum() - b / b.sum()).sum()
    rank = float(stats.spearmanr(a, b)[0])
    figures = (
        f"{estimate.seconds:.1f} | {a.sum() / b.sum():.3f} | {error:.3f} | {rank:.3f} | "
        f"{100 * estimate.negative:.1f} %"
    )
    return f"| {name} | {estimator} | {figures} |"


Values = dict[tuple[float, int], dict[str, float]]
"""Value of each metric by (λ, seed)."""
Pair = tuple[dict[str, float], dict[str, float]]
"""Values of a run with an estimate, and with the exact F at the same seed."""


def format_outcomes(rows: list[ResultRow], trace: Callable[[Mapping[str, Any]], float]) -> str:
    """Format differences from the runs with the exact F, and whether their mean is in the margins.

    Runs are paired by λ and seed. The mean over λ within each seed is one value; the interval is
    Student's t over the seeds, of one base model.

    There are two tables: at the same λ, and at the λ at which the two penalties have the same
    trace. For the second, the exact F's runs are interpolated in log λ, and runs beyond the ends of
    their path are left out.

    Args:
        rows: results of the suite.
        trace: gives the trace of the F that a method's fields name.

    Raises:
        SaBenchError: there is no run with the exact F, or the runs are of several base models,
            whose seeds are not one sample.
    """
    if len(bases := sorted({r["base_seed"] for r in rows})) > 1:
        raise SaBenchError(
            f"these runs are of the bases {', '.join(map(str, bases))}, the study is of one: give a run of one --base-seed."
        )
    values_of_option: dict[tuple[int, str], Values] = {}
    traces: dict[tuple[int, str], float] = {}
    for r in rows:
        option = r["fields"]["fisher"]
        key = (option["timesteps"], option["estimator"] if option["timesteps"] else "")
        values = {
            metric_of(m): value for m in r["measurements"] if (value := m["value"]) is not None
        }
        values_of_option.setdefault(key, {})[r["fields"]["lam"], r["seed"]] = values
        if key not in traces:
            traces[key] = trace(option)
    exact, exact_trace = values_of_option.pop((0, ""), None), traces.pop((0, ""), None)
    if exact is None or exact_trace is None:
        raise SaBenchError(
            "the runs with fisher.timesteps=0 are missing: what follows is compared with them"
        )
    order = sorted(values_of_option, key=lambda key: (-key[0], ESTIMATORS.index(key[1])))
    lines = []
    for title, ratio in (("the same λ", False), ("the same trace", True)):
        lines += [
            f"| F from, at {title} | | runs, seeds | forgetting: difference | equivalent? |"
            " retention: difference, bits/dim | equivalent? |",
            "|" + " --- |" * 7,
        ]
        for key in order:
            scale = traces[key] / exact_trace if ratio else 1.0
            pairs: dict[int, list[Pair]] = {}  # by seed
            for lam_and_seed, values in values_of_option[key].items():
                if exact_values := interpolate_path(exact, lam_and_seed, scale):
                    pairs.setdefault(lam_and_seed[1], []).append((values, exact_values))
            runs = sum(map(len, pairs.values()))
            lines.append(
                f"| {key[0]} timesteps | {key[1]} | {runs}, {len(pairs)} {_format_verdicts(pairs)}|"
            )
        lines.append("")
    return "\n".join(lines)


def interpolate_path(
    exact: Values, lam_and_seed: tuple[float, int], scale: float
) -> dict[str, float] | None:
    """Interpolate the exact F's values of the same seed at λ · `scale`, in log λ.

    None beyond its path.
    """
    path = sorted((lam, values) for (lam, seed), values in exact.items() if seed == lam_and_seed[1])
    lam_wanted = lam_and_seed[0] * scale
    lams = [lam for lam, _ in path]
    if not path or not lams[0] * 0.999 <= lam_wanted <= lams[-1] * 1.001:
        return None
    return {
        name: float(
            np.interp(np.log(lam_wanted), np.log(lams), [values[name] for _, values in path])
        )
        for name in MARGINS
    }


def _format_verdicts(pairs: Mapping[int, Sequence[Pair]]) -> str:
    """Format each metric's mean difference ± half its 90 % interval, and the verdict.

    The mean over λ of each seed is one value.
    """
    columns = []
    for metric, margin in MARGINS.items():
        differences = np.array(
            [
                np.mean([estimate[metric] - exact[metric] for estimate, exact in pairs_of_seed])
                for pairs_of_seed in pairs.values()
            ]
        )
        if len(differences) < 3:
            columns.append("| – | too few seeds ")
            continue
        n, mean = len(differences), differences.mean()
        half = student.compute_quantile(0.95, n - 1) * differences.std(ddof=1) / n**0.5
        same = "not shown"
        if abs(mean) + half < margin:
            same = "yes"
        elif abs(mean) - half > margin:
            same = "no"
        digits = 3 if metric == "forget_top1" else 4
        columns.append(f"| {mean:+.{digits}f} ± {half:.{digits}f} | {same} (margin {margin:g}) ")
    return "".join(columns)
