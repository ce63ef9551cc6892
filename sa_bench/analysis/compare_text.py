"""The words of `compare`: two questions an endpoint, each with its answer, and where a difference comes from."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

from sa_bench.analysis.compare import Answer, Side, Versus
from sa_bench.analysis.pairwise import FEWEST, format_difference, format_difference_of, is_rate
from sa_bench.results.format import format_number
from sa_bench.results.rows import code_of
from sa_bench.statistics import ALPHA

WIDTH = 110
STANDINGS = {
    "control": "a control: it unlearns nothing, whatever its numbers; its recovery says so",
    "reference": "a reference: it never saw the concept, and what it does when asked for it is arbitrary",
    "target": "a target: trained to do what a method imitates",
}
SMALL_PRINT = (
    "Differences are the first minus the second. Checkpoints: these models as they are, paired over the same images, or "
    "over prompts where several images come from one; the interval is for other images. Methods: over forgetting runs "
    "crossed with base models; the interval is for another base and seed (Student's t over base models, or over the "
    f"seeds of a single one). Below {FEWEST} shared runs no interval and no p. p: each question by Holm over the three "
    "endpoints. Effect sizes: Cohen's h of two rates, Cohen's d over images, d_z the mean difference over its standard "
    "deviation between base models (or seeds). Spread: standard deviations of one run's difference. Judges are fixed "
    "instruments: what they disagree in is no sampling error and in no interval."
)


def format_comparison(found: Versus) -> str:
    """Plain text, at most `WIDTH` columns."""
    a, b = found.a.line, found.b.line
    names = _names(found)
    parts = [
        f"{names[0]} against {names[1]}",
        f"{found.a.board.title}, scale {found.a.board.scale}",
        *_notes(found, names),
    ]
    for answer in found.answers:
        title = str(answer.row.get("title", answer.row["name"])).replace(
            "c_f", found.a.board.concept
        )
        unit = answer.row.get("unit")
        of = "" if unit is None or is_rate(unit) else f" {unit}"
        parts += [
            "",
            f"{answer.role.capitalize()}: {title} ({answer.row['name']}, {answer.row.get('better')} is better)",
        ]
        if answer.a is None:
            parts.append(f"  n/a: {answer.why}")
            continue
        parts.append(
            f"  {a.label} {format_number(answer.a, unit)}{of}, {b.label} {format_number(answer.b, unit)}{of}"
        )
        parts += [f"  {line}" for line in _answers(found, answer, names)]
    parts += ["", SMALL_PRINT]
    return "\n".join(
        textwrap.fill(
            part,
            WIDTH,
            subsequent_indent=" " * (4 if part.startswith(" ") else 0),
            break_long_words=False,
            break_on_hyphens=False,
        )
        for part in parts
    )


def _names(found: Versus) -> tuple[str, str]:
    """The labels; with their run where they are alike, and their code where that is not."""
    a, b = found.a, found.b
    if a.line.label != b.line.label:
        return a.line.label, b.line.label
    codes = [code_of((*side.line.cells, *side.line.failed)[0]) for side in (a, b)]
    told = (
        ["", ""]
        if codes[0] == codes[1]
        else [f" code {code[:8] or 'of sa_bench'}" for code in codes]
    )
    return f"{a.line.label}{told[0]} of {a.where}", f"{b.line.label}{told[1]} of {b.where}"


def _notes(found: Versus, names: tuple[str, str]) -> Iterator[str]:
    pairs, bases = len(found.runs), {x["base_seed"] for x, _ in found.runs}
    if found.matched:
        yield f"{pairs} shared run(s), the same base model and forgetting seed on both sides, on {len(bases)} base model(s)."
    else:
        (x, y), *_ = found.runs
        yield (
            f"Two checkpoints, from base {x['base_seed']}, seed {x['seed']} and base {y['base_seed']}, seed {y['seed']}: of "
            "the methods nothing can be said."
        )
    if found.same:
        yield f"Note: {found.same} of {pairs} pair(s) are one and the same model on both sides."
    for side, name in zip((found.a, found.b), names, strict=True):
        yield from _of_side(side, name, pairs)


def _of_side(side: Side, name: str, pairs: int) -> Iterator[str]:
    line = side.line
    if line.standing in STANDINGS:
        yield f"Note: {name} is {STANDINGS[line.standing]}."
    if line.collapsed:
        yield f"Note: {name} is flagged, its numbers describe a wreck: {line.collapsed}."
    if line.failed:
        every = len(line.failed) + len(line.cells)
        yield f"Note: {len(line.failed)} of {every} runs of {name} failed and are left out: {line.failed[0]['error']}"
    if len(line.cells) > pairs:
        yield f"Note: {len(line.cells) - pairs} further run(s) of {name} have no partner and are left out."


def _answers(found: Versus, answer: Answer, names: tuple[str, str]) -> Iterator[str]:
    yield f"Do these checkpoints differ? {_checkpoints(found, answer, names)}"
    if found.matched:
        yield f"Does the method differ? {_methods(answer, names)}"
    yield f"Spread: {_spread(found, answer)}"
    if judges := answer.spread.judges:
        low, high = (pick(judges, key=lambda name: judges[name]) for pick in (min, max))
        ends = [f"{_plain(judges[name], answer, '+')} ({name})" for name in (low, high)]
        unit = _unit(answer)
        yield f"Judges, each alone: from {ends[0]} to {ends[1]}{unit}; {len(judges)} judges."


def _better(value: float, answer: Answer, names: tuple[str, str]) -> str:
    """The name of the side that a difference is in favour of."""
    return names[(value > 0) == (answer.row["better"] == "lower")]


def _checkpoints(found: Versus, answer: Answer, names: tuple[str, str]) -> str:
    if found.same == len(found.runs):
        return "No: both sides are the same models."
    pair = answer.checkpoints
    if pair is None:
        return f"Not told: {answer.why}."
    unit, differ = answer.row["unit"], pair.p < ALPHA
    verdict = (
        f"Yes, in favour of {_better(pair.difference, answer, names)}" if differ else "Not shown"
    )
    kind = "h" if is_rate(unit) else "d"
    effect = "" if answer.effect is None else f", Cohen's {kind} {answer.effect:+.2f}"
    over = f"{pair.n} images" if pair.unit == "image" else f"{pair.units} prompts"
    out = f"{verdict}: {format_difference(pair.difference, pair.low, pair.high, unit)}, {_p(pair.p)}{effect}, over {over}."
    if answer.pairs > 1:
        wins = [
            f"{n} of {answer.pairs} for {name}"
            for n, name in zip(answer.wins, names, strict=True)
            if n
        ]
        out += f" Pair by pair (p < .05): {', '.join(wins) or f'none of {answer.pairs}'}."
    return out


def _methods(answer: Answer, names: tuple[str, str]) -> str:
    row = answer.methods
    if row is not None and row.p is None and row.runs >= FEWEST:
        by = f"{_plain(row.difference, answer, '+')}{_unit(answer)}"
        return f"Not told: all {row.runs} runs differ by {by}, and a spread that was not seen is not none."
    if row is None or row.p is None:
        few = [_plain(point, answer, "+") for point in answer.points[: FEWEST - 1]]
        return f"Not told below {FEWEST} shared runs. Difference of each run: {', '.join(few)}{_unit(answer)}."
    verdict = (
        f"Yes, in favour of {_better(row.difference, answer, names)}"
        if row.p < ALPHA
        else "Not shown"
    )
    effect = "" if answer.standardised is None else f", d_z {answer.standardised:+.2f}"
    units = (
        f"{row.bases} base models"
        if row.bases > 1
        else f"{row.runs} seeds of this base model alone"
    )
    return f"{verdict}: {format_difference_of(row)}, {_p(row.p)}{effect}, over {units}."


def _spread(found: Versus, answer: Answer) -> str:
    """The components in the endpoint's unit, and what these runs cannot tell."""
    s, known, unknown = answer.spread, [], []
    if s.together is not None:
        known.append(f"base training and forgetting seed together {_plain(s.together, answer)}")
        unknown.append("the two apart need several seeds a base")
    else:
        several = "needs two bases with two runs each"
        for what, value, need in (
            ("base training", s.base, several),
            ("forgetting seed", s.seed, "needs several seeds"),
        ):
            (known if value is not None else unknown).append(
                f"{what} {_plain(value, answer)}" if value is not None else f"{what} {need}"
            )
    if s.images is not None:
        prompted = answer.checkpoints is not None and answer.checkpoints.unit == "prompt"
        known.append(f"drawing of {'prompts' if prompted else 'images'} {_plain(s.images, answer)}")
    else:
        unknown.append(f"drawing of images: {answer.why or 'other images in each pair'}")
    parts = [", ".join(known) + _unit(answer)] if known else []
    return "; ".join([*parts, *([f"not told: {', '.join(unknown)}"] if unknown else [])]) + "."


def _unit(answer: Answer) -> str:
    unit = answer.row["unit"]
    return " points" if is_rate(unit) else f" {unit}" if unit else ""


def _plain(value: float, answer: Answer, sign: str = "") -> str:
    return (
        format(100 * value, f"{sign}.1f")
        if is_rate(answer.row["unit"])
        else format(value, f"{sign}.3g")
    )


def _p(p: float) -> str:
    return "p < 0.001" if p < 0.001 else f"p = {p:.2g}"
