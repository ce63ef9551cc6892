"""Transplant: θ*'s own condition of c_f put into the forgotten model, nothing fitted, and the other way round.

    slot_θ(c_f) ← slot_θ*(c_f)          reverse: slot_θ*(c_f) ← slot_θ(c_f)

A cut wire works again at once (`relabel`); a model that never knew c_f shows nothing (`retrain`); nor does one whose body
was bent, though fitting the slot again bends it back (`recovery`). The slot of a class is its column or its row; of a
prompt the token rows of c_f's name, which are θ*'s own where the text encoder is frozen. So a text-to-image model is also
taken apart: the text encoder's layers; of the U-Net the keys' and values' projections of cross-attention, where words enter,
self-attention and the rest. `retrain` has a text encoder of its own from another beginning: a slot or a part of θ* means
nothing to it, so that its rates are 0 whatever it knows.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from sa_bench.contracts import Generator, Measured, Prompted, View, metric
from sa_bench.scoring.attacks import Questions, Rate
from sa_bench.scoring.sampling import render


@metric(
    version=1,
    title="Images of c_f once the base model's own condition of it is put back",
    better=None,
    unit="rate",
    requires=("model", "judges", "star"),
    source="a transplant between θ* and θ: c_f's slot and, of a U-Net that is asked in words, groups of layers; no dose",
    fields=("concept", "judges", "recovery_judged", "prompts", "sampler"),
    extras={
        "as_is": ("as it is, nothing put back", "the metric's"),
        "reverse": ("its condition put into the base model", "the metric's"),
        "parts": ("the base model's layers put into it", "the metric's"),
        "reverse_parts": ("its layers put into the base model", "the metric's"),
    },
)
def transplant(view: View) -> Measured:
    """Measure the top-1 rate of c_f with θ*'s slot in the model.

    The panel's majority judges c_f's first `recovery_judged` images. The interval is Wilson's, over prompts where several
    images come from one. `as_is`: the same images without any transplant. `reverse`: the model's slot in θ*. For a
    text-to-image model, `parts` has θ*'s layers in the model by group and `reverse_parts` the model's in θ*; a group that
    is equal in both is not drawn again. All weights are restored.
    """
    model, star, task = view.model, view.base_model, view.task
    questions = Questions.of(view)

    def measure_rate(generator: Generator) -> Rate:
        images = render(generator, generator.sample(questions.requests, task.sampler))
        rate = questions.rate(*questions.judge(images))
        return rate._replace(how=rate.how.removesuffix(", Bonferroni(1)"))

    def read_slot(generator: Generator) -> Tensor:
        slot = generator.condition(task.concept)
        return getattr(slot, "averaged", slot.read)() if task.sampler.ema else slot.read()

    slots = {"model": read_slot(model), "star": read_slot(star)}
    as_is = {"model": measure_rate(model), "star": measure_rate(star)}

    def measure_with_slot(name: str, generator: Generator, other: str) -> Rate:
        if torch.equal(slots["model"], slots["star"]):
            return as_is[name]
        with generator.condition(task.concept).substitute(slots[other]):
            return measure_rate(generator)

    transplanted = measure_with_slot("model", model, "star")
    reverse = measure_with_slot("star", star, "model")
    extra: dict[str, Any] = {"as_is": as_is["model"].plain(), "reverse": reverse.plain()}
    if isinstance(model, Prompted):
        extra |= {"parts": {}, "reverse_parts": {}}
        for group, names in group_parameters(model).items():
            for key, name, generator, other in (
                ("parts", "model", model, star),
                ("reverse_parts", "star", star, model),
            ):
                with replace_parameters(generator, other, names) as changed:
                    rate = measure_rate(generator) if changed else as_is[name]
                extra[key][group] = rate.plain()
    return questions.measured(transplanted, extra)


def list_parameters(model: Generator) -> dict[str, torch.nn.Parameter]:
    """List the parameters of the U-Net and the text encoder's layers by name; its embeddings are what slots are made of."""
    text: Any = getattr(model, "text", None)
    layers = {} if text is None else dict(text.named_parameters())
    of_text = {f"text_encoder.{n}": p for n, p in layers.items() if "embeddings" not in n}
    return {**model.parameters(), **of_text}


def group_parameters(model: Generator) -> dict[str, list[str]]:
    """Divide the parameters, by name, into the text encoder's layers and, of the U-Net, the three groups above."""
    net = [*model.parameters()]
    groups = {
        "text encoder": [name for name in list_parameters(model) if name not in net],
        "keys and values": [*model.parameters("kv")],
        "self-attention": [*model.parameters("selfattn")],
    }
    grouped = {name for names in groups.values() for name in names}
    return {**groups, "the rest": [name for name in net if name not in grouped]}


@contextmanager
def replace_parameters(model: Generator, other: Generator, names: list[str]) -> Iterator[bool]:
    """Give `model` the parameters `names` of `other` while active.

    Yields True if any of them differs.
    """
    parameters, source = list_parameters(model), list_parameters(other)
    replaced = {
        name: parameters[name].detach().clone()
        for name in names
        if not torch.equal(parameters[name], source[name])
    }

    def put(values: Mapping[str, Tensor]) -> None:
        with torch.no_grad():
            for name in replaced:
                parameters[name].copy_(values[name])
        if (forget := getattr(model, "forget_texts", None)) is not None:
            forget()

    try:
        put(source)
        yield bool(replaced)
    finally:
        put(replaced)
