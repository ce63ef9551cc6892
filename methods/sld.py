"""`sld`: Safe Latent Diffusion (Schramowski et al., CVPR 2023): guidance away from a concept, nothing trained.

    d   = ε(c) − ε(c_S)                       φ = min(s_S |d|, 1)          μ = φ where d < λ, else 0
    γ_t = μ (ε(c_S) − ε(∅)) + s_m ν_t         ν_{t+1} = β_m ν_t + (1 − β_m) γ_t,   ν_0 = 0
    ε   = ε(∅) + s [ε(c) − ε(∅) − (γ_t from step δ on)]

c_S is the concept's prompt. The paper prints max(1, |φ|); both codes have min. δ counts steps of 50 and is scaled to
the protocol's. c_S is encoded once, so that an attack on the users' words cannot reach it.

The authors' README has one of the four levels; the others are from ESD's and MU-Attack's scripts and the paper.
diffusers' WEAK has s_S = 20.

An attack that is fitted to the guided prediction at a random t has no trajectory, and so no ν. There ν is set to the fixed
point of its recursion, ν = γ = μ (ε(c_S) − ε(∅)) / (1 − s_m). While the rest changes little, ν comes within a tenth of it
in 5 (medium) or 15 steps (strong, max); with ν = 0 the attack would be fitted to a weaker defence than the one it meets.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from sa_bench.contracts import Guide, Method, Prompted, Run, Task, added_later

NUMBERS = ("delta", "s_S", "lam", "s_m", "beta_m")  # δ (of 50 steps), s_S, λ, s_m, β_m
LEVELS = {
    "weak": (15, 200.0, 0.0, 0.0, 0.0),
    "medium": (10, 1000.0, 0.01, 0.3, 0.4),
    "strong": (7, 2000.0, 0.025, 0.5, 0.7),
    "max": (0, 5000.0, 1.0, 0.5, 0.7),
}


@dataclass(frozen=True)
class SLD(Method[Prompted]):
    """Fields: one of the published levels, and the text."""

    level: Literal["weak", "medium", "strong", "max"] = "medium"
    concept: str = added_later("")
    """C_S; "" takes the prompts that ask for c_f while forgetting, joined by commas."""

    title: ClassVar[str] = "SLD"
    version: ClassVar[int] = 2
    several: ClassVar[bool] = True
    supports: ClassVar[type] = Prompted
    deterministic: ClassVar[bool] = True
    ignores: ClassVar[tuple[str, ...]] = ("replay",)
    stands_for: ClassVar[Mapping[str, Any]] = {
        "level": {
            level: dict(zip(NUMBERS, numbers, strict=True)) for level, numbers in LEVELS.items()
        }
    }
    source: ClassVar[str] = "Schramowski et al. 2023, Eq. 3-8; ml-research/safe-latent-diffusion"

    def unfit(self, task: Task) -> str:
        """Say why the task's sampler has no guidance to act on; "" if it has.

        The direction is taken from the two passes of guidance; at 1 there is only one.
        """
        if task.sampler.guidance == 1:
            return "it acts on guidance, of which there is none at 1"
        return ""

    def forget(self, model: Prompted, task: Task, run: Run) -> Prompted:
        """Return θ* unchanged."""
        return model

    def wrap(self, model: Prompted, task: Task) -> Prompted:
        """Guide the sampling of θ* away from c_f."""
        concept = self.concept or ", ".join(map(str, task.conditions_of_concepts()))
        model.defence = Away(model.encoded(model.conditions([concept])).detach(), self.level)
        return model


@dataclass
class Away:
    """The defence: out(c) − γ in place of out(c), from level δ on."""

    states: Tensor  # (1, length, width) of c_S
    level: str
    instead: bool = False

    def _find_start(self, levels: Sequence[int]) -> int:
        """Find the timestep from which on, downwards, γ is subtracted; −1 for never."""
        first = round(LEVELS[self.level][0] * len(levels) / 50)
        return levels[first] if first < len(levels) else -1

    def _safety_direction(self, passes: Sequence[Tensor]) -> Tensor:
        """Compute μ (out(c_S) − out(∅)) from the passes ∅, c and c_S."""
        _, s_S, lam, _, _ = LEVELS[self.level]
        unconditional, conditional, concept = passes
        d = conditional - concept
        mu = torch.where(d < lam, (s_S * d.abs()).clamp(max=1.0), 0.0)
        return mu * (concept - unconditional)

    def along(self, levels: Sequence[int]) -> Guide:
        """Guide the steps of one trajectory; ν begins at 0 and is kept during the warm-up too."""
        *_, s_m, beta_m = LEVELS[self.level]
        start, nu = self._find_start(levels), torch.zeros(())

        def guide(passes: Sequence[Tensor], t: Tensor, s: Tensor | float) -> Tensor:
            nonlocal nu
            before = nu.to(passes[1])
            gamma = self._safety_direction(passes) + s_m * before
            nu = beta_m * before + (1 - beta_m) * gamma
            return _guide_away(passes, gamma, t <= start, s)

        return guide

    def anywhere(self, levels: Sequence[int]) -> Guide:
        """Guide single predictions with ν at its fixed point."""
        start, s_m = self._find_start(levels), LEVELS[self.level][3]

        def guide(passes: Sequence[Tensor], t: Tensor, s: Tensor | float) -> Tensor:
            return _guide_away(passes, self._safety_direction(passes) / (1 - s_m), t <= start, s)

        return guide


def _guide_away(passes: Sequence[Tensor], gamma: Tensor, acts: Tensor, s: Tensor | float) -> Tensor:
    """Guide with out(c) − γ for the rows where the defence `acts`, (N,) bool."""
    unconditional, conditional, _ = passes
    conditional = torch.where(acts.view(-1, 1, 1, 1), conditional - gamma, conditional)
    return unconditional + s * (conditional - unconditional)
