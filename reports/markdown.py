"""The Markdown report: the same boards as tables for documents and pull requests."""

from collections.abc import Sequence
from statistics import fmean

from sa_bench.analysis import attacks, cell_text, concepts, details
from sa_bench.analysis.board import Board, Endpoint, Line
from sa_bench.analysis.pairwise import (
    COMPARED,
    compare_all_pairs,
    format_checkpoints,
    format_difference_of,
)
from sa_bench.analysis.published import claim_verdicts, count_verdicts
from sa_bench.analysis.ranking import make_boards
from sa_bench.analysis.wording import (
    FRONT,
    Notes,
    bundle_note,
    describe_precision,
    describe_protocol,
)
from sa_bench.core.escaping import escape_markdown as escape
from sa_bench.core.escaping import escape_paragraph, fence_code
from sa_bench.core.version import __version__
from sa_bench.results.format import describe_machine, format_number, format_percent, format_unit
from sa_bench.results.schema import Measurement, ResultRow


def render(results: Sequence[ResultRow]) -> str:
    """Render one section per board: answer, endpoints, other metrics, recovery by dose, commands.

    Before them stands one over concepts where boards differ in their concept alone.
    """
    boards = make_boards(results)
    sections = [*_concept_tables(boards), *map(_render_board, boards)]
    return "# Results\n\n" + "\n".join(sections).rstrip() + "\n"


def _concept_tables(boards: Sequence[Board]) -> list[str]:
    """Render a section for each group of boards that differ in their concept alone."""
    return [
        "\n".join(
            [
                f"## {escape(table.title)}",
                "",
                concepts.ABOUT,
                "",
                *_make_table(
                    [escape(title) for title in table.head],
                    [
                        [
                            escape(text + (f" ({small_print})" if small_print else ""))
                            for text, small_print in row
                        ]
                        for row in table.rows
                    ],
                ),
                "",
            ]
        )
        for table in concepts.make_concept_tables(boards)
    ]


def _render_board(board: Board) -> str:
    """Render the section of one board."""
    missing = Notes()
    lines = [
        f"## {escape(board.title)} · scale {escape(board.scale)}",
        "",
        escape_paragraph(board.headline),
        "",
    ]
    everywhere, notes_by_line = cell_text.list_notes(board)
    for line, notes in zip(board.lines, notes_by_line, strict=True):
        lines += [f"- **{escape(line.label)}**{_format_tag(line)}: {escape(line.sentence)}"]
        lines += [f"  - {escape(note)}" for note in notes]
    if everywhere:
        lines += ["", *(f"- Every row: {escape(note)}" for note in everywhere)]
    lines += [
        "",
        *_endpoint_table(board, missing),
        "",
        _describe_runs(board),
        "",
        _format_protocol(board),
        "",
        *([escape(bundle_note(board)), ""] if board.origins else []),
        *_metric_table(board, missing),
        *_list_reasons(missing),
        *_extra_table(board),
        *_attack_table(board),
        *_recovery_table(board),
        *_judge_table(board),
        *_comparison_table(board),
        *_claim_table(board),
        *_published_table(board),
    ]
    return "\n".join([*lines, *_describe_provenance(board), ""])


def _format_tag(line: Line) -> str:
    return f" ({line.tag})" if line.tag else ""


def _measurements_by_name(board: Board) -> dict[str, Measurement]:
    """Map names of measurements to one measurement each, for its unit and direction."""
    return {m["name"]: m for line in board.lines for c in line.cells for m in c["measurements"]}


def _format_cell(endpoint: Endpoint | None, missing: Notes) -> str:
    """Format a value with its interval; without a value, the number of the reason in `missing`."""
    return escape(cell_text.format_endpoint(endpoint, missing))


def _make_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Make the lines of a Markdown table."""
    return [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows)]


def _list_reasons(missing: Notes) -> list[str]:
    """List why numbers are missing, below the tables that say n/a."""
    lines = [f"- n/a \\[{i}\\]: {escape(reason)}" for i, reason in enumerate(missing.reasons, 1)]
    return [*lines, ""] if lines else []


def _endpoint_table(board: Board, missing: Notes) -> list[str]:
    """Make the table of the three endpoints, a row per line of the board."""
    measurements = _measurements_by_name(board)
    ranked = any(line.rank for line in board.lines)
    head = [
        *(["#"] if ranked else []),
        "method",
        "outcome",
        *(
            escape(f"{name} ({_describe_unit(measurements[name])})")
            for name in board.primary
            if name in measurements
        ),
    ]
    head += ["Pareto front", "runs", escape(board.cost_title)]
    rows = []
    for line in board.lines:
        cells = [cell_text.mark_rank(line)] if ranked else []
        cells += [escape(line.label) + _format_tag(line), line.outcome.word]
        cells += [
            _format_cell(line.endpoints.get(name), missing) if line.cells else cell_text.DASH
            for name in board.primary
            if name in measurements
        ]
        rows.append(
            [
                *cells,
                escape(line.pareto_label),
                cell_text.count_runs(line),
                cell_text.format_cost(line),
            ]
        )
    return _make_table(head, rows)


def _describe_unit(m: Measurement) -> str:
    """Describe a measurement's better direction and its unit; rates include their % themselves."""
    unit = format_unit(m["unit"]).strip()
    return (m["better"] or "no direction") + (f", {unit}" if unit else "")


def _describe_runs(board: Board) -> str:
    """Describe what is in brackets, and which base models and seeds the board has."""
    text = f"In brackets: of one run its 95 % interval, of two to four their points, of more the lowest and highest. {FRONT}"
    bases = sorted({c["base_seed"] for line in board.lines for c in line.cells})
    seeds = sorted({c["seed"] for line in board.lines for c in line.cells})
    if board.pretrained:
        return f"{text} Forgetting seeds {seeds}; base {escape(board.pretrained)}."
    return f"{text} Base models {bases}, forgetting seeds {seeds}."


def _format_protocol(board: Board) -> str:
    """Format the protocol with everything escaped but its mention of the column `base`."""
    protocol, separator, rest = describe_protocol(board).rpartition(" Column `base`")
    return escape(protocol) + separator + rest


def _metric_table(board: Board, missing: Notes) -> list[str]:
    """Make the table of all metrics that are not endpoints."""
    measurements = _measurements_by_name(board)
    names = [name for name in measurements if name not in board.primary]
    head = ["metric", "better", "base", *(escape(line.label) for line in board.lines)]
    rows = []
    for name in names:
        unit = measurements[name]["unit"]
        endpoints = [line.endpoints.get(name) for line in board.lines]
        base = next((e.base for e in endpoints if e is not None and e.base is not None), None)
        row = [
            escape(name),
            escape(measurements[name]["better"] or "–"),
            escape(format_number(base, unit)),
        ]
        rows.append(row + [_format_cell(e, missing) for e in endpoints])
    return [*_make_table(head, rows), ""] if rows else []


def _extra_table(board: Board) -> list[str]:
    """Make the table of what metrics report besides their value, by line."""
    runs = [f"{len(line.cells)} run{'' if len(line.cells) == 1 else 's'}" for line in board.lines]
    head = [
        "metric",
        "beside it",
        *(f"{escape(x.label)} ({n})" for x, n in zip(board.lines, runs, strict=True)),
    ]
    rows = [
        [escape(row.metric), escape(row.label)]
        + [
            escape(number) + (f" ({small_print})" if small_print else "") or "–"
            for number, small_print in row.cells
        ]
        for row in details.details_table(board)
    ]
    title = "Beside the metrics: means over the runs, with the smallest n."
    return [title, "", *_make_table(head, rows), ""] if rows else []


def _attack_table(board: Board) -> list[str]:
    """Make the table of what each attack brings back, and of the worst."""
    table = attacks.make_attack_table(board)
    if table is None:
        return []
    rows = [[escape(cell) for cell in row] for row in table.rows]
    return [attacks.ABOUT, "", *_make_table([escape(title) for title in table.head], rows), ""]


def _recovery_table(board: Board) -> list[str]:
    """Make the table of recovery by dose: means over cells of the best start at each rate and steps.

    Recovery as a loss, without a judge, has no such table.
    """
    if board.excess:
        return []
    rates: dict[tuple[str, str, str], dict[str, list[float]]] = {}
    for line in board.lines:
        for cell in line.cells:
            for m in cell["measurements"]:
                best: dict[tuple[str, str, str], float] = {}
                grid = (m["extra"] or {}).get("grid", {}) if m["name"] == board.primary[1] else {}
                for key, recovered in grid.items():
                    images, _, rate, steps = key.split("/")
                    dose = (images, rate, steps)
                    best[dose] = max(best.get(dose, 0.0), recovered)
                for dose, recovered in best.items():
                    rates.setdefault(dose, {}).setdefault(line.label, []).append(recovered)
    if not rates:
        return []
    head = ["real images", "rate", "steps", *(escape(line.label) for line in board.lines)]
    rows = []
    for dose in sorted(rates, key=lambda d: (int(d[0]), float(d[1]), int(d[2]))):
        rates_of_lines = [rates[dose].get(line.label) for line in board.lines]
        rows.append(
            [
                *map(escape, dose),
                *(format_percent(fmean(f)) if f else "n/a" for f in rates_of_lines),
            ]
        )
    title = (
        "Recovery by dose: the best start at each, by the designated judge alone, mean over runs."
    )
    return [title, "", *_make_table(head, rows), ""]


def _published_table(board: Board) -> list[str]:
    """Make the table of published numbers beside ours, with verdicts."""
    rows = []
    for e in board.verdicts:
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
    return ["Against what was published:", "", *_make_table(head, rows), ""] if rows else []


def _comparison_table(board: Board) -> list[str]:
    """Make the table of pairwise comparisons of methods."""
    comparisons = compare_all_pairs(board)
    if not comparisons:
        return []
    rows = []
    for comparison in comparisons:
        p = "–" if comparison.p is None else f"{comparison.p:.2g}"
        runs = f"{comparison.runs} on {comparison.bases}"
        cells = (
            f"{comparison.a} − {comparison.b}",
            f"{comparison.metric} ({comparison.better})",
            format_difference_of(comparison),
            p,
            runs,
            format_checkpoints(comparison),
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
    return [COMPARED, "", *_make_table(head, rows), ""]


def _claim_table(board: Board) -> list[str]:
    """Make the table of published claims and the board's verdicts."""
    verdicts = claim_verdicts(board)
    rows = [
        [
            escape(cell)
            for cell in (v.claim.claim, f"{v.claim.source} ({v.claim.kind})", v.evidence, v.verdict)
        ]
        for v in verdicts
    ]
    head = ["claim", "source", "here", "verdict"]
    summary = f"Claims (orderings by p < .05 after Holm): {count_verdicts(verdicts)}."
    return [summary, "", *_make_table(head, rows), ""] if rows else []


def _judge_table(board: Board) -> list[str]:
    """Make the table of the forgetting rate by each judge; their disagreement is in no interval."""
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
            values = [
                j["value"]
                for c in line.cells
                for m in c["measurements"]
                if m["name"] == board.primary[0]
                for j in m["judges"] or []
                if j["judge"] == name
            ]
            row.append(format_percent(fmean(values)) if values else "n/a")
        rows.append(row)
    head = [escape(f"{board.primary[0]} by judge"), *(escape(line.label) for line in board.lines)]
    return [*_make_table(head, rows), ""] if rows else []


def _describe_provenance(board: Board) -> list[str]:
    """Describe how to repeat the board: commands, machine, versions, precision, failed cells."""
    cells = [c for line in board.lines for c in (*line.cells, *line.failed)]
    commands = dict.fromkeys(filter(None, (c["provenance"]["command"] for c in cells)))
    provenance = cells[0]["provenance"]
    precision = dict.fromkeys(filter(None, (describe_precision(c["provenance"]) for c in cells)))
    versions = ", ".join(f"{k} {v}" for k, v in provenance["versions"].items())
    failed = [
        f"- {escape(c['method'])}: {escape(c['error'])}"
        for line in board.lines
        for c in line.failed
    ]
    return [
        *(["Repeat it:", "", *fence_code(commands), ""] if commands else []),
        f"{escape(describe_machine(provenance['hardware']))}; {escape(versions)}; written by sa\\_bench {__version__}.",
        *(f"{escape(text[0].upper() + text[1:])}." for text in precision),
        *(["", "Failed cells:", "", *failed] if failed else []),
    ]
