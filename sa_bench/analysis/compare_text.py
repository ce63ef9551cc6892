"""The words of `compare`: two questions per endpoint, their answers, and the sources of a difference."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

from sa_bench.analysis.compare import Answer, Side, Versus
from sa_bench.analysis.pairwise import FEWEST, format_difference, format_difference_of
from sa_bench.core.counts import describe_count
from sa_bench.results.format import (
    format_amount,
    format_number,
    format_unit,
    is_rate,
    unit_of_change,
)
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


def format_comparison(versus: Versus) -> str:
    """Format a comparison as plain text, a line for each paragraph; `wrap` breaks them."""
    a, b = versus.a.line, versus.b.line
    names = _names(versus)
    paragraphs = [
        f"{names[0]} against {names[1]}",
        f"{versus.a.board.title}, scale {versus.a.board.scale}",
        *_describe_runs(versus, names),
    ]
    for answer in versus.answers:
        title = answer.title.replace("c_f", versus.a.board.concept)
        unit = answer.unit
        suffix = format_unit(unit)
        paragraphs += [
            "",
            f"{answer.role.capitalize()}: {title} ({answer.name}, {answer.better} is better)",
        ]
        if answer.a is None:
            paragraphs.append(f"  n/a: {answer.why}")
            continue
        paragraphs.append(
            f"  {a.label} {format_number(answer.a, unit)}{suffix}, {b.label} {format_number(answer.b, unit)}{suffix}"
        )
        paragraphs += [f"  {line}" for line in _describe_answer(versus, answer, names)]
    paragraphs += ["", SMALL_PRINT]
    return "\n".join(paragraphs)


def wrap(text: str, width: int = WIDTH) -> str:
    """Break the lines of a comparison at `width` columns; what goes on is indented further."""
    return "\n".join(
        textwrap.fill(
            paragraph,
            width,
            subsequent_indent=" " * (4 if paragraph.startswith(" ") else 0),
            break_long_words=False,
            break_on_hyphens=False,
        )
        for paragraph in text.splitlines()
    )


def _names(versus: Versus) -> tuple[str, str]:
    """Return the labels of both sides; equal labels get their run, and their code if that differs."""
    a, b = versus.a, versus.b
    if a.line.label != b.line.label:
        return a.line.label, b.line.label
    codes = [code_of((*side.line.cells, *side.line.failed)[0]) for side in (a, b)]
    code_remarks = (
        ["", ""]
        if codes[0] == codes[1]
        else [f" code {code[:8] or 'of sa_bench'}" for code in codes]
    )
    return (
        f"{a.line.label}{code_remarks[0]} of {a.where}",
        f"{b.line.label}{code_remarks[1]} of {b.where}",
    )


def _describe_runs(versus: Versus, names: tuple[str, str]) -> Iterator[str]:
    """Yield what must be known of the compared runs and of each side."""
    pairs, bases = len(versus.runs), {x["base_seed"] for x, _ in versus.runs}
    if versus.matched:
        yield (
            f"{describe_count(pairs, 'shared run')}, the same base model and forgetting seed on both sides, on "
            f"{describe_count(len(bases), 'base model')}."
        )
    else:
        (x, y), *_ = versus.runs
        yield (
            f"Two checkpoints, from base {x['base_seed']}, seed {x['seed']} and base {y['base_seed']}, seed {y['seed']}: of "
            "the methods nothing can be said."
        )
    if versus.same:
        yield f"Note: {versus.same} of {describe_count(pairs, 'pair')} are one and the same model on both sides."
    for side, name in zip((versus.a, versus.b), names, strict=True):
        yield from _describe_side(side, name, pairs)


def _describe_side(side: Side, name: str, pairs: int) -> Iterator[str]:
    """Yield what must be known of one side: standing, collapse, failed and unpaired runs."""
    line = side.line
    if line.standing in STANDINGS:
        yield f"Note: {name} is {STANDINGS[line.standing]}."
    if line.collapsed:
        yield f"Note: {name} is flagged, its numbers describe a wreck: {line.collapsed}."
    if line.failed:
        total = len(line.failed) + len(line.cells)
        yield f"Note: {len(line.failed)} of {total} runs of {name} failed and are left out: {line.failed[0]['error']}"
    if len(line.cells) > pairs:
        yield f"Note: {describe_count(len(line.cells) - pairs, 'further run')} of {name} without a partner: left out."


def _describe_answer(versus: Versus, answer: Answer, names: tuple[str, str]) -> Iterator[str]:
    """Yield the answers to both questions of an endpoint, and the sources of the difference."""
    yield f"Do these checkpoints differ? {_describe_checkpoints(versus, answer, names)}"
    if versus.matched:
        yield f"Does the method differ? {_describe_methods(answer, names)}"
    yield f"Spread: {_describe_spread(answer)}"
    if judges := answer.spread.judges:
        low, high = (pick(judges, key=lambda name: judges[name]) for pick in (min, max))
        ends = [f"{format_amount(judges[name], answer.unit, '+')} ({name})" for name in (low, high)]
        unit = unit_of_change(answer.unit)
        yield f"Judges, each alone: from {ends[0]} to {ends[1]}{unit}; {len(judges)} judges."


def _favoured(value: float, answer: Answer, names: tuple[str, str]) -> str:
    """Return the name of the side that a difference is in favour of."""
    second_is_better = (value > 0) == (answer.better == "lower")
    return names[1] if second_is_better else names[0]


def _describe_checkpoints(versus: Versus, answer: Answer, names: tuple[str, str]) -> str:
    """Answer whether these checkpoints differ."""
    if versus.same == len(versus.runs):
        return "No: both sides are the same models."
    paired = answer.checkpoints
    if paired is None:
        return f"Not told: {answer.why}."
    unit, differ = answer.unit, paired.p < ALPHA
    verdict = (
        f"Yes, in favour of {_favoured(paired.difference, answer, names)}"
        if differ
        else "Not shown"
    )
    kind = "h" if is_rate(unit) else "d"
    effect = "" if answer.effect is None else f", Cohen's {kind} {answer.effect:+.2f}"
    difference = format_difference(paired.difference, paired.low, paired.high, unit)
    over = f"{paired.n} images" if paired.unit == "image" else f"{paired.units} prompts"
    text = f"{verdict}: {difference}, {_format_p(paired.p)}{effect}, over {over}."
    if answer.pairs > 1:
        wins = [
            f"{n} of {answer.pairs} for {name}"
            for n, name in zip(answer.wins, names, strict=True)
            if n
        ]
        text += f" Pair by pair (p < .05): {', '.join(wins) or f'none of {answer.pairs}'}."
    return text


def _describe_methods(answer: Answer, names: tuple[str, str]) -> str:
    """Answer whether the methods differ."""
    comparison = answer.methods
    if comparison is not None and comparison.p is None and comparison.runs >= FEWEST:
        difference = (
            f"{format_amount(comparison.difference, answer.unit, '+')}{unit_of_change(answer.unit)}"
        )
        return f"Not told: all {comparison.runs} runs differ by {difference}, and a spread that was not seen is not none."
    if comparison is None or comparison.p is None:
        differences = [
            format_amount(point, answer.unit, "+") for point in answer.points[: FEWEST - 1]
        ]
        each = f"{', '.join(differences)}{unit_of_change(answer.unit)}"
        return f"Not told below {FEWEST} shared runs. Difference of each run: {each}."
    verdict = (
        f"Yes, in favour of {_favoured(comparison.difference, answer, names)}"
        if comparison.p < ALPHA
        else "Not shown"
    )
    effect = "" if answer.standardised is None else f", d_z {answer.standardised:+.2f}"
    units = (
        f"{comparison.bases} base models"
        if comparison.bases > 1
        else f"{comparison.runs} seeds of this base model alone"
    )
    return f"{verdict}: {format_difference_of(comparison)}, {_format_p(comparison.p)}{effect}, over {units}."


def _describe_spread(answer: Answer) -> str:
    """Describe the components of the spread in the endpoint's unit, and those that remain unknown."""
    spread, components, missing_components = answer.spread, [], []
    if spread.together is not None:
        components.append(
            f"base training and forgetting seed together {format_amount(spread.together, answer.unit)}"
        )
        missing_components.append("the two apart need several seeds a base")
    else:
        two_bases = "needs two bases with two runs each"
        for what, value, requirement in (
            ("base training", spread.base, two_bases),
            ("forgetting seed", spread.seed, "needs several seeds"),
        ):
            if value is not None:
                components.append(f"{what} {format_amount(value, answer.unit)}")
            else:
                missing_components.append(f"{what} {requirement}")
    if spread.images is not None:
        prompted = answer.checkpoints is not None and answer.checkpoints.unit == "prompt"
        components.append(
            f"drawing of {'prompts' if prompted else 'images'} {format_amount(spread.images, answer.unit)}"
        )
    else:
        missing_components.append(f"drawing of images: {answer.why or 'other images in each pair'}")
    sentences = [", ".join(components) + unit_of_change(answer.unit)] if components else []
    if missing_components:
        sentences.append(f"not told: {', '.join(missing_components)}")
    return "; ".join(sentences) + "."


def _format_p(p: float) -> str:
    return "p < 0.001" if p < 0.001 else f"p = {p:.2g}"
