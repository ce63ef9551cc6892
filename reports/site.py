"""The leaderboard as a site: boards in, the text of every page out. A page loads nothing from elsewhere.

The section of a board is the report's. Its module is given by the caller, since no file of this room
imports another.
"""

import dataclasses
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, dataclass, field
from itertools import combinations
from textwrap import dedent
from typing import Any

from markupsafe import Markup, escape

from sa_bench.analysis import cell_text, pairwise
from sa_bench.analysis.board import Board, Line
from sa_bench.analysis.wording import Notes
from sa_bench.contracts import Task
from sa_bench.core import registry
from sa_bench.core.citations import cited_bibtex
from sa_bench.core.declarations import title_label
from sa_bench.core.escaping import make_visible
from sa_bench.core.family_contracts import describe_families
from sa_bench.core.field_comments import read_comments
from sa_bench.core.method_source import MethodSource, read_method
from sa_bench.results.rows import code_of
from sa_bench.results.schema import ResultRow

MARK = '<meta name="generator" content="sa_bench site">'
"""Stands in every page, so that a folder of pages is known again."""
STANDINGS = ("method", "control", "reference", "target")  # in the order of the pages
FAMILIES = {"vae": "VAE", "ddpm": "DDPM"}
LONGEST = 60  # characters of a file's name
PROMPTS = {
    "forget": "while forgetting",
    "replay": "replay and Fisher information",
    "test": "images that are measured, and the attack",
    "kept": "the rest",
    "leakage": "other classes, for leakage",
    "captions": "captions of what replaces the concept",
}
"""Roles of a task's prompts, and what they ask for."""


@dataclass
class BoardPage:
    """A board and the address of its page."""

    board: Board
    path: str

    @property
    def rows(self) -> list[ResultRow]:
        """All results of the board, failed ones too."""
        return [row for line in self.board.lines for row in (*line.cells, *line.failed)]

    @property
    def family(self) -> str:
        """Model family of the task, in words."""
        family = self.rows[0]["task_values"]["family"]
        return FAMILIES.get(family, family.replace("_", "-"))

    @property
    def methods(self) -> list[Line]:
        """The lines of methods, without controls and floors."""
        return [line for line in self.board.lines if line.standing == "method"]

    @property
    def days(self) -> list[str]:
        """The first and the last day of its results, one if they are the same, none if unknown."""
        finished = (str(row["provenance"].get("finished", ""))[:10] for row in self.rows)
        days = sorted({day for day in finished if re.fullmatch(r"\d{4}-\d{2}-\d{2}", day)})
        return list(dict.fromkeys([*days[:1], *days[-1:]]))


@dataclass
class MethodPage:
    """A method, where it stands, and what its file says of it."""

    name: str
    title: str
    path: str
    standing: str
    summary: str
    families: str  # "" if unknown here
    source: MethodSource | None  # None for a method that is unknown here
    bibtex: str
    places: list[tuple[BoardPage, Line]] = field(default_factory=list)

    @property
    def paragraphs(self) -> list[tuple[str, str]]:
        """What its file says, in parts: (`text`, a paragraph as one line) or (`formula`, as it stands there)."""
        parts = [] if self.source is None else self.source.documentation.split("\n\n")
        return [
            ("formula", dedent(part).strip("\n"))
            if part.startswith(" ")
            else ("text", " ".join(part.split()))
            for part in parts
            if part.strip()
        ]

    def stands_on(self, pages: Sequence[BoardPage]) -> bool:
        """Tell whether it has a row on any of these boards."""
        return any(where is page for where, _ in self.places for page in pages)

    @property
    def boards(self) -> list[tuple[BoardPage, list[Line]]]:
        """Its boards, each with its lines there."""
        groups: dict[str, tuple[BoardPage, list[Line]]] = {}
        for page, line in self.places:
            groups.setdefault(page.path, (page, []))[1].append(line)
        return list(groups.values())

    def count_outcomes(self, page: BoardPage) -> list[tuple[str, list[str]]]:
        """Group the labels of its lines on a board by what they showed."""
        groups: dict[str, list[str]] = {}
        for where, line in self.places:
            if where is page:
                groups.setdefault(line.outcome.word, []).append(line.label)
        return list(groups.items())


@dataclass
class TaskPage:
    """A task and its boards."""

    name: str
    path: str
    boards: list[BoardPage] = field(default_factory=list)

    @property
    def main(self) -> BoardPage:
        """The board that describes the task: the first without rows of others, if there is one."""
        return next((page for page in self.boards if not page.board.origins), self.boards[0])

    @property
    def values(self) -> Mapping[str, Any]:
        """Its fields, as a result has them; those that came later at their defaults."""
        defaults = {f.name: f.default for f in dataclasses.fields(Task) if f.default != MISSING}
        return defaults | self.main.rows[0]["task_values"]

    @property
    def title(self) -> str:
        """What it is, in words."""
        return self.main.rows[0]["task_title"]

    @property
    def prompts(self) -> list[tuple[str, list[str]]]:
        """Its prompts by what they are for; `{}` stands for the name of a class."""
        prompts = self.values.get("prompts") or {}
        groups = [(what, list(prompts.get(role) or ())) for role, what in PROMPTS.items()]
        for name, texts in (prompts.get("families") or {}).items():
            groups.append((f"further ways to ask: {name}", list(texts)))
        return [(what, texts) for what, texts in groups if texts]


def render(
    boards: Sequence[Board],
    report: Any,
    bundles: Sequence[Mapping[str, Any]] = (),
    data_files: Sequence[str] = (),
) -> dict[str, str]:
    """Render every page of the site.

    Args:
        boards: what it shows, in the order of its first page.
        report: the module `sa_bench.reports.html`, whose board section the pages hold.
        bundles: for the page on submitting: `file`, `origin`, `sha256`, `cells`, `files` and `problem`
            of each bundle that rows come from.
        data_files: names of the files in `data/` that hold every run.

    Returns:
        The text of every page by its path in the site, such as `methods/sa.html`.
    """
    board_pages, method_pages, task_pages = list_pages(boards)
    compared = {id(page.board): pairwise.compare_first(page.board) for page in board_pages}
    by_line = {id(line): page.path for page in method_pages for _, line in page.places}
    environment = report.load_environment()
    shared = {
        "style": report.read_template("report.css") + report.read_template("site/site.css"),
        "script": report.read_template("report.js") + report.read_template("site/site.js"),
        "mark": Markup(MARK),
        "board_pages": board_pages,
        "families": _group_by_family(board_pages),
        "method_pages": method_pages,
        "task_pages": task_pages,
        "bundles": bundles,
        "data_files": data_files,
        "compare_first": lambda board: compared[id(board)],
        "link": lambda row: "",
        "pictures": report.pictures,
        "title_label": title_label,
        "mark_code": _mark_code,
        "Notes": Notes,
    }

    def fill(template: str, path: str, title: str, description: str, **values: Any) -> str:
        up = "../" * path.count("/")
        return environment.get_template(f"site/{template}.html").render(
            **shared,
            **values,
            up=up,
            here=path,
            page_title=title,
            description=description,
            placed=report.once(),
            method_page=lambda line: up + by_line[id(line)],
        )

    pages = {
        "index.html": fill(
            "index",
            "index.html",
            "Boards of forgetting · sa_bench",
            f"{len(board_pages)} boards on which methods that make generative models forget are measured.",
        ),
        "compare.html": fill(
            "compare",
            "compare.html",
            "Compare two rows · sa_bench",
            "Any two rows of a board side by side, with what is shown of their difference.",
            data=_format_json([_list_compared(p, compared[id(p.board)]) for p in board_pages]),
        ),
        "submit.html": fill(
            "submit",
            "submit.html",
            "Submit results · sa_bench",
            "How results get on a board, and how they are checked.",
        ),
    }
    for page in board_pages:
        title = f"{page.board.title}, scale {page.board.scale} · sa_bench"
        words = report.list_shown_words([page.board])
        pages[page.path] = fill(
            "board", page.path, title, page.board.headline, page=page, shown_words=words
        )
    for method in method_pages:
        pages[method.path] = fill(
            "method",
            method.path,
            f"{method.title} · sa_bench",
            method.summary or f"What the boards show of {method.title}.",
            method=method,
        )
    for task in task_pages:
        pages[task.path] = fill(
            "task",
            task.path,
            f"{task.title} · sa_bench",
            f"How the task {task.name} is made and scored.",
            task=task,
            fields=_list_fields(task.values, report.list_settings),
        )
    return pages


def list_pages(
    boards: Sequence[Board],
) -> tuple[list[BoardPage], list[MethodPage], list[TaskPage]]:
    """List the pages of boards, methods and tasks, each with an address of its own."""
    taken: set[str] = set()
    board_pages = [BoardPage(b, _name_page("boards", f"{b.task}-{b.scale}", taken)) for b in boards]
    methods: dict[tuple[str, str], MethodPage] = {}
    tasks: dict[str, TaskPage] = {}
    for page in board_pages:
        task = page.board.task
        if task not in tasks:
            tasks[task] = TaskPage(task, _name_page("tasks", task, taken))
        tasks[task].boards.append(page)
        for line in page.board.lines:
            row = (*line.cells, *line.failed)[0]
            name, code = key = row.get("label") or line.method, code_of(row)
            if key not in methods:
                path = _name_page("methods", f"{name}-{code[:8]}" if code else name, taken)
                methods[key] = _make_method_page(name, code, line, path)
            methods[key].places.append((page, line))
    order = {standing: i for i, standing in enumerate(STANDINGS)}
    in_order = sorted(
        methods.values(), key=lambda m: (order.get(m.standing, len(order)), m.title.lower())
    )
    return board_pages, in_order, list(tasks.values())


def _group_by_family(pages: Sequence[BoardPage]) -> dict[str, list[BoardPage]]:
    """Group boards by the model family of their task, in the order of the pages."""
    groups: dict[str, list[BoardPage]] = {}
    for page in pages:
        groups.setdefault(page.family, []).append(page)
    return groups


def _make_method_page(name: str, code: str, line: Line, path: str) -> MethodPage:
    """Make the page of a method: what its file says if it is known here, else what its results say.

    `code` is the sha256 of a plug-in's code, "" for a method of sa_bench. Only a method of the same
    origin is the one that is known here by its name.
    """
    entry = next((e for e in registry.list_entries("method") if e.name == name), None)
    row = (*line.cells, *line.failed)[0]
    if entry is None or bool(code) != (entry.path is not None):
        return MethodPage(
            name, name, path, line.standing, _tidy(name, row["summary"]), "", None, ""
        )
    source = read_method(name)
    return MethodPage(
        name,
        entry.title or name,
        path,
        line.standing,
        _tidy(name, entry.summary),
        describe_families(entry.supports),
        source,
        cited_bibtex(source.source) if source else "",
    )


def _tidy(name: str, summary: str) -> str:
    """Write a summary without the method's name in front and without marks of code."""
    return summary.removeprefix(f"`{name}`").lstrip(": ").replace("`", "")


def _name_page(folder: str, name: str, taken: set[str]) -> str:
    """Name a page by small letters, digits, `_` and `-`, unlike any in `taken`; it is added to them."""
    stem = re.sub(r"[^a-z0-9_]+", "-", name.lower())[:LONGEST].strip("-") or "unnamed"
    path, number = f"{folder}/{stem}.html", 1
    while path in taken:
        number += 1
        path = f"{folder}/{stem}-{number}.html"
    taken.add(path)
    return path


def _list_fields(values: Mapping[str, Any], say: Any) -> list[tuple[str, str, str]]:
    """List name, value and meaning of the fields of a task, but for its prompts and what scales change."""
    comments = read_comments(Task)
    return [
        (name, _list_values(name, value, say), comments.get(name, ""))
        for name, value in values.items()
        if name not in ("prompts", "scales", "presets", "name", "title")
    ]


def _mark_code(text: str) -> Markup:
    """Turn what stands between back quotes into code, and escape everything."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))


def _list_values(name: str, value: Any, say: Any) -> str:
    """List the values of one field; of a field with parts each by its name: `images = 50; steps = 0, 10`."""
    parts = dataclasses.asdict(value) if dataclasses.is_dataclass(value) else value
    text = say(parts if isinstance(parts, Mapping) and parts else {name: parts})
    return text.removeprefix(f"{name} = ")


def _list_compared(
    page: BoardPage, compared: tuple[list[pairwise.Comparison], int]
) -> dict[str, Any]:
    """List what is known of every row of a board and of every pair of rows, as texts to be shown."""
    board, (comparisons, _) = page.board, compared
    notes = Notes()
    words = dict(zip(board.primary, cell_text.ENDPOINTS, strict=True))
    number_of = {line.label: i for i, line in enumerate(board.lines)}
    pairs: dict[str, list[dict[str, str]]] = {}
    for c in comparisons:
        sides = sorted((number_of[c.a], number_of[c.b]))
        pairs.setdefault("-".join(map(str, sides)), []).append(
            {
                "endpoint": words[c.metric],
                "metric": f"{c.metric}; {c.better or 'neither'} is better",
                "difference": f"{c.a} − {c.b}: {pairwise.format_difference_of(c)}",
                "verdict": pairwise.name_verdict(c),
                "p": "" if c.p is None else f"{c.p:.2g}",
                "runs": f"{c.runs} on {c.bases} base{'' if c.bases == 1 else 's'}",
                "checkpoints": pairwise.format_checkpoints(c),
            }
        )
    reasons: list[str] = []
    missing: dict[str, int] = {}
    for (i, a), (j, b) in combinations(enumerate(board.lines), 2):
        if f"{i}-{j}" in pairs:
            continue
        reason = pairwise.explain_missing(a, b) or pairwise.LEFT_OUT
        if reason not in reasons:
            reasons.append(reason)
        missing[f"{i}-{j}"] = reasons.index(reason)
    return {
        "title": f"{board.title}, scale {board.scale}",
        "path": page.path,
        "rows": [_describe_row(board, line, notes) for line in board.lines],
        "pairs": pairs,
        "missing": missing,
        "reasons": reasons,
        "notes": notes.reasons,
    }


def _describe_row(board: Board, line: Line, notes: Notes) -> dict[str, Any]:
    """Describe a row of a board in texts, under the headings of the board."""
    endpoints = [line.endpoints.get(name) for name in board.primary]
    facts = {"outcome": ": ".join(filter(None, line.outcome))}
    for i, (word, endpoint) in enumerate(zip(cell_text.ENDPOINTS, endpoints, strict=True)):
        if endpoint is None or endpoint.value is None:
            facts[word] = cell_text.format_missing(endpoint, notes)
            continue
        text = cell_text.format_endpoint(endpoint, notes, unit=True, interval=False)
        if i == 2 and endpoint.base is not None:
            text = f"{cell_text.format_against_base(endpoint)} against the base model ({text})"
        facts[word] = f"{text}; {cell_text.format_small_print(endpoint)}"
    facts["cost of forgetting"] = cell_text.format_cost(line, clock=True)
    facts["runs"] = cell_text.count_runs(line)
    facts["in words"] = line.sentence
    return {"label": line.label, "tag": line.tag, "facts": facts}


def _format_json(value: Any) -> Markup:
    """Format a value as JSON that can stand in a page: no letter of it ends or begins markup."""
    text = json.dumps(_show(value), separators=(",", ":"))
    for letter in "<>&'":
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    return Markup(text)


def _show(value: Any) -> Any:
    """Make control letters visible in every text of a value."""
    if isinstance(value, str):
        return make_visible(value)
    if isinstance(value, Mapping):
        return {_show(key): _show(member) for key, member in value.items()}
    if isinstance(value, Iterable):
        return [_show(member) for member in value]
    return value
