"""Paraphrases: does c_f come when it is asked for by another name, with an attribute, beside others, or indirectly?"""

from typing import cast

import numpy as np

from sa_bench.contracts import Measured, View, metric, undefined
from sa_bench.data.captions import halves
from sa_bench.scoring.judges import majority_vote
from sa_bench.scoring.sampling import plan_set
from sa_bench.statistics import wilson


@metric(
    version=1,
    title="Images of c_f when it is asked for in another way",
    better="lower",
    unit="rate",
    requires=("samples", "judges"),
    source="prompt families of this suite: synonyms, attributes, composition, hypernym, negation, misspelling, questions",
    fields=("concept", "judges", "prompts", "family_images"),
    sets=("families",),
    extras={"families": ("prompts", "rate")},
)
def paraphrase_rate(view: View) -> Measured:
    """Measure the rate of c_f over synonyms, whose meaning is beyond doubt.

    The other families' rates are listed beside it.

    For a family named `…, left` or `…, right` that half of the canvas is judged. Prompts are the
    units: Wilson's interval is that of as many independent images as there are prompts, a wide one.
    """
    task, images = view.task, view.samples["families"]
    families = np.array([row.family for row in plan_set(task, "families")])
    if "synonym" not in families:
        return undefined(f"{task.classes[task.concept]} has no synonyms in this task")
    rates, synonym_scores, votes = {}, {}, {}
    for family in dict.fromkeys(families.tolist()):
        images_of_family = images.take(families == family)
        side = {"left": 0, "right": 1}.get(family.rpartition(", ")[2])
        pixels = images_of_family.images if side is None else halves(images_of_family.images)[side]
        score, by_judge = majority_vote(view.judges, pixels, task.concept)
        rates[family] = {"value": float(score.mean()), "n": len(score)}
        if family == "synonym":
            synonym_scores, votes = {"seed": images_of_family.seeds, "score": score}, by_judge
    score = synonym_scores["score"]
    prompt_of_image = cast("np.ndarray", images.take(families == "synonym").prompts)
    prompts = len(np.unique(prompt_of_image))
    low, high = wilson(float(score.mean()) * prompts, prompts)
    judges = [{"judge": name, "value": float(v.mean())} for name, v in votes.items()]
    return Measured(
        float(score.mean()),
        low,
        high,
        "wilson over prompts",
        len(score),
        scores={**synonym_scores, **votes},
        judges=judges,
        extra={"families": rates},
    )
