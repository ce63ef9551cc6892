"""What a method receives: everything shared and cached, and the one training loop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from sa_bench.contracts import FisherOptions, Generator, Recipe, Source, image_seed
from sa_bench.core import registry
from sa_bench.core.errors import SaBenchError
from sa_bench.core.parts import parts_of
from sa_bench.data import datasets
from sa_bench.training.loop import Pull, fit
from sa_bench.training.record import TrainingRecord
from sa_bench.training.sources import FixedReplay, FreshReplay


class MethodRun:
    """Implements the contract's Run: what a method receives."""

    def __init__(self, chain: Any, folder: Path) -> None:
        """Take the cell's chain (`sa_bench.engine.stages.Chain`) and the folder for checkpoints."""
        self.chain, self.folder, self.seed = chain, folder, chain.cell.seed
        self.trainings: list[TrainingRecord] = []
        self.precision = "nothing trained"
        self.rng = torch.Generator().manual_seed(image_seed("forget", self.seed))

    def replay(self) -> FreshReplay | FixedReplay:
        """Give samples of θ* for the retained conditions that the task lets replay cover.

        Raises:
            SaBenchError: the method declares that it ignores replay, so that replay is not in its
                key.
        """
        self._require_declared("replay")
        return self.chain.source("replay")

    def _require_declared(self, what: str) -> None:
        """Refuse to give what the method declares to ignore."""
        name = self.chain.cell.method
        if what in registry.get_method(name).ignores:
            raise SaBenchError(
                f"The method {name} declares that it ignores {what} and then asks for it; remove {what} from `ignores`."
            )

    def concept_samples(self) -> Source:
        """Give samples of θ* for c_f."""
        return self.chain.source("own")

    def surrogate(self) -> Any:
        """Give samples of the surrogate q(x|c_f).

        Raises:
            SaBenchError: the method declares that it ignores the surrogate, so that it is not in
                its key.
        """
        self._require_declared("surrogate")
        return self.chain.surrogate(self.chain.base_model_view())

    def captioned(self, texts: Sequence[str]) -> FixedReplay:
        """Give samples of θ* for `texts` in turn, as many as a fixed set of one class has.

        Raises:
            SaBenchError: the texts are not those that the method `shows`, so that they are not in
                its key.
        """
        if list(texts) != self.chain.sets.shown_prompts:
            raise SaBenchError(
                f"The method {self.chain.cell.method} asks for images of other prompts than it says (`shows`); make "
                "`shows` return the same prompts."
            )
        return self.chain.source("captioned")

    def data(self) -> Source:
        """Give real training images of the retained classes, or captioned canvases without c_f."""
        task = self.chain.task
        train = datasets.load(task.dataset).train
        recipe = self.chain.family.get_recipe(task.base)
        return self.chain.family.data_without_concept(
            self.chain.base_model_copy(), train, recipe, self.chain.cell.base_seed, task.absent
        )

    def fisher(self, options: FisherOptions) -> dict[str, torch.Tensor]:
        """Give F at θ*."""
        if options.set == "replay":
            self._require_declared("replay")
        return self.chain.fisher(options)

    def fresh(self) -> Generator:
        """Make a new model, initialised by seed and base seed, so that no two cells share one."""
        return self.chain.base_model_copy().fresh(
            image_seed(f"fresh/{self.chain.cell.base_seed}", self.seed)
        )

    def recipe(self, name: str) -> Recipe:
        """Get a base recipe of the family."""
        return self.chain.family.get_recipe(name)

    def train(
        self,
        model: Generator,
        loss: Callable[[], torch.Tensor | None],
        recipe: Recipe,
        scope: str = "full",
        pull: Pull | None = None,
        stop: Callable[[], bool] | None = None,
    ) -> None:
        """Train the parameters of `scope`.

        Clipping and averaging are the recipe's or, where it gives none, the base recipe's.
        """
        self.precision = "bf16" if self.chain.bf16 and not recipe.exact else "fp32"
        recipe = self.chain.base_source.complete(recipe)
        parameters, average = model.parameters(scope), model.averages()
        if recipe.averaged:
            average = {name: p.detach().clone() for name, p in parameters.items()}
        model.net.train()
        record = fit(
            parameters,
            loss,
            recipe,
            rng=self.rng,
            pull=pull,
            stop=stop,
            bf16=self.chain.bf16,
            average=average,
            checkpoint=parts_of(self.folder) / f"checkpoint-{len(self.trainings) + 1}.safetensors",
            progress=self.chain.progress,
            stage=f"forget {self.chain.cell.method}",
        )
        self.trainings.append(record)
        model.net.eval()
        if recipe.averaged and average is not None:
            # Some families sample with averages of their own.
            model_averages = model.averages() or {}
            with torch.no_grad():
                for name, parameter in parameters.items():
                    for target in (parameter, model_averages.get(name, parameter)):
                        target.copy_(average[name])
