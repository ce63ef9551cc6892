"""Cards of the shipped judges: what each one is, its hash, and how accurate it is. No torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sa_bench.core.errors import SaBenchError, unknown_name
from sa_bench.core.file_state import cached_by, read_state
from sa_bench.core.store import digest
from sa_bench.data.assets.shipped import WEIGHTS

if TYPE_CHECKING:
    import numpy as np

RESNET34 = {"kind": "trained", "network": "resnet34", "epochs": 20, "bar": 0.93}
TRAINED: dict[str, dict[str, Any]] = {
    # Three seeds of the published recipe, since a verdict against a published number needs three judges. The first
    # recipe names no seed: it is 0.
    "cifar10-resnet34": {**RESNET34, "dataset": "cifar10"},
    "cifar10-resnet34-2": {**RESNET34, "dataset": "cifar10", "seed": 2},
    "cifar10-resnet34-3": {**RESNET34, "dataset": "cifar10", "seed": 3},
    "stl10-resnet34": {**RESNET34, "dataset": "stl10"},
    "stl10-resnet34-2": {**RESNET34, "dataset": "stl10", "seed": 2},
    "stl10-resnet34-3": {**RESNET34, "dataset": "stl10", "seed": 3},
    "cifar10-smoke": {
        "kind": "trained",
        "network": "smoke",
        "dataset": "cifar10",
        "epochs": 20,
        "bar": 0.0,
    },
    "stl10-smoke": {
        "kind": "trained",
        "network": "smoke",
        "dataset": "stl10",
        "epochs": 20,
        "bar": 0.0,
    },
}
"""Judges that are trained on first use (`sa_bench.scoring.trained_judges`); fingerprints name them
by their recipe."""


def trained_key_inputs(name: str) -> dict[str, Any]:
    """Collect what names a trained judge: its recipe and its data."""
    from sa_bench.data import datasets  # numpy, only where it is needed

    spec = {k: v for k, v in TRAINED[name].items() if k != "bar"}
    return {"version": 1, **spec, "data": datasets.data_content(spec["dataset"])}


def list_judges() -> list[str]:
    """List the shipped judges."""
    return sorted(path.stem.removeprefix("judge-") for path in WEIGHTS.glob("judge-*.safetensors"))


def judge_card(name: str) -> dict[str, Any]:
    """Read the card of a judge: accuracy, bar, hash, its answers to grey and noise.

    Raises:
        SaBenchError: there is no judge of that name.
    """
    if name in TRAINED:
        return {"name": name, **TRAINED[name], "sha256": digest(trained_key_inputs(name))}
    path = WEIGHTS / f"judge-{name}.json"
    if not path.is_file():
        raise unknown_name("judge", name, [*list_judges(), *TRAINED])
    return dict(_read_card(path))


@cached_by(read_state, maxsize=64)
def _read_card(path: Path) -> dict[str, Any]:
    """Read a card once; every fingerprint asks for those of all judges."""
    return json.loads(path.read_text())


def datasets_of_judge(card: dict[str, Any]) -> tuple[str, ...]:
    """List the data sets whose images a judge was made for.

    A judge of 28-pixel digits takes canvases too, since it crops them.
    """
    if card["kind"] == "trained":
        return (card["dataset"],)
    return {28: ("mnist", "mnist_canvas"), 16: ("mnist16",)}[card.get("size") or 28]


def require_sight(name: str, dataset: str) -> None:
    """Refuse a judge made for other images than the task's: its answers would mean nothing.

    Raises:
        SaBenchError: the judge is for other data; names the judges for this data.
    """
    datasets = datasets_of_judge(judge_card(name))
    if dataset not in datasets:
        able_judges = [
            judge
            for judge in (*list_judges(), *TRAINED)
            if dataset in datasets_of_judge(judge_card(judge))
        ]
        hint = f"No judge of {dataset} is here."
        if able_judges:
            hint = f"Judges of those: {', '.join(able_judges)}."
        raise SaBenchError(
            f"The judge {name} looks at images of {' and '.join(datasets)}, not of {dataset}. {hint}"
        )


def require_bar(card: dict[str, Any]) -> None:
    """Refuse a judge whose measured accuracy is below its bar.

    A judge not yet trained has none and passes.

    Raises:
        SaBenchError: the accuracy is below the bar.
    """
    if "accuracy" in card and card["accuracy"] < card["bar"]:
        raise SaBenchError(
            f"The judge {card['name']} refuses to judge: accuracy {card['accuracy']:.4f} on real test "
            f"images is below its bar {card['bar']:.4f}. Make it again with `make judges`."
        )


def examine_judge(judge: Any, x: np.ndarray, y: np.ndarray) -> dict[str, Any]:
    """Examine a judge for its card: its accuracy, and its answers to grey, noise and blank images.

    Args:
        judge: gives probabilities.
        x: test images, uint8 (N, H, W, C).
        y: labels (N,).
    """
    import numpy as np  # cards are read without it

    from sa_bench.statistics import entropy

    p = judge.probabilities(x)
    right = p[:, :10].argmax(1) == y
    grey = np.full((1, *x.shape[1:]), 128, np.uint8)
    noise = np.random.default_rng(0).integers(0, 256, (500, *x.shape[1:]), dtype=np.uint8)
    card: dict[str, Any] = {
        "accuracy": float(right.mean()),
        "accuracy_by_class": [float(right[y == c].mean()) for c in range(10)],
        "n_test": len(y),
    }
    for name, images in (("grey", grey), ("noise", noise), ("blank", np.zeros_like(grey))):
        q = judge.probabilities(images)
        card[name] = {
            "entropy": float(entropy(q).mean()),
            "probability": [float(v) for v in q.mean(0)],
        }
    return card
