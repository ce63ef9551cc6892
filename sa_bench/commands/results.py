"""Commands on stored results: reports, tables, figures, packed files, bundles, tuning, export."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sa_bench.commands.arguments import print_paragraphs, print_text, terminal_width
from sa_bench.commands.completion import (
    complete_figures,
    complete_methods,
    complete_metrics,
    complete_tasks,
)
from sa_bench.commands.help import READ, RUN, SHARE, declare
from sa_bench.core.counts import describe_count, describe_size
from sa_bench.core.errors import SaBenchError

MOST_IMAGES = 100  # in a row of a figure
RunsArgument = Annotated[
    list[Path] | None,
    typer.Argument(metavar="[RUN]...", help="Run folders or packed files."),
]
DeviceOption = Annotated[str, typer.Option(metavar="DEVICE", help="cpu, cuda, cuda:1.")]


def add_to(app: typer.Typer) -> None:
    """Add the commands of this file to `app`."""
    for command, (group, *examples) in COMMANDS.items():
        app.command(**declare(group, *examples))(command)


def report(
    folders: RunsArgument = None,
    bundle: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="Results of others, shown beside with whose they are."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="File .html or .md (default: report.html in the first folder)."
        ),
    ] = None,
    explicit: Annotated[
        bool,
        typer.Option(
            "--explicit",
            help="HTML: what may be nudity can be unblurred by a click (else it is not in the page).",
        ),
    ] = False,
) -> None:
    """Render the report of one or more runs, as HTML or Markdown."""
    from sa_bench import api

    print_text(f"Report: {api.write_report([*(folders or []), *(bundle or [])], out, explicit)}")
    for missing in filter(None, map(api.describe_missing, folders or [])):
        print_text(missing)


def site(
    folders: Annotated[
        list[Path],
        typer.Argument(metavar="RUN...", help="Run folders, packed files or bundles."),
    ],
    out: Annotated[
        Path,
        typer.Option(metavar="FOLDER", help="Where to; pages of an earlier site are replaced."),
    ] = Path("leaderboard"),
    overwrite: Annotated[
        bool,
        typer.Option("--overwrite", help="Also into a folder that holds other files; they stay."),
    ] = False,
) -> None:
    """Write the leaderboard as a site.

    It has a page for each board, method and task, one that compares any two rows, and one that says
    how results get on a board. The pages load nothing from elsewhere.
    """
    from sa_bench import api

    page, n = api.write_site(folders, out, overwrite)
    print_text(f"Site: {page}, {n} pages")


def table(
    name: Annotated[
        str,
        typer.Argument(
            metavar="TABLE", help="leaderboard, table1 to table4, unlearndiffatk or i2p."
        ),
    ],
    folders: RunsArgument = None,
    format_: Annotated[
        str,
        typer.Option(
            "--format",
            metavar="FORMAT",
            help="markdown, latex, csv or html (default: what FILE's ending says, else markdown).",
        ),
    ] = "",
    task: Annotated[
        str,
        typer.Option(
            "--task",
            "-t",
            metavar="TASKS",
            autocompletion=complete_tasks,
            help="Of a leaderboard: only these tasks: a,b.",
        ),
    ] = "",
    method: Annotated[
        str,
        typer.Option(
            "--method",
            "-m",
            metavar="METHODS",
            autocompletion=complete_methods,
            help="Only these, in this order: a,b; names or labels ('sa lam=3').",
        ),
    ] = "",
    metric: Annotated[
        str,
        typer.Option(
            "--metric",
            metavar="METRICS",
            autocompletion=complete_metrics,
            help="Columns (default: the three endpoints): a,b.",
        ),
    ] = "",
    layout: Annotated[
        str,
        typer.Option(
            metavar="LAYOUT",
            help="Of LaTeX: narrow (a column of two) or wide (default: by its columns).",
        ),
    ] = "",
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Write it to this file.")] = None,
) -> None:
    """Make a table for a paper.

    It is a leaderboard, or a published table with our results beside it.
    """
    from sa_bench import api

    text = api.table(name, folders or [], format_, task, method, metric, out, layout)
    print_text(text if out is None else f"Table: {out}")


def figure(
    kind: Annotated[
        str,
        typer.Argument(
            metavar="FIGURE",
            autocompletion=complete_figures,
            help="tradeoff, pareto, sweep, samples or overview (`list figures` describes them).",
        ),
    ],
    folders: Annotated[
        list[Path], typer.Argument(metavar="RUN...", help="Run folders or packed files.")
    ],
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="File .svg, .pdf or .png (default: KIND.svg)."),
    ] = None,
    task: Annotated[
        str,
        typer.Option(
            "--task",
            "-t",
            metavar="TASK",
            autocompletion=complete_tasks,
            help="Which, where there are several.",
        ),
    ] = "",
    method: Annotated[
        str,
        typer.Option(
            "--method",
            "-m",
            metavar="METHODS",
            autocompletion=complete_methods,
            help="Only these: a,b; names or labels.",
        ),
    ] = "",
    field: Annotated[
        str, typer.Option(metavar="FIELD", help="Of a sweep: the field on the x axis.")
    ] = "",
    images: Annotated[
        int, typer.Option(metavar="N", min=1, help="Of samples: images a row, at most 100.")
    ] = 8,
    sort: Annotated[
        str,
        typer.Option(
            metavar="METRIC",
            autocompletion=complete_metrics,
            help="Of samples: of each row the images with the highest score: celebrity_score.",
        ),
    ] = "",
    top: Annotated[
        int,
        typer.Option(metavar="N", min=0, help="With --sort: how many of them (default: --images)."),
    ] = 0,
    explicit: Annotated[
        bool, typer.Option("--explicit", help="Of samples: do not blur what may be nudity.")
    ] = False,
    size: Annotated[
        str,
        typer.Option(
            metavar="WxH", help="Width and height in inches: 3.3x2.5 (default: what fits)."
        ),
    ] = "",
) -> None:
    """Draw a figure for a paper.

    It is a trade-off, a Pareto front, a sweep, images by seeds or by highest scores, or an overview
    of a run.
    """
    from sa_bench import api

    if top and not sort:
        raise SaBenchError(
            f"--top {top}: by which score? Add --sort celebrity_score; for the first images: --images {top}."
        )
    if images > MOST_IMAGES:
        raise SaBenchError(f"--images {images}: at most {MOST_IMAGES} fit in a row.")
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
        typer.Argument(
            metavar="RUN...",
            help="Two runs, or one with --methods: run folders, cells, packed files.",
        ),
    ],
    methods: Annotated[
        str,
        typer.Option(
            "--methods",
            "-m",
            metavar="METHODS",
            autocompletion=complete_methods,
            help="The two rows: a,b; names or labels ('sa lam=1,sa lam=30').",
        ),
    ] = "",
    task: Annotated[
        str,
        typer.Option(
            "--task",
            "-t",
            metavar="TASK",
            autocompletion=complete_tasks,
            help="Of a run with several boards: only this task.",
        ),
    ] = "",
    at: Annotated[
        str,
        typer.Option(
            metavar="METRIC=LEVEL",
            help="At matched forgetting, along each method's settings: forget_top1=0.003.",
        ),
    ] = "",
) -> None:
    """Compare two rows of results.

    Do these checkpoints differ, does the method, and what does it come from?
    """
    from sa_bench import api

    print_text(api.compare(folders, methods, task, at, terminal_width()))


def pack(
    folders: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN... FILE", help="Run folders, or packed files, and last the new file."
        ),
    ],
) -> None:
    """Put results into one small file.

    NAME.jsonl.xz is read by `report` and `load_results`; NAME.parquet is a table.
    """
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
    print_text(
        f"{describe_count(len(rows), 'result')} in {file}, {describe_size(file.stat().st_size)}"
    )


def bundle(
    folders: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run folders.")],
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="The new file, NAME.sabench.zip (default: named after the run)."
        ),
    ] = None,
    by: Annotated[
        str, typer.Option(metavar="NAME", help="Who made these results; shown beside every row.")
    ] = "",
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
        str,
        typer.Option(
            metavar="NAME", help="Licence of your own methods' code, which is packed too: MIT."
        ),
    ] = "",
) -> None:
    """Put a run into one file for others to check.

    It holds results, scores, images, hashes and the environment.
    """
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
    print_text(
        f"{describe_count(len(rows), 'result')} in {file}, {describe_size(file.stat().st_size)}"
    )
    for why in dict.fromkeys(entry["why"] for entry in manifest["left_out"].values()):
        n = sum(entry["why"] == why for entry in manifest["left_out"].values())
        print_text(f"Left out, {why}: {describe_count(n, 'file')}; their hashes are in it.")
    print_text(f"Check it: python -m sa_bench verify {file}")


def verify(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A bundle, NAME.sabench.zip.")],
    regenerate: Annotated[
        int,
        typer.Option(
            metavar="N", help="Images of every set to make again from the weights, at random."
        ),
    ] = 8,
    deep: Annotated[
        bool,
        typer.Option("--deep", help="Also what needs the model or a judge to be trained: slow."),
    ] = False,
    limit: Annotated[float, typer.Option(metavar="GB", help="Most that it may unpack to.")] = 16.0,
    plug_in: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE", help="A file that defines a task, method or metric of it; it is run."
        ),
    ] = None,
    device: DeviceOption = "cpu",
) -> None:
    """Recompute what a bundle claims.

    The first difference is named (exit code 1).
    """
    from sa_bench import api
    from sa_bench.commands.terminal import Live
    from sa_bench.commands.verify.verify import verify as verify_bundle

    if regenerate < 0:
        raise SaBenchError(f"--regenerate {regenerate}: at least 0.")
    api.require_device(device)
    with Live() as live:
        summary = verify_bundle(
            file, regenerate, deep, limit, device, [str(p) for p in plug_in or []], live.update
        )
    print_text("\n".join([*summary, "No difference found."]))


def tune(
    folders: Annotated[
        list[Path], typer.Argument(metavar="RUN...", help="Run folders of the tries.")
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Also write it to this file, as Markdown; as `report` does."
        ),
    ] = None,
) -> None:
    """Choose a setting for each method from the tries of a run.

    It prints the objective, every try, and the winner.
    """
    from sa_bench import api
    from sa_bench.commands import tune as tuning
    from sa_bench.results.files import read_results

    if out is not None and out.suffix.lower() != ".md":
        raise SaBenchError(
            f"{out}: the search is written as Markdown; name it {out.with_suffix('.md')}."
        )
    text = tuning.report(tuning.collect_tries(read_results(folders)))
    if out is not None:
        api.write_page(out, text)
    print_text(text)


def predictions(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="Orders of methods, as docs/predictions.toml.")
    ],
    folders: RunsArgument = None,
) -> None:
    """Tell which predicted orders held in these runs.

    Without runs, list them with the file's sha256, which shows later that they were not changed.
    """
    from sa_bench.commands.predictions import judge_predictions

    print_text(judge_predictions(file, folders or []))


def correlate(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Predictors of methods, a CSV.")],
    folders: RunsArgument = None,
    task: Annotated[
        str | None,
        typer.Option(metavar="TASK", autocompletion=complete_tasks, help="Of these runs."),
    ] = None,
    row: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ROW",
            help="Name of the row that speaks for a method with several; repeatable "
            "(default: the one with the method's own settings).",
        ),
    ] = None,
) -> None:
    """Compare a board's order of methods with published ones.

    With runs, write FILE of them and print its sha256; only a second call compares.
    """
    from sa_bench.commands import predictions as of_predictions

    if folders:
        print_text(of_predictions.write_predictors(file, folders, task, row or ()))
    else:
        print_text(of_predictions.describe_correlations(file))


def explain(
    cell: Annotated[
        Path, typer.Argument(metavar="CELL", help="A cell's folder in a run: runs/RUN/CELL.")
    ],
    metric: Annotated[
        str | None,
        typer.Option(
            metavar="METRIC",
            autocompletion=complete_metrics,
            help="One measurement (default: the three endpoints).",
        ),
    ] = None,
) -> None:
    """Explain how a number came about, in plain words."""
    from sa_bench.commands.explain import explain as explain_cell

    print_paragraphs(explain_cell(cell, metric), terminal_width())


def export(
    cell: Annotated[Path, typer.Argument(metavar="CELL", help="A cell's folder in a run.")],
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where to; new.")],
    trust: Annotated[
        bool, typer.Option("--trust", help="Run the code of the .py files that the result names.")
    ] = False,
) -> None:
    """Write the forgotten model of a result as files, with a card."""
    from sa_bench.commands.export import export as export_model

    for path in export_model(cell, folder, trust):
        print_text(path)


COMMANDS = {
    report: (READ, "report runs/demo", "report runs/demo runs/mine --out together.html"),
    table: (
        READ,
        "table leaderboard runs/demo",
        "table table1 runs/paper --format latex --out table1.tex",
    ),
    figure: (
        READ,
        "figure tradeoff runs/demo --out tradeoff.pdf",
        "figure samples runs/demo --images 12",
    ),
    compare: (
        READ,
        "compare runs/demo --methods sa,esd",
        "compare runs/demo --methods sa,l2 --at forget_top1=0.003",
    ),
    predictions: (
        READ,
        "predictions mine.toml",
        "predictions mine.toml runs/mine",
    ),
    correlate: (
        READ,
        "correlate mine.csv runs/mine --task mnist_0_t2i",
        "correlate mine.csv",
    ),
    explain: (READ, "explain runs/demo/CELL", "explain runs/demo/CELL --metric fid"),
    tune: (RUN, "tune runs/search", "tune runs/search --out tuning.md"),
    pack: (SHARE, "pack runs/demo demo.jsonl.xz", "pack runs/demo demo.parquet"),
    bundle: (SHARE, "bundle runs/demo --by 'Your name'"),
    site: (SHARE, "site runs/demo", "site docs/data/*.jsonl.xz --out leaderboard"),
    verify: (SHARE, "verify demo.sabench.zip", "verify demo.sabench.zip --deep"),
    export: (SHARE, "export runs/demo/CELL forgotten-model"),
}
"""The commands of this file, each with its group and its examples."""
