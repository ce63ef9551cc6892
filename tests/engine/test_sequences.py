"""Tasks that forget several concepts: in turn, each from the model after the one before, or at once."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from sa_bench.commands.check import weights
from sa_bench.contracts import ignore_event
from sa_bench.core import registry
from sa_bench.core.errors import SaBenchError
from sa_bench.core.store import Store
from sa_bench.data import datasets
from sa_bench.engine.cells import resolve
from sa_bench.engine.measure import LazyView, Subject
from sa_bench.engine.method_run import MethodRun
from sa_bench.engine.sequences import list_steps
from sa_bench.engine.stages import Chain
from sa_bench.models import recipes

SHORT = ["task.recovery_judged=20", "task.recovery_budgets=0,5"]
SA = ["sa.steps=3", "sa.batch=8", "sa.fisher.n=20"]


def chain_of(store, task, method, *sets):
    (cell,) = resolve([task], [method], "quick", sets=[*SHORT, *sets])
    return Chain(Store(store), cell, ignore_event)


def test_what_is_forgotten_is_never_retained():
    task = registry.get_task("mnist_0_sequence")
    assert task.retain == (4, 5, 6, 7, 8, 9)
    steps = list_steps(task)
    assert [(step.concept, step.gone, step.then) for step in steps] == [
        (0, (), ()), (1, (0,), ()), (2, (0, 1), ()), (3, (0, 1, 2), ()),
    ]  # fmt: skip
    assert steps[0].retain == registry.get_task("mnist_0").retain, "the later ones are still there"
    assert steps[2].retain == (3, 4, 5, 6, 7, 8, 9)
    together = registry.get_task("mnist_0_together")
    assert (together.concepts, together.retain) == ((0, 1, 2, 3), (4, 5, 6, 7, 8, 9))


def test_each_step_begins_at_the_model_after_the_one_before(store_env, tmp_path):
    chain = chain_of(store_env, "mnist_0_sequence", "sa", "task.then=1,2", *SA)
    last = weights(chain.model())
    model = chain.base_model_copy()
    first = chain.of_step(list_steps(chain.task)[0])
    assert weights(first.model()).ne(weights(model)).any()
    for step in list_steps(chain.task):
        by_hand = chain.of_step(step)
        by_hand.base_source = Given(by_hand, model)
        run = MethodRun(by_hand, tmp_path / str(step.concept))
        run.folder.mkdir()
        model = chain.cell.build_method().forget(model.clone(), step, run)
    assert torch.equal(last, weights(model))


class Given:
    """A base model that a test holds in memory."""

    def __init__(self, chain, model):
        from sa_bench.engine.base import TrainedBase

        self.inner, self.model = TrainedBase(chain), model

    def __getattr__(self, name):
        return getattr(self.inner, name)

    def find(self):
        from sa_bench.core.store import digest

        return self.inner.find().__class__(
            None, digest(weights(self.model).tolist()), False, "fp32"
        )

    def copy(self):
        return self.model.clone()

    def view(self):
        return self.model


def test_the_first_step_is_that_of_the_task_with_one_concept(store_env):
    alone = chain_of(store_env, "mnist_0", "sa", "task.relabel_to=9", *SA)
    first = chain_of(store_env, "mnist_0_sequence", "sa", *SA)
    step = first.of_step(list_steps(first.task)[0])
    assert step.forget_stage().key == alone.forget_stage().key
    assert first.forget_stage().key != alone.forget_stage().key


@pytest.mark.parametrize("task", ["mnist_0_together", "mnist_0_sequence", "mnist_0_t2i_sequence"])
def test_relabel_hides_every_concept(task, store_env):
    chain = chain_of(store_env, task, "relabel", "task.n_forget=8", "task.n_retain=1")
    model = chain.model()
    for concept in range(4):
        assert torch.equal(model.condition(concept).read(), model.condition(9).read())
    if task == "mnist_0_t2i_sequence":
        return
    view = LazyView(chain, Subject(chain))
    found = registry.get_metric("forgotten_others").measure(view)
    assert found.value <= 0.05
    assert set(found.extra["rates"]) == {"one", "two", "three"}
    base = registry.get_metric("forgotten_others").measure(
        LazyView(chain, Subject(chain, base=True))
    )
    assert base.value > 0.9
    assert base.interval.endswith("Bonferroni(3)")


def test_a_reference_trains_once_for_all_that_is_to_be_gone(store_env, monkeypatch):
    monkeypatch.setitem(recipes.VAE, "quick", replace(recipes.VAE["quick"], steps=10))
    chain = chain_of(store_env, "mnist_0_sequence", "retrain")
    assert len(chain.forgotten.meta["trainings"]) == 1
    assert len(chain_of(store_env, "mnist_0_sequence", "sa", *SA).forgotten.meta["trainings"]) == 4


def test_the_target_of_a_sequence_is_refused(store_env):
    with pytest.raises(SaBenchError, match="the surrogate for the last concept alone"):
        chain_of(store_env, "mnist_0_sequence", "retrain_surrogate")


def test_the_sources_of_several_concepts_ask_for_each(store_env):
    chain = chain_of(store_env, "mnist_0_together", "retrain")
    run = MethodRun(chain, store_env)
    rng = torch.Generator().manual_seed(0)
    _, labels = chain.surrogate(chain.base_model_view()).batch(200, rng)
    assert sorted(set(labels.tolist())) == [0, 1, 2, 3]
    _, labels = run.concept_samples().batch(200, rng)
    assert sorted(set(labels.tolist())) == [0, 1, 2, 3]
    _, labels = run.data().batch(500, rng)
    assert sorted(set(labels.tolist())) == [4, 5, 6, 7, 8, 9]


def test_captions_of_what_is_forgotten_are_left_out_of_the_data(store_env):
    chain = chain_of(store_env, "mnist_0_t2i_together", "retrain")
    data, model = MethodRun(chain, store_env).data(), chain.base_model_view()
    _, rows = data.batch(300, torch.Generator().manual_seed(0))
    texts = " ".join(model.tokenizer.batch_decode(rows, skip_special_tokens=True)).split()
    assert not {"zero", "one", "two", "three", "0", "1", "2", "3", "nought"} & set(texts)
    assert {"four", "nine"} <= set(texts)


def test_methods_by_words_forget_every_word(store_env):
    """UCE maps each of the four onto the anchor; a word that is kept is moved less than any of them."""
    chain = chain_of(store_env, "mnist_0_t2i_together", "uce")
    model, star = chain.model(), chain.base_model_copy()
    x = torch.randn(1, *star.shape, generator=torch.Generator().manual_seed(0))
    t = torch.tensor([700])

    def moved(word):
        with torch.no_grad():
            c = star.conditions([word])
            return float((model.predict(x, t, c) - star.predict(x, t, c)).abs().mean())

    forgotten = [moved(word) for word in ("zero", "one", "two", "three")]
    assert min(forgotten) > 3 * max(moved(word) for word in ("five", "seven"))
    filtered = chain_of(store_env, "mnist_0_t2i_together", "prompt_filter").model()
    for word in ("zero", "one", "two", "three"):
        asked, replaced = (filtered.conditions([f"a {w}"]) for w in (word, "nine"))
        assert torch.equal(asked, replaced)


@pytest.mark.parametrize("method", ["esd", "salun", "sa_esd"])
def test_methods_that_draw_their_own_images_draw_every_concept(method, store_env):
    steps = [f"{method}.steps=2", f"{method}.batch=4"]
    steps += ["salun.saliency=1"] if method == "salun" else []
    steps += ["sa_esd.fisher.n=4", "sa_esd.fisher.timesteps=2"] if method == "sa_esd" else []
    steps += ["esd.ddim_steps=4"] if method == "esd" else []
    chain = chain_of(store_env, "mnist_0_ddpm_together", method, "task.sampler.steps=4", *steps)
    model, star = chain.model(), chain.base_model_copy()
    assert weights(model).ne(weights(star)).any()
    _, labels = (
        MethodRun(chain, store_env).concept_samples().batch(80, torch.Generator().manual_seed(0))
    )
    assert sorted(set(labels.tolist())) == [0, 1, 2, 3]


def test_retention_is_scored_on_what_is_never_forgotten():
    task = registry.get_task("mnist_0_ddpm_sequence")
    real = datasets.real_images(task, "retain_test")
    assert set(np.unique(real.labels)) == {4, 5, 6, 7, 8, 9}


@pytest.mark.parametrize(
    ("task", "method", "setting", "said"),
    [
        ("mnist_0_t2i_sequence", "sld", "", "acts while a model is asked"),
        ("mnist_0_sequence", "blank", "", "acts while a model is asked"),
        ("mnist_0_t2i_together", "spm", "", "forgets one concept at a time"),
        ("mnist_0", "sa", "task.then=1,1", "one is forgotten twice"),
        ("mnist_0", "sa", "task.also=0", "zero is forgotten twice"),
        ("mnist_0", "sa", "task.also=eleven", "no class 'eleven'"),
        ("mnist_0", "sa", "task.also=1,2,3,4,5,6,7,8,9", "some must be retained"),
        ("mnist_0_sequence", "sa", "task.also=7", "give one, concepts at once or in turn"),
        ("mnist_0_t2i", "sa", "task.also=1", "is forgotten too; --set task.surrogate=class:nine"),
        ("mnist_0", "sa", "task.gone=1", "cannot be set"),
        ("celeb_brad_pitt", "sa", "task.then=1", "has no further classes to forget"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(task, method, setting, said):
    with pytest.raises(SaBenchError) as caught:
        resolve([task], [method], sets=[setting] if setting else [])
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_names_of_concepts_are_understood():
    by_name, by_number = (
        resolve(["mnist_0"], ["sa"], sets=[f"task.then={text}"])[0].task
        for text in ("two,three", "2,3")
    )
    assert by_name.then == by_number.then == (2, 3)
    assert resolve(["mnist_0"], ["sa"], sets=["task.also=one"])[0].task.relabel_to == 9
