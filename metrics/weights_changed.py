"""How much of the model was changed: a dumb predictor, which anything that claims to predict must beat."""

import numpy as np
import torch

from sa_bench.contracts import Measured, View, metric
from sa_bench.scoring.attacks import all_parameters


@metric(
    version=1,
    title="Share of the weights that were changed",
    better=None,
    unit="rate",
    requires=("model", "star"),
    source="counted; the distance is that of the weights, relative to the base model's",
    extras={"distance": ("‖θ − θ*‖ / ‖θ*‖", None)},
)
def weights_changed(view: View) -> Measured:
    """Count the weights of U-Net and text encoder, or of a VAE, that differ from θ*'s.

    `distance` is ‖θ − θ*‖ / ‖θ*‖ in the Euclidean norm. Weights that θ* has not, an adapter's, count as changed and as
    distance from 0. There is no interval: every weight is counted.
    """
    star, changed, total, moved, norm = all_parameters(view.base_model), 0, 0, 0.0, 0.0
    with torch.no_grad():
        for name, parameter in all_parameters(view.model).items():
            before = star[name] if name in star else torch.zeros_like(parameter)
            changed += int((parameter != before).sum())
            total += parameter.numel()
            moved += float(((parameter - before).double() ** 2).sum())
            norm += float((before.double() ** 2).sum())
    distance = float(np.sqrt(moved / norm)) if norm else 0.0
    return Measured(
        changed / total, n=total, n_unit="weight", interval=None, extra={"distance": distance}
    )
