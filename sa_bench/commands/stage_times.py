"""What a stage will take: by earlier runs on this machine, else by shipped rates scaled to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any

from sa_bench.contracts import Task, key_values
from sa_bench.core import registry
from sa_bench.core.store import Store, digest
from sa_bench.data.assets.shipped import rates_card
from sa_bench.engine import gpu_rates, rates
from sa_bench.engine.fingerprint import fingerprint
from sa_bench.engine.rates import ANY_METHOD, Duration, name_work, summarise
from sa_bench.models.family import get_family
from sa_bench.results import dose

if TYPE_CHECKING:  # loads torch
    from sa_bench.engine.stages import Chain

_probe_machine = cache(rates.probe_speed)  # once a process: it takes a tenth of a second


@dataclass
class StageTimes:
    """Estimates durations in CPU seconds.

    What ran on this machine before is estimated from that, at the precision of its own sampler,
    batch and fingerprint. Anything else is estimated from the shipped boards, by family and data
    set, and scaled by a short probe that runs once, when it is first needed. For models that nobody
    runs on a CPU there are the figures of one GPU, not scaled; seconds are that GPU's then.
    """

    own: Mapping[str, Duration] = field(default_factory=dict)  # a unit, by what it is a unit of
    peak_mib: float = 0.0  # largest peak memory of what ran here
    device: str = "cpu"
    """Device that the run is planned for: `cpu`, `cuda`, `cuda:1`."""
    own_gpu: Mapping[str, Duration] = field(default_factory=dict)
    """Wall seconds a unit of what ran on this machine's GPU."""
    shipped: Mapping[str, Any] = field(default_factory=rates_card)
    _measured: dict[tuple[int, int, tuple[str, ...]], tuple[Task, Duration | None]] = field(
        default_factory=dict
    )
    """Estimates of measurements by (id of the task, base seed, metrics); many cells ask for the same."""
    _borrowed: dict[str, None] = field(default_factory=dict)
    """Notes on GPU figures of another precision; with "" for each that is of its own."""

    @cached_property
    def speed(self) -> float:
        """This machine's speed as a multiple of the one on which the shipped rates were measured."""
        return _probe_machine() / self.shipped["speed"]

    @property
    def probed(self) -> bool:
        """Whether any estimate came from the shipped rates."""
        return "speed" in self.__dict__

    def describe_gpu(self) -> str:
        """Say in one line that estimates are a GPU's figures, and which are of another precision.

        Returns:
            "" if no estimate came from them.
        """
        if not self._borrowed:
            return ""
        card = gpu_rates.gpu_rates_card()
        notes = "".join(f"; {note}" for note in self._borrowed if note)
        slower = (
            ""
            if gpu_rates.is_gpu(self.device)
            else "; a CPU takes many times as long (--device cuda)"
        )
        return f"Large models by figures of one {card['device']} ({card['page']}), not scaled to another GPU{notes}{slower}."

    def train_base(self, task: Task) -> Duration | None:
        """Estimate the training of the task's base model; None if unknown."""
        recipe = get_family(task.family).get_recipe(task.base)
        own = self._from_own(f"base step {task.family} {task.base}", recipe.steps, task)
        images = recipe.steps * recipe.batch
        precision = gpu_rates.training_precision(task)
        return (
            own
            or self._from_gpu("forget retrain", task, images, precision)
            or self._from_shipped("forget retrain", task, images)
        )

    def estimate_fisher(self, task: Task, inputs: Mapping[str, Any]) -> Duration | None:
        """Estimate a Fisher diagonal, given the inputs of its stage; None if unknown."""
        n = int(inputs["options"]["n"])
        looks = gpu_rates.count_looks(inputs["options"], task.family)
        return (
            self._from_own(_fisher_name(inputs), n, task)
            or self._from_gpu("fisher", task, looks)
            or self._from_shipped("fisher", task, looks)
        )

    def draw_images(self, task: Task, images: int, method: str = "") -> Duration | None:
        """Estimate the drawing of so many images; None if unknown.

        Args:
            task: with the sampler.
            images: number of images.
            method: whose model draws, if it may act at inference; "" for θ*.
        """
        sampler = key_values(task.sampler)
        looks = rates.count_denoised_images(images, sampler)
        acts = bool(method) and registry.get_method(method).wraps()
        kind = f"sample {method}" if acts else "sample"
        return (
            self._from_own(_sample_name(sampler), images, task)
            or self._from_gpu(kind, task, looks, task.sampler.precision)
            or self._from_shipped("sample", task, looks)
        )

    def forget(
        self, task: Task, method: str, fields: Mapping[str, Any], steps: int
    ) -> Duration | None:
        """Estimate a method's own work; a method that never ran here is taken for one like the others."""
        name = _forget_name(method, fields, key_values(task.sampler))
        own = self._from_own(name, max(1, steps), task)
        if own is None and gpu_rates.needs_gpu(task):
            return self._forget_on_gpu(task, method, fields)
        images = rates.count_trained_images(fields, task.family)
        kinds = [f"forget {method}", *([f"forget {ANY_METHOD}"] if steps else [])]
        shipped = (self._from_shipped(kind, task, images) for kind in kinds)
        return own or next(filter(None, shipped), None)

    def _forget_on_gpu(self, task: Task, method: str, fields: Mapping[str, Any]) -> Duration | None:
        """Estimate a method's own work on a large model; None if unknown."""
        if gpu_rates.trains_nothing(method):
            return rates.NOTHING
        images = rates.count_trained_images(fields, task.family)
        precision, scope = gpu_rates.training_precision(task), str(fields.get("scope", "full"))
        found = (
            self._from_gpu(kind, task, images, precision, scope, fields)
            for kind in gpu_rates.list_kinds(method)
        )
        return next(filter(None, found), None)

    def fit_conditions(self, task: Task) -> Duration | None:
        """Estimate the attack without a judge on one model; None if unknown."""
        images = dose.count_fits(task) * dose.recovery_dose(task)["samples"]
        return self._from_own(_fit_name(key_values(task.sampler)), images, task)

    def measure(self, chain: Chain, metrics: Sequence[str]) -> Duration | None:
        """Estimate measurements, each by its fingerprint if that ran here, else by its name.

        Returns:
            None if one of the metrics is unknown.
        """
        asked = (id(chain.task), chain.base_seed, tuple(metrics))
        if asked not in self._measured:  # the task is kept, so that its id stays its own
            self._measured[asked] = (chain.task, self._estimate_metrics(chain, metrics))
        return self._measured[asked][1]

    def _estimate_metrics(self, chain: Chain, metrics: Sequence[str]) -> Duration | None:
        """Estimate measurements one by one; None if one of them is unknown."""
        total = rates.NOTHING
        for name in metrics:
            key = digest(fingerprint(chain, registry.get_metric(name)))
            duration = self._from_own(f"measure {name} {key}", 1, chain.task)
            if duration is None and name == "recovery_excess":  # proportional to its dose
                duration = self.fit_conditions(chain.task)
            elif duration is None:
                duration = self._from_own(f"measure {name}", 1, chain.task)
            images = rates.count_scored_images(name, chain.task)
            duration = duration or self._from_shipped(f"measure {name}", chain.task, images)
            if duration is None:
                return None
            total += duration
        return total

    def _from_own(self, name: str, count: int, task: Task) -> Duration | None:
        """Estimate `count` units by what ran here on such a device; None if it never did.

        What only a GPU is practical for ran on one, whichever device was asked for.
        """
        on_gpu = gpu_rates.is_gpu(self.device)
        of_device, of_other = (self.own_gpu, self.own) if on_gpu else (self.own, self.own_gpu)
        known = {**of_other, **of_device} if gpu_rates.needs_gpu(task) else of_device
        return known[name] * count if name in known else None

    def _from_gpu(self, kind: str, task: Task, *work: Any) -> Duration | None:
        """Estimate work on a large model by the figures of one GPU (`gpu_rates.estimate`); None if there are none."""
        time = gpu_rates.estimate(kind, task, *work)
        if time is None:
            return None
        self._borrowed[time.borrowed] = None
        return Duration(time.seconds, time.seconds, time.seconds)

    def _from_shipped(self, kind: str, task: Task, count: int) -> Duration | None:
        """Estimate `count` units by the shipped rates; None if they have no such work."""
        rate = self.shipped["rates"].get(name_work(kind, task.family, task.dataset))
        if rate is None or task.model:
            return None
        return Duration(rate["low"], rate["middle"], rate["high"]) * (count / self.speed)


def read_times(store: Store, device: str = "cpu") -> StageTimes:
    """Read what stages took on this machine from the artifacts in its store.

    Args:
        store: the store.
        device: that a run is planned for.
    """
    times_of: dict[bool, dict[str, list[float]]] = {False: {}, True: {}}
    peaks: list[float] = [0.0]
    digests: dict[str, str] = {}
    for stage, meta in store.iterate_meta():
        cost, inputs = meta.get("cost", {}), meta.get("inputs", {})
        peaks += [peak] if (peak := cost.get("peak_mib")) else []
        on_gpu = gpu_rates.is_gpu(cost.get("device", "cpu"))
        seconds, seconds_by_name = cost.get("wall_s" if on_gpu else "cpu_s"), times_of[on_gpu]
        if seconds is not None:
            names, count = _split_cost(stage, inputs, digests)
            for name in names:
                seconds_by_name.setdefault(name, []).append(seconds / max(1, count))
            if inputs.get("metric") == "recovery_excess":
                task_values = inputs["fingerprint"]
                images = dose.count_fits(task_values) * dose.recovery_dose(task_values)["samples"]
                seconds_by_name.setdefault(_fit_name(task_values["sampler"]), []).append(
                    seconds / max(1, images)
                )
    own, own_gpu = (
        {name: summarise(values) for name, values in times_of[on_gpu].items()}
        for on_gpu in (False, True)
    )
    return StageTimes(own, max(peaks), device, own_gpu)


def _split_cost(
    stage: str, inputs: Mapping[str, Any], digests: dict[str, str]
) -> tuple[list[str], int]:
    """Return (names of the unit, number of units) that the cost of an artifact is divided by.

    Args:
        stage: of the artifact.
        inputs: that it was made from.
        digests: of fingerprints by their text, filled here; thousands of artifacts share a few.
    """
    if stage == "base":
        return [f"base step {inputs['family']} {_recipe_name(inputs)}"], int(
            inputs["recipe"]["steps"]
        )
    if stage == "fisher":
        return [_fisher_name(inputs)], int(inputs["options"]["n"])
    if stage == "samples":
        return [_sample_name(inputs["sampler"])], len(inputs["rows"])
    if stage == "replay":
        return [_sample_name(inputs["sampler"])], int(inputs["n"])
    if stage == "forget":
        fields = inputs["fields"]
        recipe = (inputs.get("recipes") or {}).get(fields.get("recipe"), {})
        name = _forget_name(inputs["method"], fields, inputs["sampler"])
        return [name], int(fields.get("steps") or recipe.get("steps", 0))
    if stage != "measure":
        return [], 1
    name, text = f"measure {inputs['metric']}", repr(inputs["fingerprint"])
    if text not in digests:
        digests[text] = digest(inputs["fingerprint"])
    return [name, f"{name} {digests[text]}"], 1


def _sample_name(sampler: Mapping[str, Any]) -> str:
    """Name the time per image of a sampler; it also identifies the family."""
    return f"sample image {digest(sampler)}"


def _fit_name(sampler: Mapping[str, Any]) -> str:
    """Name the time per image of a fit of c_f's words, forward and back; the sampler tells models apart."""
    return f"fit image {digest(sampler)}"


def _fisher_name(inputs: Mapping[str, Any]) -> str:
    """Name the time per sample of a Fisher diagonal."""
    return f"fisher sample {digest([inputs['sampler'], inputs['options'].get('timesteps', 0)])}"


def _forget_name(method: str, fields: Mapping[str, Any], sampler: Mapping[str, Any]) -> str:
    """Name the time per step of a method, which depends on sampler, batch, recipe and trainer."""
    trainer = [fields["trainer"]] if "trainer" in fields else []
    return f"forget step {method} {digest([sampler, fields.get('batch'), fields.get('recipe'), *trainer])}"


def _recipe_name(inputs: Mapping[str, Any]) -> str:
    """Find the name of the base recipe that a base model was trained by, from its steps."""
    recipes = get_family(inputs["family"]).recipes
    steps = {recipe.steps: name for name, recipe in recipes.items()}
    return steps.get(inputs["recipe"]["steps"], "unknown")
