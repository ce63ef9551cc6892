"""Judges: the fixed classifiers that score images. They ship with hash and card; see `weights/`.

A judge whose accuracy is below the bar on its card refuses to judge. The disagreement of judges is
shown beside a value and is never part of its interval.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

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

FLAT = 0.1
"""Gradient norm below which an image shows nothing; the faintest of 60,000 real digits has 0.29."""
FAINT = 5.0
"""Contrast in grey levels below which an image shows nothing; base samples begin at 7.8, and what
`sa` draws for a forgotten digit has 0.5."""
COHERENT = {  # height: window in pixels, and the share of the contrast that survives averaging over it
    28: (4, 0.45),  # digits 0.55 and more, noise 0.31 and less
    16: (2, 0.65),  # digits 0.71 and more, noise 0.60 and less
}
CHUNK = 500  # images a forward pass, the same everywhere so that scores do not depend on N


class CNN(nn.Module):
    """The official classifier: conv 10 and 20 (k5, batch norm), dropout2d, fc 320-50-`classes`.

    Source: official vae/model.py (classifier); paper Appendix B.1.
    """

    def __init__(self, classes: int, size: int = 28) -> None:
        """Build a classifier of grey images of 28 x 28 pixels or, with padding, of 16 x 16."""
        super().__init__()
        pad = {28: 0, 16: 2}[size]
        self.conv1, self.bn1 = nn.Conv2d(1, 10, 5, padding=pad), nn.BatchNorm2d(10)
        self.conv2, self.bn2 = nn.Conv2d(10, 20, 5, padding=pad), nn.BatchNorm2d(20)
        self.fc1, self.fc2 = nn.Linear(320, 50), nn.Linear(50, classes)

    def features(self, x: Tensor) -> Tensor:
        """Compute features (N, 50) of `x` (N, 1, H, W) in [0, 1]: the first fully connected layer."""
        x = F.relu(F.max_pool2d(self.bn1(self.conv1(x)), 2))
        x = F.dropout2d(self.bn2(self.conv2(x)), 0.5, self.training)
        return F.relu(self.fc1(F.relu(F.max_pool2d(x, 2)).flatten(1)))

    def forward(self, x: Tensor) -> Tensor:
        """Compute logits (N, classes)."""
        return self.fc2(F.dropout(self.features(x), 0.5, self.training))


@dataclass
class CNNJudge:
    """A trained CNN as a judge."""

    name: str
    content: str
    card: dict[str, Any]
    net: CNN
    channels: int = 1

    def probabilities(self, images: np.ndarray) -> np.ndarray:
        """Compute class probabilities in float64; with a reject class, its column is the last."""
        return np.concatenate(
            [self._logits(chunk).softmax(1).numpy() for chunk in _split_into_chunks(images)]
        )

    def features(self, images: np.ndarray) -> np.ndarray:
        """Compute features, (N, 50) float64."""
        with torch.no_grad():
            features = [
                self.net.features(_to_unit_range(chunk)).double().numpy()
                for chunk in _split_into_chunks(images)
            ]
        return np.concatenate(features)

    @torch.no_grad()
    def _logits(self, images: np.ndarray) -> Tensor:
        return self.net(_to_unit_range(images)).double()


@dataclass
class NearestNeighbours:
    """A judge by the k nearest shipped digits in oriented gradients, votes weighted by 1/distance."""

    name: str
    content: str
    card: dict[str, Any]
    points: Tensor  # (M, 392) of `gradients`, unit length
    labels: Tensor  # (M,) int64
    k: int = 5
    channels: int = 1

    def probabilities(self, images: np.ndarray) -> np.ndarray:
        """Compute each class's share of the votes of the k nearest.

        Uniform for an image without structure.
        """
        vote_shares = []
        for chunk in _split_into_chunks(images):
            query = gradient_histograms(_resize_to_28(_to_unit_range(chunk)))
            distance, index = torch.cdist(F.normalize(query), self.points).topk(
                self.k, largest=False
            )
            votes = torch.zeros(len(chunk), 10, dtype=torch.float64)
            votes.scatter_add_(1, self.labels[index], 1 / (distance.double() + 1e-6))
            votes[query.norm(dim=1) < FLAT] = 1.0  # nothing to compare: every class alike
            vote_shares.append((votes / votes.sum(1, keepdim=True)).numpy())
        return np.concatenate(vote_shares)

    def features(self, images: np.ndarray) -> np.ndarray:
        """Refuse: nearest neighbours have no features.

        Raises:
            SaBenchError: always.
        """
        raise SaBenchError(
            f"The judge {self.name} has no features; choose a CNN as the designated judge."
        )


def gradient_histograms(x: Tensor, bins: int = 8) -> Tensor:
    """Compute histograms of oriented gradients, (N, 8·7·7), from `x` (N, 1, 28, 28) in [0, 1].

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


def _resize_to_28(x: Tensor) -> Tensor:
    if x.shape[-1] == 28:
        return x
    return F.interpolate(x, size=(28, 28), mode="bilinear", antialias=False)


def _to_unit_range(images: np.ndarray) -> Tensor:
    """Turn images, uint8 (N, H, W, C), into (N, C, H, W) float32 in [0, 1]."""
    return torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float() / 255


def _split_into_chunks(images: np.ndarray) -> list[np.ndarray]:
    """Split images as a judge of digits sees them into chunks of a forward pass each."""
    images = crop_to_digit(images)
    if images.dtype != np.uint8 or images.ndim != 4:
        raise SaBenchError(
            f"Judges take uint8 images (N, H, W, C), got {images.dtype} {images.shape}."
        )
    return [images[i : i + CHUNK] for i in range(0, len(images), CHUNK)]


def crop_to_digit(images: np.ndarray) -> np.ndarray:
    """Crop canvases with captions (N, 32, 32, 3) to their grey middles (N, 28, 28, 1).

    Images of any other shape are returned unchanged.
    """
    if images.shape[1:] == (captions.SIDE, captions.SIDE, 3):
        return captions.digits(images)
    return images


def _state_of_source(name: str) -> Hashable:
    """Give a value that changes with what the judge `name` is loaded from.

    That is its shipped file or, for a judge trained on first use, its data and folders.
    """
    card = judge_card(name)
    if card["kind"] != "trained":
        return read_state(WEIGHTS / f"judge-{name}.safetensors")
    return (datasets.data_content(card["dataset"]), store_folder(), weights_folder())


@cached_by(_state_of_source, maxsize=32)
def load(name: str) -> Judge:
    """Load the judge `name`: shipped, with its hash checked, or trained on first use.

    Raises:
        SaBenchError: the judge is unknown, damaged, or below its bar (it refuses to judge).
    """
    card = judge_card(name)
    if card["kind"] == "trained":
        from sa_bench.scoring import trained_judges  # loads torchvision, so only where it is needed

        trained = trained_judges.load(name)
        require_bar(trained.card)
        return trained
    require_bar(card)
    file = WEIGHTS / f"judge-{name}.safetensors"
    return read(file, card, verify_shipped(file))


@dataclass
class CachedJudge:
    """A judge that keeps its probabilities for the last 64 sets of images, for other metrics."""

    judge: Judge
    answers: OrderedDict[str, np.ndarray] = field(default_factory=OrderedDict)
    """Probabilities by the hash of the images."""

    def __post_init__(self) -> None:
        """Take name, content, card and channels from the judge."""
        self.name, self.content, self.card = self.judge.name, self.judge.content, self.judge.card
        self.channels = self.judge.channels

    def probabilities(self, images: np.ndarray) -> np.ndarray:
        """Give the judge's probabilities (N, classes), as an array that cannot be written to."""
        key = hashlib.sha256(images.tobytes()).hexdigest()
        if key not in self.answers:
            self.answers[key] = self.judge.probabilities(images)
            self.answers[key].setflags(write=False)
        self.answers.move_to_end(key)
        while len(self.answers) > 64:
            self.answers.popitem(last=False)
        return self.answers[key]

    def features(self, images: np.ndarray) -> np.ndarray:
        """Give the judge's features."""
        return self.judge.features(images)


def read(file: Path, card: dict[str, Any], content: str) -> CNNJudge | NearestNeighbours:
    """Read a judge from its weight file."""
    state = load_file(file)
    if card["kind"] == "knn":
        size = card.get("size", 28)
        points = F.normalize(
            gradient_histograms(
                _resize_to_28(state["images"].float().view(-1, 1, size, size) / 255)
            )
        )
        return NearestNeighbours(card["name"], content, card, points, state["labels"].long())
    net = CNN(card["outputs"], card.get("size", 28))
    net.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in state.items()})
    return CNNJudge(card["name"], content, card, net.eval())


def is_top1(probabilities: np.ndarray, label: int | np.ndarray) -> np.ndarray:
    """Test whether `label` (one, or (N,)) alone has the highest probability; (N,) float64 of 0/1.

    A tie counts for no class: a judge that finds every class alike must not count for the first of
    them.
    """
    highest = probabilities == probabilities.max(1, keepdims=True)
    chosen = highest[np.arange(len(highest)), label]
    return (chosen & (highest.sum(1) == 1)).astype(float)


def shows_anything(images: np.ndarray) -> np.ndarray:
    """Test whether a grey image (N, H, W, 1) shows anything at all.

    (N,) float64 of 0/1. Colour ones always do.

    A classifier must name a class even for plain grey, and most of them say "one": without this
    test, the digit 1 could never be forgotten. An image shows nothing if it has no contrast, or if
    its contrast averages away over 4 x 4 pixels (2 x 2 where H is 16). A ghost of a digit in grey
    shows something, however unlike a digit it is.
    """
    if images.ndim == 4 and (images.shape[1] not in COHERENT or images.shape[3] != 1):
        return np.ones(len(images))
    answers = []
    for chunk in _split_into_chunks(images):
        x, (window, share) = _to_unit_range(chunk) * 255, COHERENT[chunk.shape[1]]
        contrast = x.flatten(1).std(1, unbiased=False)
        contrast_left = F.avg_pool2d(x, window, 1).flatten(1).std(1, unbiased=False)
        answers.append(
            ((contrast_left >= FAINT) & (contrast_left >= share * contrast)).double().numpy()
        )
    return np.concatenate(answers) if answers else np.zeros(0)


def panel_view(judges: Mapping[str, Judge], images: np.ndarray) -> np.ndarray:
    """Show the images as a panel sees them: canvases in grey, if it judges digits."""
    if all(judge.channels == 1 for judge in judges.values()):
        return crop_to_digit(images)
    return images


def majority_vote(
    judges: Mapping[str, Judge], images: np.ndarray, label: int | np.ndarray
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Test whether more than half of the panel's top-1 classes are `label`.

    An image that shows nothing counts for no class.

    Returns:
        (N,) float64 of 0/1, and the same of each judge by name.
    """
    shown = shows_anything(panel_view(judges, images))
    votes = {
        name: shown * is_top1(judge.probabilities(images), label) for name, judge in judges.items()
    }
    return (np.mean(list(votes.values()), axis=0) > 0.5).astype(float), votes
