"""What the commands do, for the command line and for Python alike (`sa_bench.commands.python`)."""

from __future__ import annotations

import importlib
import shutil
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from sa_bench.contracts import SMOKE_MODEL, ignore_event
from sa_bench.core.collector import pause_collector
from sa_bench.core.counts import describe_count
from sa_bench.core.disk import replace_folder_when_written
from sa_bench.core.errors import (
    CellFailed,
    SaBenchError,
    first_line,
    name_missing_extra,
    unknown_name,
)
from sa_bench.core.progress_bar import ProgressBar
from sa_bench.core.settings import expand_home, require_folders, store_folder
from sa_bench.core.store import Store, write_atomic
from sa_bench.engine.cells import OLD_ID, Cell
from sa_bench.engine.threads import one_thread
from sa_bench.engine.validation import check_precision
from sa_bench.results.bundles import BUNDLED, manifest_facts, open_bundle
from sa_bench.results.files import read_results
from sa_bench.results.rows import version_of
from sa_bench.results.schema import ResultRow
from sa_bench.results.untrusted import read_stranger_result

MARK = "<!-- written by sa_bench report -->"  # in a Markdown file all above this line is kept
LARGEST_DATA = 100 * 2**20  # bytes of a file that a site holds for its readers
TABLE_FORMATS = {".md": "markdown", ".tex": "latex", ".csv": "csv", ".html": "html"}
"""Formats of tables by the ending of their file."""
HEAD = 1_000  # bytes of a page within which its mark stands
RENDERERS = {".html": "html", ".htm": "html", ".md": "markdown"}


ENGINES = ("local", "ray")


def run_folder(
    cells: list[Cell],
    *,
    jobs: int | str,
    out: Path | None,
    overwrite: bool,
    device: str,
    report: Callable[..., None] = ignore_event,
    finished: Callable[[ResultRow], None] = lambda result: None,
    announce: Callable[[list[Cell]], None] = lambda cells: None,
    part: tuple[int, int] | None = None,
    engine: str = "local",
    address: str = "",
    verbose: bool = False,
    weigh: Any = None,
) -> tuple[list[ResultRow], Path, Path]:
    """Run `cells` and render the report: (results, run folder, report file).

    Args:
        cells: the cells of the run.
        jobs: number of workers; `auto` takes one for each processor or GPU.
        out: the run folder; None names one.
        overwrite: whether a folder of another run may be replaced.
        device: `cpu`, `cuda`, or GPUs by name, `cuda:0,cuda:2`.
        report: called with progress: (cell name, stage, done, total, worker).
        finished: called with each result.
        announce: called with the cells before work begins.
        part: (i, n): only the i-th of n shares of the cells is run, into the folder of all.
        engine: where workers are: `local` (this machine) or `ray` (a cluster).
        address: of the Ray cluster; "" takes RAY_ADDRESS, else starts Ray here.
        verbose: whether Ray's own lines are shown.
        weigh: estimates the seconds of a job (`sa_bench.commands.plan.estimate_jobs`), so that several workers
            begin with the longest chains; None keeps to the order of the cells.

    Raises:
        SaBenchError: something is unknown, missing, or does not fit; raised before any work.
    """
    from sa_bench.engine import runner
    from sa_bench.engine.placement import check_device, parse_jobs

    require_folders()
    wanted = parse_jobs(jobs)
    check_device(device)
    _check_engine(engine, address, device)
    if engine == "local":
        for name in device.split(","):
            require_device(name.strip())
    share = runner.take_share(cells, part)
    if not share:
        raise SaBenchError(
            f"The run has {describe_count(len(cells), 'cell')}: part {part} of it has none."
        )
    for cell in share:
        check_precision(cell.task, device.partition(",")[0])
    require_data(share)
    folder = expand_home(out) if out else runner.default_out_folder(cells)
    runner.prepare(folder, cells, overwrite, part[1] if part else None)
    cells = share
    place = runner.Placement(device, wanted, needed_mib(cells), engine, address, verbose)
    announce(cells)
    with one_thread():
        results = runner.run_cells(
            cells, Store(store_folder()), folder, report, finished, placement=place, weigh=weigh
        )
    if not any(folder.glob("*/result.json")):
        raise CellFailed(str(results[0]["error"]))  # such as a full disk: no result was written
    return results, folder, write_report([folder], None)


def _check_engine(engine: str, address: str, device: str) -> None:
    """Refuse an engine that is unknown or not installed, and options that it does not have."""
    if engine not in ENGINES:
        raise unknown_name("engine", engine, ENGINES)
    if engine == "local":
        if address:
            raise SaBenchError("--address is for --engine ray.")
        return
    with name_missing_extra("--engine ray"):
        importlib.import_module("ray")
    if device not in ("cpu", "cuda"):
        raise SaBenchError(
            f"--device {device}: with --engine ray give cpu or cuda; Ray places workers."
        )


def needed_mib(cells: Sequence[Cell]) -> int:
    """Compute the memory that the largest of the cells needs for its models and training, in MiB."""
    from sa_bench.engine.memory import needed_mib

    return max(needed_mib(cell) for cell in {id(cell.task): cell for cell in cells}.values())


def describe_missing(folder: Path) -> str:
    """Describe the cells of a run folder that have no result yet; "" if none is missing."""
    from sa_bench.engine import runner

    return runner.describe_missing(folder)


def unfinished_cells(cells: list[Cell], without: Sequence[Path]) -> list[Cell]:
    """Select the cells that have no finished result in `without` (run folders, packed files).

    A result of another version of its method is none.

    Raises:
        SaBenchError: these cannot be read, or no cell remains to be run.
    """
    finished: dict[str, list[ResultRow]] = {}
    for row in read_results(without):
        if row["status"] == "done":
            finished.setdefault(row["cell"][:OLD_ID], []).append(row)
    unfinished = [
        cell
        for cell in cells
        if not any(
            cell.is_of(row) and version_of(row) in (None, cell.method_version)
            for row in finished.get(cell.id[:OLD_ID], ())
        )
    ]
    if not unfinished:
        raise SaBenchError(
            f"Nothing is left to run: all {describe_count(len(cells), 'cell')} have a finished result in --without."
        )
    return unfinished


def require_data(cells: Sequence[Cell]) -> None:
    """Require all assets of a run: training data (fetched now), pretrained bases, primary detectors.

    Scale `quick` only tries the code and runs without detectors.

    Raises:
        MissingAsset: something is missing; raised before any work.
    """
    from sa_bench.core import registry
    from sa_bench.data import datasets
    from sa_bench.data.assets import catalogue
    from sa_bench.engine import needs
    from sa_bench.models import base_models

    for task, quick in {
        (cell.task.name, cell.task.model, cell.task.primary): (cell.task, cell.scale == "quick")
        for cell in cells
    }.values():
        needs.need_files(task, quick)
    models = [m for m in dict.fromkeys(cell.task.model for cell in cells) if m and m != SMOKE_MODEL]
    for model in models:
        catalogue.need(catalogue.get_model(model))  # before anything heavy is imported
    for task in {cell.task.name: cell.task for cell in cells if cell.scale != "quick"}.values():
        needs.need_primary(task)
    for model in models:
        base_models.find_pretrained(model, Store(store_folder()))
    for cell in cells:
        if "data" in registry.get_method(cell.method).needs:
            datasets.load(cell.task.dataset)


def require_device(device: str) -> None:
    """Require that torch can use `device`.

    Raises:
        SaBenchError: it cannot.
    """
    if device == "cpu":
        return
    import torch

    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise SaBenchError(
            f"--device {device} cannot be used here: {first_line(error)}. Use --device cpu."
        ) from error


def write_report(folders: Sequence[Path], out: Path | None, unblurred: bool = False) -> Path:
    """Render run folders into `out`: HTML, or Markdown if it ends in .md.

    The default is report.html in the first folder; for a packed file or a bundle, beside it. With
    `unblurred` an HTML page contains what may be nudity, veiled until it is clicked; otherwise it is
    blurred for good. In a Markdown file with the line `MARK`, only what follows it is replaced.

    Raises:
        SaBenchError: there are no results, or `out` has another ending.
    """
    if not folders:
        raise SaBenchError(
            "A report needs results: python -m sa_bench report RUN, or --bundle FILE."
        )
    first = Path(folders[0])
    path = out or (first.parent if first.is_file() else first) / "report.html"
    if path.suffix.lower() not in RENDERERS:
        raise unknown_name("report format", path.suffix or path.name, RENDERERS)
    renderer = importlib.import_module(f"sa_bench.reports.{RENDERERS[path.suffix.lower()]}")
    options = (
        {"at": path.parent, "unblurred": unblurred}
        if RENDERERS[path.suffix.lower()] == "html"
        else {}
    )
    with pause_collector():
        rows = read_results(folders)
    with read_stranger_result(rows), pause_collector():
        text = renderer.render(rows, **options)
    write_page(path, text)
    return path


def write_page(path: Path, text: str) -> None:
    """Write a report; in a Markdown file with the line `MARK` all above it stays, instead of the title.

    Raises:
        SaBenchError: the file that is there is no text in UTF-8.
    """
    if path.suffix.lower() == ".md" and path.is_file():
        try:
            written = path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise SaBenchError(
                f"{path} is no text in UTF-8, so that nobody can tell what of it is to stay; name another file."
            ) from error
        head, mark, _ = written.partition(MARK)
        text = f"{head}{mark}\n\n{text.partition(chr(10))[2].lstrip()}" if mark else text
    write_atomic(path, text.encode())


def write_site(folders: Sequence[Path], out: Path, overwrite: bool = False) -> tuple[Path, int]:
    """Write the leaderboard as a site of static pages into the folder `out`.

    The packed files and bundles that it is made from lie in `data/` there, for readers. What is in
    `out` stays as it is until all pages are written. Pages of an earlier site are replaced;
    other files of the folder are kept.

    Args:
        folders: run folders, packed files and bundles.
        out: the folder of the site.
        overwrite: also write into a folder that holds other files and no site.

    Returns:
        The first page, and the number of pages.

    Raises:
        SaBenchError: there are no results, or `out` is a file or holds something else.
    """
    from sa_bench.analysis.ranking import make_boards

    pages_of_site = importlib.import_module("sa_bench.reports.site")
    out = expand_home(out).resolve()
    _require_site_folder(out, pages_of_site.MARK, overwrite)
    if not folders:
        raise SaBenchError("A site needs results: python -m sa_bench site RUN... --out FOLDER.")
    with pause_collector():
        rows, bundles = _read_with_bundles(folders)
    with read_stranger_result(rows), pause_collector():
        report = importlib.import_module("sa_bench.reports.html")
        data_files = _name_data_files(folders)
        pages = pages_of_site.render(make_boards(rows), report, bundles, list(data_files))
    with replace_folder_when_written(out) as folder:
        if out.is_dir():
            _copy_other_files(out, folder, pages_of_site.MARK)
        for path, text in pages.items():
            (folder / path).parent.mkdir(exist_ok=True)
            (folder / path).write_text(text, encoding="utf-8")
        for name, path in data_files.items():
            (folder / "data").mkdir(exist_ok=True)
            shutil.copyfile(path, folder / "data" / name)
    return out / "index.html", len(pages)


def _name_data_files(folders: Sequence[Path]) -> dict[str, Path]:
    """Name the packed files and bundles that are small enough to lie in a site; no name twice."""
    files: dict[str, Path] = {}
    for path in map(Path, folders):
        if path.is_file() and path.stat().st_size <= LARGEST_DATA:
            name = path.name
            while name in files:
                name = f"another-{name}"
            files[name] = path
    return files


def _require_site_folder(out: Path, mark: str, overwrite: bool) -> None:
    """Require that a site may be written into `out`: it is new, empty or holds one already.

    Raises:
        SaBenchError: it is a file, or holds something else and `overwrite` is False.
    """
    if out.exists() and not out.is_dir():
        raise SaBenchError(f"--out {out} is a file; give a folder.")
    names = sorted(path.name for path in out.iterdir()) if out.is_dir() else []
    if not names or overwrite or _list_pages(str(out), ["index.html"], mark):
        return
    raise SaBenchError(
        f"{out} holds {names[0]} and no site of sa_bench. Choose another --out, or add --overwrite "
        "to write the pages beside what is there."
    )


def _copy_other_files(old: Path, new: Path, mark: str) -> None:
    """Copy what a folder holds beside the pages of a site.

    Raises:
        SaBenchError: something of it cannot be copied.
    """
    pages = partial(_list_pages, mark=mark)
    try:
        shutil.copytree(old, new, symlinks=True, ignore=pages, dirs_exist_ok=True)
    except shutil.Error as error:
        file, _, reason = error.args[0][0]
        raise SaBenchError(
            f"{file} cannot be kept ({reason}). Choose another --out, or move it away."
        ) from error


def _list_pages(folder: str, names: Sequence[str], mark: str) -> list[str]:
    """List those of the files `names` of a folder that are pages of a site, by the mark in their head."""
    pages = []
    for name in names:
        path = Path(folder) / name
        if path.suffix == ".html" and path.is_file() and not path.is_symlink():
            with path.open("rb") as file:
                pages += [name] if mark.encode() in file.read(HEAD) else []
    return pages


def _read_with_bundles(
    folders: Sequence[Path],
) -> tuple[list[ResultRow], list[dict[str, Any]]]:
    """Read results, and describe the bundles among their files with what a look at them found."""
    rows: list[ResultRow] = []
    descriptions: list[dict[str, Any]] = []
    for path in folders:
        if not path.name.endswith(BUNDLED):
            rows += read_results([path])
            continue
        bundle = open_bundle(path)
        rows_of_bundle = bundle.rows()
        rows += rows_of_bundle
        facts = manifest_facts(rows_of_bundle)
        differing = [name for name, value in facts.items() if bundle.manifest.get(name) != value]
        descriptions.append(
            {
                "file": path.name,
                "origin": bundle.origin,
                "sha256": bundle.sha256,
                "cells": len(rows_of_bundle),
                "files": len(bundle.manifest["members"]),
                "problem": f"manifest.json has other {', '.join(differing)} than its results"
                if differing
                else "",
            }
        )
    return rows, descriptions


def table(
    name: str,
    folders: Sequence[Path] = (),
    format: str = "",
    task: str | Sequence[str] = "",
    methods: str | Sequence[str] = (),
    metrics: str | Sequence[str] = (),
    out: Path | None = None,
    layout: str = "",
) -> str:
    """Make a published table (`table1` to `table4`) with our results beside it, or a `leaderboard`.

    Only a leaderboard uses `task`, `methods` (names or labels) and `metrics`, each as `a,b` or a list.
    `layout` is for LaTeX: `narrow` (a column of two), `wide` (the page), or "" for what fits. Without a format the
    ending of `out` says it.

    Raises:
        SaBenchError: the name, format, ending or layout is unknown, or results cannot be read.
    """
    format = format or (TABLE_FORMATS.get(out.suffix.lower(), "") if out else "markdown")
    if not format and out is not None:
        raise SaBenchError(f"{out}: add --format, or an ending of {', '.join(TABLE_FORMATS)}.")
    _check_table_format(format, layout)
    text = format_tables(make_tables(name, folders, task, metrics, methods), format, layout)
    if out is not None:
        write_atomic(out, text.encode())
    return text


def make_tables(
    name: str,
    folders: Sequence[Path] = (),
    task: str | Sequence[str] = "",
    metrics: str | Sequence[str] = "",
    methods: str | Sequence[str] = (),
) -> list[Any]:
    """Make the tables of that name: one per board of a leaderboard, else one.

    Raises:
        SaBenchError: the name is unknown, or results cannot be read.
    """
    from sa_bench.analysis import tables
    from sa_bench.analysis.paper_tables import make_published_table

    results = read_results([Path(f) for f in folders])
    with read_stranger_result(results):
        if name != "leaderboard":
            return [make_published_table(name, results)]
        if not folders:
            raise SaBenchError(
                "A leaderboard needs run folders: python -m sa_bench table leaderboard runs/demo."
            )
        return tables.make_leaderboards(results, task, metrics, methods)


def format_tables(made_tables: Sequence[Any], format: str, layout: str = "") -> str:
    """Write tables as `markdown`, `latex`, `csv` or `html`.

    Raises:
        SaBenchError: the format or layout is unknown.
    """
    _check_table_format(format, layout)
    write = importlib.import_module("sa_bench.reports.tables").FORMATS[format]
    return write(made_tables, layout) if layout else write(made_tables)


def _check_table_format(format: str, layout: str) -> None:
    """Refuse a format or layout that is unknown, and a layout of anything but LaTeX."""
    renderer = importlib.import_module("sa_bench.reports.tables")
    if format not in renderer.FORMATS:
        raise unknown_name("table format", format, renderer.FORMATS)
    if layout and layout not in renderer.LAYOUTS:
        raise unknown_name("LaTeX layout", layout, renderer.LAYOUTS)
    if layout and format != "latex":
        raise SaBenchError(f"--layout {layout} is for --format latex.")


def figure(
    kind: str,
    folders: Sequence[Path],
    out: Path | None = None,
    task: str = "",
    methods: str | Sequence[str] = (),
    **options: Any,
) -> tuple[Path, str]:
    """Draw a figure of one board into `out` (default: `<kind>.svg`), and return (file, caption).

    `methods` selects lines by names or labels, as `a,b` or a list; empty means all.

    Raises:
        SaBenchError: the kind or format is unknown, there are several boards, or nothing to draw.
    """
    from sa_bench.analysis.figure_style import choose_rows
    from sa_bench.analysis.ranking import make_boards, too_many_boards
    from sa_bench.analysis.tables import parse_names, select_lines

    path = out or Path(f"{kind}.svg")
    figures = importlib.import_module("sa_bench.reports.figures")
    rows = read_results([Path(f) for f in folders])
    with read_stranger_result(rows):
        boards = [b for b in make_boards(rows) if task in ("", b.task)]
    if not boards:
        raise SaBenchError(f"No results of task {task} are in there.")
    if len(boards) > 1:
        raise too_many_boards(boards, "A figure shows one board")
    board = boards[0]
    every_line = board.lines
    if methods:
        board.lines = select_lines(every_line, parse_names(methods, every_line))
    elif kind != "sweep":
        board.lines = choose_rows(every_line)
    left_out = 0 if methods else len(every_line) - len(board.lines)
    with read_stranger_result(rows):
        data = figures.render(kind, board, path.suffix.lower().removeprefix("."), **options)
        caption = figures.caption(board, kind, options.get("sort", ""), left_out)
    write_atomic(path, data)
    return path, caption


def compare(
    folders: Sequence[str | Path],
    methods: str = "",
    task: str = "",
    at: str = "",
    width: int | None = None,
) -> str:
    """Compare two lines of results on the three endpoints, and return a text.

    `sa_bench.analysis.compare` has the numbers.

    Args:
        folders: one run and two `methods`, or two runs: run folders, cell folders, packed files or
            bundles.
        methods: names or labels, `a,b`.
        task: use only boards of this task; "" means any.
        at: a level of forgetting, `forget_top1=0.003`. Compares two methods there, each interpolated
            along its settings, instead of two settings; "" for the latter.
        width: columns of the text where they are fewer than its own.

    Raises:
        SaBenchError: results cannot be read or paired, or their protocols differ.
    """
    from sa_bench.analysis import compare_text, matched
    from sa_bench.analysis.compare import compare_lines, select_lines, select_sweeps

    paths = [Path(folder) for folder in folders]
    bundles = [{"origin": path.name} for path in paths if str(path).endswith(BUNDLED)]
    with read_stranger_result(bundles):
        if at:
            board, names = select_sweeps(paths, methods, task)
            text = matched.compare_at(board, names, at)
        else:
            a, b = select_lines(paths, methods, task)
            text = compare_text.format_comparison(compare_lines(a, b))
    return compare_text.wrap(text, min(width or compare_text.WIDTH, compare_text.WIDTH))


def evaluate(
    images: str | Path,
    task: str,
    *,
    scale: str = "full",
    sets: Sequence[str] = (),
    metrics: Sequence[str] = (),
    out: str | Path | None = None,
    name: str = "",
    scores: str | Path | None = None,
    report: Callable[[str, str, int, int], None] = ignore_event,
    progress: bool = True,
) -> ResultRow:
    """Measure images made elsewhere, and return a result like a cell's, with method `external`.

    Args:
        images: a folder with `forget/` and `retain/<class>/`, or an NPZ with `arr_0` and labels.
        task: the task whose protocol is used.
        scale: full, paper, small or quick.
        sets: `task.field=value` overrides.
        metrics: further metrics, names or paths of plug-in files.
        out: folder for result.json.
        name: what its line is called on a board; "" calls it `external`.
        scores: file for the scores of each image (`.csv`).
        report: called with progress, in place of a bar.
        progress: whether a bar shows what is being measured.
    """
    from sa_bench.engine.external import evaluate_images

    require_folders()
    with ProgressBar(progress and report is ignore_event) as bar:
        return evaluate_images(
            expand_home(images),
            task,
            scale,
            list(sets),
            expand_home(out) if out else None,
            bar.update if bar.shown else report,
            metrics,
            name,
            expand_home(scores) if scores else None,
        )
