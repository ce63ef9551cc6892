"""Which parameters of a diffusers U-Net are trained: scopes by name.

    full       all
    xattn      cross-attention, `attn2` (ESD-x; official sd/ldm `xattn`)
    noxattn    all but cross-attention, the output layers and the time embedding's own (official sd/ldm `noxattn`)
    selfattn   self-attention, `attn1`
    esd-u      weights and biases of Linear and Conv2d layers outside of cross-attention (erasing, esd_sd.py, 2025)
    kv         the keys' and values' projections of cross-attention (UCE, Concept Ablation, esd-x-strict)

LDM's names translate: `out.` is conv_norm_out and conv_out, `time_embed` is time_embedding, a block's `emb_layers`
(time_emb_proj) stay trainable under `noxattn`.
"""

from __future__ import annotations

from torch import nn

from sa_bench.errors import unknown

SCOPES = ("full", "xattn", "noxattn", "selfattn", "esd-u", "kv")


def within(net: nn.Module, scope: str) -> dict[str, nn.Parameter]:
    """The parameters of `scope` by name, in the network's order.

    Raises:
        SaBenchError: no such scope; lists them.
    """
    if scope not in SCOPES:
        raise unknown("scope", scope, SCOPES)
    chosen: dict[str, nn.Parameter] = {}
    for prefix, module in net.named_modules():
        for name, parameter in module.named_parameters(prefix, recurse=False):
            if _belongs(name, module, scope):
                chosen[name] = parameter
    return {name: chosen[name] for name, _ in net.named_parameters() if name in chosen}


def _belongs(name: str, module: nn.Module, scope: str) -> bool:
    across = ".attn2." in name
    match scope:
        case "xattn":
            return across
        case "noxattn":
            return not across and not name.startswith(("conv_norm_out.", "conv_out.", "time_embedding."))
        case "selfattn":
            return ".attn1." in name
        case "esd-u":
            return not across and isinstance(module, nn.Linear | nn.Conv2d)
        case "kv":
            return across and (".to_k." in name or ".to_v." in name)
        case _:
            return True
