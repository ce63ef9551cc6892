"""The commands as Python functions: `sa_bench.run("mnist_0", "sa", seeds=3)` in a script or notebook.

They return objects, which a notebook shows: tables of pandas, texts, figures. A mistake raises
`SaBenchError`, with the sentence of the command line in Python's words.
"""

from __future__ import annotations

import base64
import functools
import html
import inspect
import io
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from sa_bench import api
from sa_bench.contracts import Method, Task
from sa_bench.core import registry
from sa_bench.core.errors import SaBenchError
from sa_bench.core.family_contracts import describe_families
from sa_bench.core.progress_bar import ProgressBar
from sa_bench.core.suite_files import list_suites as read_suites
from sa_bench.engine.cells import Cell, resolve, title_cells
from sa_bench.results.frames import load_results as read_frame

if TYPE_CHECKING:
    import pandas as pd

    from sa_bench.analysis.tables import Table
    from sa_bench.commands.plan import PlannedStage

__all__ = [
    "compare",
    "evaluate",
    "figure",
    "list_methods",
    "list_metrics",
    "list_suites",
    "list_tasks",
    "load_results",
    "plan",
    "report",
    "run",
    "table",
]

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")
Names = str | Task | Method | Path | Sequence[Any]
"""A name, a path of a plug-in file, a task or method object, or several of these."""
Seeds = int | Iterable[int]
IN_PYTHON = (
    (r"--scale (\w+)", r'scale="\1"'),
    (r"--device ([\w:]+)", r'device="\1"'),
    (r"--jobs (\d+)", r"jobs=\1"),
    (r"--(set|sweep|metric) ([\w.]+=\S+?)(?=[,;.)]*(\s|$))", r'\1s=["\2"]'),
    (r"--(overwrite|deep)\b", r"\1=True"),
    (r"--(set|sweep|metric|seed)\b", r"\1s"),
    (r"--(base|sample)-seed\b", r"\1_seeds"),
    (r"--([a-z]+)-([a-z]+)", r"\1_\2"),
    (r"--([a-z]+)", r"\1"),
)
"""Options of the command line and the arguments that they are here."""


def in_python_words(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Let a function's errors name arguments in place of options; commands to type stay as they are."""

    @functools.wraps(function)
    def translated(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        try:
            return function(*args, **kwargs)
        except SaBenchError as error:
            error.args = (translate(str(error)),)
            raise

    return translated


def translate(message: str) -> str:
    """Write a message of the command line in Python's words."""
    parts = re.split(r"(python -m sa_bench[^;]*)", message)
    for pattern, replacement in IN_PYTHON:
        parts[::2] = [re.sub(pattern, replacement, part) for part in parts[::2]]
    return "".join(parts)


class Text(str):
    """A text that a notebook shows as it is, in letters of equal width."""

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(self)}</pre>"


@dataclass(frozen=True)
class Plan:
    """What a run would do; see `plan`."""

    text: str
    stages: dict[str, list[PlannedStage]]  # by the title of a cell

    @property
    def frame(self) -> pd.DataFrame:
        """One row a stage: cell, stage, state, and the range of CPU seconds still to spend."""
        import pandas as pd

        columns = ["cell", "stage", "state", "low_s", "middle_s", "high_s"]
        rows = [
            (title, s.what, s.state, *(asdict(s.seconds).values() if s.seconds else (None,) * 3))
            for title, stages in self.stages.items()
            for s in stages
        ]
        return pd.DataFrame(rows, columns=columns)

    def __str__(self) -> str:
        """Return what `plan` prints."""
        return self.text

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(self.text)}</pre>"


@dataclass(frozen=True)
class Tables:
    """Tables of results; `str` gives Markdown, `to` any format."""

    tables: Sequence[Table]

    def to(self, format: str, layout: str = "") -> str:
        """Write them as `markdown`, `latex` (layout `narrow` or `wide`), `csv` or `html`."""
        return api.format_tables(self.tables, format, layout)

    @property
    def frame(self) -> pd.DataFrame:
        """One row an entry: method, metric, value, bounds, points, published value and verdict."""
        import pandas as pd

        return pd.read_csv(io.StringIO(self.to("csv")))

    def __str__(self) -> str:
        """Return them as Markdown."""
        return self.to("markdown")

    def _repr_html_(self) -> str:
        return self.to("html").partition("</style>")[2]


@dataclass(frozen=True)
class Figure:
    """A figure: its file and its caption."""

    path: Path
    caption: str

    def _repr_html_(self) -> str:
        data, kind = base64.b64encode(self.path.read_bytes()).decode(), self.path.suffix[1:]
        caption = html.escape(self.caption)
        if kind == "pdf":
            return f"<p>{html.escape(str(self.path))}: {caption}</p>"
        media = "svg+xml" if kind == "svg" else kind
        return f'<img src="data:image/{media};base64,{data}"><p>{caption}</p>'


class Evaluation(dict[str, Any]):
    """The result row of `evaluate`."""

    @property
    def frame(self) -> pd.DataFrame:
        """One row a measurement."""
        import pandas as pd

        names = ("name", "value", "low", "high", "n", "n_unit", "unit", "better", "base", "reason")
        return pd.DataFrame([{k: m[k] for k in names} for m in self["measurements"]])

    def _repr_html_(self) -> str:
        return self.frame.to_html(index=False)


@in_python_words
def run(
    task: Names,
    method: Names,
    *,
    seeds: Seeds = (0,),
    base_seeds: Seeds = (0,),
    sample_seeds: Seeds = (0,),
    scale: str = "full",
    sets: Sequence[str] = (),
    sweeps: Sequence[str] = (),
    metrics: Sequence[str] = (),
    jobs: int = 1,
    out: str | Path | None = None,
    overwrite: bool = False,
    device: str = "cpu",
    progress: bool = True,
) -> pd.DataFrame:
    """Run every combination, and return the measurements as a pandas table (see `load_results`).

    Args:
        task: names, paths of plug-in files, or `Task` objects (of one, what differs from the
            registered task of its name is set).
        method: names, paths, or `Method` objects (of one, all fields are set; presets are not used).
        seeds: forgetting seeds; an int is one seed.
        base_seeds: seeds of the base model.
        sample_seeds: seeds of the images that are measured.
        scale: full, paper, small (large models) or quick.
        sets: `field=value`, `sa.field=value` or `task.field=value`.
        sweeps: `field=a,b,c`; a cell a value.
        metrics: further metrics, names or paths.
        jobs: cells side by side.
        out: the run folder; also in `attrs["folder"]` of the table.
        overwrite: whether a folder of another run may be replaced.
        device: cpu, cuda, cuda:1.
        progress: whether a bar shows the stages.

    Raises:
        SaBenchError: something is unknown or out of range; raised before any work.
    """
    cells = resolve_cells(
        task, method, scale, seeds, base_seeds, sample_seeds, sets, sweeps, metrics
    )
    with ProgressBar(progress) as bar:
        bar.titles = title_cells(cells)
        _, folder, _ = api.run_folder(
            cells,
            jobs=jobs,
            out=Path(out) if out else None,
            overwrite=overwrite,
            device=device,
            report=bar.update,
            finished=lambda result: bar.finish(result["cell"]),
        )
    frame = read_frame(folder)
    frame.attrs["folder"] = str(folder)
    return frame


@in_python_words
def plan(
    task: Names,
    method: Names,
    *,
    seeds: Seeds = (0,),
    base_seeds: Seeds = (0,),
    sample_seeds: Seeds = (0,),
    scale: str = "full",
    sets: Sequence[str] = (),
    sweeps: Sequence[str] = (),
    metrics: Sequence[str] = (),
    jobs: int = 1,
) -> Plan:
    """Plan what `run` would do: stages, what is stored, time, memory and disk. Runs nothing.

    Raises:
        SaBenchError: what `run` would raise before any work.
    """
    from sa_bench.commands.plan import make_plan

    cells = resolve_cells(
        task, method, scale, seeds, base_seeds, sample_seeds, sets, sweeps, metrics
    )
    return Plan(*make_plan(cells, jobs))


@in_python_words
def evaluate(images: str | Path, task: str | Task, **options: Any) -> Evaluation:
    """Measure images made elsewhere: a folder, or an NPZ. `options` are those of `sa_bench.api.evaluate`.

    Raises:
        SaBenchError: the images are unreadable or unsuitable.
    """
    (name,), _, own_sets = name_objects(task, ())
    sets = [*own_sets, *options.pop("sets", ())]
    return Evaluation(api.evaluate(images, name, sets=sets, **options))


@in_python_words
def compare(*folders: str | Path, methods: str = "", task: str = "", at: str = "") -> Text:
    """Compare two rows: do these checkpoints differ, does the method, and what does it come from?

    Args:
        folders: one run and two `methods`, or two runs.
        methods: names or labels, `a,b`.
        task: use only boards of this task.
        at: a level of forgetting, `forget_top1=0.003`: compare there, along each method's settings.

    Raises:
        SaBenchError: results cannot be read or paired, or their protocols differ.
    """
    return Text(api.compare(folders, methods, task, at))


@in_python_words
def table(
    name: str,
    *folders: str | Path,
    task: str | Sequence[str] = "",
    methods: str | Sequence[str] = (),
    metrics: str | Sequence[str] = (),
) -> Tables:
    """Make a `leaderboard`, or a published table (`table1`) with our results beside it.

    Raises:
        SaBenchError: the name is unknown, or results cannot be read.
    """
    return Tables(api.make_tables(name, [Path(f) for f in folders], task, metrics, methods))


@in_python_words
def figure(
    kind: str,
    *folders: str | Path,
    out: str | Path | None = None,
    task: str = "",
    methods: str | Sequence[str] = (),
    size: tuple[float, float] | None = None,
    **options: Any,
) -> Figure:
    """Draw a figure of one board: tradeoff, pareto, sweep, samples or overview.

    Args:
        kind: which.
        folders: run folders or packed files.
        out: a file .svg, .pdf or .png; None means `<kind>.svg`.
        task: which board, where there are several.
        methods: names or labels, `a,b` or a list; empty means up to twelve.
        size: width and height in inches.
        options: `field` of a sweep; `columns`, `explicit` and `sort` of images.

    Raises:
        SaBenchError: the kind or format is unknown, or there is nothing to draw.
    """
    file = Path(out) if out else None
    return Figure(
        *api.figure(kind, [Path(f) for f in folders], file, task, methods, size=size, **options)
    )


@in_python_words
def report(*folders: str | Path, out: str | Path | None = None, explicit: bool = False) -> Path:
    """Write the report of run folders, as HTML or Markdown, and return its file.

    Raises:
        SaBenchError: there are no results, or `out` has another ending.
    """
    return api.write_report([Path(f) for f in folders], Path(out) if out else None, explicit)


@in_python_words
def load_results(*folders: str | Path) -> pd.DataFrame:
    """Load all measurements of run folders, packed files and bundles: one row a measurement.

    Raises:
        SaBenchError: results cannot be read.
    """
    return read_frame(*folders)


load_results.__doc__ = read_frame.__doc__


def list_methods() -> pd.DataFrame:
    """List the methods: name, title, standing, the model families it supports, summary."""
    return _list_entries("method", ("name", "title", "standing"), families=True)


def list_tasks() -> pd.DataFrame:
    """List the tasks: name, summary."""
    return _list_entries("task", ("name",))


def list_metrics() -> pd.DataFrame:
    """List the metrics: name, summary."""
    return _list_entries("metric", ("name",))


def list_suites() -> pd.DataFrame:
    """List the suites: name, summary."""
    import pandas as pd

    return pd.DataFrame(read_suites(), columns=["name", "summary"])


def _list_entries(kind: str, facts: Sequence[str], families: bool = False) -> pd.DataFrame:
    """List the components of a kind with these facts of each."""
    import pandas as pd

    return pd.DataFrame(
        [
            {fact: getattr(entry, fact) for fact in facts}
            | ({"families": describe_families(entry.supports)} if families else {})
            | {"summary": entry.summary.replace("`", "")}
            for entry in registry.list_entries(kind)
        ]
    )


def resolve_cells(
    task: Names,
    method: Names,
    scale: str,
    seeds: Seeds,
    base_seeds: Seeds,
    sample_seeds: Seeds,
    sets: Sequence[str],
    sweeps: Sequence[str],
    metrics: Sequence[str],
) -> list[Cell]:
    """Resolve the cells of a run, whose tasks and methods may be objects.

    Raises:
        SaBenchError: anything is unknown or out of range.
    """
    tasks, methods, own_sets = name_objects(task, method)
    return resolve(
        tasks,
        methods,
        scale,
        list_seeds(seeds),
        list_seeds(base_seeds),
        [*own_sets, *sets],
        sweeps,
        metrics,
        list_seeds(sample_seeds),
    )


def list_seeds(seeds: Seeds) -> list[int]:
    """List seeds; an int is one of them."""
    return [seeds] if isinstance(seeds, int) else list(seeds)


def name_objects(tasks: Names, methods: Names) -> tuple[list[str], list[str], list[str]]:
    """Name tasks and methods as the command line does, and list the settings that make up objects.

    Returns:
        (task names, method names, `--set` texts).

    Raises:
        SaBenchError: an object cannot be named: two of one name differ, or its class is in no file.
    """
    task_names: list[str] = []
    method_names: list[str] = []
    sets: dict[str, str] = {}
    for task in _list_given(tasks):
        name, own = _set_task(task) if isinstance(task, Task) else (str(task), {})
        task_names.append(name)
        _add_settings(sets, own)
    for method in _list_given(methods):
        name, own = _set_method(method) if isinstance(method, Method) else (str(method), {})
        method_names.append(name)
        _add_settings(sets, own)
    return task_names, method_names, [f"{field}={value}" for field, value in sets.items()]


def _list_given(given: Names) -> list[Any]:
    return [given] if isinstance(given, str | Task | Method | Path) else list(given)


def _add_settings(sets: dict[str, str], own: dict[str, str]) -> None:
    """Add an object's settings to those of others."""
    if clash := [field for field in own if sets.get(field, own[field]) != own[field]]:
        raise SaBenchError(
            f"Two objects set {clash[0]} differently; run them one after the other, into the same out."
        )
    sets |= own


def _set_task(task: Task) -> tuple[str, dict[str, str]]:
    """Name a task, and set what differs from the registered task of its name."""
    ours, registered = (dict(_flatten("task", t)) for t in (task, registry.get_task(task.name)))
    return task.name, {k: v for k, v in ours.items() if registered.get(k) != v}


def _set_method(method: Method[Any]) -> tuple[str, dict[str, str]]:
    """Name a method, and set all of its fields."""
    cls = type(method)
    known = {e.name: e for e in registry.list_entries("method")}
    name = next((n for n in known if registry.get_method(n) is cls), "")
    if not name:
        try:
            file = inspect.getsourcefile(cls)
        except TypeError:  # defined at a prompt
            file = None
        if file is None or not Path(file).is_file():
            raise SaBenchError(
                f"{cls.__name__} is defined in no file; write it into one (its code is part of a result's key) and "
                "give its path."
            )
        (name,) = registry.register("method", file)
    return name, dict(_flatten(name, method))


def _flatten(name: str, value: Any) -> Iterator[tuple[str, str]]:
    """Yield the fields of a dataclass as settings: `sa.lam` and its text, `sa.fisher.n` and its text."""
    for declared in fields(value):
        field, own = f"{name}.{declared.name}", getattr(value, declared.name)
        if is_dataclass(own):
            yield from _flatten(field, own)
        else:
            yield field, own if isinstance(own, str) else json.dumps(own, default=asdict)
