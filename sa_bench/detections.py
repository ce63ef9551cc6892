"""What detectors found in a sample set, kept in the store."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sa_bench import detectors
from sa_bench.detectors import Beside, Record
from sa_bench.parts import PARTS, load_record, save_record
from sa_bench.sample_sets import SampleSet, file_hash
from sa_bench.stages import Chain
from sa_bench.store import digest, write_atomic
from sa_bench.untrusted import read_json

CHUNK = 200  # images a file; a killed run loses no more


def kept(chain: Chain, name: str, images: SampleSet, beside: Beside = None) -> list[Record]:
    """The records of `images`, made once for the same pixels by the same detector and then read from the store."""
    detector = detectors.load(name)
    found = kept(chain, detector.AFTER, images) if detector.AFTER else None
    others = beside.images if isinstance(beside, SampleSet) else beside
    inputs: Mapping[str, Any] = {
        "detector": detectors.fingerprint([name]),
        "images": file_hash(images.images),
        "beside": file_hash(beside.images) if isinstance(beside, SampleSet) else digest(list(beside or [])),
    }

    def build(folder: Path) -> None:
        for start in range(0, len(images), CHUNK):
            file, rows = f"{start:08d}.json", slice(start, start + CHUNK)
            records = load_record(folder / PARTS / file)
            if records is None:
                records = detector.detect(
                    images.images[rows], None if others is None else others[rows], found and found[rows],
                    chain.device, lambda stage, done, _, s=start: chain.progress(stage, s + done, len(images)),
                )  # fmt: skip
                save_record(folder / PARTS / file, records)
            write_atomic(folder / file, json.dumps(records, allow_nan=False).encode())

    folder = chain.make("detections", f"detect {name}", inputs, build).path
    return [record for part in sorted(folder.glob("[0-9]*.json")) for record in read_json(part)]
