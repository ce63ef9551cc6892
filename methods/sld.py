"""`sld`: Safe Latent Diffusion (Schramowski et al., CVPR 2023): guidance away from a concept, nothing trained.

    d   = ε(c) − ε(c_S)                       φ = min(s_S |d|, 1)          μ = φ where d < λ, else 0
    γ_t = μ (ε(c_S) − ε(∅)) + s_m ν_t         ν_{t+1} = β_m ν_t + (1 − β_m) γ_t,   ν_0 = 0
    ε   = ε(∅) + s [ε(c) − ε(∅) − (γ_t from step δ on)]

c_S is the concept's prompt. The paper prints max(1, |φ|); both codes have min. δ counts steps of 50 and is scaled to
the protocol's. Two hooks on the U-Net do it (a third batch in, the safe direction out), so that every pipeline's loop and
scheduler stays as it is. Levels of the authors' README; diffusers' WEAK has s_S = 20.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch

from sa_bench.contracts import Prompted, Run, Sampler, Task

NUMBERS = ("delta", "s_S", "lam", "s_m", "beta_m")  # δ (of 50 steps), s_S, λ, s_m, β_m
LEVELS = {
    "weak": (15, 200.0, 0.0, 0.0, 0.0),
    "medium": (10, 1000.0, 0.01, 0.3, 0.4),
    "strong": (7, 2000.0, 0.025, 0.5, 0.7),
    "max": (0, 5000.0, 1.0, 0.5, 0.7),
}


@dataclass(frozen=True)
class SLD:
    """One of the published levels."""

    level: Literal["weak", "medium", "strong", "max"] = "medium"

    version: ClassVar[int] = 1
    standing: ClassVar[str] = "method"
    supports: ClassVar[type] = Prompted
    needs: ClassVar[tuple[str, ...]] = ()
    deterministic: ClassVar[bool] = True
    ignores: ClassVar[tuple[str, ...]] = ("replay",)
    stands_for: ClassVar[Mapping[str, Any]] = {
        "level": {level: dict(zip(NUMBERS, numbers, strict=True)) for level, numbers in LEVELS.items()}
    }
    source: ClassVar[str] = "Schramowski et al. 2023, Eq. 3-8; ml-research/safe-latent-diffusion"
    presets: ClassVar[Mapping[tuple[str, str], Mapping[str, Any]]] = {}

    def unfit(self, task: Task) -> str:
        """Its direction is taken from the two passes of guidance; at 1 there is only one."""
        return "it acts on guidance, of which there is none at 1" if task.sampler.guidance == 1 else ""

    def forget(self, model: Prompted, task: Task, run: Run) -> Prompted:
        """θ*."""
        return model

    def wrap(self, model: Prompted, task: Task) -> Prompted:
        """θ* whose sampling is guided away from c_f."""
        concept = ", ".join(map(str, task.asked(task.concept, "forget")))
        model.around = lambda asked, sampler: guided(asked, sampler, concept, self.level)
        return model


@contextmanager
def guided(model: Prompted, sampler: Sampler, concept: str, level: str) -> Iterator[None]:
    """While active, the U-Net answers a batch [∅, c] of guidance with [ε(∅), ε(c) − γ]."""
    delta, s_S, lam, s_m, beta_m = LEVELS[level]
    safe, nu, step = model.encoded(model.conditions([concept])), torch.zeros(()), 0

    def add(
        net: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        (x, t, *rest), text = args, kwargs["encoder_hidden_states"]
        n = len(x) // 2
        t = torch.cat([t, t[:n]]) if torch.is_tensor(t) and t.ndim else t
        text = torch.cat([text, safe.to(text).expand(n, -1, -1)])
        return (torch.cat([x, x[:n]]), t, *rest), {**kwargs, "encoder_hidden_states": text}

    def take(net: Any, args: tuple[Any, ...], out: Any) -> Any:
        nonlocal nu, step
        free, on, away = (out[0] if isinstance(out, tuple) else out.sample).chunk(3)
        d = on - away
        mu = torch.where(d < lam, (s_S * d.abs()).clamp(max=1.0), 0.0)
        gamma = mu * (away - free) + s_m * nu.to(on)
        nu = beta_m * nu.to(on) + (1 - beta_m) * gamma
        answer = torch.cat([free, on - gamma if step >= round(delta * sampler.steps / 50) else on])
        step += 1
        return (answer, *out[1:]) if isinstance(out, tuple) else type(out)(sample=answer)

    net = model.net
    hooks = net.register_forward_pre_hook(add, with_kwargs=True), net.register_forward_hook(take)
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
