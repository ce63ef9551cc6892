"""Read one file in the names of the original Stable Diffusion (CompVis's LDM, 1.x and 2.x).

The tensors are renamed with diffusers' own converter (loaders/single_file_utils.py); nothing is
fetched. Such a file does not say:

- How many attention heads a block has: 8 if its projections are convolutions (1.x), else one per 64
  channels (2.x).
- Whether the model predicts ε or v: 1.x predicts ε. 2.x exists in both kinds, so the `.yaml` that
  came with the file must lie beside it.
- Which tokenizer belongs to it: a folder `tokenizer` beside the file is used, or a CLIP tokenizer
  stored on this machine.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from diffusers.loaders import single_file_utils as ldm
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from torch import Tensor

from sa_bench.core.errors import MissingAsset, SaBenchError
from sa_bench.core.untrusted_text import SUITE, read_bytes
from sa_bench.data.assets.locate import list_places
from sa_bench.models.checkpoints.diffusers_folder import assembled
from sa_bench.models.checkpoints.layouts import read_tensors

if TYPE_CHECKING:
    from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import (
        StableDiffusionPipeline,
    )


UNET, VAE, TEXT = "model.diffusion_model.", "first_stage_model.", "cond_stage_model."
# LDM calls this schedule `linear`.
BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
REFUSED = {
    "conditioner.": "Stable Diffusion XL",
    "text_encoders.": "Stable Diffusion 3",
    "control_model.": "a ControlNet",
    f"{UNET}joint_blocks.": "Stable Diffusion 3",
    f"{UNET}double_blocks.": "Flux",
    f"{UNET}label_emb.": "a model with class or size embeddings (XL, unCLIP)",
}
HUB = (
    "openai/clip-vit-large-patch14",
    "stable-diffusion-v1-5/stable-diffusion-v1-5",
    "CompVis/stable-diffusion-v1-4",
)
LOCAL = ("clip-vit-large-patch14", "clip-vit-base-patch32")
"""Local folders whose tokenizer fits: all of OpenAI's CLIP models share one vocabulary."""


def pipeline(path: Path) -> StableDiffusionPipeline:
    """Build the complete pipeline from the single file at `path`.

    Raises:
        SaBenchError: for the reasons that `parts` and `configurations` give.
        MissingAsset: no fitting tokenizer is on this machine.
    """
    file_tensors = read_tensors(path)
    tensors = parts(file_tensors, path)
    configs = configurations(tensors, path)
    check_noise(file_tensors, DDPMScheduler(num_train_timesteps=1000, **BETAS).alphas_cumprod, path)
    clip_tokenizer = tokenizer(
        path, configs["text_encoder"]["vocab_size"], configs["text_encoder"]["pad_token_id"] == 0
    )
    tensors.pop("vae.scaling_factor", None)
    return assembled(configs, tensors, clip_tokenizer, DDIMScheduler(**configs["scheduler"]), path)


def parts(
    tensors: Mapping[str, Tensor], path: Path, layers: int = 0, averages: bool = False
) -> dict[str, Tensor]:
    """Rename the file's tensors to diffusers' names, prefixed `unet.`, `vae.` and `text_encoder.`.

    Args:
        tensors: as they are named in the file.
        path: of the file, for error messages.
        layers: residual blocks per resolution (`layers_per_block`); 0 reads the number from the
            file.
        averages: take the U-Net's averaged weights (`model_ema.`) if the file has them.

    Raises:
        SaBenchError: the file holds another kind of model, or a tensor that Stable Diffusion does
            not have.
    """
    tensors = _add_full_prefix(tensors)
    for prefix, architecture in REFUSED.items():
        if any(name.startswith(prefix) for name in tensors):
            raise SaBenchError(
                f"{path} is {architecture}; only Stable Diffusion 1.x and 2.x are supported."
            )
    first_convolution = tensors.get(f"{UNET}input_blocks.0.0.weight")
    if first_convolution is None or first_convolution.ndim != 4:
        raise SaBenchError(
            f"{path} has no {UNET}input_blocks.0.0.weight, so it is not a Stable Diffusion model."
        )
    if first_convolution.shape[1] != 4:
        raise SaBenchError(
            f"{path} takes {first_convolution.shape[1]} input channels (an inpainting or editing model); only models "
            "with 4 are supported."
        )
    if averages:
        tensors = _use_averages(tensors, path)
    with _report_incomplete(path):
        renamed = _add_prefix(
            "unet.", _rename_unet(tensors, layers or _count_layers(tensors), path)
        )
        if any(name.startswith(VAE) for name in tensors):
            renamed |= _add_prefix("vae.", _rename_vae(tensors, path))
            if (scale := tensors.get("scale_factor")) is not None:
                renamed["vae.scaling_factor"] = scale.reshape(())
        if any(name.startswith(TEXT) for name in tensors):
            renamed |= _add_prefix("text_encoder.", _rename_text_encoder(tensors))
    prefixes = (UNET, VAE, TEXT, "model_ema.")
    if unknown_names := sorted(
        name for name in tensors if "." in name and not name.startswith(prefixes)
    ):
        raise SaBenchError(
            f"{path} holds {unknown_names[0]}, which is no part of Stable Diffusion."
        )
    return renamed


@contextmanager
def _report_incomplete(path: Path) -> Iterator[None]:
    """Turn an error from a missing or unexpected tensor name into a one-line SaBenchError."""
    try:
        yield
    except (KeyError, ValueError, IndexError, AttributeError) as error:
        raise SaBenchError(
            f"{path} is not a complete Stable Diffusion model ({error}). Get the file again."
        ) from error


def _add_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Put a prefix before the name of every tensor."""
    return {prefix + name: value for name, value in tensors.items()}


def _add_full_prefix(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Add the prefix of LDM's full names to a U-Net that was saved without it."""
    if any(name.startswith(UNET) for name in tensors):
        return dict(tensors)
    if any(name.startswith("diffusion_model.") for name in tensors):
        return {
            f"model.{name}" if name.startswith("diffusion_model.") else name: tensor
            for name, tensor in tensors.items()
        }
    return _add_prefix(UNET, tensors)


def _use_averages(tensors: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Replace the U-Net's weights by their averages (`model_ema.`), if the file has them."""
    average_names = {
        name: "model_ema." + name.removeprefix("model.").replace(".", "")
        for name in tensors
        if name.startswith(UNET)
    }
    averaged_names = [
        name for name, average_name in average_names.items() if average_name in tensors
    ]
    if averaged_names and len(averaged_names) < len(average_names):
        missing_average = sorted(average_names.keys() - averaged_names)[0]
        raise SaBenchError(
            f"{path} has averaged weights (model_ema), but none of {missing_average}."
        )
    return tensors | {name: tensors[average_names[name]] for name in averaged_names}


def _count_layers(tensors: Mapping[str, Tensor]) -> int:
    """Count the residual blocks per resolution: the input blocks before the first downsampling."""
    downsampling_blocks = sorted(
        int(name.split(".")[3])
        for name in tensors
        if name.startswith(f"{UNET}input_blocks.") and ".0.op.weight" in name
    )
    input_blocks = {
        name.split(".")[3] for name in tensors if name.startswith(f"{UNET}input_blocks.")
    }
    return max(1, (downsampling_blocks[0] if downsampling_blocks else len(input_blocks)) - 1)


def _rename_unet(tensors: Mapping[str, Tensor], layers: int, path: Path) -> dict[str, Tensor]:
    """Rename the U-Net's tensors to diffusers' names."""
    unet_tensors = {name: tensor for name, tensor in tensors.items() if name.startswith(UNET)}
    return _require_all_renamed(
        ldm.convert_ldm_unet_checkpoint(unet_tensors, {"layers_per_block": layers}),
        unet_tensors,
        path,
    )


def _rename_vae(tensors: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Rename the autoencoder's tensors to diffusers' names."""
    vae_tensors = {
        name: tensor
        for name, tensor in tensors.items()
        if name.startswith(VAE) and not name.startswith(f"{VAE}loss.")
    }
    vae_tensors = {
        name: tensor
        for name, tensor in vae_tensors.items()
        if not name.startswith(f"{VAE}model_ema.")
    }
    resolutions = 1 + max(
        (int(name.split(".")[3]) for name in vae_tensors if name.startswith(f"{VAE}encoder.down.")),
        default=0,
    )
    blocks = ("",) * resolutions
    renamed = ldm.convert_ldm_vae_checkpoint(
        vae_tensors, {"down_block_types": blocks, "up_block_types": blocks}
    )
    return _require_all_renamed(renamed, vae_tensors, path)


def _require_all_renamed(
    renamed: dict[str, Tensor], originals: Mapping[str, Tensor], path: Path
) -> dict[str, Tensor]:
    """Return `renamed` if it holds all of `originals`: the converters drop unknown names."""
    renamed_addresses = {tensor.data_ptr() for tensor in renamed.values()}
    if lost_names := sorted(
        name for name, tensor in originals.items() if tensor.data_ptr() not in renamed_addresses
    ):
        raise SaBenchError(f"{path} holds {lost_names[0]}, which is no part of Stable Diffusion.")
    return renamed


def _rename_text_encoder(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the text encoder's tensors (CLIP's or OpenCLIP's) to transformers' names."""
    if any(name.startswith(f"{TEXT}model.") for name in tensors):
        width = tensors[f"{TEXT}model.token_embedding.weight"].shape[1]
        renamed = ldm.convert_open_clip_checkpoint(_TextEncoderWidth(width), tensors)
    else:
        renamed = ldm.convert_ldm_clip_checkpoint(tensors)
    without_prefix = {name.removeprefix("text_model."): value for name, value in renamed.items()}
    without_prefix.pop("embeddings.position_ids", None)  # constants that transformers once saved
    return without_prefix


class _TextEncoderWidth:
    """Stand-in for a text encoder, with the width that the OpenCLIP converter reads from it."""

    def __init__(self, width: int) -> None:
        self.config = self
        self.hidden_size = width


def configurations(tensors: Mapping[str, Tensor], path: Path) -> dict[str, dict[str, Any]]:
    """Derive the configurations of `unet`, `vae`, `text_encoder` and `scheduler` from the tensors.

    Args:
        tensors: the file's tensors as renamed by `parts`.
        path: of the file, for its `.yaml` and for error messages.

    Raises:
        SaBenchError: a network is missing, or nothing says whether the model predicts ε or v.
    """
    for prefix, network in (
        ("unet.", "U-Net"),
        ("vae.", "autoencoder"),
        ("text_encoder.", "text encoder"),
    ):
        if not any(tensor_name.startswith(prefix) for tensor_name in tensors):
            raise SaBenchError(
                f"{path} has no {network}: it is only a part of a model. Give the complete file, or put this part onto "
                "a base model with the method checkpoint."
            )
    ldm_params = _read_yaml(path)
    with _report_incomplete(path):
        is_version_2 = tensors["unet.mid_block.attentions.0.proj_in.weight"].ndim == 2
        prediction = ldm_params.get("parameterization", None if is_version_2 else "eps")
        if prediction not in ("eps", "v"):
            raise SaBenchError(
                f"{path} is a Stable Diffusion 2.x file, which does not say whether it predicts noise or velocity: put the "
                f".yaml that came with it beside it as {path.with_suffix('.yaml').name}, or use the diffusers folder."
            )
        # 768 or 512 pixels; the sizes in the .yaml are not used.
        side = 96 if is_version_2 and prediction == "v" else 64
        return {
            "unet": {**_derive_unet_config(tensors, is_version_2), "sample_size": side},
            "vae": {**_derive_vae_config(tensors), "sample_size": 8 * side},
            "text_encoder": _derive_text_config(tensors, is_version_2),
            "scheduler": {
                **BETAS,
                "num_train_timesteps": 1000,
                "clip_sample": False,
                "set_alpha_to_one": False,
                "steps_offset": 1,
                "timestep_spacing": "leading",
                "prediction_type": "v_prediction" if prediction == "v" else "epsilon",
            },
        }


def _read_yaml(path: Path) -> Mapping[str, Any]:
    """Read the model's parameters from the LDM configuration `<stem>.yaml` beside the file.

    Returns:
        The parameters, with `parameterization` "eps" unless the file says otherwise; an empty
            mapping if there is no such file.
    """
    file = path.with_suffix(".yaml")
    if not file.is_file():
        return {}
    import yaml

    try:
        model = yaml.safe_load(read_bytes(file, SUITE))["model"]
        return {"parameterization": "eps", **model["params"]}
    except (OSError, ValueError, KeyError, TypeError, RecursionError, yaml.YAMLError) as error:
        raise SaBenchError(
            f"{file} is not an LDM configuration (it needs model: params:). Get it again or remove it."
        ) from error


def _count_blocks(tensors: Mapping[str, Tensor], prefix: str) -> int:
    """Count the blocks whose names are `prefix` and a number from 0 on."""
    return 1 + max(
        (int(name[len(prefix) :].split(".")[0]) for name in tensors if name.startswith(prefix)),
        default=-1,
    )


def _derive_unet_config(tensors: Mapping[str, Tensor], is_version_2: bool) -> dict[str, Any]:
    """Derive the U-Net's configuration from its tensors."""
    resolutions = _count_blocks(tensors, "unet.down_blocks.")
    widths = [
        tensors[f"unet.down_blocks.{i}.resnets.0.conv1.weight"].shape[0] for i in range(resolutions)
    ]
    has_attention = [
        any(name.startswith(f"unet.down_blocks.{i}.attentions.") for name in tensors)
        for i in range(resolutions)
    ]
    return {
        "in_channels": 4,
        "out_channels": tensors["unet.conv_out.weight"].shape[0],
        "block_out_channels": widths,
        "layers_per_block": _count_blocks(tensors, "unet.down_blocks.0.resnets."),
        "down_block_types": [
            "CrossAttnDownBlock2D" if attends else "DownBlock2D" for attends in has_attention
        ],
        "up_block_types": [
            "CrossAttnUpBlock2D" if attends else "UpBlock2D" for attends in reversed(has_attention)
        ],
        "cross_attention_dim": tensors[
            "unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight"
        ].shape[1],
        "use_linear_projection": is_version_2,
        # Despite its name, diffusers reads the number of heads from this entry.
        "attention_head_dim": [width // 64 for width in widths] if is_version_2 else 8,
    }


def _derive_vae_config(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Derive the autoencoder's configuration from its tensors."""
    resolutions = _count_blocks(tensors, "vae.encoder.down_blocks.")
    widths = [
        tensors[f"vae.encoder.down_blocks.{i}.resnets.0.conv1.weight"].shape[0]
        for i in range(resolutions)
    ]
    return {
        "in_channels": 3,
        "out_channels": 3,
        "latent_channels": tensors["vae.post_quant_conv.weight"].shape[1],
        "block_out_channels": widths,
        "layers_per_block": _count_blocks(tensors, "vae.encoder.down_blocks.0.resnets."),
        "down_block_types": ["DownEncoderBlock2D"] * resolutions,
        "up_block_types": ["UpDecoderBlock2D"] * resolutions,
        "mid_block_add_attention": any(
            name.startswith("vae.encoder.mid_block.attentions.") for name in tensors
        ),
        "scaling_factor": float(
            tensors.get("vae.scaling_factor", ldm.LDM_VAE_DEFAULT_SCALING_FACTOR)
        ),
    }


def _derive_text_config(tensors: Mapping[str, Tensor], is_version_2: bool) -> dict[str, Any]:
    """Derive the text encoder's configuration from its tensors."""
    vocabulary_size, width = tensors["text_encoder.embeddings.token_embedding.weight"].shape
    return {
        "vocab_size": vocabulary_size,
        "hidden_size": width,
        "projection_dim": width,
        "intermediate_size": tensors["text_encoder.encoder.layers.0.mlp.fc1.weight"].shape[0],
        "num_hidden_layers": _count_blocks(tensors, "text_encoder.encoder.layers."),
        "num_attention_heads": max(1, width // 64),
        "hidden_act": "gelu" if is_version_2 else "quick_gelu",
        "max_position_embeddings": tensors[
            "text_encoder.embeddings.position_embedding.weight"
        ].shape[0],
        "bos_token_id": vocabulary_size - 2,
        "eos_token_id": vocabulary_size - 1,
        "pad_token_id": 0 if is_version_2 else vocabulary_size - 1,
    }


def check_noise(tensors: Mapping[str, Tensor], alphas: Tensor, path: Path) -> None:
    """Compare the noise schedule that the file holds, if any, with the schedule `alphas`.

    Args:
        tensors: of the file; its schedule is `alphas_cumprod`, ᾱ (T,).
        alphas: the expected ᾱ (T,).
        path: of the file, for error messages.

    Raises:
        SaBenchError: they differ by more than 1e-3: the model was trained with another schedule.
    """
    file_alphas = tensors.get("alphas_cumprod")
    if file_alphas is not None and (
        file_alphas.shape != alphas.shape
        or not torch.allclose(file_alphas.float(), alphas.float().cpu(), atol=1e-3)
    ):
        raise SaBenchError(
            f"{path} was trained with another noise schedule than Stable Diffusion's (its alphas_cumprod differs)."
        )


def tokenizer(path: Path, vocabulary_size: int, pads_with_zero: bool) -> Any:
    """Find a CLIP tokenizer for a text encoder with `vocabulary_size` tokens.

    It is looked for in the folder `tokenizer` beside the file, in the folders where the detectors
    keep CLIP, and in the hub's local cache.

    Args:
        path: of the single file.
        vocabulary_size: number of tokens that the text encoder knows.
        pads_with_zero: pad with token 0 ("!"), as OpenCLIP (Stable Diffusion 2.x) does.

    Raises:
        MissingAsset: none of that size is on this machine.
    """
    from transformers import CLIPTokenizer

    folders = [
        path.parent / "tokenizer",
        path.with_suffix("") / "tokenizer",
        *_list_tokenizer_folders(),
    ]
    for folder in folders:
        if not any((folder / name).is_file() for name in ("tokenizer.json", "vocab.json")):
            continue
        candidate = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
        if len(candidate) == vocabulary_size:
            if pads_with_zero:
                candidate.pad_token = "!"  # token 0, with which OpenCLIP pads
            return candidate
    raise MissingAsset(
        f"{path} has no tokenizer (single files never do), and none with {vocabulary_size:,} tokens is on this machine: "
        f"put the folder tokenizer of its diffusers version beside it, or run python -m sa_bench fetch {HUB[0]}."
    )


def _list_tokenizer_folders() -> list[Path]:
    """List the folders on this machine that may hold a CLIP tokenizer."""
    from huggingface_hub import try_to_load_from_cache

    folders = [place for name in LOCAL for place in list_places(name)]
    for name in HUB:
        for file in ("tokenizer.json", "vocab.json", "tokenizer/vocab.json"):
            if isinstance(cached_file := try_to_load_from_cache(name, file), str):
                folders.append(Path(cached_file).parent)
    return folders
