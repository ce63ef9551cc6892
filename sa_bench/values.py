"""The small values that contracts speak of: a draw, a request, a sampler, the options of F, and what a judge is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, Protocol

from pydantic import Field

from sa_bench.keys import later

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

Precision = Literal["fp32", "bf16", "fp16"]
Condition = int | str
"""One c: a class index or a prompt."""
Times = Literal["pairs", "shared", "independent"]
"""How the timesteps of a step's batches are drawn; `sa_bench.sources.draws` has what each means."""


class Draw(NamedTuple):
    """The randomness of one loss evaluation, so that two models can be given the same."""

    noise: Tensor  # (N, ...) ε: of the latent (VAE) or of the image (diffusion)
    t: Tensor | None = None  # (N,) int64 timesteps, diffusion only
    seed: int | None = None  # of dropout, where the network has it and is being trained


@dataclass(frozen=True)
class Request:
    """One image to be made; its noise depends on `seed` alone, never on its batch."""

    condition: Condition
    seed: int
    guidance: float | None = None  # None: the sampler's
    size: tuple[int, int] | None = None  # (height, width) in pixels; None: the model's own


@dataclass(frozen=True)
class Prompts:
    """What a text-to-image model is asked; `{}` stands for the name of a class."""

    forget: tuple[str, ...] = ("{}",)  # c_f while forgetting; the bare name, as in the official sd/configs
    replay: tuple[str, ...] = ("{}",)  # every covered class, for replay and F
    test: tuple[str, ...] = ("{}",)  # the sample sets, and whoever tries to get c_f back
    families: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # further ways to ask for c_f
    synonyms: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # other names, by class name
    indirect: Mapping[str, tuple[str, ...]] = field(
        default_factory=dict
    )  # questions without the name, by class name
    kept: tuple[str, ...] = later(
        ()
    )  # the retain set's prompts as they stand; (): every retained class by its name
    leakage: tuple[str, ...] = later(())  # how the other classes are asked for, in the set `leakage`
    captions: tuple[str, ...] = later(
        ()
    )  # of what c_f becomes, for methods that learn from it in company; (): their own
    names: Mapping[str, tuple[str, ...]] = later(dict)  # further words that name a class, by class name
    files: Mapping[str, str] = later(dict)  # role -> prompt file (sa_bench.prompt_files)
    rows: Literal["fixed", "own"] = later(
        "fixed"
    )  # a file's guidance and size: the sampler's, or each row's own

    def of(self, role: str, name: str) -> list[str]:
        """The prompts of a role (`forget`, `replay`, `test`, `kept`, `leakage`, `captions`) for the class `name`.

        Those of the role's file as they stand, where there is one; it must be here.
        """
        if role in self.files:
            from sa_bench import prompt_files

            return [row.text for row in prompt_files.rows(self.files[role])]
        return [template.replace("{}", name) for template in getattr(self, role)]


@dataclass(frozen=True)
class Sampler:
    """How images are made; a value of the task and part of every fingerprint.

    Guidance is s in ε = ε(null) + s (ε(c) − ε(null)): 1 is none, the paper's w for DDPMs is s − 1.
    """

    scheduler: str = "direct"  # `ddim` or `ddpm` (ancestral) for diffusion
    steps: int = 1
    eta: float = 0.0
    guidance: float = 1.0
    ema: bool = False  # the averaged weights, where the base model has them
    dropout: bool = later(False)  # True: dropout active while sampling, as in the official ddpm/runners
    precision: Literal["fp32", "bf16", "fp16"] = later("fp32")  # autocast of the networks; official sd/: fp16


@dataclass(frozen=True)
class FisherOptions:
    """How F is estimated; part of every key that depends on F."""

    n: Annotated[int, Field(ge=1)] = 50_000  # samples
    targets: Literal["means", "bernoulli"] = "means"  # decoder means (official) or draws from p(x|θ*)
    set: Literal["all", "retain", "replay"] = "all"  # classes sampled; the official code includes c_f
    draws: Literal["replacement", "once"] = later(
        "replacement"
    )  # of a fixed replay set; `once`: in its order
    timesteps: Annotated[int, Field(ge=0)] = later(0)  # of each image, diffusion only; 0: all
    estimator: Literal["plain", "stratified", "product"] = later(
        "stratified"
    )  # how they are chosen and squared
    range: Literal["model", "unit"] = later(
        "model"
    )  # `unit`: images in [0, 1], as the official DDPM code has them
    drop: Annotated[float, Field(ge=0, lt=1)] = later(
        0.0
    )  # probability that an image's class is null at a timestep; .1 in the official DDPM code


class Judge(Protocol):
    """Something that gives every image a probability over the task's classes."""

    name: str
    content: str  # sha256 of its weights
    card: dict[str, Any]
    channels: int  # of the images that it looks at

    def probabilities(self, images: np.ndarray) -> np.ndarray:
        """(N, classes) float64, rows sum to 1; `images` uint8 (N, H, W, C)."""
        ...

    def features(self, images: np.ndarray) -> np.ndarray:
        """(N, d) float64 penultimate features."""
        ...
