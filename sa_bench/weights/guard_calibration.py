"""Calibrate the collapse guard: `python -m sa_bench.weights guard [TASK]`, 20 CPU minutes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sa_bench.contracts import (
    Condition,
    Diffusion,
    FisherOptions,
    Generator,
    Recipe,
    Request,
    SampleSet,
    Task,
    image_seed,
)
from sa_bench.core import registry
from sa_bench.core.fields import resolve_fields
from sa_bench.core.store import write_atomic
from sa_bench.core.version import __version__
from sa_bench.data import datasets
from sa_bench.data.assets.shipped import WEIGHTS
from sa_bench.models import base_models
from sa_bench.models.family import get_family
from sa_bench.models.toy import ToyRun
from sa_bench.scoring import judges
from sa_bench.scoring.collapse_guard import (
    QUANTITIES,
    ShareOfBase,
    describe_collapse,
    measure_shares,
)
from sa_bench.scoring.likelihood import take_per_class
from sa_bench.scoring.sampling import plan_set
from sa_bench.training.fisher import estimate_over_time
from sa_bench.training.loop import fit
from sa_bench.training.sources import FixedReplay

WRECKING = {
    "vae": (1000, 1000, 2000),
    "ddpm": (500, 200, 600),
    "text_to_image": (300, 150, 400),
}
"""Training steps of no_gr, naive and memorised replay that ruin a model, by family. Text-to-image
models run naive without replay, since replay would save them."""
POOL = {"ddpm": 400, "text_to_image": 150}
"""Images a class in the pool that resamples are taken from, where drawing fresh ones takes too
long."""
RESAMPLES = 300
"""Resamples of the null for each task: base models at other sampling seeds, every digit in turn
left out."""
FALSE = 0.01  # rate of false flags allowed, over both quantities
SHARE = 0.5  # a model has collapsed if it has lost more than half of what the null still has
"""Below the null's own quantile by this factor: a method that pays a price is not a wreck, and the
price is what the endpoints are for."""


def draw(model: Generator, task: Task, name: str) -> SampleSet:
    """Draw the retained images of `task` from the noise of the set `name`."""
    planned_images = plan_set(task, "retain")
    conditions = [planned.request.condition for planned in planned_images]
    return _draw_images(
        model, task, conditions, [planned.label for planned in planned_images], name
    )


def _draw_images(
    model: Generator, task: Task, conditions: list[Condition], labels: list[int], name: str
) -> SampleSet:
    """Draw one image a condition, from the noise of the set `name`."""
    requests = [Request(c, image_seed(name, i)) for i, c in enumerate(conditions)]
    images = model.to_images(model.sample(requests, task.sampler))
    return SampleSet(images, np.array(labels), np.array([r.seed for r in requests]))


class Bench:
    """Judges, data and base models of a task, loaded once."""

    def __init__(self, task: Task) -> None:
        """Load the judges of `task`, which also fixes sizes and data."""
        self.task, self.judges = task, {name: judges.load(name) for name in task.judges}

    def base(self, seed: int) -> Generator:
        """Load the shipped base model of a seed."""
        task = self.task
        base = base_models.find_shipped(task.family, task.dataset, task.base, seed)
        if base is None:
            raise SystemExit("the shipped bases are missing: python -m sa_bench.weights bases")
        model = base_models.new_model(task.family, task.dataset, task.base, words=task.classes)
        return model.load(base.file)

    @cache  # noqa: B019 (one bench a process)
    def reference(self, seed: int, task: str, concept: int) -> SampleSet:
        """Draw the base model's own retained images, as every cell of `task` has them."""
        return draw(self.base(seed), replace(registry.get_task(task), concept=concept), "retain")

    def resample(self, seed: int, task: Task, i: int) -> SampleSet:
        """Draw retained images of base `seed` at another sampling seed.

        They are fresh or, where the family has a pool, taken from the pool without replacement.
        """
        n = POOL.get(task.family)
        if n is None:
            return draw(self.base(seed), task, f"guard/{i}")
        pool, rng = self._pool(seed, n), np.random.default_rng(i)
        picks = [
            rng.permutation(np.flatnonzero(pool.labels == c))[: task.n_retain] for c in task.scored
        ]
        return pool.take(np.concatenate(picks))

    @cache  # noqa: B019
    def _pool(self, seed: int, n: int) -> SampleSet:
        """Draw the pool of base `seed`, `n` images a class."""
        labels = [c for c in range(len(self.task.classes)) for _ in range(n)]
        conditions = []
        for c in range(len(self.task.classes)):
            texts = self.task.prompts_for(c)
            conditions += [texts[i % len(texts)] for i in range(n)]
        return _draw_images(self.base(seed), self.task, conditions, labels, "guard pool")

    def shares(self, images: SampleSet, base: SampleSet, task: Task) -> dict[str, ShareOfBase]:
        """Measure the shares of the base's worst class and recall, as the metric does."""
        real = take_per_class(datasets.real_images(task, "retain_test"), task.feature_images)
        return measure_shares(images, base, real, self.judges, task.designated)


def null(bench: Bench, name: str, say: Callable[[str], None]) -> dict[str, list[float]]:
    """Measure upper bounds of both shares for base models at other sampling seeds.

    The classes are scored as in the task `name`.
    """
    upper_bounds: dict[str, list[float]] = {name: [] for name in QUANTITIES}
    for i in range(RESAMPLES):
        task = replace(registry.get_task(name), concept=i % len(bench.task.classes))
        reference = bench.reference(i % 3, name, task.concept)
        shares = bench.shares(bench.resample(i % 3, task, i), reference, task)
        for quantity, share in shares.items():
            upper_bounds[quantity].append(share.high)
        if i % 25 == 24:
            say(f"null of {name} {i + 1}/{RESAMPLES}")
    return upper_bounds


def wrecks(bench: Bench, seed: int) -> Iterator[tuple[str, SampleSet]]:
    """Yield models ruined on purpose from base `seed`: a title and the retained images."""
    task, base = bench.task, bench.base(seed)
    images_of_base = draw(base, task, "retain")
    yield "blank images", replace(images_of_base, images=np.zeros_like(images_of_base.images))
    first_of_class = {
        int(c): images_of_base.images[images_of_base.labels == c][0]
        for c in np.unique(images_of_base.labels)
    }
    yield (
        "one image a class",
        replace(
            images_of_base, images=np.stack([first_of_class[int(c)] for c in images_of_base.labels])
        ),
    )
    no_gr, naive, memorised = WRECKING[task.family]
    for title, name, fields, replay in (
        ("no_gr", "no_gr", {"lam": 0.0, "steps": no_gr}, 0),
        (
            "naive",
            "naive",
            {"stop_at": 1e9, "steps": naive} | ({"gamma": 0.0} if task.prompts else {}),
            0,
        ),
        ("memorised replay of 9 images", "no_ewc", {"steps": memorised}, 9),
    ):
        values = resolve_fields(name, task, "full", {}) | fields
        yield title, draw(_wreck_model(bench, seed, name, values, replay), task, "retain")


def _wreck_model(
    bench: Bench, seed: int, name: str, fields: dict[str, Any], replay: int
) -> Generator:
    """Ruin the base with a method, on a run without a store."""
    from sa_bench.core.fields import validate

    task, base = bench.task, bench.base(seed)
    run = WreckRun(base, task, seed=0, replay=replay)
    return validate(registry.get_method(name), fields, name).forget(base.clone(), task, run)


class WreckRun(ToyRun):
    """A method's run on the real model that stores nothing."""

    def __init__(self, star: Generator, task: Task, seed: int, replay: int) -> None:
        """Take the number of replay images.

        Args:
            star: the base model.
            task: the task.
            seed: forgetting seed.
            replay: number of replay images, one a class in turn; 0 takes as many as the task has,
                drawn anew each time if it names none.
        """
        super().__init__(star, task, seed)
        self.images = replay or task.replay_images

    def replay(self) -> Any:
        """Give fresh samples, or the fixed few."""
        if not self.images:
            return super().replay()
        conditions = self.task.replay_conditions()
        c = self.star.conditions([conditions[i % len(conditions)] for i in range(self.images)])
        rng = torch.Generator().manual_seed(0)
        return FixedReplay(self.star.simulate(c, rng, self.task.sampler), c)

    def fisher(self, options: FisherOptions) -> dict[str, Tensor]:
        """Estimate F from as many samples as the options ask for.

        Only diffusion models need the detour.
        """
        if not isinstance(self.star, Diffusion):
            return super().fisher(options)
        rng = torch.Generator().manual_seed(1)
        return estimate_over_time(
            self.star, self.task, options, self.replay(), self.task.sampler, rng
        )[0]

    def surrogate(self) -> Any:
        """Give noise as the surrogate: uniform, or normal in latents."""
        return get_family(self.task.family).make_noise(self.star, self.task)

    def train(
        self,
        model: Generator,
        loss: Any,
        recipe: Recipe,
        scope: str = "full",
        pull: Any = None,
        stop: Any = None,
    ) -> None:
        """Train without checkpoints."""
        fit(model.parameters(scope), loss, recipe, rng=self.rng, pull=pull, stop=stop)


def calibrate(task: str, say: Callable[[str], None]) -> None:
    """Measure the null and the power of the guard and ship both.

    The null is taken with all retained classes scored, and with a part of them.
    """
    bench = Bench(registry.get_task(task))
    task_names = {entry.name for entry in registry.list_entries("task")}
    tasks = [name for name in (task, f"{task}_cover5") if name in task_names]
    nulls = {name: null(bench, name, say) for name in tasks}
    quantile = FALSE / len(QUANTITIES)
    at_quantile = {
        name: {q: float(np.quantile(v, quantile)) for q, v in upper_bounds.items()}
        for name, upper_bounds in nulls.items()
    }
    lowest = {q: min(values[q] for values in at_quantile.values()) for q in QUANTITIES}
    limit = {name: SHARE * value for name, value in lowest.items()}
    power: dict[str, Any] = {}
    for seed in range(3):
        images_of_base = draw(bench.base(seed), bench.task, "retain")
        for name, images in wrecks(bench, seed):
            shares = bench.shares(images, images_of_base, bench.task)
            row = {
                "flagged": bool(describe_collapse(shares, limit)),
                **{q: s.share for q, s in shares.items()},
            }
            power.setdefault(name, []).append(row)
            say(f"base {seed}, {name}: {json.dumps(row)}")
    card = {
        "bounds": limit,
        "null": {
            "resamples": {name: RESAMPLES for name in tasks},
            "quantile": quantile,
            "at_quantile": at_quantile,
            "lowest": {
                name: {q: min(v) for q, v in upper_bounds.items()}
                for name, upper_bounds in nulls.items()
            },
            "false_flags": sum(
                any(upper_bounds[q][i] < limit[q] for q in QUANTITIES)
                for upper_bounds in nulls.values()
                for i in range(RESAMPLES)
            ),
        },
        "share": SHARE,
        "power": power,
        "command": f"python -m sa_bench.weights guard {task}",
        "made_with": {"sa_bench": __version__, "torch": torch.__version__},
    }
    write_atomic(
        WEIGHTS / f"guard-{bench.task.dataset}.json", json.dumps(card, indent=1).encode() + b"\n"
    )
