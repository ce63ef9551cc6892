"""Which parameters of a diffusers U-Net are trained: scopes by name.

    full       all
    xattn      cross-attention, `attn2` (ESD-x; official sd/ldm `xattn`)
    noxattn    all but cross-attention, the output layers and the time embedding's own (official sd/ldm `noxattn`)
    selfattn   self-attention, `attn1`
    attn       both
    esd-u      weights and biases of Linear and Conv2d layers outside of cross-attention (erasing, esd_sd.py, 2025)
    kv         the keys' and values' projections of cross-attention (UCE, Concept Ablation, esd-x-strict)

LDM's names translate: `out.` is conv_norm_out and conv_out, `time_embed` is time_embedding, a block's `emb_layers`
(time_emb_proj) stay trainable under `noxattn`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from sa_bench.core.errors import unknown_name

SD_1 = {"sample_size": 64, "cross_attention_dim": 768, "attention_head_dim": 8}
"""Stable Diffusion 1.x's U-Net where it differs from UNet2DConditionModel's defaults."""
SCOPES = ("full", "xattn", "noxattn", "selfattn", "attn", "esd-u", "kv")


def within(net: nn.Module, scope: str) -> dict[str, nn.Parameter]:
    """The parameters of `scope` by name, in the network's order.

    Raises:
        SaBenchError: no such scope; lists them.
    """
    if scope not in SCOPES:
        raise unknown_name("scope", scope, SCOPES)
    chosen: dict[str, nn.Parameter] = {}
    for prefix, module in net.named_modules():
        for name, parameter in module.named_parameters(prefix, recurse=False):
            if _belongs(name, module, scope):
                chosen[name] = parameter
    return {name: chosen[name] for name, _ in net.named_parameters() if name in chosen}


def memory(net: nn.Module | Mapping[str, Any], scope: str = "full") -> dict[str, int]:
    """Bytes that forgetting holds of a U-Net in float32, without activations, by what they are for.

    `weights` of the whole network; `theta_star`, `fisher`, `gradient` and `adam` (two moments) of the scope's
    parameters; `total`, all of them: selective amnesia with Adam. A method without EWC holds neither of the second two.

    Args:
        net: the U-Net, on any device (`meta` will do), or its configuration.
        scope: one of `SCOPES`.

    Raises:
        SaBenchError: no such scope.
    """
    if not isinstance(net, nn.Module):
        from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

        with torch.device("meta"):
            built: Any = UNet2DConditionModel.from_config(dict(net))
        return memory(built, scope)
    trained = 4 * sum(p.numel() for p in within(net, scope).values())
    found = {
        "weights": 4 * sum(p.numel() for p in net.parameters()),
        "theta_star": trained,
        "fisher": trained,
        "gradient": trained,
        "adam": 2 * trained,
    }
    return found | {"total": sum(found.values())}


def _belongs(name: str, module: nn.Module, scope: str) -> bool:
    across = ".attn2." in name
    match scope:
        case "xattn":
            return across
        case "noxattn":
            return not across and not name.startswith(
                ("conv_norm_out.", "conv_out.", "time_embedding.")
            )
        case "selfattn":
            return ".attn1." in name
        case "attn":
            return across or ".attn1." in name
        case "esd-u":
            return not across and isinstance(module, nn.Linear | nn.Conv2d)
        case "kv":
            return across and (".to_k." in name or ".to_v." in name)
        case _:
            return True
