"""Any concept in any Stable Diffusion: `--model PATH --set task.concept="…" --set task.surrogate="…"`."""

from sa_bench.contracts import Sampler, Task
from sa_bench.data import own_prompts
from sa_bench.smoke import SMOKE
from sa_bench.values import Prompts

concept = Task(
    name="concept",
    title="Stable Diffusion forgets a concept of yours",
    family="text_to_image",
    dataset="none",
    classes=("a garbage truck",),
    concept=0,
    base="",
    model="CompVis/stable-diffusion-v1-4",
    size=512,
    open=True,
    surrogate="prompt:a car",
    relabel_to=0,
    judges=(),
    designated="",
    reject_judge="",
    sampler=Sampler("ddim", steps=50, guidance=7.5),
    n_forget=200,
    n_retain=200,
    gate=0.5,
    primary=("clip_concept_rate", "recovery_excess", "clip_score"),
    metrics=(
        "clip_concept_rate",
        "recovery_excess",
        "clip_score",
        "inception_kid_to_base",
        "lpips",
        "retain_drift",
    ),
    likelihood_images=0,
    likelihood_deep=0,
    recovery_budgets=(0, 500),
    recovery_images=(100,),
    recovery_starts=("own",),
    recovery_rates=(0.001, 0.005),
    recovery_batch=4,
    recovery_vectors=(1, 4),
    bound_steps=10,
    feature_images=0,
    replay_images=1000,
    replay_shared=True,
    surrogate_images=1000,
    prompts=Prompts(
        test=own_prompts.THING,
        replay=own_prompts.REPLAY,
        kept=own_prompts.NEUTRAL,
        files={"replay": "fim_prompts", "kept": "coco_30k"},
    ),
    presets={"fisher": {"n": 500, "timesteps": 100, "set": "replay"}},
    scales={"quick": SMOKE},
)
