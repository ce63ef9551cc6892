"""From result rows to a board: who forgot, who can be undone, at what cost. No torch, no pandas.

Gate: c_f is forgotten if its top-1 rate and the upper bound of that rate, for another base model and
seed (`gates`), are at most chance (one over the number of classes) and the base model's own rate is
above it: what the base model does not show, no method made it forget. (The bound is that of a typical
run. Where one base of three keeps c_f and two do not, the mean is higher than that.) Recoverable is decided against the
`retrain` rows of the same board by the difference of the two rates: if it is shown to be positive,
the method only hid the concept; if it is shown to be at most `MORE`, it did not. A method is
ranked, by retention, if it passes the gate, is shown not to be recoverable and all endpoints have a
value.
Controls and references are never ranked.

Methods that change weights and methods that act around the base model (threat models `weights` and
`service`) are ranked apart: whoever has the weights of the second has the base model.

Beside the rank stands the Pareto front: the methods that forgot and that no other such method
dominates. Dominance compares two lines alone, so that a further row never changes the relation of
two others, and a rank never contradicts it. Collapsed lines, controls and references are on no
front.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from statistics import fmean
from typing import Any

from sa_bench.analysis.attacks import combine, find_floors, find_survival, judge_gap
from sa_bench.analysis.board import Board, Endpoint, Line, run_of
from sa_bench.analysis.gates import Reading, estimate
from sa_bench.analysis.outcomes import find_gated, find_outcome
from sa_bench.analysis.pairwise import FEWEST, differences_by_base
from sa_bench.analysis.published import find_published, values_by_judge
from sa_bench.analysis.published import verdict_of_runs as verdict_of
from sa_bench.analysis.wording import describe_line, describe_outcome
from sa_bench.contracts import Task, flatten, key_values
from sa_bench.core.counts import describe_count
from sa_bench.core.declarations import find_control
from sa_bench.core.errors import SaBenchError
from sa_bench.results.format import format_percent
from sa_bench.results.rows import code_of, metric_of, version_of
from sa_bench.results.schema import ResultRow
from sa_bench.results.threats import THREATS, threat_of
from sa_bench.statistics import ALPHA, compute_tail, holm, over_bases

TOLERATED = 0.1  # share of a method's runs that the guard may flag before it counts as collapsed


def make_boards(results: Sequence[ResultRow]) -> list[Board]:
    """Sort results into boards; another task, scale, override or fingerprint makes another board."""
    groups: dict[str, list[tuple[list[ResultRow], dict[str, Any]]]] = {}
    for row in results:
        # The list of metrics changes no value, and fingerprints tell whether metrics agree. Fields
        # that were added later are left out at their defaults, so that older results stand on the
        # same board.
        values = {
            k: v
            for k, v in key_values(row["task_values"], Task).items()
            if k not in ("metrics", "sample_seed")
        }
        protocols = groups.setdefault(_to_key([row["task"], row["scale"], values]), [])
        fingerprints = {m["name"]: m["fingerprint"] for m in row["measurements"]}
        for rows, known_fingerprints in protocols:
            if all(
                known_fingerprints.get(name, fingerprint) == fingerprint
                for name, fingerprint in fingerprints.items()
            ):
                rows.append(row)
                known_fingerprints |= fingerprints
                break
        else:
            protocols.append(([row], fingerprints))
    boards = []
    for protocols in groups.values():
        first_fingerprints = protocols[0][1]
        for rows, known_fingerprints in protocols:
            changed = [
                name
                for name, fingerprint in known_fingerprints.items()
                if first_fingerprints.get(name, fingerprint) != fingerprint
            ]
            remark = f" · another fingerprint: {', '.join(changed)}" if changed else ""
            boards.append(_make_board(rows, remark))
    return boards


def too_many_boards(boards: Sequence[Board], what: str) -> SaBenchError:
    """Build the error that says which boards there are, and how to choose one of them.

    Args:
        boards: more than one.
        what: the beginning of the sentence: `A figure shows one board`.
    """
    names = dict.fromkeys(f"{b.task} at scale {b.scale}" for b in boards)
    if len(names) < len(boards):  # another concept, say, or other settings
        names = dict.fromkeys(f"{b.title}, scale {b.scale}" for b in boards)
    one_each = len({b.task for b in boards}) == len(boards)
    remedy = "Give --task" if one_each else "Give the folders of one board's cells"
    return SaBenchError(f"{what}, but there are {len(boards)}: {'; '.join(names)}. {remedy}.")


def _to_key(value: Any) -> str:
    """Turn a JSON value into a text that is equal for equal values."""
    return json.dumps(value, sort_keys=True)


def _collect_lines(rows: list[ResultRow]) -> list[Line]:
    """Sort the rows of one protocol into lines by method, its code and version, fields and origin.

    The same cell may lie in several run folders; counted twice it would look like a second run. One
    from a stranger's bundle is another measurement and stands in a line of its own.
    """
    versions = _find_versions(rows)
    unique: dict[tuple[str, str], ResultRow] = {}
    for row in rows:
        of_line = _to_key([*_settings_of(row), versions[id(row)]])
        key = (of_line, _to_key(run_of(row)))
        unique[key] = merge_results(unique[key], row) if key in unique else row
    lines: dict[str, Line] = {}
    for (of_line, _), row in unique.items():
        line = lines.setdefault(
            of_line,
            Line(row["method"], row["method"], row["standing"], [], [], threat=threat_of(row)),
        )
        model, draw = row["artifacts"].get("model"), run_of(row)[-1]
        known_models = [(cell["artifacts"].get("model"), run_of(cell)[-1]) for cell in line.cells]
        if row["status"] != "done":
            line.failed.append(row)
        elif (model, draw) not in known_models or model is None:
            line.cells.append(row)
    return list(lines.values())


def _describe_overrides(row: ResultRow) -> str:
    """Describe what a run changed of its task: `two in its place, train_precision=fp32`; "" if nothing.

    Another concept is named, since the task's title names the concept that it has by default.
    """
    return ", ".join(
        f"{row['concept']} in its place" if name == "concept" else f"{name}={value}"
        for name, value in row["overrides"].items()
        if name != "sample_seed"
    )


def _make_board(rows: list[ResultRow], remark: str) -> Board:
    """Make the board of rows of one protocol; `remark` is added to its title."""
    lines = _collect_lines(rows)
    first = rows[0]
    title, changes = first["task_title"], _describe_overrides(first)
    if changes:
        title += f" ({changes})"
    # A feature-space metric is named with its extractor: `kid` is measured as `kid[judge-mnist]`.
    names = {metric_of(m): m["name"] for row in rows for m in row["measurements"]}
    metrics: Sequence[str] = first["task_values"]["primary"]
    primary = tuple(names.get(metric, metric) for metric in metrics)
    classes = len(first["task_values"]["classes"])
    board = Board(
        first["task"],
        title + remark,
        first["scale"],
        first["concept"],
        classes,
        primary,
        lines,
        gate=first["task_values"].get("gate", 0.0),
        trick=find_control("prompts" if first["task_values"].get("prompts") else "classes"),
        changes=changes,
    )
    _label_lines(board.lines)
    for line in board.lines:
        measured = dict.fromkeys(m["name"] for cell in line.cells for m in cell["measurements"])
        line.endpoints = {name: _make_endpoint(line.cells, name) for name in measured}
        line.collapsed = _find_collapse(line)
    floors = find_floors(board)
    floor = floors.get(board.primary[1])
    for line in board.lines:
        _judge(board, line, floor)
        line.survival = find_survival(board, line, floors)
        line.recoverable = combine(line)
    _mark_front(board)
    _rank(board)
    for line in board.lines:
        line.outcome = find_outcome(board, line, floor)
        line.sentence = describe_line(board, line, floor) + reproduction_note(board, line)
    board.headline = describe_outcome(board, floor)
    all_flags = {flag for line in board.lines for cell in line.cells for flag in cell["flags"]}
    if smoke_flag := next((flag for flag in all_flags if flag.startswith("smoke run")), None):
        board.headline = f"{smoke_flag[0].upper()}{smoke_flag[1:]}."
    board.verdicts = [entry for line in board.lines for entry in _published_verdicts(line)]
    return board


def _settings_of(row: ResultRow) -> list[Any]:
    """List what tells the lines of a board apart: method, name, code, fields and origin."""
    name = row.get("label", "")
    return [row["method"], name, code_of(row), row["fields"], row.get("origin", "")]


def _find_versions(rows: Sequence[ResultRow]) -> dict[int, int | None]:
    """Find the version of its method that made each row, by the row's id.

    Rows of before it was recorded count as of the earliest version that others of the same settings have.
    """
    known: dict[str, int] = {}
    for row in rows:
        if (version := version_of(row)) is not None:
            key = _to_key(_settings_of(row))
            known[key] = min(version, known.get(key, version))
    return {
        id(row): known.get(_to_key(_settings_of(row))) if version is None else version
        for row in rows
        for version in [version_of(row)]
    }


def _find_collapse(line: Line) -> str | None:
    """Return the guard's flag if more than `TOLERATED` of the method's runs are shown to bear it.

    So many flags have a probability of at most a tenth where the guard flags a tenth of the runs: one of one, two of up to
    five, three of up to eleven. It also counts the flagged runs of the line. None if the line does not count as collapsed.
    """
    flags = [
        f
        for cell in line.cells
        if (f := next((x for x in cell["flags"] if x.startswith("collapse")), None))
    ]
    line.flagged, runs = len(flags), len(line.cells)
    if not flags or compute_tail(len(flags), runs, TOLERATED) > TOLERATED + 1e-9:
        return None
    return flags[0] + (f" ({len(flags)} of {runs} runs)" if runs > 1 else "")


def merge_results(first: ResultRow, second: ResultRow) -> ResultRow:
    """Merge two results of one cell: take the finished one; if both finished, keep every measurement."""
    if first["status"] != "done" or second["status"] != "done":
        return second if second["status"] == "done" else first
    if len(second["measurements"]) > len(first["measurements"]):
        first, second = second, first
    known_names = {m["name"] for m in first["measurements"]}
    further_measurements = [m for m in second["measurements"] if m["name"] not in known_names]
    flags = list(dict.fromkeys([*first["flags"], *second["flags"]]))
    return {
        **first,
        "measurements": [*first["measurements"], *further_measurements],
        "flags": flags,
    }


def _published_verdicts(line: Line) -> list[dict[str, Any]]:
    """List what was published for this line's metrics, with the verdict of all its runs together."""
    verdicts = []
    for name in line.endpoints:
        measured = [
            (run_of(cell)[:2], m)
            for cell in line.cells
            for m in cell["measurements"]
            if m["name"] == name
        ]
        entry = find_published(line.cells[0], metric_of(measured[0][1]))
        if entry is None:
            continue
        # another draw of images changes nothing where real ones are measured: that is no further run
        distinct = {
            _to_key([run, values_by_judge(m)]): values_by_judge(m)
            for run, m in measured
            if m["value"] is not None
        }
        by_run = [*distinct.values()]
        verdicts.append(
            {
                "label": line.label,
                "metric": name,
                "unit": line.endpoints[name].unit,
                "ours": line.endpoints[name].value,
                **verdict_of(entry, line.cells[0], by_run),
            }
        )
    return verdicts


def _label_lines(lines: list[Line]) -> None:
    """Label lines of one method by the fields, and the code, in which they differ.

    Images from elsewhere may bring a name of their own in the method's place. A line from a
    stranger's bundle also gets the bundle's origin.
    """
    fields = {id(line): flatten((line.cells or line.failed)[0]["fields"]) for line in lines}
    codes = {id(line): code_of((line.cells or line.failed)[0]) for line in lines}
    versions = {
        id(line): next((v for c in (*line.cells, *line.failed) if (v := version_of(c))), None)
        for line in lines
    }
    names = {id(line): (line.cells or line.failed)[0].get("label") or line.method for line in lines}
    for line in lines:
        own_fields = fields[id(line)]
        siblings = [other for other in lines if names[id(other)] == names[id(line)]]
        differing = [
            k
            for k in own_fields
            if len({_to_key(fields[id(other)].get(k)) for other in siblings}) > 1
        ]
        settings = [f"{k}={str(own_fields[k]).removesuffix('.0')}" for k in differing]
        if len({codes[id(other)] for other in siblings}) > 1:
            settings.insert(0, f"code {codes[id(line)][:8] or 'of sa_bench'}")
        same = [other for other in siblings if fields[id(other)] == own_fields]
        if len({versions[id(other)] for other in same} - {None}) > 1:
            settings.insert(0, f"version {versions[id(line)]}")
        line.label = " ".join([names[id(line)], *settings]) + (
            f" · {line.origin}" if line.origin else ""
        )


def reproduction_note(board: Board, line: Line) -> str:
    """Describe how a stranger's line agrees with other lines of the same settings, image by image.

    Returns:
        "" for our own lines, and where no other line has the same settings and runs.
    """
    note = ""
    for other in board.lines if line.origin else ():
        if other is line or other.origin >= line.origin or not line.same_settings(other):
            continue
        other_samples = {run_of(c): c["artifacts"].get("samples") for c in other.cells}
        samples = {run_of(c): c["artifacts"].get("samples") for c in line.cells}
        if shared := [key for key in samples if key in other_samples]:
            identical = sum(samples[key] == other_samples[key] for key in shared)
            note += f" Repeats {describe_count(len(shared), 'run')} of {other.label}, "
            note += f"{identical} of them with the very same images."
    return note


def _make_endpoint(cells: Sequence[ResultRow], name: str) -> Endpoint:
    """Summarise measurement `name` over the cells of a line."""
    measurements = [m for cell in cells for m in cell["measurements"] if m["name"] == name]
    readings = [
        Reading(*run_of(cell)[:2], value, m["low"], m["high"])
        for cell in cells
        for m in cell["measurements"]
        if m["name"] == name and (value := m["value"]) is not None and math.isfinite(value)
    ]
    valued = [m for m in measurements if m["value"] is not None and math.isfinite(m["value"])]
    reason = next(
        (m["reason"] or "the value is not finite" for m in measurements if m not in valued), None
    )
    if not valued:
        unit, better = measurements[0]["unit"], measurements[0]["better"]
        return Endpoint(
            None, None, None, None, (), reason, missing=len(cells), unit=unit, better=better
        )
    first, points = valued[0], tuple(float(reading.value) for reading in readings)
    base_values = [m["base"] for m in valued if m["base"] is not None]
    single = len(points) == 1
    return Endpoint(
        fmean(points),
        first["low"] if single else min(points),
        first["high"] if single else max(points),
        fmean(base_values) if base_values else None,
        points,
        reason,
        estimate(readings, first["unit"]),
        len(cells) - len(valued),
        first["unit"],
        first["better"],
        min((m["n"] for m in valued if m["n"]), default=None),
        first["n_unit"] or "image",
    )


def _judge(board: Board, line: Line, floor: Endpoint | None) -> None:
    """Decide whether a line forgot, whether it is recoverable, and which endpoint exposes a control."""
    forget, recovery = line.known(board.primary[0]), line.known(board.primary[1])
    if forget is not None:
        line.no_claim = _no_claim(board, forget)
        gated, _ = find_gated(board, line, forget)
        most = max(gated.bounds[1], gated.value or 0.0)
        line.forgotten = None if line.no_claim else most <= board.chance
    if recovery is not None and recovery.value is not None and board.excess:
        line.refitted = "yes" if recovery.bounds[0] <= 0 else "unclear"
    elif recovery is not None and recovery.value is not None and floor is not None:
        line.refitted = judge_gap(recovery, floor)
    if line.standing == "control":
        is_shown = forget is not None and forget.bounds[0] > board.chance
        if line.refitted == "yes" and not is_shown:
            board.exposed[line.label] = "recovery"
        elif line.forgotten is False:
            board.exposed[line.label] = "forgetting"


def _no_claim(board: Board, forget: Endpoint) -> str:
    """Say why a rate of c_f proves nothing: what the base model does not show, no method made it forget.

    Returns:
        "" if the rate can support a claim.
    """
    if forget.base is None:
        return "the base model was not measured"
    if forget.better == "lower" and forget.base <= board.chance:
        return f"the base model itself shows {board.concept} in {format_percent(forget.base)} of its images"
    return ""


def _cost_of(endpoint: Endpoint) -> float:
    """Return the value with the sign that makes less better."""
    return (1 if endpoint.better == "lower" else -1) * (endpoint.value or 0.0)


def dominates(a: Line, b: Line, primary: Sequence[str]) -> bool:
    """Tell whether `a` is at least as good as `b` on all three endpoints and shown to be better on one.

    Shown to be better means that their bounds for another base and seed do not overlap or, from `FEWEST`
    shared runs on, that the methods' difference has p < .05 after Holm over the three. Only these two
    lines count. The values order lines, so no circle can arise. Methods of two threat models are not
    compared.
    """
    if a.threat != b.threat:
        return False
    pairs = [
        (x, y)
        for name in primary
        if (x := a.known(name)) is not None and (y := b.known(name)) is not None
    ]
    if len(pairs) < len(primary) or any(x.better not in ("lower", "higher") for x, _ in pairs):
        return False
    if any(_cost_of(x) > _cost_of(y) for x, y in pairs):
        return False
    apart = (
        x.bounds[1] < y.bounds[0] if x.better == "lower" else x.bounds[0] > y.bounds[1]
        for x, y in pairs
    )
    return any(apart) or _shown_better(a, b, primary)


def _shown_better(a: Line, b: Line, primary: Sequence[str]) -> bool:
    """Tell whether the difference over shared runs favours `a` on an endpoint with p < .05 after Holm."""
    p_values, favours_a = [], []
    for name in primary:
        by_base = differences_by_base(name, a, b)
        if sum(map(len, by_base.values())) >= FEWEST:
            difference, _, _, p = over_bases(by_base)
            p_values.append(p)
            favours_a.append(
                difference < 0 if a.endpoints[name].better == "lower" else difference > 0
            )
    return any(
        p is not None and p < ALPHA and favourable
        for p, favourable in zip(holm(p_values), favours_a, strict=True)
    )


def _mark_front(board: Board) -> None:
    """Mark the Pareto front: lines that forgot, did not collapse, have all endpoints and are not dominated.

    A row of a stranger's bundle, whose numbers are not verified, takes none of ours off the front.
    """
    candidates = [
        line
        for line in board.lines
        if line.standing == "method"
        and line.forgotten
        and not line.collapsed
        and all(map(line.known, board.primary))
    ]
    for line in candidates:
        rivals = [x for x in candidates if x is not line and (line.origin or not x.origin)]
        dominating_labels = [
            rival.label for rival in rivals if dominates(rival, line, board.primary)
        ]
        line.front, line.dominated_by = not dominating_labels, tuple(dominating_labels)


def _rank(board: Board) -> None:
    """Rank methods that are shown to have erased by retention; then sort the board's lines.

    What is unclear has no rank: the fewer the images and runs, the more would be. Only where recovery is an excess, which
    shows no erasure, methods that are not shown to be recoverable are ranked. Ties in retention are broken by recovery and
    then by forgetting, as `dominates` would.
    """

    def order(line: Line) -> list[float]:
        return [_cost_of(line.endpoints[name]) for name in reversed(board.primary)]

    shown = ("no", "unclear") if board.excess else ("no",)

    candidates = [
        line
        for line in board.lines
        if line.standing == "method"
        and line.forgotten
        and line.recoverable in shown
        and line.known(board.primary[2])
        and not line.collapsed
    ]
    for threat in THREATS:
        for place, line in enumerate(
            sorted((x for x in candidates if x.threat == threat), key=order), 1
        ):
            line.rank = place
    standing = {"method": 0, "reference": 1, "target": 2, "control": 3}

    def group(line: Line) -> tuple[int, int]:  # controls stay together, whatever they change
        return standing.get(line.standing, 0), THREATS.index(
            line.threat
        ) if line.standing == "method" else 0

    board.lines.sort(key=lambda x: (group(x), x.rank or math.inf, not x.forgotten, not x.cells))
