"""Find the prompt files of a task once; from then on they are named by their content."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from sa_bench.contracts import Task
from sa_bench.core.errors import MissingAsset, SaBenchError
from sa_bench.core.file_state import cached_digest
from sa_bench.data.assets import catalogue
from sa_bench.data.prompts import Asked, read

ROLES = ("forget", "replay", "test", "kept", "leakage", "captions")


def name_files(files: Mapping[str, str], texts: Mapping[str, Any]) -> dict[str, str]:
    """Name every prompt file on this machine as `name@sha256…`, by role.

    A role whose file is missing uses its own texts.

    Args:
        files: the asset's name or the path of the file, by role.
        texts: each role's own texts.

    Raises:
        MissingAsset: a file is missing, and the role has no texts of its own.
        SaBenchError: a file cannot be read, or has no prompts.
    """
    references: dict[str, str] = {}
    for role, name in files.items():
        if role not in ROLES:
            raise SaBenchError(f"task.prompts.files.{role}: roles are {', '.join(ROLES)}.")
        if "@" in name:
            name = name.rpartition("@")[0]
        path = find_prompt_file(name)
        if path is not None:
            stable_name = name if name in catalogue.CATALOGUE else path.resolve()
            references[role] = f"{stable_name}@{cached_digest(path)[:12]}"
            read_rows(references[role])
        elif not texts[role]:
            catalogue.need(name)
    return references


def find_prompt_file(name: str) -> Path | None:
    """Find the asset or file `name`.

    Returns:
        Its path; None if it is an asset that is not on this machine.

    Raises:
        SaBenchError: it is neither an asset nor a file.
    """
    if name in catalogue.CATALOGUE:
        return catalogue.find(name)
    if not Path(name).is_file():
        raise SaBenchError(f"No prompt file at {name!r}, and no asset of that name.")
    return Path(name)


def read_rows(reference: str) -> list[Asked]:
    """Read the rows of the file `name@sha256…`.

    Raises:
        MissingAsset: it is no longer on this machine.
        SaBenchError: its content has changed.
    """
    name, _, content = reference.rpartition("@")
    path = find_prompt_file(name)
    if path is None:
        raise MissingAsset(
            f"The prompt file {name} is no longer here: python -m sa_bench fetch {name}"
        )
    if not cached_digest(path).startswith(content):
        raise SaBenchError(f"{path} has changed since the run was resolved; start again.")
    return list(_read_cached(path, content))


def with_texts(task: Task) -> Task:
    """Read the prompt files that a task names into its prompts' `texts`.

    Raises:
        MissingAsset, SaBenchError: for the reasons that `read_rows` gives.
    """
    if task.prompts is None or not task.prompts.files:
        return task
    texts = {
        role: tuple(row.text for row in read_rows(file))
        for role, file in task.prompts.files.items()
    }
    return replace(task, prompts=replace(task.prompts, texts=texts))


@lru_cache(maxsize=16)
def _read_cached(path: Path, content: str) -> tuple[Asked, ...]:
    """Read a prompt file once per content; `content` is part of the cache's key."""
    return tuple(read(path))
