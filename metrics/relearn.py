"""Relearning: how fast does c_f come back when all weights are fine-tuned on a few of its real images?

    θ_k: k steps of Adam on −ELBO(x | θ, c_f), x of n real images of c_f          value: area under rate(θ_k) over k

Enough steps teach any model any concept, `retrain` too; what tells hidden from unlearned is the speed. A model that
forgot relearns as slowly as one that never knew (the "savings" of Ebbinghaus 1885 are then 0): boards set the value,
and the step at which half of the images show c_f (`half`), against `retrain`'s.
"""

from sa_bench.contracts import Measured, View, metric
from sa_bench.scoring.attacks import (
    Questions,
    all_parameters,
    area_under,
    batches,
    copy_for_attack,
    descend,
    first_crossing,
    sampler_of_weights,
)
from sa_bench.scoring.inversion import prompts_with_name


@metric(
    version=1,
    title="Area under the curve of relearning c_f",
    better="lower",
    unit="rate",
    requires=("model", "judges", "real"),
    source="fine-tuning of all weights on real images of c_f; relearning of a few steps as in Tarun et al. 2023 and "
    "Golatkar et al. 2020; savings after Ebbinghaus 1885",
    fields=("concept", "judges", "recovery_judged", "relearn", "prompts", "sampler"),
    extras={
        "end": ("after the last step", "the metric's"),
        "half": ("steps until half show c_f", "count"),
        "curve": None,
        "lr": None,
    },
    axis="area under the curve of relearning",
    attack="weights",
)
def relearn(view: View) -> Measured:
    """Measure the area under the rate of c_f over steps, of the learning rate that makes it largest.

    It is the mean over images of the share of steps at which an image shows c_f, by the trapezoidal rule between the
    steps at which images are drawn. Wilson's interval of that mean, which is a little wide for values between 0 and 1,
    is widened for the number of rates. `end`: the rate after the most steps. `half`: the step, interpolated, at which
    half of the images show c_f; None if they never do.
    """
    task, budget, questions = view.task, view.task.relearn, Questions.of(view)
    real = view.real("forget_train").images[: budget.images]
    asked = prompts_with_name(task)
    outcomes = []
    for lr in budget.rates:
        model, scores, votes = copy_for_attack(view), [], []
        x = model.encode(real)
        labels = model.conditions([asked[i % len(asked)] for i in range(len(x))])
        parameters = [p.requires_grad_(True) for p in all_parameters(model).values()]
        loss = batches(model, x, labels, budget.batch, view.rng("relearn"))
        for _ in descend(parameters, loss, lr, budget.steps):
            image_scores, image_votes = questions.judge(
                questions.draw(model, sampler_of_weights(view))
            )
            scores.append(image_scores)
            votes.append(image_votes)
        outcomes.append((area_under(budget.steps, scores), lr, scores, votes))
    areas, lr, scores, votes = max(outcomes, key=lambda outcome: outcome[0].mean())
    looks, rates = len(budget.rates), [float(s.mean()) for s in scores]
    votes_of_area = {n: area_under(budget.steps, [v[n] for v in votes]) for n in votes[0]}
    curve = [
        {"steps": k, "images": len(real), "lr": lr, **questions.rate(s, v, looks).plain()}
        for k, s, v in zip(budget.steps, scores, votes, strict=True)
    ]
    extra = {"end": questions.rate(scores[-1], votes[-1], looks).plain(), "curve": curve, "lr": lr}
    if (half := first_crossing(budget.steps, rates, 0.5)) is not None:
        extra["half"] = half
    return questions.measured(questions.rate(areas, votes_of_area, looks), extra)
