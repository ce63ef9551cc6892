"""The commands: parse, call, print. Nothing heavy is imported before it is needed."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sa_bench.commands.arguments import (
    expand_home_argument,
    parse_part,
    parse_seeds,
    print_text,
    terminal_width,
)
from sa_bench.commands.completion import complete_components, complete_kinds, complete_tasks
from sa_bench.commands.failures import describe_machine_failure, describe_misuse, describe_place
from sa_bench.commands.help import (
    EXTEND,
    LOOK,
    MACHINE,
    PROGRAM,
    RUN,
    Commands,
    declare,
)
from sa_bench.commands.new import new_app
from sa_bench.commands.options import (
    HOW,
    AddressOption,
    BaseOption,
    DeviceOption,
    EngineOption,
    JobsOption,
    MethodOption,
    MetricOption,
    ModelOption,
    OneTaskOption,
    OutOption,
    SampleOption,
    ScaleOption,
    SeedOption,
    SetOption,
    SuiteOption,
    SweepOption,
    TaskOption,
    TrustOption,
    VerboseOption,
    WideOption,
)
from sa_bench.commands.results import add_to
from sa_bench.commands.store import store_app
from sa_bench.core.errors import (
    SaBenchError,
    name_missing_extra,
    print_notice,
)
from sa_bench.core.lists import split_list
from sa_bench.core.version import __version__

if TYPE_CHECKING:
    from sa_bench.engine.cells import Cell


# With two processes side by side OpenMP's spin-waiting costs more than it saves: 81 ms per step
# instead of 31.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "0")
os.environ.setdefault("KMP_BLOCKTIME", "0")

EXAMPLES = (
    "list methods",
    "show sa",
    "plan --task mnist_0 --method sa,retrain --scale quick",
    "run --task mnist_0 --method sa,retrain --scale quick",
    "run --help",
)
app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Did this method make this model forget this concept, at what cost, how sure are we?",
    epilog="\n".join(f"{PROGRAM} {example}" for example in EXAMPLES),
)
app.add_typer(store_app, name="store", rich_help_panel=MACHINE)
app.add_typer(new_app, name="new", rich_help_panel=EXTEND)

COMPLETION = "_SA_BENCH_COMPLETE"  # set by a shell that asks for completions
INTERRUPTED, READER_GONE = 130, 141  # exit codes of shells after SIGINT and SIGPIPE


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
                    prog_name=_name_program(),
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
                f"a file ends where more of it was expected ({describe_place(stop.__cause__)}); get it again."
            )
            code = 1
    except BrokenPipeError:  # `| head` has read enough; files that were written are complete
        code = READER_GONE
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # the interpreter flushes once more
    except Exception as error:
        if type(error).__name__ == "NoArgsIsHelpError":  # its message is the page of help
            print_text(error, file=sys.stderr)
            sys.exit(2)
        if hasattr(error, "format_message") and hasattr(error, "exit_code"):  # click's usage errors
            print_notice(describe_misuse(error.format_message(), sys.argv[1:]))
            sys.exit(2)
        if (message := describe_machine_failure(error)) is None:
            raise
        print_notice(message)
        code = 1
    if code == INTERRUPTED:  # typer turns Ctrl-C into this code as well
        print(file=sys.stderr)  # after the terminal's ^C
        print_notice("stopped. The same command continues where this one stopped.")
    sys.exit(code)


def _name_program() -> str:
    """Name this program as it was called; a shell completes the installed command alone."""
    completes = {"--install-completion", "--show-completion"}.intersection(sys.argv)
    is_command = Path(sys.argv[0]).stem == "sa_bench"
    return "sa_bench" if completes or is_command or COMPLETION in os.environ else PROGRAM


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


@app.command("list", **declare(LOOK, "list", "list methods", "list tasks"))
def list_components(
    kinds: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[KIND]...",
            autocompletion=complete_kinds,
            help="methods, metrics, tasks, suites or figures (default: all).",
        ),
    ] = None,
) -> None:
    """List tasks, methods, metrics, suites and figures."""
    from sa_bench.commands.listing import list_kinds

    print_text(list_kinds(kinds or [], terminal_width()))


@app.command(
    **declare(LOOK, "show sa", "show mnist_0", "show micro-1", "show nudity_i2p --rows > rows.csv")
)
def show(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME",
            autocompletion=complete_components,
            help="A method, metric, task or suite, or ./mine.py.",
        ),
    ],
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
    """Describe a component: what it does, its fields, its source.

    With --rows it lists the images that a task asks for.
    """
    from sa_bench.commands.show import describe, task_rows

    if not rows and (set_ or scale != "full"):
        raise SaBenchError("show takes --scale and --set only together with --rows.")
    if rows:
        print_text(task_rows(name, scale, set_ or []).rstrip("\n"))
    else:
        print_text(describe(name, terminal_width()))


@app.command(
    **declare(
        RUN,
        "run --task mnist_0 --method sa,retrain --scale quick",
        "run --task mnist_0 --method sa --sweep lam=1,10,50",
        "run --task mnist_0 --method ./mine.py,retrain --seed 0,1,2",
        "run --suite micro-1 --jobs 2 --out runs/micro",
    )
)
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
        typer.Option(
            metavar="RUN",
            rich_help_panel=HOW,
            help="Leave out cells that these run folders or packed files have.",
        ),
    ] = None,
    jobs: JobsOption = "1",
    out: OutOption = None,
    overwrite: Annotated[
        bool,
        typer.Option("--overwrite", rich_help_panel=HOW, help="Replace another run in --out."),
    ] = False,
    device: DeviceOption = "cpu",
    engine: EngineOption = "local",
    address: AddressOption = "",
    verbose: VerboseOption = False,
    part: Annotated[
        str,
        typer.Option(
            metavar="I/N",
            rich_help_panel=HOW,
            help="Only the I-th of N shares of the cells, into one folder: for arrays of jobs.",
        ),
    ] = "",
    wide: WideOption = False,
) -> None:
    """Forget and measure: every combination, then the report. The same command resumes."""
    share = parse_part(part)
    cells = _resolve_cells(  # before anything is loaded that a mistake does not need
        suite, task, method, seed, base_seed, sample_seed, scale, set_, sweep, metric, model, trust
    )
    from sa_bench import api
    from sa_bench.commands.terminal import Live, print_boards

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
            part=share,
            engine=engine,
            address=address,
            verbose=verbose,
            weigh=_estimate_jobs(jobs, engine, device),
        )
    from sa_bench.engine.runner import describe_missing, exit_code

    print_boards(results, wide)
    if missing := describe_missing(folder):
        print_text(f"\n{missing}")
    print_text(f"\nReport: {report}\nResults: {folder}")
    raise typer.Exit(exit_code(results))


def _estimate_jobs(jobs: str, engine: str, device: str) -> object:
    """Return what estimates jobs for several workers; None for one, which keeps to the cells' order."""
    if jobs == "1" and engine == "local":
        return None
    from sa_bench.commands.plan import estimate_jobs

    return estimate_jobs(device.partition(",")[0])


@app.command(
    **declare(
        RUN,
        "evaluate images/ --task mnist_0 --name mine --out runs/mine",
        "evaluate images.npz --task cifar10_airplane",
    )
)
def evaluate(
    images: Annotated[
        Path,
        typer.Argument(
            metavar="IMAGES",
            help="Folder with forget/ and retain/CLASS/, an NPZ with arr_0, or the weights of a model.",
        ),
    ],
    task: OneTaskOption,
    scale: ScaleOption = "full",
    set_: SetOption = None,
    metric: MetricOption = "",
    model: ModelOption = "",
    name: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            rich_help_panel=HOW,
            help="What its row is called on a board (default: external).",
        ),
    ] = "",
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            rich_help_panel=HOW,
            help="Write result.json and the scores of each image into this folder.",
        ),
    ] = None,
    scores: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            rich_help_panel=HOW,
            help="Write what the judges say of each image into this .csv.",
        ),
    ] = None,
    device: Annotated[
        str,
        typer.Option(
            metavar="DEVICE", rich_help_panel=HOW, help="For a checkpoint: cpu, cuda, cuda:1."
        ),
    ] = "cpu",
    wide: WideOption = False,
) -> None:
    """Measure images, or a checkpoint, that were made elsewhere.

    A checkpoint goes the way of `run --method checkpoint --set checkpoint.path=FILE`.
    """
    from sa_bench import api
    from sa_bench.commands.terminal import Live, print_measurements
    from sa_bench.engine.external import is_checkpoint

    if is_checkpoint(images, task):
        if name or scores:
            raise SaBenchError(
                f"{images} holds a model, and --name and --scores are for images; leave them out."
            )
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
            name=name,
            scores=scores,
            report=live.update,
        )
    print_measurements(result, wide)


@app.command(
    **declare(
        LOOK,
        "plan --task mnist_0 --method sa,retrain",
        "plan --suite micro-1 --jobs 2",
    )
)
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
    jobs: JobsOption = "1",
    device: DeviceOption = "cpu",
) -> None:
    """Show what `run` would do, and run nothing.

    It lists stages, what the store already has, time, memory and disk.
    """
    from sa_bench.core.settings import require_folders
    from sa_bench.engine.placement import parse_jobs

    require_folders()
    workers = parse_jobs(jobs)
    cells = _resolve_cells(  # before anything is loaded that a mistake does not need
        suite, task, method, seed, base_seed, sample_seed, scale, set_, sweep, metric, model, trust
    )
    from sa_bench.commands.plan import describe_plan

    print_text(describe_plan(cells, workers, device))


@app.command(**declare(LOOK, "doctor", "doctor nudity_i2p"))
def doctor(
    task: Annotated[
        str,
        typer.Argument(
            metavar="[TASK]",
            autocompletion=complete_tasks,
            help="Only what this task uses: a name or ./mine.py.",
        ),
    ] = "",
) -> None:
    """List weights and data: here or missing, and how to get them.

    Each comes with its licence and with what it unlocks.
    """
    from sa_bench.commands.doctor import describe_assets, describe_task_assets

    text, missing = describe_task_assets(task) if task else describe_assets()
    print_text(text)
    raise typer.Exit(3 if missing else 0)


@app.command(**declare(MACHINE, "fetch mnist_0", "fetch nudity_i2p --from /media/weights"))
def fetch(
    names: Annotated[
        list[str],
        typer.Argument(
            metavar="NAME...",
            autocompletion=complete_tasks,
            help="Assets as doctor lists them, hub ids (owner/name), or tasks.",
        ),
    ],
    source: Annotated[
        Path | None,
        typer.Option(
            "--from",
            metavar="FOLDER",
            help="Copy from this folder, by file name (or set SA_BENCH_MIRROR).",
        ),
    ] = None,
) -> None:
    """Get weights, prompt files and models.

    For a task that is all that it can use. The same command resumes.
    """
    from sa_bench.commands import fetch as fetching
    from sa_bench.core.settings import mirror_folder

    for name in names:
        fetching.fetch(name, source or mirror_folder())


@app.command(**declare(EXTEND, "check ./mine.py", "check sa"))
def check(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME",
            autocompletion=complete_components,
            help="A method, metric or task, or ./mine.py.",
        ),
    ],
) -> None:
    """Check that a component keeps its contract, in a minute.

    It is tried on models that take seconds; every no comes with its reason.
    """
    from sa_bench.commands.show import find_components

    components = find_components(name)  # before torch is loaded, which a wrong name does not need
    from sa_bench.commands.check import check as findings

    by_component = {(kind, component): findings(kind, component) for kind, component in components}
    for (kind, component), component_findings in by_component.items():
        print_text(f"{kind} {component}:")
        for finding in component_findings:
            print_text(f"  {'ok  ' if finding.kept else 'FAIL'}  {finding.text}")
    every_finding = [finding for listed in by_component.values() for finding in listed]
    raise typer.Exit(0 if all(finding.kept for finding in every_finding) else 1)


add_to(app)
