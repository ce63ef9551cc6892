"""A cell as a chain of stages, each an artifact named by all that went into it.

base → (replay, Fisher) → forget → sample sets; `sa_bench.engine.measure` goes on from there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors.torch import load_file, save

from sa_bench.contracts import (
    Condition,
    Diffusion,
    FisherOptions,
    Generator,
    Progress,
    image_seed,
    key_values,
)
from sa_bench.core import registry
from sa_bench.core.parts import load_part, save_part
from sa_bench.core.store import PARTS, Artifact, Store, content_hash, digest, file_digest, write_atomic
from sa_bench.data import datasets, images
from sa_bench.data.sample_sets import save_samples
from sa_bench.engine.cells import Cell
from sa_bench.engine.metering import Meter
from sa_bench.engine.method_run import MethodRun
from sa_bench.models import base_models
from sa_bench.scoring import sampling
from sa_bench.training import fisher
from sa_bench.training.loop import uses_bf16
from sa_bench.training.sources import (
    FixedReplay,
    FreshReplay,
    Images,
    NormalNoise,
    OtherClassSamples,
    Relabelled,
    UniformNoise,
)

if TYPE_CHECKING:
    from sa_bench.models.ddpm import DDPM
    from sa_bench.models.text_to_image import TextToImage
    from sa_bench.models.vae import VAE


FORGET_VERSION = 1  # raised when the engine's part of forgetting changes what it computes
SAMPLE_VERSION = 1
REPLAY_VERSION = 1
PART, PART_LARGE = 512, 32  # images of a fixed set between two writes; the latter of pretrained models


class Chain:
    """The stages of one cell; each is made on first use and then found in the store."""

    def __init__(self, store: Store, cell: Cell, progress: Progress, device: str = "cpu") -> None:
        """`progress(stage, done, total)` is told of everything slow."""
        self.store, self.cell, self.device = store, cell, device
        self.task = cell.task
        self.bf16 = uses_bf16(self.task.train_precision, device)
        self.cost: dict[str, dict[str, Any]] = {}
        self._meter = Meter(device)
        self.progress = self._meter.noting(progress)
        self._sets: dict[tuple[str, bool], Artifact] = {}

    def make(
        self, stage: str, label: str, inputs: Mapping[str, Any], build: Callable[[Path], Mapping | None]
    ) -> Artifact:
        """`Store.make` with its cost (seconds and peak MiB, see `Meter`) kept under `label`.

        What a stage asks for on its way (F, say) is that stage's cost, not its own.
        """
        artifact = self.store.make(stage, inputs, lambda folder: self._meter.timed(build, folder))
        self.cost[label] = {**artifact.meta.get("cost", {}), "cached": artifact.cached}
        return artifact

    @cached_property
    def base(self) -> base_models.Base:
        """θ*: shipped, or trained and kept."""
        task, seed = self.task, self.cell.base_seed
        if task.model:
            return base_models.find_pretrained(task.model, self.store)
        found = base_models.find_shipped(task.family, task.dataset, task.base, seed)
        if found is not None:
            return found
        data = datasets.load(task.dataset)
        train = (data.train.images, data.train.labels, data.content)
        return base_models.train_base(
            self.store, task.family, task.dataset, train, task.base, seed, self.progress, self.device,
            task.train_precision,
        )  # fmt: skip

    def architecture(self) -> VAE | DDPM | TextToImage:
        """A model of the base's shape, for weights to be loaded into."""
        task = self.task
        made = base_models.new_model(task.family, task.dataset, task.base, words=task.classes)
        if task.prompts is not None:
            made.precision = task.sampler.precision  # type: ignore[union-attr]
        return made

    def truncated_prompts(self, texts: Sequence[str]) -> tuple[int, list[int]]:
        """(the text encoder's places, which of the prompts have more tokens than that); nothing is cloned."""
        model: Any = self._opened if self.task.model else self.architecture()
        return model.tokenizer.model_max_length, model.truncated_prompts(texts)

    def base_model_copy(self) -> Generator:
        """A copy of θ*."""
        if self.task.model:
            return self._opened.clone()
        return self.architecture().load(self.base.file).to(self.device)

    def base_model_view(self) -> Generator:
        """θ* to read from: of a pretrained model the one copy that is open, since each takes GiB."""
        return self._opened if self.task.model else self.base_model_copy()

    @cached_property
    def _opened(self) -> Generator:
        return base_models.open_pretrained(self.base, self.task).to(self.device)

    def surrogate(self, model: Generator) -> Any:
        """The source q(x|c_f)."""
        task = self.task
        kind, _, argument = task.surrogate.partition(":")
        c_f = task.prompts_for(task.concept, "forget")
        if kind == "class" and not isinstance(model, Diffusion):
            return OtherClassSamples(model, task.concept, int(argument), task.sampler)
        if kind in ("class", "prompt"):
            inputs = self.surrogate_key_inputs()
            conditions = [inputs["texts"][i % len(inputs["texts"])] for i in range(self.images_per_fixed_set)]
            return Relabelled(self._fixed("surrogate", conditions, inputs, 0), model, c_f)
        if kind == "folder":
            height, width, channels = datasets.image_shape(task)
            found, _ = images.read_folder(Path(argument), channels, (height, width))
            return Relabelled(Images(model, found, np.full(len(found), task.concept)), model, c_f)
        if task.prompts is not None:
            return NormalNoise(model, c_f)
        return UniformNoise(model, task.concept, model.shape, model.range)

    def surrogate_key_inputs(self) -> dict[str, Any]:
        """What a set of surrogates is besides the base; empty where q is not slow to sample or not the model's."""
        task, (kind, _, argument) = self.task, self.task.surrogate.partition(":")
        if kind not in ("class", "prompt") or task.family == "vae":
            return {}
        texts = [argument] if kind == "prompt" else task.prompts_for(int(argument), "replay")
        return {
            "n": self.images_per_fixed_set,
            "texts": texts,
            "version": REPLAY_VERSION,
            "sampler": key_values(task.sampler),
        }

    @property
    def images_per_fixed_set(self) -> int:
        """Images in a fixed set of one class."""
        task = self.task
        return task.surrogate_images or max(100, task.replay_images // max(1, len(task.retain)))

    @cached_property
    def surrogate_key(self) -> str:
        """What q is, by content."""
        kind, _, argument = self.task.surrogate.partition(":")
        if kind in ("class", "prompt") and self.task.family != "vae":
            return f"{self.task.surrogate}, a set of {self.images_per_fixed_set}"
        if kind != "folder":
            return self.task.surrogate
        return digest([file_digest(p) for p in images.list_image_files(Path(argument))])

    def replay(self) -> FreshReplay | FixedReplay:
        """The source of the base model's own samples: fresh ones, or the task's fixed set of this seed."""
        task = self.task
        if task.replay_images == 0:
            return FreshReplay(self.base_model_view(), task.covered, task.sampler)
        asked = task.replay_conditions()
        conditions = [asked[i % len(asked)] for i in range(task.replay_images)]
        return self._fixed("replay", conditions, self.replay_key_inputs(), self.replay_seed)

    def concept_samples(self) -> OtherClassSamples | FixedReplay:
        """The source of θ*'s samples of c_f: fresh ones or, where they are slow to make, a set for all seeds."""
        task, model = self.task, self.base_model_view()
        if not isinstance(model, Diffusion):
            return OtherClassSamples(model, task.concept, task.concept, task.sampler)
        texts = task.prompts_for(task.concept, "forget")
        conditions = [texts[i % len(texts)] for i in range(self.images_per_fixed_set)]
        return self._fixed("own", conditions, self.own_key_inputs(), 0)

    def own_key_inputs(self) -> dict[str, Any]:
        """What a set of θ*'s samples of c_f is besides the base."""
        task = self.task
        facts: dict[str, Any] = {
            "n": self.images_per_fixed_set,
            "concept": task.concept,
            "version": REPLAY_VERSION,
        }
        texts = {"texts": task.prompts_for(task.concept, "forget")} if task.prompts else {}
        return facts | {"sampler": key_values(task.sampler), **texts}

    @cached_property
    def shows(self) -> list[str]:
        """The prompts whose images by θ* the method learns from; [] for most."""
        method = self.cell.build_method()
        return list(method.shows(self.task))

    def captioned(self) -> FixedReplay:
        """The source of θ*'s samples for the prompts that the method `shows`, one set for all seeds."""
        texts = self.shows
        conditions: list[Condition] = [texts[i % len(texts)] for i in range(self.images_per_fixed_set)]
        return self._fixed("captioned", conditions, self.captioned_key_inputs(), 0)

    def captioned_key_inputs(self) -> dict[str, Any]:
        """What that set is besides the base; empty where there is none."""
        if not self.shows:
            return {}
        facts: dict[str, Any] = {"set": "captioned", "n": self.images_per_fixed_set, "texts": self.shows}
        return facts | {"version": REPLAY_VERSION, "sampler": key_values(self.task.sampler)}

    def _fixed(
        self, name: str, conditions: list[Condition], inputs: dict[str, Any], seed: int
    ) -> FixedReplay:
        """Samples of θ* for `conditions`, drawn once and kept."""
        task, model = self.task, self.base_model_view()

        def build(folder: Path) -> None:
            rng, c = torch.Generator().manual_seed(image_seed(name, seed)), model.conditions(conditions)
            parts, size = [], PART_LARGE if task.model else PART if isinstance(model, Diffusion) else len(c)
            for i, part in enumerate(c.split(size)):
                kept = folder / PARTS / f"part-{i:05d}.safetensors"
                made = load_part(kept)  # with the generator's state: a killed run goes on here
                if made is None:
                    made = {"x": model.simulate(part, rng, task.sampler).cpu(), "rng": rng.get_state()}
                    save_part(kept, made)
                rng.set_state(made["rng"])
                parts.append(made["x"])
                self.progress(name, sum(map(len, parts)), len(c))
            write_atomic(folder / "replay.safetensors", save({"x": torch.cat(parts), "c": c.cpu()}))

        artifact = self.make("replay", name, {"base": self.base.content, **inputs}, build)
        stored = load_file(artifact.path / "replay.safetensors", device=self.device)
        flip = not task.model and base_models.get_recipe(task.family, task.base).flip
        return FixedReplay(stored["x"], stored["c"], flip, task.replay_used if name == "replay" else 0)

    @property
    def replay_seed(self) -> int:
        """Which fixed replay set: the forgetting seed's own, or one for all."""
        return 0 if self.task.replay_shared else self.cell.seed

    def replay_key_inputs(self) -> dict[str, Any]:
        """What replay is besides the base; empty for fresh samples of all retained classes."""
        task = self.task
        facts: dict[str, Any] = {} if task.replay_every == 1 else {"covered": task.covered}
        if task.prompts is not None:
            texts = [text for c in task.covered for text in task.prompts_for(c, "replay")]
            facts["texts"] = task.replay_conditions() if task.retains_prompts else texts
        if task.replay_images:
            facts |= {"n": task.replay_images, "covered": task.covered, "seed": self.replay_seed}
            facts |= {"version": REPLAY_VERSION, "sampler": key_values(task.sampler)}
        return facts

    def replay_key(self) -> dict[str, Any]:
        """What replay is in the keys of those who draw from it: the set, and how much of it they see."""
        used = {"used": self.task.replay_used} if self.task.replay_used else {}
        return {**self.replay_key_inputs(), **used}

    def fisher(self, options: FisherOptions) -> dict[str, torch.Tensor]:
        """F at θ*, shared by every method and seed that asks with the same options."""
        task = self.task

        def build(folder: Path) -> dict[str, Any]:
            model = self.base_model_view()
            rng = torch.Generator().manual_seed(image_seed("fisher", 0))
            tick = lambda done: self.progress("fisher", done, options.n)  # noqa: E731
            kept, replay = folder / PARTS / "unfinished.safetensors", self.replay()
            F, negative = fisher.estimate(model, task, options, replay, task.sampler, rng, tick, kept)
            write_atomic(folder / "fisher.safetensors", save({k: v.cpu() for k, v in F.items()}))
            return {"trace": float(sum(float(v.double().sum()) for v in F.values())), "negative": negative}

        artifact = self.make("fisher", "fisher", self.fisher_key_inputs(options), build)
        return load_file(artifact.path / "fisher.safetensors")

    def fisher_key_inputs(self, options: FisherOptions) -> dict[str, Any]:
        """What names F."""
        return {
            "version": fisher.VERSION, "base": self.base.content, "options": key_values(options),
            "concept": None if options.set == "all" else self.task.concept,
            **({"words": self.task.classes} if self.task.prompts else {}),
            "sampler": key_values(self.task.sampler), **(self.replay_key() if options.set == "replay" else {}),
        }  # fmt: skip

    def forget_key_inputs(self) -> dict[str, Any]:
        """What names the model after forgetting."""
        cell, task = self.cell, self.task
        method, family = registry.get_method(cell.method), base_models.get_family(task.family)
        needs_data, ignored = "data" in method.needs, method.ignores
        files = {name: content_hash(Path(cell.fields[name])) for name in method.files}
        return {
            "version": [FORGET_VERSION, registry.version_key("method", cell.method, method.version)], "method": cell.method,
            "fields": {**cell.keyed_fields(), **files},
            "seed": cell.seed, "base": self.base.content, "concept": task.concept,
            **({} if "surrogate" in ignored else {"surrogate": self.surrogate_key, "relabel_to": task.relabel_to}),
            "sampler": key_values(task.sampler),
            "fisher_version": fisher.VERSION, "bf16": self.bf16,
            "data": datasets.data_content(task.dataset) if needs_data else None,
            **(base_models.captions_key_inputs(task.family, task.base) if needs_data else {}),
            **({"asked": task.prompts_for(task.concept, "forget")} if task.prompts else {}),
            "recipes": {k: key_values(v) for k, v in family.recipes.items()} if needs_data else None,
            **({"captioned": captioned} if (captioned := self.captioned_key_inputs()) else {}),
            **({"replay": replay} if (replay := self.replay_key()) and "replay" not in ignored else {}),
        }  # fmt: skip

    @cached_property
    def forgotten(self) -> Artifact:
        """The model after forgetting."""
        cell, task = self.cell, self.task
        method = cell.build_method()

        def build(folder: Path) -> dict[str, Any]:
            run = MethodRun(self, folder)
            model = method.forget(self.base_model_copy(), task, run)
            model.save(folder)
            return {"precision": run.precision}

        return self.make("forget", "forget", self.forget_key_inputs(), build)

    @property
    def precision(self) -> dict[str, str]:
        """What training was asked to calculate in, and what base and forgetting did calculate in."""
        used = self.forgotten.meta.get("precision", "unknown")  # of an artifact of before
        return {"asked": self.task.train_precision, "base": self.base.precision, "forgetting": used}

    def model(self) -> Generator:
        """The model after forgetting, loaded."""
        model, method = self.base_model_copy().load(self.forgotten.path), self.cell.build_method()
        return method.wrap(model, self.task)

    @cached_property
    def model_content(self) -> str:
        """sha256 of the weight file after forgetting, with what the method does when the model is asked.

        A text-to-image model's file holds what differs from its base, so the base belongs to its name. Where nothing
        differs, the name and the images are the base's.
        """
        file = self.forgotten.path / "model.safetensors"
        found = file_digest(file)
        if self.task.prompts is not None:
            found = digest([self.base.content, found]) if load_file(file) else self.base.content
        return (
            digest([found, self._inference_key()]) if registry.get_method(self.cell.method).wraps() else found
        )

    def _inference_key(self) -> list[Any]:
        """What names a method's part in sampling."""
        cell, method = self.cell, registry.get_method(self.cell.method)
        version = registry.version_key("method", cell.method, method.version)
        return [cell.method, version, cell.keyed_fields(), self.task.concept]

    def sample_key_inputs(self, name: str, base: bool = False) -> dict[str, Any]:
        """What names a sample set."""
        rows = sampling.requests_of_set(self.task, name)
        return {
            "version": SAMPLE_VERSION, "model": self.base.content if base else self.model_content,
            "sampler": key_values(self.task.sampler),
            "rows": [[r.condition, r.seed, *(v for v in (r.guidance, r.size) if v is not None)] for r in rows],
            **({} if base else self._filter()),
        }  # fmt: skip

    def _filter(self) -> dict[str, Any]:
        """What a method does to images after sampling; nothing for most."""
        return {"render": self._inference_key()} if registry.get_method(self.cell.method).renders() else {}

    def samples(self, name: str, base: bool = False) -> Artifact:
        """The sample set `name` of the forgotten model, or of θ*; looked up once, every metric asks for it."""
        if (name, base) not in self._sets:
            self._sets[name, base] = self._sampled(name, base)
        return self._sets[name, base]

    def _sampled(self, name: str, base: bool) -> Artifact:
        task = self.task

        def build(folder: Path) -> None:
            model = self.base_model_view() if base else self.model()
            method = self.cell.build_method()
            if base or not method.renders():
                sampling.draw_set(model, task, name, folder, self.progress)
                return
            raw = folder / PARTS / "raw"  # apart, so that a resumed run never filters twice
            made = sampling.draw_set(model, task, name, raw, self.progress)
            save_samples(
                replace(made, images=method.render(made.images, made.labels, task)),
                folder / f"{name}.safetensors",
            )

        inputs = self.sample_key_inputs(name, base)
        label = f"sample {name} (base)" if base else f"sample {name}"
        return self.make("samples", label, inputs, build)

    def drop_images(self, base: bool = False) -> None:
        """Delete the images of c_f from the store: this cell's or, of the base, also those that methods learn from."""
        if base:
            self.store.drop("replay", digest({"base": self.base.content, **self.own_key_inputs()}))
        elif not self.store.has("forget", digest(self.forget_key_inputs())):
            return  # without its model a cell has no images
        for name in sampling.set_names(self.task):
            before, after = (digest(self.sample_key_inputs(name, b)) for b in (True, base))
            if name in ("forget", "families") and (base or after != before):  # the base's serve other cells
                self.store.drop("samples", after)
        self._sets.clear()
