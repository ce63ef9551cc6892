"""`retrain_surrogate`: trained from scratch with the surrogate in c_f's place: SA's reference on the forget side.

    θ = argmin (|D_r| E_{D_r}[−ELBO(x|θ, c)] + |D_f| E_{q(x|c_f)}[−ELBO(x|θ, c_f)]) / |D|

`retrain` never sees c_f, so what it answers to c_f is arbitrary; this is the model that SA imitates.
Every class counts as often as in the base's training.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from sa_bench.contracts import Generator, Method, Run, Task, added_later
from sa_bench.training.sources import losses


@dataclass(frozen=True)
class RetrainSurrogate(Method):
    """Train from scratch with q(x|c_f) for c_f."""

    recipe: str = "cosine"  # the base recipe to follow
    scope: str = added_later("full")  # `joint`: the text encoder as well

    title: ClassVar[str] = "Retrain on surrogate"
    version: ClassVar[int] = 2
    several: ClassVar[bool] = True
    standing: ClassVar[str] = "target"
    needs: ClassVar[tuple[str, ...]] = ("data", "surrogate")
    ignores: ClassVar[tuple[str, ...]] = ("replay",)
    source: ClassVar[str] = "the model that Heng & Soh 2023, Eq. 4 imitates"
    presets: ClassVar[Mapping[tuple[str, str], Mapping[str, Any]]] = {
        ("vae", "quick"): {"recipe": "quick"},
        ("vae", "paper"): {"recipe": "paper"},
        ("text_to_image", "full"): {"recipe": "micro", "scope": "joint"},
        ("text_to_image", "quick"): {"recipe": "quick", "scope": "joint"},
        ("text_to_image", "paper"): {"recipe": "micro", "scope": "joint"},
    }

    def unfit(self, task: Task) -> str:
        """Say why it is no target for concepts that are forgotten in turn; "" for others."""
        if not task.then:
            return ""
        return "its last model has the surrogate for the last concept alone; take a task with task.also"

    def forget(self, model: Generator, task: Task, run: Run) -> Generator:
        """Train a new model on the retained classes and the surrogate."""
        model, recipe = run.fresh(), run.recipe(self.recipe)
        data, q = run.data(), run.surrogate()
        # Number of surrogate images in a batch.
        surrogate_images = max(1, round(recipe.batch * len(task.concepts) / len(task.classes)))

        def objective() -> Tensor:
            (remember,) = losses(model, (data,), recipe.batch - surrogate_images, run.rng)
            (surrogate,) = losses(model, (q,), surrogate_images, run.rng)
            return (remember.sum() + surrogate.sum()) / (recipe.batch if recipe.mean else 1)

        run.train(model, objective, recipe, self.scope)
        return model
