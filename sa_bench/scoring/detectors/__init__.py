"""Detectors: pretrained networks that say what is to be seen in a picture, one file each.

A detector is a module with the names of `Detector`. It imports its library on first use, and hands back one
plain record an image, which is kept in the store: metrics count records and never see a network.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol, cast

from sa_bench.contracts import SampleSet
from sa_bench.scoring.detectors.pixels import Pixels

NAMES = tuple(sorted(p.stem for p in Path(__file__).parent.glob("[a-z]*.py") if p.stem != "pixels"))
"""Every module of this folder but the helpers of `pixels`."""

Progress = Callable[[str, int, int], None]
Record = dict[str, Any]
Beside = Sequence[str] | SampleSet | None


class Detector(Protocol):
    """What each module of this folder is."""

    NAME: str
    VERSION: int  # raised when our part of it reads a picture in another way
    LICENCE: str
    UNLOCKS: str  # metrics that need it
    AFTER: str | None  # the detector whose records it starts from
    NEEDS_PROMPTS: bool  # True: it compares each image with its prompt
    ASSETS: tuple[
        str, ...
    ]  # files of the catalogue that it reads; (): its library brings its weights along

    def facts(self) -> Record:
        """What a fingerprint shows: library and version, settings, weight hash."""
        ...

    def missing(self) -> str | None:
        """What to install or which file to put where, in one line; None: nothing."""
        ...

    def detect(
        self,
        images: Pixels,
        beside: Any = None,
        found: Sequence[Record] | None = None,
        device: str = "cpu",
        progress: Progress | None = None,
    ) -> list[Record]:
        """One record an image; `beside` holds each image's prompt, name or other image, `found` AFTER's records."""
        ...


def load(name: str) -> Detector:
    """The detector `name` of `NAMES`."""
    return cast(Detector, importlib.import_module(f"sa_bench.scoring.detectors.{name}"))


def detectors_of(requires: Iterable[str]) -> list[Detector]:
    """The detectors among a metric's requirements, each behind the one it starts from."""
    found: dict[str, Detector] = {}
    for name in requires:
        if name in NAMES:
            detector = load(name)
            if detector.AFTER is not None:
                found.setdefault(detector.AFTER, load(detector.AFTER))
            found[name] = detector
    return list(found.values())


def find_missing(requires: Iterable[str]) -> str | None:
    """Why a metric that needs these detectors cannot be taken here; None if it can."""
    return next((reason for d in detectors_of(requires) if (reason := d.missing())), None)


def fingerprint(requires: Iterable[str]) -> dict[str, Record]:
    """Detector to its facts, of all that a metric needs."""
    return {d.NAME: {"version": d.VERSION, **d.facts()} for d in detectors_of(requires)}
