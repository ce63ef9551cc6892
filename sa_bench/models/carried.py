"""Carry tensors along with a training that does not train them, so that a training that is resumed finds them again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn


class Carried:
    """A model, or adapters, with further tensors. `Run.train` takes it in a model's place.

    Checkpoints hold the tensors beside the parameters. Nothing trains them: a method writes into them in place.
    """

    def __init__(self, model: Any, tensors: Mapping[str, Tensor]) -> None:
        """Take the model, and the tensors (of floats) by name; they share their storage."""
        self.model, self.net = model, model.net
        self.tensors = {
            f"carried.{name}": nn.Parameter(tensor, requires_grad=False)
            for name, tensor in tensors.items()
        }

    def parameters(self, scope: str = "full") -> dict[str, nn.Parameter]:
        """Return the model's parameters of a scope by name, and then the tensors."""
        return {**self.model.parameters(scope), **self.tensors}

    def averages(self) -> Any:
        """Return the model's averaged weights."""
        return self.model.averages()
