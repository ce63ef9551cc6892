"""A cell as a chain of stages, each an artifact named by all that went into it.

base → (replay, Fisher) → forget → sample sets → measurements. Metrics read stored sample sets, so one
generation serves them all, and the base model's value is the same chain with nothing forgotten.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save

from sa_bench import bases, datasets, fisher, images, judges, sampling
from sa_bench.cards import judge_card
from sa_bench.cells import Cell
from sa_bench.contracts import Diffusion, Generator, Likelihood, Metric
from sa_bench.errors import SaBenchError
from sa_bench.fisher import FisherOptions
from sa_bench.sampling import SampleSet, image_seed
from sa_bench.sources import AnotherClass, FreshReplay, Images, UniformNoise
from sa_bench.statistics import undefined
from sa_bench.store import Artifact, Store, digest, file_digest, write_atomic
from sa_bench.training import Progress, Pull, Recipe, bf16_is_fast, fit

FORGET_VERSION = 1  # raised when the engine's part of forgetting changes what it computes
SAMPLE_VERSION = 1


class Chain:
    """The stages of one cell; each is made on first use and then found in the store."""

    def __init__(self, store: Store, cell: Cell, progress: Progress, device: str = "cpu") -> None:
        """`progress(stage, done, total)` is told of everything slow."""
        self.store, self.cell, self.progress, self.device = store, cell, progress, device
        self.task = cell.task
        self.cost: dict[str, dict[str, Any]] = {}

    def _make(
        self, stage: str, label: str, inputs: Mapping[str, Any], build: Callable[[Path], Mapping | None]
    ) -> Artifact:
        def timed(folder: Path) -> dict[str, Any]:
            started, cpu = time.monotonic(), time.process_time()
            facts = dict(build(folder) or {})
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            wall, used = time.monotonic() - started, time.process_time() - cpu
            cost = {"wall_s": round(wall, 3), "cpu_s": round(used, 3), "peak_mib": round(peak)}
            return facts | {"cost": cost | {"device": self.device}}

        artifact = self.store.make(stage, inputs, timed)
        self.cost[label] = {**artifact.meta.get("cost", {}), "cached": artifact.cached}
        return artifact

    @cached_property
    def base(self) -> bases.Base:
        """θ*: shipped, or trained and kept."""
        task, seed = self.task, self.cell.base_seed
        found = bases.shipped(task.family, task.dataset, task.base, seed)
        if found is not None:
            return found
        data = datasets.load(task.dataset)
        train = (data.train.images, data.train.labels, data.content)
        return bases.trained(self.store, task.family, task.dataset, train, task.base, seed, self.progress)

    def theta_star(self) -> Generator:
        """A copy of θ*."""
        return bases.FAMILIES[self.task.family]().load_file(self.base.file).to(self.device)

    def surrogate(self, model: Generator) -> Any:
        """The source q(x|c_f)."""
        task = self.task
        kind, _, argument = task.surrogate.partition(":")
        if kind == "class":
            return AnotherClass(model.clone(), task.concept, int(argument), task.sampler)
        if kind == "folder":
            height, width, channels = datasets.SHAPES[task.dataset]
            found, _ = images.read_folder(Path(argument), channels, (height, width))
            return Images(model.clone(), found, np.full(len(found), task.concept))
        shape = tuple(model.encode(np.zeros((1, *datasets.SHAPES[task.dataset]), np.uint8)).shape[1:])
        return UniformNoise(model, task.concept, shape)

    @cached_property
    def surrogate_key(self) -> str:
        """What q is, by content."""
        kind, _, argument = self.task.surrogate.partition(":")
        if kind != "folder":
            return self.task.surrogate
        return digest([file_digest(p) for p in images.image_files(Path(argument))])

    def replay(self, model: Generator) -> FreshReplay:
        """The source of the base model's own samples."""
        return FreshReplay(model.clone(), self.task.retain, self.task.sampler)

    def fisher(self, options: FisherOptions) -> dict[str, torch.Tensor]:
        """F at θ*, shared by every method and seed that asks with the same options."""
        task = self.task

        def build(folder: Path) -> dict[str, Any]:
            model = self.theta_star()
            rng = torch.Generator().manual_seed(image_seed("fisher", 0))
            batches = fisher.model_samples(model, task, options, self.replay(model), task.sampler, rng)
            F = fisher.diagonal(model, self._counted(batches, options.n, "fisher"))
            write_atomic(folder / "fisher.safetensors", save({k: v.cpu() for k, v in F.items()}))
            return {"trace": float(sum(float(v.double().sum()) for v in F.values()))}

        inputs = {
            "version": fisher.VERSION, "base": self.base.content, "options": asdict(options),
            "concept": None if options.set == "all" else task.concept, "sampler": asdict(task.sampler),
        }  # fmt: skip
        return load_file(self._make("fisher", "fisher", inputs, build).path / "fisher.safetensors")

    def _counted(self, batches: Any, n: int, stage: str) -> Any:
        done = 0
        for batch in batches:
            yield batch
            done += len(batch[0])
            self.progress(stage, done, n)

    @cached_property
    def forgotten(self) -> Artifact:
        """The model after forgetting."""
        cell, task = self.cell, self.task
        method = cell.build_method()
        family = bases.FAMILIES[task.family]
        if method.supports is Diffusion and not isinstance(self.theta_star(), Diffusion):
            raise SaBenchError(f"The method {cell.method} needs a diffusion model; {task.name} has a VAE.")
        needs_data = "data" in method.needs
        inputs = {
            "version": [FORGET_VERSION, method.version], "method": cell.method, "fields": dict(cell.fields),
            "seed": cell.seed, "base": self.base.content, "concept": task.concept,
            "surrogate": self.surrogate_key, "relabel_to": task.relabel_to, "sampler": asdict(task.sampler),
            "fisher_version": fisher.VERSION, "bf16": bf16_is_fast(),
            "data": datasets.HASHES[task.dataset] if needs_data else None,
            "recipes": {k: asdict(v) for k, v in family.recipes.items()} if needs_data else None,
        }  # fmt: skip

        def build(folder: Path) -> None:
            run = MethodRun(self, folder)
            model = method.forget(self.theta_star(), task, run)
            model.save(folder)
            for path in folder.glob("checkpoint-*"):
                path.unlink()

        return self._make("forget", "forget", inputs, build)

    def model(self) -> Generator:
        """The model after forgetting, loaded."""
        return bases.FAMILIES[self.task.family]().load(self.forgotten.path).to(self.device)

    @cached_property
    def model_content(self) -> str:
        """sha256 of the weight file after forgetting."""
        return file_digest(self.forgotten.path / "model.safetensors")

    def samples(self, name: str, base: bool = False) -> Artifact:
        """The sample set `name` of the forgotten model, or of θ*."""
        task = self.task
        rows = sampling.requests(task, name)

        def build(folder: Path) -> None:
            model = self.theta_star() if base else self.model()
            sampling.draw_set(model, task, name, folder, self.progress)

        inputs = {
            "version": SAMPLE_VERSION, "model": self.base.content if base else self.model_content,
            "sampler": asdict(task.sampler), "rows": [[r.condition, r.seed] for r in rows],
        }  # fmt: skip
        label = f"sample {name} (base)" if base else f"sample {name}"
        return self._make("samples", label, inputs, build)

    def measure(self, metric: Metric, subject: Subject) -> tuple[dict[str, Any], Path | None]:
        """The metric's value for `subject` (measurement.json) and its per-sample scores (Parquet)."""
        from sa_bench.results import read_measured, write_measured

        view = LazyView(self, subject)
        missing = view.lacks(metric)
        if missing:
            return asdict(undefined(missing)), None

        def build(folder: Path) -> None:
            self.progress(f"measure {metric.name}", 0, 1)
            write_measured(folder, metric.measure(view))

        inputs = {
            "metric": metric.name,
            "fingerprint": self.fingerprint(metric),
            "subject": subject.inputs(metric),
        }
        label = f"measure {metric.name}" + (" (base)" if subject.base else "")
        artifact = self._make("measure", label, inputs, build)
        return read_measured(artifact.path)

    def fingerprint(self, metric: Metric) -> dict[str, Any]:
        """Everything the metric's value depends on besides the images and the model."""
        task = self.task
        facts: dict[str, Any] = {"metric": metric.name, "version": metric.version}
        plain = asdict(task)
        facts |= {name: plain[name] for name in metric.fields if name not in ("judges", "designated")}
        if "surrogate" in metric.fields:
            facts["surrogate"] = self.surrogate_key
        if "judges" in metric.fields or "judges" in metric.requires:
            facts["judges"] = {n: judge_card(n)["sha256"][:16] for n in task.judges}
        if "designated" in metric.fields or "features" in metric.requires:
            facts["features"] = {task.designated: judge_card(task.designated)["sha256"][:16]}
        if "reject_judge" in metric.fields:
            facts["reject_judge"] = {task.reject_judge: judge_card(task.reject_judge)["sha256"][:16]}
        if "samples" in metric.requires or metric.name == "recovery":
            facts |= {"sampler": plain["sampler"], "seed_rule": "sha256(set/i)"}
            facts |= {"n_forget": task.n_forget, "n_retain": task.n_retain}
        if "real" in metric.requires:
            facts |= {"dataset": task.dataset, "data": datasets.HASHES[task.dataset]}
        return facts


class Subject:
    """What is measured: a cell's model, its base, or images from elsewhere."""

    def __init__(self, chain: Chain, base: bool = False, sets: Mapping[str, SampleSet] | None = None) -> None:
        """`sets` are a stranger's images; then there is no model."""
        self.chain, self.base, self.sets = chain, base, sets

    def sample_set(self, name: str) -> SampleSet:
        """The set `name`."""
        if self.sets is not None:
            return self.sets[name]
        return SampleSet.load(self.chain.samples(name, self.base).path / f"{name}.safetensors")

    def model(self) -> Generator:
        """The model."""
        return self.chain.theta_star() if self.base else self.chain.model()

    def inputs(self, metric: Metric) -> dict[str, Any]:
        """Content hashes of what the metric sees."""
        if self.sets is not None:
            return {k: digest([file_hash(v.images), v.labels.tolist()]) for k, v in self.sets.items()}
        facts: dict[str, Any] = {}
        if {"model", "likelihood"} & set(metric.requires):
            facts["model"] = self.chain.base.content if self.base else self.chain.model_content
        if "samples" in metric.requires:
            facts |= {n: self.chain.samples(n, self.base).content for n in ("forget", "retain")}
            facts["base"] = (
                self.chain.samples("retain", True).content if metric.name == "retain_drift" else None
            )
        return facts


def file_hash(array: np.ndarray) -> str:
    """A hash of an array's bytes and shape."""
    import hashlib

    return hashlib.sha256(np.ascontiguousarray(array).tobytes() + str(array.shape).encode()).hexdigest()


class LazyView:
    """The contract's View over a subject."""

    def __init__(self, chain: Chain, subject: Subject) -> None:
        """Nothing is loaded yet."""
        self.chain, self.subject, self.task = chain, subject, chain.task
        self.samples = _Lazy(subject.sample_set)
        self.base = _Lazy(Subject(chain, base=True).sample_set)
        self.judges = {name: judges.load(name) for name in chain.task.judges}

    @cached_property
    def model(self) -> Generator:
        """The model measured, loaded once."""
        return self.subject.model()

    def lacks(self, metric: Metric) -> str | None:
        """Why the metric cannot be taken here, or None."""
        if self.subject.sets is not None:
            if {"model", "likelihood"} & set(metric.requires):
                return "needs the model; only images were given"
            if "samples" in metric.requires and not {"forget", "retain"} <= set(self.subject.sets):
                return "needs the sets forget/ and retain/"
            return None
        if "likelihood" in metric.requires and not isinstance(self.model, Likelihood):
            return f"the family {self.task.family} has no likelihood"
        return None

    def real(self, name: str) -> SampleSet:
        """Real images."""
        return datasets.real(self.task, name)

    def surrogate(self, n: int) -> SampleSet:
        """`n` images of q."""
        model = self.chain.theta_star()
        x, _ = self.chain.surrogate(model).batch(n, self.rng("surrogate"))
        labels = np.full(n, self.task.concept)
        return SampleSet(model.to_images(x), labels, np.full(n, -1))

    def rng(self, name: str) -> torch.Generator:
        """The same stream for every model measured."""
        return torch.Generator().manual_seed(image_seed(f"measure/{name}", 0))


class _Lazy(Mapping[str, SampleSet]):
    def __init__(self, load: Callable[[str], SampleSet]) -> None:
        self._load, self._kept = load, {}

    def __getitem__(self, name: str) -> SampleSet:
        if name not in self._kept:
            self._kept[name] = self._load(name)
        return self._kept[name]

    def __iter__(self) -> Any:
        return iter(("forget", "retain"))

    def __len__(self) -> int:
        return 2


class MethodRun:
    """The contract's Run: what a method is handed."""

    def __init__(self, chain: Chain, folder: Path) -> None:
        """Checkpoints go to `folder`."""
        self.chain, self.folder, self.seed = chain, folder, chain.cell.seed
        self.trainings = 0
        self.rng = torch.Generator().manual_seed(image_seed("forget", self.seed))

    def replay(self) -> FreshReplay:
        """Fresh samples of θ*."""
        return self.chain.replay(self.chain.theta_star())

    def surrogate(self) -> Any:
        """q(x|c_f)."""
        return self.chain.surrogate(self.chain.theta_star())

    def data(self) -> Images:
        """Real training images of the retained classes."""
        task = self.chain.task
        train = datasets.load(task.dataset).train
        kept = train.take(train.labels != task.concept)
        return Images(self.chain.theta_star(), kept.images, kept.labels)

    def fisher(self, options: FisherOptions) -> dict[str, torch.Tensor]:
        """F at θ*."""
        return self.chain.fisher(options)

    def fresh(self) -> Generator:
        """A new model, initialised from this run's seed."""
        return self.chain.theta_star().fresh(self.seed)  # type: ignore[attr-defined]

    def recipe(self, name: str) -> Recipe:
        """A base recipe of the family."""
        return bases.recipe(self.chain.task.family, name)

    def train(
        self,
        model: Generator,
        loss: Callable[[], torch.Tensor],
        recipe: Recipe,
        scope: str = "full",
        pull: Pull | None = None,
    ) -> None:
        """The engine's training loop over `scope`; the k-th call has the k-th checkpoint."""
        self.trainings += 1
        fit(
            model.parameters(scope), loss, recipe, rng=self.rng, pull=pull, bf16=bf16_is_fast(),
            checkpoint=self.folder / f"checkpoint-{self.trainings}.safetensors", progress=self.chain.progress,
            stage=f"forget {self.chain.cell.method}",
        )  # fmt: skip
