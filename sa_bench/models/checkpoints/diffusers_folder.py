"""A diffusers folder of Stable Diffusion 1.x or 2.x: what must be in it, and the pipeline built from it.

Networks are built from their configurations and given their tensors here, one by one, so that nothing goes missing
unseen, no code of strangers runs and nothing is fetched.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from sa_bench.core.errors import SaBenchError, first_line
from sa_bench.data.assets import catalogue
from sa_bench.models.checkpoints.layouts import read_all, read_json, weight_files

if TYPE_CHECKING:
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
# Names that diffusers gave the autoencoder's attention before 2023; Stable Diffusion 1.4 is still kept so.
OLD = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
OLD_ATTENTION = re.compile(r"(.+\.attentions\.\d+)\.(query|key|value|proj_attn)\.(weight|bias)")
LAYERS = 4096  # of a network, all that its configuration calls layers together
NOISE = ("beta_start", "beta_end", "beta_schedule", "prediction_type")


def cached(name: str) -> Path:
    """The folder of the hub's model `name`, in a folder of the user's, the store or the hub's own cache.

    Raises:
        MissingAsset: it is not there.
    """
    return catalogue.need(name)


def weights(folder: Path) -> dict[str, list[Path]]:
    """The weight files of every part of the pipeline in `folder`.

    Raises:
        SaBenchError: it is another pipeline, or a part is missing.
    """
    index = read_json(folder / "model_index.json")
    if (kind := index.get("_class_name")) != PIPELINE:
        raise SaBenchError(f"{folder} is a {kind}; only {PIPELINE} (1.x, 2.x) is supported.")
    for part, wanted in CLASSES.items():
        held = index.get(part)
        if held and (not isinstance(held, list) or held[-1] != wanted):
            raise SaBenchError(f"{folder} has {held} as its {part}, not a {wanted}.")
    found = {part: weight_files(folder / part, *stems) for part, stems in STEMS.items()}
    lacks = [part for part in found if not found[part]]
    lacks += [part for part in ("tokenizer", "scheduler") if not (folder / part).is_dir()]
    if lacks:
        what = "no weights in" if (folder / lacks[0]).is_dir() else "no"
        raise SaBenchError(f"{folder} has {what} {lacks[0]}/. Get the folder again, in full.")
    return found


def parts(folder: Path) -> dict[str, Tensor]:
    """The tensors of a pipeline's folder, with `unet.`, `vae.` and `text_encoder.` before their names.

    Raises:
        SaBenchError: as `weights`, or a file is damaged.
    """
    found = {}
    for part, files in weights(folder).items():
        for name, value in read_all(files).items():
            name = name.removeprefix("text_model.") if part == "text_encoder" else name
            if name == "embeddings.position_ids":  # constants, which transformers once saved
                continue
            if part == "vae" and (old := OLD_ATTENTION.fullmatch(name)):
                name = f"{old[1]}.{OLD[old[2]]}.{old[3]}"
            found[f"{part}.{name}"] = value
    return found


def scheduler(folder: Path) -> Any:
    """The model's own scheduler; its class says what its file leaves out.

    Raises:
        SaBenchError: diffusers does not know it, or its noise is none that is supported.
    """
    import diffusers
    from diffusers.schedulers.scheduling_utils import SchedulerMixin

    configuration = read_json(folder / "scheduler" / "scheduler_config.json")
    name = str(configuration.get("_class_name"))
    kind = getattr(diffusers, name, None)
    if not (isinstance(kind, type) and issubclass(kind, SchedulerMixin)):
        raise SaBenchError(f"{folder} has the scheduler {name}, which diffusers does not know.")
    if (steps := configuration.get("num_train_timesteps", 1000)) != 1000:  # before as many are made
        raise SaBenchError(
            f"{folder}: a scheduler with num_train_timesteps {steps} is not supported; only 1,000 is."
        )
    try:
        made: Any = kind.from_config(configuration)  # type: ignore[attr-defined]
    except Exception as error:
        raise SaBenchError(
            f"{folder} has a scheduler that cannot be built: {first_line(error)}. Get the folder again."
        ) from error
    said = made.config
    odd = [k for k in ("trained_betas", "rescale_betas_zero_snr") if said.get(k)]
    odd += [k for k in NOISE if said.get(k) is None]
    odd += [] if said.get("num_train_timesteps") == 1000 else ["num_train_timesteps"]
    odd += [] if said.get("prediction_type") in ("epsilon", "v_prediction") else ["prediction_type"]
    if odd:
        raise SaBenchError(
            f"{folder}: a scheduler with {odd[0]} {said.get(odd[0])} is not supported; only ε or v in 1,000 steps of "
            "noise between beta_start and beta_end are."
        )
    return made


def pipeline(folder: Path) -> StableDiffusionPipeline:
    """The pipeline in `folder`.

    Raises:
        SaBenchError: as `parts` and `assembled`.
    """
    from transformers import CLIPTokenizer

    weights(folder)
    configurations = {part: read_json(folder / part / "config.json") for part in STEMS}
    require_possible(
        configurations, {part: _bytes(files) for part, files in weights(folder).items()}, folder
    )
    noise = scheduler(folder)
    try:
        words = CLIPTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True)
    except Exception as error:
        raise SaBenchError(
            f"{folder}/tokenizer cannot be read. Get the folder again, in full."
        ) from error
    return assembled(configurations, parts(folder), words, noise, folder)


def _bytes(files: Sequence[Path]) -> int:
    return sum(file.stat().st_size for file in files)


def require_possible(
    configurations: Mapping[str, Mapping[str, Any]], held: Mapping[str, int], where: Path
) -> None:
    """Hold the networks that configurations ask for against the bytes of their weights, before any is built.

    Args:
        configurations: of `unet`, `vae` and `text_encoder`.
        held: bytes of the weight files of each; a weight takes one at least.
        where: they come from, for messages.

    Raises:
        SaBenchError: more layers than any network has, or more weights than the files can hold.
    """
    for part, said in configurations.items():
        try:
            layers = sum(_total(v) for k, v in said.items() if "layers" in k)
            asked = _least_text(said) if part == "text_encoder" else _least_convolutions(said)
        except (TypeError, ValueError, OverflowError) as error:
            raise SaBenchError(
                f"{where} has a configuration of {part} that cannot be right: {first_line(error)}. Get the folder again."
            ) from error
        if layers > LAYERS or asked > held[part]:
            raise SaBenchError(
                f"{where} has a configuration of {part} with {layers:,} layers and at least {asked:,} weights; its files "
                f"hold {held[part]:,} bytes. Get the folder again."
            )


def _total(value: Any) -> int:
    """The sum of whole numbers in lists of lists; 0 of nothing and of a switch."""
    if isinstance(value, (list, tuple)):
        return sum(map(_total, value))
    if value is None or isinstance(value, bool):
        return 0
    if not isinstance(value, int) or value < 0:
        raise ValueError(f"a number of layers is {value!r}")
    return value


def _least_convolutions(said: Mapping[str, Any]) -> int:
    """Weights that a U-Net or autoencoder has at least: a 3 x 3 convolution of its own width a layer."""
    widths = [_total(w) for w in said.get("block_out_channels") or []]
    layers = said.get("layers_per_block", 1)
    each = (
        [_total(n) for n in layers] if isinstance(layers, list) else [_total(layers)] * len(widths)
    )
    return sum(9 * n * w * w for n, w in zip(each, widths, strict=False))


def _least_text(said: Mapping[str, Any]) -> int:
    """Weights that a text encoder has at least: words, positions, and four square matrices a layer beside two others."""
    words, places, width, inner, layers = (
        _total(said.get(key, usual))
        for key, usual in (
            ("vocab_size", 49408),
            ("max_position_embeddings", 77),
            ("hidden_size", 512),
            ("intermediate_size", 2048),
            ("num_hidden_layers", 12),
        )
    )
    return (words + places) * width + layers * (4 * width * width + 2 * width * inner)


def assembled(
    configurations: Mapping[str, dict[str, Any]],
    tensors: Mapping[str, Tensor],
    words: Any,
    noise: Any,
    where: Path,
) -> StableDiffusionPipeline:
    """A pipeline of networks with exactly these tensors, in float32 and evaluation mode.

    Args:
        configurations: of `unet`, `vae` and `text_encoder`.
        tensors: as `parts` names them.
        words: the tokenizer.
        noise: the scheduler.
        where: they come from, for messages.

    Raises:
        SaBenchError: a configuration that cannot be built, or a tensor is missing, unknown or of another shape.
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
        text: Any = CLIPTextModel(CLIPTextConfig.from_dict(configurations["text_encoder"]))
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise SaBenchError(f"{where} has a configuration that cannot be built: {reason}") from error
    for part, net in (("unet", unet), ("vae", vae), ("text_encoder", text)):
        wanted = {f"{part}.{k}": v for k, v in net.state_dict().items()}
        given = {k: v for k, v in tensors.items() if k.startswith(f"{part}.")}
        require_matching(given, wanted, str(where))
        require_all(wanted, given, str(where))
        # Copies: tensors in a mapped file are not aligned, and kernels round differently there.
        own = {k.removeprefix(f"{part}."): v.to(torch.float32, copy=True) for k, v in given.items()}
        net.load_state_dict(own, assign=True)
        net.eval()
    absent: Any = None  # a safety checker, and what it looks at
    made = StableDiffusionPipeline(
        vae, text, words, unet, noise, absent, absent, requires_safety_checker=False
    )
    made.set_progress_bar_config(disable=True)
    return made


def require_matching(given: Mapping[str, Tensor], mine: Mapping[str, Tensor], source: str) -> None:
    """Every tensor given must be one of `mine`, of its shape, finite, and no whole numbers where those are none.

    Raises:
        SaBenchError: one is not; names it and `source`.
    """
    for name in sorted(given.keys() & mine.keys()):
        if mine[name].is_floating_point() and not given[name].is_floating_point():
            raise SaBenchError(
                f"{source}: {name} holds whole numbers ({given[name].dtype}): quantised weights are not supported; give "
                "those before quantisation, in 16 or 32 bits."
            )
    if strange := sorted(given.keys() - mine.keys()):
        raise SaBenchError(f"{source}: {_count(strange)} no tensor of this model.")
    for name, value in given.items():
        if value.shape != mine[name].shape:
            wanted = tuple(mine[name].shape)
            raise SaBenchError(
                f"{source}: {name} is {tuple(value.shape)}, not {wanted}: another base model?"
            )
        if not bool(torch.isfinite(value.float()).all()):
            raise SaBenchError(f"{source}: {name} is not finite.")


def require_all(wanted: Any, given: Any, source: str) -> None:
    """Every name wanted must be given.

    Raises:
        SaBenchError: one is not; names it and `source`.
    """
    if missing := sorted(set(wanted) - set(given)):
        raise SaBenchError(f"{source}: {_count(missing)} missing.")


def _count(names: Sequence[str]) -> str:
    return f"{names[0]} is" if len(names) == 1 else f"{names[0]} and {len(names) - 1} more are"
