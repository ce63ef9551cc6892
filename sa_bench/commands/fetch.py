"""`fetch`: one asset, or all that a task can use."""

from __future__ import annotations

import time
from pathlib import Path

from sa_bench.core import registry
from sa_bench.core.errors import MissingAsset, SaBenchError, unknown_name
from sa_bench.data import datasets
from sa_bench.data.assets import catalogue
from sa_bench.data.assets.catalogue import Asset
from sa_bench.data.assets.download import DEADLINE, Unreachable
from sa_bench.data.assets.fetch import Say, _fetch_asset
from sa_bench.engine.needs import needs_of_task


def fetch(name: str, source: Path | None = None, say: Say = print) -> list[Path]:
    """Get an asset, or all that a task can use; what is here already stays as it is.

    Args:
        name: an asset's name or file name, a hub id (owner/name), a task's name, or a task's file.
        source: a folder that holds the files by name; None: the network.
        say: told what happens, a line at a time.

    Returns:
        Where each asset is now.

    Raises:
        MissingAsset: something could not be had; of a task, all else that could be had is here.
        CellFailed: the disk is full, or not to be written on.
        SaBenchError: no asset and no task of that name, or no folder `source`.
    """
    if source is not None and not source.is_dir():
        raise SaBenchError(f"There is no folder {source} to copy from (--from, SA_BENCH_MIRROR).")
    tasks = _tasks(name)
    asked = fetchable_assets(tasks) if tasks else [_asset(name)]
    found: list[Path] = []
    failed: list[MissingAsset] = []
    lost = 0.0  # seconds of waiting for nothing
    for asset in asked:
        start = time.monotonic()
        try:
            if lost > DEADLINE / 3:
                raise Unreachable(f"{asset.name}: not tried, nothing answers")
            found.append(_fetch_asset(asset, source, say))
        except MissingAsset as error:
            lost += time.monotonic() - start if isinstance(error, Unreachable) else 0.0
            failed.append(error)
    if not failed and source is None:
        for dataset in dict.fromkeys(registry.get_task(task).dataset for task in tasks):
            if (
                dataset in datasets.ENTRIES and dataset not in catalogue.DATA
            ):  # small, and kept as it is read
                datasets.load(dataset)
                say(f"{datasets.ENTRIES[dataset].title}: here")
    if len(failed) > 1:
        said = "; ".join(str(error).partition(". ")[0].rstrip(".") for error in failed)
        raise MissingAsset(
            f"{len(failed)} of {len(asked)} could not be had: {said}. Fetched by its own name each says more."
        )
    if failed:
        raise failed[0]
    return found


def fetchable_assets(tasks: list[str]) -> list[Asset]:
    """All that these tasks can use and that comes from somewhere."""
    needed = [need.asset for task in tasks for need in needs_of_task(registry.get_task(task))]
    return list(dict.fromkeys(asset for asset in needed if asset.url))


def _tasks(name: str) -> list[str]:
    if name.endswith(".py"):
        return registry.register("task", name)
    return [name] if any(entry.name == name for entry in registry.list_entries("task")) else []


def _asset(name: str) -> Asset:
    try:
        return catalogue.get(name)
    except SaBenchError:
        tasks = [entry.name for entry in registry.list_entries("task")]
        raise unknown_name(
            "asset or task", name, [*catalogue.CATALOGUE, *catalogue.DATA, *tasks]
        ) from None
