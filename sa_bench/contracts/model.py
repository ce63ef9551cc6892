"""What a generative model must be able to do, and the small values it is asked with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, Self, runtime_checkable

from sa_bench.contracts.keys import added_later

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor

Precision = Literal["fp32", "bf16", "fp16"]
Condition = int | str
"""One c: a class index or a prompt."""


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
class Sampler:
    """How images are made; a value of the task and part of every fingerprint.

    Guidance is s in ε = ε(null) + s (ε(c) − ε(null)): 1 is none, the paper's w for DDPMs is s − 1.
    """

    scheduler: str = "direct"  # `ddim` or `ddpm` (ancestral) for diffusion
    steps: int = 1
    eta: float = 0.0
    guidance: float = 1.0
    ema: bool = False  # the averaged weights, where the base model has them
    dropout: bool = added_later(False)
    """True: dropout active while sampling, as in the official ddpm/runners."""
    precision: Literal["fp32", "bf16", "fp16"] = added_later("fp32")
    """Autocast of the networks; official sd/: fp16."""


Guide = Callable[[Sequence["Tensor"], "Tensor", "Tensor | float"], "Tensor"]
"""(passes, t (N,), s) -> the guided answer (N, C, H, W); passes: out(∅) or what stands in its place, out(c), out(own)."""


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
    prompt_filter: tuple[tuple[str, ...], str] | None
    """A filter of prompts: (words, what they become)."""
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
        self,
        x: Tensor,
        c: Any,
        samples: int,
        rng: torch.Generator,
        refine: int = 0,
        draws: int = 200,
    ) -> Tensor:
        """Log p̂(x|c) by importance sampling with `samples` draws, (N,) nats, a lower bound in mean.

        With `refine` steps the proposal is fitted to each image, from the best of `draws` from the prior; 0 draws: from
        where the model's own encoder puts it.
        """
        ...
