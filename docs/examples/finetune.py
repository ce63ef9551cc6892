"""`finetune`: go on training on everything but c_f, and hope that c_f is forgotten on the way.

    θ = argmin E_{p(x_r|c_r)}[−ELBO(x_r|θ, c_r)], from θ*

The oldest baseline of unlearning: catastrophic forgetting, left to itself.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from sa_bench.contracts import Count, Generator, Method, Rate, Recipe, Run, Task
from sa_bench.training import losses


@dataclass(frozen=True)
class Finetune(Method):
    """Fields become --set, the cache key and the column of the table."""

    lr: Rate = 1e-3  # Adam
    steps: Count = 1_000
    batch: Count = 256  # replay images

    version: ClassVar[int] = 1  # raise it when the same fields give another model
    source: ClassVar[str] = "folklore"
    presets: ClassVar[Mapping[tuple[str, str], Mapping[str, Any]]] = {
        ("vae", "quick"): {"steps": 200}
    }

    def forget(self, model: Generator, task: Task, run: Run) -> Generator:
        """θ; `model` is a copy of θ* that may be changed, `run.rng` the only randomness."""
        replay = run.replay()

        def objective() -> Tensor:
            (remember,) = losses(model, (replay,), self.batch, run.rng)
            return remember.sum()

        run.train(model, objective, Recipe(self.steps, self.lr, self.batch))
        return model
