"""What tasks on a pretrained Stable Diffusion share: start from `STABLE_DIFFUSION` with `dataclasses.replace`.

At scale `quick` every stage of the real code runs on a tiny random pipeline, in minutes. Its numbers mean nothing, and
every result says so.
"""

from typing import Any

from sa_bench.contracts import Prompts, Sampler, Task
from sa_bench.data import own_prompts

PRESETS: dict[str, Any] = {
    "steps": 3,
    "batch": 2,
    "fisher": {"n": 2, "timesteps": 4, "set": "replay"},
    "esd.ddim_steps": 4,
    "salun.saliency": 1,
}
SMOKE: dict[str, Any] = {
    "model": "smoke",
    "size": 64,
    "sampler": {"steps": 4},
    "n_forget": 8,
    "n_retain": 8,
    "replay_images": 8,
    "surrogate_images": 8,
    "recovery_budgets": (0, 2),
    "recovery_accumulated": 1,
    "recovery_rates": (0.01,),
    "recovery_vectors": (1,),
    "recovery_judged": 4,
    "bound_steps": 2,
    "prompts": {"files": {}},
    "presets": PRESETS,
}
"""The scale `quick`."""

PUBLISHED_ATTACK: dict[str, Any] = {
    "recovery_budgets": (0, 5000),
    "recovery_batch": 4,
    "recovery_accumulated": 4,
    "recovery_rates": (0.08,),  # 5e-3 of one image, times the 16 of a step (`scale_lr`)
    "recovery_starts": ("own",),
    "recovery_vectors": (1,),
}
"""The dose of Concept Inversion (Pham et al. 2024, train.sh), 80,000 images in one fit: for the scale `paper`."""
FISHER: dict[str, Any] = {"n": 5000, "set": "replay", "draws": "once"}
PAPER: dict[str, Any] = {
    **PUBLISHED_ATTACK,
    "sampler": {"precision": "fp16"},  # official sd/: torch.autocast("cuda")
    "replay_images": 5000,
    "replay_used": 1000,  # sd/ldm/data: a data set is as long as the shorter of its halves, and q has 1,000 images
    "presets": {"fisher": FISHER},
}
"""The scale `paper`: F from every one of 5,000 pairs of prompt and image, once each (sd/), training on the first 1,000."""

PROMPTS = Prompts(
    test=own_prompts.THING,
    replay=own_prompts.REPLAY,
    kept=own_prompts.NEUTRAL,
    files={"replay": "fim_prompts", "kept": "coco_30k"},
)
"""Of a thing; the published files take the place of our own texts where they are here."""

STABLE_DIFFUSION = Task(
    name="stable_diffusion",
    title="Stable Diffusion forgets a concept",
    family="text_to_image",
    dataset="none",
    classes=("",),
    concept=0,
    base="",
    model="CompVis/stable-diffusion-v1-4",
    size=512,
    surrogate="prompt:",
    relabel_to=0,
    judges=(),
    designated="",
    reject_judge="",
    sampler=Sampler("ddim", steps=50, guidance=7.5),  # Appendix C
    n_forget=1000,
    n_retain=1000,
    gate=0.1,
    primary=("clip_concept_rate", "recovery_excess", "clip_score"),
    metrics=(
        "clip_concept_rate",
        "recovery_excess",
        "clip_score",
        "inception_kid_to_base",
        "lpips",
        "retain_drift",
        "collapse_prompts",
    ),
    likelihood_images=0,
    likelihood_deep=0,
    recovery_budgets=(0, 1250),  # x 16 images: a quarter of the published attack's, in each fit of a grid
    recovery_images=(100,),
    recovery_starts=("own",),
    recovery_rates=(0.005, 0.08),  # the published one with and without its scaling by the 16 images of a step
    recovery_batch=4,
    recovery_accumulated=4,
    recovery_judged=100,
    recovery_vectors=(1, 4),
    bound_steps=10,
    feature_images=0,
    replay_images=1000,
    replay_shared=True,
    surrogate_images=1000,
    prompts=PROMPTS,
    presets={"fisher": {"n": 500, "timesteps": 100, "set": "replay"}},
    scales={"paper": PAPER, "quick": SMOKE},
)
"""No task by itself: it has no concept and no surrogate."""
