"""What a GPU does with Stable Diffusion 1.x's networks, of random weights: rates and memory do not depend on them."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from sa_bench.methods.esd import ESD
from sa_bench.methods.sa import SA
from sa_bench.methods.sld import SLD

from sa_bench.contracts import FisherOptions, Request, Sampler
from sa_bench.core import registry
from sa_bench.models import micro_pipeline, scopes
from sa_bench.models.text_to_image import TextToImage
from sa_bench.training.fisher import fisher_over_time
from sa_bench.training.loop import fit
from sa_bench.training.sources import FixedReplay, NormalNoise

SCOPES = ("full", "xattn", "noxattn")
BATCH = 4  # images of the surrogate and of replay each, as on one GPU of the official sd/
TASK = replace(
    registry.get_task("celeb_brad_pitt"),
    prompts=replace(registry.get_task("celeb_brad_pitt").prompts, files={}),
)
Clock = Callable[[str, Callable[[], object]], tuple[float, float]]  # seconds, peak GiB
Found = tuple[float, float]


def networks(tiny: bool) -> tuple[Any, Any, Any, Any]:
    """(U-Net, autoencoder, text encoder, tokenizer); the text encoder has CLIP's width but two layers."""
    tokens = micro_pipeline.tokenizer(length=77)
    if tiny:
        sizes = micro_pipeline.SMOKE
        return (
            micro_pipeline.unet(sizes, 64),
            micro_pipeline.autoencoder(sizes, 64),
            micro_pipeline.text_encoder(sizes, tokens),
            tokens,
        )
    blocks: dict[str, Any] = {
        "down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4,
    }  # fmt: skip
    vae = AutoencoderKL(
        block_out_channels=(128, 256, 512, 512), latent_channels=4, layers_per_block=2, sample_size=512,
        **blocks,
    )  # fmt: skip
    text = micro_pipeline.text_encoder(
        replace(micro_pipeline.SMOKE, text=scopes.SD_1["cross_attention_dim"]), tokens
    )
    return UNet2DConditionModel.from_config(dict(scopes.SD_1)), vae, text, tokens


def write(folder: Path, tiny: bool, device: str) -> Path:
    """A whole pipeline of Stable Diffusion 1.x's size in diffusers format, of random weights made on `device`."""
    with torch.device(device):
        unet, vae, text, tokens = networks(tiny)
    scheduler = DDIMScheduler(clip_sample=False, **micro_pipeline.SCHEDULE)
    parts: tuple[Any, ...] = (vae, text, tokens, unet, scheduler, None, None)
    with micro_pipeline.quietly():
        StableDiffusionPipeline(*parts, requires_safety_checker=False).save_pretrained(folder)
    return folder


def model(device: str, tiny: bool, checkpointing: bool = False) -> TextToImage:
    """The model on `device`, its weights made there."""
    with torch.device(device):
        unet, vae, text, tokens = networks(tiny)
    scheduler = DDIMScheduler(clip_sample=False, **micro_pipeline.SCHEDULE)
    parts = SimpleNamespace(
        unet=unet, vae=vae, text_encoder=text, tokenizer=tokens, scheduler=scheduler
    )
    made = TextToImage.of(lambda: parts, "random", TASK.classes).to(device)
    if checkpointing:
        made.net.enable_gradient_checkpointing()
    return made


class Lent:
    """What the methods ask of a run: latents of noise, F of ones, and the training loop under a clock."""

    def __init__(self, star: TextToImage, clock: Clock, device: str, bf16: bool) -> None:
        self.star, self.clock, self.device, self.bf16 = star, clock, device, bf16
        self.rng = torch.Generator().manual_seed(0)
        self.spent = (0.0, 0.0)

    def fisher(self, options: FisherOptions) -> dict[str, torch.Tensor]:
        return {name: torch.ones(p.shape) for name, p in self.star.net.named_parameters()}

    def surrogate(self) -> NormalNoise:
        return NormalNoise(self.star, TASK.prompts_for(TASK.concept, "forget"))

    def replay(self) -> FixedReplay:
        x = torch.randn(8, *self.star.shape, generator=self.rng).to(self.star.device)
        return FixedReplay(x, self.star.conditions(["a photo of a person"] * 8))

    def train(
        self, net: TextToImage, loss: Any, recipe: Any, scope: str = "full", pull: Any = None
    ) -> None:
        def run(steps: int) -> None:
            fit(
                net.parameters(scope),
                loss,
                replace(recipe, steps=steps),
                rng=self.rng,
                pull=pull,
                bf16=self.bf16,
            )

        net.net.train()
        run(1)  # kernels are chosen
        self.spent = self.clock(self.device, lambda: run(recipe.steps))


def forgetting(
    method: Any, device: str, tiny: bool, clock: Clock, bf16: bool, checkpointing: bool = False
) -> Found:
    """(steps a second, peak GiB) of a method, its training alone."""
    net = model(device, tiny, checkpointing)
    run = Lent(net, clock, device, bf16)
    task = replace(TASK, sampler=Sampler("ddim", 2 if tiny else 50, guidance=7.5))
    method.forget(net, task, run)
    return method.steps / run.spent[0], run.spent[1]


def fisher_rate(
    device: str, tiny: bool, clock: Clock, timesteps: int, checkpointing: bool = False
) -> Found:
    """(timesteps a second, peak GiB) of F, four of an image together."""
    net, rng = model(device, tiny, checkpointing), torch.Generator().manual_seed(0)
    x, c = (
        torch.randn(1, *net.shape, generator=rng).to(device),
        net.conditions(["a photo of a person"]),
    )
    work = lambda t: fisher_over_time(net, [(x, c, None)], FisherOptions(n=1, timesteps=t), rng)  # type: ignore[list-item]  # noqa: E731
    work(4)  # kernels are chosen
    seconds, peak = clock(device, lambda: work(timesteps))
    return timesteps / seconds, peak


def sampling(
    device: str, tiny: bool, clock: Clock, precision: str, safe: bool, images: int
) -> Found:
    """(seconds an image, peak GiB) with guidance 7.5, decoded; `safe` adds Safe Latent Diffusion's third pass."""
    net = model(device, tiny)
    net.precision = precision  # type: ignore[assignment]
    if safe:
        SLD().wrap(net, TASK)
    sampler = Sampler("ddim", 2 if tiny else 50, guidance=7.5, precision=precision)  # type: ignore[arg-type]
    asked = [Request("a photo of a person", i) for i in range(images)]
    net.to_images(net.sample(asked, replace(sampler, steps=2)))
    seconds, peak = clock(device, lambda: net.to_images(net.sample(asked, sampler)))
    return seconds / images, peak


def row(device: str, figure: Callable[[], Found], unit: str) -> str:
    """The figure with its peak memory, or that it does not fit."""
    if device == "cuda":
        gc.collect()
        torch.cuda.empty_cache()
    try:
        value, peak = figure()
    except torch.cuda.OutOfMemoryError:
        return "does not fit into this GPU's memory"
    return f"{value:.2f} {unit}, {peak:.1f} GiB"


def table(device: str, tiny: bool, clock: Clock, bf16: bool) -> Iterator[tuple[str, str]]:
    """Rows of what is measured, and the figure; a few minutes on a GPU."""
    name = "smoke" if tiny else "SD 1.x"
    config = dict(micro_pipeline.unet(micro_pipeline.SMOKE, 64).config) if tiny else scopes.SD_1
    steps, precision = 1 if tiny else 8, "bf16" if bf16 else "fp32"
    for scope in SCOPES:
        least = scopes.memory(config, scope)["total"] / 2**30
        for checkpointing in (False, True):
            sa = SA(lam=50.0, reduction="mean", batch=BATCH, lr=1e-6, steps=steps, scope=scope)
            found = row(
                device,
                lambda: forgetting(sa, device, tiny, clock, bf16, checkpointing),  # noqa: B023
                "steps/s",
            )
            how = ", gradient checkpointing" if checkpointing else ""
            yield (
                f"{name}: SA {scope}, 2 x {BATCH}, {precision}{how}",
                f"{found}; computed {least:.1f} GiB",
            )
        esd = ESD(steps=steps, scope=scope, ddim_steps=2 if tiny else 50, lr=1e-6)
        found = row(device, lambda: forgetting(esd, device, tiny, clock, bf16), "steps/s")  # noqa: B023
        yield f"{name}: ESD {scope}, {precision}", found
    for how in ("fp32", "bf16" if device == "cpu" else "fp16"):
        for safe in (False, True):
            found = row(
                device,
                lambda: sampling(device, tiny, clock, how, safe, 1 if tiny else 8),  # noqa: B023
                "s/image",
            )
            yield f"{name}: sampling, 50 steps, guidance 7.5, {how}{', SLD' if safe else ''}", found
    found = row(device, lambda: fisher_rate(device, tiny, clock, 4 if tiny else 40), "timesteps/s")
    yield f"{name}: Fisher, all weights, fp32", found
