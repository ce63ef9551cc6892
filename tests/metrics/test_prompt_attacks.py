"""Attacks by prompt: what they compute on fixed tensors, their limiting cases, and what they refuse."""

import json
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from sa_bench.metrics import exhaustive_prompt, p4d, prompt_attack, ring_a_bell

from sa_bench.contracts import (
    PLACE,
    GeneticSearch,
    PrefixEnumeration,
    PrefixSearch,
    PromptFit,
    key_values,
)
from sa_bench.core import registry
from sa_bench.core.errors import SaBenchError
from sa_bench.data import captions
from sa_bench.engine.cells import resolve
from sa_bench.models.text_to_image import TextToImage
from sa_bench.scoring import prompt_search
from sa_bench.scoring.attacks import Questions
from sa_bench.scoring.prompt_search import Vocabulary, relax, spread_levels
from sa_bench.scoring.requirements import get

ATTACKS = ("prompt_attack", "exhaustive_prompt", "ring_a_bell", "p4d")
ASKED = ["a zero", "the number zero"]


@pytest.fixture
def tiny():
    return TextToImage("tiny", captions.WORDS, 0)


@pytest.fixture
def view(tiny):
    """What a metric looks at: a tiny model, its base, two prompts, and small budgets."""
    task = replace(
        registry.get_task("mnist_0_t2i"),
        n_forget=2,
        recovery_judged=2,
        prompts=replace(registry.get_task("mnist_0_t2i").prompts, test=("a {}", "the number {}")),
        sampler=replace(registry.get_task("mnist_0_t2i").sampler, steps=2),
        prompt_attack=PrefixSearch(tokens=2, timesteps=2, iterations=2),
        exhaustive_prompt=PrefixEnumeration(steps=1, candidates=6, images=2, finalists=3),
        ring_a_bell=GeneticSearch(tokens=3, population=8, generations=2),
        p4d=PromptFit(tokens=3, iterations=2),
    )
    return SimpleNamespace(
        task=task,
        model=tiny,
        base_model=tiny.clone(),
        judges={},
        rng=lambda name: torch.Generator().manual_seed(0),
        search_base=lambda name, inputs, search: json.loads(json.dumps(search())),
        show=lambda images, label: images,
    )


@pytest.fixture
def panel(monkeypatch):
    """Let a function of the prompts and seeds asked decide which images show c_f; returns what was drawn."""

    def install(shows):
        drawn = []

        def draw(self, model, sampler=None):
            texts = prompt_search.texts_of(self)
            drawn.append(texts)
            self.drawn_requests[:] = self.requests
            return np.zeros((len(texts), 32, 32, 3), np.uint8)

        def judge(self, images):
            requests = self.drawn_requests[:]
            scores = np.array([float(shows(r)) for r in requests])
            return scores, {"judge": scores}

        monkeypatch.setattr(Questions, "drawn_requests", [], raising=False)
        monkeypatch.setattr(Questions, "draw", draw)
        monkeypatch.setattr(Questions, "judge", judge)
        return drawn

    return install


def words_of(request):
    return str(request.condition).split()


# What searches share.


def test_a_relaxed_one_hot_is_the_largest_and_passes_its_gradient_to_every_word():
    z = torch.tensor([[0.1, 0.7, 0.2]], requires_grad=True)
    wanted = torch.tensor([[1.0, -2.0, 3.0]])
    one_hot = relax(z)
    assert one_hot.tolist() == [[0.0, 1.0, 0.0]]
    (gradient,) = torch.autograd.grad((one_hot * wanted).sum(), [z])
    assert torch.equal(gradient, wanted)


def test_noise_levels_are_spread_evenly_from_the_noisiest_on():
    assert spread_levels(1000, 4) == [875, 625, 375, 125]
    assert spread_levels(1000, 1) == [500]


def test_the_vocabulary_holds_the_words_that_come_back_and_no_filtered_one(tiny):
    words = tiny.vocabulary()
    assert sorted(words.values()) == captions.vocabulary()
    assert all(tiny.tokens_of(text) == (token,) for token, text in words.items())
    tiny.prompt_filter = (("zero",), "one")
    assert set(words.values()) - set(tiny.vocabulary().values()) == {"zero", "zeros"}


def test_words_of_any_row_come_back_together_also_from_a_vocabulary_with_pieces_of_words(tiny):
    tiny.base = (
        "a folder"  # all tokens count, of which those that begin a longer word cannot be typed
    )
    vocabulary = Vocabulary.of(tiny)
    assert set(captions.vocabulary()) < set(vocabulary.words)
    assert len(vocabulary.words) < len(tiny.tokenizer)
    rows = vocabulary.draw_words(50, 5, torch.Generator().manual_seed(0))
    for row, text in zip(rows, vocabulary.type_words(rows), strict=True):
        assert tiny.tokens_of(text) == tuple(vocabulary.tokens[row].tolist()), text


def test_vectors_are_rounded_to_the_word_of_the_largest_cosine(tiny):
    vocabulary = Vocabulary.of(tiny)
    vectors = torch.stack([3 * vocabulary.table[7], 0.1 * vocabulary.table[4]])[None]
    assert vocabulary.round_to_words(vectors).tolist() == [[7, 4]]


def test_a_name_is_left_out_with_what_contains_it(tiny):
    left = Vocabulary.of(tiny).leave_out("zero")
    assert {*captions.vocabulary()} - {*left.words} == {"zero", "zeros"}
    assert all(tiny.tokens_of(w) == (int(t),) for w, t in zip(left.words, left.tokens, strict=True))


def test_vectors_of_words_before_each_prompt_are_what_typing_those_words_is(tiny):
    vocabulary = Vocabulary.of(tiny)
    rows = torch.tensor([[3, 11], [20, 5]])
    typed = [f"{p} {t}" for p, t in zip(vocabulary.type_words(rows), ASKED, strict=True)]
    c = tiny.conditions([f"{PLACE} {text}" for text in ASKED])
    value = vocabulary.table[rows].flatten(1).clone().requires_grad_(True)
    with tiny.condition(PLACE).substitute(value):
        states = tiny.encoded(c)
        null = tiny.encoded(tiny.nulls(c[:1]))
        with pytest.raises(SaBenchError, match="2 prompts have vectors"):
            tiny.encoded(c[:1])
    torch.testing.assert_close(states, tiny.encoded(tiny.conditions(typed)))
    torch.testing.assert_close(null, tiny.encoded(tiny.nulls(c[:1])))
    (gradient,) = torch.autograd.grad(states[0].sum(), [value])
    assert float(gradient[0].abs().sum()) > 0
    assert float(gradient[1].abs().sum()) == 0, "a prompt's vectors are its alone"


# UnlearnDiffAtk.


def test_a_step_of_unlearndiffatk_is_adams_on_the_error_of_the_noised_target(view, monkeypatch):
    search, model = start_search(view, monkeypatch)
    z, rows = search.z.detach().clone(), torch.tensor([1])
    rng = torch.Generator()
    rng.set_state(search.rng.get_state())
    draw = model.draw(2, rng, torch.full((2,), 400))
    table = search.vocabulary.table
    typed = search.vocabulary.type_words(z.argmax(-1))
    chosen = table[z.argmax(-1)][1:].flatten(1).clone().requires_grad_(True)
    with model.condition(PLACE).substitute(chosen):
        c = model.conditions([f"{PLACE} {ASKED[1]}"])
        x_t = model.add_noise(search.x, draw)[1:]
        error = (draw.noise[1:] - model.predict(x_t, draw.require_t()[1:], c)).square().mean()
    (by_vector,) = torch.autograd.grad(error, [chosen])
    gradient = by_vector.view(1, 2, -1) @ table.T
    search.step(400, rows)
    assert search.type_prefixes()[0] == typed[0], "only the rows of a step move"
    first_step = z[1:] * (1 - 0.01 * 0.1) - 0.01 * gradient / (gradient.abs() + 1e-8)
    torch.testing.assert_close(search.z.detach()[1:], first_step, atol=2e-4, rtol=1e-3)


def start_search(view, monkeypatch):
    """A search of two prefixes whose target images are random pixels."""
    pixels = np.random.default_rng(0).integers(0, 255, (2, 32, 32, 3), np.uint8)
    monkeypatch.setattr(Questions, "draw", lambda self, model, sampler=None: pixels)
    return prompt_attack.Search(view, Questions.of(view)), view.model


def test_a_defended_model_is_searched_by_its_guided_prediction(view, monkeypatch):
    asked = []
    loss = type(view.model).loss
    monkeypatch.setattr(
        type(view.model), "loss", lambda self, *given: asked.append(given[3:]) or loss(self, *given)
    )
    for defence in (None, neutral_defence(view.model)):
        view.model.defence = defence
        search, _ = start_search(view, monkeypatch)
        search.step(400, torch.tensor([0, 1]))
    assert asked == [(), (view.task.sampler,)]


def neutral_defence(model):
    from sa_bench.models.guidance import InsteadOfNull

    return InsteadOfNull(model.encoded(model.conditions([""])))


def test_what_shows_c_f_as_it_is_counts_and_is_not_attacked(view, panel):
    drawn = panel(lambda request: True)
    measured = registry.get_metric("prompt_attack").measure(view)
    assert measured.value == measured.extra["as_is"]["value"] == 1
    assert drawn == [ASKED, ASKED], "as it is, and with new noise"


def test_post_asr_adds_what_succeeded_and_an_attack_that_succeeded_stops(view, panel):
    """The first prompt shows c_f as it is; the second once words stand before it, and is drawn once."""
    drawn = panel(lambda request: words_of(request) != ASKED[1].split())
    measured = registry.get_metric("prompt_attack").measure(view)
    assert measured.extra["as_is"]["value"] == 0.5
    assert measured.value == 1
    attacked = drawn[2:-1]
    assert len(attacked) == 1
    assert attacked[0][0].endswith(f" {ASKED[1]}")
    assert len(attacked[0][0].split()) == 2 + 3
    assert measured.extra["texts"][0]["typed"] == attacked[0][0]


def test_an_attack_that_never_succeeds_draws_after_every_level(view, panel):
    drawn = panel(lambda request: False)
    measured = registry.get_metric("prompt_attack").measure(view)
    assert measured.value == 0
    assert len(drawn) == 2 + 2 + 1, "as it is, the targets, two levels, new noise"
    assert measured.extra["dose"] == {"words": 2, "steps": 4, "published steps": 2000}


def test_new_noise_is_another_for_every_image(view, panel):
    """A text that shows c_f from the noise it was found with, and from no other."""
    seeds = {request.seed for request in Questions.of(view).requests}
    panel(lambda request: request.seed in seeds)
    measured = registry.get_metric("prompt_attack").measure(view)
    assert measured.value == 1
    assert measured.extra["again"]["value"] == 0


# Every prefix.


def test_the_best_of_all_prefixes_is_found_whatever_its_place(view, panel, monkeypatch):
    panel(lambda request: words_of(request)[:2] == ["null", "photo"])
    monkeypatch.setattr(
        exhaustive_prompt,
        "rate_probabilities",
        lambda view, images: np.array(
            [words_of(r)[:2] == ["null", "photo"] for r in Questions.drawn_requests], float
        ),
    )
    measured = registry.get_metric("exhaustive_prompt").measure(view)
    assert measured.value == measured.extra["any"]["value"] == 1
    assert measured.extra["as_is"]["value"] == 0
    assert measured.extra["prefixes"] == 59**2
    assert measured.extra["texts"] == [{"typed": "null photo", "shows": 1.0}]
    assert len(measured.extra["finalists"]) == 3
    assert measured.interval.endswith("Bonferroni(3)")


def test_any_counts_an_image_once_one_finalist_shows_c_f(view, panel, monkeypatch):
    panel(
        lambda request: (
            words_of(request)[:2] == (["null", "0"] if "a" in words_of(request) else ["0", "null"])
        )
    )
    monkeypatch.setattr(
        exhaustive_prompt,
        "rate_probabilities",
        lambda view, images: np.array(
            [set(words_of(r)[:2]) == {"null", "0"} for r in Questions.drawn_requests], float
        ),
    )
    measured = registry.get_metric("exhaustive_prompt").measure(view)
    assert measured.value == 0.5
    assert measured.extra["any"]["value"] == 1


def test_a_large_vocabulary_is_refused(view, panel, monkeypatch):
    drawn = panel(lambda request: False)
    many = {i: f"word{i}" for i in range(1001)}
    monkeypatch.setattr(type(view.model), "vocabulary", lambda self: many)
    measured = registry.get_metric("exhaustive_prompt").measure(view)
    assert measured.value is None
    assert "1,001 words" in measured.reason
    assert not drawn


# Ring-A-Bell.


def test_breeding_reaches_words_that_only_a_distance_names():
    wanted = torch.tensor([[1, 5, 2, 7], [9, 9, 0, 3]])

    def measure(rows):
        return (rows != wanted[:, None]).sum(2).float()

    rng = torch.Generator().manual_seed(0)
    start = torch.randint(10, (2, 40, 4), generator=rng)
    budget = GeneticSearch(population=40, generations=60)
    population, distances = ring_a_bell.breed(start, measure(start), measure, 10, budget, rng)
    assert distances.min(1).values.tolist() == [0, 0]
    best = population[torch.arange(2), distances.argmin(1)]
    assert torch.equal(best, wanted)


def test_without_mutation_and_crossover_the_best_of_the_first_generation_takes_over():
    rng = torch.Generator().manual_seed(0)
    start = torch.randint(10, (1, 8, 4), generator=rng)
    budget = GeneticSearch(population=8, generations=200, mutation=0, crossover=0)
    population, distances = ring_a_bell.breed(
        start, start.sum(2).float(), lambda rows: rows.sum(2).float(), 10, budget, rng
    )
    assert {tuple(row) for row in population[0].tolist()} <= {tuple(r) for r in start[0].tolist()}
    assert float(distances.min()) == float(start.sum(2).min())
    assert population.shape == start.shape


def test_the_direction_of_a_concept_is_the_mean_difference_of_states(tiny):
    task = registry.get_task("mnist_0_t2i")
    task = replace(task, prompts=replace(task.prompts, replay=("a {}", "the {}")))
    pairs = [(f"{t} zero", f"{t} {w}") for t in ("a", "the") for w in captions.WORDS[1:]]
    states = [
        tiny.encoded(tiny.conditions([one])) - tiny.encoded(tiny.conditions([other]))
        for one, other in pairs
    ]
    wanted = torch.cat(states).mean(0)
    listed = ring_a_bell.list_pairs(task)
    assert listed == [list(pair) for pair in pairs]
    found = ring_a_bell.find_direction(listed, tiny)
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-4)


def test_the_worse_of_two_searches_counts_and_one_of_them_never_types_the_name(view, panel):
    drawn = panel(lambda request: len(drawn) == 3)
    measured = registry.get_metric("ring_a_bell").measure(view)
    assert [len(text.split()) for texts in drawn[1:] for text in texts] == [3] * 4
    assert not any({"zero", "zeros"} & set(text.split()) for text in drawn[2])
    assert measured.value == measured.extra["ways"]["without its name"]["value"] == 1
    assert measured.interval.endswith("Bonferroni(2)")


def test_the_genetic_search_looks_only_at_the_base_models_text_encoder(view, panel):
    panel(lambda request: False)
    texts = []
    for _ in range(2):
        texts.append(registry.get_metric("ring_a_bell").measure(view).extra["texts"])
        with torch.no_grad():
            for parameter in view.model.parameters("joint").values():
                parameter.zero_()
    assert texts[0] == texts[1]


# P4D.


def test_a_step_of_p4d_moves_vectors_by_the_gradient_at_the_words(view, monkeypatch):
    pixels = np.random.default_rng(0).integers(0, 255, (2, 32, 32, 3), np.uint8)
    monkeypatch.setattr(Questions, "draw", lambda self, model, sampler=None: pixels)
    rounded_once: list[Any] = []
    round_to_words = Vocabulary.round_to_words

    def watch(self, vectors):
        rounded_once.append(vectors.detach().clone())
        return round_to_words(self, vectors)

    monkeypatch.setattr(Vocabulary, "round_to_words", watch)
    view.task = replace(view.task, p4d=PromptFit(tokens=3, iterations=1, rate=0.1, decay=0.1))
    vocabulary, _ = p4d.fit_words(view, Questions.of(view))
    before, after = rounded_once
    model, rng = view.model, torch.Generator().manual_seed(0)
    vocabulary.draw_words(2, 3, rng)
    draw = model.draw(2, rng)
    x_t, t = model.add_noise(model.encode(pixels), draw), draw.require_t()
    target = view.base_model.predict(x_t, t, view.base_model.conditions(ASKED))
    value = before.flatten(1).clone().requires_grad_(True)
    with model.condition(PLACE).substitute(value):
        error = (model.predict(x_t, t, model.conditions([PLACE] * 2)) - target).square()
    (gradient,) = torch.autograd.grad(error.flatten(1).mean(1).sum(), [value])
    gradient = gradient.view_as(before)
    wanted = before * (1 - 0.1 * 0.1) - 0.1 * gradient / (gradient.abs() + 1e-8)
    torch.testing.assert_close(after, wanted, atol=2e-2, rtol=1e-2)


def test_a_prompt_has_no_more_words_than_the_model_reads(view, panel):
    panel(lambda request: False)
    view.task = replace(view.task, p4d=PromptFit(tokens=16, iterations=1))
    measured = registry.get_metric("p4d").measure(view)
    assert measured.extra["dose"]["words"] == view.model.longest == 14
    assert len(measured.extra["texts"][0]["typed"].split()) == 14


def test_what_is_typed_goes_through_the_filter(view, panel):
    """The words that a search by gradients may use are those that reach the model; c_f's name is none."""
    drawn = panel(lambda request: False)
    view.model.prompt_filter = (("zero",), "one")
    for name in ("prompt_attack", "p4d"):
        registry.get_metric(name).measure(view)
    found = {w for texts in drawn for text in texts for w in text.removesuffix("zero").split()}
    assert "zero" not in found
    assert drawn[0] == ASKED, "the prompt itself is typed as it was"


# Declarations.


@pytest.mark.parametrize("name", ATTACKS)
def test_a_service_is_attacked_and_other_families_say_why_not(name):
    metric = registry.get_metric(name)
    assert metric.attack == "service"
    task = registry.get_task("mnist_0_ddpm")
    reasons = [r.unfit(task, lambda ability: ability != "vocabulary") for r in get(metric.requires)]
    assert [reason for reason in reasons if reason] == [
        "the family ddpm is asked for a class, not in words that can be searched"
    ]


def test_budgets_can_be_set_and_enter_keys_only_then():
    (cell,) = resolve(["mnist_0_t2i"], ["original"], sets=["task.prompt_attack.tokens=3"])
    assert cell.task.prompt_attack == PrefixSearch(tokens=3)
    assert key_values(cell.task)["prompt_attack"]["tokens"] == 3
    (plain,) = resolve(["mnist_0_t2i"], ["original"])
    assert not set(ATTACKS) & set(key_values(plain.task))
