"""The commands of `store`."""

from __future__ import annotations

from typing import Annotated

import typer

from sa_bench.commands.arguments import print_text
from sa_bench.commands.help import MACHINE, Commands, declare

store_app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Look after the store of finished stages.",
)


@store_app.command("ls", **declare(MACHINE))
def store_ls() -> None:
    """List every artifact with its size."""
    from sa_bench.core.settings import store_folder
    from sa_bench.core.store import Store

    store = Store(store_folder())
    for entry in store.entries():
        unfinished = "" if entry.finished else "  (unfinished)"
        print_text(f"{entry.size / 2**20:10.2f} MiB  {entry.stage}/{entry.key}{unfinished}")


@store_app.command("size", **declare(MACHINE))
def store_size() -> None:
    """Show the size per stage and in total."""
    from sa_bench.core.settings import store_folder
    from sa_bench.core.store import Store

    sizes: dict[str, int] = {}
    for entry in Store(store_folder()).entries():
        sizes[entry.stage] = sizes.get(entry.stage, 0) + entry.size
    for stage, size in sorted(sizes.items()):
        print_text(f"{size / 2**20:10.2f} MiB  {stage}")
    print_text(f"{sum(sizes.values()) / 2**20:10.2f} MiB  in {store_folder()}")


@store_app.command("gc", **declare(MACHINE, "store gc", "store gc --stage samples"))
def store_gc(
    stage: Annotated[
        list[str] | None,
        typer.Option(metavar="STAGE", help="Also delete finished artifacts of this stage."),
    ] = None,
) -> None:
    """Delete what killed runs left behind.

    Artifacts in use and run folders are never touched.
    """
    from sa_bench.core.errors import unknown_name
    from sa_bench.core.settings import store_folder
    from sa_bench.core.store import STAGES, Store

    for name in stage or []:
        if name not in STAGES:
            raise unknown_name("stage", name, STAGES)
    freed = Store(store_folder()).gc(tuple(stage or ()))
    print_text(f"Freed {freed / 2**20:.2f} MiB in {store_folder()}.")
