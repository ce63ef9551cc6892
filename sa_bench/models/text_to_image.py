"""Generator `text_to_image`: latent diffusion from prompts, the parts of diffusers' StableDiffusionPipeline.

Only the U-Net is trained by forgetting; autoencoder and text encoder stay as they are. A condition is a prompt, kept
as the row of its token numbers; an integer c means the bare name of the task's class c. Model space is the
autoencoder's latents times its scaling factor. The loss is the mean over latent values, as in the official
sd/ldm/models/diffusion (λ = 50 means nothing with a sum).

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
from sa_bench.models import micro_pipeline
from sa_bench.models.checkpoints.layouts import Weights
from sa_bench.models.denoising import Denoising, cast, grey_levels, times
from sa_bench.models.guidance import plain
from sa_bench.models.phrases import Phrase, replaced
from sa_bench.models.scopes import within

T = 1000
CACHE = 256 * 2**20  # bytes of encoded prompts kept


class TextToImage(Denoising):
    """The latent diffusion model behind the Generator contract."""

    family = "text_to_image"
    recipes = micro_pipeline.RECIPES
    range = (-3.0, 3.0)  # of latents, about; they have no bounds
    timesteps = T
    null = ""

    def __init__(self, base: str = "micro", words: Sequence[str] = (), seed: int = 0) -> None:
        """A newly initialised micro model; the initialisation depends on `seed` alone.

        Args:
            base: recipe, and with it the networks.
            words: the names of the task's classes, which integer conditions stand for.
            seed: of the initialisation.
        """
        sizes = micro_pipeline.SIZES[base]
        tokenizer = micro_pipeline.tokenizer()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            parts = (
                micro_pipeline.autoencoder(sizes),
                micro_pipeline.text_encoder(sizes, tokenizer),
                micro_pipeline.unet(sizes),
            )
        self._assemble(base, words, tokenizer, *parts, micro_pipeline.SCHEDULE)

    def _assemble(
        self,
        base: str,
        words: Sequence[str],
        tokenizer: Any,
        vae: Any,
        text: Any,
        unet: Any,
        schedule: Mapping[str, Any],
    ) -> None:
        self.base, self.words, self.tokenizer = base, tuple(words), tokenizer
        self.vae, self.text, self.net = vae.eval(), text.eval(), unet.eval()
        if settings.gradient_checkpointing():
            self.net.enable_gradient_checkpointing()
        # a tokenizer without its configuration knows no limit
        places = text.config.max_position_embeddings
        tokenizer.model_max_length = min(tokenizer.model_max_length, places)
        for frozen in (self.vae, self.text):
            frozen.requires_grad_(False)
        self.betas = dict(schedule)
        plain = {k: self.betas[k] for k in ("beta_start", "beta_end", "beta_schedule")}
        self.alphas: Tensor = DDPMScheduler(num_train_timesteps=T, **plain).alphas_cumprod
        self.velocity = self.betas.get("prediction_type") == "v_prediction"
        self.origin: Callable[[], Mapping[str, Tensor]] | None = None
        """Reads θ* again, which `save` writes the difference from; None: a new model."""
        self.substituted: tuple[tuple[int, ...], Tensor] | None = None
        self.precision: Precision = "fp32"  # that `to_images` decodes in
        self.prompt_filter: tuple[tuple[str, ...], str] | None = (
            None  # a filter of prompts: (words, what they become)
        )
        self.defence: Defence | None = None  # of a method that acts at sampling
        self.forget_texts()

    @classmethod
    def of(cls, load: Callable[[], Any], base: str, words: Sequence[str] = ()) -> Self:
        """The model in a diffusers pipeline.

        Args:
            load: gives the pipeline (a StableDiffusionPipeline), and again whenever θ* is needed anew.
            base: a name for it.
            words: the names of the task's classes.
        """
        pipeline, made = load(), cls.__new__(cls)
        made._assemble(
            base,
            words,
            pipeline.tokenizer,
            pipeline.vae,
            pipeline.text_encoder,
            pipeline.unet,
            {k: v for k, v in pipeline.scheduler.config.items() if k in micro_pipeline.SCHEDULE},
        )
        made.origin = lambda: cls.of(load, base, words).state()
        return made

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of the latents."""
        side = self.net.config["sample_size"]
        return (self.net.config["in_channels"], side, side)

    @property
    def reduction(self) -> int:
        """Pixels of an image along a side for one of the latents."""
        return 2 ** (len(self.vae.config["block_out_channels"]) - 1)

    def grid(self, size: tuple[int, int] | None) -> tuple[int, ...]:
        """(C, H, W) of the latents of an image of `size`.

        Args:
            size: (height, width) in pixels; None: the model's own.

        Raises:
            SaBenchError: not a multiple of the autoencoder's reduction; names the nearest that is.
        """
        if size is None:
            return self.shape
        k = self.reduction
        if any(side <= 0 or side % k for side in size):
            near = " x ".join(str(max(1, round(side / k)) * k) for side in size)
            asked = " x ".join(map(str, size))
            raise SaBenchError(
                f"Height and width must be multiples of {k}, not {asked}; the nearest size is {near}."
            )
        return (self.shape[0], *(side // k for side in size))

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(self.net.parameters()).device

    @property
    def embeddings(self) -> Tensor:
        """The table of token embeddings, (vocabulary, width)."""
        return self.text.get_input_embeddings().weight

    @property
    def together(self) -> int:
        """Images a forward pass: one of 512 pixels on a CPU, eight on a GPU; more of smaller ones."""
        small = self.shape[1] <= 16
        return (32 if small else 1) if self.device.type == "cpu" else (512 if small else 8)

    @property
    def decoded(self) -> int:
        """Images the autoencoder takes at a time: large ones singly, since its full-size layers need GiB for each."""
        return self.together if self.shape[1] <= 16 else 1

    def fresh(self, seed: int) -> TextToImage:
        """A newly initialised text encoder and U-Net around the same autoencoder, on the same device."""
        new = TextToImage(self.base, self.words, seed)
        new.vae.load_state_dict(self.vae.state_dict())
        new.vae.register_to_config(scaling_factor=self.scaling)
        new.precision = self.precision
        return new.to(str(self.device))

    def to(self, device: str) -> Self:
        """Move to `device`."""
        for part in (self.vae, self.text, self.net):
            nn.Module.to(part, device)
        self.alphas = self.alphas.to(device)
        self.forget_texts()
        return self

    @property
    def scaling(self) -> float:
        """What latents are multiplied by."""
        return float(self.vae.config["scaling_factor"])

    def draw(self, n: int, rng: torch.Generator, t: Tensor | None = None) -> Draw:
        """Timesteps (n,), antithetic pairs unless given, and ε (n, C, H, W)."""
        t = self.antithetic(n, rng) if t is None else t
        noise = torch.randn(n, *self.shape, generator=rng)
        return Draw(noise.to(self.device, non_blocking=True), t.to(self.device, non_blocking=True))

    def conditions(self, values: Sequence[Condition] | np.ndarray | Tensor) -> Tensor:
        """(N, length) int64 token numbers of prompts; integers are the classes' bare names.

        Raises:
            SaBenchError: an integer that is no class.
        """
        if isinstance(values, Tensor) and values.ndim == 2:
            return values.to(self.device)
        texts = [
            self._text(v)
            for v in (values.tolist() if isinstance(values, np.ndarray | Tensor) else values)
        ]
        rows = self.tokenizer(
            texts,
            padding="max_length",
            truncation=True,
            max_length=self.tokenizer.model_max_length,
            return_tensors="pt",
        )
        return rows.input_ids.to(self.device)

    def _text(self, value: Condition) -> str:
        if isinstance(value, str):
            if self.prompt_filter is None or self.substituted is not None:
                return value
            words, other = self.prompt_filter
            return re.sub(
                "|".join(map(re.escape, words)), lambda _: other, value, flags=re.IGNORECASE
            )
        if not 0 <= value < len(self.words):
            raise SaBenchError(
                f"Class labels must be whole numbers 0..{len(self.words) - 1}, got {value}."
            )
        return self._text(self.words[int(value)])

    def tokens_of(self, text: str) -> tuple[int, ...]:
        """The token numbers of `text` without the first and last of a prompt.

        Raises:
            SaBenchError: it is empty.
        """
        found = tuple(self.tokenizer(text).input_ids[1:-1])
        if not found:
            raise SaBenchError("An empty phrase has no tokens.")
        return found

    def truncated_prompts(self, texts: Sequence[str]) -> list[int]:
        """Which of the prompts lose their tail: they have more tokens than the text encoder has places."""
        if not texts:
            return []
        rows = self.tokenizer([self._text(text) for text in texts], verbose=False).input_ids
        return [i for i, row in enumerate(rows) if len(row) > self.tokenizer.model_max_length]

    def nulls(self, c: Tensor) -> Tensor:
        """The empty prompt, as often as there are rows in `c`."""
        return self.conditions([self.null]).expand(len(c), -1)

    def network(self, sampler: Sampler) -> nn.Module:
        """The U-Net."""
        return self.net

    def encoded(self, c: Tensor) -> Tensor:
        """The text encoder's states, (N, length, width); kept for prompts seen before, under each precision."""
        if self.substituted is not None or next(self.text.parameters()).requires_grad:
            return self._states(c)
        kind = self.device.type
        type_ = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else torch.float32
        rows = [(type_, bytes(row.cpu().numpy().tobytes())) for row in c]
        new = {row: i for i, row in enumerate(rows) if row not in self._texts}
        if new:
            with torch.no_grad():
                states = torch.cat([self._states(part) for part in c[list(new.values())].split(64)])
            self._texts.update(zip(new, states, strict=True))
        found = torch.stack([self._texts[row] for row in rows])
        while len(self._texts) * found[0].nbytes > CACHE:
            self._texts.popitem(last=False)
        return found

    def forget_texts(self) -> None:
        """Drop every kept text: the encoder has changed."""
        self._texts: OrderedDict[tuple[torch.dtype, bytes], Tensor] = OrderedDict()

    def _states(self, c: Tensor) -> Tensor:
        if self.substituted is None:
            return self.text(c)[0]
        tokens, vectors = self.substituted
        c, where = replaced(c, tokens, len(vectors), self.tokenizer.eos_token_id)

        def put(module: nn.Module, args: Any, out: Tensor) -> Tensor:
            return torch.where((where >= 0)[..., None], vectors[where.clamp(min=0)], out)

        handle = self.text.get_input_embeddings().register_forward_hook(put)
        try:
            return self.text(c)[0]
        finally:
            handle.remove()

    def output(self, net: Any, x_t: Tensor, t: Tensor, c: Tensor) -> Tensor:
        """The U-Net's answer, ε or v as the model's own scheduler has it."""
        return net(x_t, t, encoder_hidden_states=self.encoded(c)).sample

    def _passes(
        self, net: Any, x_t: Tensor, t: Tensor, texts: Sequence[Tensor]
    ) -> Sequence[Tensor]:
        """The U-Net's answers to the states of several texts, (N or 1, length, width) each, in one pass."""
        n, k = len(x_t), len(texts)
        states = torch.cat([text.to(x_t.device).expand(n, -1, -1) for text in texts])
        return net(
            torch.cat([x_t] * k), torch.cat([t] * k), encoder_hidden_states=states
        ).sample.chunk(k)

    def _others(self, c: Tensor) -> tuple[Tensor, ...]:
        """The states that guidance asks with beside c's: the empty prompt's, or a defence's in its place or after it."""
        if self.defence is not None and self.defence.instead:
            return (self.defence.states,)
        return (
            self.encoded(self.nulls(c[:1])),
            *([] if self.defence is None else [self.defence.states]),
        )

    def _guide(self, sampler: Sampler) -> Any:
        """Plain guidance or the defence's, begun anew."""
        if self.defence is None:
            return self._guided
        guide = self.defence.along(self.levels(sampler))

        def defended(net: Any, x: Tensor, t: Tensor, c: Tensor, s: Tensor | float) -> Tensor:
            if isinstance(s, float) and s == 1.0:
                return self.output(net, x, t, c)
            free, *own = self._others(c)
            return guide(self._passes(net, x, t, (free, self.encoded(c), *own)), t, s)

        return defended

    def _asked(self, x_t: Tensor, t: Tensor, c: Tensor, sampler: Sampler | None) -> Tensor:
        """The U-Net's answer; with a sampler the guided one, any defence's part in it included."""
        on = self.output(self.net, x_t, t, c)
        if sampler is None or sampler.guidance == 1:
            return on
        guide = plain if self.defence is None else self.defence.anywhere(self.levels(sampler))
        with torch.no_grad():  # what is fitted is c's own: the others do not depend on it
            free, *own = self._passes(self.net, x_t, t, self._others(c))
        return guide((free, on, *own), t, sampler.guidance)

    def predict(self, x_t: Tensor, t: Tensor, c: Tensor, sampler: Sampler | None = None) -> Tensor:
        """ε̂(x_t, t, c), (N, C, H, W), whatever the network predicts; with a sampler under its guidance."""
        out = self._asked(x_t, t, c, sampler)
        if not self.velocity:
            return out
        a = self.alphas[t][:, None, None, None]
        return a.sqrt() * out + (1 - a).sqrt() * x_t

    @property
    def uninformed(self) -> float:
        """1, the mean of ε², and of v² where latents have variance 1: what predicting 0 leaves."""
        return 1.0

    def loss(self, x: Tensor, c: Tensor, draw: Draw, sampler: Sampler | None = None) -> Tensor:
        """The mean over latent values of (target − output)², (N,); the target is ε or v (Salimans & Ho 2022).

        With a sampler it is the guided output's; gradients flow through out(c) alone.
        """
        target = draw.noise
        if self.velocity:
            a = self.alphas[times(draw)][:, None, None, None]
            target = a.sqrt() * draw.noise - (1 - a).sqrt() * x
        error = self._asked(self.add_noise(x, draw), times(draw), c, sampler).float() - target
        return (error**2).flatten(1).mean(1)

    @torch.no_grad()
    def to_images(self, x: Tensor) -> np.ndarray:
        """uint8 (N, H, W, 3), decoded in `precision`; an image is black if a latent or a pixel of it is not finite."""
        with cast(self.precision, self.device):
            parts = [
                grey_levels(self.vae.decode(part / self.scaling).sample)
                for part in x.to(self.device).split(self.decoded)
            ]
        return np.concatenate(parts)

    @torch.no_grad()
    def encode(self, images: np.ndarray) -> Tensor:
        """uint8 (N, H, W, 3) to latents (N, C, H / 8, W / 8): the mode of the autoencoder's posterior.

        Raises:
            SaBenchError: another type or shape.
        """
        side = self.shape[1] * self.reduction
        if images.dtype != np.uint8 or images.shape[1:] != (side, side, 3):
            raise SaBenchError(
                f"This model takes uint8 images of shape (N, {side}, {side}, 3), got {images.dtype} {images.shape}."
            )
        x = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).to(self.device)
        parts = [
            self.vae.encode(p.float() / 127.5 - 1).latent_dist.mode() for p in x.split(self.decoded)
        ]
        return torch.cat(parts) * self.scaling

    def parameters(self, scope: str = "full") -> dict[str, nn.Parameter]:
        """The U-Net's parameters of a scope by name; `joint` adds the text encoder's, under `text_encoder.`."""
        if scope == "joint":
            self.text.requires_grad_(True)
            joint = {f"text_encoder.{k}": p for k, p in self.text.named_parameters()}
            return dict(self.net.named_parameters()) | joint
        return within(self.net, scope)

    def averages(self) -> None:
        """There are none."""

    def condition(self, c: Condition) -> Phrase:
        """The slot of a phrase, or of the name of class `c`."""
        return Phrase(self, c if isinstance(c, str) else self.words[int(c)])

    def clone(self) -> Self:
        """An independent copy; the autoencoder, which nothing changes, is shared."""
        return copy.deepcopy(self, {id(self.vae): self.vae})

    def state(self) -> dict[str, Tensor]:
        """Every tensor, under `unet.`, `text_encoder.` and `vae.`, and the scaling factor."""
        parts = {"unet": self.net, "text_encoder": self.text, "vae": self.vae}
        found = {
            f"{name}.{k}": v.detach()
            for name, part in parts.items()
            for k, v in part.state_dict().items()
        }
        return found | {"vae.scaling_factor": torch.tensor(self.scaling, dtype=torch.float64)}

    def save(self, folder: Path) -> None:
        """Write `model.safetensors`: of a model that was loaded, the tensors that differ from what was loaded."""
        state = {k: v.cpu().contiguous() for k, v in self.state().items()}
        if self.origin is not None:
            known = self.origin()
            state = {
                k: v for k, v in state.items() if not torch.equal(v, known[k].to(v.dtype).cpu())
            }
        write_atomic(folder / "model.safetensors", save(state))

    def load(self, path: Path, strength: float = 1.0, weights: Weights = "auto") -> Self:
        """Read `model.safetensors` in a folder, or one file: a whole model first, then a checkpoint to put onto it.

        What comes second may have any layout of Stable Diffusion (`checkpoints.layout`), or be what differs;
        `strength` and `weights` are its, as in `checkpoints.apply`.

        Raises:
            SaBenchError: a tensor is unknown, missing, of another shape or not finite; names the file.
        """
        from sa_bench.models.checkpoints.load import apply, restore

        if self.origin is not None:
            apply(self, str(path), strength, weights)
        else:
            restore(self, path)
        return self

    def pipeline(self) -> Any:
        """The parts as a diffusers StableDiffusionPipeline without a safety checker; they are shared."""
        from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import (
            StableDiffusionPipeline,
        )

        scheduler: Any = self.scheduler(Sampler("ddim", 50))[0]
        absent: Any = None  # a safety checker, and what it looks at
        made = StableDiffusionPipeline(
            self.vae,
            self.text,
            self.tokenizer,
            self.net,
            scheduler,
            absent,
            absent,
            requires_safety_checker=False,
        )
        made.set_progress_bar_config(disable=True)
        return made
