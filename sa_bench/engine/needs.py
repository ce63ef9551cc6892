"""Needs of a task from the catalogue of files: data, base model, prompts, files of its metrics."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from sa_bench.contracts import SMOKE_MODEL, Task
from sa_bench.core import registry
from sa_bench.core.errors import MissingAsset
from sa_bench.data.assets import catalogue
from sa_bench.data.assets.catalogue import Asset
from sa_bench.models.family import get_family
from sa_bench.scoring import requirements
from sa_bench.scoring.cards import TRAINED


class Need(NamedTuple):
    """A file that a task uses."""

    asset: Asset
    required: bool  # without it the task or a primary endpoint is lost
    what: str  # `base model`, `prompts test`, or the metrics that are n/a without it
    vital: bool = False  # without it no cell of the task runs


def needs_of_task(task: Task) -> list[Need]:
    """List the files that a task uses: data, base model, prompts, and those of its metrics.

    Raises:
        SaBenchError: the task names a prompt file that is not in the catalogue.
    """
    needs: list[Need] = []
    if task.dataset in catalogue.DATA:
        needs.append(Need(catalogue.get_dataset(task.dataset), True, "data"))
    if task.needs_weights:
        needs.append(Need(catalogue.get_model(task.model), True, "base model", True))
    files = task.prompt_options.files
    roles: dict[tuple[str, bool], list[str]] = {}
    for role, reference in files.items():
        name = reference.partition("@")[0]
        if name in catalogue.CATALOGUE or not Path(name).is_file():  # else the user's own
            has_fallback = bool(getattr(task.prompts, role))
            roles.setdefault((name, has_fallback), []).append(role)
    for (name, has_fallback), file_roles in roles.items():
        instead = ", else prompts of our own under another fingerprint" if has_fallback else ""
        needs.append(
            Need(
                catalogue.get(name),
                not has_fallback,
                f"prompts {', '.join(file_roles)}{instead}",
                True,
            )
        )
    if any(TRAINED.get(judge, {}).get("network") == "resnet34" for judge in task.judges):
        needs.append(
            Need(
                catalogue.CATALOGUE["resnet34-imagenet"],
                True,
                "judges, which are trained from it",
                True,
            )
        )
    users: dict[str, list[str]] = {}
    for metric in task.metrics:
        for name in assets_of(registry.get_metric(metric).requires):
            users.setdefault(name, []).append(metric)
    return needs + [
        Need(catalogue.CATALOGUE[name], any(m in task.primary for m in metrics), ", ".join(metrics))
        for name, metrics in users.items()
    ]


def assets_of(names: Iterable[str]) -> list[str]:
    """List the catalogue's files behind a metric's requirements."""
    return list(dict.fromkeys(asset for r in requirements.get(names) for asset in r.assets))


def describe_unfit(tasks: Iterable[Task]) -> list[str]:
    """Describe the metrics that a task of these cannot have, whatever is fetched: `prompt_attack on mnist_0: …`."""
    described = []
    for task in tasks:
        can = get_family(task.family).can
        for name in task.metrics:
            required = requirements.get(registry.get_metric(name).requires)
            if reason := next((why for r in required if (why := r.unfit(task, can))), None):
                described.append(f"{name} on {task.name}: {reason}")
    return described


def need_primary(task: Task) -> None:
    """Check that the files and packages of the task's primary metrics are here.

    Raises:
        MissingAsset: a primary metric could not be measured; says what is missing, where it goes
            and how to get it.
    """
    metrics = [registry.get_metric(m) for m in task.primary if m in task.metrics]
    missing_of_metric = {
        m.name: reason for m in metrics if (reason := requirements.find_missing(m.requires))
    }
    if missing_of_metric:
        raise MissingAsset(
            f"{task.name} cannot be measured by its primary "
            + "; nor by ".join(
                f"{metric}: {reason}" for metric, reason in missing_of_metric.items()
            )
            + f". See python -m sa_bench doctor {task.name}; --set task.primary=A,B,C takes other metrics."
        )


def need_files(task: Task, quick: bool) -> None:
    """Check that what no cell goes without and the files of the task's primary metrics are here, all at once.

    A single missing file is left to its own check, which says more of it.

    Args:
        task: the task as it will run.
        quick: at the scale `quick` no detector is needed.

    Raises:
        MissingAsset: two or more are missing; names each, its size and the one command that gets
            them.
    """
    assets = [need.asset for need in needs_of_task(task) if need.vital]
    if not quick:
        primary = [registry.get_metric(m) for m in task.primary if m in task.metrics]
        names = assets_of(name for metric in primary for name in metric.requires)
        assets += [asset for name in names if (asset := catalogue.get(name)) not in assets]
    missing = [asset for asset in assets if asset.url and catalogue.find(asset) is None]
    if len(missing) < 2:
        return
    of_task = {need.asset.name for need in needs_of_task(registry.get_task(task.name))}
    whole_task = all(asset.name in of_task for asset in missing)  # else it has another model
    names = [registry.reference("task", task.name)] if whole_task else [a.name for a in missing]
    commands = ", ".join(f"python -m sa_bench fetch {name}" for name in names)
    licences = [f"{asset.name} ({asset.url})" for asset in missing if asset.gated]
    hints = [f"Get them: {commands}."]
    if licences:
        hints.append(f"First accept the licence of {', '.join(licences)}, and set HF_TOKEN.")
    if registry.get_task(task.name).scales.get("quick", {}).get("model") == SMOKE_MODEL:
        hints.append("To try the code now, without any of them: --scale quick.")
    raise MissingAsset(
        f"{task.name} needs {len(missing)} files that are not here: "
        f"{', '.join(f'{asset.name} ({asset.size})' for asset in missing)}. {' '.join(hints)}"
    )
