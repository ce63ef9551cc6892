"""Measure every metric of a task on a model, its base or given images, and keep the results."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors.numpy import load_file, save

from sa_bench.contracts import (
    Generator,
    Measured,
    Metric,
    SampleSet,
    image_seed,
    undefined,
)
from sa_bench.core import registry
from sa_bench.core.errors import MissingAsset, NotFinite, SaBenchError, Unmeasurable
from sa_bench.core.parts import load_part, load_record, parts_of, save_part, save_record
from sa_bench.core.store import digest, write_atomic
from sa_bench.core.untrusted_text import read_json
from sa_bench.data import datasets
from sa_bench.data.sample_sets import hash_array, load_samples
from sa_bench.engine.fingerprint import fingerprint, metric_name
from sa_bench.engine.stage import Stage
from sa_bench.engine.stages import Chain
from sa_bench.results.rows import measurement_row, read_measured, write_measured
from sa_bench.results.schema import Measurement
from sa_bench.scoring import detectors, inception, requirements, sampling
from sa_bench.scoring.detectors import Beside, Record

if TYPE_CHECKING:  # what is measured already is read without torch
    import torch

    from sa_bench.scoring.judges import Judge

CHUNK = 200  # images in a part of a detector's records; a killed run loses no more
FEATURES = 1024
"""The same for Inception's features; a multiple of the network's batch, so that no bit depends on it."""
FOUND = "found.json"
"""What a search in the base model found."""


def keep_detections(
    chain: Chain, name: str, images: SampleSet, beside: Beside = None
) -> list[Record]:
    """Run a detector on `images`, or read its records of the same pixels from the store."""
    detector = detectors.load(name)
    earlier_records = keep_detections(chain, detector.AFTER, images) if detector.AFTER else None
    other_images = beside.images if isinstance(beside, SampleSet) else beside
    inputs: Mapping[str, Any] = {
        "detector": detectors.fingerprint([name]),
        "images": hash_array(images.images),
        "beside": hash_array(beside.images)
        if isinstance(beside, SampleSet)
        else digest(list(beside or [])),
    }

    def build_part(parts: Path, number: int) -> None:
        file, start = parts / _name_part(number), number * CHUNK
        if load_record(file) is not None:
            return
        rows = slice(start, start + CHUNK)
        records = detector.detect(
            images.images[rows],
            None if other_images is None else other_images[rows],
            earlier_records and earlier_records[rows],
            chain.device,
            lambda stage, done, _: chain.progress(stage, start + done, len(images)),
        )
        save_record(file, records)

    def build(folder: Path) -> None:
        for number in range(count):
            build_part(parts_of(folder), number)
            records = load_record(parts_of(folder) / _name_part(number))
            text = json.dumps(records, allow_nan=False)
            write_atomic(folder / _name_part(number), text.encode())

    count = -(-len(images) // CHUNK)
    stage = Stage("detections", f"detect {name}", inputs, build, count, build_part)
    folder = chain.make(stage).path
    return [record for file in sorted(folder.glob("[0-9]*.json")) for record in read_json(file)]


def _name_part(number: int) -> str:
    """Name the file of a part of a detector's records by its first image."""
    return f"{number * CHUNK:08d}.json"


def role_of(name: str, metric: Metric, primary: Sequence[str]) -> str:
    """Name the role of a metric: primary, secondary, or diagnostic (it has no better direction)."""
    if name in primary:
        return "primary"
    return "secondary" if metric.better else "diagnostic"


def measure_inputs(chain: Chain, metric: Metric, subject: Subject) -> dict[str, Any]:
    """Collect what names a measurement."""
    inputs: dict[str, Any] = {
        "metric": metric.name,
        "fingerprint": fingerprint(chain, metric),
        "subject": subject.inputs(metric),
    }
    if chain.task.sample_seed and requirements.asks_model(metric):  # it draws images of its own
        inputs["sample_seed"] = chain.task.sample_seed
    if not subject.base and metric.attack == "service" and chain.cell.build_method().renders():
        inputs["filter"] = (
            chain.cell.method
        )  # the model is θ*; what is asked of it goes through the filter
    return inputs


def measure(chain: Chain, metric: Metric, subject: Subject) -> tuple[dict[str, Any], Path | None]:
    """Measure one metric on `subject`.

    Returns:
        The measurement, and the path of its per-sample scores (Parquet) or None.
    """
    view = LazyView(chain, subject, offered=metric.attack == "service")
    if reason := view.lacks(metric):
        return asdict(undefined(reason)), None

    def build(folder: Path) -> None:
        try:
            write_measured(folder, metric.measure(view))
        except Unmeasurable as error:
            write_measured(folder, undefined(str(error)))

    inputs = measure_inputs(chain, metric, subject)
    label = f"measure {metric.name}" + (" (base)" if subject.base else "")
    artifact = chain.make(Stage("measure", label, inputs, build))
    return read_measured(artifact.path)


def measure_all(
    chain: Chain, subject: Subject, base: Subject | None, announce: bool = True
) -> tuple[list[Measurement], dict[str, Path]]:
    """Measure every metric of the task on `subject`, and on the base model unless `base` is None.

    With `announce` each metric is reported before it is taken.

    Returns:
        The measurements, and the paths of the per-sample scores by metric name.
    """
    rows, scores = [], {}
    for done, name in enumerate(chain.task.metrics):
        metric = registry.get_metric(name)
        if announce:
            chain.progress(f"measure {name}", done, len(chain.task.metrics))
        shown_name = metric_name(metric, chain.task.dataset)
        path, base_value = None, None
        try:
            require_images(chain, metric)
            measured, path = measure(chain, metric, subject)
            if base is not None and (measured["value"] is not None or subject.sets is None):
                base_value, _ = measure(chain, metric, base)
        except MissingAsset as error:
            chain.missing_images = error
            measured = {"value": None, "reason": str(error)}
        if path is not None:
            scores[shown_name] = path
        rows.append(measurement_with_base(chain, metric, measured, base_value))
    chain.progress("measure", len(rows), len(rows))
    return rows, scores


def require_images(chain: Chain, metric: Metric) -> None:
    """Raise again why there are no real images, if the metric needs them and they were asked for.

    Raises:
        MissingAsset: there are none.
    """
    if chain.missing_images is not None and "real" in metric.requires:
        raise chain.missing_images


def measurement_with_base(
    chain: Chain, metric: Metric, measured: Mapping[str, Any], base: Mapping[str, Any] | None
) -> Measurement:
    """Build the result row of a measurement, with the base model's value beside it."""
    declared = {n: getattr(metric, n) for n in ("title", "unit", "better", "source")}
    role = role_of(metric.name, metric, chain.task.primary)
    name = metric_name(metric, chain.task.dataset)
    return measurement_row(name, role, declared, measured, base, fingerprint(chain, metric))


class Subject:
    """What is measured: the model of a cell, its base model, or images from elsewhere."""

    def __init__(
        self, chain: Chain, base: bool = False, sets: Mapping[str, SampleSet] | None = None
    ) -> None:
        """Give `sets` for images from elsewhere; then there is no model."""
        self.chain, self.base, self.sets = chain, base, sets

    def sample_set(self, name: str) -> SampleSet:
        """Load the sample set `name`.

        Raises:
            Unmeasurable: images from elsewhere were given without it.
        """
        if self.sets is not None:
            if name not in self.sets:
                raise Unmeasurable(f"needs the images of {name}/")
            return self.sets[name]
        return load_samples(self.chain.samples(name, self.base).path / f"{name}.safetensors")

    def before(self) -> Subject:
        """Give the base model θ* as a subject, to compare with."""
        return Subject(self.chain, base=True)

    def model(self) -> Generator:
        """Load the model."""
        return self.chain.base_model_copy() if self.base else self.chain.model()

    def inputs(self, metric: Metric) -> dict[str, Any]:
        """Collect the content hashes of everything that the metric sees."""
        chain, needs_base = self.chain, "base" in metric.requires
        inputs: dict[str, Any] = {}
        if self.sets is not None:
            if needs_base:
                inputs["base"] = chain.base.content
            for name, samples in self.sets.items():
                columns = [samples.labels]
                if samples.prompts is not None:
                    columns.append(samples.prompts)
                elif (samples.seeds >= 0).any():  # with prompts, these identify the rows
                    columns.append(samples.seeds)
                inputs[name] = digest([hash_array(samples.images), *(c.tolist() for c in columns)])
            return inputs
        if requirements.asks_model(metric):
            inputs["model"] = chain.base.content if self.base else chain.model_content
        if "star" in metric.requires:
            inputs["star"] = chain.base.content
        if "samples" in metric.requires:
            sets = [n for n in metric.sets if n in sampling.set_names(chain.task)]
            inputs |= {n: chain.samples(n, self.base).content for n in sets}
            if chain.family.keys_all_base_sets:
                inputs["base"] = {n: chain.samples(n, True).content for n in sets if needs_base}
            else:
                inputs["base"] = chain.samples("retain", True).content if needs_base else None
        return inputs


class LazyView:
    """The contract's View over a subject; everything is loaded on first use."""

    def __init__(self, chain: Chain, subject: Subject, offered: bool = False) -> None:
        """Load nothing yet; `offered` shows images as whoever may only ask sees them."""
        self.chain, self.subject, self.task = chain, subject, chain.task
        self.offered = offered
        self.samples = _LazySets(self._load_samples)
        self.base = _LazySets(self._load_base_samples)

    def _load_samples(self, name: str) -> SampleSet:
        """Load the set `name` without the images that are not finite.

        Raises:
            NotFinite: no image is finite.
        """
        images = self.subject.sample_set(name)
        if images.finite is None:
            return images
        if not images.finite.any():
            raise NotFinite(
                f"none of the {len(images)} images of {name} is finite (NaN or infinite values)"
            )
        return replace(images.take(images.finite), finite=None)

    def show(self, images: np.ndarray, label: int) -> np.ndarray:
        """Filter images (N, H, W, C) that were asked for as class `label`, if the method does and only asking is allowed."""
        if not self.offered or self.subject.base:
            return images
        labels = np.full(len(images), label)
        return self.chain.cell.build_method().render(images, labels, self.task)

    def _load_base_samples(self, name: str) -> SampleSet:
        """Load θ*'s set `name`, without the images whose partner `_load_samples` leaves out.

        Raises:
            NotFinite: an image of θ* itself is not finite.
        """
        images = self.subject.before().sample_set(name)
        if images.broken and not self.subject.base:
            raise NotFinite(
                f"{images.broken} of the base model's {len(images)} images of {name} are not finite"
            )
        finite = None if self.subject.sets is not None else self.subject.sample_set(name).finite
        return images if finite is None else replace(images.take(finite), finite=None)

    @cached_property
    def judges(self) -> Mapping[str, Judge]:
        """Judges of the task's panel by name."""
        return self.chain.judges

    @cached_property
    def model(self) -> Generator:
        """Model that is measured, loaded once."""
        return self.subject.model()

    @cached_property
    def base_model(self) -> Generator:
        """Base model θ*, loaded once."""
        return self.chain.base_model_copy()

    def lacks(self, metric: Metric) -> str | None:
        """Say why the metric cannot be taken here; None if it can."""
        required = requirements.get(metric.requires)
        if reason := requirements.find_missing(metric.requires):
            return reason
        if self.subject.sets is not None:
            sets = self.subject.sets
            return next((reason for r in required if (reason := r.unfit_given(sets))), None)
        if missing := set(metric.sets) - set(sampling.set_names(self.task)) - {"leakage"}:
            return f"the task has no set {missing.pop()}"
        can = self.chain.family.can
        return next((reason for r in required if (reason := r.unfit(self.task, can))), None)

    def real(self, name: str) -> SampleSet:
        """Load the real images called `name`."""
        return datasets.real_images(self.task, name)

    def inception(self, images: SampleSet) -> np.ndarray:
        """Extract Inception features, or read those of these images from the store."""
        chain, file, n = self.chain, "features.safetensors", len(images)

        def make_part(parts: Path, number: int) -> np.ndarray:
            part, start = parts / f"features-{number:05d}.safetensors", number * FEATURES
            kept = load_part(part)
            if kept is not None:
                return kept["features"].numpy()
            features = inception.extract_features(
                images.images[start : start + FEATURES],
                chain.device,
                lambda stage, done, _: chain.progress(stage, start + done, n),
            )
            import torch

            save_part(part, {"features": torch.from_numpy(features)})
            return features

        def build(folder: Path) -> None:
            parts = [make_part(parts_of(folder), number) for number in range(count)]
            write_atomic(folder / file, save({"features": np.concatenate(parts)}))

        count = -(-n // FEATURES)
        inputs = {"images": hash_array(images.images), "network": [inception.NAME, inception.LAYER]}
        inputs["weights"] = inception.find_weights()[1]
        stage = Stage("features", "features", inputs, build, count, make_part)
        return load_file(chain.make(stage).path / file)["features"]

    def detections(
        self, name: str, images: SampleSet, beside: Sequence[str] | SampleSet | None = None
    ) -> list[dict[str, Any]]:
        """Run a detector, or read its records of these images from the store."""
        return keep_detections(self.chain, name, images, beside)

    def search_base(self, name: str, inputs: Mapping[str, Any], search: Callable[[], Any]) -> Any:
        """Search in θ* alone, or read what an earlier search of the same inputs found from the store."""

        def build(folder: Path) -> None:
            write_atomic(folder / FOUND, json.dumps(search(), allow_nan=False).encode())

        named = {"star": self.chain.base.content, "search": name, **inputs}
        stage = Stage("searches", f"search {name} (base)", named, build)
        return read_json(self.chain.make(stage).path / FOUND)

    def prompts(self, images: SampleSet) -> list[str]:
        """Look up the text behind each image of the task's sets, by seed and prompt number.

        Raises:
            SaBenchError: the images were made from classes, or elsewhere.
        """
        if images.prompts is None:
            raise SaBenchError(
                f"These images of {self.task.name} have no prompts: they were made from classes."
            )
        keys = list(zip(images.seeds.tolist(), images.prompts.tolist(), strict=True))
        if unknown_keys := [key for key in keys if key not in self._text_of_image]:
            raise SaBenchError(
                f"No prompt of {self.task.name} has the seed {unknown_keys[0][0]}: these are other images."
            )
        return [self._text_of_image[key] for key in keys]

    @cached_property
    def _text_of_image(self) -> dict[tuple[int, int], str]:
        """Prompt of every planned image, by seed and prompt number."""
        rows = [
            row
            for name in sampling.set_names(self.task)
            for row in sampling.plan_set(self.task, name)
        ]
        return {(row.request.seed, row.prompt): str(row.request.condition) for row in rows}

    def forgetting(self) -> Metric:
        """Give the task's forgetting endpoint, with a `measure` that takes other images of c_f.

        Raises:
            SaBenchError: the endpoint cannot be measured here.
        """
        metric = registry.get_metric(self.task.primary[0])
        if reason := self.lacks(metric):
            raise SaBenchError(reason)

        def measure(images: SampleSet) -> Measured:
            other = copy(self)
            other.samples = _LazySets(
                lambda name: images if name == "forget" else self.samples[name]
            )
            return metric.measure(other)

        return replace(metric, measure=measure)

    def surrogate(self, n: int) -> SampleSet:
        """Draw `n` images of the surrogate q."""
        model = self.chain.base_model_copy()
        x, _ = self.chain.surrogate(model).batch(n, self.rng("surrogate"))
        labels = np.full(n, self.task.concept)
        return SampleSet(model.to_images(x), labels, np.full(n, -1))

    def rng(self, name: str) -> torch.Generator:
        """Give a random generator whose stream is the same for every model measured."""
        import torch

        return torch.Generator().manual_seed(image_seed(f"measure/{name}", 0))


class _LazySets(Mapping[str, SampleSet]):
    """Sample sets by name, each loaded on first use."""

    def __init__(self, load: Callable[[str], SampleSet]) -> None:
        self._load, self._loaded = load, {}

    def __getitem__(self, name: str) -> SampleSet:
        if name not in self._loaded:
            self._loaded[name] = self._load(name)
        return self._loaded[name]

    def __iter__(self) -> Any:
        return iter(("forget", "retain"))

    def __len__(self) -> int:
        return 2
