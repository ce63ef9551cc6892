"""What a command line means: tasks, methods, overrides and sweeps resolved into cells."""

from __future__ import annotations

import itertools
import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from sa_bench.contracts import SMOKE_MODEL, Task, flatten, key_values
from sa_bench.core import registry
from sa_bench.core.errors import SaBenchError, unknown_name
from sa_bench.core.fields import assign, parse_list, resolve_fields, split_setting, validate
from sa_bench.core.seeds import check_seeds
from sa_bench.core.store import digest
from sa_bench.data import own_prompts
from sa_bench.engine.validation import (
    check_fisher,
    check_fit,
    check_standing,
    class_index,
    validate_task,
    with_concept,
    with_names,
)

SCALES = ("full", "paper", "quick")
ID, OLD_ID = 16, 8  # hex digits of a cell's id, and of one in results of before
OF_SCALE: Mapping[str, Mapping[str, Any]] = {"paper": {"train_precision": "fp32"}}
"""What a scale means for every task that does not say otherwise: the official codes all train in fp32."""
QUICK_FORGET = {"classes": 80, "prompts": 96}
"""The fewest images of c_f at scale `quick`: with fewer, one run could not pass the gate of ten classes."""
SETTABLE_SEPARATELY = ("name", "title", "family", "dataset", "classes", "scales")


@dataclass(frozen=True)
class Cell:
    """Everything that makes a result."""

    task: Task  # scale and overrides applied
    method: str
    fields: Mapping[str, Any]  # of the method, resolved
    seed: int
    base_seed: int
    scale: str
    overrides: Mapping[str, Any] = field(default_factory=dict)  # of the task
    code: Mapping[str, str] = field(default_factory=dict)
    """Of its plug-ins: `method mine` to its sha256."""

    @property
    def id(self) -> str:
        """A hash over all of it, 16 hex digits; results of before have the first 8 of them."""
        return digest(self.plain())

    @property
    def name(self) -> str:
        """A folder name that a person can read."""
        return f"{self.task.name}-{self.method}-b{self.base_seed}-s{self.seed}-{self.id}"

    def plain(self) -> dict[str, Any]:
        """JSON-ready values."""
        return {
            "task": key_values(self.task),
            "method": self.method,
            "fields": self.keyed_fields(),
            "seed": self.seed,
            "base_seed": self.base_seed,
            "scale": self.scale,
            "overrides": dict(self.overrides),
            **({"code": dict(self.code)} if self.code else {}),
        }

    def keyed_fields(self) -> dict[str, Any]:
        """The method's fields as they enter keys."""
        return key_values(self.fields, registry.get_method(self.method))

    def is_of(self, row: Mapping[str, Any]) -> bool:
        """Whether a result row is this cell's: of the same id or, where it bears the short one of before, same values."""
        if len(row["cell"]) != OLD_ID:
            return row["cell"] == self.id
        cls = registry.get_method(self.method)
        values = {
            **{key: row[key] for key in ("method", "seed", "base_seed", "scale", "overrides")},
            "task": key_values(row["task_values"], Task),
            "fields": key_values(row["fields"], cls),
        }
        return self.id.startswith(row["cell"]) and digest(values) == self.id

    def build_method(self) -> Any:
        """The method's dataclass with this cell's fields."""
        return validate(registry.get_method(self.method), self.fields, f"method {self.method}")


def cell_command(cell: Cell) -> str:
    """The command that makes this cell alone."""
    task = registry.get_task(cell.task.name)
    parts = ["run", "--task", registry.reference("task", cell.task.name)]
    parts += ["--method", registry.reference("method", cell.method)]
    for option, value, default in (
        ("--scale", cell.scale, "full"),
        ("--base-seed", cell.base_seed, 0),
        ("--seed", cell.seed, 0),
    ):
        parts += [option, str(value)] if value != default else []
    for name, value in cell.overrides.items():
        parts += ["--set", f"task.{name}={value}"]
    plain = flatten(resolve_fields(cell.method, cell.task, cell.scale, {}))
    for name, value in flatten(cell.fields).items():
        parts += ["--set", f"{cell.method}.{name}={value}"] if value != plain[name] else []
    own = cell.overrides.get("metrics") or dict(task.scales.get(cell.scale, {})).get(
        "metrics", task.metrics
    )
    own = parse_list(own, "task.metrics") if isinstance(own, str) else own
    further = [m for m in cell.task.metrics if m not in own]
    parts += (
        ["--metric", ",".join(registry.reference("metric", m) for m in further)] if further else []
    )
    return "python -m sa_bench " + shlex.join(parts)


def title_cells(cells: Sequence[Cell]) -> dict[str, str]:
    """Cell id to a line for people; siblings of one method are told apart by the fields that differ."""
    titles = {}
    for cell in cells:
        siblings = [c for c in cells if (c.method, c.task.name) == (cell.method, cell.task.name)]
        differing = [k for k in cell.fields if any(o.fields[k] != cell.fields[k] for o in siblings)]
        settings = "".join(f" {k}={cell.fields[k]}" for k in differing)
        changes = {
            k: v for k, v in cell.overrides.items() if any(o.overrides.get(k) != v for o in cells)
        }
        settings += "".join(f" {k}={v}" for k, v in changes.items())
        titles[cell.id] = (
            f"{cell.task.name} × {cell.method}{settings} (base {cell.base_seed}, seed {cell.seed})"
        )
    return titles


def _parse_sweep(text: str, what: str) -> list[str]:
    """The values of a sweep as texts, each as --set would take it: between commas, or the parts of a JSON list."""
    if not text.startswith("["):
        return text.split(",")
    return [
        part if isinstance(part, str) else json.dumps(part) for part in parse_list(text, what)
    ] or [""]


def task_overrides(sets: Sequence[str], command: str) -> dict[str, str]:
    """The fields of a task that `task.field=value` set, for a command without a method.

    Raises:
        SaBenchError: another field.
    """
    settings = dict(split_setting(text) for text in sets)
    if stray := [name for name in settings if not name.startswith("task.")]:
        raise SaBenchError(f"{command} has no method to set: --set {stray[0]}; use task.<field>.")
    return {name.removeprefix("task."): value for name, value in settings.items()}


def resolve_task(name: str, scale: str, overrides: Mapping[str, str]) -> Task:
    """The task with its scale and overrides applied and checked."""
    task = registry.get_task(name)
    if scale not in SCALES:
        raise unknown_name("scale", scale, SCALES)
    values: dict[str, Any] = {**OF_SCALE.get(scale, {}), **task.scales.get(scale, {})}
    trial = (
        values.get("model", task.model) == SMOKE_MODEL or values.get("base", task.base) == "tiny"
    )
    if scale == "quick" and not trial:
        fewest = QUICK_FORGET["classes" if task.prompts is None else "prompts"]
        values["n_forget"] = max(values.get("n_forget", task.n_forget), fewest)
    if task.prompts is not None:
        values["prompts"] = {"files": dict(task.prompts.files), **values.get("prompts", {})}
    if task.open and "classes" in overrides:  # first: what else is set may speak of them
        task = with_names(task, parse_list(overrides["classes"], "task.classes"))
    for path, value in overrides.items():
        if path == "classes" and task.open:
            continue
        if path in SETTABLE_SEPARATELY:
            raise SaBenchError(f"task.{path} cannot be set: it is what the task is.")
        if path == "concept" and task.open:
            task, value = with_concept(task, value), 0
        elif path in ("concept", "relabel_to"):
            value = class_index(task, value)
        if path.startswith("prompts.") and isinstance(value, str) and value.startswith("set:"):
            value = json.dumps(_prompt_set(value.removeprefix("set:")))
        assign(Task, values, path, value, f"task {name}")
    merged = {f.name: getattr(task, f.name) for f in fields(Task)} | values
    sampler = values.get("sampler", {})
    if not isinstance(sampler, Mapping):
        raise SaBenchError(
            f"task {name}: sampler={sampler!r} has fields of its own; set one, e.g. task.sampler.steps."
        )
    merged["sampler"] = asdict(task.sampler) | dict(sampler)
    if task.prompts is not None:
        merged["prompts"] = asdict(task.prompts) | values["prompts"]
    task = validate(Task, merged, f"task {name}")
    return validate_task(task, "relabel_to" in overrides, "size" in overrides)


def _prompt_set(name: str) -> tuple[str, ...]:
    """The texts of a named prompt set.

    Raises:
        SaBenchError: there is none of that name.
    """
    if name not in own_prompts.SETS:
        raise unknown_name("prompt set", name, own_prompts.SETS)
    return own_prompts.SETS[name]


def with_metrics(task: Task, metrics: Sequence[str]) -> Task:
    """The task with further metrics after its own."""
    for name in metrics:
        registry.find("metric", name)
    return replace(task, metrics=tuple(dict.fromkeys((*task.metrics, *metrics))))


def with_files(method: str, values: dict[str, Any]) -> dict[str, Any]:
    """The fields, those that name files made absolute.

    Raises:
        SaBenchError: a file is not given or not there.
    """
    for name in registry.get_method(method).files:
        if not values[name]:
            raise SaBenchError(f"{method} needs a file: --set {method}.{name}=FILE.")
        if not Path(values[name]).exists():
            raise SaBenchError(f"method {method}: {name}={values[name]!r} does not exist.")
        values[name] = str(Path(values[name]).resolve())
    return values


def resolve(
    tasks: Sequence[str],
    methods: Sequence[str],
    scale: str = "full",
    seeds: Sequence[int] = (0,),
    base_seeds: Sequence[int] = (0,),
    sets: Sequence[str] = (),
    sweeps: Sequence[str] = (),
    metrics: Sequence[str] = (),
    sample_seeds: Sequence[int] = (0,),
) -> list[Cell]:
    """Every cell of a command, in the order given, without repeats.

    Tasks, methods and metrics are names or paths of plug-in files; `metrics` come on top of the task's own. Each of
    `sample_seeds` draws the images that are measured anew, from the same models.

    Raises:
        SaBenchError: anything unknown or out of range, before any work.
    """
    seeds, base_seeds, sample_seeds = (
        check_seeds(seeds, "--seed (seeds)"),
        check_seeds(base_seeds, "--base-seed (base_seeds)"),
        check_seeds(sample_seeds, "--sample-seed (sample_seeds)"),
    )
    if any(sample_seeds) or len(sample_seeds) > 1:
        sweeps = [*sweeps, f"task.sample_seed={','.join(map(str, sample_seeds))}"]
    settings = [split_setting(text) for text in sets]
    swept = [
        (name, _parse_sweep(values, f"--sweep {name}"))
        for name, values in map(split_setting, sweeps)
    ]
    if empty := [name for name, values in swept if not all(values)]:
        raise SaBenchError(
            f"--sweep {empty[0]} has an empty value; write --sweep {empty[0]}=a,b,c."
        )
    tasks, methods, metrics = (
        registry.register_all(kind, references)
        for kind, references in (("task", tasks), ("method", methods), ("metric", metrics))
    )
    for name in methods:
        registry.find("method", name)
    choices = [[(name, value) for value in values] for name, values in swept]
    cells: dict[str, Cell] = {}
    for task_name, method in itertools.product(tasks, methods):
        for combination in itertools.product(*choices):
            for_task, for_method = _route_settings([*settings, *combination], method, methods)
            task = with_metrics(resolve_task(task_name, scale, for_task), metrics)
            if task.open:
                for_task = _normalise_names(for_task, task, registry.get_task(task_name).classes)
            for_task = {k: v for k, v in for_task.items() if (k, v) != ("sample_seed", "0")}
            resolved = with_files(method, resolve_fields(method, task, scale, for_method))
            built = validate(registry.get_method(method), resolved, f"method {method}")
            check_fisher(built, task, f"method {method}")
            check_fit(built, method, task)
            code = registry.hash_plug_ins(
                [
                    ("task", task_name),
                    ("method", method),
                    *(("metric", name) for name in task.metrics),
                ]
            )
            for base_seed, seed in itertools.product(base_seeds, seeds):
                check_standing(registry.get_method(method), method, task, base_seed)
                add_cell(
                    cells, Cell(task, method, resolved, seed, base_seed, scale, for_task, code)
                )
    return list(cells.values())


def _normalise_names(
    overrides: Mapping[str, str], task: Task, own: Sequence[str]
) -> dict[str, str]:
    """The overrides with an open task's names in one form, however they were written, so that they make one cell.

    Those that the task has anyway are left out; the concept stands apart from the names beside it.
    """
    rest = {k: v for k, v in overrides.items() if k not in ("concept", "classes")}
    if task.classes[1:] != tuple(own[1:]):
        rest["classes"] = json.dumps([own[0], *task.classes[1:]], ensure_ascii=False)
    if task.classes[0] != own[0]:
        rest["concept"] = task.classes[0]
    return rest


def add_cell(cells: dict[str, Cell], cell: Cell) -> None:
    """Put a cell among `cells`, by id; one that is there already stays.

    Raises:
        SaBenchError: another cell has its id.
    """
    known = cells.setdefault(cell.id, cell)
    if known is not cell and known.plain() != cell.plain():
        raise SaBenchError(
            f"{known.name} and a cell of other settings have the same id; run them in two commands, with another --out."
        )


def _route_settings(
    settings: Sequence[tuple[str, str]], method: str, methods: Sequence[str]
) -> tuple[dict[str, str], dict[str, str]]:
    """Split settings into the task's and this method's; a bare field goes to every method that has it."""
    for_task, for_method = {}, {}
    for name, value in settings:
        head, _, rest = name.partition(".")
        if head == "task":
            for_task[rest] = value
        elif head in methods and rest:
            if head == method:
                for_method[rest] = value
        else:
            owners = [
                m for m in methods if head in {f.name for f in fields(registry.get_method(m))}
            ]
            if (
                not owners
                and rest
                and head in {entry.name for entry in registry.list_entries("method")}
            ):
                raise SaBenchError(
                    f"{name} is a field of {head}, which is not among --method {','.join(methods)}."
                )
            if not owners:
                known = {f.name for m in methods for f in fields(registry.get_method(m))}
                raise unknown_name(f"field of {', '.join(methods)}", head, known | {"task.<field>"})
            if method in owners:
                for_method[name] = value
    return for_task, for_method
