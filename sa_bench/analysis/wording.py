"""The words of a board: a verdict and a sentence per line, the headline, the protocol. No torch."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable

from sa_bench.analysis.board import Board, Endpoint, Line
from sa_bench.analysis.gates import MORE
from sa_bench.analysis.outcomes import describe_gap, find_dissent, find_gated
from sa_bench.core.counts import describe_count
from sa_bench.results import dose
from sa_bench.results.format import format_change, format_number, format_percent
from sa_bench.results.schema import Provenance
from sa_bench.results.sealing import EDITED


class Notes:
    """Numbered reasons why values are missing, each listed once; table cells show the number."""

    def __init__(self) -> None:
        """Start without any reason."""
        self.reasons: list[str] = []

    def number(self, endpoint: Endpoint | None) -> int:
        """Return the number, from 1, of the reason why `endpoint` has no value."""
        return self.number_reason(endpoint.reason if endpoint else None)

    def number_reason(self, reason: str | None) -> int:
        """Return the number, from 1, of a reason; None stands for "not measured"."""
        reason = reason or "not measured"
        if reason not in self.reasons:
            self.reasons.append(reason)
        return self.reasons.index(reason) + 1


def describe_precision(provenance: Provenance) -> str:
    """Name the precision of base training and forgetting; "" for older results, which lack it."""
    precision = provenance.get("precision") or {}
    base, forgetting = (precision.get(part, "unknown") for part in ("base", "forgetting"))
    return f"training: base {base}, forgetting {forgetting}" if precision else ""


FEW = 5  # below this number of runs points are printed: their span would look like an interval


def format_interval(endpoint: Endpoint, between: str) -> str:
    """Format the spread of an endpoint, its parts joined by `between`.

    Returns:
        One run: its 95 % interval. Two to four runs: their points. More: the lowest and the highest.
        "" if there is no interval.
    """
    runs = len(endpoint.points)
    if 1 < runs < FEW:
        values, between = sorted(endpoint.points), ", "
    elif endpoint.low is None or endpoint.high is None:
        return ""
    else:
        values = [endpoint.low, endpoint.high]
    texts = [format_number(v, endpoint.unit) for v in values]
    return between.join([*(t.removesuffix(" %") for t in texts[:-1]), texts[-1]])


def bundle_note(board: Board) -> str:
    """Describe whose rows stand on the board beside our own, and how to verify them."""
    others = [origin for origin in board.origins if origin != EDITED]
    notes = []
    if others:
        notes.append(
            f"From bundles, as told: {', '.join(others)}. Whether recomputation agrees: python -m sa_bench verify FILE."
        )
    if EDITED in board.origins:
        notes.append(
            f"Rows called “{EDITED}” do not have the hashes that were written with them; nothing rests on them."
        )
    return " ".join(notes)


def _describe_loss(keep: Endpoint | None) -> str:
    """Describe what the rest lost against the base model: how much, and whether that is worse."""
    if keep is None or keep.value is None or keep.base is None:
        return "what the rest lost is not known"
    change = format_change(keep.value - keep.base, keep.unit)
    if keep.better is None:
        return f"the rest: {change} against the base"
    if not re.search("[1-9]", change):
        return "the rest: as in the base"
    is_better = (keep.better == "higher") == (keep.value > keep.base)
    return f"the rest: {change.lstrip('+-')} {'better' if is_better else 'worse'} than in the base"


FRONT = (
    "Pareto front: of the methods of one threat model that forgot and did not collapse, those that no other dominates. One "
    "dominates another if it is at least as good on all three endpoints and shown to be better on one: their bounds for "
    "another base and seed do not overlap or, from five shared runs on, the methods differ (p < .05, Holm)."
)


RANKED = "Ranked are methods that are shown to have erased, by what was kept."

TERMS = {
    "condition": "the numbers in the model by which it is asked for the concept",
    "gate": (
        "the most that may still be shown: a row is forgotten if the upper bound of what it still shows is at most the "
        "gate, which is chance unless the task sets another"
    ),
    "floor": "what comes back in retrain, a model that never saw the concept; more than that was hidden",
    "rank": RANKED,
    "Pareto front": FRONT.removeprefix("Pareto front: "),
    "small print": (
        "95 % intervals; of several runs the points, from five on the lowest and the highest. A bar in a cell shows the "
        "same; its tick is the gate, the floor or the base model, and an arrow stands for a value beyond the edge"
    ),
    "plots": (
        "filled circle: method; square: control; triangle: reference or target; arrow: beyond the edge, with its value; "
        "dotted: the gate. Recovery is the worst case over a published grid of starts and rates"
    ),
}
"""Words of a page beside the outcomes, and what they mean."""


def describe_gates(board: Board) -> str:
    """Describe the bounds at which a row of this board is forgotten, hidden or erased."""
    gate = format_percent(board.gate) if board.gate else f"chance (1 in {board.classes})"
    text = f"Forgotten: the upper bound is at most {gate}."
    if board.excess:
        return (
            f"{text} What comes back is a loss above the base model's: 0 means that nothing was unlearned, and no "
            "reference says how much more would be erasure."
        )
    return (
        f"{text} Hidden: the difference to retrain, the floor, is shown to be above 0; erased: it is shown to be at most "
        f"{100 * MORE:.0f} points."
    )


def _describe_values(keep: Endpoint) -> str:
    """Describe the two values behind a loss: ` (12.38 against 0.32)`; "" where one is not known."""
    if keep.value is None or keep.base is None:
        return ""
    return (
        f" ({format_number(keep.value, keep.unit)} against {format_number(keep.base, keep.unit)})"
    )


def format_outcome(line: Line) -> str:
    """Format a line's outcome with the bound that decides it: `HIDDEN: 98 % come back …`."""
    return ": ".join(filter(None, line.outcome))


def describe_line(board: Board, line: Line, floor: Endpoint | None) -> str:
    """Describe the line's three endpoints in a sentence, and what failed."""
    errors = [cell["error"] or "no reason given" for cell in line.failed]
    if not line.cells:
        return f"Failed: {errors[0]}"
    clauses = []
    forget, recovery, keep = (line.known(name) for name in board.primary)
    if forget is not None:
        rate = (
            f"{format_percent(forget.value)} of its images of {board.concept} are still judged so"
        )
        if forget.bounds[1] < 1:
            rate += f" (at most {format_percent(forget.bounds[1])} for another base and seed)"
        clauses.append(rate)
    if line.threat == "service" and line.standing != "reference":
        base_rate = (
            ""
            if forget is None or forget.base is None
            else f", which shows {board.concept} in {format_percent(forget.base)}"
        )
        clauses.append(f"whoever has its weights has the base model{base_rate}")
    if recovery is not None and board.excess:
        clauses.append(_describe_refit(recovery, line.refitted, line))
    elif recovery is not None:
        when = f" when its condition is fitted again{_describe_dose(line)}"
        if floor is not None and line.standing != "reference":
            text = describe_gap(recovery, floor, line.refitted)
        else:
            text = f"{format_percent(recovery.value)} come back"
        clauses.append(text.replace(" come back", f" come back{when}", 1))
    worst = line.survival
    if worst is not None and worst.comes_back == "yes" and worst.attack != board.primary[1]:
        clauses.append(
            f"its worst attack, the one furthest above its floor, brings back {worst.describe()}"
        )
    if keep is not None:
        clauses.append(_describe_loss(keep))
    text = "; ".join(clauses)
    repeated = not board.excess and line.outcome.word in ("ERASED", "HIDDEN")  # the bound is below
    text = f" {text[0].upper()}{text[1:]}." if text else ""
    text = f"{line.outcome.word if repeated else format_outcome(line)}.{text}"
    if line.collapsed:
        text += f" {line.collapsed}."
    elif line.flagged:
        text += f" The guard flags {line.flagged} of {len(line.cells)} runs."
    if not line.collapsed:
        text += "".join(f" {dissent}" for dissent in find_dissent(board, line))
    if errors:
        text += f" {len(errors)} of {len(errors) + len(line.cells)} cells failed: {errors[0]}"
    return text


def _describe_dose(line: Line) -> str:
    """Describe the dose of recovery: ` in 100 steps of 8 images`; "" if the task gives none."""
    task = line.cells[0]["task_values"]
    spent = dose.recovery_dose(task, max(task.get("recovery_images") or [0]))
    return f" in {spent['steps']:,} steps of {spent['batch']:,} images" if spent["samples"] else ""


def _describe_refit(recovery: Endpoint, recoverable: str, line: Line) -> str:
    """Describe recovery as a loss above the base model's, with the dose of the attack.

    A small dose is no evidence of erasure.
    """
    value, spent = recovery.value or 0.0, dose.recovery_dose(line.cells[0]["task_values"])
    dose_text = f" ({dose.describe_dose(spent)})" if spent["samples"] else ""
    side = "above" if value >= 0 else "below"
    text = f"with its words fitted again{dose_text} the loss is {abs(value):.2g} {side} the base model's"
    if recoverable != "yes":
        too_small = 0 < spent["samples"] < dose.PUBLISHED and value > 0
        return text + (", which at so small a dose is no evidence of erasure" if too_small else "")
    reservation = "" if value <= 0 else " (its interval reaches 0)"
    return text + f"{reservation}, so nothing is shown to be unlearned"


def _name_gate(board: Board) -> str:
    """Name what the forgetting rate is compared with."""
    return "the task's gate" if board.gate else "chance"


def _list_labels(lines: Iterable[Line]) -> str:
    """List the first three labels of lines, and the number of the rest."""
    labels = [line.label for line in lines]
    return ", ".join(labels[:3]) + (f" and {len(labels) - 3} more" if len(labels) > 3 else "")


def describe_outcome(board: Board, floor: Endpoint | None) -> str:
    """Describe who won and why, which controls were caught, and what is missing for such a statement."""
    methods = [line for line in board.lines if line.standing == "method"]
    weights, services = (
        [x for x in methods if x.threat == threat] for threat in ("weights", "service")
    )
    text = _describe_winner(board, weights or services, floor) if weights or not services else ""
    if services:
        text += f"{' ' if text else ''}Of a service that can only be asked: {_describe_winner(board, services, floor)}"
    caught = [name for name, endpoint in board.exposed.items() if endpoint == "recovery"]
    if caught:
        text += f" Controls caught: {', '.join(caught)} (by recovery)."
    not_caught = [
        x for x in board.lines if x.standing == "control" and x.label not in board.exposed
    ]
    if floor is not None and not_caught:
        text += f" WARNING: the control {_list_labels(not_caught)} is not exposed, so this board can be won by a trick."
    if not any(line.standing == "control" for line in board.lines):
        controls = ",".join(filter(None, ("original", board.trick)))
        text += f" No control stands beside it: add --method {controls}."
    return text


def _describe_winner(board: Board, methods: list[Line], floor: Endpoint | None) -> str:
    """Describe who leads among `methods` of one threat model, or why nobody can be named."""
    finished = [line for line in methods if line.cells]
    forgot = [line for line in finished if line.forgotten]
    whole = [line for line in forgot if not line.collapsed]
    ranked = [line for line in finished if line.rank]
    hidden = [line for line in whole if line.recoverable == "yes"]
    name = board.primary[0]
    if not methods:
        return "Only controls and references so far: add a method."
    if not finished:
        return f"No answer: {_list_labels(methods)} failed."
    if not forgot:
        if reason := next((line.no_claim for line in finished if line.no_claim), ""):
            return f"No answer: {reason}, so that nothing here can have been forgotten."
        if all(line.forgotten is None for line in finished):
            return "No answer: forgetting was not measured."
        rates = [
            (x.label, *find_gated(board, x, forget))
            for x in finished
            if (forget := x.known(name)) is not None
        ]
        best, gated, of_what = min(rates, key=lambda x: x[1].value or 0.0)
        concepts = f"{board.concept} and the others" if of_what else board.concept
        still = f"{format_percent(gated.value)} of the images{of_what} are still judged so with {best}, the best"
        gate = f"{_name_gate(board)} is {format_percent(board.chance)}"
        if (gated.value or 0.0) <= board.chance:
            return (
                f"No method here is shown to have made the model forget {concepts}: {still}, but for another base and seed "
                f"it may be up to {format_percent(gated.bounds[1])}, and {gate}; more images, seeds or bases would tell."
            )
        return f"No method here made the model forget {concepts}: {still}; {gate}."
    if not whole:
        return (
            f"Nobody can be ranked: {_list_labels(forgot)} forgot {board.concept} and nearly everything else with it "
            "(collapsed)."
        )
    if board.excess:
        if ranked:
            _, recovery, keep = (ranked[0].endpoints[name] for name in board.primary)
            return (
                f"{ranked[0].label} leads: it forgot {board.concept}; {_describe_refit(recovery, 'unclear', ranked[0])}; "
                f"{_describe_loss(keep)}. No retrained model says how much of that is erasure."
            )
        if denoise_again := [line for line in whole if line.outcome.word == "HIDDEN"]:
            return (
                f"Nobody wins: {_list_labels(denoise_again)} hid {board.concept}; with its words fitted again the loss is "
                "no higher than the base model's."
            )
        return f"Nobody can be ranked: {'; '.join(f'{x.label} ({format_outcome(x)})' for x in whole[:3])}."
    if floor is None:
        references = [line for line in board.lines if line.standing == "reference"]
        remedy = (
            f"{_list_labels(references)} has no recovery value"
            if references
            else "add --method retrain"
        )
        return (
            f"{_list_labels(whole)} forgot {board.concept}, but without the floor of a retrain row nobody can say "
            f"whether it can be undone: {remedy}."
        )
    if ranked:
        return _describe_leader(board, ranked, floor)
    if by_attacks := [line for line in hidden if line.refitted != "yes" and line.survival]:
        causes = "; ".join(f"{x.label} {x.survival.describe()}" for x in by_attacks if x.survival)
        return (
            f"Nobody wins: {_list_labels(hidden)} hid {board.concept} without erasing it — it comes back under attack: "
            f"{causes}."
        )
    if hidden:
        least = min(line.endpoints[board.primary[1]].value or 0.0 for line in hidden)
        return (
            f"Nobody wins: {_list_labels(hidden)} hid {board.concept} without erasing it — "
            f"{'at least ' if len(hidden) > 1 else ''}{format_percent(least)} of the images show it again once its "
            f"condition alone is refitted, against {format_percent(floor.value)} for a model that never saw it."
        )
    return (
        f"Nobody can be ranked: {'; '.join(f'{x.label} ({format_outcome(x)})' for x in whole[:3])}."
    )


def _describe_leader(board: Board, ranked: list[Line], floor: Endpoint) -> str:
    """Describe the first-ranked method, and which others cannot be told from it."""
    first, keep = ranked[0], board.primary[2]
    recovery, low, high = first.endpoints[board.primary[1]], *first.endpoints[keep].bounds
    tied = [
        line
        for line in ranked[1:]
        if line.endpoints[keep].bounds[0] <= high and line.endpoints[keep].bounds[1] >= low
    ]
    text = (
        f"{first.label} {'leads' if tied else 'wins'}: it forgot {board.concept}; "
        f"{format_percent(recovery.value)} comes back once its condition alone is refitted{_describe_dose(first)}, "
        f"no more than the {format_percent(floor.value)} of a model that never saw it; "
        f"{_describe_loss(first.endpoints[keep])}{_describe_values(first.endpoints[keep])}."
    )
    if tied:
        why = "intervals overlap" if math.isfinite(low) else "one run shows nothing of another"
        text += f" On the rest {_list_labels(tied)} cannot be told from it: {why}."
    return text


def describe_protocol(board: Board) -> str:
    """Describe how images were made and how many: needed to reproduce an FID."""
    task = next(c["task_values"] for line in board.lines for c in (*line.cells, *line.failed))
    sampler, real_images = task["sampler"], task["feature_images"]
    settings = f"{sampler['scheduler']}, {describe_count(sampler['steps'], 'step')}, η = {sampler['eta']:g}"
    settings += f", guidance {sampler['guidance']:g}"
    settings += ", EMA weights" if sampler["ema"] else ""
    if task.get("prompts"):
        settings += f", {sampler.get('precision', 'fp32')}, noise from generators on the CPU, no safety checker"
    count = f"{real_images:,}" if real_images else "all"
    rest = f"of each retained class, against {count} real ones a class in feature distances"
    if board.pretrained:
        rest = "for prompts that are to be kept"
    return (
        f"Images: {settings}; {task['n_forget']:,} of the concept, {task['n_retain']:,} {rest}. "
        "Column `base`: the model before forgetting."
    )
