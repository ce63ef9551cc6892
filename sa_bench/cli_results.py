"""Commands on results that are there: reports, tables, packed files, the choice of a search, a model as files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sa_bench.cli_text import split
from sa_bench.errors import SaBenchError


def add_to(app: typer.Typer) -> None:
    """Make the commands of this file `app`'s."""
    for command in (report, table, compare, pack, tune, explain, export):
        app.command()(command)


def report(
    folders: Annotated[list[Path], typer.Argument(help="Run folders.")],
    out: Annotated[
        Path | None, typer.Option(help="File .html or .md (default: report.html in the first folder).")
    ] = None,
) -> None:
    """Render the report of one or more runs, as HTML or Markdown."""
    from sa_bench import api

    print(f"Report: {api.write_report(folders, out)}")


def table(
    name: Annotated[str, typer.Argument(help="table1, table2, table3, table4 or leaderboard.")],
    folders: Annotated[list[Path] | None, typer.Argument(help="Run folders or packed files.")] = None,
    format_: Annotated[str, typer.Option("--format", help="markdown, latex, csv or html.")] = "markdown",
    task: Annotated[str, typer.Option("--task", "-t", help="Of a leaderboard: only this task.")] = "",
    method: Annotated[str, typer.Option("--method", "-m", help="Only these, in this order: a,b.")] = "",
    metric: Annotated[
        str, typer.Option("--metric", help="Columns (default: the three endpoints): a,b.")
    ] = "",
    out: Annotated[Path | None, typer.Option(help="Write it to this file.")] = None,
) -> None:
    """A table for a paper: a published one with ours beside it, or a leaderboard."""
    from sa_bench import api

    text = api.table(
        name, folders or [], format_, task, split(method) if method else [], split(metric) if metric else [], out
    )  # fmt: skip
    print(text if out is None else f"Table: {out}")


def compare(
    folders: Annotated[
        list[Path], typer.Argument(help="Two runs, or one with --methods: run folders, cells, packed files.")
    ],
    methods: Annotated[
        str,
        typer.Option("--methods", "-m", help="The two lines: a,b; names or labels ('sa lam=1,sa lam=30')."),
    ] = "",
    task: Annotated[
        str, typer.Option("--task", "-t", help="Of a run with several boards: only this task.")
    ] = "",
) -> None:
    """Two lines against each other: do these checkpoints differ, does the method, and where does it come from?"""
    from sa_bench import api

    print(api.compare(folders, methods, task))


def pack(
    folders: Annotated[
        list[Path], typer.Argument(help="Run folders, or packed files, and last the new file.")
    ],
) -> None:
    """Put results into one small file, FILE.jsonl.xz, which `report` and `load_results` read; without images."""
    from sa_bench.results import PACKED, packed, read_results
    from sa_bench.store import write_atomic

    *sources, file = folders
    if not sources or not file.name.endswith(PACKED):
        raise SaBenchError(f"pack takes run folders and then the new file, NAME{PACKED}.")
    rows = read_results(sources)
    write_atomic(file, packed(rows))
    print(f"{len(rows)} result(s) in {file}, {file.stat().st_size / 1e6:.1f} MB")


def tune(
    folders: Annotated[list[Path], typer.Argument(help="Run folders of the tries.")],
    out: Annotated[Path | None, typer.Option(help="Also write it to this file, as Markdown.")] = None,
) -> None:
    """Choose a setting a method from the tries of a run: the objective, every try, the winner."""
    from sa_bench import tuning
    from sa_bench.results import read_results
    from sa_bench.store import write_atomic

    text = tuning.report(tuning.tries(read_results(folders)))
    if out is not None:
        write_atomic(out, text.encode())
    print(text)


def explain(
    cell: Annotated[Path, typer.Argument(help="A cell's folder in a run: runs/<run>/<cell>.")],
    metric: Annotated[
        str | None, typer.Option(help="One measurement (default: the three endpoints).")
    ] = None,
) -> None:
    """How a number came about, in plain words."""
    from sa_bench.explain import explain as story

    print(story(cell, metric))


def export(
    cell: Annotated[Path, typer.Argument(help="A cell's folder in a run.")],
    folder: Annotated[Path, typer.Argument(help="Where to; new.")],
) -> None:
    """The forgotten model of a result as files, with a card."""
    from sa_bench.exporting import export as written

    for path in written(cell, folder):
        print(path)
