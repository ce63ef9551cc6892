"""One file in the names of the original Stable Diffusion (CompVis's LDM, 1.x and 2.x), as the parts of diffusers.

The renaming is diffusers' own (loaders/single_file_utils.py); nothing is fetched. What such a file does not say:

- Heads of attention: 8 where the projections around it are convolutions (1.x), else one for 64 channels (2.x).
- ε or v: 1.x is ε. 2.x exists in both kinds, so the `.yaml` that came with it must lie beside the file.
- The tokenizer: a folder `tokenizer` beside the file, or one of CLIP's that is on this machine.
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
BETAS = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
}  # LDM calls it `linear`
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
"""Every CLIP of OpenAI's has the same vocabulary."""


def pipeline(path: Path) -> StableDiffusionPipeline:
    """The whole model in the file at `path`.

    Raises:
        SaBenchError: as `parts` and `configurations`.
        MissingAsset: its tokenizer is nowhere.
    """
    held = read_tensors(path)
    found = parts(held, path)
    said = configurations(found, path)
    check_noise(held, DDPMScheduler(num_train_timesteps=1000, **BETAS).alphas_cumprod, path)
    words = tokenizer(
        path, said["text_encoder"]["vocab_size"], said["text_encoder"]["pad_token_id"] == 0
    )
    found.pop("vae.scaling_factor", None)
    return assembled(said, found, words, DDIMScheduler(**said["scheduler"]), path)


def parts(
    given: Mapping[str, Tensor], path: Path, layers: int = 0, averages: bool = False
) -> dict[str, Tensor]:
    """The file's tensors under diffusers' names, with `unet.`, `vae.` and `text_encoder.` before them.

    Args:
        given: as they are in the file.
        path: of the file, for messages.
        layers: residual blocks a resolution, `layers_per_block`; 0: as the file has it.
        averages: take the U-Net's averaged weights (`model_ema.`) where the file has them.

    Raises:
        SaBenchError: another kind of model, or a tensor that is no part of Stable Diffusion.
    """
    given = _named(given)
    for start, what in REFUSED.items():
        if any(name.startswith(start) for name in given):
            raise SaBenchError(
                f"{path} is {what}; only Stable Diffusion 1.x and 2.x are supported."
            )
    first = given.get(f"{UNET}input_blocks.0.0.weight")
    if first is None or first.ndim != 4:
        raise SaBenchError(
            f"{path} has no {UNET}input_blocks.0.0.weight, so it is no Stable Diffusion."
        )
    if first.shape[1] != 4:
        raise SaBenchError(
            f"{path} takes {first.shape[1]} channels (inpainting or editing), not 4."
        )
    if averages:
        given = _averaged(given, path)
    with _complete(path):
        found = _prefixed("unet.", _unet(given, layers or _layers(given), path))
        if any(name.startswith(VAE) for name in given):
            found |= _prefixed("vae.", _vae(given, path))
            if (scale := given.get("scale_factor")) is not None:
                found["vae.scaling_factor"] = scale.reshape(())
        if any(name.startswith(TEXT) for name in given):
            found |= _prefixed("text_encoder.", _text(given))
    known = (UNET, VAE, TEXT, "model_ema.")
    if strange := sorted(n for n in given if "." in n and not n.startswith(known)):
        raise SaBenchError(f"{path} holds {strange[0]}, which is no part of Stable Diffusion.")
    return found


@contextmanager
def _complete(path: Path) -> Iterator[None]:
    """A name that is looked up and not there, or is odd, as one line."""
    try:
        yield
    except (KeyError, ValueError, IndexError, AttributeError) as error:
        raise SaBenchError(
            f"{path} is no complete Stable Diffusion ({error}). Get the file again."
        ) from error


def _prefixed(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + name: value for name, value in tensors.items()}


def _named(given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """With LDM's full names: a U-Net alone is also kept without its model's prefix."""
    if any(name.startswith(UNET) for name in given):
        return dict(given)
    if any(name.startswith("diffusion_model.") for name in given):
        return {
            f"model.{k}" if k.startswith("diffusion_model.") else k: v for k, v in given.items()
        }
    return _prefixed(UNET, given)


def _averaged(given: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    flat = {
        k: "model_ema." + k.removeprefix("model.").replace(".", "")
        for k in given
        if k.startswith(UNET)
    }
    held = [name for name, average in flat.items() if average in given]
    if held and len(held) < len(flat):
        lacking = sorted(flat.keys() - held)[0]
        raise SaBenchError(f"{path} has averaged weights (model_ema), but none of {lacking}.")
    return given | {name: given[flat[name]] for name in held}


def _layers(given: Mapping[str, Tensor]) -> int:
    down = sorted(
        int(n.split(".")[3])
        for n in given
        if n.startswith(f"{UNET}input_blocks.") and ".0.op.weight" in n
    )
    blocks = {n.split(".")[3] for n in given if n.startswith(f"{UNET}input_blocks.")}
    return max(1, (down[0] if down else len(blocks)) - 1)


def _unet(given: Mapping[str, Tensor], layers: int, path: Path) -> dict[str, Tensor]:
    mine = {k: v for k, v in given.items() if k.startswith(UNET)}
    return _whole(ldm.convert_ldm_unet_checkpoint(mine, {"layers_per_block": layers}), mine, path)


def _vae(given: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    mine = {k: v for k, v in given.items() if k.startswith(VAE) and not k.startswith(f"{VAE}loss.")}
    mine = {k: v for k, v in mine.items() if not k.startswith(f"{VAE}model_ema.")}
    n = 1 + max(
        (int(k.split(".")[3]) for k in mine if k.startswith(f"{VAE}encoder.down.")), default=0
    )
    blocks = ("",) * n
    made = ldm.convert_ldm_vae_checkpoint(
        mine, {"down_block_types": blocks, "up_block_types": blocks}
    )
    return _whole(made, mine, path)


def _whole(made: dict[str, Tensor], mine: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """`made`, if it holds every tensor of `mine`: the converters drop what they do not know."""
    held = {value.data_ptr() for value in made.values()}
    if lost := sorted(k for k, v in mine.items() if v.data_ptr() not in held):
        raise SaBenchError(f"{path} holds {lost[0]}, which is no part of Stable Diffusion.")
    return made


def _text(given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    if any(name.startswith(f"{TEXT}model.") for name in given):
        width = given[f"{TEXT}model.token_embedding.weight"].shape[1]
        made = ldm.convert_open_clip_checkpoint(_Sized(width), given)
    else:
        made = ldm.convert_ldm_clip_checkpoint(given)
    found = {name.removeprefix("text_model."): value for name, value in made.items()}
    found.pop("embeddings.position_ids", None)  # constants, which transformers once saved
    return found


class _Sized:
    """What the converter of OpenCLIP's names asks of a text encoder: its width."""

    def __init__(self, width: int) -> None:
        self.config = self
        self.hidden_size = width


def configurations(found: Mapping[str, Tensor], path: Path) -> dict[str, dict[str, Any]]:
    """Configurations of `unet`, `vae`, `text_encoder` and `scheduler` for the `parts` of the file at `path`.

    Raises:
        SaBenchError: a part is missing, or nothing says whether the model predicts ε or v.
    """
    for part, name in (
        ("unet.", "U-Net"),
        ("vae.", "autoencoder"),
        ("text_encoder.", "text encoder"),
    ):
        if not any(k.startswith(part) for k in found):
            raise SaBenchError(
                f"{path} has no {name}: it is no whole model but a part, to be put onto a base model."
            )
    said = _beside(path)
    with _complete(path):
        second = found["unet.mid_block.attentions.0.proj_in.weight"].ndim == 2
        kind = said.get("parameterization", None if second else "eps")
        if kind not in ("eps", "v"):
            raise SaBenchError(
                f"{path} is of Stable Diffusion 2.x and does not say whether it predicts noise or velocity: put the "
                f".yaml that came with it beside it as {path.with_suffix('.yaml').name}, or use the diffusers folder."
            )
        # 768 pixels or 512; what the .yaml says of sizes is not used
        side = 96 if second and kind == "v" else 64
        return {
            "unet": {**_unet_config(found, second), "sample_size": side},
            "vae": {**_vae_config(found), "sample_size": 8 * side},
            "text_encoder": _text_config(found, second),
            "scheduler": {
                **BETAS,
                "num_train_timesteps": 1000,
                "clip_sample": False,
                "set_alpha_to_one": False,
                "steps_offset": 1,
                "timestep_spacing": "leading",
                "prediction_type": "v_prediction" if kind == "v" else "epsilon",
            },
        }


def _beside(path: Path) -> Mapping[str, Any]:
    """The model's parameters in the LDM configuration `<stem>.yaml` beside the file; nothing if there is none."""
    file = path.with_suffix(".yaml")
    if not file.is_file():
        return {}
    import yaml

    try:
        model = yaml.safe_load(read_bytes(file, SUITE))["model"]
        return {"parameterization": "eps", **model["params"]}
    except (OSError, ValueError, KeyError, TypeError, RecursionError, yaml.YAMLError) as error:
        raise SaBenchError(
            f"{file} is no LDM configuration (model: params:). Get it again or remove it."
        ) from error


def _numbered(found: Mapping[str, Tensor], start: str) -> int:
    return 1 + max(
        (int(k[len(start) :].split(".")[0]) for k in found if k.startswith(start)), default=-1
    )


def _unet_config(found: Mapping[str, Tensor], second: bool) -> dict[str, Any]:
    n = _numbered(found, "unet.down_blocks.")
    widths = [found[f"unet.down_blocks.{i}.resnets.0.conv1.weight"].shape[0] for i in range(n)]
    attends = [
        any(k.startswith(f"unet.down_blocks.{i}.attentions.") for k in found) for i in range(n)
    ]
    return {
        "in_channels": 4,
        "out_channels": found["unet.conv_out.weight"].shape[0],
        "block_out_channels": widths,
        "layers_per_block": _numbered(found, "unet.down_blocks.0.resnets."),
        "down_block_types": ["CrossAttnDownBlock2D" if a else "DownBlock2D" for a in attends],
        "up_block_types": ["CrossAttnUpBlock2D" if a else "UpBlock2D" for a in reversed(attends)],
        "cross_attention_dim": found[
            "unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight"
        ].shape[1],
        "use_linear_projection": second,
        "attention_head_dim": [w // 64 for w in widths]
        if second
        else 8,  # diffusers' name of the number of heads
    }


def _vae_config(found: Mapping[str, Tensor]) -> dict[str, Any]:
    n = _numbered(found, "vae.encoder.down_blocks.")
    widths = [
        found[f"vae.encoder.down_blocks.{i}.resnets.0.conv1.weight"].shape[0] for i in range(n)
    ]
    return {
        "in_channels": 3,
        "out_channels": 3,
        "latent_channels": found["vae.post_quant_conv.weight"].shape[1],
        "block_out_channels": widths,
        "layers_per_block": _numbered(found, "vae.encoder.down_blocks.0.resnets."),
        "down_block_types": ["DownEncoderBlock2D"] * n,
        "up_block_types": ["UpDecoderBlock2D"] * n,
        "mid_block_add_attention": any(
            k.startswith("vae.encoder.mid_block.attentions.") for k in found
        ),
        "scaling_factor": float(
            found.get("vae.scaling_factor", ldm.LDM_VAE_DEFAULT_SCALING_FACTOR)
        ),
    }


def _text_config(found: Mapping[str, Tensor], second: bool) -> dict[str, Any]:
    words, width = found["text_encoder.embeddings.token_embedding.weight"].shape
    return {
        "vocab_size": words,
        "hidden_size": width,
        "projection_dim": width,
        "intermediate_size": found["text_encoder.encoder.layers.0.mlp.fc1.weight"].shape[0],
        "num_hidden_layers": _numbered(found, "text_encoder.encoder.layers."),
        "num_attention_heads": max(1, width // 64),
        "hidden_act": "gelu" if second else "quick_gelu",
        "max_position_embeddings": found["text_encoder.embeddings.position_embedding.weight"].shape[
            0
        ],
        "bos_token_id": words - 2,
        "eos_token_id": words - 1,
        "pad_token_id": 0 if second else words - 1,
    }


def check_noise(given: Mapping[str, Tensor], alphas: Tensor, path: Path) -> None:
    """Hold the ᾱ (T,) that the file carries, if it does, against `alphas`.

    Raises:
        SaBenchError: they differ: the model was trained on other noise.
    """
    own = given.get("alphas_cumprod")
    if own is not None and (
        own.shape != alphas.shape
        or not torch.allclose(own.float(), alphas.float().cpu(), atol=1e-3)
    ):
        raise SaBenchError(
            f"{path} was trained with another noise schedule (its alphas_cumprod) than Stable Diffusion's."
        )


def tokenizer(path: Path, words: int, second: bool) -> Any:
    """A CLIP tokenizer for a text encoder of `words` tokens.

    It is looked for in the folder `tokenizer` beside the file, where detectors keep CLIP, and in the hub's local cache.

    Raises:
        MissingAsset: there is none of that size.
    """
    from transformers import CLIPTokenizer

    folders = [path.parent / "tokenizer", path.with_suffix("") / "tokenizer", *_kept()]
    for folder in folders:
        if not any((folder / name).is_file() for name in ("tokenizer.json", "vocab.json")):
            continue
        found = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
        if len(found) == words:
            if second:
                found.pad_token = "!"  # number 0, as OpenCLIP pads
            return found
    raise MissingAsset(
        f"{path} comes without a tokenizer, as single files do, and none with {words:,} tokens is here: put the folder "
        f"tokenizer of its diffusers version beside it, or python -m sa_bench fetch {HUB[0]}."
    )


def _kept() -> list[Path]:
    from huggingface_hub import try_to_load_from_cache

    found = [place for name in LOCAL for place in list_places(name)]
    for name in HUB:
        for file in ("tokenizer.json", "vocab.json", "tokenizer/vocab.json"):
            if isinstance(where := try_to_load_from_cache(name, file), str):
                found.append(Path(where).parent)
    return found
