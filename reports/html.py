"""The HTML report: result rows in, one self-contained page out, which loads nothing from elsewhere.

Everything can be read without its script, which sorts, filters, enlarges and unveils; the page
allows no other script.
"""

import base64
import hashlib
import io
import os
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup
from PIL import Image, ImageFilter

from sa_bench.analysis import cell_text, details, outcomes, pairwise, plots, published, wording
from sa_bench.analysis.board import Board, Line
from sa_bench.analysis.ranking import make_boards
from sa_bench.analysis.wording import describe_precision
from sa_bench.core.errors import SaBenchError
from sa_bench.core.escaping import make_visible
from sa_bench.core.version import __version__
from sa_bench.data.assets.shipped import guard_card as shipped_guard
from sa_bench.data.sample_sets import load_arrays
from sa_bench.results import format as numbers
from sa_bench.results.format import describe_machine
from sa_bench.results.rows import find_sample_set, may_be_explicit
from sa_bench.results.schema import Measurement, ResultRow
from sa_bench.scoring.cards import judge_card

COLUMNS = 10  # images in a row of a grid
TILE = 96  # pixels per side of the largest image in a grid
MODULES = {
    "cell_text": cell_text,
    "details": details,
    "numbers": numbers,
    "outcomes": outcomes,
    "pairwise": pairwise,
    "plots": plots,
    "published": published,
    "wording": wording,
}
"""Modules whose functions the template calls by their names."""


def render(results: Sequence[ResultRow], at: Path | None = None, unblurred: bool = False) -> str:
    """Render the page for all `results`, one section per board.

    Args:
        results: rows as `read_results` gives them.
        at: the folder of the page, for links to each cell's files; None means no links.
        unblurred: include what may be nudity, veiled until it is clicked; otherwise it is blurred
            in the page for good.
    """
    of_this_page = {
        "link": lambda cell: link(cell, at),
        "pictures": lambda board: pictures(board, unblurred),
        "placed": once(),
    }
    return _load_template().render(boards=make_boards(results), **of_this_page)


@cache
def _load_template() -> Template:
    """Compile the page's template, with all that is the same on every page."""
    folder = Path(__file__).parent / "templates"
    environment = Environment(
        loader=FileSystemLoader(folder),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_finalize,
    )
    script = (folder / "report.js").read_text(encoding="utf-8")
    helpers = (cards, cells, commands, guard_card, made_with, memory, notes, only_reason, seeds)
    names: dict[str, Any] = environment.globals
    names |= MODULES | {helper.__name__: helper for helper in (*helpers, titles)}
    names |= {
        "script": Markup(script),
        "script_hash": base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        "version": __version__,
    }
    return environment.get_template("report.html")


def _finalize(value: Any) -> Any:
    """Make control letters visible in what an expression of a template puts into the page; keep markup."""
    return type(value)(make_visible(value)) if isinstance(value, str) else value


def once() -> Callable[[str], tuple[str, bool]]:
    """Make a function that names a data URI and says whether it was named before.

    With it a page holds each image once.
    """
    names: dict[str, str] = {}

    def placed(uri: str) -> tuple[str, bool]:
        named_before = uri in names
        return names.setdefault(uri, f"grid-{len(names) + 1}"), named_before

    return placed


def cells(board: Board) -> list[tuple[Line, ResultRow]]:
    """List every cell of the board with its line, failed ones too."""
    return [(line, cell) for line in board.lines for cell in (*line.cells, *line.failed)]


def titles(board: Board) -> dict[str, Measurement]:
    """Map measurement names to their declarations; `c_f` in a title becomes the concept's name."""
    measurements = {m["name"]: m for _, cell in cells(board) for m in cell["measurements"]}
    return {
        n: {**m, "title": m["title"].replace("c_f", board.concept)} for n, m in measurements.items()
    }


def only_reason(board: Board, name: str) -> str:
    """Return why no cell has a value of the measurement if it is the same in all, else ""."""
    measurements = [
        m for _, cell in cells(board) for m in cell["measurements"] if m["name"] == name
    ]
    reasons = {m["reason"] if m["value"] is None else "" for m in measurements}
    return (reasons.pop() or "") if len(reasons) == 1 else ""


def memory(line: Line) -> str:
    """Format the peak memory and the devices of forgetting."""
    if line.seconds is None:
        return "not recorded"
    costs = [c["cost"].get("forget", {}) for c in line.cells]
    peak = max(f.get("peak_mib") or 0 for f in costs)
    on_device = max(f.get("device_peak_mib") or 0 for f in costs)
    text = f"{peak:,} MiB, {', '.join(line.devices)}"
    return text + (f", {on_device:,} MiB on it" if on_device else "")


def notes(board: Board) -> dict[str, str]:
    """Map each flag to the lines that carry it, joined; "" for one that all lines carry."""
    labels_by_flag: dict[str, list[str]] = {}
    for line, cell in cells(board):
        for flag in cell["flags"]:
            labels_by_flag.setdefault(flag, []).append(line.label)
    everyone = {line.label for line, _ in cells(board)}
    return {
        flag: "" if set(labels) == everyone else ", ".join(dict.fromkeys(labels))
        for flag, labels in labels_by_flag.items()
    }


def seeds(board: Board) -> dict[str, str]:
    """List the base models and forgetting seeds on the board."""
    rows = [row for _, row in cells(board)]
    seeds_by_title = {
        "base model": {row["base_seed"] for row in rows},
        "forgetting seed": {row["seed"] for row in rows},
    }
    return {title: ", ".join(map(str, sorted(used))) for title, used in seeds_by_title.items()}


def made_with(board: Board) -> list[str]:
    """List versions, machine and precision of training, each combination once."""
    provenances = [cell["provenance"] for _, cell in cells(board)]
    texts = (
        "; ".join(
            filter(
                None,
                [
                    ", ".join(f"{k} {v}" for k, v in p["versions"].items()),
                    describe_machine(p["hardware"]),
                    describe_precision(p),
                ],
            )
        )
        for p in provenances
    )
    return list(dict.fromkeys(texts))


def commands(board: Board) -> list[str]:
    """List the commands as typed, each once."""
    return list(dict.fromkeys(cell["provenance"]["command"] for _, cell in cells(board)))


def cards(board: Board) -> list[dict[str, Any]]:
    """List the card of every judge of the task.

    `problem` says that a card is missing, or belongs to another judge than the one used.
    """
    task, assets = (cells(board)[0][1]["task_values"], {})
    trained_judges: dict[str, dict[str, Any]] = {}
    for _, cell in cells(board):
        assets |= cell["provenance"].get("assets", {})
        trained_judges |= cell["artifacts"].get("judges", {})
    shown_cards = []
    for name in filter(None, dict.fromkeys([*task["judges"], task["reject_judge"]])):
        try:
            card = dict(judge_card(name)) | trained_judges.get(name, {})
        except SaBenchError as error:
            shown_cards.append({"name": name, "designated": False, "problem": str(error)})
            continue
        used_sha256 = assets.get(name, "")
        mismatch = f"card of another judge: {card['sha256'][:12]}…, used was {used_sha256[:12]}…"
        card["problem"] = "" if card["sha256"].startswith(used_sha256) else mismatch
        shown_cards.append({**card, "name": name, "designated": name == task["designated"]})
    return shown_cards


def guard_card(board: Board) -> dict[str, Any] | None:
    """Return the collapse guard's calibration if the board was guarded by it, else None."""
    measurements = [
        m for _, cell in cells(board) for m in cell["measurements"] if "guard" in m["fingerprint"]
    ]
    try:
        card = shipped_guard(cells(board)[0][1]["task_values"]["dataset"]) if measurements else None
    except SaBenchError:
        return None
    if card is None or card["bounds"] != measurements[0]["fingerprint"]["guard"]:
        return None
    return card | {"resamples": sum(card["null"]["resamples"].values())}


def link(cell: ResultRow, at: Path | None) -> str:
    """Return the address of a cell's folder relative to the page; "" without one."""
    folder = Path(str(cell.get("folder") or ""))
    # the folder of a bundle's cell lies in the store, which others do not have
    if at is None or not cell.get("folder") or cell.get("origin") or not folder.is_dir():
        return ""
    try:
        return quote(Path(os.path.relpath(folder.resolve(), at.resolve())).as_posix()) + "/"
    except ValueError:  # another drive
        return folder.resolve().as_uri() + "/"


def pictures(board: Board, unblurred: bool = False) -> list[dict[str, Any]]:
    """Make grids of the same seeds, grouped by base model: `before`, then every line with other images.

    Each grid is `{set name: data URI}`; a set without a file is left out.
    """
    groups: dict[str, dict[str, Any]] = {}
    for line in board.lines:
        if not line.cells:
            continue
        row = line.cells[0]
        veiled = may_be_explicit(row["task_values"])
        before, after = (
            {
                name: grid
                for name in ("forget", "retain")
                if (
                    grid := sheet(
                        find_sample_set(row, f"{name}{end}"),
                        veiled and name == "forget" and not unblurred,
                    )
                )
            }
            for end in ("-base", "")
        )
        if before and after and after != before:
            group = groups.setdefault(str(before), {"before": before, "after": []})
            group["veil"] = group.get("veil", False) or (veiled and unblurred)
            group["base_seed"] = line.cells[0]["base_seed"]
            group["after"].append((line, after))
    return list(groups.values())


def sheet(path: Path | None, veiled: bool = False) -> str:
    """Make a data URI of the first images of a sample set, for the retain set of every class.

    Veiled images are blurred in the file itself: nothing in the report can restore them.

    Returns:
        "" without a file.
    """
    if path is None:
        return ""
    stored = load_arrays(path)
    images, labels = stored["images"], stored["labels"]
    if path.name.startswith("retain"):
        shown_classes = np.unique(labels)
        per_class = max(2, 2 * COLUMNS // len(shown_classes))
        rows = [np.flatnonzero(labels == c)[:per_class] for c in shown_classes]
        images = images[np.concatenate(rows)]
    tiles = images[: 2 * COLUMNS]
    if large := max(tiles.shape[1:3]) > TILE:
        tiles = np.stack([np.asarray(Image.fromarray(tile).resize((TILE, TILE))) for tile in tiles])
    height, width, channels = tiles.shape[1:]
    rows_of_grid = -(-len(tiles) // COLUMNS)
    # white: black would look like an image
    canvas = np.full((rows_of_grid * height, COLUMNS * width, channels), 255, np.uint8)
    for i, tile in enumerate(tiles):
        if veiled:
            blur = ImageFilter.GaussianBlur(max(height, width) / 12)
            tile = np.asarray(Image.fromarray(tile.squeeze()).filter(blur)).reshape(tile.shape)
        y, x = divmod(i, COLUMNS)
        canvas[y * height : (y + 1) * height, x * width : (x + 1) * width] = tile
    buffer = io.BytesIO()
    Image.fromarray(canvas.squeeze(-1) if channels == 1 else canvas).save(
        buffer, "WEBP", lossless=not large
    )
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()
