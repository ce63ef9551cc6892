"""The HTML report: result rows in, one self-contained page out. No script, no request to anywhere."""

import base64
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image, ImageFilter
from safetensors.numpy import load_file

from sa_bench import __version__
from sa_bench.board import Board, Endpoint, Line
from sa_bench.cards import guard_card as shipped_guard
from sa_bench.cards import judge_card
from sa_bench.claims import verdicts
from sa_bench.comparing import COMPARED, checkpoints, comparisons, difference
from sa_bench.errors import SaBenchError
from sa_bench.ranking import boards
from sa_bench.wording import FEW, FRONT, Notes, percent, shown, spread

COLUMNS = 10  # images in a row of a grid
EXPLICIT = (
    "nud",
    "naked",
    "nsfw",
    "sex",
    "erotic",
    "porn",
    "topless",
    "undress",
    "explicit",
)  # parts of words
TILE = 96  # pixels a side of the largest image in it

# Plots, in units of the SVG's view box
WIDTH, LEFT, TOP, PLOT = 400, 52, 24, 210
GAP = 15  # between the baselines of two labels
LETTER = 6.6  # a generous mean width of a letter at 13 px


def render(results: Sequence[Mapping[str, Any]]) -> str:
    """The page for all `results`, one section a board."""
    folder = Path(__file__).parent / "templates"
    environment = Environment(
        loader=FileSystemLoader(folder), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.globals |= {
        "shown": shown, "span": span, "count": count, "pictures": pictures, "tradeoff": tradeoff, "curves": curves,
        "percent": percent, "cards": cards, "version": __version__, "cost": cost, "titles": titles, "notes": notes,
        "comparisons": comparisons, "compared": COMPARED.replace("*", ""), "difference": difference,
        "checkpoints": checkpoints,
        "verdicts": verdicts, "commands": commands, "guard": guard_card,
        "Notes": Notes, "front": FRONT, "only_reason": only_reason, "unit": unit, "made_with": made_with, "seeds": seeds,
        "cells": cells,
    }  # fmt: skip
    return environment.get_template("report.html").render(boards=boards(results))


def cells(board: Board) -> list[tuple[Line, Mapping[str, Any]]]:
    """Every cell of the board with its line, failed ones too."""
    return [(line, cell) for line in board.lines for cell in (*line.cells, *line.failed)]


def titles(board: Board) -> dict[str, dict[str, Any]]:
    """Measurement name to its declaration; `c_f` in the title is the concept's name."""
    found = {m["name"]: m for _, cell in cells(board) for m in cell["measurements"]}
    return {n: {**m, "title": m["title"].replace("c_f", board.concept)} for n, m in found.items()}


def only_reason(board: Board, name: str) -> str:
    """Why no cell has a value of the measurement, where it is the same in all; else ""."""
    rows = [m for _, cell in cells(board) for m in cell["measurements"] if m["name"] == name]
    reasons = {m["reason"] if m["value"] is None else "" for m in rows}
    return (reasons.pop() or "") if len(reasons) == 1 else ""


def unit(name: str | None) -> str:
    """A unit to stand behind a number; rates carry their % already."""
    return f" {name}" if name not in (None, "", "rate", "probability") else ""


def span(endpoint: Endpoint) -> str:
    """What stands under a value: the cell's own interval, a few runs' points, or lowest to highest of many."""
    runs, n = len(endpoint.points), count(endpoint.n, endpoint.n_unit)
    text = spread(endpoint, " to ") or "no interval"
    if 1 < runs < FEW:
        text = f"{runs} runs: {text}"
    elif runs > 1:
        text = f"lowest to highest of {runs} runs: {text}"
    if n:
        text += f"; n\u00a0=\u00a0{n}" + (" a run" if runs > 1 else "")
    return text + (f"; {endpoint.missing} n/a: {endpoint.reason}" if endpoint.missing else "")


def count(n: int | None, what: str | None) -> str:
    """`200 images`, never broken over two lines; nothing for nothing."""
    return f"{n:,}\u00a0{what or 'image'}{'' if n == 1 else 's'}" if n else ""


def cost(line: Line) -> tuple[str, str]:
    """Mean CPU time of forgetting, and the peak memory and the devices that go with it."""
    found = [c["cost"]["forget"] for c in line.cells if "cpu_s" in c["cost"].get("forget", {})]
    if not found:
        return "n/a", "not recorded"
    devices = ", ".join(dict.fromkeys(f.get("device", "cpu") for f in found))
    peak = max(f.get("peak_mib") or 0 for f in found)
    return f"{fmean(f['cpu_s'] for f in found):.0f} s CPU", f"{peak:,} MiB, {devices}"


def notes(board: Board) -> dict[str, str]:
    """Each flag once, with the lines that carry it."""
    found: dict[str, list[str]] = {}
    for line, cell in cells(board):
        for flag in cell["flags"]:
            found.setdefault(flag, []).append(line.label)
    return {flag: ", ".join(dict.fromkeys(labels)) for flag, labels in found.items()}


def seeds(board: Board) -> dict[str, str]:
    """The base models and forgetting seeds on the board."""
    found = {"base model": "base_seed", "forgetting seed": "seed"}
    return {k: ", ".join(map(str, sorted({c[v] for _, c in cells(board)}))) for k, v in found.items()}


def made_with(board: Board) -> list[str]:
    """Versions and machine, each combination once."""
    facts = [cell["provenance"] for _, cell in cells(board)]
    texts = (
        ", ".join(f"{k} {v}" for k, v in p["versions"].items()) + f"; {p['hardware']['cpu']}" for p in facts
    )
    return list(dict.fromkeys(texts))


def commands(board: Board) -> list[str]:
    """The commands as typed, each once."""
    return list(dict.fromkeys(cell["provenance"]["command"] for _, cell in cells(board)))


def cards(board: Board) -> list[dict[str, Any]]:
    """The card of every judge of the task; `problem` where it is missing or not of the judge that was used."""
    task, assets = (cells(board)[0][1]["task_values"], {})
    trained: dict[str, dict[str, Any]] = {}
    for _, cell in cells(board):
        assets |= cell["provenance"].get("assets", {})
        trained |= cell["artifacts"].get("judges", {})
    found = []
    for name in filter(None, dict.fromkeys([*task["judges"], task["reject_judge"]])):
        try:
            card = dict(judge_card(name)) | trained.get(name, {})
        except SaBenchError as error:
            found.append({"name": name, "designated": False, "problem": str(error)})
            continue
        used = assets.get(name, "")
        other = f"card of another judge: {card['sha256'][:12]}…, used was {used[:12]}…"
        card["problem"] = "" if card["sha256"].startswith(used) else other
        found.append({**card, "name": name, "designated": name == task["designated"]})
    return found


def guard_card(board: Board) -> dict[str, Any] | None:
    """The collapse guard's calibration, if the board was guarded by it."""
    rows = [m for _, cell in cells(board) for m in cell["measurements"] if "guard" in m["fingerprint"]]
    try:
        card = shipped_guard(cells(board)[0][1]["task_values"]["dataset"]) if rows else None
    except SaBenchError:
        return None
    if card is None or card["bounds"] != rows[0]["fingerprint"]["guard"]:
        return None
    return card | {"resamples": sum(card["null"]["resamples"].values())}


def pictures(board: Board) -> list[dict[str, Any]]:
    """Grids of the same seeds, grouped by base model: `before`, then every line whose images changed.

    Each grid is `{set name: data URI}`; a set whose file is not there is left out.
    """
    groups: dict[str, dict[str, Any]] = {}
    for line in board.lines:
        if not line.cells:
            continue
        folder, task = Path(line.cells[0]["folder"]), line.cells[0]["task_values"]
        before, after = (
            {name: made for name in ("forget", "retain")
             if (made := sheet(folder / f"{name}{end}.safetensors", name == "forget" and explicit(task)))}
            for end in ("-base", "")
        )  # fmt: skip
        if before and after and after != before:
            group = groups.setdefault(str(before), {"before": before, "after": []})
            group["base_seed"] = line.cells[0]["base_seed"]
            group["after"].append((line, after))
    return list(groups.values())


def explicit(task: Mapping[str, Any]) -> bool:
    """Whether images of c_f may show nudity: the task measures it, or its concept or prompts for it have such a word."""
    prompts = task.get("prompts") or {}
    asked = [task["classes"][task["concept"]], *prompts.get("forget", ()), *prompts.get("test", ())]
    named = any(word in text.lower() for text in asked for word in EXPLICIT)
    return named or "nudity" in (*task["metrics"], *task["primary"]) or "i2p" in str(prompts.get("files"))


def sheet(path: Path, veiled: bool = False) -> str:
    """A data URI of the first images of a sample set, for the retain set of every class; "" if not there.

    Veiled images are blurred in the file itself: nothing in the report can bring them back.
    """
    if not path.exists():
        return ""
    stored = load_file(path)
    images, labels = stored["images"], stored["labels"]
    if path.name.startswith("retain"):
        shown_classes = np.unique(labels)
        each = max(2, 2 * COLUMNS // len(shown_classes))
        rows = [np.flatnonzero(labels == c)[:each] for c in shown_classes]
        images = images[np.concatenate(rows)]
    tiles = images[: 2 * COLUMNS]
    if large := max(tiles.shape[1:3]) > TILE:
        tiles = np.stack([np.asarray(Image.fromarray(tile).resize((TILE, TILE))) for tile in tiles])
    height, width, channels = tiles.shape[1:]
    down = -(-len(tiles) // COLUMNS)
    canvas = np.full(
        (down * height, COLUMNS * width, channels), 255, np.uint8
    )  # black would look like an image
    for i, tile in enumerate(tiles):
        if veiled:
            tile = np.asarray(Image.fromarray(tile).filter(ImageFilter.GaussianBlur(max(height, width) / 12)))
        y, x = divmod(i, COLUMNS)
        canvas[y * height : (y + 1) * height, x * width : (x + 1) * width] = tile
    buffer = io.BytesIO()
    Image.fromarray(canvas.squeeze(-1) if channels == 1 else canvas).save(buffer, "WEBP", lossless=not large)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()


def short(label: str, letters: int) -> str:
    """The label cut in its middle: siblings share the beginning, and the end holds what differs."""
    if len(label) <= letters:
        return label
    return label[: letters // 3] + "…" + label[len(label) - (letters - letters // 3 - 1) :]


def nice_ticks(low: float, high: float) -> list[float]:
    """Four to eight round numbers that span low to high."""
    raw = max(high - low, 1e-9) / 4
    power = 10 ** np.floor(np.log10(raw))
    step = float(next(m for m in (1, 2, 5, 10) if m * power >= raw) * power)
    first, last = np.floor(low / step), np.ceil(high / step)
    last = max(last, first + 1)
    return [float(i * step) for i in np.arange(first, last + 1)]


def apart(wanted: Sequence[float], low: float, high: float) -> list[float]:
    """The numbers moved as little as needed to be `GAP` apart, in their order, above `high` if they fit."""
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    out, edge = list(wanted), low
    for i in order:
        out[i] = max(wanted[i], edge)
        edge = out[i] + GAP
    edge = high
    for i in reversed(order):
        out[i] = min(out[i], edge)
        edge = out[i] - GAP
    return out


def tradeoff(board: Board) -> dict[str, Any]:
    """The forgetting-retention plot: points with intervals in the view box, labels that do not overlap."""
    found = [(x, f, k) for x in board.lines
             if (f := x.known(board.primary[0])) and (k := x.known(board.primary[2]))]  # fmt: skip
    if not found:
        return {"points": []}
    spans = [
        (k.value if k.low is None else k.low, k.value if k.high is None else k.high) for _, _, k in found
    ]
    ticks = nice_ticks(min(low for low, _ in spans), max(high for _, high in spans))  # type: ignore[type-var]
    bottom = TOP + max(PLOT, GAP * len(found))

    def across(rate: float) -> float:
        return LEFT + (WIDTH - LEFT - 14) * rate

    def up(value: float) -> float:
        return bottom - (bottom - TOP) * (value - ticks[0]) / (ticks[-1] - ticks[0])

    points = []
    for (line, f, k), (low, high) in zip(found, spans, strict=True):
        ends = [across(f.value if v is None else v) for v in (f.low, f.high)]  # type: ignore[arg-type]
        points.append({
            "line": line, "x": across(f.value), "y": up(k.value), "xs": ends, "ys": [up(low), up(high)],  # type: ignore[arg-type]
            "text": f"{shown(f.value, f.unit)}, {shown(k.value, k.unit)}{unit(k.unit)}",
        })  # fmt: skip
    place(points, bottom)
    keep = found[0][2]
    return {
        "points": points, "ticks": [(up(t), f"{t:.4g}") for t in ticks], "bottom": bottom, "unit": unit(keep.unit),
        "direction": "down" if keep.better == "lower" else "up", "across": across, "chance": board.chance,
    }  # fmt: skip


def place(points: list[dict[str, Any]], bottom: float) -> None:
    """Give every point a free place for its label, the nearest of some; a leader joins them if it is far."""
    taken = [(p["x"] - 7, p["y"] - 7, p["x"] + 7, p["y"] + 7) for p in points]
    moves = [(dx, dy * GAP / 2) for dx in (12, 60, 140) for dy in range(-40, 41)]
    moves.sort(key=lambda move: abs(move[1]) + move[0] / 2)
    for p in sorted(points, key=lambda p: p["y"]):  # from the top, so that leaders cross less
        p["label"] = short(p["line"].label, 22)
        wide = LETTER * len(p["label"])
        tries = [
            (side, p["x"] + dx if side == "start" else p["x"] - dx - wide, p["y"] + dy)
            for dx, dy in moves for side in ("start", "end")
        ]  # fmt: skip
        inside = [t for t in tries if t[1] >= LEFT and t[1] + wide <= WIDTH and TOP + 6 <= t[2] <= bottom - 6]

        def free(t: tuple[str, float, float], wide: float = wide) -> bool:
            box = (t[1], t[2] - GAP / 2, t[1] + wide, t[2] + GAP / 2)
            return not any(box[0] < b[2] and b[0] < box[2] and box[1] < b[3] and b[1] < box[3] for b in taken)

        side, x, y = next(filter(free, inside), (inside or tries)[0])
        taken.append((x, y - GAP / 2, x + wide, y + GAP / 2))
        p |= {"anchor": side, "lx": x if side == "start" else x + wide, "ly": y}


def curves(board: Board) -> dict[str, Any]:
    """Recovery over steps with the most images, a line's mean over its cells, in the view box."""
    name, found = board.primary[1], []
    for line in board.lines:
        rows = [m["extra"] or {} for c in line.cells for m in c["measurements"] if m["name"] == name]
        points = [p for extra in rows for p in extra.get("curve", [])]
        if points:
            found.append((line, [p for p in points if p["images"] == max(q["images"] for q in points)]))
    if not found:
        return {"lines": []}
    most = max(p["steps"] for _, points in found for p in points) or 1
    bottom, right = TOP + max(PLOT, GAP * len(found)), 268.0

    def up(rate: float) -> float:
        return bottom - (bottom - TOP) * rate

    lines = []
    for line, points in found:
        path = []
        for steps in sorted({p["steps"] for p in points}):
            here = [p for p in points if p["steps"] == steps]
            rates = [p["value"] for p in here]
            low, high = (here[0]["low"], here[0]["high"]) if len(here) == 1 else (min(rates), max(rates))
            x, y = LEFT + (right - LEFT) * steps / most, up(fmean(rates))
            path.append({"steps": steps, "rate": fmean(rates), "x": x, "y": y, "ys": (up(low), up(high))})
        lines.append({"line": line, "path": path, "label": short(line.label, 17)})
    places = apart([x["path"][-1]["y"] for x in lines], TOP, bottom)
    for entry, y in zip(lines, places, strict=True):
        entry["ly"] = y
    steps = sorted({(p["steps"], p["x"]) for entry in lines for p in entry["path"]})
    return {
        "lines": lines, "up": up, "bottom": bottom, "right": right, "images": found[0][1][0]["images"],
        "steps": [s for i, s in enumerate(steps) if s[0] == most or all(abs(s[1] - t[1]) > 22 for t in steps[i + 1 :])],
    }  # fmt: skip
