"""Define what a method is, and what the engine gives it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Generic, Literal, Protocol, TypeVar

from pydantic import Field

from sa_bench.contracts.keys import Count, added_later
from sa_bench.contracts.model import Generator
from sa_bench.contracts.task import Task

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor

Progress = Callable[[str, int, int], None]
"""Function that reports progress: (stage, steps done, steps in all)."""


def ignore_event(*event: Any) -> None:
    """Report nothing: progress for those who do not ask for it."""


@dataclass(frozen=True)
class Recipe:
    """How long and how fast a model is trained."""

    steps: int
    lr: float  # learning rate (its peak, with a schedule)
    batch: int  # images per step
    schedule: str = "constant"  # or `cosine`: linear warm-up, then cosine to 1 % of lr
    warmup: int = 0  # steps
    clip: float | None = added_later(None)  # largest norm of the gradient
    ema: float | None = added_later(None)
    """Decay of the averaged weights: 0 makes them the trained ones, None keeps none or, of a method, takes the base's."""
    drop: float = added_later(0.0)  # probability that a training image's condition becomes null
    flip: bool = added_later(False)  # training images are mirrored half of the time
    mean: bool = added_later(False)  # the loss is the mean over the batch, not its sum
    decay: float = added_later(0.0)  # AdamW's weight decay; 0 uses Adam
    averaged: bool = added_later(False)  # the averaged weights are the result; `ema` is their decay
    exact: bool = added_later(False)  # float32 throughout, even where bf16 is fast

    def reduce(self, losses: Tensor) -> Tensor:
        """Reduce the losses of a batch (N,) to one number."""
        return losses.mean() if self.mean else losses.sum()

    def rate(self, step: int) -> float:
        """Return the learning rate of `step` (0-based)."""
        if step < self.warmup:
            return self.lr * (step + 1) / self.warmup
        if self.schedule == "constant":
            return self.lr
        progress = (step - self.warmup) / max(1, self.steps - self.warmup)
        return self.lr * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress)))


Times = Literal["pairs", "shared", "independent"]
"""How the timesteps of a step's batches are drawn; see `sa_bench.training.sources.draw_losses`."""


@dataclass(frozen=True)
class FisherOptions:
    """Settings with which F is estimated; part of every key that depends on F."""

    n: Count = 50_000
    """Samples."""
    targets: Literal["means", "bernoulli"] = "means"
    """Decoder means (as in the official code) or draws from p(x|θ*)."""
    set: Literal["all", "retain", "replay", "concept"] = "all"
    """Classes that are sampled: the official code includes c_f; `concept` is c_f alone, by its name."""
    draws: Literal["replacement", "once"] = added_later("replacement")
    """How samples are taken from a fixed replay set: with replacement, or `once` in its order."""
    timesteps: Annotated[int, Field(ge=0)] = added_later(0)
    """Timesteps per image, diffusion only; 0 takes all."""
    estimator: Literal["plain", "stratified", "product"] = added_later("stratified")
    """How the timesteps are chosen, and their gradients squared."""
    range: Literal["model", "unit"] = added_later("model")
    """Range of the images: the model's, or `unit` for [0, 1] as in the official DDPM code."""
    drop: Annotated[float, Field(ge=0, lt=1)] = added_later(0.0)
    """Probability that an image's class is null at a timestep; 0.1 in the official DDPM code."""


class Source(Protocol):
    """A source of training batches."""

    def batch(self, n: int, rng: torch.Generator) -> tuple[Tensor, Any]:
        """Return a batch (x, c): x (n, ...) in model space, and its conditions.

        All randomness comes from `rng`.
        """
        ...


class FixedSource(Source, Protocol):
    """A source whose samples are drawn once and stored."""

    def __len__(self) -> int:
        """Count the samples."""
        ...

    def part(self, start: int, n: int) -> tuple[Tensor, Any]:
        """Return (x, c) of the `n` samples from `start` on, in their order."""
        ...


class Pull(Protocol):
    """A penalty on the weights whose gradient training adds to that of the loss.

    `sa_bench.training.Pull` is EWC's.
    """

    def add_to_gradients(self) -> None:
        """Add the penalty's gradient to `.grad` of every parameter that it pulls."""
        ...


class Run(Protocol):
    """What the engine gives a method: everything shared and cached, and the one training loop."""

    seed: int
    rng: torch.Generator  # the only source of randomness a method may use

    def replay(self) -> Source:
        """Return samples of θ* for the retained conditions."""
        ...

    def concept_samples(self) -> Source:
        """Return samples of θ* for c_f: new ones each time; a fixed set for a diffusion model."""
        ...

    def surrogate(self) -> Source:
        """Return samples of q(x|c_f), labelled c_f."""
        ...

    def captioned(self, texts: Sequence[str]) -> FixedSource:
        """Return samples of θ* for `texts` in turn, drawn once.

        The texts are those that `Method.shows` lists for the task.
        """
        ...

    def data(self) -> Source:
        """Return real training images of the retained classes (only with "data" among `needs`)."""
        ...

    def fisher(self, options: FisherOptions) -> dict[str, Tensor]:
        """Return the diagonal of F at θ* by parameter name."""
        ...

    def fresh(self) -> Generator:
        """Return a newly initialised model of the base model's architecture."""
        ...

    def recipe(self, name: str) -> Recipe:
        """Return a named recipe of the model family."""
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
        """Minimise `loss()` over the parameters of `scope`, until `stop()` is true if it is given.

        `loss()` returns a scalar, or None once it has set the gradients itself: an update rule of
        your own, such as a projection, needs no loss. Training can be resumed, and fails on NaN.
        """
        ...


Model = TypeVar("Model", bound=Generator)


class Method(Generic[Model]):
    """A way to turn θ* into a forgotten model.

    Derive a frozen dataclass from it, whose fields are the paper's symbols. `Method[Prompted]`
    names the type that `forget` takes if it needs more than a Generator.
    """

    name: ClassVar[str] = ""
    """Name on the command line; "" uses the name of its file."""
    title: ClassVar[str] = ""
    """Name in a paper's tables, of a method that ships or is installed: `SA`; else the name on the command line."""
    version: ClassVar[int] = 1
    """Raised whenever the same fields give another model."""
    made_elsewhere: ClassVar[bool] = False
    """Whether the forgetting itself happened elsewhere, so that its cost is not known."""
    standing: ClassVar[str] = "method"
    """`method`, `control` (must never win), `reference` (the floor) or `target`."""
    exposes: ClassVar[str] = ""
    """For a control that unlearns nothing and yet shows no c_f: in which tasks, those of `classes` or
    of `prompts`. A board of such tasks without any control names it."""
    supports: ClassVar[type] = Generator
    """Models that it can be applied to: Generator, Diffusion or Prompted."""
    needs: ClassVar[tuple[str, ...]] = ()
    """What it asks its Run for: "data" (the real training set; no method gets it that does not say so),
    "surrogate", "replay" and "concept_samples" (sets of images that a run draws beforehand, each once;
    what is not said here is drawn when it is asked for)."""
    source: ClassVar[str] = ""
    """The publication, with equation or file."""
    presets: ClassVar[Mapping[tuple[str, str], Mapping[str, Any]]] = {}
    """Fields that differ from their defaults, by (models, scale). Models are those of a family,
    `text_to_image`, or of one base of it, `text_to_image/micro`, which comes second and wins."""
    deterministic: ClassVar[bool] = False
    """Whether every seed gives the same model; further runs are then further draws of images."""
    ablates: ClassVar[str] = ""
    """Name of the method that it removes a part from; that method's presets apply to it too."""
    ignores: ClassVar[tuple[str, ...]] = ()
    """What it never uses, "replay" or "surrogate": tasks that differ only there share a model."""
    several: ClassVar[bool] = False
    """Whether it can forget several concepts at once (`Task.concepts`): its sources then give all."""
    files: ClassVar[tuple[str, ...]] = ()
    """Fields that name a file; the file's content enters the key."""
    stands_for: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    """Numbers behind a word, by field and word; `show` and results state them."""

    if TYPE_CHECKING:  # read-only, so that a field of a frozen dataclass can take its place

        @property
        def scope(self) -> str:
            """Which parameters are trained; a method whose user may choose has such a field."""
            ...

        @property
        def times(self) -> Times:
            """How a diffusion model's timesteps are drawn; likewise."""
            ...
    else:
        scope: str = "full"
        times: Times = "pairs"

    def forget(self, model: Model, task: Task, run: Run) -> Model:
        """Make the forgotten model; `model` is a copy of θ* that may be changed."""
        raise NotImplementedError

    def wrap(self, model: Model, task: Task) -> Model:
        """Change how the model answers; for methods that act at inference."""
        return model

    def render(self, images: np.ndarray, labels: np.ndarray, task: Task) -> np.ndarray:
        """Filter images after sampling, uint8 (N, H, W, C)."""
        return images

    def unfit(self, task: Task) -> str:
        """Say why it cannot be applied to a task with these fields; "" if it can."""
        return ""

    def remarks(self, task: Task) -> list[str]:
        """List what a reader of the numbers should know, as lines for a result's flags."""
        return []

    def shows(self, task: Task) -> list[str]:
        """List the prompts from whose images by θ* it learns (`Run.captioned`); they enter keys."""
        return []

    def fishers(self) -> dict[str, FisherOptions]:
        """List the F that it asks for (`Run.fisher`), by name: those of its fields."""
        return {name: v for name, v in vars(self).items() if isinstance(v, FisherOptions)}

    @staticmethod
    def beside(task: Task) -> str:
        """Return a few words for the brackets after its name in a published table."""
        return ""

    @classmethod
    def wraps(cls) -> bool:
        """Return whether it acts at inference."""
        return cls.wrap is not Method.wrap

    @classmethod
    def renders(cls) -> bool:
        """Return whether it filters images after sampling."""
        return cls.render is not Method.render
