"""Makes what ships again: `python -m sa_bench.weights judges|bases|guard`, `freeze TASK ...`, `variance RUN`.

Writes into this folder; a card (JSON) beside each weight file says how it was made and what it can do.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor
from torch.nn import functional as F

from sa_bench import __version__, bases
from sa_bench.data import mnist
from sa_bench.judges import CNN, read
from sa_bench.settings import data_folder, store_folder
from sa_bench.store import Store, digest, file_digest, write_atomic

FOLDER = Path(__file__).parent
COMMAND = "python -m sa_bench.weights"
NEGATIVES = ("half", "mirrored", "warped", "blend")
MIRRORABLE = torch.tensor([2, 3, 4, 5, 6, 7, 9])  # 0, 1 and 8 stay digits in the mirror


def negatives(x: Tensor, y: Tensor, kind: str, rng: torch.Generator) -> Tensor:
    """Hard `none of the digits` images made from digits; `x` (N, 1, 28, 28) in [0, 1], rows may drop.

    half: one half erased. mirrored: left-right, only digits that are none then. warped: a smooth
    displacement of up to a third of the image. blend: the brighter pixel of two different digits.
    """
    n = len(x)
    if kind == "half":
        x = x.clone()
        side = torch.randint(4, (n,), generator=rng)
        for k, cut in enumerate((np.s_[..., :14, :], np.s_[..., 14:, :], np.s_[..., :14], np.s_[..., 14:])):
            x[(side == k).nonzero()[:, 0]] = _erased(x[side == k], cut)
        return x
    if kind == "mirrored":
        return x[torch.isin(y, MIRRORABLE)].flip(3)
    if kind == "warped":
        coarse = torch.rand(n, 2, 4, 4, generator=rng) * 1.4 - 0.7
        field = F.interpolate(coarse, size=(28, 28), mode="bicubic", align_corners=True)
        grid = F.affine_grid(torch.eye(2, 3).expand(n, 2, 3), [n, 1, 28, 28], align_corners=False)
        return F.grid_sample(x, grid + field.permute(0, 2, 3, 1), align_corners=False)
    other = torch.randperm(n, generator=rng)
    keep = y != y[other]
    return torch.maximum(x, x[other])[keep]


def _erased(x: Tensor, cut: Any) -> Tensor:
    x = x.clone()
    x[cut] = 0
    return x


def train_cnn(x: Tensor, y: Tensor, seed: int, recipe: str, outputs: int) -> CNN:
    """Train the official architecture.

    `paper`: Adam 1e-4, StepLR(5, 0.1), batch 64, 20 epochs (official vae/train_classifier.py).
    `onecycle`: OneCycle to 1e-2, batch 128, 8 epochs. With 11 outputs every batch is half digits, half
    fresh negatives.
    """
    torch.manual_seed(seed)
    rng = torch.Generator().manual_seed(seed)
    net = CNN(outputs).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    batch, epochs = (64, 20) if recipe == "paper" else (128, 8)
    steps = len(x) // batch
    optimiser = torch.optim.Adam(net.parameters(), lr=1e-4 if recipe == "paper" else 1e-3)
    schedule: Any = (
        torch.optim.lr_scheduler.StepLR(optimiser, 5 * steps, 0.1)
        if recipe == "paper"
        else torch.optim.lr_scheduler.OneCycleLR(optimiser, 1e-2, total_steps=epochs * steps)
    )
    for epoch in range(epochs):
        order = torch.randperm(len(x), generator=rng)
        loss = torch.zeros(())
        for i in range(steps):
            rows = order[i * batch : (i + 1) * batch]
            xb, yb = x[rows], y[rows]
            if outputs == 11:
                none = negatives(xb, yb, NEGATIVES[i % len(NEGATIVES)], rng)
                xb, yb = torch.cat([xb, none]), torch.cat([yb, torch.full((len(none),), 10)])
            loss = F.cross_entropy(net(xb), yb)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
        print(f"  epoch {epoch + 1}/{epochs}  loss {float(loss.detach()):.3f}", flush=True)
    return net.eval()


def measured(judge: Any, x: np.ndarray, y: np.ndarray) -> dict[str, Any]:
    """What goes on the card: accuracy on the 10,000 test digits, and answers to what is no digit."""
    p = judge.probabilities(x)
    right = p[:, :10].argmax(1) == y
    grey = np.full((1, 28, 28, 1), 128, np.uint8)
    noise = np.random.default_rng(0).integers(0, 256, (500, 28, 28, 1), dtype=np.uint8)
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


def calibrated(judge: Any, x: Tensor, y: Tensor, test: tuple[Tensor, Tensor]) -> dict[str, Any]:
    """The reject threshold (1 % of held-out digits lost) and what it catches on the test digits."""

    def score(z: Tensor) -> np.ndarray:
        images = (z.permute(0, 2, 3, 1) * 255).round().to(torch.uint8).numpy()
        return judge.probabilities(images)[:, 10]

    threshold = float(np.quantile(score(x), 0.99))
    rng = torch.Generator().manual_seed(99)
    caught = {k: float((score(negatives(*test, k, rng)) > threshold).mean()) for k in NEGATIVES}
    caught["grey"] = float(score(torch.full((1, 1, 28, 28), 128 / 255))[0] > threshold)
    caught["noise"] = float((score(torch.rand(500, 1, 28, 28, generator=rng)) > threshold).mean())
    caught["blank"] = float(score(torch.zeros(1, 1, 28, 28))[0] > threshold)
    return {
        "threshold": threshold,
        "false_reject": float((score(test[0]) > threshold).mean()),
        "caught": caught,
    }


def ship(file: Path, tensors: dict[str, Tensor], card: dict[str, Any]) -> None:
    """Write weights and card."""
    write_atomic(file, save({k: v.detach().contiguous() for k, v in tensors.items()}))
    card |= {"sha256": file_digest(file), "bytes": file.stat().st_size}
    card["made_with"] = {"sa_bench": __version__, "torch": torch.__version__}
    write_atomic(file.with_suffix(".json"), json.dumps(card, indent=1).encode() + b"\n")
    print(f"{file.name}  {json.dumps({k: card.get(k) for k in ('accuracy', 'nats')})}", flush=True)


def make_judges(only: str | None = None) -> None:
    """Train, measure and ship every MNIST judge (about 12 minutes on one core)."""
    d = mnist.load(store_folder() / "data", data_folder())
    x = torch.from_numpy(d["train_images"])[:, None].float() / 255
    y = torch.from_numpy(d["train_labels"]).long()
    test_x, test_y = d["test_images"][..., None], d["test_labels"].astype(int)
    plans: list[tuple[str, int, str, int, float]] = [
        *[(f"mnist-cnn-{s}", s, "onecycle", 10, 0.985) for s in range(5)],
        ("mnist-paper", 0, "paper", 10, 0.97),
        # Seed 1 of the paper's recipe reaches 0.9689 and would refuse to judge.
        ("mnist-paper-2", 2, "paper", 10, 0.97),
        ("mnist-paper-3", 3, "paper", 10, 0.97),
        ("mnist-reject", 0, "onecycle", 11, 0.975),
    ]
    for name, seed, recipe, outputs, bar in plans:
        if only and only != name:
            continue
        print(name, flush=True)
        held = 5000 if outputs == 11 else 0  # for the threshold
        started = time.process_time()
        net = train_cnn(x[: len(x) - held], y[: len(x) - held], seed, recipe, outputs)
        seconds = round(time.process_time() - started)
        # fp16 on disk: the shipped file is the judge, and its card is measured from that file.
        state = {k: v.half() if v.is_floating_point() else v for k, v in net.state_dict().items()}
        facts: dict[str, Any] = {
            "name": name, "kind": "cnn", "outputs": outputs, "recipe": recipe, "seed": seed, "bar": bar,
            "cpu_seconds": seconds, "command": f"{COMMAND} judges {name}", "data": digest(mnist.CONTENT),
        }  # fmt: skip
        net.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in state.items()})
        file = FOLDER / f"judge-{name}.safetensors"
        write_atomic(file, save({k: v.contiguous() for k, v in state.items()}))
        judge = read(file, facts, "")
        facts |= measured(judge, test_x, test_y)
        if held:
            rest = (torch.from_numpy(d["test_images"])[:, None].float() / 255, torch.from_numpy(test_y))
            facts |= calibrated(judge, x[-held:], y[-held:], rest)
        ship(file, state, facts)
    if only in (None, "mnist-knn"):
        rows = torch.cat([(y == c).nonzero()[:200, 0] for c in range(10)])
        tensors = {"images": torch.from_numpy(d["train_images"])[rows], "labels": y[rows].to(torch.uint8)}
        facts = {
            "name": "mnist-knn", "kind": "knn", "outputs": 10, "recipe": "k = 5 of 2,000 by oriented gradients", "seed": 0,
            "bar": 0.95, "command": f"{COMMAND} judges mnist-knn", "data": digest(mnist.CONTENT),
        }  # fmt: skip
        file = FOLDER / "judge-mnist-knn.safetensors"
        write_atomic(file, save(tensors))
        ship(file, tensors, facts | measured(read(file, facts, ""), test_x, test_y))


def make_bases() -> None:
    """Train and ship the three `cosine` bases of the VAE (about 4 minutes each on one core)."""
    d = mnist.load(store_folder() / "data", data_folder())
    data = (d["train_images"][..., None], d["train_labels"].astype(np.int64), digest(mnist.CONTENT))
    for seed in range(3):
        base = bases.trained(Store(store_folder()), "vae", "mnist", data, "cosine", seed, show)
        model = bases.FAMILIES["vae"]().load(base.file)
        rng = torch.Generator().manual_seed(0)
        x = model.encode(d["test_images"][..., None])
        c = model.conditions(torch.from_numpy(d["test_labels"].astype(np.int64)))
        with torch.no_grad():
            nats = float(model.loss(x, c, model.draw(len(x), rng)).mean())
        facts = {
            "name": f"vae mnist cosine {seed}", "family": "vae", "recipe": "cosine", "seed": seed,
            "nats": nats, "nats_is": "mean negative ELBO of the 10,000 test images, one draw each",
            "bf16": bases.bf16_is_fast(), "command": f"{COMMAND} bases", "data": digest(mnist.CONTENT),
        }  # fmt: skip
        state = {k: v for k, v in model.net.state_dict().items()}
        ship(FOLDER / f"base-vae-mnist-cosine-{seed}.safetensors", state, facts)


def show(stage: str, done: int, total: int) -> None:
    """Progress on one line."""
    print(f"\r{stage} {done}/{total}", end="\n" if done == total else "", file=sys.stderr, flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    if sys.argv[1:2] == ["judges"]:
        make_judges(sys.argv[2] if len(sys.argv) > 2 else None)
    elif sys.argv[1:] == ["bases"]:
        make_bases()
    elif sys.argv[1:2] == ["freeze"] and len(sys.argv) > 2:
        from sa_bench import benchmark

        file = FOLDER / f"benchmark-{benchmark.CURRENT}.json"
        write_atomic(file, json.dumps(benchmark.describe(sys.argv[2:]), indent=1).encode() + b"\n")
        print(f"{file.name}")
    elif sys.argv[1:2] == ["variance"] and len(sys.argv) == 3:
        from sa_bench.weights.variance import measure

        measure(Path(sys.argv[2]), print)
    elif sys.argv[1:] == ["guard"]:
        from sa_bench.weights.guard import calibrate

        calibrate(lambda text: print(text, flush=True))
    else:
        raise SystemExit(__doc__)
