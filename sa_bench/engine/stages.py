"""A cell as a chain of stages, each an artifact named by all its inputs.

base → (replay, Fisher) → forget → sample sets; `sa_bench.engine.measure` goes on from there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from sa_bench.contracts import (
    Diffusion,
    FisherOptions,
    Generator,
    Progress,
    Source,
    Task,
    image_seed,
    key_values,
)
from sa_bench.core import registry
from sa_bench.core.errors import MissingAsset
from sa_bench.core.parts import load_part, parts_of, save_part
from sa_bench.core.store import (
    Artifact,
    Store,
    digest,
    write_atomic,
)
from sa_bench.data import datasets
from sa_bench.data.sample_sets import save_samples
from sa_bench.engine.base import BaseSource, GivenBase, TrainedBase
from sa_bench.engine.cells import Cell
from sa_bench.engine.metering import Meter
from sa_bench.engine.replay import (
    BaseSamples,
    FixedSet,
    draw_fixed_set,
    draw_part,
    foreign_surrogate,
    fresh_source,
    names_without_text,
    write_fixed_set,
)
from sa_bench.engine.sequences import forget_in_turn
from sa_bench.engine.stage import Divided, PartMade, PartsMissing, Stage
from sa_bench.models import base_models
from sa_bench.models.checkpoints import layouts
from sa_bench.models.family import get_family
from sa_bench.results.schema import StageCost
from sa_bench.scoring import sampling
from sa_bench.training import fisher_plan
from sa_bench.training.precision import uses_bf16

if TYPE_CHECKING:  # keys are made, and what is stored is found, without torch
    import torch

    from sa_bench.contracts import Judge

FORGET_VERSION = 1  # raised when the engine's part of forgetting changes what it computes
ALL_TIMESTEPS = 1000  # T of every diffusion model here: what `timesteps=0` takes
SET_OF_NEED = {"surrogate": "surrogate", "replay": "replay", "own": "concept_samples"}
"""What a method says that it needs, by the name of the fixed set."""
SAMPLE_VERSION = 1  # raised when the engine's part of sampling changes what it computes


class Chain:
    """The stages of one cell; each is made on first use and then read from the store."""

    def __init__(
        self,
        store: Store,
        cell: Cell,
        progress: Progress,
        device: str = "cpu",
        model_folder: Path | None = None,
        divisor: int = 1,
    ) -> None:
        """Make nothing yet.

        Args:
            store: keeps the artifacts.
            cell: the cell that the stages belong to.
            progress: called with (stage, done, total) during everything slow.
            device: device of the models.
            model_folder: folder of a forgotten model from elsewhere; it replaces the forget stage.
            divisor: pieces in which networks take their batches, where memory was too small for all at
                once; training is not divided.
        """
        self.store, self.cell, self.device, self.model_folder = store, cell, device, model_folder
        self.sets = BaseSamples(cell)
        self.task, self.family = cell.task, get_family(cell.task.family)
        self.base_source: BaseSource = GivenBase(self) if cell.task.model else TrainedBase(self)
        self.bf16 = uses_bf16(self.task.train_precision, device)
        self._divided: dict[int, Generator] = {}  # models whose passes are divided
        self._label_of: dict[str, str] = {}  # first label of an artifact, by its key
        self.made: set[str] = set()
        """Keys of the artifacts that this run has made for the cell."""
        self.wait = True
        """Whether `make` waits while another process makes the stage, or raises `Busy`."""
        self.joinable: frozenset[str] | None = None
        """Keys of the stages whose parts several workers have made. At any other stage with parts `make`
        stops, for all workers to make them. None: this process makes all parts itself."""
        self.wanted_part: tuple[str, int] | None = None
        """Key of a stage and number of its part, where `make` stops when it is made."""
        self.missing_images: MissingAsset | None = None
        """Why there are no real images, once they were asked for: every further metric would wait
        for the network again."""
        self.cost: dict[str, StageCost] = {}
        self.divisor = divisor
        self._meter = Meter(device, divisor)
        self.progress = progress
        self._sets: dict[tuple[str, bool], Artifact] = {}
        self._loaded: tuple[bool, Generator] | None = None
        """The model whose sets are being drawn, and whether it is θ*."""

    def of_step(self, task: Task) -> Chain:
        """Make the chain of one step of a sequence, with this cell's method, seeds and store."""
        cell = replace(self.cell, task=task)
        step = Chain(self.store, cell, self.progress, self.device, divisor=self.divisor)
        step._meter = self._meter  # what a step costs is not counted to the whole a second time
        return step

    def make(self, stage: Stage) -> Artifact:
        """Make a stage or find it in the store, and record its cost under its label.

        The cost is in seconds and peak MiB, see `Meter`. A stage that this one asks for on its way
        (F, for example) keeps its own cost. Of a stage in parts those are made that are missing.

        Raises:
            Busy: another process makes it, and `wait` is False.
            PartMade: it is the stage of `wanted_part`.
            PartsMissing: all workers are to make its parts first, see `joinable`.
        """
        if stage.parts > 1:
            self._stop_at_parts(stage)

        def build(folder: Path) -> Mapping[str, Any] | None:
            for number in range(stage.parts if stage.parts > 1 else 0):
                stage.build_part(parts_of(folder), number)
            return stage.build(folder)

        artifact = self.store.make(
            stage.kind, stage.inputs, lambda folder: self._meter.timed(build, folder), self.wait
        )
        self.note_cost(stage.label, artifact)
        return artifact

    def _stop_at_parts(self, stage: Stage) -> None:
        """Stop a measurement at a stage with parts, if several workers make them; see `make`."""
        if self.wanted_part is not None and self.wanted_part[0] == stage.key:
            self.make_part(stage, self.wanted_part[1])
            raise PartMade
        if self.joinable is None or stage.key in self.joinable:
            return
        if not self.store.has(stage.kind, stage.key):
            raise PartsMissing(Divided(stage.kind, stage.key, stage.parts))

    def note_cost(self, label: str, artifact: Artifact) -> None:
        """Record an artifact's cost under a stage's label."""
        cost = cast(StageCost, artifact.meta.get("cost", {}))  # from the stage's meta.json
        if not artifact.cached:
            self.made.add(artifact.key)
        if label:  # an artifact with two names was made once
            is_first = self._label_of.setdefault(artifact.key, label) == label
            self.cost[label] = {**cost, "cached": artifact.key not in self.made or not is_first}

    def note_costs_of_forgetting(self) -> None:
        """Record what the stages before the forgotten model cost, wherever they were made."""
        for stage in self.stages_of_forgetting()[:-1]:
            if self.store.has(stage.kind, stage.key):
                self.note_cost(stage.label, self.store.get(stage.kind, stage.key))

    def make_part(self, stage: Stage, number: int) -> None:
        """Make one part of a stage, unless the stage is finished; its cost waits beside it."""
        if self.store.has(stage.kind, stage.key):
            return
        with self.store.making_part(stage.kind, stage.key) as parts:
            self._meter.timed_part(stage.build_part, parts, number)

    @property
    def base_seed(self) -> int:
        """Seed of the base model's training."""
        return self.cell.base_seed

    @cached_property
    def base(self) -> base_models.Base:
        """Base model θ*: pretrained, shipped, or trained and kept in the store."""
        return self.base_source.find()

    def assume_base(self, content: str) -> None:
        """Use `content` as the hash of an absent base model, so that later stages have keys."""
        self.base = base_models.Base(Path(), content, False, "unknown")

    def architecture(self) -> Any:
        """Build a model of the base's shape, for weights to be loaded into."""
        task = self.task
        model = base_models.new_model(task.family, task.dataset, task.base, words=task.classes)
        self.family.set_precision(model, task.sampler.precision)
        return model

    def truncated_prompts(self, texts: Sequence[str]) -> tuple[int, list[int]]:
        """Find the prompts that are longer than the text encoder takes; the model is not copied.

        Returns:
            The encoder's number of token places, and the indices of the prompts with more tokens.
        """
        model = self.base_source.tokenizing_model()
        return model.tokenizer.model_max_length, model.truncated_prompts(texts)

    def base_model_copy(self) -> Generator:
        """Make a copy of θ*."""
        return self._fit(self.base_source.copy())

    def base_model_view(self) -> Generator:
        """Give θ* for reading; a pretrained model has one open copy, since each takes GiB."""
        return self._fit(self.base_source.view())

    def _fit(self, model: Generator) -> Generator:
        """Let a model's network take its batches in pieces, if memory was too small for all at once."""
        if self.divisor > 1 and id(model) not in self._divided:
            from sa_bench.models.passes import divide_passes

            divide_passes(model.net, self.divisor)
            self._divided[id(model)] = model
        return model

    def stage_of_set(self, fixed: FixedSet) -> Stage:
        """Give the stage of a fixed set of θ*'s samples."""
        sampler, size, n = self.task.sampler, self.sets.part_size, len(fixed.conditions)
        inputs = {"base": self.base.content, **fixed.inputs}

        def build_whole(folder: Path) -> None:
            draw_fixed_set(self.base_model_view(), fixed, sampler, folder, self.progress, size)

        if "part" not in fixed.inputs or size is None:
            return Stage("replay", fixed.name, inputs, build_whole)
        draw = partial(draw_part, self.base_model_view, fixed, sampler, size)

        def build_part(parts: Path, number: int) -> None:
            draw(parts, number)
            self.progress(fixed.name, min(n, (number + 1) * size), n)

        def build(folder: Path) -> None:
            drawn = (draw(parts_of(folder), number) for number in range(count))
            import torch

            x, c = zip(*drawn, strict=True)
            write_fixed_set(folder, torch.cat(x), torch.cat(c))

        count = -(-n // size)
        return Stage("replay", fixed.name, inputs, build, count, build_part)

    def source(self, name: str) -> Any:
        """Make the source `name` of θ*'s samples: the stored set, or new samples each time."""
        from safetensors.torch import load_file

        from sa_bench.training.sources import FixedReplay

        fixed = self.sets.fixed_set(name)
        if fixed is None:
            return fresh_source(name, self.base_model_view(), self.cell)
        stored = load_file(
            self.make(self.stage_of_set(fixed)).path / "replay.safetensors", device=self.device
        )
        used = self.task.replay_used if name == "replay" else 0
        return FixedReplay(stored["x"], stored["c"], self.base_source.flip, used)

    def surrogate(self, model: Generator) -> Any:
        """Make the source q(x|c_f), labelled c_f for `model`, or any of several concepts."""
        from sa_bench.training.sources import Relabelled

        source = self._surrogate_of_one(model)
        conditions = self.task.conditions_of_concepts()
        return Relabelled(source, model, conditions) if self.task.also else source

    def _surrogate_of_one(self, model: Generator) -> Any:
        """Make the source q(x|c_f), labelled c_f."""
        from sa_bench.training.sources import Relabelled

        task, kind = self.task, self.task.surrogate.partition(":")[0]
        if kind not in ("class", "prompt"):
            return foreign_surrogate(model, self.cell)
        if self.sets.fixed_set("surrogate") is None:
            return fresh_source("surrogate", model, self.cell)
        return Relabelled(self.source("surrogate"), model, task.prompts_for(task.concept, "forget"))

    def fisher_stage(self, options: FisherOptions) -> Stage:
        """Give the stage of F at θ*, shared by all methods and seeds with the same options."""
        task = self.task
        from_replay = fisher_plan.is_from_replay(options)

        def write(folder: Path, F: Mapping[str, torch.Tensor], negative: float) -> dict[str, Any]:
            from safetensors.torch import save

            write_atomic(folder / "fisher.safetensors", save({k: v.cpu() for k, v in F.items()}))
            trace = float(sum(float(v.double().sum()) for v in F.values()))
            return {"trace": trace, "negative": negative}

        def build_whole(folder: Path) -> dict[str, Any]:
            import torch

            rng = torch.Generator().manual_seed(image_seed("fisher", 0))
            F = self.family.estimate_fisher(
                self.base_model_view(),
                task,
                options,
                self.source("replay") if from_replay else None,
                task.sampler,
                rng,
                lambda done: self.progress("fisher", done, options.n),
                parts_of(folder) / "unfinished.safetensors",
            )
            return write(folder, *F)

        def build_part(parts: Path, number: int) -> None:
            file, part = parts / f"sums-{number:03d}.safetensors", shares[number]
            if load_part(file) is not None:
                return
            import torch

            from sa_bench.training import fisher

            unfinished = parts / f"unfinished-{number:03d}.safetensors"
            sums = fisher.sum_part(
                cast(Diffusion, self.base_model_view()),
                task,
                options,
                cast(Source, self.source("replay") if from_replay else None),
                task.sampler,
                torch.Generator().manual_seed(image_seed("fisher", number)),
                part,
                lambda done: self.progress("fisher", part.start + done, options.n),
                unfinished,
                self.divisor,
            )
            save_part(file, sums)
            unfinished.unlink(missing_ok=True)

        def build(folder: Path) -> dict[str, Any]:
            from sa_bench.training import fisher

            files = [parts_of(folder) / f"sums-{i:03d}.safetensors" for i in range(len(shares))]
            sums = (load_part(file) or {} for file in files)
            return write(folder, *fisher.mean_of_sums(fisher.add_sums(sums), options.n))

        inputs: dict[str, Any] = {
            "version": fisher_plan.VERSION,
            "base": self.base.content,
            "options": key_values(options),
            "concept": None if options.set == "all" else task.concept,
            "sampler": key_values(task.sampler),
        }
        inputs |= task.prompt_key_inputs("words", task.classes)
        if options.set == "retain" and len(task.absent) > 1:
            inputs["retain"] = task.retain
        if options.set == "replay":
            inputs |= self.sets.replay_key()
        if not self._divides(options):
            return Stage("fisher", "fisher", inputs, build_whole)
        shares = fisher_plan.split_samples(options.n)
        inputs["shares"] = fisher_plan.SHARES
        return Stage("fisher", "fisher", inputs, build, len(shares), build_part)

    def _divides(self, options: FisherOptions) -> bool:
        """Tell whether F is a sum of parts, each with a generator of its own."""
        looks = options.n * (options.timesteps or ALL_TIMESTEPS)
        return self.family.has_timesteps and self.sets.is_long(looks)

    def fisher(self, options: FisherOptions) -> dict[str, torch.Tensor]:
        """Give F at θ* by parameter name."""
        from safetensors.torch import load_file

        return load_file(self.make(self.fisher_stage(options)).path / "fisher.safetensors")

    def forget_stage(self) -> Stage:
        """Give the stage of the model after forgetting."""

        def build(folder: Path) -> dict[str, Any]:
            if self.task.then:
                standing = registry.get_method(self.cell.method).standing
                return forget_in_turn(self, folder, last_alone=standing == "reference")
            from sa_bench.engine.method_run import MethodRun

            run = MethodRun(self, folder)
            model = self.cell.build_method().forget(self.base_model_copy(), self.task, run)
            model.save(folder)
            trainings = [record.plain() for record in run.trainings]
            return {"precision": run.precision, "trainings": trainings}

        return Stage("forget", "forget", self._forget_key_inputs(), build)

    def _forget_key_inputs(self) -> dict[str, Any]:
        """Collect what names the model after forgetting."""
        cell, task = self.cell, self.task
        method = registry.get_method(cell.method)
        files = {name: layouts.hash_weights(Path(cell.fields[name])) for name in method.files}
        inputs: dict[str, Any] = {
            "version": [
                FORGET_VERSION,
                registry.version_key("method", cell.method, method.version),
            ],
            "method": cell.method,
            "fields": {**cell.keyed_fields(), **files},
            "seed": cell.seed,
            "base": self.base.content,
            "concept": task.concept,
            "sampler": key_values(task.sampler),
            "fisher_version": fisher_plan.VERSION,
            "bf16": self.bf16,
            "data": None,
            "recipes": None,
        }
        if "surrogate" not in method.ignores:
            inputs |= {"surrogate": self.sets.surrogate_key, "relabel_to": task.relabel_to}
        if "data" in method.needs:
            inputs["data"] = datasets.data_content(task.dataset)
            inputs["recipes"] = {
                name: key_values(recipe) for name, recipe in self.family.recipes.items()
            }
            inputs |= self.family.data_key_inputs(task.base)
        if any(self._divides(options) for _, options in self.fisher_fields()):
            inputs["fisher_version"] = [fisher_plan.VERSION, fisher_plan.SHARES]
        inputs |= {
            name: value for name in ("also", "then", "gone") if (value := getattr(task, name))
        }
        inputs |= task.prompt_key_inputs("asked", task.conditions_of_concepts())
        names = [task.classes[c] for c in task.concepts]
        if unasked := names_without_text(names, inputs.get("asked", names)):
            inputs["names"] = unasked
        if captioned := self.sets.key_inputs("captioned"):
            inputs["captioned"] = captioned
        if "replay" not in method.ignores:
            if replay := self.sets.replay_key():
                inputs["replay"] = replay
            covered = [task.classes[c] for c in task.covered]
            if unshown := names_without_text(covered, replay.get("texts", covered)):
                inputs["covered_names"] = unshown
        return inputs

    def stages_of_forgetting(self) -> list[Stage]:
        """List the stages up to the model after forgetting, in order, without making them."""
        stages = [self.fisher_stage(options) for _, options in self.fisher_fields()]
        return [*stages, *(stage for _, stage in self.sets_of_forgetting()), self.forget_stage()]

    def fisher_fields(self) -> list[tuple[str, FisherOptions]]:
        """List the F that the method asks for, by name with their options; none of a whole sequence."""
        if self.task.then:  # each of its steps has its own
            return []
        return list(self.cell.build_method().fishers().items())

    def sets_of_forgetting(self) -> list[tuple[str, Stage]]:
        """List the stored sets that the method learns from, with their stages; none of a sequence."""
        if self.task.then:
            return []
        method = self.cell.build_method()
        names = [name for name, need in SET_OF_NEED.items() if need in method.needs]
        if any(fisher_plan.is_from_replay(options) for _, options in self.fisher_fields()):
            names += ["replay"] if "replay" not in names else []
        names = [name for name in [*names, "captioned"] if name not in method.ignores]
        found = [(name, self.sets.fixed_set(name)) for name in names]
        return [(name, self.stage_of_set(fixed)) for name, fixed in found if fixed is not None]

    @cached_property
    def forgotten(self) -> Artifact:
        """Model after forgetting: made, read from the store, or taken from `model_folder`."""
        if self.model_folder is not None:
            return Artifact(self.model_folder, "", "", {}, True)
        return self.make(self.forget_stage())

    @property
    def precision(self) -> dict[str, str]:
        """Precision of training: as asked for, and as used for base and forgetting."""
        # Artifacts of older versions lack the entry.
        forgetting = self.forgotten.meta.get("precision", "unknown")
        return {
            "asked": self.task.train_precision,
            "base": self.base.precision,
            "forgetting": forgetting,
        }

    @property
    def trainings(self) -> list[dict[str, Any]]:
        """What was trained: the base model, unless it came ready-made, and the method's own trainings."""
        return [*self.base.trainings, *self.forgotten.meta.get("trainings", ())]

    def _model_once(self, base: bool) -> Generator:
        """Load θ* or the model after forgetting, or give the one that was loaded for the last part."""
        if self._loaded is None or self._loaded[0] != base:
            self._loaded = None
            self._loaded = (base, self.base_model_view() if base else self.model())
        return self._loaded[1]

    def model(self) -> Generator:
        """Load the model after forgetting."""
        model, method = self.base_model_copy().load(self.forgotten.path), self.cell.build_method()
        return method.wrap(model, self.task)

    @cached_property
    def model_content(self) -> str:
        """sha256 of the weight file after forgetting and of what the method does at inference time.

        The file of a text-to-image model holds what differs from its base, so the base's hash is
        included. Where nothing differs, hash and images are the base's.
        """
        file = self.forgotten.path / "model.safetensors"
        content = self.family.hash_forgotten(file, self.base.content)
        if registry.get_method(self.cell.method).wraps():
            content = digest([content, self._inference_key()])
        return content

    def _inference_key(self) -> list[Any]:
        """Collect what names a method's part in sampling: its fields, and what it may read of its task's words."""
        cell, task, method = self.cell, self.task, registry.get_method(self.cell.method)
        version = registry.version_key("method", cell.method, method.version)
        concepts = [[c, task.classes[c]] for c in task.concepts]
        asked = task.prompt_key_inputs("asked", task.conditions_of_concepts())
        return [cell.method, version, cell.keyed_fields(), concepts, asked, task.anchor]

    def sample_stage(self, name: str, base: bool = False) -> Stage:
        """Give the stage of the sample set `name` of θ* or of the forgotten model, which must exist."""
        task, method = self.task, self.cell.build_method()
        size, total = self.base_source.shard_size, sampling.count_images(task, name)
        model = partial(self._model_once, base)

        def build_part(parts: Path, number: int) -> None:
            sampling.draw_shard(model, task, name, number, parts, size)
            if self._loaded is not None:
                self._meter.note_divided(getattr(self._loaded[1], "divided", 1))
            self.progress(f"sample {name}", min(total, (number + 1) * size), total)

        def build(folder: Path) -> None:
            drawn = sampling.draw_set(model, task, name, parts_of(folder), shard_size=size)
            self._loaded = None
            if not base and method.renders():  # here, so that a resumed run never filters twice
                drawn = replace(drawn, images=method.render(drawn.images, drawn.labels, task))
            save_samples(drawn, folder / f"{name}.safetensors")

        rows = sampling.requests_of_set(task, name)
        inputs: dict[str, Any] = {
            "version": SAMPLE_VERSION,
            "model": self.base.content if base else self.model_content,
            "sampler": key_values(task.sampler),
            "rows": [
                [r.condition, r.seed, *(v for v in (r.guidance, r.size) if v is not None)]
                for r in rows
            ],
        }
        if not base and method.renders():
            inputs["render"] = self._inference_key()
        label = f"sample {name} (base)" if base else f"sample {name}"
        shards = sampling.count_shards(task, name, size)
        return Stage("samples", label, inputs, build, shards, build_part)

    def samples(self, name: str, base: bool = False) -> Artifact:
        """Draw the sample set `name` of the forgotten model, or of θ*, or read it from the store.

        The artifact is remembered, since every metric asks for it.
        """
        if (name, base) not in self._sets:
            self._sets[name, base] = self.make(self.sample_stage(name, base))
        return self._sets[name, base]

    @cached_property
    def judges(self) -> Mapping[str, Judge]:
        """Judges of the task's panel by name; what they say of a set serves every metric."""
        from sa_bench.scoring import judges

        return {name: judges.CachedJudge(judges.load(name)) for name in self.task.judges}

    def drop_images(self, base: bool = False) -> None:
        """Delete the images of c_f from the store.

        Args:
            base: False deletes this cell's images; True those of the base model, with the set that
                methods learn from.
        """
        made = self.base_source.stage()
        if made is not None and not self.store.has(made.kind, made.key):
            return  # without its base model a task has no images
        concept_set = self.sets.fixed_set("own")
        if base and concept_set is not None:
            self.store.drop("replay", self.stage_of_set(concept_set).key)
        if not base and not self.store.has("forget", self.forget_stage().key):
            return  # without its model a cell has no images
        for name in sampling.set_names(self.task):
            if name not in ("forget", "families"):
                continue
            key_of_base = self.sample_stage(name, base=True).key
            key = self.sample_stage(name, base).key
            if base or key != key_of_base:  # the base's images serve other cells
                self.store.drop("samples", key)
        self._sets.clear()
