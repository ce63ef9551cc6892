"""Share guidance and the sampling loop between the diffusion models, on diffusers' schedulers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_ddim_inverse import DDIMInverseScheduler
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
from sa_bench.models.guidance import plain

CHUNK = 64  # images per forward pass on a CPU; more exceed its cache
CHUNK_GPU = 512
TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def times(draw: Draw) -> Tensor:
    """Return the draw's timesteps (N,)."""
    if draw.t is None:
        raise TypeError("a diffusion model's draw carries timesteps")
    return draw.t


@contextmanager
def _without_tf32() -> Iterator[None]:
    """Switch TF32 off within the block."""
    allowed = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = allowed


def cast(precision: Precision, device: torch.device) -> AbstractContextManager[Any]:
    """Autocast to `precision` within the block.

    fp32 changes nothing but switches TF32 off, which would change images by grey levels. Inside
    another autocast the casts of weights are not cached: they would have the wrong type.

    Raises:
        SaBenchError: fp16 on a CPU.
    """
    if precision == "fp32":
        return nullcontext() if device.type == "cpu" else _without_tf32()
    if precision == "fp16" and device.type == "cpu":
        raise SaBenchError(
            "A CPU cannot sample in fp16: --set task.sampler.precision=bf16, or fp32."
        )
    is_outermost = not torch.is_autocast_enabled(device.type)
    return torch.autocast(device.type, TYPES[precision], cache_enabled=is_outermost)


def grey_levels(x: Tensor) -> np.ndarray:
    """Convert pixels (N, C, H, W) in [-1, 1] to uint8 (N, H, W, C).

    An image with a value that is not finite becomes black.
    """
    x = x.detach().float()
    not_finite = ~torch.isfinite(x).flatten(1).all(1)
    x = torch.where(not_finite.view(-1, 1, 1, 1), -1.0, x).cpu()
    grey = ((x.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return np.ascontiguousarray(grey.permute(0, 2, 3, 1).numpy())


class Denoising:
    """Base class of the diffusion models: sampling, given what a network predicts."""

    black_is_broken = False

    timesteps: int  # T
    betas: dict[str, Any]  # noise settings of diffusers' schedulers
    alphas: Tensor  # (T,) ᾱ

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape (C, H, W) of model space."""
        raise NotImplementedError

    def grid(self, size: tuple[int, int] | None) -> tuple[int, ...]:
        """Return (C, H, W) of model space for an image of `size`.

        Args:
            size: (height, width) in pixels; None for the model's own.

        Raises:
            SaBenchError: the model cannot make that size.
        """
        own_size = tuple(self.shape[1:])
        if size is not None and tuple(size) != own_size:
            raise SaBenchError(
                f"This model makes images of {own_size[0]} x {own_size[1]} pixels only, not {size[0]} x {size[1]}."
            )
        return self.shape

    @property
    def device(self) -> torch.device:
        """Device of the parameters."""
        raise NotImplementedError

    def conditions(self, values: Sequence[Condition] | np.ndarray | Tensor) -> Tensor:
        """Convert `values` to one row of integers each."""
        raise NotImplementedError

    def nulls(self, c: Tensor) -> Tensor:
        """Return the null condition for each row of `c`."""
        raise NotImplementedError

    def network(self, sampler: Sampler) -> nn.Module:
        """Return the network that samples."""
        raise NotImplementedError

    def output(self, net: Any, x_t: Tensor, t: Tensor, c: Tensor) -> Tensor:
        """Compute the output of `net` (ε or v, as the scheduler expects), in the shape of `x_t`."""
        raise NotImplementedError

    def dropout_seed(self, rng: torch.Generator) -> int | None:
        """Draw a seed for dropout.

        Returns:
            The seed; None, with nothing drawn, if the network has no dropout or is not being
                trained.
        """
        return None

    @contextmanager
    def with_dropout(self, seed: int | None) -> Iterator[None]:
        """Take dropout's randomness within the block from `seed` alone.

        torch's global generator stays as it was.
        """
        if seed is None:
            yield
            return
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            torch.manual_seed(seed)
            yield

    def add_noise(self, x: Tensor, draw: Draw) -> Tensor:
        """Compute x_t = √ᾱ_t x + √(1 − ᾱ_t) ε (Ho et al. 2020, Eq. 4)."""
        a = self.alphas[times(draw)][:, None, None, None]
        return a.sqrt() * x + (1 - a).sqrt() * draw.noise

    def antithetic(self, n: int, rng: torch.Generator) -> Tensor:
        """Draw timesteps (n,) in pairs t and T − 1 − t."""
        half = torch.randint(self.timesteps, (n // 2 + 1,), generator=rng)
        return torch.cat([half, self.timesteps - 1 - half])[:n]

    def sample(self, requests: Sequence[Request], sampler: Sampler) -> Tensor:
        """Sample one image per request, (N, C, H, W) in model space, each from its own generator.

        If memory runs out, fewer images are sampled at once. With dropout the images of a pass share
        its randomness: then as many go through at once on every machine.

        Raises:
            SaBenchError: a size that the model cannot make, or more than one size.
            CellFailed: there is not enough memory.
        """
        shapes, samples = {self.grid(request.size) for request in requests}, []
        if len(shapes) > 1:
            raise SaBenchError(f"The images of one set must have one size, not {len(shapes)}.")
        shape = shapes.pop() if shapes else self.shape
        fixed = self.per_pass[0] if sampler.dropout else None
        done, batch_size = 0, fixed or images_at_once() or self.together
        while done < len(requests):
            batch = requests[done : done + batch_size]
            try:
                samples.append(self._sample_batch(batch, shape, sampler))
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                batch_size = self._halve_batch(len(batch), error, fixed)
                continue
            done += len(batch)
        return torch.cat(samples) if samples else torch.empty(0, *self.shape)

    def drawn_with(self, row: int, n: int, sampler: Sampler) -> range:
        """List which of the `n` rows of a set have to be sampled with `row` for it to be the same image.

        With dropout those of its pass, which share dropout's randomness; else the row alone.
        """
        size = self.per_pass[0] if sampler.dropout else 1
        start = row // size * size
        return range(start, min(start + size, n))

    def _sample_batch(
        self, requests: Sequence[Request], shape: tuple[int, ...], sampler: Sampler
    ) -> Tensor:
        """Sample the images of `requests` in one pass, (N, *shape)."""
        rngs = [torch.Generator().manual_seed(request.seed) for request in requests]
        x = torch.cat([torch.randn(1, *shape, generator=rng) for rng in rngs])
        c = self.conditions([request.condition for request in requests])
        own_guidance = [request.guidance for request in requests if request.guidance is not None]
        s = torch.tensor(
            [
                sampler.guidance if request.guidance is None else request.guidance
                for request in requests
            ]
        )
        guidance = s.view(-1, 1, 1, 1).to(self.device) if own_guidance else sampler.guidance
        return self._denoise(x.to(self.device), c, guidance, sampler, rngs)

    def _halve_batch(self, batch_size: int, error: BaseException, fixed: int | None) -> int:
        """Halve the number of images per pass after memory ran out, with a notice.

        Raises:
            CellFailed: it was one already, or another number would be other images (`fixed`).
        """
        if batch_size == 1 or fixed:
            many = (
                f"{fixed} images at once, which share dropout's randomness,"
                if fixed
                else "one image at a time"
            )
            raise CellFailed(
                f"Out of memory while sampling {many} on {self.device} ({first_line(error)}). Close what else "
                "uses it, take a smaller --set task.size or --set task.sampler.precision=fp16, or another --device."
            ) from error
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        print_notice(
            f"out of memory with {batch_size} images at once; trying {batch_size // 2} "
            f"(SA_BENCH_IMAGES_AT_ONCE={batch_size // 2} begins so)."
        )
        self.divided = max(self.divided, self.together // (batch_size // 2))
        return batch_size // 2

    divided = 1
    """Into how many passes it had to divide what it samples at once, since memory ran out."""

    @property
    def per_pass(self) -> tuple[int, int]:
        """Images per forward pass on a CPU and on a GPU."""
        return CHUNK, CHUNK_GPU

    @property
    def together(self) -> int:
        """Images per forward pass on this device."""
        cpu, gpu = self.per_pass
        return cpu if self.device.type == "cpu" else gpu

    def simulate(self, c: Tensor, rng: torch.Generator, sampler: Sampler) -> Tensor:
        """Draw many samples, (N, C, H, W) in model space, from one generator.

        Where the sampler adds noise at its steps, as many go through at once on every machine: the
        generator serves one pass after the other.
        """
        adds_noise = sampler.scheduler == "ddpm" or sampler.eta > 0 or sampler.dropout
        size = self.per_pass[0] if adds_noise else self.together
        return torch.cat(
            [self.sample_until(chunk, sampler.steps, rng, sampler) for chunk in c.split(size)]
        )

    def levels(self, sampler: Sampler) -> list[int]:
        """Return the timesteps of the sampler's steps, from the noisiest on."""
        return self.scheduler(sampler)[0].timesteps.tolist()

    def sample_until(self, c: Tensor, k: int, rng: torch.Generator, sampler: Sampler) -> Tensor:
        """Return x after the first `k` of the sampler's steps, (N, C, H, W)."""
        x = torch.randn(len(c), *self.shape, generator=rng).to(self.device)
        return self._denoise(x, c, sampler.guidance, sampler, rng, until=k)

    def finish(self, x_t: Tensor, c: Tensor, level: int, sampler: Sampler) -> Tensor:
        """Take the sampler's remaining steps from `x_t` at timestep `level`, without new noise."""
        noiseless = replace(sampler, scheduler="ddim", eta=0.0, dropout=False)
        steps, rng = self.levels(noiseless), torch.Generator()
        start = next((i for i, t in enumerate(steps) if t <= level), len(steps))
        return self._denoise(x_t, c, sampler.guidance, noiseless, rng, start=start)

    @torch.no_grad()
    def invert(self, x: Tensor, c: Tensor, sampler: Sampler) -> Tensor:
        """Run DDIM backwards from images `x` to the noise x_T that leads to them, without guidance.

        Source: Song et al. 2021 (DDIM), Section 4.3; Mokady et al. 2023, Section 3.
        """
        net = self.network(sampler).eval()
        schedule: dict[str, Any] = {"num_train_timesteps": self.timesteps, "clip_sample": False}
        inverse = DDIMInverseScheduler(**schedule | {"timestep_spacing": "trailing"} | self.betas)
        inverse.set_timesteps(sampler.steps)
        step: Any = inverse.step
        inverted = []
        for latents, conditions in zip(x.split(self.together), c.split(self.together), strict=True):
            x_t = latents
            with cast(sampler.precision, x.device):
                for t in inverse.timesteps.tolist():
                    times_t = torch.full((len(x_t),), max(t, 0), device=x.device)
                    out = self.output(net, x_t, times_t, conditions).float()
                    x_t = step(out, t, x_t).prev_sample
            inverted.append(x_t)
        return torch.cat(inverted)

    @torch.no_grad()
    def inpaint(
        self, x: Tensor, known: Tensor, c: Tensor, rng: torch.Generator, sampler: Sampler
    ) -> Tensor:
        """Fill in the unknown part of `x` (N, C, H, W), by the sampler's steps without new noise.

        Before each step the known part is put back, noised to that step's level (Lugmayr et al.
        2022, RePaint, Algorithm 1, without resampling).

        Args:
            x: images in model space.
            known: True where `x` is given, broadcastable to its shape.
            c: their conditions.
            rng: of the noise, the only randomness.
            sampler: steps and guidance.
        """
        noiseless = replace(sampler, scheduler="ddim", eta=0.0, dropout=False)
        noise = torch.randn(x.shape, generator=rng).to(x.device)
        filled, levels = noise.clone(), self.levels(noiseless)
        for i, level in enumerate(levels):
            t = torch.full((len(x),), level, device=x.device)
            filled = torch.where(known, self.add_noise(x, Draw(noise, t)), filled)
            filled = self._denoise(
                filled, c, sampler.guidance, noiseless, rng, start=i, until=i + 1
            )
        return torch.where(known, x, filled)

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
        """Take the sampler's steps from number `start` to number `until`."""
        net, guided = self.network(sampler), self._guide(sampler)
        scheduler, step_options = self.scheduler(sampler)
        step: Any = scheduler.step  # declared to return a tuple as well
        first_rng = rng[0] if isinstance(rng, list) else rng
        seed = int(torch.randint(2**62, (1,), generator=first_rng)) if sampler.dropout else None
        net.train(sampler.dropout)
        try:
            with self.with_dropout(seed), cast(sampler.precision, x.device):
                for t in scheduler.timesteps.tolist()[start:until]:
                    out = guided(net, x, torch.full((len(x),), t, device=x.device), c, guidance)
                    if sampler.precision != "fp32":
                        out = out.float()  # the scheduler computes in full precision
                    x = step(out, t, x, generator=rng, **step_options).prev_sample
        finally:
            net.eval()
        return x

    def scheduler(self, sampler: Sampler) -> tuple[DDIMScheduler | DDPMScheduler, dict[str, float]]:
        """Build diffusers' scheduler with its timesteps set.

        Returns:
            The scheduler, and the further arguments of its `step`.

        Raises:
            SaBenchError: another scheduler than `ddim` and `ddpm`, or more steps than T.
        """
        shared: dict[str, Any] = {"num_train_timesteps": self.timesteps, "clip_sample": False}
        shared |= {"timestep_spacing": "trailing"} | self.betas
        spacing = (shared["timestep_spacing"], shared.get("steps_offset", 0))
        if 1 <= sampler.steps <= self.timesteps and (
            problem := schedule.fault(*spacing, sampler.steps)
        ):
            raise SaBenchError(f"task.sampler.steps={sampler.steps}: {problem}.")
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
        """Return the function that guides one trajectory's steps: (net, x, t, c, s) -> output."""
        return self._guided

    def _guided(self, net: Any, x: Tensor, t: Tensor, c: Tensor, s: Tensor | float) -> Tensor:
        """Compute out(null) + s (out(c) − out(null)); one pass if s = 1."""
        if isinstance(s, float) and s == 1.0:
            return self.output(net, x, t, c)
        conditions = torch.cat([self.nulls(c), c])
        unconditional, conditional = self.output(
            net, torch.cat([x, x]), torch.cat([t, t]), conditions
        ).chunk(2)
        return plain((unconditional, conditional), t, s)
