"""The other concepts of a task that forgets several: is each of them still shown?"""

from dataclasses import replace

from sa_bench.contracts import Measured, View, metric, undefined
from sa_bench.scoring.attacks import Questions
from sa_bench.scoring.sampling import number_prompts, pick_rows


@metric(
    version=1,
    title="Images of the other forgotten concepts still judged so",
    better="lower",
    unit="rate",
    requires=("model", "judges"),
    source="as forget_top1, for each concept that is forgotten together with c_f or after it",
    fields=("concept", "also", "then", "judges", "recovery_judged", "prompts", "sampler"),
    extras={"rates": ("concept", "rate")},
)
def forgotten_others(view: View) -> Measured:
    """Measure the top-1 rate of the concept that is shown most among those forgotten beside c_f.

    Of each the first `recovery_judged` images of its set `forget` are drawn. Wilson's interval, over prompts where several
    images come from one, is widened for the number of concepts.
    """
    others = (*view.task.also, *view.task.then)
    if not others:
        return undefined("the task forgets one concept only")
    rates, questions_of = {}, {}
    for c in others:
        task = replace(view.task, concept=c, also=(), then=())
        rows = pick_rows(task, "forget", task.recovery_judged)
        requests = [row.request for row in rows]
        questions = Questions(view, requests, number_prompts(rows), c)
        scores, votes = questions.judge(questions.draw(view.model))
        rates[c] = questions.rate(scores, votes, looks=len(others))
        questions_of[c] = questions
    worst = max(rates, key=lambda c: rates[c].value)
    extra = {"rates": {view.task.classes[c]: rate.plain() for c, rate in rates.items()}}
    return questions_of[worst].measured(rates[worst], extra)
