"""Cards of the shipped weights: what each is, its hash, what it can do. No torch."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from sa_bench.core.errors import SaBenchError, unknown_name
from sa_bench.core.store import digest
from sa_bench.data.assets.shipped import WEIGHTS

if TYPE_CHECKING:
    import numpy as np

RESNET34 = {"kind": "trained", "network": "resnet34", "epochs": 20, "bar": 0.93}
TRAINED: dict[str, dict[str, Any]] = {
    # Three of the published recipe: a verdict needs as many. The first has no seed in its recipe: it is 0.
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
"""Judges that are trained on first use (`sa_bench.scoring.trained_judges`); in fingerprints their recipe names them."""


def trained_key_inputs(name: str) -> dict[str, Any]:
    """What names a trained judge: its recipe and its data."""
    from sa_bench.data import datasets  # numpy, only where it is needed

    spec = {k: v for k, v in TRAINED[name].items() if k != "bar"}
    return {"version": 1, **spec, "data": datasets.data_content(spec["dataset"])}


def list_judges() -> list[str]:
    """All shipped judges."""
    return sorted(path.stem.removeprefix("judge-") for path in WEIGHTS.glob("judge-*.safetensors"))


def judge_card(name: str) -> dict[str, Any]:
    """What is known of a judge: accuracy, bar, hash, what it says of grey and noise.

    Raises:
        SaBenchError: unknown name.
    """
    if name in TRAINED:
        return {"name": name, **TRAINED[name], "sha256": digest(trained_key_inputs(name))}
    path = WEIGHTS / f"judge-{name}.json"
    if not path.is_file():
        raise unknown_name("judge", name, [*list_judges(), *TRAINED])
    return json.loads(path.read_text())


def datasets_of_judge(facts: dict[str, Any]) -> tuple[str, ...]:
    """The data sets whose images a judge was made to look at: its own; a judge of 28-pixel digits also crops canvases."""
    if facts["kind"] == "trained":
        return (facts["dataset"],)
    return {28: ("mnist", "mnist_canvas"), 16: ("mnist16",)}[facts.get("size") or 28]


def require_sight(name: str, dataset: str) -> None:
    """Refuse a judge of other images than the task's: what it says of them means nothing.

    Raises:
        SaBenchError: it is one; names those that are not.
    """
    own = datasets_of_judge(judge_card(name))
    if dataset not in own:
        able = [
            judge
            for judge in (*list_judges(), *TRAINED)
            if dataset in datasets_of_judge(judge_card(judge))
        ]
        raise SaBenchError(
            f"The judge {name} looks at images of {' and '.join(own)}, not of {dataset}. "
            + (
                f"Judges of those: {', '.join(able)}."
                if able
                else f"No judge of {dataset} is here."
            )
        )


def require_bar(facts: dict[str, Any]) -> None:
    """Refuse a judge whose measured accuracy is below its bar; one not yet trained has none to be refused for.

    Raises:
        SaBenchError: it is.
    """
    if "accuracy" in facts and facts["accuracy"] < facts["bar"]:
        raise SaBenchError(
            f"The judge {facts['name']} refuses to judge: accuracy {facts['accuracy']:.4f} on real test "
            f"images is below its bar {facts['bar']:.4f}. Make it again with `make judges`."
        )


def examine_judge(judge: Any, x: np.ndarray, y: np.ndarray) -> dict[str, Any]:
    """What goes on a judge's card: accuracy on test images, and its answers to grey, noise and blank ones.

    Args:
        judge: gives probabilities.
        x: uint8 (N, H, W, C).
        y: (N,) labels.
    """
    import numpy as np  # cards are read without it

    p = judge.probabilities(x)
    right = p[:, :10].argmax(1) == y
    grey = np.full((1, *x.shape[1:]), 128, np.uint8)
    noise = np.random.default_rng(0).integers(0, 256, (500, *x.shape[1:]), dtype=np.uint8)
    facts: dict[str, Any] = {
        "accuracy": float(right.mean()),
        "accuracy_by_class": [float(right[y == c].mean()) for c in range(10)],
        "n_test": len(y),
    }
    for name, images in (("grey", grey), ("noise", noise), ("blank", np.zeros_like(grey))):
        q = judge.probabilities(images)
        h = -(q * np.log(np.clip(q, 1e-300, None))).sum(1).mean()
        facts[name] = {"entropy": float(h), "probability": [float(v) for v in q.mean(0)]}
    return facts
