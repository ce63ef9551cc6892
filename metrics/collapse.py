"""The collapse guard: is enough left of the rest that its other numbers mean anything?"""

from sa_bench.contracts import Measured, View, metric, undefined
from sa_bench.scoring import collapse_guard
from sa_bench.scoring.likelihood import take_per_class


@metric(
    version=3,
    title="What is left of the base, in the worst of class and recall",
    better=None,  # a guard: below its bound a row is flagged and leaves the ranking
    unit="share of the base",
    requires=("samples", "base", "real", "judges", "features", "guard"),
    source="worst class and recall as shares of the base's; bounds from 300 resamples of base models",
    fields=("concept", "judges", "designated", "feature_images"),
    extras={
        "shares": ("share of the base", "rate", "firsts"),
        "bounds": None,
    },
)
def collapse(view: View) -> Measured:
    """Measure the smaller of two shares of the base: worst class and recall.

    It is flagged if the upper bound of either share lies below its calibrated bound.
    """
    task = view.task
    images, base = view.samples["retain"], view.base["retain"]
    if min(len(images), len(base)) < 20:
        return undefined(
            f"{min(len(images), len(base))} images of the rest: the guard needs at least 20"
        )
    real = take_per_class(view.real("retain_test"), task.feature_images)
    shares = collapse_guard.measure_shares(images, base, real, view.judges, task.designated)
    if not shares:
        return undefined("the base model itself shows none of the rest: nothing can be lost")
    limit = collapse_guard.bounds(task.dataset)
    worst = min(shares.values(), key=lambda s: s.share)
    extra = {
        "shares": {name: [s.share, s.high, s.value, s.base, s.where] for name, s in shares.items()},
        "bounds": limit,
        "warning": "; ".join(collapse_guard.describe_collapse(shares, limit)) or None,
    }
    return Measured(worst.share, None, worst.high, "wilson, upper", len(images), extra=extra)
