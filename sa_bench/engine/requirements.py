"""What a task needs of the files in the catalogue: its data, its base model, its prompts, what its metrics look through."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from sa_bench.contracts import SMOKE_MODEL, Task
from sa_bench.core import registry
from sa_bench.core.errors import MissingAsset
from sa_bench.data.assets import catalogue
from sa_bench.data.assets.catalogue import Asset
from sa_bench.scoring import detectors, inception
from sa_bench.scoring.detectors import celebrities, clip, identity, lpips

OF_REQUIREMENT: Mapping[str, tuple[str, ...]] = {
    "inception": (inception.NAME,),
    celebrities.NAME: ("giphy-celebrities", "giphy-labels"),
    identity.NAME: ("facenet-vggface2",),
    clip.NAME: (clip.FOLDER,),
    lpips.NAME: ("alexnet",),
}
"""What a metric may say it needs -> the assets behind it. NudeNet and MTCNN bring their weights along."""


class Need(NamedTuple):
    """Something that a task uses."""

    asset: Asset
    required: bool  # without it the task or a primary endpoint is lost
    what: str  # `base model`, `prompts test`, or the metrics that are n/a without it


def needs_of_task(task: Task) -> list[Need]:
    """What a task uses: its base model, its prompt files, and what its metrics look through.

    Raises:
        SaBenchError: it names a prompt file that is not in the catalogue.
    """
    found: list[Need] = []
    if task.dataset in catalogue.DATA:
        found.append(Need(catalogue.get_dataset(task.dataset), True, "data"))
    if task.model and task.model != SMOKE_MODEL:
        found.append(Need(catalogue.get_model(task.model), True, "base model"))
    files = {} if task.prompts is None else task.prompts.files
    roles: dict[tuple[str, bool], list[str]] = {}
    for role, reference in files.items():
        name = reference.partition("@")[0]
        if name in catalogue.CATALOGUE or not Path(name).is_file():  # else the user's own
            roles.setdefault((name, bool(getattr(task.prompts, role))), []).append(role)
    for (name, own), of in roles.items():
        instead = ", else prompts of our own under another fingerprint" if own else ""
        found.append(Need(catalogue.get(name), not own, f"prompts {', '.join(of)}{instead}"))
    users: dict[str, list[str]] = {}
    for metric in task.metrics:
        for name in assets_of(registry.get_metric(metric).requires):
            users.setdefault(name, []).append(metric)
    return found + [
        Need(catalogue.CATALOGUE[name], any(m in task.primary for m in metrics), ", ".join(metrics))
        for name, metrics in users.items()
    ]


def assets_of(requires: Iterable[str]) -> list[str]:
    """The assets behind a metric's requirements."""
    asked = [
        *(d.NAME for d in detectors.detectors_of(requires)),
        *(["inception"] if "inception" in requires else []),
    ]
    return [name for requirement in asked for name in OF_REQUIREMENT.get(requirement, ())]


def find_missing(requires: Sequence[str]) -> str | None:
    """Why a metric with these requirements cannot look at images here, in one line; None if it can."""
    return (inception.find_missing() if "inception" in requires else None) or detectors.find_missing(requires)


def need_primary(task: Task) -> None:
    """Look for what the task's primary metrics look through.

    Raises:
        MissingAsset: one of them could not be measured; says what is missing, where it goes and how to get it.
    """
    metrics = [registry.get_metric(m) for m in task.primary if m in task.metrics]
    lost = {m.name: reason for m in metrics if (reason := find_missing(m.requires))}
    if lost:
        raise MissingAsset(
            f"{task.name} cannot be measured by its primary "
            + "; nor by ".join(f"{metric}: {reason}" for metric, reason in lost.items())
            + f". See python -m sa_bench doctor {task.name}; --set task.primary=A,B,C takes other metrics."
        )
