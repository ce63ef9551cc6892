"""Load Stable Diffusion from files of any layout, and put checkpoints onto a base model."""

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

from sa_bench.core.errors import SaBenchError, last_line
from sa_bench.core.file_state import cached_digest
from sa_bench.models.checkpoints import diffusers_folder, layouts, lora, single_file
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
    read_state,
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
    """What a text-to-image Generator must have so that its tensors can be read and replaced."""

    vae: Any
    net: Any  # the U-Net
    alphas: Tensor  # (T,) ᾱ
    betas: dict[str, Any]  # the scheduler's configuration
    origin: Callable[[], Mapping[str, Tensor]] | None

    def state(self) -> dict[str, Tensor]:
        """Return every tensor by name."""
        ...

    def forget_texts(self) -> None:
        """Drop the cached outputs of the text encoder."""
        ...


M = TypeVar("M", bound=Model)
PARTIAL = {
    "unet": "a U-Net",
    "lora": "a LoRA",
    "delta": "the tensors that differ from a base model",
}


def load_pipeline(source: str) -> StableDiffusionPipeline:
    """Load the complete model in `source` on the CPU in float32, without a safety checker.

    No network is used. If a single file holds averaged weights too, the other ones are taken, as
    the official sd/ starts from them.

    Args:
        source: a diffusers folder, one file in the original's names, or the id of a model in the
            hub's local cache.

    Raises:
        SaBenchError: another layout, another kind of pipeline, or a tensor that is missing, unknown
            or of another shape.
        MissingAsset: the hub's model is not in the local cache, or no tokenizer fits a single file.
    """
    checkpoint = locate(source)
    if checkpoint.layout in PARTIAL:
        raise SaBenchError(
            f"{source} is {PARTIAL[checkpoint.layout]}, not a complete model: put it onto a base model with the method "
            "checkpoint (--set checkpoint.path=...)."
        )
    with quietly():
        if checkpoint.layout == "single":
            return single_file.pipeline(checkpoint.path)
        return diffusers_folder.pipeline(
            cached(source) if checkpoint.layout == "hub" else checkpoint.path
        )


def content(source: str) -> str:
    """Hash what defines a model: its weights, tokenizer and configurations, wherever they lie.

    A file is read again only after it changed. Other files in the folder do not count.

    Returns:
        sha256 as 64 hex digits.

    Raises:
        SaBenchError: `source` is not a checkpoint.
        MissingAsset: the hub's model is not in the local cache.
    """
    checkpoint = locate(source)
    if checkpoint.layout in ("hub", "pipeline"):
        folder = cached(source) if checkpoint.layout == "hub" else checkpoint.path
        files = [
            file for part_files in diffusers_folder.weights(folder).values() for file in part_files
        ]
        files += [folder / part_files / "config.json" for part_files in STEMS]
        files += [
            file for file in (folder / "tokenizer").iterdir() if file.suffix in (".json", ".txt")
        ]
        files += [folder / "scheduler" / "scheduler_config.json"]
        return _hash_json(
            sorted((f"{file.parent.name}/{file.name}", _hash_meaning(file)) for file in files)
        )
    if checkpoint.path.is_dir():
        files = [*weight_files(checkpoint.path, *STEMS["unet"]), checkpoint.path / "config.json"]
        return _hash_json(sorted((file.name, _hash_meaning(file)) for file in files))
    companion_digests = [cached_digest(file) for file in layouts.list_companions(checkpoint.path)]
    return (
        _hash_json([cached_digest(checkpoint.path), *companion_digests])
        if companion_digests
        else cached_digest(checkpoint.path)
    )


def _hash_json(value: Any) -> str:
    """Hash a JSON value with sha256."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _hash_meaning(file: Path) -> str:
    """Hash a file by what it means.

    Returns:
        The file's digest; for a configuration the digest of its values, without the paths and
            versions that libraries write into it.
    """
    if not file.name.endswith("config.json"):
        return cached_digest(file)
    ignored = ("name_or_path", "transformers_version")
    return _hash_json(
        {
            key: value
            for key, value in read_json(file).items()
            if key not in ignored and not key.startswith("_")
        }
    )


def unfit(source: str, strength: float = 1.0, weights: Weights = "auto") -> str:
    """Explain, from names alone, why a checkpoint cannot be put onto a model with these settings.

    Returns:
        The reason; "" if it can.

    Raises:
        SaBenchError: `source` is not a checkpoint, or is an adapter that is more than a LoRA.
    """
    return _explain_unfit(locate(source, weights), source, strength)


def _explain_unfit(checkpoint: Found, source: str, strength: float) -> str:
    """Explain why a checkpoint that was located cannot be put onto a model, as `unfit` does."""
    if checkpoint.layout == "lora":
        lora.require_plain(checkpoint.path)
    elif strength != 1:
        return f"checkpoint.strength={strength:g} applies to a LoRA only, and {source} is not one"
    return ""


def remarks(source: str, strength: float = 1.0, weights: Weights = "auto") -> list[str]:
    """List what a reader of numbers should know about the weights that `apply` takes from `source`.

    Returns:
        One line per remark.

    Raises:
        SaBenchError: for the reasons that `locate` gives.
    """
    checkpoint, lines = locate(source, weights), []
    if checkpoint.both:
        taken, other_weights = ("averaged", "raw") if checkpoint.averaged else ("raw", "ema")
        description = "the averaged" if checkpoint.averaged else "those that are not averaged"
        lines.append(
            f"weights: {taken}; {Path(source).name} holds {checkpoint.both}, of which {description} were taken "
            f"(checkpoint.weights={other_weights} takes the others)"
        )
    elif checkpoint.averaged:
        lines.append(f"weights: averaged, the only ones in {Path(source).name}")
    if checkpoint.layout == "lora":
        if lora.ranks(checkpoint.path) == {1}:
            lines.append(
                "taken as a LoRA that is always on: its rank is 1, as an SPM's, whose gate would lie outside the file"
            )
        if strength != 1:
            lines.append(f"LoRA at strength {strength:g}")
    return lines


def apply(model: M, source: str, strength: float = 1.0, weights: Weights = "auto") -> tuple[M, int]:
    """Put a forgotten checkpoint of any layout onto `model`, in place; `model.origin` stays θ*.

    Every tensor of the checkpoint must be one of the model's, by name and shape. The U-Net must be
    complete, except in a LoRA, a delta, or a file that holds exactly one scope, as ESD's and UCE's
    do. A tensor that equals the model's at the file's own precision counts as unchanged and is left
    as it was. If a single file holds averaged weights (`model_ema.`), they are taken, as the
    official sd/ samples with them, unless `weights` is `raw`.

    Args:
        model: a copy of θ*, which is changed.
        source: any checkpoint that `layout` recognises.
        strength: factor on a LoRA's change; 1 applies it in full.
        weights: which weights to take if a network is stored twice, as in `locate`.

    Returns:
        The model and the number of its tensors that changed; 0 means that the checkpoint is the
            base model.

    Raises:
        SaBenchError: a tensor is unknown, missing, of another shape or not finite, or the two
            models were trained to predict different things. The message names the file, and the
            model is as it was.
        MissingAsset: the hub's model is not in the local cache.
    """
    checkpoint = locate(source, weights)  # once: a torch file is unpickled for its names
    if reason := _explain_unfit(checkpoint, source, strength):
        raise SaBenchError(f"{reason}.")
    model_tensors = model.state()
    with quietly():
        new_tensors = _read_checkpoint(model, source, checkpoint, weights, model_tensors, strength)
    require_matching(new_tensors, model_tensors, source)
    if checkpoint.layout not in ("lora", "delta"):
        _require_complete_networks(model, new_tensors, model_tensors, source)
    changed = {
        name: tensor
        for name, tensor in new_tensors.items()
        if not _is_unchanged(tensor, model_tensors[name])
    }
    if any(name.startswith("vae.") for name in changed):
        model.vae = copy.deepcopy(model.vae)  # clones share it, θ* among them
        model_tensors = model.state()
    for name, tensor in changed.items():
        model_tensors[name].copy_(tensor)
    if "vae.scaling_factor" in changed:
        model.vae.register_to_config(scaling_factor=float(changed["vae.scaling_factor"]))
    model.forget_texts()
    return model, len(changed)


def restore(model: Model, path: Path) -> None:
    """Read the complete model that `save` wrote into a new `model`.

    Args:
        model: a model of the same shape, which is changed.
        path: a folder with `model.safetensors`, or one file.

    Raises:
        SaBenchError: a tensor is unknown, missing, of another shape or not finite; the message
            names the file.
    """
    path = path / "model.safetensors" if path.is_dir() else path
    model_tensors, saved_tensors = model.state(), read_state(path)
    try:
        require_matching(saved_tensors, model_tensors, "here")
        require_all(model_tensors, saved_tensors, "here")
    except Exception as error:
        reason = last_line(error).removeprefix("here: ")
        raise SaBenchError(
            f"{path} is not a text-to-image model of this shape: {reason}"
        ) from error
    for name, tensor in saved_tensors.items():
        model_tensors[name].copy_(tensor)
    model.vae.register_to_config(scaling_factor=float(saved_tensors["vae.scaling_factor"]))
    model.origin = lambda: load_file(path)
    model.forget_texts()


def _read_checkpoint(
    model: Model,
    source: str,
    checkpoint: Found,
    weights: Weights,
    model_tensors: Mapping[str, Tensor],
    strength: float,
) -> Mapping[str, Tensor]:
    """Read the checkpoint's tensors under the model's names."""
    layout, path = checkpoint.layout, checkpoint.path
    if layout == "lora":
        return lora.merged(path, model_tensors, strength)
    if layout == "single":
        file_tensors = read_tensors(path, weights)
        single_file.check_noise(file_tensors, model.alphas, path)
        return single_file.parts(
            file_tensors, path, int(model.net.config["layers_per_block"]), averages=weights != "raw"
        )
    if layout == "unet":
        return _read_unet([path] if path.is_file() else weight_files(path, *STEMS["unet"]), weights)
    if layout == "delta":
        return read_tensors(path, weights)
    folder = cached(source) if layout == "hub" else path
    tensors, noise = diffusers_folder.parts(folder), diffusers_folder.scheduler(folder).config
    if differences := [key for key in NOISE if noise.get(key) != model.betas.get(key)]:
        key = differences[0]
        raise SaBenchError(
            f"{source} has {key} {noise.get(key)}, the base model {model.betas.get(key)}: not its base."
        )
    if checkpoint.unet is None:
        return tensors
    others = {name: value for name, value in tensors.items() if not name.startswith("unet.")}
    return others | _read_unet(weight_files(checkpoint.unet, *STEMS["unet"]), weights)


def _read_unet(files: Sequence[Path], weights: Weights = "auto") -> dict[str, Tensor]:
    """Read a U-Net's tensors, prefixed `unet.`."""
    return {f"unet.{name}": value for name, value in read_all(files, weights).items()}


def _is_unchanged(new: Tensor, old: Tensor) -> bool:
    """Return whether the old tensor equals the new one at the new one's precision."""
    return torch.equal(new, old.to(new.dtype).to(new.device))


def _require_complete_networks(
    model: Model,
    new_tensors: Mapping[str, Tensor],
    model_tensors: Mapping[str, Tensor],
    source: str,
) -> None:
    """Require that every network in the checkpoint is complete; a U-Net must be there.

    A U-Net may also be exactly one scope.
    """
    for part in STEMS:
        held_names = {name for name in new_tensors if name.startswith(f"{part}.")}
        if part == "unet" and {name.removeprefix("unet.") for name in held_names} in _list_scopes(
            model
        ):
            continue
        if held_names or part == "unet":
            needed_names = {name for name in model_tensors if name.startswith(f"{part}.")} - {
                "vae.scaling_factor"
            }
            require_all(needed_names, held_names, source)


def _list_scopes(model: Model) -> list[set[str]]:
    """List the tensor names of each scope and of ESD's `esd-all`: every Linear and Conv2d layer."""
    names_by_scope = {scope: set(within(model.net, scope)) for scope in SCOPES}
    return [*names_by_scope.values(), names_by_scope["esd-u"] | names_by_scope["xattn"]]
