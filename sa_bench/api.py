"""The same from Python: `sa_bench.run("mnist_0", "sa", seeds=[0, 1])` in a notebook."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from sa_bench.contracts import SMOKE_MODEL
from sa_bench.core.errors import CellFailed, SaBenchError, unknown_name
from sa_bench.core.settings import expand_home, require_folders, store_folder
from sa_bench.core.store import Store, write_atomic
from sa_bench.engine.cells import OLD_ID, Cell, resolve
from sa_bench.engine.validation import check_precision
from sa_bench.results.bundles import BUNDLED
from sa_bench.results.files import read_results
from sa_bench.results.frames import load_results
from sa_bench.results.untrusted import read_stranger_result

MARK = "<!-- written by sa_bench report -->"  # what stands above it in a Markdown file is kept
RENDERERS = {".html": "html", ".htm": "html", ".md": "markdown"}
__all__ = ["compare", "evaluate", "load_results", "run", "run_folder", "write_report"]


def run(
    task: str | Sequence[str],
    method: str | Sequence[str],
    *,
    seeds: Sequence[int] = (0,),
    base_seeds: Sequence[int] = (0,),
    sample_seeds: Sequence[int] = (0,),
    scale: str = "full",
    sets: Sequence[str] = (),
    sweeps: Sequence[str] = (),
    metrics: Sequence[str] = (),
    jobs: int = 1,
    out: str | Path | None = None,
    overwrite: bool = False,
    device: str = "cpu",
) -> Any:
    """Run every combination; the measurements as a pandas table (see `load_results`).

    Tasks, methods and metrics are names, or paths of plug-in files; `metrics` come on top of the task's own.

    Raises:
        SaBenchError: anything unknown or out of range, before any work.
    """
    cells = resolve(
        [task] if isinstance(task, str) else list(task),
        [method] if isinstance(method, str) else list(method),
        scale,
        seeds,
        base_seeds,
        sets,
        sweeps,
        metrics,
        sample_seeds,
    )
    _, folder, _ = run_folder(
        cells, jobs=jobs, out=Path(out) if out else None, overwrite=overwrite, device=device
    )
    return load_results(folder)


def run_folder(
    cells: list[Cell],
    *,
    jobs: int,
    out: Path | None,
    overwrite: bool,
    device: str,
    report: Callable[[str, str, int, int], None] = lambda *event: None,
    finished: Callable[[dict[str, Any]], None] = lambda result: None,
    announce: Callable[[list[Cell]], None] = lambda cells: None,
) -> tuple[list[dict[str, Any]], Path, Path]:
    """Run and render `cells`: (results, run folder, report file)."""
    from sa_bench.engine import runner

    require_folders()
    jobs = runner.usable_jobs(jobs)
    require_device(device)
    for cell in cells:
        check_precision(cell.task, device)
    require_data(cells)
    folder = expand_home(out) if out else runner.default_out_folder(cells)
    runner.prepare(folder, cells, overwrite)
    announce(cells)
    with one_thread():
        results = runner.run_cells(
            cells, Store(store_folder()), folder, report, finished, jobs, device
        )
    if not any(folder.glob("*/result.json")):
        raise CellFailed(str(results[0]["error"]))  # a full disk: there is nothing to report from
    return results, folder, write_report([folder], None)


def unfinished_cells(cells: list[Cell], without: Sequence[Path]) -> list[Cell]:
    """The cells that have no finished result in `without` (run folders, packed files).

    Raises:
        SaBenchError: these cannot be read, or nothing is left to run.
    """
    done: dict[str, list[dict[str, Any]]] = {}
    for row in read_results(without):
        if row["status"] == "done":
            done.setdefault(row["cell"][:OLD_ID], []).append(row)
    undone = [cell for cell in cells if not any(map(cell.is_of, done.get(cell.id[:OLD_ID], ())))]
    if not undone:
        raise SaBenchError(f"Nothing is left to run: all {len(cells)} cell(s) have a result there.")
    return undone


def require_data(cells: Sequence[Cell]) -> None:
    """Fetch training data now if a method needs it; look for pretrained bases and what primary metrics look through.

    Raises:
        MissingAsset: something is missing, said before work. Scale `quick` tries the code and does without detectors.
    """
    from sa_bench.core import registry
    from sa_bench.data import datasets
    from sa_bench.data.assets import catalogue
    from sa_bench.engine import needs
    from sa_bench.models import base_models

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
    """Check `device` before any work.

    Raises:
        SaBenchError: torch does not have it.
    """
    import torch

    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise SaBenchError(
            f"--device {device} cannot be used here: {reason}. Use --device cpu."
        ) from error


class one_thread:
    """One intra-op thread while active, so that results and timings do not depend on the core count."""

    def __enter__(self) -> None:
        """Remember and set."""
        import torch

        self.before = torch.get_num_threads()
        torch.set_num_threads(1)

    def __exit__(self, *_: object) -> None:
        """Put back."""
        import torch

        torch.set_num_threads(self.before)


def write_report(folders: Sequence[Path], out: Path | None, unblurred: bool = False) -> Path:
    """Render run folders into `out`: HTML, or Markdown if it ends in .md (default: report.html in the first).

    Of a packed file or a bundle the default lies beside it. Unblurred: an HTML page holds what may be nudity, veiled
    until it is clicked; else it is blurred for good. In a Markdown file that holds the line `MARK`, only what stands
    below it is replaced.

    Raises:
        SaBenchError: no results there, or another ending.
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
    rows = read_results(folders)
    with read_stranger_result(rows):
        text = renderer.render(rows, **options)
    write_page(path, text)
    return path


def write_page(path: Path, text: str) -> None:
    """Write a report; of a Markdown file that holds the line `MARK`, what stands above it stays in place of the title."""
    if path.suffix.lower() == ".md" and path.is_file():
        head, mark, _ = path.read_text(encoding="utf-8").partition(MARK)
        text = f"{head}{mark}\n\n{text.partition(chr(10))[2].lstrip()}" if mark else text
    write_atomic(path, text.encode())


def table(
    name: str,
    folders: Sequence[Path] = (),
    format: str = "markdown",
    task: str | Sequence[str] = "",
    methods: str | Sequence[str] = (),
    metrics: str | Sequence[str] = (),
    out: Path | None = None,
) -> str:
    """A published table (`table1` to `table4`) with the results of `folders` beside it, or their `leaderboard`.

    Of a leaderboard alone: `task`, `methods` (names or labels) and `metrics`, each as `a,b` or a list.

    Raises:
        SaBenchError: another name or format, or results that cannot be read.
    """
    formats = importlib.import_module("sa_bench.reports.tables").FORMATS
    if format not in formats:
        raise unknown_name("table format", format, formats)
    results = read_results([Path(f) for f in folders])
    with read_stranger_result(results):
        found = _tables(name, results, bool(folders), task, metrics, methods)
    text = formats[format](found)
    if out is not None:
        write_atomic(out, text.encode())
    return text


def _tables(
    name: str,
    results: Sequence[dict[str, Any]],
    given: bool,
    task: str | Sequence[str],
    metrics: str | Sequence[str],
    methods: str | Sequence[str],
) -> list[Any]:
    from sa_bench.analysis import tables
    from sa_bench.analysis.paper_tables import make_published_table

    if name == "leaderboard":
        if not given:
            raise SaBenchError(
                "A leaderboard needs run folders: python -m sa_bench table leaderboard runs/demo."
            )
        return tables.make_leaderboards(results, task, metrics, methods)
    return [make_published_table(name, results)]


def figure(
    kind: str,
    folders: Sequence[Path],
    out: Path | None = None,
    task: str = "",
    methods: str | Sequence[str] = (),
    **options: Any,
) -> tuple[Path, str]:
    """Draw a figure of one board into `out` (default: `<kind>.svg` here): the file and a caption.

    `methods`: only these lines, names or labels, as `a,b` or a list.

    Raises:
        SaBenchError: another kind or format, several boards to choose from, or nothing to draw.
    """
    from sa_bench.analysis.ranking import make_boards
    from sa_bench.analysis.tables import parse_names, select_lines

    path = out or Path(f"{kind}.svg")
    figures = importlib.import_module("sa_bench.reports.figures")
    rows = read_results([Path(f) for f in folders])
    with read_stranger_result(rows):
        found = [b for b in make_boards(rows) if task in ("", b.task)]
    if not found:
        raise SaBenchError(f"No results of task {task} are in there.")
    if len(found) > 1:
        titles = "; ".join(f"{b.task} at scale {b.scale}" for b in found)
        raise SaBenchError(
            f"A figure shows one board, there are {len(found)}: {titles}. Give --task, or fewer folders."
        )
    board = found[0]
    board.lines = select_lines(board.lines, parse_names(methods, board.lines))
    with read_stranger_result(rows):
        data, said = (
            figures.render(kind, board, path.suffix.lower().removeprefix("."), **options),
            figures.caption(board, options.get("sort", "")),
        )
    write_atomic(path, data)
    return path, said


def compare(folders: Sequence[str | Path], methods: str = "", task: str = "", at: str = "") -> str:
    """Two lines of results against each other on the three endpoints, as text; `sa_bench.analysis.compare` has the numbers.

    Args:
        folders: one run and two `methods`, or two runs; run folders, cell folders, packed files or bundles.
        methods: `a,b`, names or labels.
        task: only boards of this task.
        at: `forget_top1=0.003`: not two settings but two methods, each along its settings, where so much is left of c_f.

    Raises:
        SaBenchError: results that cannot be read or paired, or whose protocols differ.
    """
    from sa_bench.analysis import compare as pairing
    from sa_bench.analysis import compare as versus
    from sa_bench.analysis import compare_text, matched

    bundles = [{"origin": Path(f).name} for f in folders if str(f).endswith(BUNDLED)]
    with read_stranger_result(bundles):
        if at:
            return matched.compare_at(
                *pairing.select_sweeps([Path(f) for f in folders], methods, task), at
            )
        return compare_text.format_comparison(
            versus.compare_lines(*pairing.select_lines([Path(f) for f in folders], methods, task))
        )


def evaluate(
    images: str | Path,
    task: str,
    *,
    scale: str = "full",
    sets: Sequence[str] = (),
    metrics: Sequence[str] = (),
    out: str | Path | None = None,
    report: Callable[[str, str, int, int], None] = lambda *event: None,
) -> dict[str, Any]:
    """Measure images made elsewhere; a result like a cell's, with method `external`.

    Args:
        images: a folder with `forget/` and `retain/<class>/`, or an NPZ with `arr_0` and labels.
        task: whose protocol to use.
        scale: full, paper or quick.
        sets: `task.field=value` overrides.
        metrics: further metrics, names or paths of plug-in files.
        out: folder for result.json.
        report: progress.
    """
    from sa_bench.engine.external import evaluate_images

    require_folders()
    with one_thread():
        return evaluate_images(
            expand_home(images),
            task,
            scale,
            list(sets),
            expand_home(out) if out else None,
            report,
            metrics,
        )
