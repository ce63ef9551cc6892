"""`fetch`: get one asset, or all that a task can use."""

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
    """Get an asset, or all that a task can use; what is already here stays as it is.

    Args:
        name: an asset's name or file name, a hub id (owner/name), a task's name, or a task's file.
        source: a folder that holds the files by name; None means the network.
        say: called with a line of text for each event.

    Returns:
        The path of each asset.

    Raises:
        MissingAsset: an asset could not be fetched; the task's other assets were, where possible.
        CellFailed: the disk is full or not writable.
        SaBenchError: no asset or task has that name, or there is no folder `source`.
    """
    if source is not None and not source.is_dir():
        raise SaBenchError(f"There is no folder {source} to copy from (--from, SA_BENCH_MIRROR).")
    tasks = _find_tasks(name)
    assets = fetchable_assets(tasks) if tasks else [_find_asset(name)]
    paths: list[Path] = []
    failed: list[MissingAsset] = []
    wasted = 0.0  # seconds spent on servers that do not answer
    for asset in assets:
        start = time.monotonic()
        try:
            if wasted > DEADLINE / 3:
                raise Unreachable(f"{asset.name}: not tried, nothing answers")
            paths.append(_fetch_asset(asset, source, say))
        except MissingAsset as error:
            wasted += time.monotonic() - start if isinstance(error, Unreachable) else 0.0
            failed.append(error)
    if not failed and source is None:
        for dataset in dict.fromkeys(registry.get_task(task).dataset for task in tasks):
            # small data sets that are not in the catalogue are stored when they are first read
            if dataset in datasets.ENTRIES and dataset not in catalogue.DATA:
                datasets.load(dataset)
                say(f"{datasets.ENTRIES[dataset].title}: here")
    if len(failed) > 1:
        reasons = "; ".join(str(error).partition(". ")[0].rstrip(".") for error in failed)
        raise MissingAsset(
            f"{len(failed)} of {len(assets)} could not be fetched: {reasons}. Fetch one by its name for its full message."
        )
    if failed:
        raise failed[0]
    return paths


def fetchable_assets(tasks: list[str]) -> list[Asset]:
    """List all assets that these tasks can use and that can be fetched."""
    needed = [need.asset for task in tasks for need in needs_of_task(registry.get_task(task))]
    return list(dict.fromkeys(asset for asset in needed if asset.url))


def _find_tasks(name: str) -> list[str]:
    """Return the tasks of a name or a .py file; an empty list if the name is no task's."""
    if name.endswith(".py"):
        return registry.register("task", name)
    return [name] if any(entry.name == name for entry in registry.list_entries("task")) else []


def _find_asset(name: str) -> Asset:
    """Return the asset of that name, file name or hub id."""
    try:
        return catalogue.get(name)
    except SaBenchError:
        tasks = [entry.name for entry in registry.list_entries("task")]
        raise unknown_name(
            "asset or task", name, [*catalogue.CATALOGUE, *catalogue.DATA, *tasks], "doctor"
        ) from None
