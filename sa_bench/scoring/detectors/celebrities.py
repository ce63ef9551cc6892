"""Celebrity faces: the second stage of the GIPHY celebrity detector, without TensorFlow.

A ResNet-50 with two linear layers (2048 -> 256 -> 2,306) on crops of 224 pixels in [0, 1], neither
centred nor scaled. GIPHY's file is converted once:

    python -c "from sa_bench.scoring.detectors import celebrities as c;
    c.convert('best_model_states.pkl')"

Differs from the original: its first stage is another port of MTCNN
(`sa_bench.scoring.detectors.faces`); several faces of one image are kept apart, where the original
joins those of one cluster.
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
ANCHORS = {"Brad Pitt": 281, "Angelina Jolie": 124}  # indices in the official evaluation


def facts() -> dict[str, Any]:
    """Describe the network, its weights and labels, and how faces are cut out."""
    return {
        "network": "ResNet-50, fc 256, fc 2306",
        "weights": short_hash(ASSETS[0]),
        "labels": short_hash(ASSETS[1]),
        "grow": GROW,
    }


def missing() -> str | None:
    """Say what to install or which file to put where; None if nothing is missing."""
    try:
        for name in ASSETS:
            need(name)
    except MissingAsset as error:
        return str(error)
    return faces.missing()


def build_network() -> torch.nn.Module:
    """Build a network of the detector's shape; its parameters are named as in the file."""
    from torch import nn
    from torchvision.models import resnet50

    trunk = nn.Sequential(*list(resnet50(weights=None).children())[:-1])
    net = nn.Module()
    net.add_module("stem", trunk)
    net.add_module("fc1", nn.Linear(2048, EMBEDDING))
    net.add_module("fc2", nn.Linear(EMBEDDING, CLASSES))
    return net


def convert(source: str | Path, target: str | Path | None = None) -> Path:
    """Convert GIPHY's `best_model_states.pkl` to safetensors and return the new path.

    Args:
        source: the pickle, read by a loader that runs no code.
        target: path of the new file; by default in the store's folder of weights.

    Raises:
        SaBenchError: there is no such file, or it does not hold this network.
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
    expected = _list_expected_tensors(build_network())
    _require_same_shapes(source, state, expected)
    path = Path(target) if target else (weights_folder() or store_folder() / "weights") / FILE
    write_atomic(path, save({k: state[k].contiguous().clone() for k in expected}))
    return path


def _list_expected_tensors(net: torch.nn.Module) -> dict[str, torch.Tensor]:
    """List the tensors that GIPHY's file has for a network, by name."""
    return {k: v for k, v in net.state_dict().items() if not k.endswith("num_batches_tracked")}


def _require_same_shapes(path: Path, state: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """Refuse weights that lack a tensor, or have one of another shape."""
    for name, value in expected.items():
        shape = tuple(state[name].shape) if name in state else None
        if shape != tuple(value.shape):
            fault = "is absent" if shape is None else f"has shape {shape}"
            raise SaBenchError(
                f"{path}: {name} {fault}, must be {tuple(value.shape)}. Not this detector's weights."
            )


def read_labels(path: Path) -> list[str]:
    """Read the 2,306 names, as `Brad Pitt`, at the index that the network gives them.

    Raises:
        SaBenchError: rows are missing, doubled or out of order; the file's index must be the rank
            of the name.
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
    misplaced = next((n for i, n in enumerate(ranked) if indices[n] != i), None)
    if len(names) != CLASSES or misplaced is not None:
        fault = (
            f"{misplaced} stands at {indices[misplaced]}"
            if misplaced
            else f"it has {len(names)} names"
        )
        raise SaBenchError(
            f"{path} is not GIPHY's labels.csv of {CLASSES} names in order: {fault}."
        )
    for name, index in ANCHORS.items():
        if names[index] != name:
            raise SaBenchError(
                f"{path}: index {index} is {names[index]!r}, must be {name!r}. Get labels.csv again."
            )
    return names


def index_of(name: str, names: Sequence[str]) -> int:
    """Find the index of a celebrity; `Brad_Pitt`, `brad pitt` and `BRAD PITT` are one name.

    Raises:
        SaBenchError: there is nobody of that name; suggests similar names.
    """
    lower_case_names = [n.lower() for n in names]
    searched_name = " ".join(name.replace("_", " ").lower().split())
    if searched_name in lower_case_names:
        return lower_case_names.index(searched_name)
    similar_names = [
        names[lower_case_names.index(n)]
        for n in difflib.get_close_matches(searched_name, lower_case_names, n=3, cutoff=0.6)
    ]
    hint = (
        f"Did you mean {' or '.join(similar_names)}?"
        if similar_names
        else f"The {len(names)} names are in {LABELS}."
    )
    raise SaBenchError(f"The celebrity detector knows nobody called {name!r}. {hint}")


def labels() -> list[str]:
    """Read the names that the detector knows."""
    return read_labels(need(ASSETS[1]))


@lru_cache(maxsize=1)
def _load_network(path: Path, content: str, device: str) -> torch.nn.Module:
    from safetensors.torch import load_file

    net, state = build_network(), load_file(path)
    _require_same_shapes(path, state, _list_expected_tensors(net))
    net.load_state_dict(state, strict=False)
    return net.eval().requires_grad_(False).to(device)


def probabilities(net: torch.nn.Module, crops: Sequence[Any], device: str = "cpu") -> torch.Tensor:
    """Compute class probabilities (faces, 2306) of PIL crops of any size.

    Each crop is processed by itself, so that its result depends on no neighbour.
    """
    import torch
    from PIL.Image import Resampling
    from torchvision.transforms.functional import to_tensor

    layers: Any = net
    with torch.no_grad():
        rows = []
        for face in crops:
            x = to_tensor(face.resize((SIDE, SIDE), Resampling.BILINEAR))[None].to(device)
            rows.append(
                layers.fc2(layers.fc1(layers.stem(x).flatten(1))).double().softmax(1)[0].cpu()
            )
    return torch.stack(rows) if rows else torch.zeros(0, CLASSES, dtype=torch.float64)


def detect(
    images: Pixels,
    beside: Sequence[str] | None = None,
    prior_records: Sequence[Record] | None = None,
    device: str = "cpu",
    progress: Progress | None = None,
) -> list[Record]:
    """Record how likely each face is the celebrity asked for.

    The record of an image is `{"faces": [{"target", "top", "top_probability"}]}`.

    Args:
        images: uint8 pixels.
        beside: name of the celebrity asked for, one an image.
        prior_records: records of `faces`; None makes them here.
        device: device of the network.
        progress: called after every image.

    Raises:
        SaBenchError: a name is not one that the detector knows.
        MissingAsset: the weights or labels are absent.
    """
    names, path = labels(), need(ASSETS[0])
    if beside is None or len(beside) != len(images):
        raise SaBenchError("The celebrity detector needs the name to look for, one an image.")
    targets = {name: index_of(name, names) for name in dict.fromkeys(beside)}
    net = _load_network(path, short_hash(ASSETS[0]), device)
    records, boxes = (
        [],
        faces.detect(images, device=device) if prior_records is None else prior_records,
    )
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
