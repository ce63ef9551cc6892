"""Transplant: θ*'s own condition of c_f put into the forgotten model, nothing fitted, and the other way round.

    slot_θ(c_f) ← slot_θ*(c_f)          reverse: slot_θ*(c_f) ← slot_θ(c_f)

A cut wire works again at once (`relabel`); a model that never knew c_f shows nothing (`retrain`); nor does one whose body
was bent, though fitting the slot again bends it back (`recovery`). The slot of a class is its column or its row; of a
prompt the token rows of c_f's name, which are θ*'s own where the text encoder is frozen. So a text-to-image model is also
taken apart by layers of its U-Net: the keys' and values' projections of cross-attention, where words enter; self-attention;
the rest.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sa_bench.contracts import Generator, Measured, Prompted, View, metric
from sa_bench.scoring.judges import majority_vote
from sa_bench.scoring.sampling import pick_rows, render
from sa_bench.statistics.clustered import wilson


@metric(
    version=1,
    title="Images of c_f once the base model's own condition of it is put back",
    better=None,
    unit="rate",
    requires=("model", "judges", "star"),
    source="a transplant between θ* and θ: c_f's slot and, of a U-Net that is asked in words, groups of layers; no dose",
    fields=("concept", "judges", "recovery_judged", "prompts", "sampler"),
)
def transplant(view: View) -> Measured:
    """Top-1 rate of c_f by the panel's majority, of c_f's first `recovery_judged` images, with θ*'s slot in the model.

    Wilson's interval, over prompts where several images come from one. `as_is`: the same images without any transplant.
    `reverse`: the model's slot in θ*. Of a text-to-image model `parts` has θ*'s layers in the model by group and
    `reverse_parts` the model's in θ*; a group that is the same in both is not drawn again. Weights are as before afterwards.
    """
    model, star, task = view.model, view.base_model, view.task
    asked = pick_rows(task, "forget", task.recovery_judged)
    rows, prompts = [r.request for r in asked], np.array([r.prompt for r in asked])
    clusters = None if task.prompts is None else prompts

    def looked(
        asked_of: Generator,
    ) -> tuple[dict[str, Any], np.ndarray, Mapping[str, np.ndarray], str]:
        score, votes = majority_vote(
            view.judges, render(asked_of, asked_of.sample(rows, task.sampler)), task.concept
        )
        low, high, how = wilson(score, clusters)
        fact = {"value": float(score.mean()), "low": low, "high": high, "n": len(score)}
        return fact, score, votes, how.removesuffix(", Bonferroni(1)")

    def slot_of(one: Generator) -> Tensor:
        slot = one.condition(task.concept)
        return getattr(slot, "averaged", slot.read)() if task.sampler.ema else slot.read()

    values = {"model": slot_of(model), "star": slot_of(star)}
    plain = {"model": looked(model), "star": looked(star)}

    def with_slot(name: str, one: Generator, other: str) -> tuple[Any, ...]:
        if torch.equal(values["model"], values["star"]):
            return plain[name]
        with one.condition(task.concept).substitute(values[other]):
            return looked(one)

    fact, score, votes, how = with_slot("model", model, "star")
    extra = {"as_is": plain["model"][0], "reverse": with_slot("star", star, "model")[0]}
    if isinstance(model, Prompted):
        extra |= {"parts": {}, "reverse_parts": {}}
        for part, names in groups(model).items():
            for key, name, one, other in (
                ("parts", "model", model, star),
                ("reverse_parts", "star", star, model),
            ):
                with replaced(one, other, names) as changed:
                    extra[key][part] = looked(one)[0] if changed else plain[name][0]
    return Measured(
        fact["value"],
        fact["low"],
        fact["high"],
        how,
        len(score),
        scores={"seed": np.array([r.seed for r in rows], np.int64), "score": score, **votes},
        judges=[{"judge": n, "value": float(v.mean())} for n, v in votes.items()],
        extra=extra,
    )


def groups(model: Generator) -> dict[str, list[str]]:
    """Divide the U-Net's parameters, by name, into keys and values, self-attention and the rest."""
    parts = {
        "keys and values": [*model.parameters("kv")],
        "self-attention": [*model.parameters("selfattn")],
    }
    taken = {name for names in parts.values() for name in names}
    return {**parts, "the rest": [name for name in model.parameters() if name not in taken]}


@contextmanager
def replaced(model: Generator, other: Generator, names: list[str]) -> Iterator[bool]:
    """While active, `model` has the parameters `names` of `other`; gives whether any of them differs."""
    own, source = model.parameters(), other.parameters()
    kept = {
        name: own[name].detach().clone()
        for name in names
        if not torch.equal(own[name], source[name])
    }
    try:
        with torch.no_grad():
            for name in kept:
                own[name].copy_(source[name])
        yield bool(kept)
    finally:
        with torch.no_grad():
            for name, value in kept.items():
                own[name].copy_(value)
