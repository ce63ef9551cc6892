"""Resolve a command line into cells: tasks, methods, overrides and sweeps."""

from __future__ import annotations

import itertools
import json
import shlex
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from functools import cached_property
from typing import Any

from sa_bench.contracts import SMOKE_MODEL, Task, flatten, key_values
from sa_bench.core import registry
from sa_bench.core.declarations import read_attack, read_requirements, read_sets
from sa_bench.core.errors import SaBenchError, unknown_name
from sa_bench.core.fields import assign, parse_list, resolve_fields, split_setting, validate
from sa_bench.core.seeds import check_seeds
from sa_bench.core.settings import expand_home
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
from sa_bench.models.family import get_family
from sa_bench.results.schema import ResultRow

SCALES = ("full", "paper", "small", "quick")
ID, OLD_ID = 16, 8  # hex digits of a cell's id, and of an id in old results
ATTACKS = "attacks"
"""Stands for all attacks that can be run on a task, where metrics are named."""
OPTIONAL_SCALES = ("small",)
"""Scales that only those tasks have that declare them."""
OF_SCALE: Mapping[str, Mapping[str, Any]] = {"paper": {"train_precision": "fp32"}}
"""Values that a scale gives every task that does not set them itself: the official codes all train
in fp32."""
SETTABLE_SEPARATELY = ("name", "title", "family", "dataset", "classes", "scales", "gone")


@dataclass(frozen=True)
class Cell:
    """Everything that determines a result."""

    task: Task  # scale and overrides applied
    method: str
    fields: Mapping[str, Any]  # of the method, resolved
    seed: int
    base_seed: int
    scale: str
    overrides: Mapping[str, Any] = field(default_factory=dict)  # of the task
    code: Mapping[str, str] = field(default_factory=dict)
    """sha256 of each plug-in, by kind and name (`method mine`)."""

    @cached_property
    def id(self) -> str:
        """Hash over the whole cell, 16 hex digits; old results have the first 8 of them."""
        return digest(self.plain())

    @property
    def name(self) -> str:
        """Name of the cell's folder, readable by people."""
        return f"{self.task.name}-{self.method}-b{self.base_seed}-s{self.seed}-{self.id}"

    def plain(self) -> dict[str, Any]:
        """Give the cell as JSON-ready values."""
        return {
            "task": drop_optional_scales(key_values(self.task)),
            "method": self.method,
            "fields": self.keyed_fields(),
            "seed": self.seed,
            "base_seed": self.base_seed,
            "scale": self.scale,
            "overrides": dict(self.overrides),
            **({"code": dict(self.code)} if self.code else {}),
        }

    @cached_property
    def _keyed_fields(self) -> dict[str, Any]:
        return key_values(self.fields, registry.get_method(self.method))

    def keyed_fields(self) -> dict[str, Any]:
        """Give the method's fields as they enter keys."""
        return dict(self._keyed_fields)

    @property
    def method_version(self) -> int:
        """Version of the method's code."""
        return registry.get_method(self.method).version

    def is_of(self, row: ResultRow) -> bool:
        """Test whether a result row is this cell's.

        The ids must be equal; for a row with a short id of older versions, the values must be too.
        """
        if len(row["cell"]) != OLD_ID:
            return row["cell"] == self.id
        cls = registry.get_method(self.method)
        values = {
            **{key: row[key] for key in ("method", "seed", "base_seed", "scale", "overrides")},
            "task": drop_optional_scales(key_values(row["task_values"], Task)),
            "fields": key_values(row["fields"], cls),
        }
        return self.id.startswith(row["cell"]) and digest(values) == self.id

    def build_method(self) -> Any:
        """Build the method's dataclass with this cell's fields."""
        return validate(registry.get_method(self.method), self.fields, f"method {self.method}")


def drop_optional_scales(values: dict[str, Any]) -> dict[str, Any]:
    """Drop the scales that came later from a task's values, so that cells of the others keep their ids."""
    if "scales" not in values:
        return values
    scales = {k: v for k, v in values["scales"].items() if k not in OPTIONAL_SCALES}
    return values | {"scales": scales}


def cell_command(cell: Cell) -> str:
    """Write the command that makes this cell alone."""
    task = registry.get_task(cell.task.name)
    arguments = ["run", "--task", registry.reference("task", cell.task.name)]
    arguments += ["--method", registry.reference("method", cell.method)]
    for option, value, default in (
        ("--scale", cell.scale, "full"),
        ("--base-seed", cell.base_seed, 0),
        ("--seed", cell.seed, 0),
    ):
        arguments += [option, str(value)] if value != default else []
    for name, value in cell.overrides.items():
        arguments += ["--set", f"task.{name}={value}"]
    default_fields = flatten(resolve_fields(cell.method, cell.task, cell.scale, {}))
    for name, value in flatten(cell.fields).items():
        arguments += (
            ["--set", f"{cell.method}.{name}={value}"] if value != default_fields[name] else []
        )
    default_metrics = cell.overrides.get("metrics") or dict(task.scales.get(cell.scale, {})).get(
        "metrics", task.metrics
    )
    default_metrics = (
        parse_list(default_metrics, "task.metrics")
        if isinstance(default_metrics, str)
        else default_metrics
    )
    further_metrics = [m for m in cell.task.metrics if m not in default_metrics]
    arguments += (
        ["--metric", ",".join(registry.reference("metric", m) for m in further_metrics)]
        if further_metrics
        else []
    )
    return "python -m sa_bench " + shlex.join(arguments)


def title_cells(cells: Sequence[Cell]) -> dict[str, str]:
    """Give each cell a line for people, by id.

    Cells of one method are told apart by fields that differ.
    """
    siblings: dict[tuple[str, str], list[Cell]] = {}
    for cell in cells:
        siblings.setdefault((cell.method, cell.task.name), []).append(cell)
    fields_of = {cell.id: flatten(cell.fields) for cell in cells}
    differing = {
        group: [
            k
            for k, value in fields_of[first.id].items()
            if any(fields_of[c.id].get(k) != value for c in others)
        ]
        for group, (first, *others) in siblings.items()
    }
    overridden = dict.fromkeys(k for cell in cells for k in cell.overrides)
    changed = {
        k for k in overridden if any(c.overrides.get(k) != cells[0].overrides.get(k) for c in cells)
    }
    titles = {}
    for cell in cells:
        fields = differing[cell.method, cell.task.name]
        settings = "".join(f" {k}={fields_of[cell.id].get(k)}" for k in fields)
        settings += "".join(f" {k}={v}" for k, v in cell.overrides.items() if k in changed)
        titles[cell.id] = (
            f"{cell.task.name} × {cell.method}{settings} (base {cell.base_seed}, seed {cell.seed})"
        )
    return titles


def _parse_sweep(text: str, what: str) -> list[str]:
    """Split a sweep's values, separated by commas or a JSON list, into texts as --set takes them."""
    if not text.startswith("["):
        return text.split(",")
    return [
        item if isinstance(item, str) else json.dumps(item) for item in parse_list(text, what)
    ] or [""]


def task_overrides(sets: Sequence[str], command: str) -> dict[str, str]:
    """Read the task fields that `task.field=value` sets, for a command without a method.

    Raises:
        SaBenchError: a setting is not a field of the task.
    """
    settings = dict(split_setting(text) for text in sets)
    if stray := [name for name in settings if not name.startswith("task.")]:
        raise SaBenchError(f"{command} has no method to set: --set {stray[0]}; use task.<field>.")
    return {name.removeprefix("task."): value for name, value in settings.items()}


def list_scales(task: Task) -> list[str]:
    """List the scales that a task can be resolved at."""
    return [scale for scale in SCALES if scale in task.scales or scale not in OPTIONAL_SCALES]


def resolve_task(name: str, scale: str, overrides: Mapping[str, str]) -> Task:
    """Resolve a task: apply its scale and overrides, and check it."""
    task = registry.get_task(name)
    if scale not in SCALES:
        raise unknown_name("scale", scale, SCALES)
    if scale not in list_scales(task):
        raise SaBenchError(
            f"{name} has no scale small, which is for large models on a GPU; use full, paper or quick."
        )
    values: dict[str, Any] = {**OF_SCALE.get(scale, {}), **task.scales.get(scale, {})}
    trial = (
        values.get("model", task.model) == SMOKE_MODEL or values.get("base", task.base) == "tiny"
    )
    if scale == "quick" and not trial:
        fewest = get_family(task.family).fewest_quick
        values["n_forget"] = max(values.get("n_forget", task.n_forget), fewest)
    if task.prompts is not None:
        values["prompts"] = {"files": dict(task.prompts.files), **values.get("prompts", {})}
    if task.open and "classes" in overrides:  # first, since other settings may use the names
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
        elif path in ("also", "then"):
            names = parse_list(value, f"task.{path}") if isinstance(value, str) else value
            value = [class_index(task, name) for name in names]
        if path.startswith("prompts.") and isinstance(value, str) and value.startswith("set:"):
            value = json.dumps(_find_prompt_set(value.removeprefix("set:")))
        assign(Task, values, path, value, f"task {name}")
    merged = {f.name: getattr(task, f.name) for f in fields(Task)} | values
    for name_of_field, value in {f.name: getattr(task, f.name) for f in fields(Task)}.items():
        if is_dataclass(value) and not isinstance(value, type):
            part = values.get(name_of_field, {})
            if not isinstance(part, Mapping):
                raise SaBenchError(
                    f"task {name}: {name_of_field}={part!r} has fields of its own; set one, e.g. "
                    f"task.{name_of_field}.{fields(value)[0].name}."
                )
            merged[name_of_field] = asdict(value) | dict(part)
    task = validate(Task, merged, f"task {name}")
    return validate_task(task, "relabel_to" in overrides, "size" in overrides)


def _find_prompt_set(name: str) -> tuple[str, ...]:
    """Look up the texts of a named prompt set.

    Raises:
        SaBenchError: there is no set of that name.
    """
    if name not in own_prompts.SETS:
        raise unknown_name("prompt set", name, own_prompts.SETS)
    return own_prompts.SETS[name]


def with_metrics(task: Task, metrics: Sequence[str]) -> Task:
    """Add further metrics to a task, after its own; `ATTACKS` stands for all that can be run on it."""
    names = [n for name in metrics for n in (list_attacks(task) if name == ATTACKS else [name])]
    for name in names:
        registry.find("metric", name)
    return replace(task, metrics=tuple(dict.fromkeys((*task.metrics, *names))))


def list_attacks(task: Task) -> list[str]:
    """List the attacks that can be run on a task's model and data."""
    from sa_bench.scoring import requirements, sampling  # load numpy, so only where they are needed

    can, sets = get_family(task.family).can, {*sampling.set_names(task), "forget", "retain"}
    names = [entry.name for entry in registry.list_entries("metric") if entry.path is None]
    attacks = [name for name in names if read_attack(name)]
    return [
        name
        for name in attacks
        if sets.issuperset(read_sets(name))
        and not any(r.unfit(task, can) for r in requirements.get(read_requirements(name)))
    ]


def with_files(method: str, values: dict[str, Any]) -> dict[str, Any]:
    """Make the paths among a method's fields absolute.

    Raises:
        SaBenchError: a file is not given, or does not exist.
    """
    for name in registry.get_method(method).files:
        if not values[name]:
            raise SaBenchError(f"{method} needs a file: --set {method}.{name}=FILE.")
        path = expand_home(values[name])
        if not path.exists():
            raise SaBenchError(f"method {method}: {name}={values[name]!r} does not exist.")
        values[name] = str(path.resolve())
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
    """Resolve every cell of a command, in the order given, without repeats.

    Tasks, methods and metrics are names or paths of plug-in files. `metrics` are added to the
    task's own; `attacks` among them stands for every attack. Each of `sample_seeds` draws other
    images for the measurements, from the same models.

    Raises:
        SaBenchError: anything is unknown or out of range; raised before any work.
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
    if both := {name for name, _ in swept} & {name for name, _ in settings}:
        name = min(both)
        raise SaBenchError(f"{name} is in --sweep and in --set; leave out one of them.")
    all_attacks = [ATTACKS] if ATTACKS in metrics else []
    tasks, methods, metrics = (
        registry.register_all(kind, references)
        for kind, references in (
            ("task", tasks),
            ("method", methods),
            ("metric", [name for name in metrics if name != ATTACKS]),
        )
    )
    metrics = [*metrics, *all_attacks]
    for name in methods:
        registry.find("method", name)
    choices = [[(name, value) for value in values] for name, values in swept]
    cells: dict[str, Cell] = {}
    for task_name, method in itertools.product(tasks, methods):
        for combination in itertools.product(*choices):
            for_task, for_method = _route_settings([*settings, *combination], method, methods)
            task = _share(with_metrics(resolve_task(task_name, scale, for_task), metrics))
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


_tasks: deque[Task] = deque(maxlen=64)
"""The last resolved tasks, all different."""


def _share(task: Task) -> Task:
    """Return the resolved task that equals this one, or this one if there is none.

    What is found once for a task is remembered for the object: hundreds of cells have the same.
    """
    for other in _tasks:
        if other == task:
            return other
    _tasks.append(task)
    return task


def _normalise_names(
    overrides: Mapping[str, str], task: Task, default_names: Sequence[str]
) -> dict[str, str]:
    """Write an open task's names among the overrides in one form, so that equal names give one cell.

    Names that are the task's defaults are left out; the concept is kept apart from the other names.
    """
    normalised = {k: v for k, v in overrides.items() if k not in ("concept", "classes")}
    if task.classes[1:] != tuple(default_names[1:]):
        normalised["classes"] = json.dumps(
            [default_names[0], *task.classes[1:]], ensure_ascii=False
        )
    if task.classes[0] != default_names[0]:
        normalised["concept"] = task.classes[0]
    return normalised


def add_cell(cells: dict[str, Cell], cell: Cell) -> None:
    """Add a cell to `cells`, by id; a cell that is already among them stays.

    Raises:
        SaBenchError: another cell has the same id.
    """
    present_cell = cells.setdefault(cell.id, cell)
    if present_cell is not cell and present_cell.plain() != cell.plain():
        raise SaBenchError(
            f"{present_cell.name} and a cell of other settings have the same id; "
            "run them in two commands, with another --out."
        )


def _route_settings(
    settings: Sequence[tuple[str, str]], method: str, methods: Sequence[str]
) -> tuple[dict[str, str], dict[str, str]]:
    """Split settings into the task's and this method's.

    A bare field goes to every method that has it.
    """
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
                field_names = {f.name for m in methods for f in fields(registry.get_method(m))}
                raise unknown_name(
                    f"field of {', '.join(methods)}",
                    head,
                    field_names | {"task.<field>"},
                    f"show {registry.reference('method', methods[0])}",
                )
            if method in owners:
                for_method[name] = value
    return for_task, for_method
