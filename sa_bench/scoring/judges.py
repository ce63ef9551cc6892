"""Judges: the fixed instruments that look at images. Shipped with hash and card; see `weights/`.

A judge below the bar on its card refuses to judge. Their disagreement is shown beside a value and is
never part of its interval.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from sa_bench.contracts import Judge
from sa_bench.core.errors import SaBenchError
from sa_bench.core.file_state import cached_by, read_state
from sa_bench.core.settings import store_folder, weights_folder
from sa_bench.data import captions, datasets
from sa_bench.data.assets.shipped import WEIGHTS, verify_shipped
from sa_bench.scoring.cards import judge_card, require_bar

FLAT = 0.1  # gradient norm below which an image shows nothing; the faintest of 60,000 real digits has 0.29
FAINT = 5.0  # grey levels of contrast; base samples begin at 7.8, what `sa` draws for a forgotten digit is at 0.5
COHERENT = {  # height: window, and the share of the contrast that survives averaging over it
    28: (4, 0.45),  # digits 0.55 and more, noise 0.31 and less
    16: (2, 0.65),  # digits 0.71 and more, noise 0.60 and less
}
CHUNK = 500  # images a forward pass, the same everywhere so that scores do not depend on N


class CNN(nn.Module):
    """The official classifier: conv 10 and 20 (k5, batch norm), dropout2d, fc 320-50-`classes`.

    Source: official vae/model.py (classifier); paper Appendix B.1.
    """

    def __init__(self, classes: int, size: int = 28) -> None:
        """A classifier of grey images of 28 x 28 pixels or, with padded convolutions, of 16 x 16."""
        super().__init__()
        pad = {28: 0, 16: 2}[size]
        self.conv1, self.bn1 = nn.Conv2d(1, 10, 5, padding=pad), nn.BatchNorm2d(10)
        self.conv2, self.bn2 = nn.Conv2d(10, 20, 5, padding=pad), nn.BatchNorm2d(20)
        self.fc1, self.fc2 = nn.Linear(320, 50), nn.Linear(50, classes)

    def features(self, x: Tensor) -> Tensor:
        """(N, 50) after the first fully connected layer; `x` (N, 1, H, W) in [0, 1]."""
        x = F.relu(F.max_pool2d(self.bn1(self.conv1(x)), 2))
        x = F.dropout2d(self.bn2(self.conv2(x)), 0.5, self.training)
        return F.relu(self.fc1(F.relu(F.max_pool2d(x, 2)).flatten(1)))

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, classes)."""
        return self.fc2(F.dropout(self.features(x), 0.5, self.training))


@dataclass
class CNNJudge:
    """A trained CNN."""

    name: str
    content: str
    card: dict[str, Any]
    net: CNN
    channels: int = 1

    def probabilities(self, images: np.ndarray) -> np.ndarray:
        """Softmax in float64; with a reject class, its column is the last."""
        return np.concatenate([self._logits(part).softmax(1).numpy() for part in _chunks(images)])

    def features(self, images: np.ndarray) -> np.ndarray:
        """(N, 50)."""
        with torch.no_grad():
            parts = [self.net.features(_unit(part)).double().numpy() for part in _chunks(images)]
        return np.concatenate(parts)

    @torch.no_grad()
    def _logits(self, images: np.ndarray) -> Tensor:
        return self.net(_unit(images)).double()


@dataclass
class NearestNeighbours:
    """k nearest shipped digits by oriented gradients, votes weighted by 1/distance: another family."""

    name: str
    content: str
    card: dict[str, Any]
    points: Tensor  # (M, 392) of `gradients`, unit length
    labels: Tensor  # (M,) int64
    k: int = 5
    channels: int = 1

    def probabilities(self, images: np.ndarray) -> np.ndarray:
        """Share of the votes of the k nearest; uniform for an image without structure."""
        out = []
        for part in _chunks(images):
            query = gradient_histograms(_at_28(_unit(part)))
            distance, index = torch.cdist(F.normalize(query), self.points).topk(
                self.k, largest=False
            )
            votes = torch.zeros(len(part), 10, dtype=torch.float64)
            votes.scatter_add_(1, self.labels[index], 1 / (distance.double() + 1e-6))
            votes[query.norm(dim=1) < FLAT] = 1.0  # nothing to compare: every class alike
            out.append((votes / votes.sum(1, keepdim=True)).numpy())
        return np.concatenate(out)

    def features(self, images: np.ndarray) -> np.ndarray:
        """Nearest neighbours have no features.

        Raises:
            SaBenchError: always.
        """
        raise SaBenchError(
            f"The judge {self.name} has no features; choose a CNN as the designated judge."
        )


def gradient_histograms(x: Tensor, bins: int = 8) -> Tensor:
    """(N, 8·7·7) histograms of oriented gradients; `x` (N, 1, 28, 28) in [0, 1].

    Source: Dalal & Triggs, 2005, without block normalisation; cells of 7 x 7 pixels, 4 apart.
    """
    x = F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)
    dx = x[..., 1:-1, 2:] - x[..., 1:-1, :-2]
    dy = x[..., 2:, 1:-1] - x[..., :-2, 1:-1]
    magnitude = (dx**2 + dy**2).sqrt()
    angle = torch.atan2(dy, dx) / (2 * torch.pi) % 1 * bins
    low, share = angle.floor().long() % bins, angle % 1
    histogram = x.new_zeros(len(x), bins, 26, 26)
    histogram.scatter_add_(1, low, magnitude * (1 - share))
    histogram.scatter_add_(1, (low + 1) % bins, magnitude * share)
    return F.avg_pool2d(F.pad(histogram, (1, 1, 1, 1)), 7, 4, 1).flatten(1)


def _at_28(x: Tensor) -> Tensor:
    return (
        x
        if x.shape[-1] == 28
        else F.interpolate(x, size=(28, 28), mode="bilinear", antialias=False)
    )


def _unit(images: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float() / 255


def _chunks(images: np.ndarray) -> list[np.ndarray]:
    images = crop_to_digit(images)
    if images.dtype != np.uint8 or images.ndim != 4:
        raise SaBenchError(
            f"Judges take uint8 images (N, H, W, C), got {images.dtype} {images.shape}."
        )
    return [images[i : i + CHUNK] for i in range(0, len(images), CHUNK)]


def crop_to_digit(images: np.ndarray) -> np.ndarray:
    """What a judge of digits looks at: of a canvas with captions (N, 32, 32, 3) its middle in grey (N, 28, 28, 1).

    Anything else as it is.
    """
    return (
        captions.digits(images) if images.shape[1:] == (captions.SIDE, captions.SIDE, 3) else images
    )


def _read_from(name: str) -> Hashable:
    """What the judge `name` comes from: its shipped file or, of one trained on first use, its data and folders."""
    facts = judge_card(name)
    if facts["kind"] != "trained":
        return read_state(WEIGHTS / f"judge-{name}.safetensors")
    return (datasets.data_content(facts["dataset"]), store_folder(), weights_folder())


@cached_by(_read_from, maxsize=32)
def load(name: str) -> Judge:
    """The judge `name`: shipped, its hash checked, or trained on first use.

    Raises:
        SaBenchError: unknown, damaged, or below its bar (it refuses to judge).
    """
    facts = judge_card(name)
    if facts["kind"] == "trained":
        from sa_bench.scoring import (
            trained_judges,
        )  # a ResNet and its data, only where they are needed

        trained = trained_judges.load(name)
        require_bar(trained.card)
        return trained
    require_bar(facts)
    return read(
        WEIGHTS / f"judge-{name}.safetensors",
        facts,
        verify_shipped(WEIGHTS / f"judge-{name}.safetensors"),
    )


@dataclass
class CachedJudge:
    """A judge that keeps what it said of the last few sets of images: metrics ask for the same again."""

    judge: Judge
    said: ClassVar[OrderedDict[tuple[str, str], np.ndarray]] = OrderedDict()

    def __post_init__(self) -> None:
        """Name, content, card and channels are the judge's."""
        self.name, self.content, self.card = self.judge.name, self.judge.content, self.judge.card
        self.channels = self.judge.channels

    def probabilities(self, images: np.ndarray) -> np.ndarray:
        """The judge's own; (N, classes), not to be written to."""
        key = (self.content, hashlib.sha256(images.tobytes()).hexdigest())
        if key not in self.said:
            self.said[key] = self.judge.probabilities(images)
            self.said[key].setflags(write=False)
        self.said.move_to_end(key)
        while len(self.said) > 64:
            self.said.popitem(last=False)
        return self.said[key]

    def features(self, images: np.ndarray) -> np.ndarray:
        """The judge's own."""
        return self.judge.features(images)


def read(file: Path, facts: dict[str, Any], content: str) -> CNNJudge | NearestNeighbours:
    """A judge from its weight file."""
    state = load_file(file)
    if facts["kind"] == "knn":
        size = facts.get("size", 28)
        points = F.normalize(
            gradient_histograms(_at_28(state["images"].float().view(-1, 1, size, size) / 255))
        )
        return NearestNeighbours(facts["name"], content, facts, points, state["labels"].long())
    net = CNN(facts["outputs"], facts.get("size", 28))
    net.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in state.items()})
    return CNNJudge(facts["name"], content, facts, net.eval())


def is_top1(probabilities: np.ndarray, label: int | np.ndarray) -> np.ndarray:
    """Whether `label` (one, or (N,)) alone has the highest probability, (N,) float64 of 0/1.

    A tie is nobody's: a judge that finds every class alike must not count for the first of them.
    """
    highest = probabilities == probabilities.max(1, keepdims=True)
    chosen = highest[np.arange(len(highest)), label]
    return (chosen & (highest.sum(1) == 1)).astype(float)


def shows_anything(images: np.ndarray) -> np.ndarray:
    """Whether a grey image (N, H, W, 1) shows anything at all, (N,) float64 of 0/1; colour ones always do.

    A classifier must name a class even for plain grey, and most of them say "one": without this, the digit
    1 could never be forgotten. Nothing is what has no contrast, or whose contrast averages away over 4 x 4
    pixels (2 x 2 where H is 16). A ghost of a digit in grey shows something, however unlike a digit it is.
    """
    if images.ndim == 4 and (images.shape[1] not in COHERENT or images.shape[3] != 1):
        return np.ones(len(images))
    out = []
    for part in _chunks(images):
        x, (window, share) = _unit(part) * 255, COHERENT[part.shape[1]]
        contrast = x.flatten(1).std(1, unbiased=False)
        kept = F.avg_pool2d(x, window, 1).flatten(1).std(1, unbiased=False)
        out.append(((kept >= FAINT) & (kept >= share * contrast)).double().numpy())
    return np.concatenate(out) if out else np.zeros(0)


def panel_view(judges: Mapping[str, Judge], images: np.ndarray) -> np.ndarray:
    """The images as a panel sees them: canvases in grey, if it judges digits."""
    return (
        crop_to_digit(images) if all(judge.channels == 1 for judge in judges.values()) else images
    )


def majority_vote(
    judges: Mapping[str, Judge], images: np.ndarray, label: int | np.ndarray
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Whether more than half of the panel's top-1 is `label`: (N,) float64 of 0/1, and each judge's (N,).

    An image that shows nothing is nobody's.
    """
    there = shows_anything(panel_view(judges, images))
    votes = {
        name: there * is_top1(judge.probabilities(images), label) for name, judge in judges.items()
    }
    return (np.mean(list(votes.values()), axis=0) > 0.5).astype(float), votes
