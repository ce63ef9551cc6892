"""The paper's style (Figure 18): Stable Diffusion v1.4 forgets van Gogh's, which becomes pop art's."""

from sa_bench.contracts import Sampler, Task
from sa_bench.data import own_prompts
from sa_bench.smoke import SMOKE
from sa_bench.values import Prompts

# The paper asks for "a painting of a lion in van gogh style".
PAINTING = tuple(text.replace("the style of {}", "{}") for text in own_prompts.KEPT_STYLE)

van_gogh_style = Task(
    name="van_gogh_style",
    title="Stable Diffusion forgets van Gogh's style, which becomes pop art",
    family="text_to_image",
    dataset="none",
    classes=("van gogh style", *(f"{name} style" for name in own_prompts.ARTISTS)),
    concept=0,
    base="",
    model="CompVis/stable-diffusion-v1-4",
    size=512,
    open=True,
    surrogate="prompt:pop art style",
    relabel_to=1,
    judges=(),
    designated="",
    reject_judge="",
    sampler=Sampler("ddim", steps=50, guidance=7.5),
    n_forget=500,
    n_retain=1000,
    leakage_images=50,
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
    recovery_starts=("own", "mean"),
    recovery_rates=(0.001, 0.005),
    recovery_batch=4,
    recovery_vectors=(1, 4),
    bound_steps=10,
    feature_images=0,
    replay_images=1000,
    replay_shared=True,
    surrogate_images=1000,
    prompts=Prompts(
        test=PAINTING,
        leakage=PAINTING,
        replay=own_prompts.REPLAY,
        kept=own_prompts.NEUTRAL,
        files={"replay": "fim_prompts", "kept": "coco_30k"},
    ),
    presets={"fisher": {"n": 500, "timesteps": 100, "set": "replay"}},
    scales={"quick": {**SMOKE, "leakage_images": 2}},
)
