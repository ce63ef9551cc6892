"""The page to read first: the nouns of sa_bench and what each must be able to do.

A *task* says which concept a base model shall forget and how that is judged. A *method* turns the
base model θ* into a model θ. *Metrics* measure stored sample sets and the model. The engine
(`sa_bench.runner`) knows only the shapes below, never a concrete component.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import (
    TYPE_CHECKING,
    Any,
    ClassVar,
    Literal,
    Protocol,
    Self,
    runtime_checkable,
)

from sa_bench.declaring import REQUIREMENTS, Metric, metric
from sa_bench.guidance import Guide
from sa_bench.keys import later
from sa_bench.names import mentions
from sa_bench.seeds import Seed
from sa_bench.values import Condition, Draw, FisherOptions, Judge, Prompts, Request, Sampler

__all__ = [
    "REQUIREMENTS", "Bound", "Condition", "Defence", "Diffusion", "Draw", "FisherOptions", "Generator", "Likelihood",
    "Method", "Metric", "Prompted", "Prompts", "Request", "Run", "Sampler", "Slot", "Source", "Task", "View", "metric",
]  # fmt: skip

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor

    from sa_bench.sample_sets import SampleSet
    from sa_bench.sources import FixedReplay
    from sa_bench.training import Pull, Recipe


class Slot(Protocol):
    """The parameters that belong to one condition alone: a class column, an embedding row, a token.

    Optional: `width`, the values of one vector, of a slot that takes any number of vectors (a phrase); `averaged`, which
    reads the averaged weights (EMA).
    """

    def read(self) -> Tensor:
        """The slot's value, a copy, shape (k,)."""
        ...

    def write(self, value: Tensor) -> None:
        """Overwrite the slot in place with `value`, shape (k,)."""
        ...

    def substitute(self, value: Tensor) -> AbstractContextManager[None]:
        """While active, the model uses `value` (k,) instead; gradients flow into `value`."""
        ...


class Generator(Protocol):
    """A conditional generative model p(x|θ, c)."""

    family: str
    range: tuple[float, float]  # of model space

    @property
    def shape(self) -> tuple[int, ...]:
        """Model space without N."""
        ...

    @property
    def uninformed(self) -> float:
        """The mean loss of a model that knows nothing of x, in the unit of `loss`."""
        ...

    @property
    def net(self) -> torch.nn.Module:
        """The module that holds every parameter, under the names that `parameters` uses."""
        ...

    def draw(self, n: int, rng: torch.Generator, t: Tensor | None = None) -> Draw:
        """The randomness for `n` loss evaluations, from `rng` alone; `t` (n,) fixes timesteps."""
        ...

    def conditions(self, values: Sequence[Condition] | np.ndarray | Tensor) -> Any:
        """`values` in the form `loss` takes: (N,) int64 for classes, a list for prompts."""
        ...

    def loss(self, x: Tensor, c: Any, draw: Draw) -> Tensor:
        """The negative ELBO of every sample, (N,) nats; `x` (N, ...) in model space."""
        ...

    def sample(self, requests: Sequence[Request], sampler: Sampler) -> Tensor:
        """One image a request, (N, ...) in model space; independent of how they are batched."""
        ...

    def simulate(self, c: Any, rng: torch.Generator, sampler: Sampler) -> Tensor:
        """Bulk samples x ~ p(x|θ, c) with noise from one generator (replay, Fisher)."""
        ...

    def to_images(self, x: Tensor) -> np.ndarray:
        """Model space to uint8 (N, H, W, C)."""
        ...

    def encode(self, images: np.ndarray) -> Tensor:
        """uint8 (N, H, W, C) to model space."""
        ...

    def parameters(self, scope: str = "full") -> dict[str, torch.nn.Parameter]:
        """The parameters of `scope` by name, in a fixed order."""
        ...

    def averages(self) -> dict[str, Tensor] | None:
        """Averaged weights (EMA) by the names of `parameters`, moved along in training; None: there are none."""
        ...

    def condition(self, c: Condition) -> Slot:
        """The slot of condition `c`."""
        ...

    def clone(self) -> Self:
        """An independent copy, parameters and all."""
        ...

    def save(self, folder: Path) -> None:
        """Write the model into `folder` as safetensors (text-to-image: diffusers' layout)."""
        ...

    def load(self, path: Path) -> Self:
        """Read what `save` wrote, a folder, or one weight file; every tensor must match."""
        ...


@runtime_checkable
class Diffusion(Generator, Protocol):
    """A Generator that predicts noise."""

    null: Condition
    timesteps: int  # T

    def predict(self, x_t: Tensor, t: Tensor, c: Any) -> Tensor:
        """ε̂(x_t, t, c), the shape of `x_t`."""
        ...

    def add_noise(self, x: Tensor, draw: Draw) -> Tensor:
        """x_t ~ q(x_t | x_0 = x) with the draw's t and ε."""
        ...

    def dropout_seed(self, rng: torch.Generator) -> int | None:
        """Draw a seed for dropout; None, and nothing drawn: the network has none, or is not being trained."""
        ...

    def with_dropout(self, seed: int | None) -> AbstractContextManager[None]:
        """Dropout's randomness from `seed` (`dropout_seed`, or a draw's) alone."""
        ...

    def levels(self, sampler: Sampler) -> list[int]:
        """The timesteps of the sampler's steps, from the noisiest."""
        ...

    def sample_until(self, c: Any, k: int, rng: torch.Generator, sampler: Sampler) -> Tensor:
        """X after the first `k` of the sampler's steps (k = 0: pure noise)."""
        ...


class Defence(Protocol):
    """Guidance by a text of the method's own, for a model whose weights stay θ*.

    The text's states are encoded once, when the model is wrapped: what is later put in a phrase's place, by an attack say,
    never reaches them.
    """

    states: Tensor  # (1, length, width) of the text
    instead: bool  # they are asked in the empty prompt's place; False: beside it, in a third pass

    def along(self, levels: Sequence[int]) -> Guide:
        """Guide the steps of one trajectory, asked in turn; `levels` are the timesteps of all the sampler's steps."""
        ...

    def anywhere(self, levels: Sequence[int]) -> Guide:
        """Guide single predictions at any timestep, without a trajectory: what an adaptive attack is fitted to."""
        ...


@runtime_checkable
class Prompted(Diffusion, Protocol):
    """A Diffusion that is asked in words (text-to-image)."""

    words: tuple[str, ...]  # the names of the task's classes
    reworded: tuple[tuple[str, ...], str] | None  # a filter of prompts: (words, what they become)
    defence: Defence | None  # of a method that acts at sampling

    def loss(self, x: Tensor, c: Any, draw: Draw, sampler: Sampler | None = None) -> Tensor:
        """As a Generator's; with `sampler` of the guided prediction, in which gradients flow through out(c) alone."""
        ...

    def predict(self, x_t: Tensor, t: Tensor, c: Any, sampler: Sampler | None = None) -> Tensor:
        """As a Diffusion's; with `sampler` the guided prediction."""
        ...

    def encoded(self, c: Any) -> Tensor:
        """The text encoder's states, (N, length, width)."""
        ...


@runtime_checkable
class Bound(Protocol):
    """A Generator whose variational bound can be estimated without bias."""

    def variational_bound(self, x: Tensor, c: Any, steps: int, rng: torch.Generator) -> Tensor:
        """An estimate of −VLB of every image, (N,) nats, from `steps` of its terms."""
        ...


@runtime_checkable
class Likelihood(Protocol):
    """A Generator whose log-likelihood can be estimated."""

    def log_likelihood(
        self, x: Tensor, c: Any, samples: int, rng: torch.Generator, refine: int = 0, draws: int = 200
    ) -> Tensor:
        """Log p̂(x|c) by importance sampling with `samples` draws, (N,) nats, a lower bound in mean.

        With `refine` steps the proposal is fitted to each image, from the best of `draws` from the prior; 0 draws: from
        where the model's own encoder puts it.
        """
        ...


class Source(Protocol):
    """Somewhere training batches come from."""

    def batch(self, n: int, rng: torch.Generator) -> tuple[Tensor, Any]:
        """(x, c): x (n, ...) in model space and its conditions; all randomness from `rng`."""
        ...


@dataclass(frozen=True)
class Task:
    """Values only: base model + concept + evaluation protocol."""

    name: str
    title: str
    family: str  # which Generator: `vae`
    dataset: str
    classes: tuple[str, ...]
    concept: int  # c_f, an index into `classes`
    base: str  # recipe of the base model
    surrogate: str  # q(x|c_f): `noise`, `class:<c>` or `folder:<path>`
    relabel_to: int  # the class whose condition the control `relabel` copies over c_f's
    judges: tuple[str, ...]  # the panel
    designated: str  # the judge whose features feature-space metrics use
    reject_judge: str  # the judge with a `none of the classes` score
    sampler: Sampler
    n_forget: int  # images of c_f
    n_retain: int  # images of each retained class
    primary: tuple[str, ...]  # forgetting, recovery, retention; fixed before looking
    metrics: tuple[str, ...]
    likelihood_images: int  # real images a class for log p̂ at K = 50; 0: all
    likelihood_deep: int  # real images a class for log p̂ at K = 5,000; 0: skip
    recovery_budgets: tuple[int, ...]  # steps at which recovery is judged
    recovery_images: tuple[int, ...]  # how many real images of c_f the attacker has
    feature_images: int  # real images a scored class for FID, KID, precision and recall; 0: all
    replay_images: int = 0  # a fixed replay set of so many samples of θ*; 0: new ones each time
    replay_every: int = 1  # replay covers every k-th retained class only
    score: Literal["retain", "uncovered"] = "retain"  # the classes that retention is measured on
    recovery_starts: tuple[str, ...] = later(("own", "mean", "zero"))  # where the attacker begins
    recovery_rates: tuple[float, ...] = later((0.003, 0.01))  # Adam's, the endpoint's grid
    recovery_strong: float = later(0.1)  # a rate stored beside the endpoint; 0: none
    recovery_batch: int = later(0)  # images a step; 0: all
    recovery_accumulated: int = later(1)  # batches whose gradients are averaged before a step
    recovery_judged: int = later(200)  # images judged at every point of the grid
    bound_images: int = later(20)  # real images a class for the VLB and the denoising loss
    bound_steps: int = later(40)  # timesteps of each
    prompts: Prompts | None = later(None)  # noqa: RUF009  (text-to-image: how classes are asked for)
    family_images: int = later(0)  # of every family of further prompts
    recovery_vectors: tuple[int, ...] = later((1,))  # text-to-image: new vectors in place of c_f's name
    replay_used: int = later(0)  # of a fixed replay set, the first so many are trained on; 0: all
    replay_shared: bool = later(False)  # a fixed replay set is the same for every forgetting seed
    model: str = later("")  # a pretrained base: a folder, a weight file, a hub id, `smoke`; "": the recipe's
    size: int = later(0)  # pixels a side of a pretrained model's images
    surrogate_images: int = later(0)  # in a fixed set of q; 0: as many as replay has of a class, at least 100
    leakage_images: int = later(0)  # of each other class, for the set `leakage`
    open: bool = later(False)  # any text may be the concept
    gate: float = later(0.0)  # c_f is forgotten at this rate or less; 0: chance, one in so many classes
    train_precision: Literal["auto", "fp32", "bf16"] = later(
        "auto"
    )  # of base and method; sa_bench.training.uses_bf16
    keep_images: bool = later(True)  # False: images of c_f are deleted once they are measured
    sample_seed: Seed = later(0)  # noqa: RUF009  (another draw of every image that is measured, from the same models)
    presets: Mapping[str, Any] = field(default_factory=dict)  # of each method with such a field, or of one
    scales: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def retain(self) -> tuple[int, ...]:
        """The indices of all retained classes."""
        return tuple(i for i in range(len(self.classes)) if i != self.concept)

    def asked(self, c: int, role: str = "test") -> list[Condition]:
        """The conditions that ask for class `c`: its index or, of a text-to-image model, the prompts of a role."""
        return [c] if self.prompts is None else [*self.prompts.of(role, self.classes[c])]

    def remembered(self) -> list[Condition]:
        """What replay asks for, in turn: every covered class, or the replay prompts as they stand."""
        if self.prompts is not None and self.keeps_prompts:
            return [text for text in self.prompts.of("replay", "") if not self.names(text)]
        return [
            c for turn in zip(*(self.asked(c, "replay") for c in self.covered), strict=True) for c in turn
        ]

    def names(self, text: str) -> bool:
        """Whether a prompt names c_f, which no prompt of what is to be kept may.

        By its class's name, its other names, or a prompt that stands for it while forgetting; however they are written.
        """
        name, prompts = self.classes[self.concept], self.prompts
        if prompts is None:
            return mentions(text, [name])
        further = (*prompts.synonyms.get(name, ()), *prompts.names.get(name, ()))
        return mentions(text, [name, *further, *(asked for asked in prompts.forget if "{}" not in asked)])

    @property
    def keeps_prompts(self) -> bool:
        """Whether prompts that name no class are what is to be kept."""
        return self.prompts is not None and bool(self.prompts.kept or "kept" in self.prompts.files)

    @property
    def anchor(self) -> Condition:
        """What stands for c_f in methods that map it onto a condition: the surrogate's class or prompt, else the null.

        Of a class-conditional model with a surrogate that is no class, the class `relabel_to`.
        """
        kind, _, argument = self.surrogate.partition(":")
        if kind == "prompt":
            return argument
        c = int(argument) if kind == "class" else self.relabel_to
        return c if self.prompts is None else self.classes[c] if kind == "class" else ""

    @property
    def covered(self) -> tuple[int, ...]:
        """The retained classes that replay shows."""
        return self.retain[:: self.replay_every]

    @property
    def scored(self) -> tuple[int, ...]:
        """The retained classes that retention is measured on."""
        if self.score == "retain":
            return self.retain
        return tuple(c for c in self.retain if c not in self.covered)


class Run(Protocol):
    """What the engine hands a method: everything shared and cached, and the one training loop."""

    seed: int
    rng: torch.Generator  # the only source of randomness a method may use

    def replay(self) -> Source:
        """Samples of θ* for the retained conditions."""
        ...

    def own(self) -> Source:
        """Samples of θ* for c_f: new ones each time or, of a diffusion model, a fixed set."""
        ...

    def surrogate(self) -> Source:
        """Samples of q(x|c_f), labelled c_f."""
        ...

    def captioned(self, texts: Sequence[str]) -> FixedReplay:
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


class Method(Protocol):
    """Turns θ* into a model that forgot. A frozen dataclass: fields are the paper's symbols."""

    version: ClassVar[int]
    standing: ClassVar[str]  # `method`, `control` (must never win), `reference` (the floor) or `target`
    supports: ClassVar[type]  # Generator or Diffusion
    needs: ClassVar[tuple[str, ...]]  # () or ("data",)
    source: ClassVar[str]
    presets: ClassVar[Mapping[tuple[str, str], Mapping[str, Any]]]  # (family, scale) -> fields
    # Optional: `deterministic = True`: the same model whatever the seed; its runs are further draws of images.
    # Optional: `ablates: ClassVar[str]`, the method that it takes a part from: its presets, and the tasks', hold here too.
    # Optional: `ignores`, of "replay" and "surrogate": tasks that differ in these alone share the model.
    # Optional: `files: ClassVar[tuple[str, ...]]`, fields that name a file; keyed by its content.
    # Optional: `stands_for`, by field the numbers behind each of its words: `show` and results say them.
    # Optional: `wrap(model, task) -> model`: what a method that acts at inference does to the model when it is asked.
    # Optional: `unfit(task) -> str`: why it means nothing for a task, with these fields; "" where it does.
    # Optional: `remarks(task) -> list[str]`: what a reader of the numbers should know, lines for a result's flags.
    # Optional: `shows(task) -> list[str]`: prompts whose images by θ* it learns from (`Run.captioned`), part of its key.
    # Optional: `beside(task) -> str`, static: a few words in brackets after its name in a published table.
    # Optional: `render(images, labels, task) -> images`, a filter on uint8 (N, H, W, C) after sampling.

    def forget(self, model: Generator, task: Task, run: Run) -> Generator:
        """The model after forgetting; `model` is a copy of θ* that may be changed."""
        ...


class View(Protocol):
    """What a metric may look at; everything is loaded on first use."""

    task: Task
    samples: Mapping[str, SampleSet]  # `forget`, `retain`: of the model measured
    base: Mapping[str, SampleSet]  # the same seeds from θ*
    judges: Mapping[str, Judge]
    model: Generator
    base_model: Generator  # θ*

    def real(self, name: str) -> SampleSet:
        """Real images: `forget_train`, `forget_test`, `retain_train`, `retain_test`."""
        ...

    def inception(self, images: SampleSet) -> np.ndarray:
        """(N, 2048) float32 features of the Inception network, computed once for the same images and kept."""
        ...

    def detections(
        self, name: str, images: SampleSet, beside: Sequence[str] | SampleSet | None = None
    ) -> list[dict[str, Any]]:
        """One record an image from the detector `name`, kept; `beside` holds each one's prompt, name or other image."""
        ...

    def prompts(self, images: SampleSet) -> list[str]:
        """The text that each image was made from."""
        ...

    def forgetting(self) -> Metric:
        """The task's forgetting endpoint, whose `measure` takes other images of c_f; SaBenchError: it cannot be taken."""
        ...

    def surrogate(self, n: int) -> SampleSet:
        """`n` images of q(x|c_f)."""
        ...

    def rng(self, name: str) -> torch.Generator:
        """A generator that depends on `name` alone: the same for every model measured."""
        ...
