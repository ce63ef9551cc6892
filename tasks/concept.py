"""Any concept in any Stable Diffusion: `--model PATH --set task.concept="…" --set task.surrogate="…"`."""

from dataclasses import replace

from sa_bench.pretrained import STABLE_DIFFUSION

concept = replace(
    STABLE_DIFFUSION,
    name="concept",
    title="Stable Diffusion forgets a concept of yours",
    classes=("a garbage truck",),
    open=True,
    surrogate="prompt:a car",
    n_forget=200,
    n_retain=200,
    gate=0.5,
)
