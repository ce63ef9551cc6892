"""`new method NAME`: write a file to start a method from. It passes `check` as it is."""

from __future__ import annotations

from pathlib import Path

from sa_bench.core import registry
from sa_bench.core.errors import SaBenchError

METHOD = '''"""`{name}`: one line that `list` shows.

    L(θ) = E_{{q(x|c_f)}}[−ELBO(x|θ, c_f)] + γ E_{{p(x_r|c_r)}}[−ELBO(x_r|θ, c_r)]

Write your objective here first, term by term, with its source; then make `forget` read like it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from sa_bench.contracts import Count, Generator, Method, Rate, Recipe, Run, Task, Weight
from sa_bench.training import losses


@dataclass(frozen=True)
class {cls}(Method):
    """Fields are the paper's symbols; they become --set, the cache key and the table's column."""

    gamma: Weight = 1.0  # weight of replay
    lr: Rate = 1e-3  # Adam
    steps: Count = 1_000
    batch: Count = 256  # images of each source

    version: ClassVar[int] = 1  # raise it when the same fields give another model
    source: ClassVar[str] = "yours"
    presets: ClassVar[Mapping[tuple[str, str], Mapping[str, Any]]] = {{("vae", "quick"): {{"steps": 300}}}}

    def forget(self, model: Generator, task: Task, run: Run) -> Generator:
        """θ; `model` is a copy of θ* that may be changed, `run.rng` the only randomness."""
        q, replay = run.surrogate(), run.replay()

        def objective() -> Tensor:
            forget, remember = losses(model, (q, replay), self.batch, run.rng)
            return forget.sum() + self.gamma * remember.sum()

        run.train(model, objective, Recipe(self.steps, self.lr, self.batch))
        return model
'''


def new_method(name: str, folder: Path) -> Path:
    """Write `folder/name.py`.

    Raises:
        SaBenchError: `name` is not a Python name or is taken, or the file exists.
    """
    if not name.isidentifier() or name != name.lower():
        raise SaBenchError(
            f"{name!r} cannot name a method: use small letters, digits and underscores."
        )
    if name in {entry.name for entry in registry.list_entries("method")}:
        raise SaBenchError(f"A method called {name} already exists; choose another name.")
    path = folder / f"{name}.py"
    if path.exists():
        raise SaBenchError(
            f"{path} already exists; nothing was written. Choose another name or --in FOLDER."
        )
    title = "".join(part.capitalize() for part in name.split("_"))
    path.write_text(METHOD.format(name=name, cls=title), encoding="utf-8")
    return path
