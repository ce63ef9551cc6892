"""Declare the family `text_to_image`: latent diffusion from prompts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sa_bench.contracts import (
    Diffusion,
    Generator,
    Progress,
    Prompted,
    Recipe,
    SampleSet,
    Source,
    Task,
    key_values,
)
from sa_bench.core.errors import name_missing_extra
from sa_bench.models import recipes, schedule
from sa_bench.models.family import Family

if TYPE_CHECKING:
    import numpy as np

    from sa_bench.training.record import TrainingRecord


class TextToImageFamily(Family):
    """The latent diffusion models of `sa_bench.models.text_to_image`."""

    name = "text_to_image"
    title = "text-to-image model"
    abilities = ("add_noise", "vocabulary")
    contracts = (Generator, Diffusion, Prompted)
    schedulers = ("ddim", "ddpm")
    most_steps = schedule.T
    spacing = schedule.LEADING
    precisions = ("fp32", "bf16", "fp16")
    fewest_quick = 96
    opens_checkpoints = True

    @property
    def recipes(self) -> Mapping[str, Recipe]:
        """Recipes that its base models are trained by, by name; read without torch."""
        return recipes.TEXT_TO_IMAGE

    def _import_generator(self) -> type:
        with name_missing_extra("text-to-image", "transformers"):
            from sa_bench.models.text_to_image import TextToImage

        return TextToImage

    def new_model(self, dataset: str, recipe: str, seed: int, words: Sequence[str]) -> Any:
        """Initialise a micro model; its prompts name the classes by `words`."""
        return self.load_generator()(recipe, words, seed)

    def set_precision(self, model: Any, precision: str) -> None:
        """Set the precision in which the model decodes latents."""
        model.precision = precision

    def list_scopes(self) -> tuple[str, ...]:
        """List the parts of the U-Net, `text`, the text encoder's layers, and `joint`, the U-Net and all of the encoder."""
        from sa_bench.models.scopes import SCOPES

        return (*SCOPES, "text", "joint")

    def list_fisher_scopes(self) -> tuple[str, ...]:
        """List the parts of the U-Net: F is taken of it alone."""
        from sa_bench.models.scopes import SCOPES

        return SCOPES

    def data_key_inputs(self, recipe: str) -> dict[str, Any]:
        """Return the version of the captions, and the sizes of the networks and canvases."""
        from sa_bench.data import captions

        return {"captions": captions.VERSION, "sizes": key_values(recipes.SIZES[recipe])}

    def train(
        self,
        model: Any,
        images: np.ndarray,
        labels: np.ndarray,
        recipe: Recipe,
        name: str,
        seed: int,
        folder: Path,
        progress: Progress | None,
        bf16: bool,
    ) -> list[TrainingRecord]:
        """Train autoencoder, text encoder and U-Net on captioned canvases."""
        from sa_bench.models import text_to_image_training

        return text_to_image_training.train(
            model, images, labels, recipe, seed, folder, progress, bf16
        )

    def data_without_concept(
        self, model: Any, train: SampleSet, recipe: Recipe, seed: int, absent: Sequence[int]
    ) -> Source:
        """Return the base model's captioned canvases, without those that show a digit of `absent`."""
        import numpy as np

        from sa_bench.data import captions
        from sa_bench.models import text_to_image_training

        n, rng = recipes.SIZES[model.base].canvases, np.random.default_rng(seed)
        canvases, texts, digits = captions.draw_captioned(train.images, train.labels, n, rng)
        rows = np.flatnonzero(~np.isin(digits, absent).any(1))
        return text_to_image_training.encoded(
            model, canvases[rows], [texts[i] for i in rows], recipe.drop
        )

    def make_noise(self, model: Generator, task: Task) -> Source:
        """Make the surrogate `noise` of q(x|c_f): N(0, I) in latents, which have no bounds."""
        from sa_bench.training.sources import NormalNoise

        return NormalNoise(model, task.prompts_for(task.concept, "forget"))

    def hash_forgotten(self, file: Path, base: str) -> str:
        """Hash base and file, which holds what differs from the base; the base's if nothing does."""
        from safetensors.torch import load_file

        from sa_bench.core.store import digest, file_digest

        return digest([base, file_digest(file)]) if load_file(file) else base


FAMILY = TextToImageFamily()
