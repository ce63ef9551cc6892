"""Provide base models θ*: shipped if the task names one that ships, else trained and stored."""

from __future__ import annotations

import importlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from sa_bench.contracts import SMOKE_MODEL, Progress, Recipe, SampleSet, Source, Task, key_values
from sa_bench.core.errors import SaBenchError, name_missing_extra, unknown_name
from sa_bench.core.store import PARTS, Store, file_digest
from sa_bench.data import datasets
from sa_bench.data.assets import catalogue
from sa_bench.data.assets.shipped import WEIGHTS, verify_shipped
from sa_bench.models import schedule
from sa_bench.training.loop import fit, uses_bf16
from sa_bench.training.sources import Images

if TYPE_CHECKING:
    from sa_bench.models.ddpm import DDPM
    from sa_bench.models.text_to_image import TextToImage
    from sa_bench.models.vae import VAE


FAMILIES = {
    "vae": ("sa_bench.models.vae", "VAE"),
    "ddpm": ("sa_bench.models.ddpm", "DDPM"),
    "text_to_image": ("sa_bench.models.text_to_image", "TextToImage"),
}
SMOKE_VERSION = 1
VERSION = 1  # raised whenever the trained base models change


def get_family(family: str) -> type[VAE] | type[DDPM] | type[TextToImage]:
    """Return the family's class, imported on demand: diffusers alone takes seconds."""
    module, name = FAMILIES[family]
    with name_missing_extra("text-to-image"):
        return getattr(importlib.import_module(module), name)


@dataclass(frozen=True)
class Base:
    """A base model's weight file and its hash."""

    file: Path
    content: str  # sha256 of the file
    shipped: bool
    precision: str  # of its training: `fp32`, `bf16`, or `unknown` for a pretrained model


def find_pretrained(source: str, store: Store) -> Base:
    """Find a pretrained text-to-image model and hash its content.

    Args:
        source: a folder, a weight file, a hub id, or `smoke` for a random model.
        store: where the random model is stored.

    Raises:
        SaBenchError: it is none of these.
        MissingAsset: it is not on this machine.
    """
    with name_missing_extra("text-to-image"):
        from sa_bench.models import micro_pipeline
        from sa_bench.models.checkpoints import load

    if source == SMOKE_MODEL:

        def build(folder: Path) -> None:
            micro_pipeline.smoke(folder)

        source = str(store.make("base", {"smoke": SMOKE_VERSION}, build).path)
    return Base(Path(source), load.content(source), False, "unknown")


def image_side(source: str) -> int:
    """Read the side of a pretrained model's images, in pixels, from its folder's configurations.

    Returns:
        The side; 0 if the configurations do not tell.

    Raises:
        SaBenchError: a configuration is damaged.
    """
    if source == SMOKE_MODEL:
        return 64
    folder = (
        catalogue.find(catalogue.get_model(source)) if not Path(source).exists() else Path(source)
    )
    files = (
        [folder / part / "config.json" for part in ("unet", "vae")] if folder is not None else []
    )
    if not files or not all(file.is_file() for file in files):
        return 0
    from sa_bench.models.checkpoints.layouts import read_json

    latents, widths = (
        read_json(files[0]).get("sample_size"),
        read_json(files[1]).get("block_out_channels"),
    )
    if not isinstance(latents, int) or not isinstance(widths, list) or not widths:
        return 0
    return latents * 2 ** (len(widths) - 1)


def timestep_spacing(source: str) -> tuple[str, int]:
    """Read how a pretrained model spaces a sampler's timesteps, and their offset.

    Without a scheduler's configuration in its folder Stable Diffusion's are returned.

    Raises:
        SaBenchError: its folder's scheduler is not supported.
    """
    folder = None if source == SMOKE_MODEL else Path(source)
    if folder is not None and not folder.exists():
        folder = catalogue.find(catalogue.get_model(source))
    if folder is None or not (folder / "scheduler" / "scheduler_config.json").is_file():
        return schedule.LEADING
    with name_missing_extra("text-to-image"):
        from sa_bench.models.checkpoints import diffusers_folder

    config = diffusers_folder.scheduler(folder).config
    return config.get("timestep_spacing", "leading"), config.get("steps_offset", 0)


def open_pretrained(base: Base, task: Task) -> TextToImage:
    """Open the pretrained model of a task, where `find_pretrained` found it.

    Raises:
        SaBenchError: it makes images of another size than the task's.
    """
    from sa_bench.models.checkpoints.load import load_pipeline

    source = str(base.file)
    family: Any = get_family("text_to_image")
    model = family.of(lambda: load_pipeline(source), source, task.classes)
    if (side := model.shape[1] * model.reduction) != task.size:
        raise SaBenchError(
            f"{source} makes images of {side} pixels per side, not {task.size}: --set task.size={side}."
        )
    model.precision = task.sampler.precision
    return model


def find_shipped(family: str, dataset: str, recipe: str, seed: int) -> Base | None:
    """Find the shipped base model and check it against the hash on its card; None if none ships."""
    file = WEIGHTS / f"base-{family}-{dataset}-{recipe}-{seed}.safetensors"
    if not file.is_file():
        return None
    card = json.loads(file.with_suffix(".json").read_text())
    return Base(file, verify_shipped(file), True, "bf16" if card["bf16"] else "fp32")


def get_recipe(family: str, name: str) -> Recipe:
    """Return a base model's recipe by name.

    Raises:
        SaBenchError: the name is unknown.
    """
    recipes = get_family(family).recipes
    if name not in recipes:
        raise unknown_name(f"{family} base recipe", name, recipes)
    return recipes[name]


def new_model(
    family: str, dataset: str, name: str, seed: int = 0, words: Sequence[str] = datasets.DIGITS
) -> VAE | DDPM | TextToImage:
    """Initialise a model of the recipe `name` for the images of `dataset`.

    `words` name its classes.
    """
    get_recipe(family, name)
    if family == "vae":
        return get_family("vae")(seed=seed)
    if family == "text_to_image":
        return get_family(family)(name, words, seed)  # type: ignore[arg-type, return-value]
    return get_family("ddpm")(name, datasets.SHAPES[dataset], seed=seed)  # type: ignore[arg-type, call-arg]


def base_key_inputs(
    family: str, dataset: str, data_hash: str, name: str, seed: int, bf16: bool
) -> dict[str, object]:
    """Return what keys the artifact of a trained base model."""
    return {
        "version": VERSION,
        "family": family,
        "dataset": dataset,
        "data": data_hash,
        "recipe": key_values(get_recipe(family, name)),
        "seed": seed,
        "bf16": bf16,
        **captions_key_inputs(family, name),
    }


def captions_key_inputs(family: str, name: str) -> dict[str, Any]:
    """Return what training on captions depends on besides the images; {} for other families."""
    if family != "text_to_image":
        return {}
    from sa_bench.data import captions
    from sa_bench.models.micro_pipeline import SIZES

    return {"captions": captions.VERSION, "sizes": key_values(SIZES[name])}


def train_base(
    store: Store,
    family: str,
    dataset: str,
    data: tuple[np.ndarray, np.ndarray, str],  # images uint8 (N, H, W, C), labels (N,), hash
    name: str,
    seed: int,
    progress: Progress | None = None,
    device: str = "cpu",
    precision: str = "auto",
) -> Base:
    """Train a base model from scratch with the recipe `name`.

    Training can be resumed; the model is stored under the precision that was used.
    """
    images, labels, data_hash = data
    bf16 = uses_bf16(precision, device)

    def build(folder: Path) -> dict[str, object]:
        model = new_model(family, dataset, name, seed).to(device)
        rng = torch.Generator().manual_seed(seed)
        training_recipe = get_recipe(family, name)
        if family == "text_to_image":
            from sa_bench.models import text_to_image_training

            micro: Any = model
            text_to_image_training.train(
                micro, images, labels, training_recipe, seed, folder, progress, bf16
            )
            model.save(folder)
            return {}
        source = Images(model, images, labels, training_recipe.flip, training_recipe.drop)

        def loss() -> torch.Tensor:
            x, c = source.batch(training_recipe.batch, rng)
            return training_recipe.reduce(model.loss(x, c, model.draw(len(x), rng)))

        model.net.train()
        fit(
            model.parameters(),
            loss,
            training_recipe,
            rng=rng,
            bf16=bf16,
            progress=progress,
            average=model.averages(),
            checkpoint=folder / PARTS / "checkpoint.safetensors",
            stage=f"base {name}/{seed}",
        )
        model.save(folder)
        return {}

    artifact = store.make(
        "base", base_key_inputs(family, dataset, data_hash, name, seed, bf16), build
    )
    file = artifact.path / "model.safetensors"
    return Base(file, file_digest(file), False, "bf16" if bf16 else "fp32")


def captioned_source(model: Any, train: SampleSet, rec: Recipe, seed: int, concept: int) -> Source:
    """Return the base model's own captioned canvases as a source of batches, without `concept`.

    Canvases that show the digit `concept` are left out.
    """
    from sa_bench.data import captions
    from sa_bench.models import micro_pipeline, text_to_image_training

    n, rng = micro_pipeline.SIZES[model.base].canvases, np.random.default_rng(seed)
    canvases, caption_texts, digits = captions.draw_captioned(train.images, train.labels, n, rng)
    rows = np.flatnonzero(~(digits == concept).any(1))
    return text_to_image_training.encoded(
        model, canvases[rows], [caption_texts[i] for i in rows], rec.drop
    )
