"""What the diffusion models here share: guidance and the sampler's loop, on diffusers' schedulers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from torch import Tensor, nn

from sa_bench.contracts import Condition, Draw, Precision, Request, Sampler
from sa_bench.core.errors import (
    CellFailed,
    SaBenchError,
    first_line,
    is_out_of_memory,
    print_notice,
)
from sa_bench.core.settings import images_at_once
from sa_bench.models import schedule

CHUNK = 64  # images a forward pass on a CPU; larger ones fall out of its cache
CHUNK_GPU = 512
TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def times(draw: Draw) -> Tensor:
    """The draw's timesteps (N,)."""
    if draw.t is None:
        raise TypeError("a diffusion model's draw carries timesteps")
    return draw.t


@contextmanager
def _without_tf32() -> Iterator[None]:
    allowed = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = allowed


def cast(precision: Precision, device: torch.device) -> AbstractContextManager[Any]:
    """torch.autocast to `precision`; fp32: whatever already holds, without TF32, which would move images by grey levels.

    Inside another autocast the casts of weights are not kept: they would be of the wrong type.

    Raises:
        SaBenchError: fp16 on a CPU.
    """
    if precision == "fp32":
        return nullcontext() if device.type == "cpu" else _without_tf32()
    if precision == "fp16" and device.type == "cpu":
        raise SaBenchError(
            "A CPU does not sample in fp16: --set task.sampler.precision=bf16, or fp32."
        )
    alone = not torch.is_autocast_enabled(device.type)
    return torch.autocast(device.type, TYPES[precision], cache_enabled=alone)


def grey_levels(x: Tensor) -> np.ndarray:
    """uint8 (N, H, W, C) of pixels (N, C, H, W) in [-1, 1]; an image with a value that is not finite is black."""
    x = x.detach().float()
    wrong = ~torch.isfinite(x).flatten(1).all(1)
    x = torch.where(wrong.view(-1, 1, 1, 1), -1.0, x).cpu()
    grey = ((x.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return np.ascontiguousarray(grey.permute(0, 2, 3, 1).numpy())


class Denoising:
    """Sampling, given what a network predicts; a base class of the diffusion models."""

    samples_are_cheap = False  # drawn once and kept

    timesteps: int  # T
    betas: dict[str, Any]  # what diffusers' schedulers are told of the noise
    alphas: Tensor  # (T,) ᾱ
    chunk: ClassVar[int] = CHUNK
    chunk_gpu: ClassVar[int] = CHUNK_GPU

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of model space."""
        raise NotImplementedError

    def grid(self, size: tuple[int, int] | None) -> tuple[int, ...]:
        """(C, H, W) of model space for an image of `size` (height, width) in pixels; None: the model's own.

        Raises:
            SaBenchError: the model cannot make that size.
        """
        own = tuple(self.shape[1:])
        if size is not None and tuple(size) != own:
            raise SaBenchError(
                f"This model makes images of {own[0]} x {own[1]} pixels only, not {size[0]} x {size[1]}."
            )
        return self.shape

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        raise NotImplementedError

    def conditions(self, values: Sequence[Condition] | np.ndarray | Tensor) -> Tensor:
        """`values` as one row of integers each."""
        raise NotImplementedError

    def nulls(self, c: Tensor) -> Tensor:
        """The null condition, as often as there are rows in `c`."""
        raise NotImplementedError

    def network(self, sampler: Sampler) -> nn.Module:
        """The network that samples."""
        raise NotImplementedError

    def output(self, net: Any, x_t: Tensor, t: Tensor, c: Tensor) -> Tensor:
        """What `net` answers, in the scheduler's terms (ε or v), the shape of `x_t`."""
        raise NotImplementedError

    def dropout_seed(self, rng: torch.Generator) -> int | None:
        """Draw a seed for dropout; None, and nothing drawn: the network has none, or is not being trained."""
        return None

    @contextmanager
    def with_dropout(self, seed: int | None) -> Iterator[None]:
        """Dropout's randomness from `seed` alone; the global generator stays as it was."""
        if seed is None:
            yield
            return
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            torch.manual_seed(seed)
            yield

    def add_noise(self, x: Tensor, draw: Draw) -> Tensor:
        """x_t = √ᾱ_t x + √(1 − ᾱ_t) ε (Ho et al. 2020, Eq. 4)."""
        a = self.alphas[times(draw)][:, None, None, None]
        return a.sqrt() * x + (1 - a).sqrt() * draw.noise

    def antithetic(self, n: int, rng: torch.Generator) -> Tensor:
        """Timesteps (n,) in pairs t and T − 1 − t."""
        half = torch.randint(self.timesteps, (n // 2 + 1,), generator=rng)
        return torch.cat([half, self.timesteps - 1 - half])[:n]

    def sample(self, requests: Sequence[Request], sampler: Sampler) -> Tensor:
        """One image a request, (N, C, H, W) in model space; all noise of an image from its own generator.

        Raises:
            SaBenchError: a size that the model cannot make, or more than one.
        """
        shapes, parts = {self.grid(r.size) for r in requests}, []
        if len(shapes) > 1:
            raise SaBenchError(
                f"The images of one set have one size; {len(shapes)} were asked for."
            )
        shape = shapes.pop() if shapes else self.shape
        done, n = 0, images_at_once() or self.together
        while done < len(requests):
            rows = requests[done : done + n]
            try:
                parts.append(self._sampled(rows, shape, sampler))
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                n = self._fewer(len(rows), error)
                continue
            done += len(rows)
        return torch.cat(parts) if parts else torch.empty(0, *self.shape)

    def _sampled(self, rows: Sequence[Request], shape: tuple[int, ...], sampler: Sampler) -> Tensor:
        """The images of `rows` in one pass, (N, *shape)."""
        rngs = [torch.Generator().manual_seed(r.seed) for r in rows]
        x = torch.cat([torch.randn(1, *shape, generator=g) for g in rngs])
        c = self.conditions([r.condition for r in rows])
        given = [r.guidance for r in rows if r.guidance is not None]
        s = torch.tensor([sampler.guidance if r.guidance is None else r.guidance for r in rows])
        guidance = s.view(-1, 1, 1, 1).to(self.device) if given else sampler.guidance
        return self._denoise(x.to(self.device), c, guidance, sampler, rngs)

    def _fewer(self, tried: int, error: BaseException) -> int:
        """Half of the images that memory did not do for, said aloud.

        Raises:
            CellFailed: it was one.
        """
        if tried == 1:
            raise CellFailed(
                f"Out of memory while sampling one image at a time on {self.device} ({first_line(error)}). Close what else "
                "uses it, take a smaller --set task.size or --set task.sampler.precision=fp16, or another --device."
            ) from error
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        print_notice(
            f"out of memory with {tried} images at once; trying {tried // 2} "
            f"(SA_BENCH_IMAGES_AT_ONCE={tried // 2} begins so)."
        )
        return tried // 2

    @property
    def together(self) -> int:
        """Images a forward pass."""
        return self.chunk if self.device.type == "cpu" else self.chunk_gpu

    def simulate(self, c: Tensor, rng: torch.Generator, sampler: Sampler) -> Tensor:
        """Bulk samples, (N, C, H, W) in model space."""
        return torch.cat(
            [
                self.sample_until(part, sampler.steps, rng, sampler)
                for part in c.split(self.together)
            ]
        )

    def levels(self, sampler: Sampler) -> list[int]:
        """The timesteps of the sampler's steps, from the noisiest."""
        return self.scheduler(sampler)[0].timesteps.tolist()

    def sample_until(self, c: Tensor, k: int, rng: torch.Generator, sampler: Sampler) -> Tensor:
        """X after the first `k` of the sampler's steps, (N, C, H, W)."""
        x = torch.randn(len(c), *self.shape, generator=rng).to(self.device)
        return self._denoise(x, c, sampler.guidance, sampler, rng, until=k)

    def finish(self, x_t: Tensor, c: Tensor, level: int, sampler: Sampler) -> Tensor:
        """The sampler's remaining steps from `x_t` at timestep `level`, without new noise."""
        quiet = replace(sampler, scheduler="ddim", eta=0.0, dropout=False)
        steps, rng = self.levels(quiet), torch.Generator()
        start = next((i for i, t in enumerate(steps) if t <= level), len(steps))
        return self._denoise(x_t, c, sampler.guidance, quiet, rng, start=start)

    @torch.no_grad()
    def _denoise(
        self,
        x: Tensor,
        c: Tensor,
        guidance: Tensor | float,
        sampler: Sampler,
        rng: torch.Generator | list[torch.Generator],
        until: int | None = None,
        start: int = 0,
    ) -> Tensor:
        """The sampler's steps from number `start` to number `until`."""
        net, guided = self.network(sampler), self._guide(sampler)
        scheduler, further = self.scheduler(sampler)
        first = rng[0] if isinstance(rng, list) else rng
        seed = int(torch.randint(2**62, (1,), generator=first)) if sampler.dropout else None
        net.train(sampler.dropout)
        try:
            with self.with_dropout(seed), cast(sampler.precision, x.device):
                for t in scheduler.timesteps.tolist()[start:until]:
                    out = guided(net, x, torch.full((len(x),), t, device=x.device), c, guidance)
                    if sampler.precision != "fp32":
                        out = out.float()  # the scheduler's own arithmetic is not reduced
                    x = scheduler.step(out, t, x, generator=rng, **further).prev_sample  # type: ignore[arg-type]
        finally:
            net.eval()
        return x

    def scheduler(self, sampler: Sampler) -> tuple[DDIMScheduler | DDPMScheduler, dict[str, float]]:
        """Diffusers' scheduler with its timesteps set, and what its `step` takes besides.

        Raises:
            SaBenchError: another scheduler than `ddim` and `ddpm`, or more steps than T.
        """
        shared: dict[str, Any] = {"num_train_timesteps": self.timesteps, "clip_sample": False}
        shared |= {"timestep_spacing": "trailing"} | self.betas
        spacing = (shared["timestep_spacing"], shared.get("steps_offset", 0))
        if 1 <= sampler.steps <= self.timesteps and (
            wrong := schedule.fault(*spacing, sampler.steps)
        ):
            raise SaBenchError(f"task.sampler.steps={sampler.steps}: {wrong}.")
        if sampler.scheduler not in ("ddim", "ddpm") or not 1 <= sampler.steps <= self.timesteps:
            raise SaBenchError(
                f"A diffusion model samples with scheduler ddim or ddpm in 1..{self.timesteps} steps, not "
                f"{sampler.scheduler!r} in {sampler.steps}: --set task.sampler.scheduler=ddim --set task.sampler.steps=50."
            )
        ddim = sampler.scheduler == "ddim"
        if not ddim:
            shared.pop("set_alpha_to_one", None)
        scheduler = DDIMScheduler(**shared) if ddim else DDPMScheduler(**shared)
        scheduler.set_timesteps(sampler.steps)
        return scheduler, {"eta": sampler.eta} if ddim else {}

    def _guide(self, sampler: Sampler) -> Any:
        """What guides the steps of one trajectory: (net, x, t, c, s) -> out."""
        return self._guided

    def _guided(self, net: Any, x: Tensor, t: Tensor, c: Tensor, s: Tensor | float) -> Tensor:
        """out(null) + s (out(c) − out(null)); one pass where s = 1."""
        if isinstance(s, float) and s == 1.0:
            return self.output(net, x, t, c)
        both = torch.cat([self.nulls(c), c])
        free, on = self.output(net, torch.cat([x, x]), torch.cat([t, t]), both).chunk(2)
        return free + s * (on - free)
