"""Merge a LoRA into the weights it was trained for: W + scale · up · down, scale = α / rank.

This is Hu et al. 2022, Eq. 3. The names of diffusers and PEFT (`lora_A`, `lora_B`), of older
diffusers (`lora.down`, `lora.up`) and of kohya's trainer (`lora_unet_...`, with `alpha`) are
understood. Without an α the scale is 1, as in those libraries.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sa_bench.core.errors import SaBenchError
from sa_bench.core.untrusted_text import parse_json
from sa_bench.models.checkpoints.layouts import described, read_json, read_tensors

NAMES = (
    re.compile(r"(?P<module>.+)\.lora_(?P<side>A|B|down|up)(\.\w+)?\.weight"),
    re.compile(r"(?P<module>.+)\.processor\.(?P<inner>to_\w+?)_lora\.(?P<side>down|up)\.weight"),
    re.compile(r"(?P<module>.+)\.(lora|lora_linear_layer)\.(?P<side>down|up)\.weight"),
    re.compile(r"(?P<module>.+)\.(?P<side>alpha)"),
)
SIDES = {"A": "down", "B": "up"}
KOHYA = {"lora_unet_": "unet.", "lora_te_": "text_encoder.", "lora_te1_": "text_encoder."}


SPM = {"prompts", "rank", "alpha"}  # what SPM's trainer writes into a file's header (train_spm.py)


def require_plain(path: Path) -> None:
    """Reject a file whose header describes a gate, which merging would lose.

    Raises:
        SaBenchError: it is an SPM (Lyu et al. 2024), or a descendant of it that is saved in the
            same way.
    """
    metadata = described(path)
    is_kohya = any(name.startswith("ss_") for name in metadata)
    if set(metadata) >= SPM and not is_kohya:
        raise SaBenchError(
            f"{path} is an SPM of {str(metadata['prompts'])[:60]!r} (its header says prompts, rank and alpha), not a plain "
            "LoRA: its gate, which weighs it prompt by prompt, is applied by its own sampler and would be lost. Draw "
            "images with that sampler and evaluate them."
        )


def ranks(path: Path) -> set[int]:
    """Return the ranks of the LoRA in `path`, read from its down-projections."""
    down_ranks = set()
    for name, value in read_tensors(path).items():
        match = next((m for pattern in NAMES if (m := pattern.fullmatch(name))), None)
        if match and SIDES.get(match["side"], match["side"]) == "down" and value.ndim:
            down_ranks.add(int(value.shape[0]))
    return down_ranks


def merged(path: Path, state: Mapping[str, Tensor], strength: float = 1.0) -> dict[str, Tensor]:
    """Merge the LoRA in `path` into those weights of `state` that it changes.

    Args:
        path: the LoRA's file.
        state: a model's tensors, under `unet.` and `text_encoder.`.
        strength: further factor on up · down, besides α / rank.

    Returns:
        The merged weights by name, float32 on the CPU.

    Raises:
        SaBenchError: another kind of adapter, half a pair, or a layer that the model does not have.
    """
    pairs: dict[str, dict[str, Tensor]] = {}
    lora_tensors = read_tensors(path)
    name_by_flat_name = {
        name.removesuffix(".weight").replace(".", "_"): name
        for name in state
        if name.endswith(".weight")
    }
    for name, value in lora_tensors.items():
        match = next((m for pattern in NAMES if (m := pattern.fullmatch(name))), None)
        if match is None:
            raise SaBenchError(
                f"{path}: {name} does not belong to a plain LoRA (LoHa, LoKr, DoRA and the like are not supported)."
            )
        if not value.is_floating_point() and match["side"] != "alpha":
            raise SaBenchError(
                f"{path}: {name} holds whole numbers: quantised weights are not supported."
            )
        if not bool(torch.isfinite(value.float()).all()):
            raise SaBenchError(f"{path}: {name} is not finite.")
        layer = _find_layer(match, state, name_by_flat_name)
        if layer is None:
            raise SaBenchError(f"{path}: {name} belongs to no layer of this model.")
        side = SIDES.get(match["side"], match["side"])
        if side in pairs.setdefault(layer, {}):
            raise SaBenchError(f"{path} has more than one LoRA for {layer}.")
        pairs[layer][side] = value.float()
    settings = _read_settings(path)
    return {
        layer: _add_change(path, layer, state[layer], pair, settings, strength)
        for layer, pair in pairs.items()
    }


def _find_layer(
    match: re.Match[str], state: Mapping[str, Tensor], name_by_flat_name: Mapping[str, str]
) -> str | None:
    """Find the weight of the model that a tensor of the LoRA belongs to; None if there is none."""
    module = match["module"].removeprefix("base_model.model.")
    if "inner" in match.re.groupindex:
        module = f"{module}.{match['inner']}"
    for prefix, part in KOHYA.items():
        if module.startswith(prefix):
            flat_name = part.replace(".", "_") + module.removeprefix(prefix).removeprefix(
                "text_model_"
            )
            return name_by_flat_name.get(flat_name)
    if not module.startswith(("unet.", "text_encoder.")):
        module = f"unet.{module}"
    module = module.replace("text_encoder.text_model.", "text_encoder.")
    return next((name for end in ("", ".0") if (name := f"{module}{end}.weight") in state), None)


def _read_settings(path: Path) -> Mapping[str, Any]:
    """Read what PEFT records beside a LoRA's tensors: rank and α, for one part or for all.

    diffusers writes it into the file's header (loaders/lora_base.py), PEFT into
    adapter_config.json.

    Returns:
        The settings by name, `part.name` for one part; an empty mapping if there are none.
    """
    config_file = path.parent / "adapter_config.json"
    settings: dict[str, Any] = {}
    header_text = described(path).get("lora_adapter_metadata")
    try:
        settings = parse_json(header_text) if header_text else {}
    except (ValueError, TypeError) as error:
        raise SaBenchError(
            f"{path}: its lora_adapter_metadata is not JSON. Get the file again."
        ) from error
    if not settings and path.stem.startswith("adapter_model") and config_file.is_file():
        settings = read_json(config_file)
    if not isinstance(settings, dict):
        raise SaBenchError(
            f"{path}: its lora_adapter_metadata is not a JSON object. Get the file again."
        )
    for name, value in settings.items():
        if value and name.rpartition(".")[2] in ("alpha_pattern", "use_dora", "lora_bias"):
            raise SaBenchError(f"{path}: a LoRA with {name} is not supported.")
    return settings


def _add_change(
    path: Path,
    layer: str,
    weight: Tensor,
    pair: Mapping[str, Tensor],
    settings: Mapping[str, Any],
    strength: float,
) -> Tensor:
    """Add a LoRA's change, scale · up · down, to one weight."""
    if lacking := [side for side in ("down", "up") if side not in pair]:
        raise SaBenchError(f"{path} has no {lacking[0]} half of the LoRA for {layer}.")
    down, up = pair["down"].flatten(1), pair["up"].flatten(1)
    rank = down.shape[0]
    if (
        up.shape[1] != rank
        or up.shape[0] != weight.shape[0]
        or up.shape[0] * down.shape[1] != weight.numel()
    ):
        raise SaBenchError(
            f"{path}: up {tuple(pair['up'].shape)} and down {tuple(pair['down'].shape)} do not make {layer} "
            f"{tuple(weight.shape)}."
        )
    part = layer.partition(".")[0]

    def setting(name: str) -> Any:
        return settings.get(f"{part}.{name}", settings.get(name))

    alpha = float(pair["alpha"]) if "alpha" in pair else float(setting("lora_alpha") or rank)
    scale = strength * alpha / (rank**0.5 if setting("use_rslora") else rank)
    return weight.detach().float().cpu() + scale * (up @ down).view(weight.shape)
