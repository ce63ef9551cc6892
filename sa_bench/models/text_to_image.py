"""Implement the Generator `text_to_image`: latent diffusion from prompts.

Its networks are those of diffusers' StableDiffusionPipeline. Only the U-Net is trained by
forgetting; autoencoder and text encoder stay as they are. A condition is a prompt, stored as the
row of its token numbers; an integer c means the bare name of the task's class c. Model space is the
autoencoder's latents times its scaling factor. The loss is the mean over latent values, as in the
official sd/ldm/models/diffusion (λ = 50 is meant for a mean, not for a sum).

Guidance is s in out(null) + s (out(c) − out(null)), Stable Diffusion's own convention.
"""

from __future__ import annotations

import copy
import re
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from safetensors.torch import save
from torch import Tensor, nn

from sa_bench.contracts import Condition, Defence, Draw, Precision, Sampler
from sa_bench.core import settings
from sa_bench.core.errors import SaBenchError
from sa_bench.core.store import write_atomic
from sa_bench.data import captions
from sa_bench.models import micro_pipeline, recipes
from sa_bench.models.checkpoints.layouts import Weights
from sa_bench.models.denoising import Denoising, cast, grey_levels, times
from sa_bench.models.guidance import plain
from sa_bench.models.phrases import Phrase, fill_places, replaced
from sa_bench.models.scopes import within

T = 1000  # diffusion steps
CACHE = 256 * 2**20  # most bytes of cached encoded prompts
SCALING = "vae.scaling_factor"  # the name under which the factor is saved


class TextToImage(Denoising):
    """The latent diffusion model that implements the Generator contract."""

    family = "text_to_image"
    recipes = recipes.TEXT_TO_IMAGE
    range = (-3.0, 3.0)  # roughly, for latents; they have no bounds
    timesteps = T
    null = ""
    black_is_broken = True  # a decoder in half precision gives NaN for finite latents

    def __init__(self, base: str = "micro", words: Sequence[str] = (), seed: int = 0) -> None:
        """Initialise a micro model; the initialisation depends on `seed` alone.

        Args:
            base: recipe, and with it the networks.
            words: names of the task's classes, which integer conditions stand for.
            seed: of the initialisation.
        """
        sizes = recipes.SIZES[base]
        tokenizer = micro_pipeline.tokenizer()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            networks = (
                micro_pipeline.autoencoder(sizes),
                micro_pipeline.text_encoder(sizes, tokenizer),
                micro_pipeline.unet(sizes),
            )
        self._assemble(base, words, tokenizer, *networks, micro_pipeline.SCHEDULE)

    def _assemble(
        self,
        base: str,
        words: Sequence[str],
        tokenizer: Any,
        vae: Any,
        text_encoder: Any,
        unet: Any,
        schedule: Mapping[str, Any],
    ) -> None:
        """Set the attributes of a model made of these networks."""
        self.base, self.words, self.tokenizer = base, tuple(words), tokenizer
        self.vae, self.text, self.net = vae.eval(), text_encoder.eval(), unet.eval()
        if settings.gradient_checkpointing():
            self.net.enable_gradient_checkpointing()
        # A tokenizer without its configuration has no limit.
        token_limit = text_encoder.config.max_position_embeddings
        tokenizer.model_max_length = min(tokenizer.model_max_length, token_limit)
        for frozen in (self.vae, self.text):
            frozen.requires_grad_(False)
        self.betas = dict(schedule)
        noise_settings = {
            key: self.betas[key] for key in ("beta_start", "beta_end", "beta_schedule")
        }
        self.alphas: Tensor = DDPMScheduler(num_train_timesteps=T, **noise_settings).alphas_cumprod
        self.velocity = self.betas.get("prediction_type") == "v_prediction"
        self.origin: Callable[[], Mapping[str, Tensor]] | None = None
        """Reads θ* again, so that `save` writes only the difference. None for a new model."""
        self.substituted: tuple[tuple[int, ...], Tensor] | None = None
        self.precision: Precision = "fp32"  # in which `to_images` decodes
        # Filter of prompts: (words, the text that replaces them).
        self.prompt_filter: tuple[tuple[str, ...], str] | None = None
        self.defence: Defence | None = None  # guidance of a method that acts at sampling
        self.forget_texts()

    @classmethod
    def of(
        cls,
        load: Callable[[], Any],
        base: str,
        words: Sequence[str] = (),
        read: Callable[[], Mapping[str, Tensor]] | None = None,
    ) -> Self:
        """Make a model from a diffusers pipeline.

        Args:
            load: returns the pipeline (a StableDiffusionPipeline), and again whenever θ* is needed
                anew.
            base: a name for it.
            words: names of the task's classes.
            read: reads θ*'s networks by the names of `state`, at less cost than loading it anew.
        """
        pipeline, model = load(), cls.__new__(cls)
        model._assemble(
            base,
            words,
            pipeline.tokenizer,
            pipeline.vae,
            pipeline.text_encoder,
            pipeline.unet,
            {k: v for k, v in pipeline.scheduler.config.items() if k in micro_pipeline.SCHEDULE},
        )
        if read is None:
            model.origin = lambda: cls.of(load, base, words).state()
        else:
            scaling = {SCALING: model.state()[SCALING]}
            model.origin = lambda: {**read(), **scaling}
        return model

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape (C, H, W) of the latents."""
        side = self.net.config["sample_size"]
        return (self.net.config["in_channels"], side, side)

    @property
    def reduction(self) -> int:
        """Pixels of an image per latent, along one side."""
        return 2 ** (len(self.vae.config["block_out_channels"]) - 1)

    def grid(self, size: tuple[int, int] | None) -> tuple[int, ...]:
        """Return (C, H, W) of the latents of an image of `size`.

        Args:
            size: (height, width) in pixels; None for the model's own.

        Raises:
            SaBenchError: it is not a multiple of the autoencoder's reduction; the message names the
                nearest one that is.
        """
        if size is None:
            return self.shape
        multiple = self.reduction
        if any(side <= 0 or side % multiple for side in size):
            nearest_size = " x ".join(
                str(max(1, round(side / multiple)) * multiple) for side in size
            )
            wrong_size = " x ".join(map(str, size))
            raise SaBenchError(
                f"Height and width must be multiples of {multiple}, not {wrong_size}; the nearest size is {nearest_size}."
            )
        return (self.shape[0], *(side // multiple for side in size))

    @property
    def device(self) -> torch.device:
        """Device of the parameters."""
        return next(self.net.parameters()).device

    @property
    def embeddings(self) -> Tensor:
        """Table of token embeddings, (vocabulary, width)."""
        return self.text.get_input_embeddings().weight

    @property
    def per_pass(self) -> tuple[int, int]:
        """Images per forward pass on a CPU and on a GPU: fewer of 512 pixels than of the small models."""
        return (32, 512) if self.shape[1] <= 16 else (1, 8)

    @property
    def decoded(self) -> int:
        """Images per pass of the autoencoder.

        Large images go singly, since the autoencoder's full-size layers need GiB for each.
        """
        return self.together if self.shape[1] <= 16 else 1

    def fresh(self, seed: int) -> TextToImage:
        """Initialise a text encoder and a U-Net around the same autoencoder, on the same device."""
        model = TextToImage(self.base, self.words, seed)
        model.vae.load_state_dict(self.vae.state_dict())
        model.vae.register_to_config(scaling_factor=self.scaling)
        model.precision = self.precision
        return model.to(str(self.device))

    def to(self, device: str) -> Self:
        """Move the model to `device`."""
        for module in (self.vae, self.text, self.net):
            nn.Module.to(module, device)
        self.alphas = self.alphas.to(device)
        self.forget_texts()
        return self

    @property
    def scaling(self) -> float:
        """Factor by which latents are multiplied."""
        return float(self.vae.config["scaling_factor"])

    def draw(self, n: int, rng: torch.Generator, t: Tensor | None = None) -> Draw:
        """Draw timesteps (n,), antithetic pairs unless given, and ε (n, C, H, W)."""
        t = self.antithetic(n, rng) if t is None else t
        noise = torch.randn(n, *self.shape, generator=rng)
        return Draw(noise.to(self.device, non_blocking=True), t.to(self.device, non_blocking=True))

    def conditions(self, values: Sequence[Condition] | np.ndarray | Tensor) -> Tensor:
        """Convert prompts to token numbers, (N, length) int64.

        An integer stands for the bare name of its class.

        Raises:
            SaBenchError: an integer is not a class.
        """
        if isinstance(values, Tensor) and values.ndim == 2:
            return values.to(self.device)
        prompts = [
            self._get_prompt(value)
            for value in (values.tolist() if isinstance(values, np.ndarray | Tensor) else values)
        ]
        rows = self.tokenizer(
            prompts,
            padding="max_length",
            truncation=True,
            max_length=self.tokenizer.model_max_length,
            return_tensors="pt",
        )
        return rows.input_ids.to(self.device)

    def _get_prompt(self, value: Condition) -> str:
        """Return the prompt of a condition, with the prompt filter applied."""
        if isinstance(value, str):
            if self.prompt_filter is None or self.substituted is not None:
                return value
            words, replacement = self.prompt_filter
            return re.sub(
                "|".join(map(re.escape, words)), lambda _: replacement, value, flags=re.IGNORECASE
            )
        if not 0 <= value < len(self.words):
            raise SaBenchError(
                f"Class labels must be whole numbers 0..{len(self.words) - 1}, got {value}."
            )
        return self._get_prompt(self.words[int(value)])

    def tokens_of(self, text: str) -> tuple[int, ...]:
        """Return the token numbers of `text` without the first and the last token of a prompt.

        Raises:
            SaBenchError: it is empty.
        """
        tokens = tuple(self.tokenizer(text).input_ids[1:-1])
        if not tokens:
            raise SaBenchError("An empty phrase has no tokens.")
        return tokens

    @property
    def longest(self) -> int:
        """Most tokens of a prompt, without its first and its last."""
        return self.tokenizer.model_max_length - 2

    def vocabulary(self) -> dict[int, str]:
        """List the words of one token that come through the prompt filter as they are, by token.

        Of a micro model they are the words of captions: its other symbols were never trained.
        """
        if self.base in recipes.SIZES:
            texts = captions.vocabulary()
        else:
            numbers = [[i] for i in range(len(self.tokenizer))]
            texts = [
                text.strip()
                for text in self.tokenizer.batch_decode(numbers, skip_special_tokens=True)
            ]
        texts = [
            t for t in dict.fromkeys(texts) if t.isprintable() and t and self._get_prompt(t) == t
        ]
        rows = self.tokenizer(texts, verbose=False).input_ids
        return {row[1]: text for text, row in zip(texts, rows, strict=True) if len(row) == 3}

    def truncated_prompts(self, texts: Sequence[str]) -> list[int]:
        """Return the indices of prompts that are cut off.

        They have more tokens than the text encoder has positions.
        """
        if not texts:
            return []
        rows = self.tokenizer([self._get_prompt(text) for text in texts], verbose=False).input_ids
        return [i for i, row in enumerate(rows) if len(row) > self.tokenizer.model_max_length]

    def nulls(self, c: Tensor) -> Tensor:
        """Return the empty prompt for each row of `c`."""
        return self.conditions([self.null]).expand(len(c), -1)

    def network(self, sampler: Sampler) -> nn.Module:
        """Return the U-Net."""
        return self.net

    def encoded(self, c: Tensor) -> Tensor:
        """Return the text encoder's states, (N, length, width).

        The states of earlier prompts are cached, separately for each precision.
        """
        if self.substituted is not None or next(self.text.parameters()).requires_grad:
            return self._compute_states(c)
        device_type = self.device.type
        dtype = (
            torch.get_autocast_dtype(device_type)
            if torch.is_autocast_enabled(device_type)
            else torch.float32
        )
        rows = [(dtype, bytes(row.cpu().numpy().tobytes())) for row in c]
        new_rows = {row: i for i, row in enumerate(rows) if row not in self._texts}
        if new_rows:
            with torch.no_grad():
                states = torch.cat(
                    [self._compute_states(chunk) for chunk in c[list(new_rows.values())].split(64)]
                )
            self._texts.update(zip(new_rows, states, strict=True))
        all_states = torch.stack([self._texts[row] for row in rows])
        while len(self._texts) * all_states[0].nbytes > CACHE:
            self._texts.popitem(last=False)
        return all_states

    def forget_texts(self) -> None:
        """Drop all cached states: the encoder has changed."""
        self._texts: OrderedDict[tuple[torch.dtype, bytes], Tensor] = OrderedDict()

    def _compute_states(self, c: Tensor) -> Tensor:
        """Compute the text encoder's states, with any substituted vectors in their places."""
        if self.substituted is None:
            return self.text(c)[0]
        tokens, vectors = self.substituted
        c, places = replaced(c, tokens, vectors.shape[-2], self.tokenizer.eos_token_id)

        def put_vectors(module: nn.Module, args: Any, out: Tensor) -> Tensor:
            return fill_places(out, places, vectors)

        handle = self.text.get_input_embeddings().register_forward_hook(put_vectors)
        try:
            return self.text(c)[0]
        finally:
            handle.remove()

    def output(self, net: Any, x_t: Tensor, t: Tensor, c: Tensor) -> Tensor:
        """Compute the U-Net's output: ε or v, as the model's own scheduler expects."""
        return net(x_t, t, encoder_hidden_states=self.encoded(c)).sample

    def _run_passes(
        self, net: Any, x_t: Tensor, t: Tensor, text_states: Sequence[Tensor]
    ) -> Sequence[Tensor]:
        """Compute the U-Net's outputs for the states of several texts in one pass.

        Args:
            net: the U-Net.
            x_t: noisy latents, (N, C, H, W).
            t: timesteps (N,).
            text_states: of each text, (N or 1, length, width).
        """
        n, k = len(x_t), len(text_states)
        states = torch.cat([one_text.to(x_t.device).expand(n, -1, -1) for one_text in text_states])
        return net(
            torch.cat([x_t] * k), torch.cat([t] * k), encoder_hidden_states=states
        ).sample.chunk(k)

    def _list_guidance_states(self, c: Tensor) -> tuple[Tensor, ...]:
        """Return the states that guidance needs besides those of c.

        These are the empty prompt's; a defence's replace them or are added.
        """
        if self.defence is not None and self.defence.instead:
            return (self.defence.states,)
        return (
            self.encoded(self.nulls(c[:1])),
            *([] if self.defence is None else [self.defence.states]),
        )

    def _guide(self, sampler: Sampler) -> Any:
        """Return plain guidance, or the defence's for a new trajectory."""
        if self.defence is None:
            return self._guided
        guide = self.defence.along(self.levels(sampler))

        def guide_step(net: Any, x: Tensor, t: Tensor, c: Tensor, s: Tensor | float) -> Tensor:
            if isinstance(s, float) and s == 1.0:
                return self.output(net, x, t, c)
            unconditional, *defence_states = self._list_guidance_states(c)
            return guide(
                self._run_passes(net, x, t, (unconditional, self.encoded(c), *defence_states)), t, s
            )

        return guide_step

    def _predict_output(self, x_t: Tensor, t: Tensor, c: Tensor, sampler: Sampler | None) -> Tensor:
        """Compute the U-Net's output or, with a sampler, the guided output.

        A defence takes part in the guidance.
        """
        conditional = self.output(self.net, x_t, t, c)
        if sampler is None or sampler.guidance == 1:
            return conditional
        guide = plain if self.defence is None else self.defence.anywhere(self.levels(sampler))
        with torch.no_grad():  # only out(c) depends on what is fitted
            unconditional, *defence_outputs = self._run_passes(
                self.net, x_t, t, self._list_guidance_states(c)
            )
        return guide((unconditional, conditional, *defence_outputs), t, sampler.guidance)

    def predict(self, x_t: Tensor, t: Tensor, c: Tensor, sampler: Sampler | None = None) -> Tensor:
        """Predict ε̂(x_t, t, c), (N, C, H, W), from ε or v; with a sampler under its guidance."""
        output = self._predict_output(x_t, t, c, sampler)
        if not self.velocity:
            return output
        a = self.alphas[t][:, None, None, None]
        return a.sqrt() * output + (1 - a).sqrt() * x_t

    @property
    def uninformed(self) -> float:
        """Loss of predicting 0: 1, the mean of ε², and of v² if the latents have variance 1."""
        return 1.0

    def loss(self, x: Tensor, c: Tensor, draw: Draw, sampler: Sampler | None = None) -> Tensor:
        """Compute the mean over latent values of (target − output)², (N,).

        The target is ε or v (Salimans & Ho 2022). With a sampler it is the guided output; gradients
        flow through out(c) alone.
        """
        target = draw.noise
        if self.velocity:
            a = self.alphas[times(draw)][:, None, None, None]
            target = a.sqrt() * draw.noise - (1 - a).sqrt() * x
        error = (
            self._predict_output(self.add_noise(x, draw), times(draw), c, sampler).float() - target
        )
        return (error**2).flatten(1).mean(1)

    @torch.no_grad()
    def to_images(self, x: Tensor) -> np.ndarray:
        """Decode latents to uint8 (N, H, W, 3), in `precision`.

        An image is black if one of its latents or pixels is not finite.
        """
        with cast(self.precision, self.device):
            images = [
                grey_levels(self.vae.decode(latents / self.scaling).sample)
                for latents in x.to(self.device).split(self.decoded)
            ]
        return np.concatenate(images)

    @torch.no_grad()
    def encode(self, images: np.ndarray) -> Tensor:
        """Encode uint8 (N, H, W, 3) to latents (N, C, H / 8, W / 8): the mode of the posterior.

        Raises:
            SaBenchError: another type or shape.
        """
        side = self.shape[1] * self.reduction
        if images.dtype != np.uint8 or images.shape[1:] != (side, side, 3):
            raise SaBenchError(
                f"This model takes uint8 images of shape (N, {side}, {side}, 3), got {images.dtype} {images.shape}."
            )
        x = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).to(self.device)
        latents = [
            self.vae.encode(pixels.float() / 127.5 - 1).latent_dist.mode()
            for pixels in x.split(self.decoded)
        ]
        return torch.cat(latents) * self.scaling

    def parameters(self, scope: str = "full") -> dict[str, nn.Parameter]:
        """Return the U-Net's parameters of a scope by name.

        The scope `text` is the text encoder's layers and last norm, without the embeddings of its
        tokens and positions; `joint` is the whole U-Net and the whole text encoder, whose names
        begin with `text_encoder.`. Both let the text encoder be trained from then on.
        """
        if scope in ("joint", "text"):
            self.text.requires_grad_(True)
            self.forget_texts()
            text_parameters = {
                f"text_encoder.{name}": parameter
                for name, parameter in self.text.named_parameters()
                if scope == "joint" or "embeddings." not in name
            }
            net_parameters = dict(self.net.named_parameters()) if scope == "joint" else {}
            return net_parameters | text_parameters
        return within(self.net, scope)

    def averages(self) -> None:
        """Return None: the model has no averaged weights."""

    def condition(self, c: Condition) -> Phrase:
        """Return the slot of a phrase, or of the name of class `c`."""
        return Phrase(self, c if isinstance(c, str) else self.words[int(c)])

    def clone(self) -> Self:
        """Make an independent copy; the autoencoder, which is never changed, is shared."""
        return copy.deepcopy(self, {id(self.vae): self.vae})

    def state(self) -> dict[str, Tensor]:
        """Return every tensor (`unet.`, `text_encoder.` and `vae.`) and the scaling factor."""
        networks = {"unet": self.net, "text_encoder": self.text, "vae": self.vae}
        tensors = {
            f"{name}.{key}": tensor.detach()
            for name, network in networks.items()
            for key, tensor in network.state_dict().items()
        }
        return tensors | {SCALING: torch.tensor(self.scaling, dtype=torch.float64)}

    def save(self, folder: Path) -> None:
        """Write `model.safetensors`.

        For a model that was loaded, only the tensors that differ from what was loaded are written.
        """
        state = {name: tensor.cpu().contiguous() for name, tensor in self.state().items()}
        if self.origin is not None:
            base_tensors = self.origin()
            state = {
                name: tensor
                for name, tensor in state.items()
                if not torch.equal(tensor, base_tensors[name].to(tensor.dtype).cpu())
            }
        write_atomic(folder / "model.safetensors", save(state))

    def load(self, path: Path, strength: float = 1.0, weights: Weights = "auto") -> Self:
        """Read `model.safetensors` in a folder, or one file.

        A new model reads a complete model; a model that was loaded before gets a checkpoint put
        onto it, in any layout of Stable Diffusion (`checkpoints.layout`), or only the tensors that
        differ. `strength` and `weights` apply to the checkpoint, as in `checkpoints.apply`.

        Raises:
            SaBenchError: a tensor is unknown, missing, of another shape or not finite; the message
                names the file.
        """
        from sa_bench.models.checkpoints.load import apply, restore

        if self.origin is not None:
            apply(self, str(path), strength, weights)
        else:
            restore(self, path)
        return self

    def pipeline(self) -> Any:
        """Make a diffusers StableDiffusionPipeline that shares the networks.

        It has no safety checker.
        """
        from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import (
            StableDiffusionPipeline,
        )

        scheduler, _ = self.scheduler(Sampler("ddim", 50))
        networks = (self.vae, self.text, self.tokenizer, self.net)
        parts: tuple[Any, ...] = (*networks, scheduler, None, None)  # no checker, no extractor
        built = StableDiffusionPipeline(*parts, requires_safety_checker=False)
        built.set_progress_bar_config(disable=True)
        return built
