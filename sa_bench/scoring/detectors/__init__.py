"""Detectors: pretrained networks that say what is visible in an image, one file each.

A detector is a module with the names of `Detector`. It imports its library on first use and returns
one plain record an image, which is kept in the store: metrics count records and never see a
network.
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
    """What each module of this folder has."""

    NAME: str
    VERSION: int  # raised when our part of it reads an image in another way
    LICENCE: str
    UNLOCKS: str  # metrics that need it
    AFTER: str | None  # the detector whose records it starts from
    NEEDS_PROMPTS: bool  # True: it compares each image with its prompt
    ASSETS: tuple[str, ...]  # catalogue files that it reads; () if the library contains its weights

    def facts(self) -> Record:
        """Collect what a fingerprint holds: library and version, settings, weight hash."""
        ...

    def missing(self) -> str | None:
        """Say in one line what to install, or which file to put where.

        Returns None if nothing is missing.
        """
        ...

    def detect(
        self,
        images: Pixels,
        beside: Any = None,
        prior_records: Sequence[Record] | None = None,
        device: str = "cpu",
        progress: Progress | None = None,
    ) -> list[Record]:
        """Make one record an image.

        Args:
            images: uint8 pixels.
            beside: the prompt, name or other image of each image, if the detector needs one.
            prior_records: records of the detector AFTER, of the same images.
            device: device of the network.
            progress: called after every image or batch.
        """
        ...


def load(name: str) -> Detector:
    """Load the detector `name` of `NAMES`."""
    return cast(Detector, importlib.import_module(f"sa_bench.scoring.detectors.{name}"))


def detectors_of(requires: Iterable[str]) -> list[Detector]:
    """List the detectors among a metric's requirements, each after the one that it starts from."""
    required: dict[str, Detector] = {}
    for name in requires:
        if name in NAMES:
            detector = load(name)
            if detector.AFTER is not None:
                required.setdefault(detector.AFTER, load(detector.AFTER))
            required[name] = detector
    return list(required.values())


def find_missing(requires: Iterable[str]) -> str | None:
    """Say why a metric that needs these detectors cannot be measured here; None if it can."""
    return next((reason for d in detectors_of(requires) if (reason := d.missing())), None)


def fingerprint(requires: Iterable[str]) -> dict[str, Record]:
    """Collect the fingerprint entries of all detectors that a metric needs, by detector."""
    return {d.NAME: {"version": d.VERSION, **d.facts()} for d in detectors_of(requires)}
