"""What a method is, and what the engine hands it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Generic, Literal, Protocol, TypeVar

from pydantic import Field

from sa_bench.contracts.keys import added_later
from sa_bench.contracts.model import Generator
from sa_bench.contracts.task import Task

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor

Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Rate = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
Progress = Callable[[str, int, int], None]
"""progress(stage, done, total)"""


@dataclass(frozen=True)
class Recipe:
    """How long and how fast a model is trained."""

    steps: int
    lr: float  # learning rate (its peak where there is a schedule)
    batch: int  # images a step
    schedule: str = "constant"  # or `cosine`: linear warm-up, then cosine to 1 % of lr
    warmup: int = 0  # steps
    clip: float | None = added_later(None)  # the gradient's norm is cut to this
    ema: float | None = added_later(None)  # decay of the averaged weights, if there are any
    drop: float = added_later(0.0)  # probability that a training image's condition becomes null
    flip: bool = added_later(False)  # training images are mirrored half of the time
    mean: bool = added_later(False)  # the loss is the mean over the batch, not its sum
    decay: float = added_later(0.0)  # AdamW's weight decay; 0: Adam
    averaged: bool = added_later(False)  # the weights' average is the result; `ema` is its decay
    exact: bool = added_later(False)  # float32 throughout, also where bf16 is fast

    def reduce(self, losses: Tensor) -> Tensor:
        """The losses of a batch (N,) as one."""
        return losses.mean() if self.mean else losses.sum()

    def rate(self, step: int) -> float:
        """The learning rate of `step` (0-based)."""
        if step < self.warmup:
            return self.lr * (step + 1) / self.warmup
        if self.schedule == "constant":
            return self.lr
        progress = (step - self.warmup) / max(1, self.steps - self.warmup)
        return self.lr * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress)))


Times = Literal["pairs", "shared", "independent"]
"""How the timesteps of a step's batches are drawn; `sa_bench.training.sources.draw_losses` has what each means."""


@dataclass(frozen=True)
class FisherOptions:
    """How F is estimated; part of every key that depends on F."""

    n: Annotated[int, Field(ge=1)] = 50_000  # samples
    targets: Literal["means", "bernoulli"] = (
        "means"  # decoder means (official) or draws from p(x|θ*)
    )
    set: Literal["all", "retain", "replay"] = (
        "all"  # classes sampled; the official code includes c_f
    )
    draws: Literal["replacement", "once"] = added_later("replacement")
    """Of a fixed replay set; `once`: in its order."""
    timesteps: Annotated[int, Field(ge=0)] = added_later(0)  # of each image, diffusion only; 0: all
    estimator: Literal["plain", "stratified", "product"] = added_later("stratified")
    """How they are chosen and squared."""
    range: Literal["model", "unit"] = added_later("model")
    """`unit`: images in [0, 1], as the official DDPM code has them."""
    drop: Annotated[float, Field(ge=0, lt=1)] = added_later(0.0)
    """Probability that an image's class is null at a timestep; .1 in the official DDPM code."""


class Source(Protocol):
    """Somewhere training batches come from."""

    def batch(self, n: int, rng: torch.Generator) -> tuple[Tensor, Any]:
        """(x, c): x (n, ...) in model space and its conditions; all randomness from `rng`."""
        ...


class FixedSource(Source, Protocol):
    """A source whose samples are drawn once and stored."""

    def __len__(self) -> int:
        """Count the samples."""
        ...

    def part(self, start: int, n: int) -> tuple[Tensor, Any]:
        """(x, c) of the `n` samples from `start` on, in their order."""
        ...


class Pull(Protocol):
    """A penalty on the weights that training adds to the gradients of the loss; `sa_bench.training.Pull` is EWC's."""

    def add_to_gradients(self) -> None:
        """Add the penalty's gradient to `.grad` of every parameter that it pulls."""
        ...


class Run(Protocol):
    """What the engine hands a method: everything shared and cached, and the one training loop."""

    seed: int
    rng: torch.Generator  # the only source of randomness a method may use

    def replay(self) -> Source:
        """Samples of θ* for the retained conditions."""
        ...

    def concept_samples(self) -> Source:
        """Samples of θ* for c_f: new ones each time or, of a diffusion model, a fixed set."""
        ...

    def surrogate(self) -> Source:
        """Samples of q(x|c_f), labelled c_f."""
        ...

    def captioned(self, texts: Sequence[str]) -> FixedSource:
        """Samples of θ* for `texts` in turn, drawn once: those that the method `shows` for the task."""
        ...

    def data(self) -> Source:
        """Real training images of the retained classes (only for `needs = "data"`)."""
        ...

    def fisher(self, options: FisherOptions) -> dict[str, Tensor]:
        """The diagonal of F at θ* by parameter name."""
        ...

    def fresh(self) -> Generator:
        """A newly initialised model of the base's architecture."""
        ...

    def recipe(self, name: str) -> Recipe:
        """A named recipe of the model family."""
        ...

    def train(
        self,
        model: Generator,
        loss: Any,
        recipe: Recipe,
        scope: str = "full",
        pull: Pull | None = None,
        stop: Any = None,
    ) -> None:
        """Minimise `loss()` over the parameters of `scope`, until `stop()` if given; resumable, NaN-guarded."""
        ...


Model = TypeVar("Model", bound=Generator)


class Method(Generic[Model]):
    """Turns θ* into a model that forgot: derive a frozen dataclass from it, whose fields are the paper's symbols.

    `Method[Prompted]` names what `forget` takes where that is more than a Generator.
    """

    name: ClassVar[str] = ""
    """What it is asked for by; empty: as its file is called."""
    version: ClassVar[int] = 1
    """Raise it when the same fields give another model."""
    standing: ClassVar[str] = "method"
    """`method`, `control` (must never win), `reference` (the floor) or `target`."""
    supports: ClassVar[type] = Generator
    """The models that it can be applied to: Generator, Diffusion or Prompted."""
    needs: ClassVar[tuple[str, ...]] = ()
    """`("data",)` if it learns from the real training set."""
    source: ClassVar[str] = ""
    """The publication, with equation or file."""
    presets: ClassVar[Mapping[tuple[str, str], Mapping[str, Any]]] = {}
    """(family, scale) to the fields that are not at their defaults there."""
    deterministic: ClassVar[bool] = False
    """True: the same model whatever the seed; further runs are further draws of images."""
    ablates: ClassVar[str] = ""
    """The method that it takes a part from: its presets, and the tasks', hold here too."""
    ignores: ClassVar[tuple[str, ...]] = ()
    """Of "replay" and "surrogate", what it never asks for: tasks that differ in these alone share the model."""
    files: ClassVar[tuple[str, ...]] = ()
    """Fields that name a file; keyed by its content."""
    stands_for: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    """Field to word to the numbers behind it, which `show` and results say."""

    def forget(self, model: Model, task: Task, run: Run) -> Model:
        """Make the model that forgot; `model` is a copy of θ* that may be changed."""
        raise NotImplementedError

    def wrap(self, model: Model, task: Task) -> Model:
        """Change how the model answers when it is asked; for methods that act at inference."""
        return model

    def render(self, images: np.ndarray, labels: np.ndarray, task: Task) -> np.ndarray:
        """Filter images after sampling, uint8 (N, H, W, C)."""
        return images

    def unfit(self, task: Task) -> str:
        """Say why it means nothing for a task with these fields; "" where it does."""
        return ""

    def remarks(self, task: Task) -> list[str]:
        """List what a reader of the numbers should know: lines for a result's flags."""
        return []

    def shows(self, task: Task) -> list[str]:
        """List the prompts whose images by θ* it learns from (`Run.captioned`); they are part of its key."""
        return []

    @staticmethod
    def beside(task: Task) -> str:
        """Give a few words for the brackets after its name in a published table."""
        return ""

    @classmethod
    def wraps(cls) -> bool:
        """Tell whether it acts when the model is asked."""
        return cls.wrap is not Method.wrap

    @classmethod
    def renders(cls) -> bool:
        """Tell whether it filters images after sampling."""
        return cls.render is not Method.render
