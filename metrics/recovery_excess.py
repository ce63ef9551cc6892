"""Recovery without a judge: can the model be brought to denoise θ*'s images of c_f again by c_f's words alone?

    excess = E ‖ε − ε̂_θ(x_t, ĉ)‖²/D − E ‖ε − ε̂_θ*(x_t, c_f)‖²/D          x: images that θ* made of c_f

ĉ is c_f's prompt with new vectors in place of its name, fitted to other images of θ* (textual inversion) with every weight
frozen. Nothing is left to recover where the best ĉ still costs more than c_f cost θ*; a filter of prompts has no
excess at all. It needs no classifier, so that it can be taken of any concept, and says nothing of looks.
"""

import numpy as np

from sa_bench import clustered, identities
from sa_bench.contracts import View, metric
from sa_bench.inversion import asking, invert, starts_of
from sa_bench.likelihood import noise_errors
from sa_bench.statistics import Measured

IMAGES = 100  # of θ*, for fitting and for measuring, each


@metric(
    version=1,
    title="Denoising loss above θ*'s after c_f's name is fitted again",
    better="higher",
    unit="MSE",
    requires=("model", "diffusion", "samples", "base"),
    source="textual inversion (Gal et al. 2023) into an edited model, as in Concept Inversion (Pham et al. 2024); images of "
    "the base model under every second prompt are fitted, the others measured",
    fields=(
        "concept",
        "recovery_budgets",
        "recovery_starts",
        "recovery_rates",
        "recovery_batch",
        "recovery_vectors",
        "bound_steps",
        "prompts",
    ),
)
def recovery_excess(view: View) -> Measured:
    """Loss above θ*'s own, a latent value, on images that θ* made of c_f: the lowest over starts and rates.

    The images measured were not fitted; the grid is start/rate/steps, of which the most steps count. 0 or less: c_f's
    words denoise as well as before forgetting, and nothing is shown to be unlearned; the higher, the less comes back.
    """
    task, model, made = view.task, view.model, view.base["forget"]
    measured, _ = identities.halves(made.prompts, len(made))
    fitted, held = (made.take(np.flatnonzero(rows)[:IMAGES]) for rows in (~measured, measured))
    x, texts = model.encode(held.images), asking(task)
    c = model.conditions([texts[i % len(texts)] for i in range(len(x))])
    before = noise_errors(view, x, c, "recovery", view.base_model)
    slot, curves = model.condition(task.concept), {}
    for name, start in starts_of(view).items():
        for lr in task.recovery_rates:
            values = invert(view, model.encode(fitted.images), start, lr, task.recovery_budgets)
            for steps, value in zip(task.recovery_budgets, values, strict=True):
                with slot.substitute(value):
                    asked = model.conditions([texts[i % len(texts)] for i in range(len(x))])
                    curves[name, lr, steps] = noise_errors(view, x, asked, "recovery") - before
    most = max(task.recovery_budgets)
    best = min((k for k in curves if k[2] == most), key=lambda k: float(curves[k].mean()))
    extra = {
        "grid": {f"{name}/{lr}/{steps}": float(v.mean()) for (name, lr, steps), v in curves.items()},
        "start": best[0],
        "lr": best[1],
        "base_loss": float(before.mean()),
    }
    return clustered.mean(curves[best], held.prompts, held.columns(), extra=extra)
