"""`checkpoint`: a model that somebody else made forget, measured like any other row.

θ = the weights in `path`
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from sa_bench.contracts import Generator, Run, Task


@dataclass(frozen=True)
class Checkpoint:
    """Load a weight file of the base's architecture."""

    path: str = ""  # a safetensors file, or a folder with model.safetensors

    version: ClassVar[int] = 1
    standing: ClassVar[str] = "method"
    supports: ClassVar[type] = Generator
    needs: ClassVar[tuple[str, ...]] = ()
    files: ClassVar[tuple[str, ...]] = ("path",)
    source: ClassVar[str] = "the file that is given"
    presets: ClassVar[Mapping[tuple[str, str], Mapping[str, Any]]] = {}

    def unfit(self, task: Task) -> str:
        """Nothing; a file that holds no part of such a model is refused here, before any work."""
        from sa_bench import bases
        from sa_bench.models import layouts

        if task.family == "text_to_image":
            layouts.layout(self.path)
        if (
            not task.model
        ):  # a pretrained base takes minutes and GiB to open: its names and shapes wait for the run
            bases.new(task.family, task.dataset, task.base, words=task.classes).load(Path(self.path))
        return ""

    def forget(self, model: Generator, task: Task, run: Run) -> Generator:
        """The model in `path`."""
        return model.load(Path(self.path))
