"""What a reader of a text-to-image cell's numbers should know of its images and prompts, one line each."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from sa_bench.core.store import Artifact, digest
from sa_bench.data.sample_sets import load_samples
from sa_bench.scoring import sampling
from sa_bench.scoring.detectors.pixels import is_blank

if TYPE_CHECKING:
    from sa_bench.contracts import Task
    from sa_bench.engine.stages import Chain


VERSION = 1  # raised when what is counted as a lost tail changes
SHOWN = {
    "forget": "c_f",
    "retain": "the retain set",
    "leakage": "the other names",
    "families": "c_f in other words",
}


def find_flags(chain: Chain, sets: Mapping[str, Artifact]) -> list[str]:
    """A line each: the method's own, images that are not finite, blank ones, prompts that lose their tail or name c_f.

    No detector counts a blank image as forgotten.

    Args:
        chain: the cell's.
        sets: its sample sets by name.
    """
    broken, empty = {}, {}
    for name, artifact in sets.items():
        images = load_samples(artifact.path / f"{name}.safetensors")
        broken[name] = (images.broken, len(images))
        if chain.task.prompts is not None:
            finite = images.images if images.finite is None else images.images[images.finite]
            empty[name] = (int(is_blank(finite).sum()), len(finite))
    method = chain.cell.build_method()
    lines = [
        *method.remarks(chain.task),
        describe_not_finite(broken),
        find_invalid(empty),
    ]
    if chain.task.prompts is not None:
        lines += [count_tails(chain), count_left_out(chain.task)]
    return [line for line in lines if line]


def describe_not_finite(broken: Mapping[str, tuple[int, int]]) -> str | None:
    """(images that are not finite, images) of each set as one line; None: every image is finite."""
    parts = [f"{k:,} of {n:,} images of {SHOWN[name]}" for name, (k, n) in broken.items() if k]
    return (
        f"not finite: {', '.join(parts)} hold NaN or infinite values and are left out of every number"
        if parts
        else None
    )


def count_left_out(task: Task) -> str | None:
    """The line on prompts of the retain set and of replay that name c_f and are not asked; None: there are none."""
    if task.prompts is None or not task.retains_prompts:
        return None
    counts = []
    for role in ("kept", "replay"):
        prompts = task.prompts.of(role, "")
        if n := sum(map(task.mentions_concept, prompts)):
            counts.append(f"{n:,} of {len(prompts):,} of {role}")
    name = task.classes[task.concept]
    return f"prompts: {' and '.join(counts)} name {name} and are left out" if counts else None


def find_invalid(lost: Mapping[str, tuple[int, int]]) -> str | None:
    """(blank images, images) of each set as one line; None: none is blank."""
    found = [f"{k:,} of {n:,} images of {SHOWN[name]}" for name, (k, n) in lost.items() if k]
    return f"invalid: {', '.join(found)} are blank" if found else None


def count_tails(chain: Chain) -> str | None:
    """The line on prompts with more tokens than the text encoder has places; None: there are none.

    Rows are counted from 1 in the list that the set asks with, a prompt file's in the file's order. Counted once for
    a base model and its prompts.
    """
    asked = {
        name: sampling.prompts_of_set(chain.task, name) for name in sampling.set_names(chain.task)
    }
    inputs = {"version": VERSION, "base": chain.base.content, "prompts": digest(asked)}

    def build(folder: Path) -> dict[str, object]:
        places, found = 0, {}
        for name, rows in asked.items():
            places, cut = chain.truncated_prompts([text for _, text in rows])
            found[name] = [rows[i][0] for i in cut]
        return {"places": places, "cut": found}

    facts = chain.store.make("prompts", inputs, build).meta
    return describe_lost_tails(
        facts["cut"], {name: len(rows) for name, rows in asked.items()}, facts["places"]
    )


def describe_lost_tails(
    cut: Mapping[str, list[int]], n: Mapping[str, int], places: int
) -> str | None:
    """The rows `cut` of each set's `n` prompts as one line; the concept's are not named as such."""
    found = [
        f"{len(rows):,} of {n[name]:,}{'' if name == 'forget' else f' of {SHOWN[name]}'} exceed {places} tokens and lose "
        f"their tail; the first is row {min(rows):,}"
        for name, rows in cut.items()
        if rows
    ]
    return f"prompts: {', and '.join(found)}" if found else None
