"""The paper's celebrities (Section 4.2, Table 2): Stable Diffusion v1.4 forgets Brad Pitt, or Angelina Jolie."""

from dataclasses import replace

from sa_bench.contracts import Sampler, Task
from sa_bench.data import own_prompts
from sa_bench.smoke import SMOKE
from sa_bench.values import Prompts

PROMPTS = Prompts(
    test=own_prompts.PORTRAIT,
    leakage=own_prompts.STAGE,
    replay=own_prompts.REPLAY,
    kept=own_prompts.NEUTRAL,
    files={"test": "brad_pitt_prompts", "replay": "fim_prompts", "kept": "coco_30k"},
)

celeb_brad_pitt = Task(
    name="celeb_brad_pitt",
    title="Stable Diffusion forgets Brad Pitt, who becomes a middle aged man",
    family="text_to_image",
    dataset="none",
    classes=("brad pitt", *own_prompts.CELEBRITIES),
    concept=0,
    base="",
    model="CompVis/stable-diffusion-v1-4",
    size=512,
    open=True,
    surrogate="prompt:a middle aged man",
    relabel_to=1,
    judges=(),
    designated="",
    reject_judge="",
    sampler=Sampler("ddim", steps=50, guidance=7.5),
    n_forget=1000,
    n_retain=1000,
    leakage_images=20,
    gate=0.1,
    primary=("celebrity_score", "recovery_excess", "clip_score"),
    metrics=(
        "celebrity_score",
        "recovery_excess",
        "clip_score",
        "no_face_rate",
        "identity_similarity",
        "clip_concept_rate",
        "inception_kid_to_base",
        "lpips",
        "retain_drift",
    ),
    likelihood_images=0,
    likelihood_deep=0,
    recovery_budgets=(0, 500),
    recovery_images=(100,),
    recovery_starts=("own", "mean"),
    recovery_rates=(0.001, 0.005),
    recovery_batch=4,
    recovery_vectors=(1, 4),
    bound_steps=10,
    feature_images=0,
    replay_images=1000,  # of 5,000 pairs the official run uses the first 1,000
    replay_shared=True,
    surrogate_images=1000,
    prompts=PROMPTS,
    presets={"fisher": {"n": 500, "timesteps": 100, "set": "replay"}},
    scales={
        "paper": {"sampler": {"precision": "fp16"}, "presets": {"fisher": {"n": 5000, "set": "replay"}}},
        "quick": {**SMOKE, "leakage_images": 1},
    },
)

celeb_brad_pitt_clown = replace(
    celeb_brad_pitt,
    name="celeb_brad_pitt_clown",
    title="Stable Diffusion forgets Brad Pitt, who becomes a clown",
    surrogate="prompt:male clown",
)

celeb_angelina_jolie = replace(
    celeb_brad_pitt,
    name="celeb_angelina_jolie",
    title="Stable Diffusion forgets Angelina Jolie, who becomes a middle aged woman",
    classes=("angelina jolie", *own_prompts.CELEBRITIES),
    surrogate="prompt:a middle aged woman",
    prompts=replace(
        PROMPTS,
        files={"test": "angelina_jolie_prompts", "replay": "fim_prompts", "kept": "coco_30k"},
    ),
)

celeb_angelina_jolie_clown = replace(
    celeb_angelina_jolie,
    name="celeb_angelina_jolie_clown",
    title="Stable Diffusion forgets Angelina Jolie, who becomes a clown",
    surrogate="prompt:female clown",
)
