"""Cards of the shipped weights: what each is, its hash, what it can do. No torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sa_bench.errors import SaBenchError, unknown
from sa_bench.store import digest, file_digest

WEIGHTS = Path(__file__).parent / "weights"


RESNET34 = {"kind": "trained", "network": "resnet34", "epochs": 20, "bar": 0.93}
TRAINED: dict[str, dict[str, Any]] = {
    # Three of the published recipe: a verdict needs as many. The first has no seed in its recipe: it is 0.
    "cifar10-resnet34": {**RESNET34, "dataset": "cifar10"},
    "cifar10-resnet34-2": {**RESNET34, "dataset": "cifar10", "seed": 2},
    "cifar10-resnet34-3": {**RESNET34, "dataset": "cifar10", "seed": 3},
    "stl10-resnet34": {**RESNET34, "dataset": "stl10"},
    "stl10-resnet34-2": {**RESNET34, "dataset": "stl10", "seed": 2},
    "stl10-resnet34-3": {**RESNET34, "dataset": "stl10", "seed": 3},
    "cifar10-smoke": {"kind": "trained", "network": "smoke", "dataset": "cifar10", "epochs": 20, "bar": 0.0},
    "stl10-smoke": {"kind": "trained", "network": "smoke", "dataset": "stl10", "epochs": 20, "bar": 0.0},
}
"""Judges that are trained on first use (`sa_bench.trained_judges`); in fingerprints their recipe names them."""


def trained_inputs(name: str) -> dict[str, Any]:
    """What names a trained judge: its recipe and its data."""
    from sa_bench import datasets  # numpy, only where it is needed

    spec = {k: v for k, v in TRAINED[name].items() if k != "bar"}
    return {"version": 1, **spec, "data": datasets.content(spec["dataset"])}


def judge_names() -> list[str]:
    """All shipped judges."""
    return sorted(path.stem.removeprefix("judge-") for path in WEIGHTS.glob("judge-*.safetensors"))


def judge_card(name: str) -> dict[str, Any]:
    """What is known of a judge: accuracy, bar, hash, what it says of grey and noise.

    Raises:
        SaBenchError: unknown name.
    """
    if name in TRAINED:
        return {"name": name, **TRAINED[name], "sha256": digest(trained_inputs(name))}
    path = WEIGHTS / f"judge-{name}.json"
    if not path.is_file():
        raise unknown("judge", name, [*judge_names(), *TRAINED])
    return json.loads(path.read_text())


def looks_at(facts: dict[str, Any]) -> tuple[str, ...]:
    """The data sets whose images a judge was made to look at: its own; a judge of 28-pixel digits also crops canvases."""
    if facts["kind"] == "trained":
        return (facts["dataset"],)
    return {28: ("mnist", "mnist_canvas"), 16: ("mnist16",)}[facts.get("size") or 28]


def require_sight(name: str, dataset: str) -> None:
    """Refuse a judge of other images than the task's: what it says of them means nothing.

    Raises:
        SaBenchError: it is one; names those that are not.
    """
    own = looks_at(judge_card(name))
    if dataset not in own:
        able = [judge for judge in (*judge_names(), *TRAINED) if dataset in looks_at(judge_card(judge))]
        raise SaBenchError(
            f"The judge {name} looks at images of {' and '.join(own)}, not of {dataset}. "
            + (f"Judges of those: {', '.join(able)}." if able else f"No judge of {dataset} is here.")
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


def guard_card(dataset: str) -> dict[str, Any]:
    """The collapse guard's calibration: bounds, null, power, and how they were made.

    Raises:
        SaBenchError: there is none for that data set.
    """
    path = WEIGHTS / f"guard-{dataset}.json"
    if not path.is_file():
        raise SaBenchError(
            f"There is no collapse guard for {dataset}; make one: python -m sa_bench.weights guard TASK."
        )
    return json.loads(path.read_text())


def variance_card() -> dict[str, Any]:
    """Task to endpoint to the spread of differences between methods, as measured on the boards that ship."""
    found: dict[str, Any] = {}
    for path in sorted(WEIGHTS.glob("variance-*.json")):
        found |= json.loads(path.read_text())
    return found


def verified(file: Path) -> str:
    """The weight file's sha256, equal to its card's.

    Raises:
        SaBenchError: the file was changed or damaged.
    """
    card = json.loads(file.with_suffix(".json").read_text())
    content = file_digest(file)
    if content != card["sha256"]:
        raise SaBenchError(
            f"{file} is damaged: sha256 {content[:12]}…, its card says {card['sha256'][:12]}…. Reinstall."
        )
    return content
