"""`export CELL FOLDER`: write the forgotten model of a result as files for others.

A card beside it says what the model can and cannot do.
"""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, cast

from sa_bench.contracts import ignore_event
from sa_bench.core import registry
from sa_bench.core.disk import make_folder
from sa_bench.core.errors import MissingAsset, SaBenchError
from sa_bench.core.escaping import escape_markdown, fence_code
from sa_bench.core.locks import hold_lock
from sa_bench.core.settings import store_folder
from sa_bench.core.store import Store, copy_atomic, disk_errors, write_atomic
from sa_bench.engine.cells import Cell, resolve
from sa_bench.engine.stages import Chain
from sa_bench.results.files import read_cell
from sa_bench.results.format import format_number
from sa_bench.results.schema import ResultRow

if TYPE_CHECKING:
    from sa_bench.models.text_to_image import TextToImage

DELTA = "changed.safetensors"


def export(result: Path, folder: Path, trust: bool = False) -> list[Path]:
    """Write the model of the result in `result` (a cell's folder) into the new folder `folder`.

    A text-to-image model becomes a folder that `StableDiffusionPipeline.from_pretrained` opens, with
    a file of only the tensors that differ from the base model's; another model becomes its weight
    file. README.md is the model's card.

    Args:
        result: the cell's folder, or its result.json.
        folder: the folder to write; it must be new or empty.
        trust: run the code of the plug-ins that the result names.

    Raises:
        SaBenchError: there is no finished result, a plug-in is not trusted, `folder` is not empty,
            or the method acts at inference (so that the only model is the base model).
        MissingAsset: the store no longer has the model.
    """
    row = _read_result(result)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise SaBenchError(f"{folder} is not empty; name a new folder.")
    cell = cell_of_result(row, trust)
    if cell.build_method().wraps() or cell.build_method().renders():
        raise SaBenchError(
            f"{cell.method} acts when images are made and changes no weight: the exported model would be the base model."
        )
    chain = _find_chain(cell)
    if chain is None:
        raise MissingAsset(
            f"The store no longer has this model. Make it again: {row['provenance'].get('cell_command')}"
        )
    weights_file = chain.forgotten.path / "model.safetensors"
    unfinished = folder.with_name(f".{folder.name}.part")  # renamed once it is complete
    with (
        disk_errors(folder.parent),
        hold_lock(folder.with_name(f".{folder.name}.lock"), f"export {folder}"),
    ):
        shutil.rmtree(unfinished, ignore_errors=True)
        make_folder(unfinished)
        try:
            if cell.task.family == "text_to_image":
                cast("TextToImage", chain.model()).pipeline().save_pretrained(unfinished)
                copy_atomic(weights_file, unfinished / DELTA)
            else:
                copy_atomic(weights_file, unfinished / "model.safetensors")
            write_atomic(unfinished / "README.md", "\n".join(model_card(row)).encode() + b"\n")
            unfinished.rename(folder)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _find_chain(cell: Cell) -> Chain | None:
    """Find the chain whose model is in the store: the run's device may have trained in another precision."""
    for bf16 in (False, True):
        chain = Chain(Store(store_folder()), cell, ignore_event)
        chain.bf16 = bf16
        base = chain.base_source.stage()
        if base is not None and not chain.store.has(base.kind, base.key):
            continue
        if chain.store.has("forget", chain.forget_stage().key):
            return chain
    return None


def _read_result(result: Path) -> ResultRow:
    """Read the finished result of a cell."""
    row, path = read_cell(result)
    try:
        if row["status"] != "done":
            raise SaBenchError(f"{path}: this cell failed ({row['error']}); there is no model.")
    except (KeyError, TypeError) as error:
        raise SaBenchError(
            f"{path} is not what `run` writes ({type(error).__name__}: {error})."
        ) from error
    return row


def cell_of_result(row: ResultRow, trust: bool = False) -> Cell:
    """Rebuild the cell of a result from its command; `trust` allows to run the plug-ins that it names.

    Raises:
        SaBenchError: the command names a plug-in and is not trusted, or does not make one cell.
    """
    if row.get("method") == "external":
        raise SaBenchError(
            "These are images that `evaluate` measured; there is no model to export."
        )
    try:
        provenance = row["provenance"]
        if "cell_command" not in provenance:
            raise KeyError("cell_command")
        words = shlex.split(provenance["cell_command"])
        options: dict[str, list[str]] = {}
        for name, value in zip(words[4::2], words[5::2], strict=True):
            options.setdefault(name, []).append(value)
        metrics = [m for text in options.get("--metric", []) for m in text.split(",")]
        if not trust:
            registry.require_trusted(
                [*options["--task"], *options["--method"], *metrics], "The result"
            )
        (cell,) = resolve(
            options["--task"],
            options["--method"],
            row["scale"],
            [row["seed"]],
            [row["base_seed"]],
            options.get("--set", []),
            [],
            metrics,
        )
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, SaBenchError):
            raise
        raise SaBenchError(f"The result's command does not make one cell ({error!r}).") from error
    return cell


def model_card(row: ResultRow) -> Iterator[str]:
    """Yield a model card in Markdown: what was forgotten, from what, how, and the measurements."""
    yield f"# {escape_markdown(row['task_title'])}: {escape_markdown(row['method'])}"
    yield ""
    concept, method = escape_markdown(row["concept"]), escape_markdown(row["method"])
    yield f"A model made to forget **{concept}** by {method}, written by sa_bench."
    yield ""
    base = row["task_values"].get("model") or f"{row['task']}, base seed {row['base_seed']}"
    yield f"- base model {escape_markdown(base)}, sha256 {escape_markdown(row['artifacts'].get('base'))}"
    yield f"- forgotten model, key {escape_markdown(row['artifacts'].get('model'))}"
    yield f"- fields: {escape_markdown(json.dumps(row['fields'], sort_keys=True))}"
    yield ""
    yield from fence_code([row["provenance"].get("cell_command", "")])
    yield ""
    yield "| measured | value | 95 % interval | n | the base model |"
    yield "|---|---|---|---|---|"
    for m in row["measurements"]:
        if m["value"] is None:
            yield f"| {escape_markdown(m['title'])} | n/a: {escape_markdown(m['reason'])} | | | |"
            continue
        bounds = (
            ""
            if m["low"] is None
            else f"{format_number(m['low'], m['unit'])} to {format_number(m['high'], m['unit'])}"
        )
        base = "" if m["base"] is None else format_number(m["base"], m["unit"])
        cells = (
            m["title"],
            format_number(m["value"], m["unit"]),
            bounds,
            f"{m['n']} {m['n_unit']}s",
            base,
        )
        yield f"| {' | '.join(map(escape_markdown, cells))} |"
    yield ""
    for flag in row["flags"]:
        yield f"**{escape_markdown(flag)}**"
        yield ""
    yield (
        "Forgetting is not erasure: `recovery` says how much comes back when only the condition is fitted again. Nothing is"
        " promised about ways of asking that were not measured."
    )
