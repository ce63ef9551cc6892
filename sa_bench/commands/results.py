"""Commands on stored results: reports, tables, figures, packed files, bundles, tuning, export."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sa_bench.commands.arguments import print_text
from sa_bench.core.errors import SaBenchError


def add_to(app: typer.Typer) -> None:
    """Add the commands of this file to `app`."""
    for command in (report, table, figure, compare, pack, bundle, verify, tune, explain, export):
        app.command()(command)


def report(
    folders: Annotated[
        list[Path] | None, typer.Argument(help="Run folders or packed files.")
    ] = None,
    bundle: Annotated[
        list[Path] | None, typer.Option(help="Results of others, shown beside with whose they are.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="File .html or .md (default: report.html in the first folder)."),
    ] = None,
    explicit: Annotated[
        bool,
        typer.Option(
            help="HTML: what may be nudity can be unblurred by a click (else it is not in the page)."
        ),
    ] = False,
) -> None:
    """Render the report of one or more runs, as HTML or Markdown."""
    from sa_bench import api

    print_text(f"Report: {api.write_report([*(folders or []), *(bundle or [])], out, explicit)}")


def table(
    name: Annotated[
        str, typer.Argument(help="leaderboard, table1 to table4, unlearndiffatk or i2p.")
    ],
    folders: Annotated[
        list[Path] | None, typer.Argument(help="Run folders or packed files.")
    ] = None,
    format_: Annotated[
        str, typer.Option("--format", help="markdown, latex, csv or html.")
    ] = "markdown",
    task: Annotated[
        str, typer.Option("--task", "-t", help="Of a leaderboard: only these tasks: a,b.")
    ] = "",
    method: Annotated[
        str,
        typer.Option(
            "--method", "-m", help="Only these, in this order: a,b; names or labels ('sa lam=3')."
        ),
    ] = "",
    metric: Annotated[
        str, typer.Option("--metric", help="Columns (default: the three endpoints): a,b.")
    ] = "",
    layout: Annotated[
        str,
        typer.Option(help="Of LaTeX: narrow (a column of two) or wide (default: by its columns)."),
    ] = "",
    out: Annotated[Path | None, typer.Option(help="Write it to this file.")] = None,
) -> None:
    """Make a table for a paper: a published one with ours beside it, or a leaderboard."""
    from sa_bench import api

    text = api.table(name, folders or [], format_, task, method, metric, out, layout)
    print_text(text if out is None else f"Table: {out}")


def figure(
    kind: Annotated[str, typer.Argument(help="tradeoff, pareto, sweep, samples or overview.")],
    folders: Annotated[list[Path], typer.Argument(help="Run folders or packed files.")],
    out: Annotated[
        Path | None, typer.Option(help="File .svg, .pdf or .png (default: KIND.svg).")
    ] = None,
    task: Annotated[str, typer.Option("--task", "-t", help="Which, where there are several.")] = "",
    method: Annotated[
        str, typer.Option("--method", "-m", help="Only these: a,b; names or labels.")
    ] = "",
    field: Annotated[str, typer.Option(help="Of a sweep: the field on the x axis.")] = "",
    images: Annotated[int, typer.Option(min=1, help="Of samples: images a row.")] = 8,
    sort: Annotated[
        str,
        typer.Option(
            help="Of samples: of each row the images with the highest score: celebrity_score."
        ),
    ] = "",
    top: Annotated[
        int, typer.Option(min=0, help="With --sort: how many of them (default: --images).")
    ] = 0,
    explicit: Annotated[
        bool, typer.Option(help="Of samples: do not blur what may be nudity.")
    ] = False,
    size: Annotated[
        str, typer.Option(help="Width and height in inches: 3.3x2.5 (default: what fits).")
    ] = "",
) -> None:
    """Draw a figure for a paper: trade-off, Pareto front, sweep, images, or an overview of a run."""
    from sa_bench import api

    if top and not sort:
        raise SaBenchError(
            f"--top {top}: by which score? Add --sort celebrity_score; for the first images: --images {top}."
        )
    options = {
        "field": field,
        "columns": top or images,
        "explicit": explicit,
        "sort": sort,
        "size": _parse_size(size),
    }
    path, caption = api.figure(kind, folders, out, task, method, **options)
    print_text(f"{caption}\nFigure: {path}")


def _parse_size(text: str) -> tuple[float, float] | None:
    """Parse `3.3x2.5` into inches; None for "".

    Raises:
        SaBenchError: it is no width and height between 1 and 40 inches.
    """
    if not text:
        return None
    try:
        width, height = (float(part) for part in text.split("x"))
    except ValueError:
        width = height = 0.0
    if not (1 <= width <= 40 and 1 <= height <= 40):
        raise SaBenchError(f"--size {text}: a width and a height in inches, such as 3.3x2.5.")
    return width, height


def compare(
    folders: Annotated[
        list[Path],
        typer.Argument(help="Two runs, or one with --methods: run folders, cells, packed files."),
    ],
    methods: Annotated[
        str,
        typer.Option(
            "--methods", "-m", help="The two lines: a,b; names or labels ('sa lam=1,sa lam=30')."
        ),
    ] = "",
    task: Annotated[
        str, typer.Option("--task", "-t", help="Of a run with several boards: only this task.")
    ] = "",
    at: Annotated[
        str,
        typer.Option(
            help="At matched forgetting, along each method's settings: forget_top1=0.003."
        ),
    ] = "",
) -> None:
    """Compare two lines: do these checkpoints differ, does the method, and what does it come from?"""
    from sa_bench import api

    print_text(api.compare(folders, methods, task, at))


def pack(
    folders: Annotated[
        list[Path], typer.Argument(help="Run folders, or packed files, and last the new file.")
    ],
) -> None:
    """Put results into one small file: NAME.jsonl.xz, which `report` and `load_results` read, or a table, NAME.parquet."""
    from sa_bench.core.store import write_atomic
    from sa_bench.results.files import PACKED, pack_results, read_results
    from sa_bench.results.frames import write_parquet

    *sources, file = folders
    if not sources or not file.name.endswith((PACKED, ".parquet")):
        raise SaBenchError(
            f"pack takes run folders and then the new file, NAME{PACKED} or NAME.parquet."
        )
    rows = read_results(sources)
    write_atomic(file, write_parquet(rows) if file.suffix == ".parquet" else pack_results(rows))
    print_text(f"{len(rows)} result(s) in {file}, {file.stat().st_size / 1e6:.1f} MB")


def bundle(
    folders: Annotated[list[Path], typer.Argument(help="Run folders.")],
    out: Annotated[
        Path | None,
        typer.Option(help="The new file, NAME.sabench.zip (default: named after the run)."),
    ] = None,
    by: Annotated[str, typer.Option(help="Who made these results; shown beside every row.")] = "",
    without_images: Annotated[
        bool,
        typer.Option(
            "--without-images", help="Of images the hashes alone: far smaller, proves less."
        ),
    ] = False,
    with_nudity: Annotated[
        bool, typer.Option("--with-nudity", help="Also images of c_f that may show nudity.")
    ] = False,
    with_models: Annotated[
        bool,
        typer.Option("--with-models", help="Also the forgotten weights: images can be made again."),
    ] = False,
    without_source: Annotated[
        bool,
        typer.Option("--without-source", help="Of your own methods' code the hashes alone."),
    ] = False,
    licence: Annotated[
        str, typer.Option(help="Licence of your own methods' code, which is packed too: MIT.")
    ] = "",
) -> None:
    """Put a run into one file for others to check: results, scores, images, hashes, environment."""
    from sa_bench.results import bundles
    from sa_bench.results.files import read_results

    file = out or Path(folders[0].resolve().name + bundles.BUNDLED)
    rows = read_results(folders)
    manifest = bundles.write(
        rows,
        file,
        by,
        images=not without_images,
        nudity=with_nudity,
        models=with_models,
        source=not without_source,
        licence=licence,
    )
    print_text(f"{len(rows)} result(s) in {file}, {file.stat().st_size / 1e6:.1f} MB")
    for why in dict.fromkeys(entry["why"] for entry in manifest["left_out"].values()):
        n = sum(entry["why"] == why for entry in manifest["left_out"].values())
        print_text(f"Left out, {why}: {n} file(s); their hashes are in it.")
    print_text(f"Check it: python -m sa_bench verify {file}")


def verify(
    file: Annotated[Path, typer.Argument(help="A bundle, NAME.sabench.zip.")],
    regenerate: Annotated[
        int, typer.Option(help="Images of every set to make again from the weights, at random.")
    ] = 8,
    deep: Annotated[
        bool,
        typer.Option("--deep", help="Also what needs the model or a judge to be trained: slow."),
    ] = False,
    limit: Annotated[float, typer.Option(help="GB that it may unpack to.")] = 16.0,
    plug_in: Annotated[
        list[Path] | None,
        typer.Option(help="A file that defines a task, method or metric of it; it is run."),
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1.")] = "cpu",
) -> None:
    """Recompute what a bundle claims, and name the first difference (exit code 1)."""
    from sa_bench import api
    from sa_bench.commands.terminal import Live
    from sa_bench.commands.verify.verify import verify as verify_bundle

    if regenerate < 0:
        raise SaBenchError(f"--regenerate {regenerate}: at least 0.")
    api.require_device(device)
    with Live() as live, api.one_thread():
        summary = verify_bundle(
            file, regenerate, deep, limit, device, [str(p) for p in plug_in or []], live.update
        )
    print_text("\n".join([*summary, "No difference found."]))


def tune(
    folders: Annotated[list[Path], typer.Argument(help="Run folders of the tries.")],
    out: Annotated[
        Path | None, typer.Option(help="Also write it to this file, as Markdown; as `report` does.")
    ] = None,
) -> None:
    """Choose a setting for each method from the tries of a run: the objective, every try, the winner."""
    from sa_bench import api
    from sa_bench.commands import tune as tuning
    from sa_bench.results.files import read_results

    text = tuning.report(tuning.collect_tries(read_results(folders)))
    if out is not None:
        api.write_page(out, text)
    print_text(text)


def explain(
    cell: Annotated[Path, typer.Argument(help="A cell's folder in a run: runs/<run>/<cell>.")],
    metric: Annotated[
        str | None, typer.Option(help="One measurement (default: the three endpoints).")
    ] = None,
) -> None:
    """Explain how a number came about, in plain words."""
    from sa_bench.commands.explain import explain as explain_cell

    print_text(explain_cell(cell, metric))


def export(
    cell: Annotated[Path, typer.Argument(help="A cell's folder in a run.")],
    folder: Annotated[Path, typer.Argument(help="Where to; new.")],
    trust: Annotated[
        bool, typer.Option(help="Run the code of the .py files that the result names.")
    ] = False,
) -> None:
    """Write the forgotten model of a result as files, with a card."""
    from sa_bench.commands.export import export as export_model

    for path in export_model(cell, folder, trust):
        print_text(path)
