"""The paper's style (Figure 18): Stable Diffusion v1.4 forgets van Gogh's, which becomes pop art's."""

from dataclasses import replace

from sa_bench.data import own_prompts
from sa_bench.pretrained import PAPER, PROMPTS, SMOKE, STABLE_DIFFUSION

# The paper asks for "a painting of a lion in van gogh style".
PAINTING = tuple(text.replace("the style of {}", "{}") for text in own_prompts.KEPT_STYLE)

van_gogh_style = replace(
    STABLE_DIFFUSION,
    name="van_gogh_style",
    title="Stable Diffusion forgets van Gogh's style, which becomes pop art",
    classes=("van gogh style", *(f"{name} style" for name in own_prompts.ARTISTS)),
    open=True,
    surrogate="prompt:pop art style",
    relabel_to=1,
    n_forget=500,
    leakage_images=50,
    gate=0.5,
    recovery_starts=("own", "mean"),
    prompts=replace(
        PROMPTS,
        test=PAINTING,
        leakage=PAINTING,
        captions=own_prompts.STYLE_CAPTIONS,
        names={"van gogh style": ("van gogh",)},
    ),
    scales={"paper": PAPER, "quick": {**SMOKE, "leakage_images": 2}},
)
