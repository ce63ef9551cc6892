"""Tiny Stable Diffusions for tests, and the names that the original code gives their tensors."""

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from transformers import CLIPTextConfig, CLIPTextModel

from sa_bench.models import micro_pipeline

LAYERS = 2  # residual blocks a resolution
RESNET = {
    "norm1": "in_layers.0", "conv1": "in_layers.2", "norm2": "out_layers.0", "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1", "conv_shortcut": "skip_connection",
}  # fmt: skip
ENDS = {
    "time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2", "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0", "conv_out": "out.2",
}  # fmt: skip


SHALLOW = {"unet": (32, 64), "vae": (32, 32, 32, 32), "vae_layers": 1, "text": 64, "layers": 2}
"""Fewer resolutions: every call costs by the number of tensors (a third of SMALL's), not by their size."""
SMALL = {"unet": (32, 32, 64, 64), "vae": (32, 32, 32, 32), "text": 64, "layers": 2}
SMALL_2 = {"unet": (64, 64, 128, 128), "vae": (32, 32, 32, 32), "text": 128, "layers": 3}
FULL = {"unet": (320, 640, 1280, 1280), "vae": (128, 256, 512, 512), "text": 768, "layers": 12}
FULL_2 = {**FULL, "text": 1024, "layers": 23}


def networks(sizes, second=False, words=49_408):
    """U-Net, autoencoder and text encoder of Stable Diffusion 1.x, or 2.x if `second`, in the sizes given."""
    widths, width = sizes["unet"], sizes["text"]
    attending = len(widths) - 1  # all resolutions but the lowest
    unet = UNet2DConditionModel(
        down_block_types=("CrossAttnDownBlock2D",) * attending + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * attending,
        sample_size=8, block_out_channels=widths, layers_per_block=LAYERS, cross_attention_dim=width,
        attention_head_dim=[w // 64 for w in widths] if second else 8, use_linear_projection=second,
    )  # fmt: skip
    vae = AutoencoderKL(
        block_out_channels=sizes["vae"], latent_channels=4, layers_per_block=sizes.get("vae_layers", 2), sample_size=64,
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
    )  # fmt: skip
    text = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=words, hidden_size=width, intermediate_size=4 * width, num_hidden_layers=sizes["layers"],
            num_attention_heads=width // 64, max_position_embeddings=77, hidden_act="gelu" if second else "quick_gelu",
            projection_dim=width, bos_token_id=words - 2, eos_token_id=words - 1, pad_token_id=words - 1,
        )
    )  # fmt: skip
    return unet, vae, text


def pipeline(second=False, prediction="epsilon", seed=0, sizes=SHALLOW):
    """A small one, with another scheduler's prediction if asked."""
    words = micro_pipeline.tokenizer(length=77)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet, vae, text = networks(sizes, second, len(words))
    scheduler = DDIMScheduler(
        clip_sample=False, **{**micro_pipeline.SCHEDULE, "prediction_type": prediction}
    )
    made = StableDiffusionPipeline(
        vae, text, words, unet, scheduler, None, None, requires_safety_checker=False
    )
    made.set_progress_bar_config(disable=True)
    return made


def saved(pipe, folder):
    with micro_pipeline.quietly():
        pipe.save_pretrained(folder)
    return folder


def original(pipe, second=False):
    """Every tensor under the name in a `.ckpt`, with what else such a file holds."""
    found = {f"model.diffusion_model.{of_unet(k)}": v for k, v in pipe.unet.state_dict().items()}
    for k, v in pipe.vae.state_dict().items():
        attention = ".attentions." in k and v.ndim == 2
        found[f"first_stage_model.{of_vae(k)}"] = v[:, :, None, None] if attention else v
    found |= of_open_clip(pipe.text_encoder) if second else of_clip(pipe.text_encoder)
    noise = DDPMScheduler(1000, 0.00085, 0.012, "scaled_linear")
    found |= {
        "betas": noise.betas,
        "alphas_cumprod": noise.alphas_cumprod,
        "logvar": torch.zeros(1000),
    }
    return {k: v.detach().clone().contiguous() for k, v in found.items()}


def of_unet(name):
    for ours, theirs in ENDS.items():
        if name.startswith(f"{ours}."):
            return name.replace(ours, theirs, 1)
    side, *rest = name.split(".")
    if side == "mid_block":
        kind, i, *inner = rest
        place = f"middle_block.{1 if kind == 'attentions' else 2 * int(i)}"
    else:
        block, kind, i, *inner = rest
        number = int(block) * (LAYERS + 1) + int(i)
        if side == "down_blocks":
            place = f"input_blocks.{1 + number}"
            if kind == "downsamplers":
                return f"input_blocks.{(int(block) + 1) * (LAYERS + 1)}.0.op.{inner[-1]}"
        else:
            place = f"output_blocks.{number}"
            if kind == "upsamplers":  # after the attention, which the first block has none of
                return f"output_blocks.{int(block) * (LAYERS + 1) + LAYERS}.{min(int(block), 1) + 1}.conv.{inner[-1]}"
        place = f"{place}.{1 if kind == 'attentions' else 0}"
    tail = ".".join(inner)
    if kind == "resnets":
        tail = f"{RESNET[inner[0]]}.{inner[1]}"
    return f"{place}.{tail}"


def of_vae(name):
    for ours, theirs in {
        "conv_norm_out": "norm_out", "mid_block.resnets.0": "mid.block_1", "mid_block.resnets.1": "mid.block_2",
        "mid_block.attentions.0": "mid.attn_1", "group_norm": "norm", "to_out.0": "proj_out", "to_q": "q", "to_k": "k",
        "to_v": "v", "conv_shortcut": "nin_shortcut", "downsamplers.0": "downsample", "upsamplers.0": "upsample",
        "down_blocks": "down", "resnets": "block",
    }.items():  # fmt: skip
        name = name.replace(ours, theirs)
    if "up_blocks" in name:
        i = name.split(".")[2]
        name = name.replace(f"up_blocks.{i}", f"up.{3 - int(i)}")
    return name


def of_clip(text):
    found = {
        f"cond_stage_model.transformer.text_model.{k}": v for k, v in text.state_dict().items()
    }
    return found | {
        "cond_stage_model.transformer.text_model.embeddings.position_ids": torch.arange(77)[None]
    }


def of_open_clip(text):
    state, found = dict(text.state_dict()), {}
    for i in range(text.config.num_hidden_layers):
        for kind in ("weight", "bias"):
            parts = [state.pop(f"encoder.layers.{i}.self_attn.{p}_proj.{kind}") for p in "qkv"]
            found[f"transformer.resblocks.{i}.attn.in_proj_{kind}"] = torch.cat(parts)
    for name, value in state.items():
        for ours, theirs in {
            "encoder.layers": "transformer.resblocks", "layer_norm1": "ln_1", "layer_norm2": "ln_2", "fc1": "c_fc",
            "fc2": "c_proj", "self_attn": "attn", "final_layer_norm": "ln_final", "embeddings.token_embedding":
            "token_embedding", "embeddings.position_embedding.weight": "positional_embedding",
        }.items():  # fmt: skip
            name = name.replace(ours, theirs)
        found[name] = value
    found |= {
        "text_projection": torch.zeros(text.config.hidden_size, 512),
        "logit_scale": torch.ones([]),
    }
    return {f"cond_stage_model.model.{k}": v for k, v in found.items()}
