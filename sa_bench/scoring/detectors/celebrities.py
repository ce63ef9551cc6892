"""Whose face it is: the GIPHY celebrity detector's second stage, without TensorFlow.

A ResNet-50 with two linear layers (2048 -> 256 -> 2,306) on crops of 224 pixels in [0, 1], neither centred nor
scaled. GIPHY's file is converted once:

    python -c "from sa_bench.scoring.detectors import celebrities as c; c.convert('best_model_states.pkl')"

Differs from the original: its first stage is another port of MTCNN (`sa_bench.scoring.detectors.faces`); several faces of
one image are kept apart, where it would join those of one cluster.
Source: Giphy/celeb-detection-oss, model_training/ (helpers/resnet_model.py, models/cnn/resnet.py).
"""

from __future__ import annotations

import csv
import difflib
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sa_bench.core.errors import MissingAsset, SaBenchError
from sa_bench.core.store import write_atomic
from sa_bench.data.assets.catalogue import CATALOGUE, need, short_hash
from sa_bench.data.assets.locate import load_tensors
from sa_bench.scoring.detectors import faces
from sa_bench.scoring.detectors.pixels import Pixels, crop, iterate_rgb

if TYPE_CHECKING:
    import torch

    from sa_bench.scoring.detectors import Progress, Record


NAME, VERSION, AFTER = "celebrities", 1, "faces"
ASSETS = ("giphy-celebrities", "giphy-labels")
NEEDS_PROMPTS = False
ASSET = CATALOGUE[ASSETS[0]]
LICENCE, UNLOCKS = ASSET.licence, ASSET.unlocks
FILE, LABELS, URL = ASSET.file, CATALOGUE["giphy-labels"].file, ASSET.url
CLASSES, EMBEDDING, SIDE, GROW = 2306, 256, 224, 0.2
ANCHORS = {"Brad Pitt": 281, "Angelina Jolie": 124}  # where the official evaluation looks for them


def facts() -> dict[str, Any]:
    """The network, its weights and labels, and how faces are cut out."""
    return {
        "network": "ResNet-50, fc 256, fc 2306",
        "weights": short_hash(ASSETS[0]),
        "labels": short_hash(ASSETS[1]),
        "grow": GROW,
    }


def missing() -> str | None:
    """What to install or which file to put where."""
    try:
        for name in ASSETS:
            need(name)
    except MissingAsset as error:
        return str(error)
    return faces.missing()


def network() -> torch.nn.Module:
    """A new network of the detector's shape; the names of its parameters are the file's."""
    from torch import nn
    from torchvision.models import resnet50

    trunk = nn.Sequential(*list(resnet50(weights=None).children())[:-1])
    net = nn.Module()
    net.add_module("stem", trunk)
    net.add_module("fc1", nn.Linear(2048, EMBEDDING))
    net.add_module("fc2", nn.Linear(EMBEDDING, CLASSES))
    return net


def convert(source: str | Path, target: str | Path | None = None) -> Path:
    """GIPHY's `best_model_states.pkl` as safetensors; returns where it was written.

    Args:
        source: the pickle, read by a loader that runs nothing.
        target: where to; by default the store's folder of weights.

    Raises:
        SaBenchError: no such file, or it does not hold this network.
    """
    from safetensors.torch import save

    from sa_bench.core.settings import store_folder, weights_folder

    source = Path(source)
    if not source.is_file():
        raise SaBenchError(f"There is no file {source}. It is in {URL}.")
    state = load_tensors(source).get("model_state")
    if not isinstance(state, Mapping):
        raise SaBenchError(
            f"{source} has no `model_state`; it is not GIPHY's best_model_states.pkl."
        )
    state = {k.removeprefix("model."): v for k, v in state.items() if k.startswith("model.")}
    wanted = {
        k: v for k, v in network().state_dict().items() if not k.endswith("num_batches_tracked")
    }
    _compare(source, state, wanted)
    path = Path(target) if target else (weights_folder() or store_folder() / "weights") / FILE
    write_atomic(path, save({k: state[k].contiguous().clone() for k in wanted}))
    return path


def _compare(path: Path, state: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    for name, value in wanted.items():
        shape = tuple(state[name].shape) if name in state else None
        if shape != tuple(value.shape):
            found = "is absent" if shape is None else f"has shape {shape}"
            raise SaBenchError(
                f"{path}: {name} {found}, must be {tuple(value.shape)}. Not this detector's weights."
            )


def read_labels(path: Path) -> list[str]:
    """The 2,306 names as `Brad Pitt`, at the index the network gives them.

    Raises:
        SaBenchError: rows that are missing, doubled or out of order; the file's index must be the rank of the name.
    """
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    try:
        indices = {row[0]: int(row[1]) for row in rows[1:] if row}
    except (IndexError, ValueError) as error:
        raise SaBenchError(
            f"{path} is not GIPHY's labels.csv (columns Labels, Index): {error}."
        ) from error
    ranked = sorted(indices)
    names = [re.sub(r"_\[.*", "", name).replace("_", " ") for name in ranked]
    off = next((n for i, n in enumerate(ranked) if indices[n] != i), None)
    if len(names) != CLASSES or off is not None:
        wrong = f"{off} stands at {indices[off]}" if off else f"it has {len(names)} names"
        raise SaBenchError(
            f"{path} is not GIPHY's labels.csv of {CLASSES} names in order: {wrong}."
        )
    for name, index in ANCHORS.items():
        if names[index] != name:
            raise SaBenchError(
                f"{path}: index {index} is {names[index]!r}, must be {name!r}. Get labels.csv again."
            )
    return names


def index_of(name: str, names: Sequence[str]) -> int:
    """The index of a celebrity; `Brad_Pitt`, `brad pitt` and `BRAD PITT` are one.

    Raises:
        SaBenchError: nobody of that name; says who comes near.
    """
    plain = [n.lower() for n in names]
    wanted = " ".join(name.replace("_", " ").lower().split())
    if wanted in plain:
        return plain.index(wanted)
    near = [
        names[plain.index(n)] for n in difflib.get_close_matches(wanted, plain, n=3, cutoff=0.6)
    ]
    hint = (
        f"Did you mean {' or '.join(near)}?" if near else f"The {len(names)} names are in {LABELS}."
    )
    raise SaBenchError(f"The celebrity detector knows nobody called {name!r}. {hint}")


def labels() -> list[str]:
    """The names the detector here knows."""
    return read_labels(need(ASSETS[1]))


@lru_cache(maxsize=1)
def _loaded(path: Path, content: str, device: str) -> torch.nn.Module:
    from safetensors.torch import load_file

    net, state = network(), load_file(path)
    _compare(
        path,
        state,
        {k: v for k, v in net.state_dict().items() if not k.endswith("num_batches_tracked")},
    )
    net.load_state_dict(state, strict=False)
    return net.eval().requires_grad_(False).to(device)


def probabilities(net: torch.nn.Module, crops: Sequence[Any], device: str = "cpu") -> torch.Tensor:
    """(faces, 2306) of PIL crops of any size, each by itself so that it depends on no neighbour."""
    import torch
    from PIL.Image import Resampling
    from torchvision.transforms.functional import to_tensor

    parts: Any = net
    with torch.no_grad():
        rows = []
        for face in crops:
            x = to_tensor(face.resize((SIDE, SIDE), Resampling.BILINEAR))[None].to(device)
            rows.append(parts.fc2(parts.fc1(parts.stem(x).flatten(1))).double().softmax(1)[0].cpu())
    return torch.stack(rows) if rows else torch.zeros(0, CLASSES, dtype=torch.float64)


def detect(
    images: Pixels,
    beside: Sequence[str] | None = None,
    found: Sequence[Record] | None = None,
    device: str = "cpu",
    progress: Progress | None = None,
) -> list[Record]:
    """`{"faces": [{"target", "top", "top_probability"}]}` of each image: how likely each face is the one asked for.

    Args:
        images: uint8 pixels.
        beside: the name asked for, one an image.
        found: records of `faces`; None: made here.
        device: of the network.
        progress: told of every image.

    Raises:
        SaBenchError: a name that the detector does not know.
        MissingAsset: no weights or labels here.
    """
    names, path = labels(), need(ASSETS[0])
    if beside is None or len(beside) != len(images):
        raise SaBenchError("The celebrity detector needs the name to look for, one an image.")
    targets = {name: index_of(name, names) for name in dict.fromkeys(beside)}
    net = _loaded(path, short_hash(ASSETS[0]), device)
    records, boxes = [], faces.detect(images, device=device) if found is None else found
    for image, name, record in zip(iterate_rgb(images), beside, boxes, strict=True):
        crops = [c for f in record["faces"] if (c := crop(image, f["box"], GROW)) is not None]
        p, index = probabilities(net, crops, device), targets[name]
        tops = [(names[int(r.argmax())], float(r.max())) for r in p]
        rows = [
            {"target": float(r[index]), "top": top, "top_probability": best}
            for r, (top, best) in zip(p, tops, strict=True)
        ]
        records.append({"faces": rows})
        if progress is not None:
            progress("celebrities", len(records), len(images))
    return records
