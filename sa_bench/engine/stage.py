"""One stage of a cell: what names its artifact, and what makes it, whole or in parts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from sa_bench.core.store import digest


def _has_no_parts(folder: Path, number: int) -> None:
    """Refuse to make a part of a stage that has none."""
    raise ValueError(f"a stage without parts was asked for part {number}")


@dataclass(frozen=True)
class Stage:
    """One artifact of a chain: the inputs that name it, and the function that makes it."""

    kind: str
    """The kind of artifact: the store keeps each kind in a folder of its own."""
    label: str
    """Its name in costs and plans; "" for a stage whose cost is not a cell's."""
    inputs: Mapping[str, Any]
    build: Callable[[Path], Mapping[str, Any] | None]
    """Makes it in a folder; of a stage in parts, from the parts that are finished."""
    parts: int = 1
    """Number of parts that can be made anywhere and in any order; 1 if it is made as a whole."""
    build_part: Callable[[Path, int], object] = _has_no_parts
    """Makes part number i, from 0, in the folder of parts; does nothing if it is there."""

    @cached_property
    def key(self) -> str:
        """Name of the artifact in the store, 16 hex digits."""
        return digest(self.inputs)


class Divided(NamedTuple):
    """A stage with parts that a measurement came upon, as it is told between processes."""

    kind: str
    key: str
    parts: int
    """Number of its parts."""


class PartsMissing(BaseException):
    """A measurement cannot go on: several workers are to make the parts of a stage first.

    It is no `Exception`, so that no metric takes it for an error of its own.
    """

    def __init__(self, divided: Divided) -> None:
        """Name the stage."""
        super().__init__(divided)
        self.divided = divided


class PartMade(BaseException):
    """The part is made for which a measurement was begun; the rest of it is not wanted."""
