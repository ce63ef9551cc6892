"""`checkpoint`: a model that somebody else made forget, measured like any other row.

θ = the weights in `path`
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from sa_bench.contracts import Generator, Method, Run, Task, added_later


@dataclass(frozen=True)
class Checkpoint(Method):
    """Load a weight file of the base's architecture."""

    path: str = ""  # a safetensors file, or a folder with model.safetensors
    strength: Annotated[float, Field(allow_inf_nan=False)] = added_later(1.0)
    """Scale of a LoRA; 1 adds it in full."""
    weights: Literal["auto", "ema", "raw"] = added_later("auto")
    """Which weights to take from a file that holds both averaged (`ema`) and last (`raw`) ones."""

    title: ClassVar[str] = "Checkpoint"
    version: ClassVar[int] = 1
    deterministic: ClassVar[bool] = True
    made_elsewhere: ClassVar[bool] = True
    files: ClassVar[tuple[str, ...]] = ("path",)
    source: ClassVar[str] = "the file that is given"

    def unfit(self, task: Task) -> str:
        """Say why the file cannot be loaded; "" if it can.

        A file that holds no part of such a model is refused here, before any work.
        """
        from sa_bench.models import base_models

        if task.family == "text_to_image":
            from sa_bench.models.checkpoints import load

            if why := load.unfit(self.path, self.strength, self.weights):
                return why
        elif (self.strength, self.weights) != (1.0, "auto"):
            return "checkpoint.strength and checkpoint.weights apply to Stable Diffusion files alone; leave them out"
        # A pretrained base takes minutes and GiB to open: its names and shapes wait for the run.
        if not task.model:
            base = base_models.new_model(task.family, task.dataset, task.base, words=task.classes)
            self._load_into(base)
        return ""

    def remarks(self, task: Task) -> list[str]:
        """Say which weights were taken, where there are several, and how."""
        if task.family != "text_to_image":
            return []
        from sa_bench.models.checkpoints import load

        return load.remarks(self.path, self.strength, self.weights)

    def forget(self, model: Generator, task: Task, run: Run) -> Generator:
        """Load the model in `path`."""
        return self._load_into(model)

    def _load_into(self, model: Any) -> Generator:
        """Load the file into `model`; only options that are not the default are passed on."""
        options: dict[str, Any] = {}
        if self.strength != 1.0:
            options["strength"] = self.strength
        if self.weights != "auto":
            options["weights"] = self.weights
        return model.load(Path(self.path), **options)
