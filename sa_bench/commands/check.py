"""`check`: test whether a component keeps its contract, on models that take seconds, with reasons."""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Iterator
from dataclasses import MISSING, asdict, fields, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from sa_bench.contracts import (
    Diffusion,
    Generator,
    Measured,
    Metric,
    Prompted,
    Sampler,
    Task,
    ignore_event,
)
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
SLOW = {
    "ddim_steps": 4,
    "saliency": 3,
    "attack_steps": 2,
}  # fields that only cost time, on the text-to-image model


class Finding(NamedTuple):
    """One line of a check."""

    kept: bool  # whether the clause of the contract is kept
    text: str


NEEDS = ("data", "surrogate", "replay", "concept_samples")
"""What a method may say that it needs."""


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


def all_weights(model: Any) -> torch.Tensor:
    """Copy every parameter, and those of a text encoder, into one vector."""
    text = getattr(model, "text", None)
    states = [] if text is None else [p.detach().flatten() for p in text.parameters()]
    return torch.cat([weights(model), *states])


def _check_method(name: str) -> Iterator[Finding]:
    """Yield the findings on a method: declarations, then what it does on a toy."""
    cls = registry.get_method(name)
    yield from _check_declarations(cls)
    if _list_without_default(cls):
        return  # it cannot be made
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
    before = all_weights(base_model)

    def forget(seed: int = 0, **options: Any) -> tuple[Any, ToyRun]:
        run = ToyRun(base_model, task, seed, steps, **options)
        return cls(**quick_fields).forget(base_model.clone(), task, run), run

    def forgotten_weights(seed: int = 0, **options: Any) -> torch.Tensor:
        return all_weights(forget(seed, **options)[0])

    forgotten, run = forget()
    if missing := _list_missing(forgotten, cls.supports):
        lacks = "" if forgotten is None else f" (it lacks {', '.join(missing)})"
        yield Finding(
            False,
            f"forget returned {_describe_value(forgotten)}, which is no {cls.supports.__name__}{lacks}: return model",
        )
        return
    yield Finding(True, f"forget returned {_describe_value(forgotten)}")
    first = all_weights(forgotten)
    yield Finding(bool(torch.isfinite(first).all()), "the toy's parameters are finite afterwards")
    yield Finding(
        torch.equal(all_weights(base_model), before),
        "θ* itself is left as it was (only the copy changes)",
    )
    torch.rand(3)  # what is drawn elsewhere must change nothing
    again = torch.equal(forgotten_weights(), first)
    yield Finding(again, "the same seed gives the same bits, all randomness comes from run.rng")
    declared, used = "data" in cls.needs, "data" in run.asked
    yield Finding(
        declared == used, f"needs = {cls.needs}: training data is {'' if used else 'not '}used"
    )
    if "train" in run.asked:
        yield Finding(
            not torch.equal(forgotten_weights(seed=1), first), "another seed gives another model"
        )
        yield Finding(
            run.outside_moved == [],
            f"nothing outside the trained scope moved {run.outside_moved or ''}",
        )
        with tempfile.TemporaryDirectory() as folder:
            with contextlib.suppress(KeyboardInterrupt):
                forget(folder=Path(folder), killed_at=KILLED_AT)
            resumed = forgotten_weights(folder=Path(folder))
        yield Finding(
            torch.equal(resumed, first),
            f"killed at step {KILLED_AT} and resumed, it ends at the same bits",
        )
    requests = ", ".join(dict.fromkeys(run.asked)) or "nothing"
    acts = not torch.equal(first, before) or cls.wraps() or cls.renders()
    may_rest = cls.standing == "control"  # such as `original`
    nothing = (
        "" if acts or may_rest else "; no weight moved, and it acts on no image: it does nothing"
    )
    if cls.supports is not Generator:
        size = float((first - before).norm() / before.norm())
        yield Finding(
            not nothing,
            f"on a tiny text-to-image model, {steps} steps: weights moved by {size:.2g}; it asked for {requests}{nothing}",
        )
        return
    moved = (first - before).view_as(base_model.net.weight).norm(dim=1)
    yield Finding(
        not nothing,
        f"on x|c ~ N(μ_c, I) with q = N(0, I), {STEPS} steps: μ of c_f moved by {moved[0]:.2g}, of the rest by "
        f"at most {moved[1:].max():.2g}; it asked for {requests}{nothing}",
    )


def _list_missing(model: Any, contract: type) -> list[str]:
    """List the members of a contract that what `forget` returned lacks."""
    names = {
        name
        for parent in contract.__mro__
        for name in (*vars(parent), *vars(parent).get("__annotations__", ()))
        if not name.startswith("_")
    }
    return sorted(name for name in names if not hasattr(model, name))


def _describe_value(value: Any) -> str:
    """Describe what a function returned: None, or its type."""
    return "None" if value is None else f"an object of type {type(value).__name__}"


def _list_without_default(cls: type[Any]) -> list[str]:
    """List the fields of a dataclass that have no default."""
    return [f.name for f in fields(cls) if f.default is MISSING and f.default_factory is MISSING]


def _check_declarations(cls: type[Any]) -> Iterator[Finding]:
    """Yield the findings on what a method declares."""
    names = {f.name for f in fields(cls)}
    standings = ("method", "control", "reference", "target")
    supported = (Generator, Diffusion, Prompted)
    for name, value, kept, choices in (
        ("standing", repr(cls.standing), cls.standing in standings, standings),
        (
            *("supports", cls.supports.__name__, cls.supports in supported),
            [contract.__name__ for contract in supported],
        ),
        ("needs", repr(cls.needs), set(cls.needs) <= set(NEEDS), tuple(map(repr, NEEDS))),
    ):
        allowed = "" if kept else f", which is none of {', '.join(choices)}"
        yield Finding(kept, f"{name} = {value}{allowed}")
    yield Finding(isinstance(cls.version, int), f"version = {cls.version!r}, a whole number")
    source = f"source = {cls.source!r}" if cls.source else 'source is not given: source = "yours"'
    yield Finding(bool(cls.source), source)
    unknown_fields = {key for preset in cls.presets.values() for key in preset} - names
    yield Finding(
        not unknown_fields,
        f"presets name its own fields{': not ' + ', '.join(unknown_fields) if unknown_fields else ''}",
    )
    frozen = cls.__dataclass_params__.frozen
    yield Finding(
        frozen, "the dataclass is frozen" if frozen else "@dataclass(frozen=True) is needed"
    )
    if missing := _list_without_default(cls):
        yield Finding(False, f"without a default: {', '.join(missing)}; every field needs one")
        return
    yield Finding(True, "every field has a default")
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
    yield Finding(
        metric.better in ("lower", "higher", None),
        f"better = {metric.better!r}, of 'lower', 'higher' and None",
    )
    unknown = sorted(set(metric.requires) - set(all_requirements()))
    known = f"; unknown: {', '.join(unknown)}" if unknown else ""
    yield Finding(not unknown, f"requires = {metric.requires}{known}")
    unknown_fields = sorted(set(metric.fields) - {f.name for f in fields(Task)})
    no_fields = f"; no fields of a task: {', '.join(unknown_fields)}" if unknown_fields else ""
    yield Finding(not unknown_fields, f"fields = {metric.fields}{no_fields}")
    if unknown or unknown_fields:
        return  # it cannot be measured
    declared = metric

    def measure_and_check(view: Any) -> Measured:
        value = declared.measure(view)
        if not isinstance(value, Measured):
            raise SaBenchError(
                f"{name} returned {_describe_value(value)}; it must return Measured, such as bounded_mean(...) or "
                'undefined("why").'
            )
        return value

    metric = replace(declared, measure=measure_and_check)
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
