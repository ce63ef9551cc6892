"""A model whose every quantity is known, for `check` and for tests: x | c ~ N(μ_c, I) in two dimensions.

−ELBO = ‖x − μ_c‖²/2, F(μ_c) = p(c) for both coordinates, and every method's end point can be written down.
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
        """The slot of class `c`."""
        self.model, self.c = model, c

    def read(self) -> Tensor:
        """(2,): μ_c."""
        return self.model.net.weight[self.c].detach().clone()

    @torch.no_grad()
    def write(self, value: Tensor) -> None:
        """Overwrite μ_c."""
        self.model.net.weight[self.c] = value

    @contextmanager
    def substitute(self, value: Tensor) -> Iterator[None]:
        """Use `value` for this class while active."""
        self.model.override = (self.c, value)
        try:
            yield
        finally:
            self.model.override = None


class Gaussian:
    """x | c ~ N(μ_c, I). Model space is (N, 2)."""

    family = "gaussian"
    range = (-4.0, 4.0)
    shape = (2,)
    uninformed = (
        9.0  # μ_c as far from where it was as the range goes: 4²/2, and 1 for x's own spread
    )

    def __init__(self, classes: int = 3, seed: int = 0) -> None:
        """Means drawn from N(0, I)."""
        self.net = nn.Embedding(classes, 2)
        with torch.no_grad():
            self.net.weight.copy_(
                torch.randn(classes, 2, generator=torch.Generator().manual_seed(seed))
            )
        self.override: tuple[int, Tensor] | None = None

    def _mu(self, c: Tensor) -> Tensor:
        mu = self.net(c)
        if self.override is not None:
            k, value = self.override
            mu = torch.where((c == k)[:, None], value, mu)
        return mu

    def fresh(self, seed: int) -> Gaussian:
        """New means."""
        return Gaussian(self.net.num_embeddings, seed)

    def draw(self, n: int, rng: torch.Generator, t: Tensor | None = None) -> Draw:
        """Nothing is random in the loss."""
        return Draw(torch.zeros(n, 1), t)

    def conditions(self, values: Sequence[Condition] | np.ndarray | Tensor) -> Tensor:
        """(N,) int64."""
        return torch.as_tensor(values).long()

    def loss(self, x: Tensor, c: Tensor, draw: Draw) -> Tensor:
        """‖x − μ_c‖²/2, (N,)."""
        return 0.5 * ((x - self._mu(c)) ** 2).sum(1)

    @torch.no_grad()
    def sample(self, requests: Sequence[Request], sampler: Sampler) -> Tensor:
        """μ_c + noise of each request's seed."""
        rows = [torch.randn(2, generator=torch.Generator().manual_seed(r.seed)) for r in requests]
        return self._mu(self.conditions([r.condition for r in requests])) + torch.stack(rows)

    @torch.no_grad()
    def simulate(self, c: Tensor, rng: torch.Generator, sampler: Sampler) -> Tensor:
        """μ_c + N(0, I)."""
        return self._mu(c) + torch.randn(len(c), 2, generator=rng)

    def to_images(self, x: Tensor) -> np.ndarray:
        """uint8 (N, 1, 2, 1)."""
        return (x.clamp(-4, 4) * 31 + 128).to(torch.uint8).view(-1, 1, 2, 1).numpy()

    def encode(self, images: np.ndarray) -> Tensor:
        """The inverse, up to rounding."""
        return (torch.from_numpy(images.astype(np.float32)).view(-1, 2) - 128) / 31

    def parameters(self, scope: str = "full") -> dict[str, nn.Parameter]:
        """The means."""
        return dict(self.net.named_parameters())

    def averages(self) -> None:
        """There are none."""

    def condition(self, c: Condition) -> Row:
        """The slot of class `c`."""
        return Row(self, int(c))

    def clone(self) -> Self:
        """An independent copy."""
        return copy.deepcopy(self)

    def save(self, folder: Path) -> None:
        """Write `model.safetensors`."""
        save_file({"weight": self.net.weight.detach()}, folder / "model.safetensors")

    def load(self, path: Path) -> Self:
        """Read what `save` wrote."""
        self.net.load_state_dict(load_file(path / "model.safetensors" if path.is_dir() else path))
        return self


class Normal:
    """q(x|c_f) = N(0, I)."""

    def __init__(self, model: Generator, concept: int) -> None:
        """Samples labelled `concept`."""
        self.model, self.concept = model, concept

    def batch(self, n: int, rng: torch.Generator) -> tuple[Tensor, Any]:
        """`n` samples."""
        return torch.randn(n, 2, generator=rng), self.model.conditions([self.concept] * n)


class ToyRun:
    """The contract's Run on the Gaussian, with a record of what was asked for."""

    def __init__(
        self,
        star: Generator,
        task: Task,
        seed: int = 0,
        steps: int | None = None,
        folder: Path | None = None,
        killed_at: int | None = None,
    ) -> None:
        """`steps` caps every training; `killed_at` raises KeyboardInterrupt there; `folder` is for resuming."""
        self.star, self.task, self.seed, self.steps = star, task, seed, steps
        self.folder, self.killed_at, self.trainings = folder, killed_at, 0
        self.rng, self.asked = torch.Generator().manual_seed(seed), list[str]()
        self.outside_moved: list[
            str
        ] = []  # parameters that a training changed without having them in its scope

    def replay(self) -> FreshReplay | FixedReplay:
        """Fresh samples of θ*."""
        self.asked.append("replay")
        return FreshReplay(self.star.clone(), self.task.retain, self.task.sampler)

    def concept_samples(self) -> OtherClassSamples | FixedReplay:
        """Fresh samples of θ* for c_f; of a diffusion model 200, drawn once."""
        self.asked.append("own")
        star, concept = self.star.clone(), self.task.concept
        if isinstance(star, Diffusion):
            c = star.conditions([concept] * 200)
            return FixedReplay(
                star.simulate(c, torch.Generator().manual_seed(2), self.task.sampler), c
            )
        return OtherClassSamples(star, concept, concept, self.task.sampler)

    def surrogate(self) -> Any:
        """N(0, I)."""
        self.asked.append("surrogate")
        if isinstance(self.star, Diffusion):
            return NormalNoise(self.star, self.task.prompts_for(self.task.concept, "forget"))
        return Normal(self.star, self.task.concept)

    def captioned(self, texts: Sequence[str]) -> FixedReplay:
        """20 samples of θ* for `texts` in turn, drawn once."""
        self.asked.append("captioned")
        c = self.star.conditions([texts[i % len(texts)] for i in range(20)])
        return FixedReplay(
            self.star.simulate(c, torch.Generator().manual_seed(3), self.task.sampler), c
        )

    def data(self) -> Any:
        """Samples of θ* stand for the data."""
        self.asked.append("data")
        return FreshReplay(self.star.clone(), self.task.retain, self.task.sampler)

    def fisher(self, options: FisherOptions) -> dict[str, Tensor]:
        """F from 3,000 samples; of a diffusion model from 4, at 4 timesteps each."""
        self.asked.append("fisher")
        rng, options = torch.Generator().manual_seed(1), replace(options, n=3000)
        if isinstance(self.star, Diffusion):
            options = replace(options, n=4, timesteps=4)
        replay = FreshReplay(self.star.clone(), self.task.retain, self.task.sampler)
        return fisher.estimate(self.star, self.task, options, replay, self.task.sampler, rng)[0]

    def fresh(self) -> Generator:
        """New means."""
        return self.star.fresh(self.seed + 100)  # type: ignore[attr-defined]

    def recipe(self, name: str) -> Recipe:
        """A short one, whatever the name."""
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
        """The engine's training loop."""
        self.asked.append("train")
        self.trainings += 1
        count = 0

        def counted() -> Tensor:
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
            counted,
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
