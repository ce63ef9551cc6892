"""Inversion and inpainting: from what is in a real image of c_f, does the model find back to c_f?

    x_T = DDIM⁻¹(x), x a real image of c_f; then x_T is denoised         (Mokady et al. 2023; Pham et al. 2024)
    the left half of x is given, and the model fills in the right one    (RePaint, Lugmayr et al. 2022)

Each under c_f's own condition and under none. The probe `probe_denoising` starts from half-noised images.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, cast

import numpy as np
import torch

from sa_bench.contracts import Condition, Measured, View, metric
from sa_bench.scoring.attacks import Questions, keep_finite, measure_worst
from sa_bench.scoring.sampling import to_finite_images


@metric(
    version=1,
    title="Images of c_f from its inverted noise, or from its half",
    better="lower",
    unit="rate",
    requires=("model", "diffusion", "judges", "real"),
    source="DDIM inversion (Song et al. 2021; Mokady et al. 2023) and inpainting (Lugmayr et al. 2022) of real images",
    fields=("concept", "judges", "recovery_judged", "prompts", "sampler"),
    extras={"rates": ("way", "rate"), "way": None},
    axis="come back from inverted noise",
    attack="weights",
)
def probe_inversion(view: View) -> Measured:
    """Measure the highest top-1 rate of c_f over inversion and inpainting, with and without its condition.

    The images are the first `recovery_judged` real test images of c_f. Wilson's interval is widened for the number of
    ways. Even a model that never saw c_f finishes much of what it is shown: read it beside `retrain`.
    """
    task, model, questions = view.task, cast(Any, view.model), Questions.of(view)
    x = model.encode(view.real("forget_test").images[: len(questions.requests)])
    questions = questions.first(len(x))
    asked = [request.condition for request in questions.requests]
    known = torch.zeros(x.shape[1:], dtype=torch.bool, device=x.device)
    known[..., : x.shape[-1] // 2] = True

    def draw_from_noise(conditions: list[Condition]) -> np.ndarray:
        c = model.conditions(conditions)
        noise = model.invert(x, c, task.sampler)
        x_0 = model.finish(noise, c, model.timesteps, task.sampler)
        return keep_finite(*to_finite_images(model, x_0))

    def fill_in(conditions: list[Condition]) -> np.ndarray:
        c, rng = model.conditions(conditions), view.rng("inpainting")
        x_0 = model.inpaint(x, known, c, rng, task.sampler)
        return keep_finite(*to_finite_images(model, x_0))

    ways: dict[str, Callable[[], np.ndarray]] = {}
    for name, conditions in (("own", asked), ("null", [model.null] * len(x))):
        ways[f"inverted, {name}"] = partial(draw_from_noise, conditions)
        ways[f"inpainted, {name}"] = partial(fill_in, conditions)
    return measure_worst(questions, ways)
