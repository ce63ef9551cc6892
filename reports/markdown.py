"""The Markdown report: the same boards as tables for documents and pull requests."""

from collections.abc import Mapping, Sequence
from typing import Any

from sa_bench.analysis import details
from sa_bench.analysis.board import Board, Endpoint, Line
from sa_bench.analysis.pairwise import (
    COMPARED,
    compare_all_pairs,
    format_checkpoints,
    format_difference_of,
)
from sa_bench.analysis.published import claim_verdicts
from sa_bench.analysis.ranking import make_boards
from sa_bench.analysis.wording import (
    FRONT,
    Notes,
    bundle_note,
    describe_precision,
    describe_protocol,
    format_interval,
)
from sa_bench.core.escaping import escape_markdown as escape
from sa_bench.core.escaping import escape_paragraph, fence_code
from sa_bench.core.version import __version__
from sa_bench.results.format import describe_machine, format_number, format_percent


def render(results: Sequence[Mapping[str, Any]]) -> str:
    """One section a board: the answer, the endpoints, all other metrics, recovery by dose, how to repeat."""
    return "# Results\n\n" + "\n".join(map(_section, make_boards(results))).rstrip() + "\n"


def _section(board: Board) -> str:
    missing = Notes()
    parts = [
        f"## {escape(board.title)} · scale {escape(board.scale)}",
        "",
        escape_paragraph(board.headline),
        "",
    ]
    parts += [
        f"- **{escape(line.label)}**{_mark(line)}: {escape(line.sentence)}" for line in board.lines
    ]
    parts += [
        "",
        *_endpoints(board, missing),
        "",
        _notes(board),
        "",
        _protocol(board),
        "",
        *([escape(bundle_note(board)), ""] if board.origins else []),
        *_others(board, missing),
        *_reasons(missing),
        *_beside(board),
        *_recovery(board),
        *_judges(board),
        *_comparisons(board),
        *_claims(board),
        *_ledger(board),
    ]
    return "\n".join([*parts, *_provenance(board), ""])


def _mark(line: Line) -> str:
    return f" ({line.tag})" if line.tag else ""


def _rows(board: Board) -> dict[str, Mapping[str, Any]]:
    return {m["name"]: m for line in board.lines for c in line.cells for m in c["measurements"]}


def _cell(endpoint: Endpoint | None, unit: str | None, missing: Notes) -> str:
    if endpoint is None or endpoint.value is None:
        return f"n/a \\[{missing.number(endpoint)}\\]"
    text = format_number(endpoint.value, unit)
    found = format_interval(endpoint, " – ").removesuffix(" %")
    return escape(f"{text} ({found})" if found else text)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows)]


def _reasons(missing: Notes) -> list[str]:
    """Why numbers are missing, under the tables that say n/a."""
    found = [f"- n/a \\[{i}\\]: {escape(reason)}" for i, reason in enumerate(missing.reasons, 1)]
    return [*found, ""] if found else []


def _endpoints(board: Board, missing: Notes) -> list[str]:
    facts = _rows(board)
    head = [
        "#",
        "method",
        *(escape(f"{name} ({_measure(facts[name])})") for name in board.primary if name in facts),
    ]
    head += ["recoverable?", "Pareto front", "runs", escape(board.cost_title)]
    rows = []
    for line in board.lines:
        cells = [str(line.rank or "–"), escape(line.label) + _mark(line)]
        cells += [
            _cell(line.endpoints.get(name), facts[name]["unit"], missing)
            if line.cells
            else "failed"
            for name in board.primary
            if name in facts
        ]
        recoverable = "the floor" if line.standing == "reference" else line.recoverable
        rows.append(
            [
                *cells,
                escape(recoverable),
                escape(line.pareto_label),
                str(len(line.cells)),
                _cost(line),
            ]
        )
    return _table(head, rows)


def _measure(m: Mapping[str, Any]) -> str:
    """A measurement's better direction and its unit; rates carry their % themselves."""
    return (m["better"] or "no direction") + (
        "" if m["unit"] in (None, "rate", "probability") else f", {m['unit']}"
    )


def _cost(line: Line) -> str:
    return "n/a" if line.seconds is None else f"{line.seconds:.0f}"


def _notes(board: Board) -> str:
    text = f"In brackets: of one run its 95 % interval, of two to four their points, of more the lowest and highest. {FRONT}"
    bases = sorted({c["base_seed"] for line in board.lines for c in line.cells})
    seeds = sorted({c["seed"] for line in board.lines for c in line.cells})
    if board.pretrained:
        return f"{text} Forgetting seeds {seeds}; base {escape(board.pretrained)}."
    return f"{text} Base models {bases}, forgetting seeds {seeds}; every judge and every base ships with the package."


def _protocol(board: Board) -> str:
    told, ours, rest = describe_protocol(board).rpartition(" Column `base`")
    return escape(told) + ours + rest


def _others(board: Board, missing: Notes) -> list[str]:
    facts = _rows(board)
    names = [name for name in facts if name not in board.primary]
    head = ["metric", "better", "base", *(escape(line.label) for line in board.lines)]
    rows = []
    for name in names:
        unit = facts[name]["unit"]
        found = [line.endpoints.get(name) for line in board.lines]
        base = next((e.base for e in found if e is not None and e.base is not None), None)
        row = [
            escape(name),
            escape(facts[name]["better"] or "–"),
            escape(format_number(base, unit)),
        ]
        rows.append(row + [_cell(e, unit, missing) for e in found])
    return [*_table(head, rows), ""] if rows else []


def _beside(board: Board) -> list[str]:
    """What metrics say besides their value, by line."""
    runs = [f"{len(line.cells)} run{'' if len(line.cells) == 1 else 's'}" for line in board.lines]
    head = [
        "metric",
        "beside it",
        *(f"{escape(x.label)} ({n})" for x, n in zip(board.lines, runs, strict=True)),
    ]
    rows = [
        [escape(row.metric), escape(row.label)]
        + [escape(number) + (f" ({small})" if small else "") or "–" for number, small in row.cells]
        for row in details.details_table(board)
    ]
    title = "Beside the metrics: means over the runs, with the smallest n."
    return [title, "", *_table(head, rows), ""] if rows else []


def _recovery(board: Board) -> list[str]:
    """Means over cells of the best start at each rate and number of steps; of a loss without a judge nothing."""
    if board.excess:
        return []
    rates: dict[tuple[str, str, str], dict[str, list[float]]] = {}
    for line in board.lines:
        for cell in line.cells:
            for m in cell["measurements"]:
                best: dict[tuple[str, str, str], float] = {}
                grid = (m["extra"] or {}).get("grid", {}) if m["name"] == board.primary[1] else {}
                for key, hit in grid.items():
                    images, _, rate, steps = key.split("/")
                    dose = (images, rate, steps)
                    best[dose] = max(best.get(dose, 0.0), hit)
                for dose, hit in best.items():
                    rates.setdefault(dose, {}).setdefault(line.label, []).append(hit)
    if not rates:
        return []
    head = ["real images", "rate", "steps", *(escape(line.label) for line in board.lines)]
    rows = []
    for dose in sorted(rates, key=lambda d: (int(d[0]), float(d[1]), int(d[2]))):
        found = [rates[dose].get(line.label) for line in board.lines]
        rows.append(
            [*map(escape, dose), *(format_percent(sum(f) / len(f)) if f else "n/a" for f in found)]
        )
    title = (
        "Recovery by dose: the best start at each, by the designated judge alone, mean over runs."
    )
    return [title, "", *_table(head, rows), ""]


def _ledger(board: Board) -> list[str]:
    rows = []
    for e in board.ledger:
        ours = format_number(e["ours"], e["unit"])
        if "low" in e:
            low, high = format_number(e["low"], e["unit"]), format_number(e["high"], e["unit"])
            ours += f" (one new run by one new judge: {low} to {high})"
        cells = (
            e["label"],
            e["metric"],
            f"{format_number(e['published'], e['unit'])} ({e['source']})",
            ours,
            e["verdict"],
        )
        rows.append([escape(cell) for cell in cells])
    head = ["method", "metric", "published", "ours", "verdict"]
    return ["Against what was published:", "", *_table(head, rows), ""] if rows else []


def _comparisons(board: Board) -> list[str]:
    found = compare_all_pairs(board)
    if not found:
        return []
    rows = []
    for row in found:
        p = "–" if row.p is None else f"{row.p:.2g}"
        runs = f"{row.runs} on {row.bases}"
        cells = (
            f"{row.a} − {row.b}",
            f"{row.metric} ({row.better})",
            format_difference_of(row),
            p,
            runs,
            format_checkpoints(row),
        )
        rows.append([escape(cell) for cell in cells])
    head = [
        "methods",
        "endpoint",
        "methods differ: by",
        "p (Holm)",
        "runs on bases",
        "checkpoints differ",
    ]
    return [COMPARED, "", *_table(head, rows), ""]


def _claims(board: Board) -> list[str]:
    found = claim_verdicts(board)
    rows = [
        [
            escape(cell)
            for cell in (v.claim.claim, f"{v.claim.source} ({v.claim.kind})", v.evidence, v.verdict)
        ]
        for v in found
    ]
    head = ["claim", "source", "here", "verdict"]
    return ["Claims:", "", *_table(head, rows), ""] if rows else []


def _judges(board: Board) -> list[str]:
    """The primary forgetting rate by each judge: their disagreement, never part of an interval."""
    names = dict.fromkeys(
        j["judge"]
        for line in board.lines
        for c in line.cells
        for m in c["measurements"]
        if m["name"] == board.primary[0]
        for j in m["judges"] or []
    )
    rows = []
    for name in names:
        row = [escape(name)]
        for line in board.lines:
            found = [
                j["value"]
                for c in line.cells
                for m in c["measurements"]
                if m["name"] == board.primary[0]
                for j in m["judges"] or []
                if j["judge"] == name
            ]
            row.append(format_percent(sum(found) / len(found)) if found else "n/a")
        rows.append(row)
    head = [escape(f"{board.primary[0]} by judge"), *(escape(line.label) for line in board.lines)]
    return [*_table(head, rows), ""] if rows else []


def _provenance(board: Board) -> list[str]:
    cells = [c for line in board.lines for c in (*line.cells, *line.failed)]
    commands = dict.fromkeys(c["provenance"]["command"] for c in cells)
    facts = cells[0]["provenance"]
    precision = dict.fromkeys(filter(None, (describe_precision(c["provenance"]) for c in cells)))
    versions = ", ".join(f"{k} {v}" for k, v in facts["versions"].items())
    failed = [
        f"- {escape(c['method'])}: {escape(c['error'])}"
        for line in board.lines
        for c in line.failed
    ]
    return [
        "Repeat it:",
        "",
        *fence_code(commands),
        "",
        f"{escape(describe_machine(facts['hardware']))}; {escape(versions)}; written by sa\\_bench {__version__}.",
        *(f"{escape(text[0].upper() + text[1:])}." for text in precision),
        *(["", "Failed cells:", "", *failed] if failed else []),
    ]
