"""`check`: test whether a component keeps its contract, on models that take seconds, with reasons."""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Iterator
from dataclasses import FrozenInstanceError, asdict, fields, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from sa_bench.contracts import Diffusion, Generator, Metric, Prompted, Sampler, Task, ignore_event
from sa_bench.core import registry
from sa_bench.core.errors import SaBenchError
from sa_bench.core.store import Store
from sa_bench.engine.cells import list_scales, resolve, resolve_task
from sa_bench.engine.fingerprint import fingerprint
from sa_bench.engine.measure import Subject, measure
from sa_bench.engine.stages import Chain
from sa_bench.models.toy import Gaussian, ToyRun
from sa_bench.scoring.requirements import all_requirements

STEPS = 40  # steps of every training on the toy; of diffusion models one more than KILLED_AT
KILLED_AT = 7  # the step at which the interrupted training stops
SLOW = {"ddim_steps": 4, "saliency": 3}  # fields that only cost time, on the text-to-image model


class Finding(NamedTuple):
    """One line of a check."""

    kept: bool  # whether the clause of the contract is kept
    text: str


def check(kind: str, name: str) -> list[Finding]:
    """Check every clause of the contract of a method, metric or task; an exception is a finding too."""
    findings: list[Finding] = []
    try:
        checks = {"method": _check_method, "metric": _check_metric, "task": _check_task}
        for finding in checks[kind](name):
            findings.append(finding)  # one by one: those before an exception are kept
    except SaBenchError as error:
        findings.append(Finding(False, str(error)))
    except Exception as error:
        findings.append(
            Finding(False, f"it raised {type(error).__name__}: {' '.join(str(error).split())}")
        )
    return findings


def toy_task() -> Task:
    """Build a task of three classes, the first of which is to be forgotten."""
    return replace(registry.get_task("mnist_0"), classes=("a", "b", "c"), n_forget=10, n_retain=5)


def toy(supports: type) -> tuple[Any, Task]:
    """Build a model that takes seconds, and its task: Gaussians, or text-to-image for other methods."""
    if supports is Generator:
        return Gaussian(), toy_task()
    from sa_bench.models import base_models

    task = replace(
        registry.get_task("mnist_0_t2i"),
        base="tiny",
        sampler=Sampler("ddim", steps=2, guidance=2.0),
    )
    return base_models.new_model(task.family, task.dataset, task.base, words=task.classes), task


def weights(model: Generator) -> torch.Tensor:
    """Copy every parameter into one vector."""
    return torch.cat([p.detach().flatten() for p in model.parameters().values()])


def _check_method(name: str) -> Iterator[Finding]:
    """Yield the findings on a method: declarations, then what it does on a toy."""
    cls = registry.get_method(name)
    yield from _check_declarations(cls)
    if cls.files:
        yield Finding(True, f"needs files ({', '.join(cls.files)}): not run")
        return
    base_model, task = toy(cls.supports)
    steps = STEPS if cls.supports is Generator else KILLED_AT + 1
    quick_fields = (
        {}
        if cls.supports is Generator
        else {f.name: SLOW[f.name] for f in fields(cls) if f.name in SLOW}
    )
    before = weights(base_model)

    def forget(seed: int = 0, **options: Any) -> tuple[torch.Tensor, ToyRun]:
        run = ToyRun(base_model, task, seed, steps, **options)
        return weights(cls(**quick_fields).forget(base_model.clone(), task, run)), run

    first, run = forget()
    yield Finding(bool(torch.isfinite(first).all()), "the toy's parameters are finite afterwards")
    yield Finding(
        torch.equal(weights(base_model), before),
        "θ* itself is left as it was (only the copy changes)",
    )
    torch.rand(3)  # what is drawn elsewhere must change nothing
    again = torch.equal(forget()[0], first)
    yield Finding(again, "the same seed gives the same bits, all randomness comes from run.rng")
    declared, used = "data" in cls.needs, "data" in run.asked
    yield Finding(
        declared == used, f"needs = {cls.needs}: training data is {'' if used else 'not '}used"
    )
    if "train" in run.asked:
        yield Finding(not torch.equal(forget(seed=1)[0], first), "another seed gives another model")
        yield Finding(
            run.outside_moved == [],
            f"nothing outside the trained scope moved {run.outside_moved or ''}",
        )
        with tempfile.TemporaryDirectory() as folder:
            with contextlib.suppress(KeyboardInterrupt):
                forget(folder=Path(folder), killed_at=KILLED_AT)
            resumed, _ = forget(folder=Path(folder))
        yield Finding(
            torch.equal(resumed, first),
            f"killed at step {KILLED_AT} and resumed, it ends at the same bits",
        )
    requests = ", ".join(dict.fromkeys(run.asked)) or "nothing"
    if cls.supports is not Generator:
        size = float((first - before).norm() / before.norm())
        yield Finding(
            True,
            f"on a tiny text-to-image model, {steps} steps: weights moved by {size:.2g}; it asked for {requests}",
        )
        return
    moved = (first - before).view_as(base_model.net.weight).norm(dim=1)
    yield Finding(
        True,
        f"on x|c ~ N(μ_c, I) with q = N(0, I), {STEPS} steps: μ of c_f moved by {moved[0]:.2f}, of the rest by "
        f"at most {moved[1:].max():.2f}; it asked for {requests}",
    )


def _check_declarations(cls: type[Any]) -> Iterator[Finding]:
    """Yield the findings on what a method declares."""
    names = {f.name for f in fields(cls)}
    yield Finding(
        cls.standing in ("method", "control", "reference", "target"), f"standing = {cls.standing!r}"
    )
    yield Finding(
        cls.supports in (Generator, Diffusion, Prompted), f"supports = {cls.supports.__name__}"
    )
    yield Finding(set(cls.needs) <= {"data"}, f"needs = {cls.needs}")
    yield Finding(
        isinstance(cls.version, int) and bool(cls.source), "version is a number, source is given"
    )
    unknown_fields = {key for preset in cls.presets.values() for key in preset} - names
    yield Finding(
        not unknown_fields,
        f"presets name its own fields{': not ' + ', '.join(unknown_fields) if unknown_fields else ''}",
    )
    try:
        cls().anything = 1
        frozen = False
    except FrozenInstanceError:
        frozen = True
    yield Finding(frozen, "the dataclass is frozen, with a default for every field")
    text = json.dumps(asdict(cls()))
    yield Finding(True, f"fields are plain values: {text if len(text) < 70 else text[:67] + '...'}")


SMALL = (
    "task.n_forget=20",
    "task.n_retain=10",
    "task.likelihood_images=5",
    "task.recovery_budgets=0,5",
    "task.recovery_images=10",
    "task.feature_images=10",
)


def _check_metric(name: str) -> Iterator[Finding]:
    """Yield the findings on a metric, measured twice on a quick cell."""
    metric: Metric = registry.get_metric(name)
    yield Finding(metric.better in ("lower", "higher", None), f"better = {metric.better!r}")
    unknown_requirements = set(metric.requires) - set(all_requirements())
    yield Finding(not unknown_requirements, f"requires = {metric.requires}")
    cell = resolve(["mnist_0"], ["relabel"], "quick", sets=SMALL, metrics=[name])[0]
    values = []
    with tempfile.TemporaryDirectory() as folder:
        for repeat in range(2):  # each in a store of its own, so that it is measured twice
            store = Store(Path(folder) / str(repeat))
            chain = Chain(store, cell, ignore_event)
            values.append(
                (
                    measure(chain, metric, Subject(chain)),
                    measure(chain, metric, Subject(chain, base=True)),
                )
            )
        (measured, path), (base, _) = values[0]
        yield Finding(values[0][0][0] == values[1][0][0], "measured twice, it gives the same value")
        fingerprint_values = fingerprint(Chain(Store(Path(folder)), cell, ignore_event), metric)
        yield Finding(
            json.loads(json.dumps(fingerprint_values)) is not None,
            f"fingerprint: {', '.join(fingerprint_values)}",
        )
        value, low, high = measured["value"], measured["low"], measured["high"]
        yield Finding(value is not None or bool(measured["reason"]), "a missing value has a reason")
        if value is not None:
            inside = low is None or low <= value <= high
            yield Finding(
                inside,
                f"relabel {value:.4g} in [{low}, {high}] by {measured['interval']}; base {base['value']}",
            )
            yield Finding(measured["n"] > 0, f"n = {measured['n']} {measured['n_unit']}s")
            yield Finding(path is not None, "per-sample scores are stored")


def _check_task(name: str) -> Iterator[Finding]:
    """Yield the findings on a task at every scale."""
    for scale in list_scales(registry.get_task(name)):
        task = resolve_task(name, scale, {})
        plain = json.loads(json.dumps(asdict(task)))
        yield Finding(plain["name"] == name, f"scale {scale}: plain values that resolve")
        measured = len(task.primary) == 3 and set(task.primary) <= set(task.metrics)
        yield Finding(measured, f"scale {scale}: three primary endpoints, all measured")
    task = resolve_task(name, "full", {})
    scored = ", ".join(task.classes[c] for c in task.scored)
    yield Finding(True, f"forgets {task.classes[task.concept]}, scores {scored}")
