"""Train models in the one training loop: optimiser, EWC pull, checkpoints, progress, NaN guard."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sa_bench.contracts import Progress, Recipe
from sa_bench.core.errors import CellFailed
from sa_bench.core.parts import load_part, save_part
from sa_bench.training.precision import uses_bf16 as uses_bf16
from sa_bench.training.record import LossCurve, TrainingRecord

TRAINERS: Mapping[str, Mapping[str, Any]] = {
    "adam": {},
    "ldm": {"decay": 0.01, "ema": 0.9999, "averaged": True, "exact": True},
}
"""Further fields of a recipe, by trainer.

`ldm` trains as the official sd/ does: AdamW, fp32, and the averaged weights are the result. LitEma
starts with a low decay in a new model; the released checkpoint brings its count of updates, so the
decay is constant here.
"""


class Pull:
    """The EWC penalty λ Σ Fᵢ (θᵢ − θ*ᵢ)², applied as its gradient 2λF(θ − θ*) in closed form."""

    def __init__(
        self,
        params: Mapping[str, Tensor],
        fisher: Mapping[str, Tensor],
        lam: float,
        half: bool = False,
    ) -> None:
        """Set the anchor θ* to the current values of `params`.

        Args:
            params: by name; only those in `fisher` are pulled.
            fisher: the diagonal, shaped like the parameters, ≥ 0.
            lam: λ ≥ 0.
            half: penalty λ/2 Σ F d² (paper, Eq. 4) instead of λ Σ F d² (official
                vae/train_forget.py).
        """
        self.lam, self.half = lam, half
        self.params = [p for name, p in params.items() if name in fisher]
        self.anchors = [p.detach().clone() for p in self.params]
        scale = lam if half else 2 * lam
        self.weights = [scale * fisher[n].to(p) for n, p in params.items() if n in fisher]

    @torch.no_grad()
    def add_to_gradients(self) -> None:
        """Add the penalty's gradient to `.grad` of every pulled parameter."""
        shifts = torch._foreach_sub(self.params, self.anchors)
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in self.params]
        torch._foreach_addcmul_(grads, self.weights, list(shifts))
        for parameter, grad in zip(self.params, grads, strict=True):
            parameter.grad = grad

    @torch.no_grad()
    def penalty(self) -> float:
        """Compute the penalty's value."""
        total = 0.0
        for p, anchor, weight in zip(self.params, self.anchors, self.weights, strict=True):
            total += float((weight * (p - anchor) ** 2).sum()) / 2
        return total


def fit(
    params: Mapping[str, torch.nn.Parameter],
    loss: Callable[[], Tensor | None],
    recipe: Recipe,
    *,
    rng: torch.Generator,
    pull: Pull | None = None,
    stop: Callable[[], bool] | None = None,
    bf16: bool = False,
    average: Mapping[str, Tensor] | None = None,
    checkpoint: Path | None = None,
    every: float = 15.0,
    progress: Progress | None = None,
    stage: str = "train",
) -> TrainingRecord:
    """Minimise `loss()` over `params` with Adam or AdamW, and return what was done.

    If the process is killed and calls it again, it ends at the same bits.

    Args:
        params: the parameters to be trained, by name; everything else stays as it is.
        loss: one step's scalar loss; draws all its randomness from `rng`. It may return None once it
            has set the gradients itself, such as projected ones; then nothing is propagated back.
        recipe: steps, learning rate and schedule.
        rng: its state is part of the checkpoint.
        pull: an EWC pull added to the gradient of every step.
        stop: called once the loss of a step is computed, before the step is taken; True ends the
            training there.
        bf16: autocast the loss to bfloat16 (weights and Adam stay float32).
        average: averaged weights by the names of `params`; updated with the recipe's `ema` after
            every step.
        checkpoint: a file for resuming, left complete at the end for the caller to remove (a method
            may train twice); None makes the training not resumable.
        every: seconds between checkpoints.
        progress: called with (stage, done, total) about twice per second.
        stage: the name that progress shows.

    Raises:
        CellFailed: the loss is not finite; the message names the step, and the last good checkpoint
            is kept.
    """
    names, tensors = list(params), list(params.values())
    adam = torch.optim.AdamW if recipe.decay else torch.optim.Adam
    optimiser = adam(tensors, lr=recipe.lr, weight_decay=recipe.decay, fused=True)
    averages = (
        [average[name] for name in names] if average is not None and recipe.ema is not None else []
    )
    curve = LossCurve(recipe.steps, tensors[0].device)
    start = _restore(checkpoint, names, tensors, averages, optimiser, rng, curve)
    saved = shown = time.monotonic()
    device, trained = tensors[0].device.type, [tensor for tensor in tensors if tensor.requires_grad]
    for step in range(start, recipe.steps):
        optimiser.param_groups[0]["lr"] = recipe.rate(step)
        optimiser.zero_grad(set_to_none=True)
        with torch.autocast(device, torch.bfloat16, enabled=bf16 and not recipe.exact):
            value = loss()
        # A finite loss is checked every step on the CPU; on a GPU that would stall the queue.
        is_due = checkpoint is not None and time.monotonic() - saved > every
        is_checked = is_due or device == "cpu" or step % 50 == 0 or step == recipe.steps - 1
        if value is not None and is_checked and not torch.isfinite(value):
            raise CellFailed(
                f"The loss became {float(value.detach())} at step {step} of {recipe.steps}; nothing "
                "was saved from it. Lower the learning rate (--set lr=...) or the step count."
            )
        if stop is not None and stop():
            break
        curve.add(step, value)
        if value is not None:
            value.backward(inputs=trained)  # no gradients of the rest, to save time and memory
        if pull is not None:
            pull.add_to_gradients()
        if recipe.clip is not None:
            torch.nn.utils.clip_grad_norm_(tensors, recipe.clip)
        optimiser.step()
        if averages:
            torch._foreach_lerp_(averages, [t.detach() for t in tensors], 1 - (recipe.ema or 0.0))
        now = time.monotonic()
        if checkpoint is not None and is_due:
            _save(checkpoint, step + 1, names, tensors, averages, optimiser, rng, curve)
            saved = now
        if progress is not None and now - shown > 0.5:
            progress(stage, step + 1, recipe.steps)
            shown = now
    optimiser.zero_grad(set_to_none=True)
    if not all(bool(torch.isfinite(tensor).all()) for tensor in tensors):
        raise CellFailed(
            f"A weight is not finite after the last step ({recipe.steps}); nothing was saved from it. Lower "
            "the learning rate (--set lr=...)."
        )
    if checkpoint is not None and start < recipe.steps:
        _save(checkpoint, recipe.steps, names, tensors, averages, optimiser, rng, curve)
    if progress is not None:
        progress(stage, recipe.steps, recipe.steps)
    return curve.record(stage)


def _save(
    path: Path,
    step: int,
    names: list[str],
    tensors: list,
    averages: list,
    optimiser: torch.optim.Adam,
    rng: torch.Generator,
    curve: LossCurve,
) -> None:
    """Save a checkpoint of the training."""
    state: dict[str, Tensor] = {
        "step": torch.tensor(step),
        "rng": rng.get_state(),
        **curve.state(),
    }
    for name, tensor in zip(names, tensors, strict=True):
        state[f"param.{name}"] = tensor.detach()
        for key, value in optimiser.state[tensor].items():
            state[f"{key}.{name}"] = value
    state |= {f"average.{name}": value for name, value in zip(names, averages, strict=False)}
    save_part(path, state)


@torch.no_grad()
def _restore(
    path: Path | None,
    names: list[str],
    tensors: list,
    averages: list,
    optimiser: torch.optim.Adam,
    rng: torch.Generator,
    curve: LossCurve,
) -> int:
    """Restore a checkpoint and return its step; 0, with nothing restored, if none fits."""
    state = None if path is None else load_part(path)
    if state is None or not all(
        f"param.{name}" in state and state[f"param.{name}"].shape == tensor.shape
        for name, tensor in zip(names, tensors, strict=True)
    ):
        return 0
    for name, tensor in zip(names, tensors, strict=True):
        tensor.copy_(state[f"param.{name}"])
        if f"step.{name}" in state:  # a parameter without a gradient so far has none
            optimiser.state[tensor] = {
                key: state[f"{key}.{name}"].to(tensor.device)
                for key in ("step", "exp_avg", "exp_avg_sq")
            }
    for name, value in zip(names, averages, strict=False):
        value.copy_(state[f"average.{name}"])
    rng.set_state(state["rng"])
    curve.restore(state)
    return int(state["step"])
