"""Stable Diffusion from files, whatever their layout, and a forgotten checkpoint put onto a base model."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import torch
from safetensors.torch import load_file
from torch import Tensor

from sa_bench.core.errors import SaBenchError
from sa_bench.core.file_state import cached_digest
from sa_bench.models.checkpoints import diffusers_folder, lora, single_file
from sa_bench.models.checkpoints.diffusers_folder import (
    NOISE,
    STEMS,
    cached,
    require_all,
    require_matching,
)
from sa_bench.models.checkpoints.layouts import (
    Found,
    Weights,
    layout,
    locate,
    read_all,
    read_json,
    read_tensors,
    weight_files,
)
from sa_bench.models.micro_pipeline import quietly
from sa_bench.models.scopes import SCOPES, within

if TYPE_CHECKING:
    from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import (
        StableDiffusionPipeline,
    )


__all__ = [
    "apply",
    "content",
    "layout",
    "load_pipeline",
    "read_tensors",
    "remarks",
    "restore",
    "unfit",
]


class Model(Protocol):
    """A text-to-image Generator, as far as its files go."""

    vae: Any
    net: Any  # the U-Net
    alphas: Tensor  # (T,) ᾱ
    betas: dict[str, Any]  # its scheduler's configuration
    origin: Callable[[], Mapping[str, Tensor]] | None

    def state(self) -> dict[str, Tensor]:
        """Every tensor by name."""
        ...

    def forget_texts(self) -> None:
        """Drop what was kept of the text encoder's answers."""
        ...


M = TypeVar("M", bound=Model)
PARTIAL = {
    "unet": "a U-Net",
    "lora": "a LoRA",
    "delta": "the tensors that differ from a base model",
}


def load_pipeline(source: str) -> StableDiffusionPipeline:
    """The whole model in `source`, on the CPU in float32, without a safety checker; no network is used.

    Of a single file with averaged weights the others are taken, as the official sd/ starts from them.

    Args:
        source: a diffusers folder, one file in the original's names, or the id of a model in the hub's local cache.

    Raises:
        SaBenchError: another layout, another kind of pipeline, or a tensor too many, too few or of another shape.
        MissingAsset: the hub's model is not in the local cache, or a single file's tokenizer is nowhere.
    """
    found = locate(source)
    if found.layout in PARTIAL:
        raise SaBenchError(
            f"{source} is {PARTIAL[found.layout]}, no whole model: the method checkpoint puts it onto a base model "
            "(--set checkpoint.path=...)."
        )
    with quietly():
        if found.layout == "single":
            return single_file.pipeline(found.path)
        return diffusers_folder.pipeline(cached(source) if found.layout == "hub" else found.path)


def content(source: str) -> str:
    """sha256, 64 hex digits, of what a model is: its weights, tokenizer and configurations, wherever they lie.

    Each file is read once as long as it does not change. Other files in the folder do not count.

    Raises:
        SaBenchError: no checkpoint.
        MissingAsset: the hub's model is not in the local cache.
    """
    found = locate(source)
    if found.layout in ("hub", "pipeline"):
        folder = cached(source) if found.layout == "hub" else found.path
        files = [file for part in diffusers_folder.weights(folder).values() for file in part]
        files += [folder / part / "config.json" for part in STEMS]
        files += [f for f in (folder / "tokenizer").iterdir() if f.suffix in (".json", ".txt")]
        files += [folder / "scheduler" / "scheduler_config.json"]
        return _sha256(sorted((f"{f.parent.name}/{f.name}", _meaning(f)) for f in files))
    if found.path.is_dir():
        files = [*weight_files(found.path, *STEMS["unet"]), found.path / "config.json"]
        return _sha256(sorted((f.name, _meaning(f)) for f in files))
    beside = found.path.with_suffix(".yaml"), found.path.parent / "adapter_config.json"
    further = [cached_digest(f) for f in beside if f.is_file()]
    return _sha256([cached_digest(found.path), *further]) if further else cached_digest(found.path)


def _sha256(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _meaning(file: Path) -> str:
    """A file's digest; of a configuration that of its values, without the paths and versions that libraries leave in it."""
    if not file.name.endswith("config.json"):
        return cached_digest(file)
    left = ("name_or_path", "transformers_version")
    return _sha256(
        {k: v for k, v in read_json(file).items() if k not in left and not k.startswith("_")}
    )


def unfit(source: str, strength: float = 1.0, weights: Weights = "auto") -> str:
    """Why a checkpoint cannot be put onto a model with these settings, from names alone; "" where it may.

    Raises:
        SaBenchError: it is none, or an adapter that is more than a LoRA.
    """
    found = locate(source, weights)
    if found.layout == "lora":
        lora.require_plain(found.path)
    elif strength != 1:
        return f"checkpoint.strength={strength:g} is a LoRA's, and {source} is none"
    return ""


def remarks(source: str, strength: float = 1.0, weights: Weights = "auto") -> list[str]:
    """What a reader of numbers should know of the weights that `apply` takes from `source`, one line each.

    Raises:
        SaBenchError: as `locate`.
    """
    found, lines = locate(source, weights), []
    if found.both:
        kind, other = ("averaged", "raw") if found.averaged else ("raw", "ema")
        what = "the averaged" if found.averaged else "those that are not averaged"
        lines.append(
            f"weights: {kind}; {Path(source).name} holds {found.both}, of which {what} were taken "
            f"(checkpoint.weights={other} takes the others)"
        )
    elif found.averaged:
        lines.append(f"weights: averaged, the only ones in {Path(source).name}")
    if found.layout == "lora":
        if lora.ranks(found.path) == {1}:
            lines.append(
                "taken as a LoRA that is always on: its rank is 1, as an SPM's, whose gate would lie outside the file"
            )
        if strength != 1:
            lines.append(f"LoRA at strength {strength:g}")
    return lines


def apply(model: M, source: str, strength: float = 1.0, weights: Weights = "auto") -> tuple[M, int]:
    """Put a forgotten checkpoint of any layout onto `model`, in place; `model.origin` stays θ*.

    Every tensor given must be one of the model's, by name and shape. Nothing of the U-Net may be missing, except from a
    LoRA, a delta, or a file that holds one scope exactly, as ESD's and UCE's do. A tensor that equals the model's at
    the file's own precision counts as unchanged and is left as it was. Of a single file with averaged weights
    (`model_ema.`) these are taken, as the official sd/ samples with them, unless `weights` says `raw`.

    Args:
        model: what it is put onto, a copy of θ*.
        source: as `layout` knows it.
        strength: what a LoRA is multiplied with; 1 is in full.
        weights: which of weights that are kept twice, as in `locate`.

    Returns:
        The model, and how many of its tensors changed; 0: the checkpoint is the base model.

    Raises:
        SaBenchError: a tensor is unknown, missing, of another shape or not finite, or the two models were trained to
            predict different things; names the file, and the model is as it was.
        MissingAsset: the hub's model is not in the local cache.
    """
    if reason := unfit(source, strength, weights):
        raise SaBenchError(f"{reason}.")
    found, mine = locate(source, weights), model.state()
    with quietly():
        given = _given(model, source, found, weights, mine, strength)
    require_matching(given, mine, source)
    if found.layout not in ("lora", "delta"):
        _require_whole(model, given, mine, source)
    changed = {name: value for name, value in given.items() if not _equal(value, mine[name])}
    if any(name.startswith("vae.") for name in changed):
        model.vae = copy.deepcopy(model.vae)  # clones share it, θ* among them
        mine = model.state()
    for name, value in changed.items():
        mine[name].copy_(value)
    if "vae.scaling_factor" in changed:
        model.vae.register_to_config(scaling_factor=float(changed["vae.scaling_factor"]))
    model.forget_texts()
    return model, len(changed)


def restore(model: Model, path: Path) -> None:
    """Read the whole model that `save` wrote, `model.safetensors` in a folder or one file, into a new `model`.

    Raises:
        SaBenchError: a tensor is unknown, missing, of another shape or not finite; names the file.
    """
    path = path / "model.safetensors" if path.is_dir() else path
    mine = model.state()
    try:
        given = load_file(path)
        require_matching(given, mine, "here")
        require_all(mine, given, "here")
    except Exception as error:
        reason = str(error).splitlines()[-1].strip().removeprefix("here: ")
        raise SaBenchError(
            f"{path} is not a text-to-image model of this shape: {reason}"
        ) from error
    for name, value in given.items():
        mine[name].copy_(value)
    model.vae.register_to_config(scaling_factor=float(given["vae.scaling_factor"]))
    model.origin = lambda: load_file(path)
    model.forget_texts()


def _given(
    model: Model,
    source: str,
    found: Found,
    weights: Weights,
    mine: Mapping[str, Tensor],
    strength: float,
) -> Mapping[str, Tensor]:
    """The checkpoint's tensors by the model's names."""
    kind, path = found.layout, found.path
    if kind == "lora":
        return lora.merged(path, mine, strength)
    if kind == "single":
        held = read_tensors(path, weights)
        single_file.check_noise(held, model.alphas, path)
        return single_file.parts(
            held, path, int(model.net.config["layers_per_block"]), averages=weights != "raw"
        )
    if kind == "unet":
        return _of_unet([path] if path.is_file() else weight_files(path, *STEMS["unet"]), weights)
    if kind == "delta":
        return read_tensors(path, weights)
    folder = cached(source) if kind == "hub" else path
    tensors, theirs = diffusers_folder.parts(folder), diffusers_folder.scheduler(folder).config
    if differs := [k for k in NOISE if theirs.get(k) != model.betas.get(k)]:
        k = differs[0]
        raise SaBenchError(
            f"{source} has {k} {theirs.get(k)}, the base model {model.betas.get(k)}: not its base."
        )
    if found.unet is None:
        return tensors
    others = {name: value for name, value in tensors.items() if not name.startswith("unet.")}
    return others | _of_unet(weight_files(found.unet, *STEMS["unet"]), weights)


def _of_unet(files: Sequence[Path], weights: Weights = "auto") -> dict[str, Tensor]:
    return {f"unet.{name}": value for name, value in read_all(files, weights).items()}


def _equal(given: Tensor, mine: Tensor) -> bool:
    return torch.equal(given, mine.to(given.dtype).to(given.device))


def _require_whole(
    model: Model, given: Mapping[str, Tensor], mine: Mapping[str, Tensor], source: str
) -> None:
    """Each part that is given is given in full, the U-Net always; of a U-Net a whole scope will do."""
    for part in STEMS:
        held = {name for name in given if name.startswith(f"{part}.")}
        if part == "unet" and {name.removeprefix("unet.") for name in held} in _scopes(model):
            continue
        if held or part == "unet":
            wanted = {name for name in mine if name.startswith(f"{part}.")} - {"vae.scaling_factor"}
            require_all(wanted, held, source)


def _scopes(model: Model) -> list[set[str]]:
    """The scopes' names, and ESD's `esd-all`: every Linear and Conv2d layer."""
    found = {scope: set(within(model.net, scope)) for scope in SCOPES}
    return [*found.values(), found["esd-u"] | found["xattn"]]
