"""Define a model whose every quantity is known: x | c ~ N(μ_c, I) in two dimensions.

`check` and the tests use it. −ELBO = ‖x − μ_c‖²/2, F(μ_c) = p(c) for both coordinates, and the end
point of every method can be written down.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from sa_bench.contracts import (
    Condition,
    Diffusion,
    Draw,
    FisherOptions,
    Generator,
    Recipe,
    Request,
    Sampler,
    Task,
)
from sa_bench.training import fisher
from sa_bench.training.loop import Pull, fit
from sa_bench.training.sources import FixedReplay, FreshReplay, NormalNoise, OtherClassSamples


class Row:
    """A slot that is one row of an embedding."""

    def __init__(self, model: Gaussian, c: int) -> None:
        """Take the slot of class `c`."""
        self.model, self.c = model, c

    def read(self) -> Tensor:
        """Return a copy of μ_c, (2,)."""
        return self.model.net.weight[self.c].detach().clone()

    @torch.no_grad()
    def write(self, value: Tensor) -> None:
        """Overwrite μ_c."""
        self.model.net.weight[self.c] = value

    @contextmanager
    def substitute(self, value: Tensor) -> Iterator[None]:
        """Use `value` for this class within the block."""
        self.model.override = (self.c, value)
        try:
            yield
        finally:
            self.model.override = None


class Gaussian:
    """The model x | c ~ N(μ_c, I). Model space is (N, 2)."""

    family = "gaussian"
    black_is_broken = False
    range = (-4.0, 4.0)
    shape = (2,)
    uninformed = 9.0  # 4²/2 for μ_c displaced by as much as the range allows, and 1 for x's spread

    def __init__(self, classes: int = 3, seed: int = 0) -> None:
        """Draw the means from N(0, I)."""
        self.net = nn.Embedding(classes, 2)
        with torch.no_grad():
            self.net.weight.copy_(
                torch.randn(classes, 2, generator=torch.Generator().manual_seed(seed))
            )
        self.override: tuple[int, Tensor] | None = None

    def means(self, c: Tensor) -> Tensor:
        """Return μ_c for each of `c`, (N, 2), with a substituted mean in its place."""
        mu = self.net(c)
        if self.override is not None:
            k, value = self.override
            mu = torch.where((c == k)[:, None], value, mu)
        return mu

    def fresh(self, seed: int) -> Gaussian:
        """Make a model with new means."""
        return Gaussian(self.net.num_embeddings, seed)

    def draw(self, n: int, rng: torch.Generator, t: Tensor | None = None) -> Draw:
        """Return an empty draw: the loss has no randomness."""
        return Draw(torch.zeros(n, 1), t)

    def conditions(self, values: Sequence[Condition] | np.ndarray | Tensor) -> Tensor:
        """Convert `values` to (N,) int64."""
        return torch.as_tensor(values).long()

    def loss(self, x: Tensor, c: Tensor, draw: Draw) -> Tensor:
        """Compute ‖x − μ_c‖²/2, (N,)."""
        return 0.5 * ((x - self.means(c)) ** 2).sum(1)

    @torch.no_grad()
    def sample(self, requests: Sequence[Request], sampler: Sampler) -> Tensor:
        """Return μ_c plus noise from each request's seed."""
        noises = [
            torch.randn(2, generator=torch.Generator().manual_seed(request.seed))
            for request in requests
        ]
        return self.means(
            self.conditions([request.condition for request in requests])
        ) + torch.stack(noises)

    @torch.no_grad()
    def simulate(self, c: Tensor, rng: torch.Generator, sampler: Sampler) -> Tensor:
        """Return μ_c + N(0, I)."""
        return self.means(c) + torch.randn(len(c), 2, generator=rng)

    def to_images(self, x: Tensor) -> np.ndarray:
        """Convert to uint8 (N, 1, 2, 1)."""
        return (x.clamp(-4, 4) * 31 + 128).to(torch.uint8).view(-1, 1, 2, 1).numpy()

    def encode(self, images: np.ndarray) -> Tensor:
        """Invert `to_images`, up to rounding."""
        return (torch.from_numpy(images.astype(np.float32)).view(-1, 2) - 128) / 31

    def parameters(self, scope: str = "full") -> dict[str, nn.Parameter]:
        """Return the means."""
        return dict(self.net.named_parameters())

    def averages(self) -> None:
        """Return None: there are no averaged weights."""

    def condition(self, c: Condition) -> Row:
        """Return the slot of class `c`."""
        return Row(self, int(c))

    def clone(self) -> Self:
        """Make an independent copy."""
        return copy.deepcopy(self)

    def save(self, folder: Path) -> None:
        """Write `model.safetensors`."""
        save_file({"weight": self.net.weight.detach()}, folder / "model.safetensors")

    def load(self, path: Path) -> Self:
        """Read what `save` wrote."""
        self.net.load_state_dict(load_file(path / "model.safetensors" if path.is_dir() else path))
        return self


class Normal:
    """The surrogate q(x|c_f) = N(0, I)."""

    def __init__(self, model: Generator, concept: int) -> None:
        """Label the samples `concept`."""
        self.model, self.concept = model, concept

    def batch(self, n: int, rng: torch.Generator) -> tuple[Tensor, Any]:
        """Return `n` samples and their conditions."""
        return torch.randn(n, 2, generator=rng), self.model.conditions([self.concept] * n)


class ToyRun:
    """The contract's Run for the Gaussian, with a record of what a method uses."""

    def __init__(
        self,
        star: Generator,
        task: Task,
        seed: int = 0,
        steps: int | None = None,
        folder: Path | None = None,
        killed_at: int | None = None,
    ) -> None:
        """Prepare a run on the base model `star`.

        Args:
            star: the base model θ*.
            task: whose concept is forgotten.
            seed: of the method's randomness.
            steps: most steps of every training; None for no limit.
            folder: for checkpoints; None makes trainings not resumable.
            killed_at: loss evaluation at which KeyboardInterrupt is raised; None for never.
        """
        self.star, self.task, self.seed, self.steps = star, task, seed, steps
        self.folder, self.killed_at, self.trainings = folder, killed_at, 0
        self.rng, self.asked = torch.Generator().manual_seed(seed), list[str]()
        self.outside_moved: list[str] = []
        """Names of parameters that a training changed although they are not in its scope."""

    def replay(self) -> FreshReplay | FixedReplay:
        """Return fresh samples of θ*."""
        self.asked.append("replay")
        return FreshReplay(self.star.clone(), self.task.retain, self.task.sampler)

    def concept_samples(self) -> OtherClassSamples | FixedReplay:
        """Return fresh samples of θ* for c_f; of a diffusion model 40, drawn once."""
        self.asked.append("own")
        star, concept = self.star.clone(), self.task.concept
        if isinstance(star, Diffusion):
            c = star.conditions([concept] * 40)
            return FixedReplay(
                star.simulate(c, torch.Generator().manual_seed(2), self.task.sampler), c
            )
        return OtherClassSamples(star, concept, concept, self.task.sampler)

    def surrogate(self) -> Any:
        """Return N(0, I)."""
        self.asked.append("surrogate")
        if isinstance(self.star, Diffusion):
            return NormalNoise(self.star, self.task.prompts_for(self.task.concept, "forget"))
        return Normal(self.star, self.task.concept)

    def captioned(self, texts: Sequence[str]) -> FixedReplay:
        """Return 20 samples of θ* for `texts` in turn, drawn once."""
        self.asked.append("captioned")
        c = self.star.conditions([texts[i % len(texts)] for i in range(20)])
        return FixedReplay(
            self.star.simulate(c, torch.Generator().manual_seed(3), self.task.sampler), c
        )

    def data(self) -> Any:
        """Return samples of θ* in place of real data."""
        self.asked.append("data")
        return FreshReplay(self.star.clone(), self.task.retain, self.task.sampler)

    def fisher(self, options: FisherOptions) -> dict[str, Tensor]:
        """Estimate F from 3,000 samples; of a diffusion model from 4, at 4 timesteps each."""
        self.asked.append("fisher")
        rng, options = torch.Generator().manual_seed(1), replace(options, n=3000)
        star, task, sampler = self.star, self.task, self.task.sampler
        replay = FreshReplay(star.clone(), task.retain, sampler)
        if isinstance(star, Diffusion):
            options = replace(options, n=4, timesteps=4)
            return fisher.estimate_over_time(star, task, options, replay, sampler, rng)[0]
        return fisher.estimate_over_samples(star, task, options, replay, sampler, rng)[0]

    def fresh(self) -> Generator:
        """Return a model with new means."""
        return self.star.fresh(self.seed + 100)

    def recipe(self, name: str) -> Recipe:
        """Return a short recipe, whatever the name."""
        return Recipe(200, 0.05, 64)

    def train(
        self,
        model: Generator,
        loss: Callable[[], Tensor],
        recipe: Recipe,
        scope: str = "full",
        pull: Pull | None = None,
        stop: Callable[[], bool] | None = None,
    ) -> None:
        """Train with the engine's training loop, and record which parameters changed."""
        self.asked.append("train")
        self.trainings += 1
        count = 0

        def count_and_compute() -> Tensor:
            nonlocal count
            count += 1
            if count == self.killed_at:
                raise KeyboardInterrupt
            return loss()

        trained = set(model.parameters(scope))
        before = {n: p.detach().clone() for n, p in model.parameters().items() if n not in trained}
        checkpoint = (
            None
            if self.folder is None
            else self.folder / f"checkpoint-{self.trainings}.safetensors"
        )
        fit(
            model.parameters(scope),
            count_and_compute,
            replace(recipe, steps=min(recipe.steps, self.steps or recipe.steps)),
            rng=self.rng,
            pull=pull,
            stop=stop,
            checkpoint=checkpoint,
            every=0.0,
        )
        after = model.parameters()
        self.outside_moved += [
            name for name, old in before.items() if not torch.equal(after[name], old)
        ]
