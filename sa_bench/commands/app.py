"""The commands: parse, call, print. Nothing heavy is imported before it is needed."""

from __future__ import annotations

import os
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sa_bench.commands.arguments import expand_home_argument, parse_seeds, print_text
from sa_bench.commands.results import add_to
from sa_bench.commands.store import store_app
from sa_bench.core.errors import (
    NO_MEMORY,
    SaBenchError,
    first_line,
    is_out_of_memory,
    name_missing_extra,
    print_notice,
)
from sa_bench.core.fields import split_list
from sa_bench.core.version import __version__

if TYPE_CHECKING:
    from sa_bench.engine.cells import Cell


# With two processes side by side OpenMP's spin-waiting costs more than it saves: 81 ms per step
# instead of 31.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "0")
os.environ.setdefault("KMP_BLOCKTIME", "0")

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Did this method make this model forget this concept, at what cost, how sure are we?",
)
app.add_typer(store_app, name="store")
new_app = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="A file to start a component from."
)
app.add_typer(new_app, name="new")

INTERRUPTED, READER_GONE = 130, 141  # exit codes of shells after SIGINT and SIGPIPE
TaskOption = Annotated[
    str, typer.Option("--task", "-t", help="Task, or several: a,b; a name or ./mine.py.")
]
MethodOption = Annotated[
    str, typer.Option("--method", "-m", help="Method, or several: a,b; a name or ./mine.py.")
]
SuiteOption = Annotated[
    str,
    typer.Option(
        help="A suite, or ./mine.toml, instead of --task, --method and all that belongs to them."
    ),
]
SeedOption = Annotated[str, typer.Option(help="Forgetting seeds: 0,1,2.")]
BaseOption = Annotated[str, typer.Option(help="Base model seeds: 0,1,2.")]
SampleOption = Annotated[str, typer.Option(help="Seeds of the images measured: 0,1,2.")]
ScaleOption = Annotated[str, typer.Option(help="full, paper or quick.")]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", help="field=value, sa.field=…, task.field=…")
]
SweepOption = Annotated[
    list[str] | None, typer.Option("--sweep", help="field=a,b,c or a JSON list: one cell a value.")
]
MetricOption = Annotated[
    str, typer.Option("--metric", help="Further metrics on top of the task's: names or ./mine.py.")
]
TrustOption = Annotated[
    bool, typer.Option(help="Run the code of the .py files that the suite names.")
]
ModelOption = Annotated[
    str,
    typer.Option(
        help="A Stable Diffusion to start from: diffusers folder, weight file or hub id (task.model)."
    ),
]
WideOption = Annotated[
    bool,
    typer.Option(
        "--wide", help="Print all columns of the table, in rows longer than the terminal."
    ),
]
OutOption = Annotated[
    Path | None, typer.Option(help="Run folder (default: runs/<task>-<scale>-<hash>).")
]


def main() -> None:
    """Run a command line; every error that a user can cause is one line and an exit code."""
    for stream in (sys.stdout, sys.stderr):
        # letters that a terminal cannot show are written as \u2265 and raise no error
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        with name_missing_extra("this command"):
            code = (
                app(
                    [expand_home_argument(argument) for argument in sys.argv[1:]],
                    standalone_mode=False,
                )
                or 0
            )
        if sys.stdout is not None:
            sys.stdout.flush()
    except SaBenchError as error:
        print_notice(str(error))
        code = error.exit_code
    except typer.Exit as stop:
        code = stop.exit_code
    except (typer.Abort, KeyboardInterrupt) as stop:
        code = INTERRUPTED
        # click takes the early end of a file for the end of a terminal's input
        if isinstance(stop.__cause__, EOFError):
            print_notice(
                f"a file ends where more of it was expected ({_describe_place(stop.__cause__)}); get it again."
            )
            code = 1
    except BrokenPipeError:  # `| head` has read enough; files that were written are complete
        code = READER_GONE
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # the interpreter flushes once more
    except Exception as error:
        if hasattr(error, "format_message") and hasattr(error, "exit_code"):  # click's usage errors
            print_notice(f"{error.format_message()} See --help.")
            sys.exit(2)
        if (message := _describe_machine_failure(error)) is None:
            raise
        print_notice(message)
        code = 1
    if code == INTERRUPTED:  # typer turns Ctrl-C into this code as well
        print(file=sys.stderr)  # after the terminal's ^C
        print_notice("stopped. The same command continues where this one stopped.")
    sys.exit(code)


def _describe_place(error: BaseException) -> str:
    """Describe an exception and the last place in the code that it went through."""
    frames = traceback.extract_tb(error.__traceback__)
    if not frames:
        return first_line(error)
    return f"{first_line(error)}, {Path(frames[-1].filename).name} line {frames[-1].lineno}"


def _describe_machine_failure(error: Exception) -> str | None:
    """Describe a failure of the machine that no command has reported: no memory, a full disk.

    Returns:
        None for any other exception.
    """
    from sa_bench.core.disk import describe_failure

    if is_out_of_memory(error):
        return f"{NO_MEMORY} ({first_line(error)})"
    where = getattr(error, "filename", None) or "standard output"
    return describe_failure(error, Path(str(where))) if isinstance(error, OSError) else None


@app.callback(invoke_without_command=True)
def version(
    show: Annotated[
        bool, typer.Option("--version", help="Print the version.", is_eager=True)
    ] = False,
) -> None:
    """Did this method make this model forget this concept, at what cost, how sure are we?"""
    if show:
        print_text(f"sa_bench {__version__}")
        raise typer.Exit


def _resolve_cells(
    suite: str,
    task: str,
    method: str,
    seed: str,
    base_seed: str,
    sample_seed: str,
    scale: str,
    sets: list[str] | None,
    sweeps: list[str] | None,
    metric: str,
    model: str = "",
    trust: bool = False,
) -> list[Cell]:
    """Resolve the options of a command line into cells.

    Raises:
        SaBenchError: there is neither a suite nor task and method, or both, or one of them is wrong.
    """
    further_options = (
        task,
        method,
        sets,
        sweeps,
        metric,
        model,
        seed != "0",
        base_seed != "0",
        sample_seed != "0",
        scale != "full",
    )
    if suite and any(further_options):
        raise SaBenchError(
            "--suite already says which tasks, methods, seeds and settings; give it without these options."
        )
    if suite:
        from sa_bench.engine import suites

        return suites.resolve_suite(suite, trust)
    if not task or not method:
        raise SaBenchError("Give --task and --method, or --suite. See `python -m sa_bench list`.")
    from sa_bench.engine.cells import resolve

    return resolve(
        split_list(task),
        split_list(method),
        scale,
        parse_seeds(seed, "--seed"),
        parse_seeds(base_seed, "--base-seed"),
        [*(sets or []), *([f"task.model={model}"] if model else [])],
        sweeps or [],
        split_list(metric) if metric else [],
        parse_seeds(sample_seed, "--sample-seed"),
    )


@app.command("list")
def list_components() -> None:
    """List all tasks, methods, metrics and suites."""
    from sa_bench.core.registry import ROOMS, list_broken, list_entries
    from sa_bench.engine import suites

    for kind in ("task", "method", "metric"):
        entries = list_entries(kind)
        print_text(f"{ROOMS[kind]}:")
        width = max(len(e.name) for e in entries)
        for entry in entries:
            print_text(f"  {entry.name:<{width}}  {entry.summary.replace('`', '')}")
        for entry in list_broken(kind):
            print_text(f"  {entry.name:<{width}}  (cannot be used: {entry.broken})")
    print_text("suites:")
    for name, summary in suites.list_suites():
        print_text(f"  {name}  {summary}")


@app.command()
def show(
    name: str,
    rows: Annotated[
        bool,
        typer.Option(
            "--rows",
            help="For a task: every image that it asks for, as CSV, to generate elsewhere.",
        ),
    ] = False,
    scale: ScaleOption = "full",
    set_: SetOption = None,
) -> None:
    """Show fields, presets, source and documentation of a component; with --rows the images of a task."""
    from sa_bench.commands.show import describe, task_rows

    if not rows and (set_ or scale != "full"):
        raise SaBenchError("show takes --scale and --set only together with --rows.")
    print_text(task_rows(name, scale, set_ or []).rstrip("\n") if rows else describe(name))


@app.command()
def run(
    task: TaskOption = "",
    method: MethodOption = "",
    suite: SuiteOption = "",
    seed: SeedOption = "0",
    base_seed: BaseOption = "0",
    sample_seed: SampleOption = "0",
    scale: ScaleOption = "full",
    set_: SetOption = None,
    sweep: SweepOption = None,
    metric: MetricOption = "",
    model: ModelOption = "",
    trust: TrustOption = False,
    without: Annotated[
        list[Path] | None,
        typer.Option(help="Leave out cells that these run folders or packed files have."),
    ] = None,
    jobs: Annotated[int, typer.Option(help="Cells side by side, one thread each.")] = 1,
    out: OutOption = None,
    overwrite: Annotated[bool, typer.Option(help="Replace another run in --out.")] = False,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1.")] = "cpu",
    wide: WideOption = False,
) -> None:
    """Run every combination and render the report. The same command resumes."""
    from sa_bench import api
    from sa_bench.commands.terminal import Live, print_boards

    cells = _resolve_cells(
        suite, task, method, seed, base_seed, sample_seed, scale, set_, sweep, metric, model, trust
    )
    if without:
        cells = api.unfinished_cells(cells, without)
    if suite and out is None:
        out = Path("runs") / Path(suite).stem
    with Live() as live:
        results, folder, report = api.run_folder(
            cells,
            jobs=jobs,
            out=out,
            overwrite=overwrite,
            device=device,
            report=live.update,
            finished=live.finish,
            announce=live.announce,
        )
    from sa_bench.engine.runner import exit_code

    print_boards(results, wide)
    print_text(f"\nReport: {report}\nResults: {folder}")
    raise typer.Exit(exit_code(results))


@app.command()
def evaluate(
    images: Annotated[
        Path,
        typer.Argument(
            help="Folder with forget/ and retain/<class>/, an NPZ with arr_0, or a Stable Diffusion checkpoint."
        ),
    ],
    task: TaskOption,
    scale: ScaleOption = "full",
    set_: SetOption = None,
    metric: MetricOption = "",
    model: ModelOption = "",
    trust: TrustOption = False,
    out: Annotated[Path | None, typer.Option(help="Write result.json into this folder.")] = None,
    device: Annotated[str, typer.Option(help="For a checkpoint: cpu, cuda, cuda:1.")] = "cpu",
    wide: WideOption = False,
) -> None:
    """Measure images, or a checkpoint, that were made elsewhere."""
    from sa_bench import api
    from sa_bench.commands.terminal import Live, print_measurements
    from sa_bench.engine.external import is_checkpoint

    if is_checkpoint(images, task):
        sets = [*(set_ or []), f"checkpoint.path={images}"]
        run(
            task,
            "checkpoint",
            scale=scale,
            set_=sets,
            metric=metric,
            model=model,
            out=out,
            device=device,
            wide=wide,
        )
    with Live() as live:
        result = api.evaluate(
            images,
            task,
            scale=scale,
            sets=[*(set_ or []), *([f"task.model={model}"] if model else [])],
            metrics=split_list(metric) if metric else [],
            out=out,
            report=live.update,
        )
    print_measurements(result, wide)


@app.command()
def plan(
    task: TaskOption = "",
    method: MethodOption = "",
    suite: SuiteOption = "",
    seed: SeedOption = "0",
    base_seed: BaseOption = "0",
    sample_seed: SampleOption = "0",
    scale: ScaleOption = "full",
    set_: SetOption = None,
    sweep: SweepOption = None,
    metric: MetricOption = "",
    model: ModelOption = "",
    trust: TrustOption = False,
    jobs: Annotated[int, typer.Option(help="Cells side by side.")] = 1,
) -> None:
    """Show what `run` would do: stages, stored artifacts, time, memory and disk. Runs nothing."""
    from sa_bench.commands.plan import describe_plan
    from sa_bench.core.settings import require_folders

    require_folders()
    from sa_bench.engine.runner import usable_jobs

    cells = _resolve_cells(
        suite, task, method, seed, base_seed, sample_seed, scale, set_, sweep, metric, model, trust
    )
    print_text(describe_plan(cells, usable_jobs(jobs)))


@app.command()
def doctor(
    task: Annotated[
        str, typer.Argument(help="Only what this task uses: a name or ./mine.py.")
    ] = "",
) -> None:
    """List assets, here or missing, how to get them, their licences and what each unlocks."""
    from sa_bench.commands.doctor import describe_assets, describe_task_assets

    text, missing = describe_task_assets(task) if task else describe_assets()
    print_text(text)
    raise typer.Exit(3 if missing else 0)


@app.command()
def fetch(
    names: Annotated[
        list[str],
        typer.Argument(help="Assets as doctor lists them, hub ids (owner/name), or tasks."),
    ],
    source: Annotated[
        Path | None,
        typer.Option(
            "--from", help="Copy from this folder, by file name (or set SA_BENCH_MIRROR)."
        ),
    ] = None,
) -> None:
    """Get weights, prompt files and models; for a task, all that it can use. The same command resumes."""
    from sa_bench.commands import fetch as fetching
    from sa_bench.core.settings import mirror_folder

    for name in names:
        fetching.fetch(name, source or mirror_folder())


@app.command()
def check(name: Annotated[str, typer.Argument(help="Component, or ./mine.py.")]) -> None:
    """Check that a component keeps its contract, on a toy, in under a minute."""
    from sa_bench.commands.check import check as findings
    from sa_bench.commands.show import find_components

    by_component = {
        (kind, component): findings(kind, component) for kind, component in find_components(name)
    }
    for (kind, component), component_findings in by_component.items():
        print_text(f"{kind} {component}:")
        for finding in component_findings:
            print_text(f"  {'ok  ' if finding.kept else 'FAIL'}  {finding.text}")
    every_finding = [finding for listed in by_component.values() for finding in listed]
    raise typer.Exit(0 if all(finding.kept for finding in every_finding) else 1)


@new_app.command("method")
def new_method(
    name: str, folder: Annotated[Path, typer.Option("--in", help="Where to write it.")] = Path()
) -> None:
    """Write NAME.py, a method that runs as it is."""
    from sa_bench.commands import new

    path = new.new_method(name, folder)
    print_text(f"Wrote {path}. Next:")
    print_text(f"  python -m sa_bench check {path if path.is_absolute() else './' + str(path)}")
    print_text(
        f"  python -m sa_bench run --task mnist_0 --method ./{path},retrain,relabel --scale quick"
    )


add_to(app)
