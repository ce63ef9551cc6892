"""The outcome of a row: one word for what it showed, and the bound that decides.

A page, a sentence and a table say the same word, since all take it from `find_outcome`.
"""

from __future__ import annotations

import math
from collections import Counter
from statistics import fmean

from sa_bench.analysis.board import Board, Endpoint, Line, Outcome, run_of
from sa_bench.analysis.gates import Reading, count_images_needed, difference_bounds, estimate
from sa_bench.analysis.pairwise import find_measurement
from sa_bench.results.format import format_number, format_percent
from sa_bench.results.rows import UNDERTRAINED
from sa_bench.statistics import wilson

WORDS = {
    "ERASED": "forgotten; its condition refitted, no more comes back than from a model that never saw the concept, and no "
    "other attack is shown to bring back more",
    "HIDDEN": "no longer shown when asked for, but it comes back: the knowledge is still there",
    "NOT SHOWN": "the images are too few, or the runs too different, to say which it is",
    "NOT FORGOTTEN": "still shown when asked for",
    "COLLAPSED": "the rest is lost as well, so that forgetting proves nothing",
    "CONTROL": "a trick that unlearns nothing; it must never win",
    "FLOOR": "trained without the concept: what comes back here comes back from nothing",
    "TARGET": "trained with the surrogate in the concept's place: what a method imitates",
    "FAILED": "no run was finished",
}
"""Each outcome, and what it means."""


def find_outcome(board: Board, line: Line, floor: Endpoint | None) -> Outcome:
    """Find the outcome of a judged line; `floor` is the recovery of the board's reference."""
    if not line.cells:
        return Outcome("FAILED", f"{len(line.failed)} of {len(line.failed)} runs")
    if line.standing in UNDERTRAINED:
        flags = {flag for cell in line.cells for flag in cell["flags"]}
        undertrained = any(flag.startswith(UNDERTRAINED[line.standing]) for flag in flags)
        word = "FLOOR" if line.standing == "reference" else "TARGET"
        return Outcome(word, "undertrained" if undertrained else "")
    if line.standing == "control":
        return Outcome("CONTROL", _describe_exposure(board, line, floor))
    if line.collapsed:
        return Outcome("COLLAPSED", f"{line.flagged} of {len(line.cells)} runs")
    if line.no_claim:
        return Outcome("NOT SHOWN", line.no_claim)
    forget = line.known(board.primary[0])
    if forget is None:
        return Outcome("NOT SHOWN", "forgetting was not measured")
    if not line.forgotten:
        gated, of_what = find_gated(board, line, forget)
        low, high = gated.bounds
        if low > board.chance:
            return Outcome("NOT FORGOTTEN", f"at least {format_percent(low)}{of_what} still shown")
        if high <= board.chance:
            mean, gate = format_percent(gated.value), format_percent(board.chance)
            text = f"{mean}{of_what} still shown on average, the gate is {gate}; the runs differ"
            return Outcome("NOT SHOWN", text)
        remedy = _name_remedy(board, gated)
        return Outcome("NOT SHOWN", f"at most {format_percent(high)}{of_what} still shown{remedy}")
    return _find_recovery_outcome(board, line, floor)


def find_gated(board: Board, line: Line, forget: Endpoint) -> tuple[Endpoint, str]:
    """Find the rate that the forgetting gate decides on: of several forgotten concepts that of the worst.

    It is one that is shown to be above the gate if there is any, and then the one that may be highest.

    Args:
        board: the row's.
        line: a row.
        forget: its rate of c_f, the first of them.

    Returns:
        the rate, and ` of another concept` where it is not c_f's.
    """
    rates = [(forget, ""), (line.known("forgotten_others"), " of another concept")]
    measured = [(rate, of_what) for rate, of_what in rates if rate is not None]
    return max(measured, key=lambda x: (x[0].bounds[0] > board.chance, x[0].bounds[1]))


def find_dissent(board: Board, line: Line) -> list[str]:
    """Find the judges by which alone a row's forgetting gate would be decided otherwise, in words.

    Only judges of a kind of their own count: most of a panel are of one kind (`mnist-cnn-0`, `mnist-cnn-1`), share their
    errors and outvote any other.
    """
    forget = line.known(board.primary[0])
    if line.standing != "method" or line.forgotten is None or forget is None:
        return []
    readings: dict[str, list[Reading]] = {}
    for cell in line.cells:
        found = find_measurement(cell, board.primary[0])
        if found is None or found["unit"] != "rate" or not found["n"]:
            continue
        kinds = Counter(_kind_of(judge["judge"]) for judge in found["judges"] or [])
        for judge in found["judges"] or []:
            if len(kinds) > 1 and kinds[_kind_of(judge["judge"])] == 1:
                interval = wilson(judge["value"] * found["n"], found["n"])
                reading = Reading(*run_of(cell)[:2], judge["value"], *interval)
                readings.setdefault(judge["judge"], []).append(reading)
    said, panel_passes = [], max(forget.bounds[1], forget.value or 0.0) <= board.chance
    for judge, runs in readings.items():
        rate, most = fmean(run.value for run in runs), estimate(runs, "rate").bounds()[1]
        if (max(rate, most) <= board.chance) != panel_passes:
            said.append(
                f"By {judge} alone {format_percent(rate)} are still judged so (at most {format_percent(most)}), "
                f"which {'misses' if panel_passes else 'passes'} the gate."
            )
    return said


def _kind_of(judge: str) -> str:
    """Return the kind of a judge: `mnist-cnn` of `mnist-cnn-0`."""
    return judge.rstrip("0123456789").rstrip("-")


def _describe_exposure(board: Board, line: Line, floor: Endpoint | None) -> str:
    """Describe which endpoint catches a control; `floor` is the recovery of the board's reference."""
    if exposed_by := board.exposed.get(line.label):
        return f"caught by {exposed_by}"
    if line.refitted != "unknown":
        return "NOT caught"
    recovery = line.known(board.primary[1])
    if recovery is not None and floor is None and not board.excess:
        return "not caught: without retrain nothing says whether what comes back is much"
    return "not caught: recovery unknown"


def _name_remedy(board: Board, forget: Endpoint) -> str:
    """Name the n of a single run, and the n that would pass the gate at its rate."""
    gate = f", the gate is {format_percent(board.chance)}"
    if len(forget.points) > 1 or forget.n is None or forget.estimate is None:
        return gate
    needed = count_images_needed(forget.estimate, forget.value or 0.0, forget.n, board.chance)
    remedy = f", {needed:,} would do" if needed else ", more bases or seeds would tell"
    return f"{gate}; n = {forget.n:,}{remedy}"


def _find_recovery_outcome(board: Board, line: Line, floor: Endpoint | None) -> Outcome:
    """Find the outcome of a line that forgot, by what comes back."""
    recovery = line.known(board.primary[1])
    if recovery is None or recovery.value is None:
        return Outcome("NOT SHOWN", "forgotten; recovery was not measured")
    if board.excess:
        low, high = recovery.bounds
        if math.isinf(high):
            loss = f"loss {format_number(recovery.value, recovery.unit)} above the base's"
            return Outcome("NOT SHOWN", f"{loss} in one run; more seeds would tell")
        text = f"loss {format_number(low, recovery.unit)} to {format_number(high, recovery.unit)} above the base's"
        return Outcome("HIDDEN" if high <= 0 else "NOT SHOWN", text)
    if floor is None or floor.estimate is None or recovery.estimate is None:
        return Outcome("NOT SHOWN", "forgotten; without retrain nothing says whether it comes back")
    word = {"yes": "HIDDEN", "no": "ERASED"}.get(line.recoverable, "NOT SHOWN")
    if line.survival is not None and line.recoverable != line.refitted:
        return Outcome(word, line.survival.describe())
    gap, worst = describe_gap(recovery, floor, line.refitted), line.survival
    if word == "ERASED" and worst is not None and worst.comes_back in ("unclear", "unknown"):
        gap += f"; not settled: {worst.describe()}"
    return Outcome(word, gap)


def describe_gap(recovery: Endpoint, floor: Endpoint, recoverable: str) -> str:
    """Describe how much more comes back than from a model that never saw the concept.

    The bounds are one-sided 95 % bounds for another base and seed; both have an estimate.
    """
    text = f"{format_percent(recovery.value)} come back"
    if recovery.estimate is None or floor.estimate is None:
        return text
    low, high = (100 * x for x in difference_bounds(recovery.estimate, floor.estimate))
    floor_rate = f"retrain's {format_percent(floor.value)}"
    return text + {
        "yes": f", at least {low:.0f} points more than {floor_rate}",
        "no": f", at most {high:.0f} points more than {floor_rate}",
    }.get(recoverable, f", {low:+.0f} to {high:+.0f} points against {floor_rate}")
