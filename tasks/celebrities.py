"""The paper's celebrities (Section 4.2, Table 2): Stable Diffusion v1.4 forgets Brad Pitt, or Angelina Jolie."""

from dataclasses import replace

from sa_bench.data import own_prompts
from sa_bench.pretrained import PROMPTS as OF_A_THING
from sa_bench.pretrained import PUBLISHED_ATTACK, SMOKE, STABLE_DIFFUSION

PROMPTS = replace(
    OF_A_THING,
    test=own_prompts.PORTRAIT,
    leakage=own_prompts.STAGE,
    files={"test": "brad_pitt_prompts", **OF_A_THING.files},
)

celeb_brad_pitt = replace(
    STABLE_DIFFUSION,
    name="celeb_brad_pitt",
    title="Stable Diffusion forgets Brad Pitt, who becomes a middle aged man",
    classes=("brad pitt", *own_prompts.CELEBRITIES),
    open=True,
    surrogate="prompt:a middle aged man",
    relabel_to=1,
    leakage_images=20,
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
        "collapse_prompts",
    ),
    recovery_starts=("own", "mean"),
    prompts=PROMPTS,
    scales={
        "paper": {
            **PUBLISHED_ATTACK,
            "sampler": {"precision": "fp16"},
            "presets": {"fisher": {"n": 5000, "set": "replay"}},
        },
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
