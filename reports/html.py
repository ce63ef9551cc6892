"""The HTML report: result rows in, one self-contained page out."""

import base64
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image
from safetensors.numpy import load_file

from sa_bench import __version__
from sa_bench.board import Board, Endpoint, Line, boards, percent
from sa_bench.cards import judge_card

COLUMNS = 10  # images in a row of a grid


def render(results: Sequence[Mapping[str, Any]]) -> str:
    """The page for all `results`, one section a board."""
    folder = Path(__file__).parent / "templates"
    environment = Environment(
        loader=FileSystemLoader(folder), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.globals |= {
        "value": value, "interval": interval, "grid": grid, "tradeoff": tradeoff, "curves": curves,
        "percent": percent, "card": judge_card, "version": __version__, "units": units, "cost": cost, "abs": abs,
        "titles": titles, "recovery_curves": recovery_curves,
    }  # fmt: skip
    return environment.get_template("report.html").render(boards=boards(results))


def units(board: Board) -> dict[str, str | None]:
    """Measurement name to unit."""
    return {m["name"]: m["unit"] for line in board.lines for c in line.cells for m in c["measurements"]}


def titles(board: Board) -> dict[str, Mapping[str, Any]]:
    """Measurement name to its last row (for title, direction, source)."""
    return {m["name"]: m for line in board.lines for c in line.cells for m in c["measurements"]}


def value(number: float | None, unit: str | None) -> str:
    """A number for people; n/a where there is none."""
    if number is None:
        return "n/a"
    return percent(number) if unit in ("rate", "probability") else f"{number:.4g}"


def interval(endpoint: Endpoint, unit: str | None) -> str:
    """`low – high`, or nothing."""
    if endpoint.low is None or endpoint.high is None:
        return ""
    low, high = value(endpoint.low, unit), value(endpoint.high, unit)
    return f"{low.removesuffix(' %')} – {high}"


def cost(line: Line) -> str:
    """CPU seconds of forgetting, and the peak memory of the process."""
    found = [c["cost"].get("forget", {}) for c in line.cells]
    seconds = [f["cpu_s"] for f in found if "cpu_s" in f]
    return f"{sum(seconds) / len(seconds):.0f} s CPU" if seconds else "n/a"


def grid(line: Line, name: str, base: bool) -> str:
    """A data URI: the same seeds of set `name` before (`base`) or after forgetting; empty if not there."""
    if not line.cells:
        return ""
    path = Path(line.cells[0]["folder"]) / f"{name}{'-base' if base else ''}.safetensors"
    if not path.exists():
        return ""
    stored = load_file(path)
    images, labels = stored["images"], stored["labels"]
    if name == "retain":
        rows = [np.flatnonzero(labels == c)[: COLUMNS // 5] for c in np.unique(labels)]
        images = images[np.concatenate(rows)]
    tiles = images[: 2 * COLUMNS]
    height, width, channels = tiles.shape[1:]
    down = -(-len(tiles) // COLUMNS)
    sheet = np.zeros((down * height, COLUMNS * width, channels), np.uint8)
    for i, tile in enumerate(tiles):
        y, x = divmod(i, COLUMNS)
        sheet[y * height : (y + 1) * height, x * width : (x + 1) * width] = tile
    buffer = io.BytesIO()
    Image.fromarray(sheet.squeeze() if channels == 1 else sheet).save(buffer, "WEBP", lossless=True)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()


def tradeoff(board: Board) -> dict[str, Any]:
    """Points of the forgetting-retention plot in a 0..1 frame, with intervals and axis ticks."""
    forget, keep = board.primary[0], board.primary[2]
    points = []
    for line in board.lines:
        x, y = line.endpoints.get(forget), line.endpoints.get(keep)
        if x is not None and y is not None and x.value is not None and y.value is not None:
            points.append((line, x, y))
    if not points:
        return {"points": []}
    lows = [p[2].low if p[2].low is not None else p[2].value for p in points]
    highs = [p[2].high if p[2].high is not None else p[2].value for p in points]
    bottom, top = min(lows), max(highs)  # type: ignore[type-var]
    pad = max(1.0, 0.15 * (top - bottom))  # type: ignore[operator]
    bottom, top = bottom - pad, top + pad  # type: ignore[operator]

    def up(v: float | None, otherwise: float | None) -> float:
        return ((v if v is not None else otherwise) - bottom) / (top - bottom)  # type: ignore[operator]

    return {
        "points": [
            {
                "label": line.label, "standing": line.standing, "x": x.value, "x_low": x.low or 0.0,
                "x_high": x.high if x.high is not None else x.value, "y": up(y.value, 0), "y_low": up(y.low, y.value),
                "y_high": up(y.high, y.value), "text": f"{percent(x.value)}, {y.value:.2f}",
            }
            for line, x, y in points
        ],
        "ticks": [{"y": i / 4, "text": f"{bottom + (top - bottom) * i / 4:.1f}"} for i in range(5)],
    }  # fmt: skip


def recovery_curves(board: Board) -> list[dict[str, Any]]:
    """For each line the recovery curve with the most images: steps, rate and interval."""
    found = []
    for line in board.lines:
        rows = [m for c in line.cells[:1] for m in c["measurements"] if m["name"] == "recovery"]
        points = (rows[0]["extra"] or {}).get("curve", []) if rows else []
        if points:
            most = max(p["images"] for p in points)
            found.append({"line": line, "points": [p for p in points if p["images"] == most], "images": most})
    return found


def curves(board: Board) -> dict[str, Any]:
    """The recovery curves with the largest number of steps, for the axis."""
    found = recovery_curves(board)
    return {"curves": found, "most": max((p["steps"] for c in found for p in c["points"]), default=1) or 1}
