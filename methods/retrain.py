"""`retrain`: a model that never saw c_f, trained from scratch on the rest with the base's recipe.

    θ = argmin E_{x, c ~ data, c ≠ c_f}[−ELBO(x|θ, c)]

Its answer to c_f is arbitrary (a column that was never trained): read nothing into its forget side. It
is the floor for recovery. Steps are scaled so that every retained class is seen as often as in the base.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from torch import Tensor

from sa_bench.contracts import Generator, Method, Run, Task, added_later


@dataclass(frozen=True)
class Retrain(Method):
    """Train from scratch without c_f."""

    recipe: str = "cosine"  # the base recipe to follow
    scope: str = added_later("full")  # `joint`: the text encoder as well

    title: ClassVar[str] = "Retrain"
    version: ClassVar[int] = 2
    several: ClassVar[bool] = True
    standing: ClassVar[str] = "reference"
    needs: ClassVar[tuple[str, ...]] = ("data",)
    ignores: ClassVar[tuple[str, ...]] = ("replay", "surrogate")
    source: ClassVar[str] = "exact unlearning; the paper's `9 classes` rows"
    presets: ClassVar[Mapping[tuple[str, str], Mapping[str, Any]]] = {
        ("vae", "quick"): {"recipe": "quick"},
        ("vae", "paper"): {"recipe": "paper"},
        ("text_to_image", "full"): {"recipe": "micro", "scope": "joint"},
        ("text_to_image", "quick"): {"recipe": "quick", "scope": "joint"},
        ("text_to_image", "paper"): {"recipe": "micro", "scope": "joint"},
    }

    @staticmethod
    def beside(task: Task) -> str:
        """Describe the share of the base's training that it uses, for its row of a published table."""
        return f"{_retained_share(task):g} × the base's steps"

    def forget(self, model: Generator, task: Task, run: Run) -> Generator:
        """Train a new model on the retained classes."""
        model, data, recipe = run.fresh(), run.data(), run.recipe(self.recipe)
        share = _retained_share(task)
        recipe = replace(
            recipe, steps=round(recipe.steps * share), warmup=round(recipe.warmup * share)
        )

        def objective() -> Tensor:
            x, c = data.batch(recipe.batch, run.rng)
            return recipe.reduce(model.loss(x, c, model.draw(recipe.batch, run.rng)))

        run.train(model, objective, recipe, self.scope)
        return model


def _retained_share(task: Task) -> float:
    """Compute the retained classes' share of all classes.

    With this share of the base's steps, each retained class is seen as often as in the base's training.
    """
    return len(task.retain) / len(task.classes)
