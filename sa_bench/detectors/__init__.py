"""Detectors: pretrained networks that say what is to be seen in a picture, one file each.

A detector is a module with the names of `Detector`. It imports its library on first use, and hands back one
plain record an image, which is kept in the store: metrics count records and never see a network.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from sa_bench.detectors.pixels import Pixels
from sa_bench.sample_sets import SampleSet, file_hash
from sa_bench.store import digest, write_atomic

if TYPE_CHECKING:
    from sa_bench.stages import Chain

NAMES = ("nudity", "faces", "celebrities", "identity", "clip", "lpips")
CHUNK = 200  # images a file; a killed run loses no more

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

    def facts(self) -> Record:
        """What a fingerprint shows: library and version, settings, weight hash."""
        ...

    def missing(self) -> str | None:
        """What to install or which file to put where, in one line; None: nothing."""
        ...

    def detect(
        self, images: Pixels, beside: Any = None, found: Sequence[Record] | None = None,
        device: str = "cpu", progress: Progress | None = None,
    ) -> list[Record]:  # fmt: skip
        """One record an image; `beside` holds each image's prompt, name or other image, `found` AFTER's records."""
        ...


def load(name: str) -> Detector:
    """The detector `name` of `NAMES`."""
    return cast(Detector, importlib.import_module(f"sa_bench.detectors.{name}"))


def used(requires: Iterable[str]) -> list[Detector]:
    """The detectors among a metric's requirements, each behind the one it starts from."""
    found: dict[str, Detector] = {}
    for name in requires:
        if name in NAMES:
            detector = load(name)
            if detector.AFTER is not None:
                found.setdefault(detector.AFTER, load(detector.AFTER))
            found[name] = detector
    return list(found.values())


def missing(requires: Iterable[str]) -> str | None:
    """Why a metric that needs these detectors cannot be taken here; None if it can."""
    return next((reason for d in used(requires) if (reason := d.missing())), None)


def fingerprint(requires: Iterable[str]) -> dict[str, Record]:
    """Detector to its facts, of all that a metric needs."""
    return {d.NAME: {"version": d.VERSION, **d.facts()} for d in used(requires)}


def kept(chain: Chain, name: str, images: SampleSet, beside: Beside = None) -> list[Record]:
    """The records of `images`, made once for the same pixels by the same detector and then read from the store."""
    detector = load(name)
    found = kept(chain, detector.AFTER, images) if detector.AFTER else None
    others = beside.images if isinstance(beside, SampleSet) else beside
    inputs: Mapping[str, Any] = {
        "detector": fingerprint([name]),
        "images": file_hash(images.images),
        "beside": file_hash(beside.images) if isinstance(beside, SampleSet) else digest(list(beside or [])),
    }

    def build(folder: Path) -> None:
        for start in range(0, len(images), CHUNK):
            file, rows = folder / f"{start:08d}.json", slice(start, start + CHUNK)
            if not file.exists():
                records = detector.detect(
                    images.images[rows], None if others is None else others[rows], found and found[rows],
                    chain.device, lambda stage, done, _, s=start: chain.progress(stage, s + done, len(images)),
                )  # fmt: skip
                write_atomic(file, json.dumps(records, allow_nan=False).encode())

    folder = chain.make("detections", f"detect {name}", inputs, build).path
    return [record for part in sorted(folder.glob("[0-9]*.json")) for record in json.loads(part.read_text())]
