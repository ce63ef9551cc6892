"""Concept Ablation's captions: which images it learns from, under which words, and what names them in the store."""

from dataclasses import replace

import pytest
import torch
from sa_bench.methods.concept_ablation import ConceptAblation, target, templates

from sa_bench.commands.check import toy, weights
from sa_bench.contracts import Prompted
from sa_bench.core import registry
from sa_bench.core.errors import SaBenchError
from sa_bench.core.store import Store, digest
from sa_bench.engine.cells import resolve
from sa_bench.engine.stages import Chain
from sa_bench.models.toy import ToyRun

PAPER = {
    "captions": True,
    "flip": True,
    "decay": 0.01,
    "clip": 1.0,
    "target": "current",
    "batch": 4,
}


@pytest.fixture
def star():
    return toy(Prompted)[0]


@pytest.fixture
def task():
    return toy(Prompted)[1]


def chain(tmp_path, cell):
    return Chain(Store(tmp_path / "store"), cell, lambda *_: None)


def test_each_image_is_of_its_own_caption_and_trained_under_it_with_the_targets_words(star, task):
    method, run = ConceptAblation(captions=True), ToyRun(star, task)
    found, texts = (
        method.captioned(star, task, run),
        [t.replace("{}", "one") for t in task.prompts.replay],
    )
    assert method.shows(task) == texts
    assert len(texts) > 10
    drawn = run.captioned(texts)
    assert torch.equal(found.x, drawn.x)
    for i in range(len(found.x)):
        text = texts[i % len(texts)]
        assert torch.equal(found.c[i, 0], star.conditions([text])[0])
        assert torch.equal(found.c[i, 1], star.conditions([text.replace("one", "zero")])[0])


def test_the_pairs_are_what_the_loss_asks(star, task, monkeypatch):
    """Every c* that is asked without a gradient has its own c_f in the same row."""
    asked, predict = [], type(star).predict

    def noted(self, x_t, t, c, sampler=None):
        asked.append(c.clone())
        return predict(self, x_t, t, c, sampler)

    monkeypatch.setattr(type(star), "predict", noted)
    ConceptAblation(captions=True, batch=6, steps=3).forget(star.clone(), task, ToyRun(star, task))
    zero, one = star.tokens_of("zero")[0], star.tokens_of("one")[0]
    assert len(asked) == 6
    for c_star, c_f in zip(asked[::2], asked[1::2], strict=True):
        assert torch.equal(torch.where(c_star == one, zero, c_star), c_f)
        assert len({tuple(row) for row in c_star.tolist()}) > 1, "many captions"


@pytest.mark.parametrize("field", ["captions", "flip", "decay", "clip", "prior"])
def test_every_part_of_the_published_recipe_changes_the_model(star, task, field):
    values = {"captions": True, "flip": True, "decay": 0.5, "clip": 1e-3, "prior": 1.0}

    def made(**more):
        method = ConceptAblation(lr=1e-3, steps=6, **more)
        return weights(method.forget(star.clone(), task, ToyRun(star, task)))

    assert not torch.equal(made(), made(**{field: values[field]}))


def test_where_the_targets_words_go():
    brad, nudity, style = (
        registry.get_task(n) for n in ("celeb_brad_pitt", "nudity_explicit", "van_gogh_style")
    )
    digits = registry.get_task("mnist_0_t2i")
    pairs = {
        brad.name: ("a photo of a middle aged man in a park", "a photo of brad pitt in a park"),
        style.name: (
            "a painting of a river in pop art style",
            "a painting of a river in van gogh style",
        ),
        digits.name: ("a photo of a one", "a photo of a zero"),
    }
    for task in (brad, style, digits):
        texts, captions = ConceptAblation(captions=True).shows(task), templates(task)
        asked = [text.replace("{}", target(task, i)) for i, text in enumerate(captions)]
        assert pairs[task.name] in list(zip(texts, asked, strict=True))
    assert [target(nudity, i) for i in range(5)] == [
        "sexual",
        "nudity",
        "naked",
        "erotic",
        "sexual",
    ]
    assert "a photo of a person wearing clothes in a park" in ConceptAblation(captions=True).shows(
        nudity
    )
    assert ConceptAblation().shows(brad) == []


def test_captions_of_a_users_own(tmp_path):
    file = tmp_path / "captions.txt"
    file.write_text("A Middle Aged Man fishing\na middle aged man {asleep}\n")
    sets = [f"task.prompts.files.captions={file}"]
    (cell,) = resolve(["celeb_brad_pitt"], ["concept_ablation"], "paper", sets=sets)
    assert cell.build_method().shows(cell.task) == [
        "a middle aged man fishing",
        "a middle aged man asleep",
    ]
    assert templates(cell.task) == ["{} fishing", "{} asleep"]
    file.write_text("a middle aged man fishing\na dog\n")
    with pytest.raises(
        SaBenchError, match="the caption 'a dog' does not name the anchor, 'a middle aged man'"
    ):
        resolve(["celeb_brad_pitt"], ["concept_ablation"], "paper", sets=sets)
    with pytest.raises(
        SaBenchError, match="roles are forget, replay, test, kept, leakage, captions"
    ):
        resolve(
            ["celeb_brad_pitt"], ["concept_ablation"], sets=[f"task.prompts.files.caption={file}"]
        )


def test_what_has_no_anchor_has_no_captions():
    with pytest.raises(SaBenchError, match="captions=true needs a surrogate with a name"):
        resolve(["mnist_0_t2i_noise"], ["concept_ablation"], sets=["captions=true"])
    assert resolve(["mnist_0_t2i_noise"], ["concept_ablation"])


def test_captions_are_in_the_models_key_and_nothing_new_is_without_them(tmp_path):
    plain, with_captions, others = (
        resolve(["mnist_0_t2i"], ["concept_ablation"], sets=sets)[0]
        for sets in ([], ["captions=true"], ["captions=true", 'task.prompts.captions=["my {}"]'])
    )
    keys = [chain(tmp_path, cell).forget_stage().inputs for cell in (plain, with_captions, others)]
    assert "captioned" not in keys[0]
    assert set(keys[0]["fields"]) == {"scope", "lr", "steps", "batch"}
    assert keys[1]["captioned"]["texts"][0] == "one"
    assert keys[2]["captioned"]["texts"] == ["my one"]
    assert len({digest(key) for key in keys}) == 3


def test_a_method_learns_from_no_other_prompts_than_it_shows(tmp_path):
    (cell,) = resolve(["mnist_0_t2i"], ["concept_ablation"], sets=["captions=true"])
    from sa_bench.engine.method_run import MethodRun

    run = MethodRun(chain(tmp_path, cell), tmp_path)
    with pytest.raises(SaBenchError, match=r"other prompts than it says \(`shows`\)"):
        run.captioned(["a cat"])


def test_scale_paper_is_the_published_recipe():
    for name, further in (
        ("celeb_brad_pitt", {"scope": "kv", "lr": 8e-6, "steps": 200, "prior": 0.0}),
        ("van_gogh_style", {"scope": "kv", "lr": 8e-6, "steps": 200, "prior": 0.0}),
        ("nudity_explicit", {"scope": "attn", "lr": 3.2e-5, "steps": 400, "prior": 1.0}),
    ):
        (cell,) = resolve([name], ["concept_ablation"], "paper")
        assert dict(cell.fields) == {**PAPER, **further}
        (cell,) = resolve([name], ["concept_ablation"])
        assert cell.keyed_fields() == {"scope": "kv", "lr": 8e-6, "steps": 200, "batch": 4}


def test_all_attention_is_both_kinds(star):
    both = {*star.parameters("xattn"), *star.parameters("selfattn")}
    assert set(star.parameters("attn")) == both > set(star.parameters("xattn"))


def test_a_plan_counts_the_images_of_captions(tmp_path):
    from sa_bench.commands import plan
    from sa_bench.commands.stage_times import StageTimes
    from sa_bench.engine.graph import make_graph

    (cell,) = resolve(["mnist_0_t2i"], ["concept_ablation"], sets=["captions=true"])
    own = chain(tmp_path, cell)
    graph = make_graph([cell], own.store)
    stages = plan._plan_cell(graph, cell, StageTimes(shipped={"rates": {}}), {})
    assert "captioned 100 images" in [stage.what for stage in stages]


def test_replacing_a_tasks_captions(task):
    other = replace(task, prompts=replace(task.prompts, captions=("look, {}!",)))
    assert ConceptAblation(captions=True).shows(other) == ["look, one!"]
