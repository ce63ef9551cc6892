"""Flags: one-line notes on a cell's images and prompts, for readers of its numbers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sa_bench.core.store import Artifact, digest
from sa_bench.data.sample_sets import load_samples
from sa_bench.results.rows import UNDERTRAINED
from sa_bench.scoring import sampling
from sa_bench.scoring.detectors.pixels import is_blank

if TYPE_CHECKING:
    from sa_bench.contracts import Task
    from sa_bench.engine.stages import Chain


VERSION = 1  # raised when the rule for truncated prompts changes
SHOWN = {
    "forget": "c_f",
    "retain": "the retain set",
    "leakage": "the other names",
    "families": "c_f in other words",
}


def find_flags(chain: Chain, sets: Mapping[str, Artifact]) -> list[str]:
    """Collect the flags of a cell.

    They are the method's own remarks, a reference that was trained by less than the base's recipe,
    images that are not finite, blank images, and prompts that are truncated or name c_f. No detector
    counts a blank image as forgotten.

    Args:
        chain: the stages of the cell.
        sets: its sample sets by name.
    """
    not_finite_counts, blank_counts = {}, {}
    for name, artifact in sets.items():
        images = load_samples(artifact.path / f"{name}.safetensors")
        not_finite_counts[name] = (images.broken, len(images))
        finite = images.images if images.finite is None else images.images[images.finite]
        blank_counts[name] = (int(is_blank(finite).sum()), len(finite))
    method = chain.cell.build_method()
    short = find_short_training(method, chain.task)
    lines = [*method.remarks(chain.task), short, describe_not_finite(not_finite_counts)]
    if chain.task.prompts is not None:
        lines += [find_invalid(blank_counts), count_tails(chain), count_left_out(chain.task)]
    return [line for line in lines if line]


def find_short_training(method: Any, task: Task) -> str | None:
    """Describe a reference or target that follows another recipe than the base model did; else None."""
    recipe = getattr(method, "recipe", task.base)
    if method.standing not in UNDERTRAINED or recipe == task.base:
        return None
    return (
        f"{UNDERTRAINED[method.standing]}: trained by the short recipe `{recipe}`, the base model by `{task.base}`; what "
        "it keeps is less, and what comes back is another rate, than at --scale full"
    )


def describe_not_finite(broken: Mapping[str, tuple[int, int]]) -> str | None:
    """Describe the images that are not finite in one line; None if every image is finite.

    Args:
        broken: (images that are not finite, images) by sample set.
    """
    counts = [f"{k:,} of {n:,} images of {SHOWN[name]}" for name, (k, n) in broken.items() if k]
    if not counts:
        return None
    return f"not finite: {', '.join(counts)} hold NaN or infinite values and are left out of every number"


def count_left_out(task: Task) -> str | None:
    """Count the prompts of the retain set and of replay that are left out because they name c_f.

    Returns:
        One line; None if there are no such prompts.
    """
    if not task.retains_prompts:
        return None
    counts = []
    for role in ("kept", "replay"):
        prompts = task.prompt_options.of(role, "")
        if n := sum(map(task.mentions_concept, prompts)):
            counts.append(f"{n:,} of {len(prompts):,} of {role}")
    name = task.classes[task.concept]
    return f"prompts: {' and '.join(counts)} name {name} and are left out" if counts else None


def find_invalid(lost: Mapping[str, tuple[int, int]]) -> str | None:
    """Describe the blank images in one line; None if no image is blank.

    Args:
        lost: (blank images, images) by sample set.
    """
    counts = [f"{k:,} of {n:,} images of {SHOWN[name]}" for name, (k, n) in lost.items() if k]
    return f"invalid: {', '.join(counts)} are blank" if counts else None


def count_tails(chain: Chain) -> str | None:
    """Describe the prompts with more tokens than the text encoder takes; None if there are none.

    Rows are counted from 1 in the list of the set's prompts, in a prompt file's order. The count is
    kept in the store for a base model and its prompts.
    """
    prompts_of_sets = {
        name: sampling.prompts_of_set(chain.task, name) for name in sampling.set_names(chain.task)
    }
    inputs = {"version": VERSION, "base": chain.base.content, "prompts": digest(prompts_of_sets)}

    def build(folder: Path) -> dict[str, object]:
        places, truncated_rows = 0, {}
        for name, prompts in prompts_of_sets.items():
            places, truncated = chain.truncated_prompts([text for _, text in prompts])
            truncated_rows[name] = [prompts[i][0] for i in truncated]
        return {"places": places, "cut": truncated_rows}

    meta = chain.store.make("prompts", inputs, build).meta
    prompt_counts = {name: len(prompts) for name, prompts in prompts_of_sets.items()}
    return describe_lost_tails(meta["cut"], prompt_counts, meta["places"])


def describe_lost_tails(
    cut: Mapping[str, list[int]], n: Mapping[str, int], places: int
) -> str | None:
    """Describe truncated prompts in one line; None if there are none.

    Args:
        cut: row numbers of the truncated prompts, by sample set.
        n: number of prompts, by sample set.
        places: tokens that the text encoder takes.
    """
    lines = [
        f"{len(rows):,} of {n[name]:,}{'' if name == 'forget' else f' of {SHOWN[name]}'} exceed {places} tokens and lose "
        f"their tail; the first is row {min(rows):,}"
        for name, rows in cut.items()
        if rows
    ]
    return f"prompts: {', and '.join(lines)}" if lines else None
