"""Over concepts: what a method does for a concept that nobody tried. The unit of replication is the concept.

Boards that differ in their concept alone are put side by side. Each endpoint of a row is a value per concept, of
which `random_effects` makes the mean, its 95 % interval and that of the value measured of another concept:

- a rate as asin √p, with the variance that its gate uses (`gates`); the mean turned back is that of a typical concept;
- any other value as its change against the base model. Images and base are those of both models, so that what varies is
  seen between concepts, and no variance is added.

One base model is that of every concept of a family here, so another base may move all concepts together; no interval
over concepts covers that.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sa_bench.analysis.attacks import list_attacks
from sa_bench.analysis.board import Board, Endpoint, Line
from sa_bench.contracts import Task, key_values
from sa_bench.results.format import format_change, format_number, format_unit, is_rate
from sa_bench.results.rows import code_of, metric_of
from sa_bench.statistics.random_effects import RandomEffects, summarise

FEWEST = 3  # concepts of a row, below which nothing is said of another one
LEFT_OUT = ("concept", "relabel_to", "metrics", "sample_seed")
"""Values of a task in which boards of one table may differ; another concept may bring another `relabel_to`."""
ABOUT = (
    "Means over concepts with their 95 % interval, and that of the value measured of another concept; "
    "of values that are no rates the change against the base model. Random effects: Paule and Mandel's variance between "
    "concepts, Hartung and Knapp's interval. All concepts share the base models: another base model is not covered."
)
"""What the table says, for the text above it."""


@dataclass(frozen=True)
class ConceptTable:
    """A row for each method over the concepts of several boards, as text."""

    task: str
    scale: str
    concepts: tuple[str, ...]
    head: tuple[str, ...]
    rows: tuple[tuple[tuple[str, str], ...], ...]
    """Of each method its cells: (text, small print)."""

    @property
    def title(self) -> str:
        """Heading of the table."""
        return f"Over {len(self.concepts)} concepts: {self.task} · scale {self.scale}"


def make_concept_tables(boards: Sequence[Board]) -> list[ConceptTable]:
    """Make a table for every group of boards that differ in their concept alone, of at least `FEWEST` concepts."""
    groups: dict[str, dict[str, Board]] = {}
    for board in boards:
        groups.setdefault(_protocol_of(board), {}).setdefault(board.concept, board)
    return [_make_table(list(group.values())) for group in groups.values() if len(group) >= FEWEST]


def _protocol_of(board: Board) -> str:
    """Describe all that a board measures but its concept, as a text that is equal for equal protocols."""
    first = next(cell for line in board.lines for cell in (*line.cells, *line.failed))
    values = key_values(first["task_values"], Task)
    kept = {name: value for name, value in values.items() if name not in LEFT_OUT}
    return json.dumps([board.task, board.scale, kept], sort_keys=True)


def _make_table(boards: Sequence[Board]) -> ConceptTable:
    """Make the table of one group of boards."""
    names = [_drop_extractor(name) for name in boards[0].primary]
    names += [
        name
        for name in dict.fromkeys(name for board in boards for name in list_attacks(board))
        if name not in names
    ]
    lines: dict[str, list[Line]] = {}
    for board in boards:
        for line in board.lines:
            if line.cells:
                lines.setdefault(_settings_of(line), []).append(line)
    summaries = [
        [_describe([_find_by_metric(line, name) for line in of_method]) for name in names]
        for of_method in lines.values()
    ]
    shown = [i for i in range(len(names)) if any(row[i][1] for row in summaries)]
    rows = []
    for of_method, row in zip(lines.values(), summaries, strict=True):
        outcomes = Counter(line.outcome.word for line in of_method)
        words = ", ".join(f"{word} {count}" for word, count in outcomes.most_common())
        texts = (of_method[0].label, str(len(of_method)), words)
        rows.append((*((text, "") for text in texts), *(row[i] for i in shown)))
    return ConceptTable(
        boards[0].task,
        boards[0].scale,
        tuple(board.concept for board in boards),
        ("method", "concepts", "outcomes", *(names[i] for i in shown)),
        tuple(rows),
    )


def _drop_extractor(name: str) -> str:
    """Drop the extractor from the name of a measurement: `kid` of `kid[judge-mnist]`."""
    return name.partition("[")[0]


def _settings_of(line: Line) -> str:
    """Describe method, name, code, fields and origin of a line: the same ones on each board are one row."""
    cell = line.cells[0]
    settings: list[Any] = [line.method, cell.get("label", ""), code_of(cell), cell["fields"]]
    return json.dumps([*settings, line.origin], sort_keys=True)


def _find_by_metric(line: Line, metric: str) -> Endpoint | None:
    """Find a line's endpoint of a metric, whatever extractor it names."""
    names = {metric_of(m): m["name"] for cell in line.cells for m in cell["measurements"]}
    return line.known(names.get(metric, metric))


def summarise_endpoints(endpoints: Sequence[Endpoint]) -> RandomEffects | None:
    """Summarise one endpoint of a method, given for each concept; None with fewer than `FEWEST` usable.

    Returns:
        For rates on the scale of asin √p, for other values of the change against the base model.
    """
    if endpoints and is_rate(endpoints[0].unit):
        estimates = [e.estimate for e in endpoints if e.estimate is not None and e.estimate.rate]
        values = [e.mean for e in estimates]
        variances = [e.error**2 for e in estimates]
    else:
        values = [e.value - e.base for e in endpoints if e.value is not None and e.base is not None]
        variances = [0.0] * len(values)
    return summarise(values, variances) if len(values) >= FEWEST else None


def _describe(of_concepts: Sequence[Endpoint | None]) -> tuple[str, str]:
    """Describe an endpoint over concepts: `1.2 %` and `0.4 % to 2.6 %, another: 0.0 % to 7.1 %`.

    Returns:
        The mean and the small print below it; "–" and "" without a summary.
    """
    endpoints = [e for e in of_concepts if e is not None]
    summary = summarise_endpoints(endpoints)
    if summary is None:
        return "–", ""
    unit = endpoints[0].unit
    if is_rate(unit):
        texts = [
            format_number(math.sin(min(max(y, 0), math.pi / 2)) ** 2, unit) for y in summary[:5]
        ]
    else:
        texts = [format_change(y, unit) for y in summary[:5]]
    ends = [text.removesuffix(format_unit(unit)) for text in texts[1:]]
    return texts[0], f"{ends[0]} to {ends[1]}, another: {ends[2]} to {ends[3]}"
