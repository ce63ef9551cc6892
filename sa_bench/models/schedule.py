"""The timesteps that a sampler visits, by arithmetic: what a schedule cannot do is refused before any work.

The formulas are those of diffusers' DDIM and DDPM schedulers for T training steps and n sampling steps.
"""

from __future__ import annotations

T = 1000
LEADING, TRAILING = (("leading", 1), ("trailing", 0))
"""Stable Diffusion's own spacing and offset; that of our DDPMs."""


def timesteps(spacing: str, offset: int, n: int) -> list[int]:
    """The `n` timesteps from the noisiest, as the scheduler makes them; some may not exist, or be too many.

    Args:
        spacing: `leading`, `trailing` or `linspace`.
        offset: added to every one of `leading`.
        n: sampling steps, at least 1.
    """
    import numpy as np  # here alone: `list` does without

    if spacing == "leading":
        return [i * (T // n) + offset for i in reversed(range(n))]
    if spacing == "trailing":
        return (np.round(np.arange(T, 0, -T / n)) - 1).astype(int).tolist()
    return np.round(np.linspace(0, T - 1, n))[::-1].astype(int).tolist()


def fault(spacing: str, offset: int, n: int) -> str:
    """What is wrong with `n` steps, with the nearest numbers that are right; "": nothing.

    Every timestep must exist, and the first must be where pure noise belongs: in the noisier half, and no further from
    the end than a stride and a twentieth of all levels. `leading` with 501 to 949 steps begins at t = n instead.
    """
    problem = _problem(timesteps(spacing, offset, n), n)
    if not problem:
        return ""
    right = [k for k in range(1, T + 1) if not _problem(timesteps(spacing, offset, k), k)]
    near = [
        max((k for k in right if k < n), default=None),
        min((k for k in right if k > n), default=None),
    ]
    return f"{problem}; {' or '.join(str(k) for k in near if k is not None)} steps are right"


def _problem(steps: list[int], n: int) -> str:
    if len(steps) != n or len(set(steps)) != n or min(steps) < 0 or max(steps) >= T:
        return f"this spacing has no {n} of the {T:,} timesteps"
    first = max(steps)
    if first < T / 2 or first < 0.95 * T - T / n:
        return f"sampling would begin at t = {first} of {T - 1} instead of pure noise"
    return ""
