"""Provide base models θ*: shipped if the task names one that ships, else trained and stored."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sa_bench.contracts import SMOKE_MODEL, Progress, Task, key_values
from sa_bench.core.errors import SaBenchError, name_missing_extra, require_library
from sa_bench.core.store import Artifact, Store, file_digest
from sa_bench.data import datasets
from sa_bench.data.assets import catalogue
from sa_bench.data.assets.shipped import WEIGHTS, verify_shipped
from sa_bench.models import schedule
from sa_bench.models.family import get_family
from sa_bench.models.recipes import PARAMETERS
from sa_bench.training.precision import uses_bf16

if TYPE_CHECKING:
    from sa_bench.models.text_to_image import TextToImage


SMOKE_VERSION = 1
VERSION = 1  # raised whenever the trained base models change


@dataclass(frozen=True)
class Base:
    """A base model's weight file and its hash."""

    file: Path
    content: str  # sha256 of the file
    shipped: bool
    precision: str  # of its training: `fp32`, `bf16`, or `unknown` for a pretrained model
    trainings: tuple[dict[str, Any], ...] = ()  # records of it, of a base that was trained here


def find_pretrained(source: str, store: Store) -> Base:
    """Find a pretrained text-to-image model and hash its content.

    Args:
        source: a folder, a weight file, a hub id, or `smoke` for a random model.
        store: where the random model is stored.

    Raises:
        SaBenchError: it is none of these.
        MissingAsset: it is not on this machine.
    """
    if source != SMOKE_MODEL and not Path(source).exists():
        catalogue.need(catalogue.get_model(source))  # before anything heavy is imported
    with name_missing_extra("text-to-image", "transformers"):
        require_library("transformers")
        from sa_bench.models.checkpoints import load

    if source == SMOKE_MODEL:

        def build(folder: Path) -> None:
            from sa_bench.models import micro_pipeline

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
    with name_missing_extra("text-to-image", "transformers"):
        from sa_bench.models.checkpoints import diffusers_folder

    config = diffusers_folder.scheduler(folder).config
    return config.get("timestep_spacing", "leading"), config.get("steps_offset", 0)


def open_pretrained(base: Base, task: Task) -> TextToImage:
    """Open the pretrained model of a task, where `find_pretrained` found it.

    Raises:
        SaBenchError: it makes images of another size than the task's.
    """
    from sa_bench.models.checkpoints.diffusers_folder import parts
    from sa_bench.models.checkpoints.load import load_pipeline

    source = str(base.file)
    family = get_family(task.family)
    generator: Any = family.load_generator()
    read = partial(parts, base.file) if base.file.is_dir() else None
    model = generator.of(lambda: load_pipeline(source), source, task.classes, read)
    if (side := model.shape[1] * model.reduction) != task.size:
        raise SaBenchError(
            f"{source} makes images of {side} pixels per side, not {task.size}: --set task.size={side}."
        )
    family.set_precision(model, task.sampler.precision)
    return model


def find_shipped(family: str, dataset: str, recipe: str, seed: int) -> Base | None:
    """Find the shipped base model and check it against the hash on its card; None if none ships."""
    file = WEIGHTS / f"base-{family}-{dataset}-{recipe}-{seed}.safetensors"
    if not file.is_file():
        return None
    card = json.loads(file.with_suffix(".json").read_text())
    return Base(file, verify_shipped(file), True, "bf16" if card["bf16"] else "fp32")


def new_model(
    family: str, dataset: str, name: str, seed: int = 0, words: Sequence[str] = datasets.DIGITS
) -> Any:
    """Initialise a model of the recipe `name` for the images of `dataset`.

    `words` name its classes.

    Raises:
        SaBenchError: the family has no such recipe.
    """
    get_family(family).get_recipe(name)
    return get_family(family).new_model(dataset, name, seed, words)


def count_parameters(task: Task) -> int:
    """Count the parameters of the network that a task's base recipe trains; a usual one is not built."""
    known = PARAMETERS.get((task.family, task.dataset, task.base))
    if known is not None:
        return known
    model = new_model(task.family, task.dataset, task.base, words=task.classes)
    return sum(p.numel() for p in model.net.parameters())


def base_key_inputs(
    family: str, dataset: str, data_hash: str, name: str, seed: int, bf16: bool
) -> dict[str, object]:
    """Return what keys the artifact of a trained base model."""
    return {
        "version": VERSION,
        "family": family,
        "dataset": dataset,
        "data": data_hash,
        "recipe": key_values(get_family(family).get_recipe(name)),
        "seed": seed,
        "bf16": bf16,
        **get_family(family).data_key_inputs(name),
    }


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
        return train_into(
            folder, family, dataset, (images, labels), name, seed, progress, device, bf16
        )

    inputs = base_key_inputs(family, dataset, data_hash, name, seed, bf16)
    return trained_base(store.make("base", inputs, build), bf16)


def train_into(
    folder: Path,
    family: str,
    dataset: str,
    data: tuple[np.ndarray, np.ndarray],  # images uint8 (N, H, W, C), labels (N,)
    name: str,
    seed: int,
    progress: Progress | None,
    device: str,
    bf16: bool,
) -> dict[str, object]:
    """Train a base model into a folder, and return what is recorded of it."""
    model = new_model(family, dataset, name, seed).to(device)
    recipe = get_family(family).get_recipe(name)
    records = get_family(family).train(model, *data, recipe, name, seed, folder, progress, bf16)
    model.save(folder)
    return {"trainings": [record.plain() for record in records]}


def trained_base(artifact: Artifact, bf16: bool) -> Base:
    """Describe the base model that an artifact of training holds."""
    file = artifact.path / "model.safetensors"
    trainings = tuple(artifact.meta.get("trainings", ()))
    return Base(file, file_digest(file), False, "bf16" if bf16 else "fp32", trainings)
