"""Define what a generative model must be able to do, and the small values it works with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    Literal,
    NamedTuple,
    Protocol,
    Self,
    runtime_checkable,
)

from pydantic import Field

from sa_bench.contracts.keys import added_later

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor

Precision = Literal["fp32", "bf16", "fp16"]
Condition = int | str
"""One condition c: a class index or a prompt."""


class Draw(NamedTuple):
    """The randomness of one loss evaluation, so that two models can get the same."""

    noise: Tensor  # (N, ...) ε of the latent (VAE) or of the image (diffusion)
    t: Tensor | None = None  # (N,) int64 timesteps, diffusion only
    seed: int | None = None  # of dropout, if the network has dropout and is being trained

    def require_t(self) -> Tensor:
        """Return the timesteps, which every draw of a diffusion model has.

        Raises:
            ValueError: it has none.
        """
        if self.t is None:
            raise ValueError("This draw has no timesteps: it is not of a diffusion model.")
        return self.t


@dataclass(frozen=True)
class Request:
    """One image to be made; its noise depends on `seed` alone, never on its batch."""

    condition: Condition
    seed: int
    guidance: float | None = None  # None uses the sampler's
    size: tuple[int, int] | None = None  # (height, width) in pixels; None uses the model's own


@dataclass(frozen=True)
class Sampler:
    """Settings with which images are sampled; part of the task and of every fingerprint.

    Guidance is s in ε = ε(null) + s (ε(c) − ε(null)): s = 1 means none, and the paper's w for DDPMs
    is s − 1.
    """

    scheduler: str = "direct"
    """`ddim` or `ddpm` (ancestral) for diffusion."""
    steps: int = 1
    eta: Annotated[float, Field(ge=0, le=1)] = 0.0
    guidance: Annotated[float, Field(allow_inf_nan=False)] = 1.0
    ema: bool = False
    """Whether the averaged weights are used, if the base model has them."""
    dropout: bool = added_later(False)
    """Whether dropout is active while sampling, as in the official ddpm/runners."""
    precision: Literal["fp32", "bf16", "fp16"] = added_later("fp32")
    """Autocast of the networks; the official sd/ uses fp16."""


Guide = Callable[[Sequence["Tensor"], "Tensor", "Tensor | float"], "Tensor"]
"""Function (passes, t (N,), s) that returns the guided output (N, C, H, W).

The passes are out(∅), or the output that replaces it; out(c); and out(own), for the method's own
text.
"""


PLACE = "*"
"""A word of one token in every vocabulary of CLIP's kind, which vectors stand in for."""


class Slot(Protocol):
    """The parameters that belong to one condition alone: a class column, an embedding row, a token.

    Optional members: `width`, the number of values of one vector, for a slot that takes any number
    of vectors (a phrase); `averaged`, which reads the averaged weights (EMA).
    """

    def read(self) -> Tensor:
        """Return a copy of the slot's value, shape (k,)."""
        ...

    def write(self, value: Tensor) -> None:
        """Overwrite the slot in place with `value`, shape (k,)."""
        ...

    def substitute(self, value: Tensor) -> AbstractContextManager[None]:
        """Use `value` (k,) in place of the slot within the block; gradients flow into `value`.

        A phrase also takes (N, k): a value for each of the N prompts that the model is asked for.
        """
        ...


class Generator(Protocol):
    """A conditional generative model p(x|θ, c)."""

    family: str
    range: tuple[float, float]  # lowest and highest value in model space
    black_is_broken: bool
    """Whether an image that is black everywhere is one that could not be decoded."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one sample in model space, without N."""
        ...

    @property
    def uninformed(self) -> float:
        """Mean loss of a model that knows nothing about x, in the unit of `loss`."""
        ...

    @property
    def net(self) -> torch.nn.Module:
        """Module that holds every parameter, under the names that `parameters` uses."""
        ...

    def draw(self, n: int, rng: torch.Generator, t: Tensor | None = None) -> Draw:
        """Draw the randomness of `n` losses from `rng` alone; `t` (n,) fixes the timesteps."""
        ...

    def conditions(self, values: Sequence[Condition] | np.ndarray | Tensor) -> Any:
        """Convert `values` to what `loss` takes, a tensor of N rows: of classes (N,) int64."""
        ...

    def loss(self, x: Tensor, c: Any, draw: Draw) -> Tensor:
        """Compute the negative ELBO of every sample, (N,); `x` is (N, ...) in model space.

        It is in nats where the family has a bound (VAE), else the loss that stands for it: a squared error.
        """
        ...

    def sample(self, requests: Sequence[Request], sampler: Sampler) -> Tensor:
        """Sample one image per request, (N, ...) in model space, whatever the batching."""
        ...

    def simulate(self, c: Any, rng: torch.Generator, sampler: Sampler) -> Tensor:
        """Draw many samples x ~ p(x|θ, c) with noise from one generator (for replay and F)."""
        ...

    def to_images(self, x: Tensor) -> np.ndarray:
        """Convert from model space to uint8 (N, H, W, C)."""
        ...

    def encode(self, images: np.ndarray) -> Tensor:
        """Convert uint8 (N, H, W, C) to model space."""
        ...

    def parameters(self, scope: str = "full") -> dict[str, torch.nn.Parameter]:
        """Return the parameters of `scope` by name, in a fixed order."""
        ...

    def averages(self) -> dict[str, Tensor] | None:
        """Return the averaged weights (EMA), which training updates, by the names of `parameters`.

        Returns:
            The weights; None if the model has no averages.
        """
        ...

    def condition(self, c: Condition) -> Slot:
        """Return the slot of condition `c`."""
        ...

    def clone(self) -> Self:
        """Make an independent copy with its own parameters."""
        ...

    def fresh(self, seed: int) -> Generator:
        """Initialise a model of the same shape; the initialisation depends on `seed` alone."""
        ...

    def save(self, folder: Path) -> None:
        """Write the model into `folder` as safetensors (text-to-image: diffusers' layout)."""
        ...

    def load(self, path: Path) -> Self:
        """Read what `save` wrote, from its folder or one weight file; every tensor must match."""
        ...


@runtime_checkable
class Diffusion(Generator, Protocol):
    """A Generator that predicts noise."""

    null: Condition
    timesteps: int  # T

    def predict(self, x_t: Tensor, t: Tensor, c: Any) -> Tensor:
        """Predict ε̂(x_t, t, c), in the shape of `x_t`."""
        ...

    def add_noise(self, x: Tensor, draw: Draw) -> Tensor:
        """Sample x_t ~ q(x_t | x_0 = x) with t and ε of the draw."""
        ...

    def dropout_seed(self, rng: torch.Generator) -> int | None:
        """Draw a seed for dropout.

        Returns:
            The seed; None, with nothing drawn, if the network has no dropout or is not being
                trained.
        """
        ...

    def with_dropout(self, seed: int | None) -> AbstractContextManager[None]:
        """Take dropout's randomness within the block from `seed` alone."""
        ...

    def levels(self, sampler: Sampler) -> list[int]:
        """Return the timesteps of the sampler's steps, from the noisiest on."""
        ...

    def sample_until(self, c: Any, k: int, rng: torch.Generator, sampler: Sampler) -> Tensor:
        """Return x after the first `k` of the sampler's steps; k = 0 is pure noise."""
        ...


class Defence(Protocol):
    """Guidance by a text of the method's own, for a model whose weights stay θ*.

    The text's states are encoded once, when the model is wrapped: what later replaces a phrase (in
    an attack, for example) never reaches them.
    """

    states: Tensor  # (1, length, width) text-encoder states of the text
    instead: bool  # True: they replace the empty prompt; False: they get a third pass

    def along(self, levels: Sequence[int]) -> Guide:
        """Return the guide for the steps of one trajectory, called in their order.

        Args:
            levels: timesteps of all the sampler's steps.
        """
        ...

    def anywhere(self, levels: Sequence[int]) -> Guide:
        """Return the guide for single predictions at any timestep, without a trajectory.

        An adaptive attack is fitted to it.

        Args:
            levels: timesteps of all the sampler's steps.
        """
        ...


@runtime_checkable
class Prompted(Diffusion, Protocol):
    """A Diffusion whose conditions are texts (text-to-image)."""

    words: tuple[str, ...]  # names of the task's classes
    prompt_filter: tuple[tuple[str, ...], str] | None
    """Filter of prompts: (words, the text that replaces them); None if there is none."""
    defence: Defence | None  # guidance of a method that acts at sampling

    @property
    def embeddings(self) -> Tensor:
        """Table of token embeddings, (tokens, width)."""
        ...

    @property
    def longest(self) -> int:
        """Most tokens of a prompt, without its first and its last; what is longer is cut off."""
        ...

    def tokens_of(self, text: str) -> tuple[int, ...]:
        """Return the token numbers of `text` without the first and the last token of a prompt."""
        ...

    def vocabulary(self) -> dict[int, str]:
        """List the words that anybody can type, by token number.

        Each is one token and reaches the model as it is typed: words that the prompt filter
        replaces are left out.
        """
        ...

    def loss(self, x: Tensor, c: Any, draw: Draw, sampler: Sampler | None = None) -> Tensor:
        """Compute a Generator's loss or, with `sampler`, the loss of the guided prediction.

        Gradients of the guided prediction flow through out(c) alone.
        """
        ...

    def predict(self, x_t: Tensor, t: Tensor, c: Any, sampler: Sampler | None = None) -> Tensor:
        """Predict as a Diffusion does or, with `sampler`, with guidance."""
        ...

    def encoded(self, c: Any) -> Tensor:
        """Return the text encoder's states, (N, length, width)."""
        ...


@runtime_checkable
class Bound(Protocol):
    """A Generator whose variational bound can be estimated without bias."""

    def variational_bound(self, x: Tensor, c: Any, steps: int, rng: torch.Generator) -> Tensor:
        """Estimate −VLB of every image, (N,) nats, from `steps` of its terms."""
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
        """Estimate log p̂(x|c) by importance sampling with `samples` draws, (N,) nats.

        The estimate is a lower bound in expectation.

        Args:
            x: images in model space.
            c: their conditions.
            samples: draws of the importance sampler.
            rng: the only source of randomness.
            refine: steps by which the proposal is fitted to each image; 0 does not fit it.
            draws: the fit starts from the best of so many draws from the prior; 0 starts where the
                model's own encoder puts the image.
        """
        ...
