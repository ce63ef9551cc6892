"""Judges that do not ship: classifiers trained once from the data set and kept in the store.

`cifar10-resnet34` and `stl10-resnet34`, three seeds of each, follow the official
ddpm/train_classifier.py: torchvision's ResNet-34 with ImageNet weights, images at 224 pixels scaled
to [-1, 1], mirrored half of the time, Adam at 1e-5 (the new last layer at 1e-4, Xavier), weight
decay 5e-4, batch 128, 20 epochs as the paper says (the code's default is 10). The `smoke` judges
are a few layers for trials at scale quick and judge nothing.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch.nn import functional as F

from sa_bench.core.errors import SaBenchError
from sa_bench.core.settings import store_folder
from sa_bench.core.store import Store, file_digest, write_atomic
from sa_bench.core.untrusted_arrays import load_torch
from sa_bench.data import datasets
from sa_bench.data.assets import catalogue
from sa_bench.scoring.cards import TRAINED, examine_judge, trained_key_inputs

IMAGENET = "resnet34-imagenet"  # the weights that training starts from, in the catalogue
SIDE = 224  # pixels
CHUNK = 128  # images a forward pass


class ResNet34(nn.Module):
    """torchvision's ResNet-34 with a new last layer."""

    def __init__(self, classes: int) -> None:
        """Build the network with torchvision's initialisation."""
        from torchvision.models import resnet34

        super().__init__()
        self.body = resnet34()
        # declared as Linear, but any module does
        self.body.fc = nn.Identity()  # pyrefly: ignore[bad-assignment]
        self.head = nn.Linear(512, classes)
        nn.init.xavier_uniform_(self.head.weight)

    def features(self, x: Tensor) -> Tensor:
        """Compute features (N, 512) from `x` (N, 3, H, W) in [0, 1]."""
        x = F.interpolate(
            x, size=(SIDE, SIDE), mode="bilinear", align_corners=False, antialias=True
        )
        return self.body((x - 0.5) / 0.5)

    def forward(self, x: Tensor) -> Tensor:
        """Compute logits (N, classes)."""
        return self.head(self.features(x))


class Smoke(nn.Module):
    """A network of three layers on 8 x 8 pixels, small enough for a trial in seconds."""

    def __init__(self, classes: int) -> None:
        """Build the network."""
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(192, 32), nn.ReLU())
        self.head = nn.Linear(32, classes)

    def features(self, x: Tensor) -> Tensor:
        """Compute features (N, 32) from `x` (N, 3, H, W) in [0, 1]."""
        return self.body(F.adaptive_avg_pool2d(x, 8))

    def forward(self, x: Tensor) -> Tensor:
        """Compute logits (N, classes)."""
        return self.head(self.features(x))


NETWORKS: dict[str, Callable[[int], ResNet34 | Smoke]] = {"resnet34": ResNet34, "smoke": Smoke}


@dataclass
class TrainedJudge:
    """A trained classifier of colour images as a judge."""

    name: str
    content: str  # sha256 of its weights
    card: dict[str, Any]
    net: ResNet34 | Smoke
    device: str
    channels: int = 3

    def probabilities(self, images: np.ndarray) -> np.ndarray:
        """Compute class probabilities in float64, (N, classes), of `images` uint8 (N, H, W, 3)."""
        return self._map_chunks(images, lambda x: self.net(x).double().softmax(1))

    def features(self, images: np.ndarray) -> np.ndarray:
        """Compute features, (N, d) float64."""
        return self._map_chunks(images, lambda x: self.net.features(x).double())

    @torch.no_grad()
    def _map_chunks(self, images: np.ndarray, compute: Callable[[Tensor], Tensor]) -> np.ndarray:
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3:
            raise SaBenchError(
                f"The judge {self.name} takes uint8 images (N, H, W, 3), got {images.dtype} {images.shape}."
            )
        chunks = [images[i : i + CHUNK] for i in range(0, len(images), CHUNK)]
        outputs = [compute(_to_unit_range(chunk, self.device)) for chunk in chunks]
        return np.concatenate([output.cpu().numpy() for output in outputs])


def _to_unit_range(images: np.ndarray, device: str) -> Tensor:
    """Turn images, uint8 (N, H, W, C), into (N, C, H, W) float32 in [0, 1] on a device."""
    x = torch.from_numpy(np.ascontiguousarray(images)).to(device, non_blocking=True)
    return x.permute(0, 3, 1, 2).float() / 255


def load(name: str) -> TrainedJudge:
    """Load the judge `name` from the store, or train it now, on a GPU if there is one.

    Raises:
        MissingAsset: the ImageNet weights or the data are not here.
    """
    spec, device = TRAINED[name], "cuda" if torch.cuda.is_available() else "cpu"

    def build(folder: Path) -> dict[str, Any]:
        net, accuracy = train(
            spec["network"], spec["dataset"], spec["epochs"], device, spec.get("seed", 0)
        )
        write_atomic(
            folder / "judge.safetensors", save({k: v.cpu() for k, v in net.state_dict().items()})
        )
        write_atomic(folder / "card.json", json.dumps(accuracy).encode())
        return {}

    artifact = Store(store_folder()).make("judge", trained_key_inputs(name), build)
    net = NETWORKS[spec["network"]](10)
    net.load_state_dict(load_file(artifact.path / "judge.safetensors"))
    accuracy = json.loads((artifact.path / "card.json").read_text())
    content = file_digest(artifact.path / "judge.safetensors")
    card = {
        "name": name,
        **spec,
        **accuracy,
        "recipe": f"{spec['network']}, {spec['epochs']} epochs, trained here",
    }
    return TrainedJudge(name, content, card, net.eval().to(device), device)


def train(
    network: str, dataset: str, epochs: int, device: str, seed: int = 0
) -> tuple[ResNet34 | Smoke, dict[str, Any]]:
    """Train a classifier.

    Returns:
        The network, and its accuracy on test images that it never saw, in all and by class.
    """
    data = datasets.load(dataset)
    # The training set of STL-10 ends with its test images.
    rows = slice(0, len(data.train) - len(data.test)) if dataset == "stl10" else slice(None)
    train_set, rng = data.train.take(rows), torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = NETWORKS[network](10)
    if isinstance(net, ResNet34):
        net.body.load_state_dict(_load_imagenet_weights(), strict=False)
    net = net.to(device)
    rates = (1e-5, 1e-4) if network == "resnet34" else (1e-2, 1e-2)
    groups = [
        {"params": module.parameters(), "lr": lr}
        for module, lr in zip((net.body, net.head), rates, strict=True)
    ]
    optimiser = torch.optim.Adam(groups, weight_decay=5e-4)
    labels = torch.from_numpy(train_set.labels)
    net.train()
    for _ in range(epochs):
        for batch in torch.randperm(len(labels), generator=rng).split(CHUNK):
            if len(batch) == 1:  # batch normalisation has nothing to average
                continue
            x = _to_unit_range(train_set.images[batch.numpy()], device)
            flip = (torch.rand(len(x), generator=rng) < 0.5).to(device)
            x = torch.where(flip[:, None, None, None], x.flip(3), x)
            loss = F.cross_entropy(net(x), labels[batch].to(device))
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    judge = TrainedJudge("", "", {}, net.eval(), device)
    return net, examine_judge(judge, data.test.images, data.test.labels)


def _load_imagenet_weights() -> dict[str, Tensor]:
    """Load the ImageNet weights of all layers but the last.

    Raises:
        MissingAsset: the file is absent or damaged; says where it belongs.
    """
    state = load_torch(catalogue.need(IMAGENET))
    return {k: v for k, v in state.items() if not k.startswith("fc.")}
