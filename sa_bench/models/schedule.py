"""Compute the timesteps that a sampler visits, to refuse an impossible schedule before any work.

The formulas are those of diffusers' DDIM and DDPM schedulers for T training steps and n sampling
steps.
"""

from __future__ import annotations

T = 1000  # training steps
LEADING, TRAILING = (("leading", 1), ("trailing", 0))
"""Spacing and offset: Stable Diffusion's, and those of our DDPMs."""


def timesteps(spacing: str, offset: int, n: int) -> list[int]:
    """Compute the `n` timesteps, from the noisiest on, as the scheduler does.

    Some may lie outside 0..T − 1 or repeat.

    Args:
        spacing: `leading`, `trailing` or `linspace`.
        offset: added to each timestep of `leading`.
        n: sampling steps, at least 1.
    """
    import numpy as np  # imported here, because the command `list` does not need it

    if spacing == "leading":
        return [i * (T // n) + offset for i in reversed(range(n))]
    if spacing == "trailing":
        return (np.round(np.arange(T, 0, -T / n)) - 1).astype(int).tolist()
    return np.round(np.linspace(0, T - 1, n))[::-1].astype(int).tolist()


def fault(spacing: str, offset: int, n: int) -> str:
    """Say what is wrong with `n` steps, with the nearest numbers of steps that are possible.

    Every timestep must exist, and the first must be where pure noise belongs: in the noisier half,
    and no further from the end than a stride and a twentieth of all levels. `leading` with 501 to
    949 steps begins at t = n instead.

    Returns:
        The problem; "" if there is none.
    """
    problem = _find_problem(timesteps(spacing, offset, n), n)
    if not problem:
        return ""
    possible = [k for k in range(1, T + 1) if not _find_problem(timesteps(spacing, offset, k), k)]
    nearest = [
        max((k for k in possible if k < n), default=None),
        min((k for k in possible if k > n), default=None),
    ]
    return f"{problem}; {' or '.join(str(k) for k in nearest if k is not None)} steps are right"


def _find_problem(steps: list[int], n: int) -> str:
    """Say why these timesteps are not possible; "" if they are."""
    if len(steps) != n or len(set(steps)) != n or min(steps) < 0 or max(steps) >= T:
        return f"this spacing has no {n} of the {T:,} timesteps"
    first = max(steps)
    if first < T / 2 or first < 0.95 * T - T / n:
        return f"sampling would begin at t = {first} of {T - 1} instead of pure noise"
    return ""
