"""Select the parameters of a diffusers U-Net that are trained: scopes by name.

    full       all
    xattn      cross-attention, `attn2` (ESD-x; official sd/ldm `xattn`)
    noxattn    all but cross-attention, the output layers and the time embedding (official sd/ldm
        `noxattn`)
    selfattn   self-attention, `attn1`
    attn       cross-attention and self-attention
    esd-u      weights and biases of Linear and Conv2d layers outside of cross-attention (erasing,
        esd_sd.py, 2025)
    kv         projections of keys and values in cross-attention (UCE, Concept Ablation,
        esd-x-strict)

LDM's names translate: `out.` is conv_norm_out and conv_out, `time_embed` is time_embedding; a
block's `emb_layers` (time_emb_proj) stay trainable under `noxattn`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sa_bench.core.errors import unknown_name

if TYPE_CHECKING:  # the scopes' names are asked for in messages, which need no torch
    from torch import nn

SD_1 = {"sample_size": 64, "cross_attention_dim": 768, "attention_head_dim": 8}
"""Stable Diffusion 1.x's U-Net, where it differs from UNet2DConditionModel's defaults."""
SD_1_PARAMETERS = 859_520_964
"""Parameters of that U-Net, known without building it."""
SCOPES = ("full", "xattn", "noxattn", "selfattn", "attn", "esd-u", "kv")


def within(net: nn.Module, scope: str) -> dict[str, nn.Parameter]:
    """Return the parameters of `scope` by name, in the network's order.

    Raises:
        SaBenchError: there is no such scope; the message lists them.
    """
    if scope not in SCOPES:
        raise unknown_name("scope", scope, SCOPES)
    if scope == "full":
        return dict(net.named_parameters())
    chosen: dict[str, nn.Parameter] = {}
    seen: set[int] = set()  # a shared parameter counts under its first name, as in the network
    for prefix, module in net.named_modules():
        for name, parameter in module.named_parameters(prefix, recurse=False):
            if id(parameter) not in seen and _belongs(name, module, scope):
                chosen[name] = parameter
            seen.add(id(parameter))
    return chosen


def memory(net: nn.Module | Mapping[str, Any], scope: str = "full") -> dict[str, int]:
    """Compute the bytes that forgetting needs for a U-Net in float32, by purpose.

    Activations are not counted. `weights` is the whole network; `theta_star`, `fisher`, `gradient`
    and `adam` (two moments) are the scope's parameters; `total` is their sum: selective amnesia
    with Adam. A method without EWC needs neither `theta_star` nor `fisher`.

    Args:
        net: the U-Net, on any device (including `meta`), or its configuration.
        scope: one of `SCOPES`.

    Raises:
        SaBenchError: there is no such scope.
    """
    import torch

    if not isinstance(net, torch.nn.Module):
        from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

        with torch.device("meta"):
            built: Any = UNet2DConditionModel.from_config(dict(net))
        return memory(built, scope)
    trained = 4 * sum(p.numel() for p in within(net, scope).values())
    byte_counts = {
        "weights": 4 * sum(p.numel() for p in net.parameters()),
        "theta_star": trained,
        "fisher": trained,
        "gradient": trained,
        "adam": 2 * trained,
    }
    return byte_counts | {"total": sum(byte_counts.values())}


def _belongs(name: str, module: nn.Module, scope: str) -> bool:
    """Return whether a parameter belongs to a scope."""
    from torch import nn

    is_cross_attention = ".attn2." in name
    match scope:
        case "xattn":
            return is_cross_attention
        case "noxattn":
            return not is_cross_attention and not name.startswith(
                ("conv_norm_out.", "conv_out.", "time_embedding.")
            )
        case "selfattn":
            return ".attn1." in name
        case "attn":
            return is_cross_attention or ".attn1." in name
        case "esd-u":
            return not is_cross_attention and isinstance(module, nn.Linear | nn.Conv2d)
        case "kv":
            return is_cross_attention and (".to_k." in name or ".to_v." in name)
        case _:
            return True
