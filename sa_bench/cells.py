"""What a command line means: tasks, methods, overrides and sweeps resolved into cells."""

from __future__ import annotations

import itertools
import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, get_type_hints

from pydantic import TypeAdapter, ValidationError

from sa_bench import registry
from sa_bench.cards import guard_card, judge_card, require_bar
from sa_bench.contracts import FisherOptions, Task
from sa_bench.errors import SaBenchError, unknown
from sa_bench.keys import plain
from sa_bench.store import digest

SCALES = ("full", "paper", "quick")
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

    @property
    def id(self) -> str:
        """A short hash over all of it."""
        return digest(self.plain())[:8]

    @property
    def name(self) -> str:
        """A folder name that a person can read."""
        return f"{self.task.name}-{self.method}-b{self.base_seed}-s{self.seed}-{self.id}"

    def plain(self) -> dict[str, Any]:
        """JSON-ready values."""
        return {
            "task": plain(self.task), "method": self.method, "fields": self.keyed_fields(), "seed": self.seed,
            "base_seed": self.base_seed, "scale": self.scale, "overrides": dict(self.overrides),
        }  # fmt: skip

    def keyed_fields(self) -> dict[str, Any]:
        """The method's fields as they enter keys."""
        return plain(self.fields, registry.method_class(self.method))

    def build_method(self) -> Any:
        """The method's dataclass with this cell's fields."""
        return validated(registry.method_class(self.method), self.fields, f"method {self.method}")


def command(cell: Cell) -> str:
    """The command that makes this cell alone."""
    task = registry.task(cell.task.name)
    parts = ["run", "--task", registry.reference("task", cell.task.name)]
    parts += ["--method", registry.reference("method", cell.method)]
    for option, value, default in (
        ("--scale", cell.scale, "full"), ("--base-seed", cell.base_seed, 0), ("--seed", cell.seed, 0)
    ):  # fmt: skip
        parts += [option, str(value)] if value != default else []
    for name, value in cell.overrides.items():
        parts += ["--set", f"task.{name}={value}"]
    plain = _flat(resolve_fields(cell.method, cell.task, cell.scale, {}))
    for name, value in _flat(cell.fields).items():
        parts += ["--set", f"{cell.method}.{name}={value}"] if value != plain[name] else []
    own = cell.overrides.get("metrics") or dict(task.scales.get(cell.scale, {})).get("metrics", task.metrics)
    own = own.split(",") if isinstance(own, str) else own
    further = [m for m in cell.task.metrics if m not in own]
    parts += ["--metric", ",".join(registry.reference("metric", m) for m in further)] if further else []
    return "python -m sa_bench " + shlex.join(parts)


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {prefix + key: value}
    return flat


def titled(cells: Sequence[Cell]) -> dict[str, str]:
    """Cell id to a line for people; siblings of one method are told apart by the fields that differ."""
    titles = {}
    for cell in cells:
        siblings = [c for c in cells if (c.method, c.task.name) == (cell.method, cell.task.name)]
        differing = [k for k in cell.fields if any(o.fields[k] != cell.fields[k] for o in siblings)]
        settings = "".join(f" {k}={cell.fields[k]}" for k in differing)
        changes = {k: v for k, v in cell.overrides.items() if any(o.overrides.get(k) != v for o in cells)}
        settings += "".join(f" {k}={v}" for k, v in changes.items())
        titles[cell.id] = (
            f"{cell.task.name} × {cell.method}{settings} (base {cell.base_seed}, seed {cell.seed})"
        )
    return titles


def validated(cls: type[Any], values: Mapping[str, Any], what: str) -> Any:
    """An instance of dataclass `cls`, strings coerced to the fields' types.

    Raises:
        SaBenchError: a value of the wrong type or range; names field, value and rule.
    """
    try:
        return TypeAdapter(cls).validate_python(dict(values))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise SaBenchError(f"{what}: {where}={first['input']!r}: {first['msg']}.") from error


def assign(cls: type[Any], values: dict[str, Any], path: str, value: Any, what: str) -> None:
    """Set `path` (`lam`, `fisher.n`) in `values`, checking the name against dataclass `cls`."""
    head, _, rest = path.partition(".")
    known = [f.name for f in fields(cls)]
    if head not in known:
        raise unknown(f"field of {what}", head, known)
    hint = get_type_hints(cls)[head]
    if rest:
        if not is_dataclass(hint):
            raise SaBenchError(f"{what}: {head} has no fields of its own, so {path!r} means nothing.")
        values[head] = dict(values.get(head) or {})
        assign(hint, values[head], rest, value, f"{what}.{head}")  # type: ignore[arg-type]
    elif isinstance(value, str) and str(hint).startswith("tuple"):
        values[head] = [part for part in value.split(",") if part]
    else:
        values[head] = value


def split_setting(text: str) -> tuple[str, str]:
    """`field=value` as a pair.

    Raises:
        SaBenchError: no `=`.
    """
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise SaBenchError(f"--set and --sweep take field=value, got {text!r}.")
    return name.strip(), value.strip()


def class_index(task: Task, value: Any) -> int:
    """A class given by index or name as an index.

    Raises:
        SaBenchError: neither; lists what there is.
    """
    text = str(value).strip().lower()
    if text in task.classes:
        return task.classes.index(text)
    if text.isdecimal() and int(text) < len(task.classes):
        return int(text)
    listing = ", ".join(f"{i} {n}" for i, n in enumerate(task.classes))
    raise SaBenchError(f"{task.name} has no class {value!r}. Available: {listing}.")


def resolve_task(name: str, scale: str, overrides: Mapping[str, str]) -> Task:
    """The task with its scale and overrides applied and checked."""
    task = registry.task(name)
    if scale not in SCALES:
        raise unknown("scale", scale, SCALES)
    values: dict[str, Any] = dict(task.scales.get(scale, {}))
    for path, value in overrides.items():
        if path in SETTABLE_SEPARATELY:
            raise SaBenchError(f"task.{path} cannot be set: it is what the task is.")
        if path in ("concept", "relabel_to"):
            value = class_index(task, value)
        assign(Task, values, path, value, f"task {name}")
    merged = {f.name: getattr(task, f.name) for f in fields(Task)} | values
    sampler = values.get("sampler", {})
    if not isinstance(sampler, Mapping):
        raise SaBenchError(
            f"task {name}: sampler={sampler!r} has fields of its own; set one, e.g. task.sampler.steps."
        )
    merged["sampler"] = asdict(task.sampler) | dict(sampler)
    task = validated(Task, merged, f"task {name}")
    return checked(task, "relabel_to" in overrides)


def checked(task: Task, relabel_given: bool = False) -> Task:
    """The task, its values in range and its surrogate readable; errors come before any work."""
    if task.relabel_to == task.concept:
        if relabel_given:
            raise SaBenchError("task.relabel_to is the concept itself; name another class.")
        task = replace(task, relabel_to=(task.concept + 1) % len(task.classes))
    for name in ("n_forget", "n_retain"):
        if getattr(task, name) < 1:
            raise SaBenchError(f"task.{name}={getattr(task, name)}: at least 1 image is needed.")
    for name in ("likelihood_images", "likelihood_deep", "feature_images"):
        if getattr(task, name) < 0:
            raise SaBenchError(f"task.{name}={getattr(task, name)}: must be 0 or more.")
    for name in ("recovery_budgets", "recovery_images"):
        low = 0 if name == "recovery_budgets" else 1
        if not getattr(task, name) or min(getattr(task, name)) < low:
            raise SaBenchError(f"task.{name} needs one or more whole numbers ≥ {low}, e.g. 30,100.")
    for name in ("recovery_judged", "bound_images", "bound_steps"):
        if getattr(task, name) < 1:
            raise SaBenchError(f"task.{name}={getattr(task, name)}: must be 1 or more.")
    if unknown_starts := set(task.recovery_starts) - {"own", "mean", "zero"}:
        raise unknown("recovery start", unknown_starts.pop(), ["own", "mean", "zero"])
    if not task.recovery_starts or not task.recovery_rates or min(task.recovery_rates) <= 0:
        raise SaBenchError(
            "task.recovery_starts and task.recovery_rates need at least one value, rates above 0."
        )
    _check_sampler(task)
    if task.replay_every < 1 or not task.scored:
        raise SaBenchError(
            f"task.replay_every={task.replay_every} with task.score={task.score} leaves no class to score; "
            "use replay_every=2 or more for score=uncovered, 1 or more for score=retain."
        )
    if task.replay_images and task.replay_images < len(task.covered):
        raise SaBenchError(
            f"task.replay_images={task.replay_images}: at least one for each of the {len(task.covered)} classes "
            "that replay covers, or 0 for fresh samples."
        )
    for name in filter(None, (*task.judges, task.designated, task.reject_judge)):
        require_bar(judge_card(name))
    if task.designated not in task.judges:
        raise SaBenchError(f"task.designated={task.designated} is not in task.judges.")
    for name in task.metrics:
        registry.find("metric", name)
    if "collapse" in task.metrics:
        guard_card(task.dataset)
    kind, _, argument = task.surrogate.partition(":")
    if kind == "class":
        other = class_index(task, argument)
        if other == task.concept:
            raise SaBenchError("task.surrogate is the concept itself; name another class.")
        task = replace(task, surrogate=f"class:{other}")
    elif kind == "folder":
        if not Path(argument).is_dir():
            raise SaBenchError(f"task.surrogate: no folder at {argument!r}.")
        from sa_bench import datasets, images  # loads torch, so only where it is needed

        height, width, channels = datasets.SHAPES[task.dataset]
        images.read_folder(
            Path(argument), channels, (height, width)
        )  # a wrong image stops here, before any work
        task = replace(task, surrogate=f"folder:{Path(argument).resolve()}")
    elif kind == "prompt" and task.prompts is not None and argument.strip():
        pass
    elif task.surrogate != "noise":
        prompt = ["prompt:<text>"] if task.prompts is not None else []
        raise unknown("surrogate", task.surrogate, ["noise", "class:<name>", *prompt, "folder:<path>"])
    return task


SCHEDULERS = {"vae": ("direct",), "ddpm": ("ddim", "ddpm"), "text_to_image": ("ddim", "ddpm")}
MOST_STEPS = {"vae": 1, "ddpm": 1000, "text_to_image": 1000}


def _check_sampler(task: Task) -> None:
    sampler, most = task.sampler, MOST_STEPS[task.family]
    if sampler.scheduler not in SCHEDULERS[task.family]:
        raise unknown("scheduler", sampler.scheduler, SCHEDULERS[task.family])
    if not math.isfinite(sampler.guidance) or not 0 <= sampler.eta <= 1:
        raise SaBenchError(
            f"task.sampler.guidance={sampler.guidance}, eta={sampler.eta}: a finite guidance and 0 ≤ eta ≤ 1 are needed."
        )
    if not 1 <= sampler.steps <= most:
        raise SaBenchError(f"task.sampler.steps={sampler.steps}: {task.name} samples in 1 to {most} steps.")


def resolve_fields(method: str, task: Task, scale: str, settings: Mapping[str, str]) -> dict[str, Any]:
    """A method's fields: defaults, then its preset for the family and scale, then `settings`."""
    cls = registry.method_class(method)
    values: dict[str, Any] = {
        f.name: asdict(d) if is_dataclass(d := f.default) else d  # type: ignore[arg-type]
        for f in fields(cls)
    }
    for key, value in cls.presets.get((task.family, scale), {}).items():
        values[key] = {**dict(values[key]), **value} if isinstance(value, Mapping) else value
    own = {k.removeprefix(f"{method}."): v for k, v in task.presets.items() if k.startswith(f"{method}.")}
    for key, value in {**task.presets, **own}.items():
        if key in values:
            values[key] = {**dict(values[key]), **value} if isinstance(value, Mapping) else value
    for path, value in settings.items():
        assign(cls, values, path, value, f"method {method}")
    built = validated(cls, values, f"method {method}")
    _check_fisher(built, task, f"method {method}")
    return asdict(built)


def _check_fisher(method: Any, task: Task, what: str) -> None:
    """Refuse options of F that mean nothing for the task's family, before any work."""
    for name, options in vars(method).items():
        if not isinstance(options, FisherOptions):
            continue
        if task.family == "vae" and (options.timesteps or options.range != "model"):
            raise SaBenchError(
                f"{what}: {name}.timesteps and {name}.range are of diffusion models; {task.name} has none."
            )
        if task.family != "vae" and options.targets != "means":
            raise SaBenchError(
                f"{what}: {name}.targets={options.targets} is of VAEs; use {name}.targets=means."
            )
        if options.timesteps > 1000:
            raise SaBenchError(f"{what}: {name}.timesteps={options.timesteps}: there are 1,000; 0 takes all.")


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
    for name in getattr(registry.method_class(method), "files", ()):
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
) -> list[Cell]:
    """Every cell of a command, in the order given, without repeats.

    Tasks, methods and metrics are names or paths of plug-in files; `metrics` come on top of the task's own.

    Raises:
        SaBenchError: anything unknown or out of range, before any work.
    """
    for seed in (*seeds, *base_seeds):
        if seed < 0:
            raise SaBenchError(f"Seeds are whole numbers ≥ 0, got {seed}.")
    settings = [split_setting(text) for text in sets]
    swept = [(name, values.split(",")) for name, values in map(split_setting, sweeps)]
    if empty := [name for name, values in swept if not all(values)]:
        raise SaBenchError(f"--sweep {empty[0]} has an empty value; write --sweep {empty[0]}=a,b,c.")
    tasks, methods, metrics = (
        [name for reference in references for name in registry.register(kind, reference)]
        for kind, references in (("task", tasks), ("method", methods), ("metric", metrics))
    )
    for name in methods:
        registry.find("method", name)
    choices = [[(name, value) for value in values] for name, values in swept]
    cells: dict[str, Cell] = {}
    for task_name, method in itertools.product(tasks, methods):
        for combination in itertools.product(*choices):
            for_task, for_method = _route([*settings, *combination], method, methods)
            task = with_metrics(resolve_task(task_name, scale, for_task), metrics)
            resolved = with_files(method, resolve_fields(method, task, scale, for_method))
            for base_seed, seed in itertools.product(base_seeds, seeds):
                cell = Cell(task, method, resolved, seed, base_seed, scale, for_task)
                cells.setdefault(cell.id, cell)
    return list(cells.values())


def _route(
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
            owners = [m for m in methods if head in {f.name for f in fields(registry.method_class(m))}]
            if not owners and rest and head in {entry.name for entry in registry.entries("method")}:
                raise SaBenchError(
                    f"{name} is a field of {head}, which is not among --method {','.join(methods)}."
                )
            if not owners:
                known = {f.name for m in methods for f in fields(registry.method_class(m))}
                raise unknown(f"field of {', '.join(methods)}", head, known | {"task.<field>"})
            if method in owners:
                for_method[name] = value
    return for_task, for_method
