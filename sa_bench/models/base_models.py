"""Base models θ*: shipped where the task names one that ships, trained (and kept) otherwise."""

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
VERSION = 1  # raised when base training changes what it computes


def get_family(family: str) -> type[VAE] | type[DDPM] | type[TextToImage]:
    """The family's class, imported when it is asked for: diffusers alone takes seconds."""
    module, name = FAMILIES[family]
    with name_missing_extra("text-to-image"):
        return getattr(importlib.import_module(module), name)


@dataclass(frozen=True)
class Base:
    """A base model's weight file and its hash."""

    file: Path
    content: str  # sha256 of the file
    shipped: bool
    precision: str  # it was trained in: `fp32`, `bf16`, or `unknown` of a stranger's


def find_pretrained(source: str, store: Store) -> Base:
    """A pretrained text-to-image model by its content: a folder, a weight file, a hub id, or `smoke`, a random one.

    Raises:
        SaBenchError: it is no such thing.
        MissingAsset: it is not here.
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
    """Pixels a side of the images of a pretrained model, from its folder's configurations; 0: they do not tell.

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
    """How a pretrained model spaces a sampler's timesteps, and their offset: its folder's own, else Stable Diffusion's.

    Raises:
        SaBenchError: its folder's scheduler is none that is supported.
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
    """The pretrained model of a task, read from where `pretrained` found it.

    Raises:
        SaBenchError: it makes images of another size than the task's.
    """
    from sa_bench.models.checkpoints.load import load_pipeline

    source = str(base.file)
    family: Any = get_family("text_to_image")
    made = family.of(lambda: load_pipeline(source), source, task.classes)
    if (own := made.shape[1] * made.reduction) != task.size:
        raise SaBenchError(
            f"{source} makes images of {own} pixels a side, not {task.size}: --set task.size={own}."
        )
    made.precision = task.sampler.precision
    return made


def find_shipped(family: str, dataset: str, recipe: str, seed: int) -> Base | None:
    """The shipped base of that name, checked against the hash on its card; None if none ships."""
    file = WEIGHTS / f"base-{family}-{dataset}-{recipe}-{seed}.safetensors"
    if not file.is_file():
        return None
    card = json.loads(file.with_suffix(".json").read_text())
    return Base(file, verify_shipped(file), True, "bf16" if card["bf16"] else "fp32")


def get_recipe(family: str, name: str) -> Recipe:
    """A base recipe by name.

    Raises:
        SaBenchError: unknown name.
    """
    recipes = get_family(family).recipes
    if name not in recipes:
        raise unknown_name(f"{family} base recipe", name, recipes)
    return recipes[name]


def new_model(
    family: str, dataset: str, name: str, seed: int = 0, words: Sequence[str] = datasets.DIGITS
) -> VAE | DDPM | TextToImage:
    """A newly initialised model of the recipe `name`, for the images of `dataset`; `words` name its classes."""
    get_recipe(family, name)
    if family == "vae":
        return get_family("vae")(seed=seed)
    if family == "text_to_image":
        return get_family(family)(name, words, seed)  # type: ignore[arg-type, return-value]
    return get_family("ddpm")(name, datasets.SHAPES[dataset], seed=seed)  # type: ignore[arg-type, call-arg]


def base_key_inputs(
    family: str, dataset: str, data_hash: str, name: str, seed: int, bf16: bool
) -> dict[str, object]:
    """What names the artifact of a trained base."""
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
    """What training on captions depends on besides the images; nothing for other families."""
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
    """The base trained from scratch with recipe `name`; resumable, kept in the store under the precision used."""
    images, labels, data_hash = data
    bf16 = uses_bf16(precision, device)

    def build(folder: Path) -> dict[str, object]:
        model = new_model(family, dataset, name, seed).to(device)
        rng = torch.Generator().manual_seed(seed)
        rec = get_recipe(family, name)
        if family == "text_to_image":
            from sa_bench.models import text_to_image_training

            text_to_image_training.train(model, images, labels, rec, seed, folder, progress, bf16)  # type: ignore[arg-type]
            model.save(folder)
            return {}
        source = Images(model, images, labels, rec.flip, rec.drop)

        def loss() -> torch.Tensor:
            x, c = source.batch(rec.batch, rng)
            return rec.reduce(model.loss(x, c, model.draw(len(x), rng)))

        model.net.train()
        fit(
            model.parameters(),
            loss,
            rec,
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
    """The base's own canvases with captions as a source of batches, those that show `concept` left out."""
    from sa_bench.data import captions
    from sa_bench.models import micro_pipeline, text_to_image_training

    n, rng = micro_pipeline.SIZES[model.base].canvases, np.random.default_rng(seed)
    canvases, texts, shown = captions.draw_captioned(train.images, train.labels, n, rng)
    kept = np.flatnonzero(~(shown == concept).any(1))
    return text_to_image_training.encoded(model, canvases[kept], [texts[i] for i in kept], rec.drop)
