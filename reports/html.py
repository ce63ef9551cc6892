"""The HTML report: result rows in, one self-contained page out, which loads nothing from elsewhere.

Everything can be read without its script, which sorts, filters, enlarges and unveils; the page
allows no other script.
"""

import base64
import hashlib
import io
import os
import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image, ImageFilter

from sa_bench.analysis import (
    attacks,
    cell_text,
    concepts,
    details,
    heat,
    outcomes,
    pairwise,
    plots,
    published,
    scales,
    trainings,
    wording,
)
from sa_bench.analysis.board import Board, Line
from sa_bench.analysis.ranking import make_boards
from sa_bench.analysis.wording import describe_precision
from sa_bench.contracts import flatten
from sa_bench.contracts.names import mentions
from sa_bench.contracts.task import Prompts
from sa_bench.core.errors import SaBenchError
from sa_bench.core.escaping import make_visible
from sa_bench.core.version import __version__
from sa_bench.data.assets.shipped import guard_card as shipped_guard
from sa_bench.data.sample_sets import load_arrays
from sa_bench.results import format as numbers
from sa_bench.results.format import describe_machine
from sa_bench.results.rows import find_sample_set, may_be_explicit
from sa_bench.results.schema import Measurement, ResultRow
from sa_bench.results.sealing import EDITED
from sa_bench.scoring.cards import judge_card

COLUMNS = 10  # images in a row of a grid
ROWS = 2  # rows of a grid
GAP = 2  # pixels between two images
DAY = re.compile(r"\d{4}-\d{2}-\d{2}$")
TEMPLATES = Path(__file__).parent / "templates"
TILE = 96  # pixels per side of the largest image in a grid
MODULES = {
    "attacks": attacks,
    "cell_text": cell_text,
    "concepts": concepts,
    "details": details,
    "heat": heat,
    "numbers": numbers,
    "outcomes": outcomes,
    "pairwise": pairwise,
    "plots": plots,
    "published": published,
    "scales": scales,
    "trainings": trainings,
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
    boards = make_boards(results)
    of_this_page = {
        "link": lambda cell: link(cell, at),
        "pictures": lambda board: pictures(board, unblurred),
        "placed": once(),
        "compare_first": pairwise.compare_first,
        "method_page": lambda line: "",
        "shown_words": list_shown_words(boards),
        "style": read_template("report.css"),
        "script": read_template("report.js"),
    }
    return load_environment().get_template("report.html").render(boards=boards, **of_this_page)


def list_shown_words(boards: Sequence[Board]) -> set[str]:
    """List the outcomes of the lines of boards, for the glossary of their page."""
    return {line.outcome.word for board in boards for line in board.lines}


def read_template(name: str) -> Markup:
    """Read a style sheet or a script of the pages, to be put into one as it is."""
    return Markup((TEMPLATES / name).read_text(encoding="utf-8"))


@cache
def load_environment() -> Environment:
    """Load the templates of all pages, with all that is the same on every page."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_finalize,
    )
    names: dict[str, Any] = environment.globals
    names |= MODULES | {helper.__name__: helper for helper in HELPERS} | {"version": __version__}
    return environment


def hash_of(text: str) -> str:
    """Hash a style or a script as a page's policy names it: `sha256-…`."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _finalize(value: Any) -> Any:
    """Make control letters visible in what an expression of a template puts into the page; keep markup."""
    if not isinstance(value, str) or value.isprintable():  # of nearly every text of a page
        return value
    visible = make_visible(value)
    return value if visible == value else type(value)(visible)


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


class Measured(NamedTuple):
    """One measurement of one run."""

    number: int  # of its line on the board
    line: Line
    cell: ResultRow
    measurement: Measurement


def list_measured(board: Board) -> dict[str, list[Measured]]:
    """List the measurements of every run by name, in the order of the board."""
    by_name: dict[str, list[Measured]] = {}
    for number, line in enumerate(board.lines):
        for cell in (*line.cells, *line.failed):
            for m in cell["measurements"]:
                by_name.setdefault(m["name"], []).append(Measured(number, line, cell, m))
    return by_name


class RunText(NamedTuple):
    """The cells of one measurement of one run in the table of all runs."""

    value: str
    published: str  # with its verdict; "" where nothing was published for it
    interval: str
    n: str
    base: str
    judges: list[tuple[str, str]]  # value and value on constant grey of each judge, "" without


def describe_run(run: Measured, judges: Sequence[str]) -> RunText:
    """Describe one measurement of one run, with the values of `judges` in their order."""
    m = run.measurement
    unit, value = m["unit"], numbers.format_number(m["value"], m["unit"])
    shown = f"n/a: {m['reason'] or 'the value is not finite'}"
    published_text = ""
    if told := published.verdict_on(run.cell, m):
        number = numbers.format_number(told["published"], unit)
        published_text = f"published {number} ({told['source']}): {told['verdict']}"
    interval = ""
    if m["low"] is not None and m["high"] is not None:
        interval = (
            f"{numbers.format_number(m['low'], unit)} to {numbers.format_number(m['high'], unit)}"
        )
    by_judge = {j["judge"]: j for j in m["judges"] or ()}
    texts = []
    for judge in judges:
        j = by_judge.get(judge)
        grey = numbers.format_number(j["grey"], unit) if j is not None and "grey" in j else ""
        texts.append((numbers.format_number(j["value"], unit) if j is not None else "", grey))
    return RunText(
        shown if value == "n/a" else value + numbers.format_unit(unit),
        published_text,
        interval,
        cell_text.format_count(m["n"], m["n_unit"]),
        numbers.format_number(m["base"], unit),
        texts,
    )


def only_reason(measured: Sequence[Measured]) -> str:
    """Return why no run has a value of a measurement if it is the same in all, else ""."""
    reasons = {m["reason"] if m["value"] is None else "" for *_, m in measured}
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


def list_settings(values: Mapping[str, Any]) -> str:
    """List settings as words, `sampler.steps = 50; ema = yes`, nested ones by their dotted names."""
    return "; ".join(f"{name} = {_say(value)}" for name, value in flatten(values).items())


def _say(value: Any) -> str:
    """Say a setting's value without brackets and quotation marks."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_say, value)) or "none"
    return "none" if value is None or value == "" else str(value)


def judges_of(measured: Sequence[Measured]) -> list[str]:
    """List the judges that a measurement has a value of each by itself."""
    return list(dict.fromkeys(j["judge"] for *_, m in measured for j in m["judges"] or ()))


def describe_origin(boards: Sequence[Board]) -> list[tuple[str, str]]:
    """Describe where a page's rows come from, as far as they say: days, version, commit, machine, author."""
    rows = [cell for board in boards for _, cell in cells(board)]
    dates = sorted(
        {day for row in rows if DAY.match(day := str(row["provenance"].get("finished", ""))[:10])}
    )
    versions = {row["provenance"]["versions"].get("sa_bench", "") for row in rows}
    commits = {_shorten_commit(row["provenance"].get("commit", "")) for row in rows}
    machines = {describe_machine(row["provenance"]["hardware"]) for row in rows}
    authors = {origin for board in boards for origin in board.origins if origin != EDITED}
    facts = {
        "run": " to ".join(dict.fromkeys([*dates[:1], *dates[-1:]])),
        "sa_bench": ", ".join(sorted(versions - {""})),
        "commit": ", ".join(sorted(commits - {""})),
        "machine": "; ".join(sorted(machines)),
        "by": ", ".join(sorted(authors)),
    }
    return [(title, text) for title, text in facts.items() if text]


def _shorten_commit(commit: str) -> str:
    """Shorten a commit to eight digits, and keep that there were changes."""
    sha, _, changes = commit.partition(" ")
    return f"{sha[:8]} {changes}".strip()


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
    """List the commands as typed, each once; a notebook has none."""
    typed = (cell["provenance"]["command"] for _, cell in cells(board))
    return list(dict.fromkeys(filter(None, typed)))


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


HELPERS = (
    cards,
    cells,
    commands,
    describe_origin,
    describe_run,
    guard_card,
    hash_of,
    judges_of,
    list_measured,
    list_settings,
    made_with,
    memory,
    only_reason,
    seeds,
    titles,
)
"""Functions of this file that the templates call by their names."""


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


class Sheet(NamedTuple):
    """A grid of images."""

    uri: str  # data URI of the grid; "" without a file
    columns: int = 0
    heads: tuple[tuple[str, int], ...] = ()  # what images were asked for, and over how many columns


NO_SHEET = Sheet("")


def pictures(board: Board, unblurred: bool = False) -> list[dict[str, Any]]:
    """Make grids of the same seeds, grouped by base model: `before`, then every line with other images.

    Each grid is `{set name: Sheet}`; a set without a file is left out.
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
                        row, f"{name}{end}", veiled and name == "forget" and not unblurred
                    )
                ).uri
            }
            for end in ("-base", "")
        )
        if before and after and after != before:
            group = groups.setdefault(str(before), {"before": before, "after": []})
            group["veil"] = group.get("veil", False) or (veiled and unblurred)
            group["base_seed"] = line.cells[0]["base_seed"]
            group["after"].append((line, after))
    return list(groups.values())


def sheet(row: ResultRow, name: str, veiled: bool = False) -> Sheet:
    """Make a grid of the first images of a sample set, by what they were asked for.

    Veiled images are blurred in the file itself: nothing in the report can restore them. Gaps are
    transparent, so that they are no images on a page of any colour.

    Returns:
        `NO_SHEET` without a file.
    """
    path = find_sample_set(row, name)
    if path is None:
        return NO_SHEET
    stored = load_arrays(path)
    groups = group_images(row, name.removesuffix("-base"), stored["labels"], stored.get("prompts"))
    width = max(1, COLUMNS // len(groups))  # columns of a group
    tiles = [
        [_draw_tile(stored["images"][i], veiled) for i in indices[: ROWS * width]]
        for _, indices in groups
    ]
    side = tiles[0][0].height + GAP, tiles[0][0].width + GAP
    rows_of_grid = max(-(-len(group) // width) for group in tiles)
    canvas = Image.new("RGBA", (side[1] * width * len(groups) - GAP, side[0] * rows_of_grid - GAP))
    for start, group in enumerate(tiles):
        for i, tile in enumerate(group):
            y, x = divmod(i, width)
            canvas.paste(tile, ((start * width + x) * side[1], y * side[0]))
    buffer = io.BytesIO()
    canvas.save(buffer, "WEBP", lossless=max(stored["images"].shape[1:3]) <= TILE)
    uri = "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()
    return Sheet(uri, width * len(groups), tuple((text, width) for text, _ in groups))


def group_images(
    row: ResultRow, name: str, labels: np.ndarray, prompts: np.ndarray | None
) -> list[tuple[str, np.ndarray]]:
    """Group the images of a set by what they were asked for, `COLUMNS` groups at most.

    Returns:
        For each group its class or prompt, and the indices of its images.
    """
    task = row["task_values"]
    by_prompt = prompts is not None and (name == "forget" or bool((labels < 0).any()))
    keys = prompts if by_prompt and prompts is not None else labels
    distinct = list(dict.fromkeys(keys.tolist()))
    if by_prompt and len(distinct) > COLUMNS and len(distinct) == len(keys):
        return [("one image a prompt", np.arange(len(keys)))]  # both rows of a column would differ
    groups = []
    for key in distinct[:COLUMNS]:
        indices = np.flatnonzero(keys == key)
        text = name_prompt(task, name, key) if by_prompt else name_class(task, key)
        groups.append((text, indices))
    return groups


def name_class(task: Mapping[str, Any], label: int) -> str:
    """Name a class by its number; a negative one stands for what is to be kept."""
    classes = task["classes"]
    if label < 0:
        return "what is kept"
    return classes[label] if 0 <= label < len(classes) else f"class {label}"


def name_prompt(task: Mapping[str, Any], name: str, number: int) -> str:
    """Give the text of a prompt of a sample set; its number where the text is in a prompt file."""
    prompts = task.get("prompts") or {}
    role, images = ("test", task["n_forget"]) if name == "forget" else ("kept", task["n_retain"])
    concept = name_class(task, task["concept"])
    texts = [*dict.fromkeys(text.replace("{}", concept) for text in prompts.get(role) or ())]
    if role == "kept":  # prompts that mention c_f are not asked
        of_names = {key: prompts[key] for key in ("forget", "synonyms", "names") if key in prompts}
        names = Prompts(**of_names).list_names(concept)
        texts = [text for text in texts if not mentions(text, names)]
    if role in (prompts.get("files") or {}) or not number < len(texts) <= images:
        return f"prompt {number + 1}"
    return texts[number]


def _draw_tile(image: np.ndarray, veiled: bool) -> Image.Image:
    """Draw one image (H, W, C) of a grid, at most `TILE` wide, blurred if it is veiled."""
    tile = Image.fromarray(image.squeeze())
    if max(tile.size) > TILE:
        tile = tile.resize((TILE, TILE))
    return tile.filter(ImageFilter.GaussianBlur(max(tile.size) / 12)) if veiled else tile
