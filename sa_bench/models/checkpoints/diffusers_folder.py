"""Read a diffusers folder of Stable Diffusion 1.x or 2.x, and build the pipeline from it.

The networks are built from their configurations and get their tensors here, one by one, so that
nothing is missing unnoticed, no foreign code runs and nothing is fetched.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from sa_bench.core.errors import SaBenchError, first_line
from sa_bench.data.assets import catalogue
from sa_bench.models.checkpoints.layouts import read_all, read_json, weight_files

if TYPE_CHECKING:
    from diffusers.configuration_utils import ConfigMixin
    from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import (
        StableDiffusionPipeline,
    )


PIPELINE = "StableDiffusionPipeline"
CLASSES = {"unet": "UNet2DConditionModel", "vae": "AutoencoderKL", "text_encoder": "CLIPTextModel"}
STEMS = {
    "unet": ("diffusion_pytorch_model",),
    "vae": ("diffusion_pytorch_model",),
    "text_encoder": ("model", "pytorch_model"),
}
# Names that diffusers gave the autoencoder's attention before 2023; Stable Diffusion 1.4 still has
# them.
OLD = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
OLD_ATTENTION = re.compile(r"(.+\.attentions\.\d+)\.(query|key|value|proj_attn)\.(weight|bias)")
LAYERS = 4096  # most layers of a network, summed over all that its configuration calls layers
NOISE = ("beta_start", "beta_end", "beta_schedule", "prediction_type")


def cached(name: str) -> Path:
    """Find the hub model `name` in a user's folder, the store or the hub's own cache.

    Raises:
        MissingAsset: it is in none of them.
    """
    return catalogue.need(name)


def weights(folder: Path) -> dict[str, list[Path]]:
    """List the weight files of every network of the pipeline in `folder`.

    Raises:
        SaBenchError: it is another kind of pipeline, or a part is missing.
    """
    index = read_json(folder / "model_index.json")
    if (pipeline_class := index.get("_class_name")) != PIPELINE:
        raise SaBenchError(
            f"{folder} is a {pipeline_class}; only {PIPELINE} (1.x, 2.x) is supported."
        )
    for part, class_name in CLASSES.items():
        entry = index.get(part)
        if entry and (not isinstance(entry, list) or entry[-1] != class_name):
            raise SaBenchError(
                f"{folder} has {entry} as its {part}, not a {class_name}: only such pipelines are supported."
            )
    files = {part: weight_files(folder / part, *stems) for part, stems in STEMS.items()}
    missing_parts = [part for part in files if not files[part]]
    missing_parts += [part for part in ("tokenizer", "scheduler") if not (folder / part).is_dir()]
    if missing_parts:
        problem = "no weights in" if (folder / missing_parts[0]).is_dir() else "no"
        raise SaBenchError(
            f"{folder} has {problem} {missing_parts[0]}/. Get the folder again, in full."
        )
    return files


def parts(folder: Path) -> dict[str, Tensor]:
    """Read the tensors of a pipeline's folder, prefixed `unet.`, `vae.` and `text_encoder.`.

    Raises:
        SaBenchError: for the reasons that `weights` gives, or a file is damaged.
    """
    tensors = {}
    for part, files in weights(folder).items():
        for name, tensor in read_all(files).items():
            name = name.removeprefix("text_model.") if part == "text_encoder" else name
            if name == "embeddings.position_ids":  # constants that transformers once saved
                continue
            if part == "vae" and (old_name := OLD_ATTENTION.fullmatch(name)):
                name = f"{old_name[1]}.{OLD[old_name[2]]}.{old_name[3]}"
            tensors[f"{part}.{name}"] = tensor
    return tensors


def scheduler(folder: Path) -> Any:
    """Build the model's own scheduler; its class supplies what its file leaves out.

    Raises:
        SaBenchError: diffusers does not know it, or its noise schedule is not supported.
    """
    import diffusers
    from diffusers.schedulers.scheduling_utils import SchedulerMixin

    configuration = read_json(folder / "scheduler" / "scheduler_config.json")
    name = str(configuration.get("_class_name"))
    scheduler_class = getattr(diffusers, name, None)
    if not (isinstance(scheduler_class, type) and issubclass(scheduler_class, SchedulerMixin)):
        raise SaBenchError(f"{folder} has the scheduler {name}, which diffusers does not know.")
    # Check the number before diffusers makes an array of that length.
    if (steps := configuration.get("num_train_timesteps", 1000)) != 1000:
        raise SaBenchError(
            f"{folder}: a scheduler with num_train_timesteps {steps} is not supported; only 1,000 is."
        )
    try:
        built: Any = cast("type[ConfigMixin]", scheduler_class).from_config(configuration)
    except Exception as error:
        raise SaBenchError(
            f"{folder} has a scheduler that cannot be built: {first_line(error)}. Get the folder again."
        ) from error
    config = built.config
    unsupported = [key for key in ("trained_betas", "rescale_betas_zero_snr") if config.get(key)]
    unsupported += [key for key in NOISE if config.get(key) is None]
    unsupported += [] if config.get("num_train_timesteps") == 1000 else ["num_train_timesteps"]
    unsupported += (
        [] if config.get("prediction_type") in ("epsilon", "v_prediction") else ["prediction_type"]
    )
    if unsupported:
        raise SaBenchError(
            f"{folder}: a scheduler with {unsupported[0]} {config.get(unsupported[0])} is not supported; only ε or v in "
            "1,000 steps of noise between beta_start and beta_end are."
        )
    return built


def pipeline(folder: Path) -> StableDiffusionPipeline:
    """Build the pipeline in `folder`.

    Raises:
        SaBenchError: for the reasons that `parts` and `assembled` give.
    """
    from transformers import CLIPTokenizer

    weights(folder)
    configurations = {part: read_json(folder / part / "config.json") for part in STEMS}
    require_possible(
        configurations,
        {part: _count_bytes(files) for part, files in weights(folder).items()},
        folder,
    )
    noise = scheduler(folder)
    try:
        clip_tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True)
    except Exception as error:
        raise SaBenchError(
            f"{folder}/tokenizer cannot be read. Get the folder again, in full."
        ) from error
    return assembled(configurations, parts(folder), clip_tokenizer, noise, folder)


def _count_bytes(files: Sequence[Path]) -> int:
    """Sum the bytes of several files."""
    return sum(file.stat().st_size for file in files)


def require_possible(
    configurations: Mapping[str, Mapping[str, Any]], file_bytes: Mapping[str, int], where: Path
) -> None:
    """Reject configurations that ask for more weights than their files hold, before building.

    Args:
        configurations: of `unet`, `vae` and `text_encoder`.
        file_bytes: bytes of the weight files of each network; a weight takes at least one byte.
        where: folder of the configurations, for error messages.

    Raises:
        SaBenchError: a configuration asks for more layers than any network has, or for more weights
            than the files can hold.
    """
    for part, config in configurations.items():
        try:
            layers = sum(_sum_numbers(value) for key, value in config.items() if "layers" in key)
            weights_needed = (
                _bound_text_encoder(config)
                if part == "text_encoder"
                else _bound_convolutions(config)
            )
        except (TypeError, ValueError, OverflowError) as error:
            raise SaBenchError(
                f"{where} has a configuration of {part} that cannot be right: {first_line(error)}. Get the folder again."
            ) from error
        if layers > LAYERS or weights_needed > file_bytes[part]:
            raise SaBenchError(
                f"{where} has a configuration of {part} with {layers:,} layers and at least {weights_needed:,} weights; "
                f"its files hold {file_bytes[part]:,} bytes. Get the folder again."
            )


def _sum_numbers(value: Any) -> int:
    """Sum the whole numbers in nested lists.

    Returns:
        The sum; 0 for None and for a bool.
    """
    if isinstance(value, (list, tuple)):
        return sum(map(_sum_numbers, value))
    if value is None or isinstance(value, bool):
        return 0
    if not isinstance(value, int) or value < 0:
        raise ValueError(f"a number of layers is {value!r}")
    return value


def _bound_convolutions(config: Mapping[str, Any]) -> int:
    """Return a lower bound on the weights of a U-Net or autoencoder.

    Each layer has at least one 3 × 3 convolution of its own width.
    """
    widths = [_sum_numbers(width) for width in config.get("block_out_channels") or []]
    layers = config.get("layers_per_block", 1)
    layers_by_width = (
        [_sum_numbers(count) for count in layers]
        if isinstance(layers, list)
        else [_sum_numbers(layers)] * len(widths)
    )
    return sum(
        9 * count * width * width for count, width in zip(layers_by_width, widths, strict=False)
    )


def _bound_text_encoder(config: Mapping[str, Any]) -> int:
    """Return a lower bound on the weights of a text encoder.

    It counts the word and position embeddings and, per layer, four square matrices and two others.
    """
    vocabulary_size, positions, width, inner, layers = (
        _sum_numbers(config.get(key, default))
        for key, default in (
            ("vocab_size", 49408),
            ("max_position_embeddings", 77),
            ("hidden_size", 512),
            ("intermediate_size", 2048),
            ("num_hidden_layers", 12),
        )
    )
    return (vocabulary_size + positions) * width + layers * (4 * width * width + 2 * width * inner)


def assembled(
    configurations: Mapping[str, dict[str, Any]],
    tensors: Mapping[str, Tensor],
    clip_tokenizer: Any,
    noise: Any,
    where: Path,
) -> StableDiffusionPipeline:
    """Build a pipeline of networks with exactly these tensors, in float32 and evaluation mode.

    Args:
        configurations: of `unet`, `vae` and `text_encoder`.
        tensors: under the names that `parts` gives.
        clip_tokenizer: the tokenizer.
        noise: the scheduler.
        where: file or folder of the model, for error messages.

    Raises:
        SaBenchError: a configuration cannot be built, or a tensor is missing, unknown or of another
            shape.
    """
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
    from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import (
        StableDiffusionPipeline,
    )
    from transformers import CLIPTextConfig, CLIPTextModel

    try:
        with torch.device("meta"):  # initialising 10⁹ numbers takes longer than reading them
            unet: Any = UNet2DConditionModel.from_config(configurations["unet"])
            vae: Any = AutoencoderKL.from_config(configurations["vae"])
        text_encoder: Any = CLIPTextModel(CLIPTextConfig.from_dict(configurations["text_encoder"]))
    except Exception as error:
        raise SaBenchError(
            f"{where} has a configuration that cannot be built: {first_line(error)}"
        ) from error
    for part, net in (("unet", unet), ("vae", vae), ("text_encoder", text_encoder)):
        expected = {f"{part}.{name}": tensor for name, tensor in net.state_dict().items()}
        network_tensors = {
            name: tensor for name, tensor in tensors.items() if name.startswith(f"{part}.")
        }
        require_matching(network_tensors, expected, str(where))
        require_all(expected, network_tensors, str(where))
        # Copies, because kernels round differently on the unaligned tensors of a mapped file.
        copies = {
            name.removeprefix(f"{part}."): tensor.to(torch.float32, copy=True)
            for name, tensor in network_tensors.items()
        }
        net.load_state_dict(copies, assign=True)
        net.eval()
    pipeline_parts: tuple[Any, ...] = (vae, text_encoder, clip_tokenizer, unet, noise, None, None)
    built = StableDiffusionPipeline(*pipeline_parts, requires_safety_checker=False)
    built.set_progress_bar_config(disable=True)
    return built


def require_matching(
    tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor], source: str
) -> None:
    """Require that every tensor is one of the model's, of its shape, finite and of its kind.

    Args:
        tensors: of a checkpoint, by name.
        expected: the tensors of the model, by name.
        source: of the checkpoint, for error messages.

    Raises:
        SaBenchError: a tensor is unknown, of another shape, not finite, or holds whole numbers in
            place of floating-point numbers; the message names it and `source`.
    """
    for name in sorted(tensors.keys() & expected.keys()):
        if expected[name].is_floating_point() and not tensors[name].is_floating_point():
            raise SaBenchError(
                f"{source}: {name} holds whole numbers ({tensors[name].dtype}): quantised weights are not supported; give "
                "those before quantisation, in 16 or 32 bits."
            )
    if unknown_names := sorted(tensors.keys() - expected.keys()):
        raise SaBenchError(f"{source}: {_count_names(unknown_names)} no tensor of this model.")
    for name, tensor in tensors.items():
        if tensor.shape != expected[name].shape:
            expected_shape = tuple(expected[name].shape)
            raise SaBenchError(
                f"{source}: {name} is {tuple(tensor.shape)}, not {expected_shape}: another base model?"
            )
        if not bool(torch.isfinite(tensor.float()).all()):
            raise SaBenchError(f"{source}: {name} is not finite.")


def require_all(expected_names: Any, names: Any, source: str) -> None:
    """Require that no expected name is missing.

    Raises:
        SaBenchError: one is missing; the message names it and `source`.
    """
    if missing := sorted(set(expected_names) - set(names)):
        raise SaBenchError(f"{source}: {_count_names(missing)} missing.")


def _count_names(names: Sequence[str]) -> str:
    """Say which names are meant: the first, the number of the others, and "is" or "are"."""
    return f"{names[0]} is" if len(names) == 1 else f"{names[0]} and {len(names) - 1} more are"
