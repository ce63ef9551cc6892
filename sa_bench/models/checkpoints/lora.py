"""LoRA merged into the weights it was trained for: W + scale · up · down (Hu et al. 2022, Eq. 3), scale = α / rank.

Understood are the names of diffusers and PEFT (`lora_A`, `lora_B`), of older diffusers (`lora.down`, `lora.up`) and of
kohya's trainer (`lora_unet_...`, with `alpha`). Without an α the scale is 1, as those libraries have it.
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
    """Look at a file's own description for a gate that merging would lose.

    Raises:
        SaBenchError: it is an SPM (Lyu et al. 2024), or one of its descendants that are kept the same way.
    """
    said = described(path)
    if set(said) >= SPM and not any(
        name.startswith("ss_") for name in said
    ):  # kohya's own begin so
        raise SaBenchError(
            f"{path} is an SPM of {str(said['prompts'])[:60]!r} (its header says prompts, rank and alpha), no plain LoRA: "
            "its gate, which weighs it prompt by prompt, lives in its own inference and would be lost. Draw images with "
            "that and evaluate these."
        )


def ranks(path: Path) -> set[int]:
    """The ranks of the LoRA in `path`, from its halves towards the input."""
    found = set()
    for name, value in read_tensors(path).items():
        match = next((m for pattern in NAMES if (m := pattern.fullmatch(name))), None)
        if match and SIDES.get(match["side"], match["side"]) == "down" and value.ndim:
            found.add(int(value.shape[0]))
    return found


def merged(path: Path, state: Mapping[str, Tensor], strength: float = 1.0) -> dict[str, Tensor]:
    """The weights of `state` that the LoRA in `path` changes, with it, float32 on the CPU.

    Args:
        path: the file.
        state: a model's tensors, under `unet.` and `text_encoder.`.
        strength: what up · down is multiplied with besides α / rank.

    Raises:
        SaBenchError: another kind of adapter, half a pair, or a layer that the model does not have.
    """
    found: dict[str, dict[str, Tensor]] = {}
    given = read_tensors(path)
    flat = {
        name.removesuffix(".weight").replace(".", "_"): name
        for name in state
        if name.endswith(".weight")
    }
    for name, value in given.items():
        match = next((m for pattern in NAMES if (m := pattern.fullmatch(name))), None)
        if match is None:
            raise SaBenchError(
                f"{path}: {name} is of no plain LoRA (LoHa, LoKr, DoRA and the like are not supported)."
            )
        if not value.is_floating_point() and match["side"] != "alpha":
            raise SaBenchError(
                f"{path}: {name} holds whole numbers: quantised weights are not supported."
            )
        if not bool(torch.isfinite(value.float()).all()):
            raise SaBenchError(f"{path}: {name} is not finite.")
        layer = _layer(match, state, flat)
        if layer is None:
            raise SaBenchError(f"{path}: {name} belongs to no layer of this model.")
        side = SIDES.get(match["side"], match["side"])
        if side in found.setdefault(layer, {}):
            raise SaBenchError(f"{path} has more than one LoRA for {layer}.")
        found[layer][side] = value.float()
    settings = _settings(path)
    return {
        layer: _sum(path, layer, state[layer], pair, settings, strength)
        for layer, pair in found.items()
    }


def _layer(
    match: re.Match[str], state: Mapping[str, Tensor], flat: Mapping[str, str]
) -> str | None:
    """The weight that a tensor of the LoRA belongs to."""
    module = match["module"].removeprefix("base_model.model.")
    if "inner" in match.re.groupindex:
        module = f"{module}.{match['inner']}"
    for start, part in KOHYA.items():
        if module.startswith(start):
            flatly = part.replace(".", "_") + module.removeprefix(start).removeprefix("text_model_")
            return flat.get(flatly)
    if not module.startswith(("unet.", "text_encoder.")):
        module = f"unet.{module}"
    module = module.replace("text_encoder.text_model.", "text_encoder.")
    return next((name for end in ("", ".0") if (name := f"{module}{end}.weight") in state), None)


def _settings(path: Path) -> Mapping[str, Any]:
    """What PEFT says of a LoRA beside its tensors: rank and α, by the part that they are of or for all.

    diffusers writes it into the file's header (loaders/lora_base.py), PEFT into adapter_config.json.
    """
    beside = path.parent / "adapter_config.json"
    said: dict[str, Any] = {}
    text = described(path).get("lora_adapter_metadata")
    try:
        said = parse_json(text) if text else {}
    except (ValueError, TypeError) as error:
        raise SaBenchError(
            f"{path}: its lora_adapter_metadata is not JSON. Get the file again."
        ) from error
    if not said and path.stem.startswith("adapter_model") and beside.is_file():
        said = read_json(beside)
    if not isinstance(said, dict):
        raise SaBenchError(f"{path}: its lora_adapter_metadata is no object. Get the file again.")
    for name, value in said.items():
        if value and name.rpartition(".")[2] in ("alpha_pattern", "use_dora", "lora_bias"):
            raise SaBenchError(f"{path}: a LoRA with {name} is not supported.")
    return said


def _sum(
    path: Path,
    layer: str,
    weight: Tensor,
    pair: Mapping[str, Tensor],
    settings: Mapping[str, Any],
    strength: float,
) -> Tensor:
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

    def said(name: str) -> Any:
        return settings.get(f"{part}.{name}", settings.get(name))

    alpha = float(pair["alpha"]) if "alpha" in pair else float(said("lora_alpha") or rank)
    scale = strength * alpha / (rank**0.5 if said("use_rslora") else rank)
    return weight.detach().float().cpu() + scale * (up @ down).view(weight.shape)
