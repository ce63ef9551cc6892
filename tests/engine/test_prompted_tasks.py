"""Tasks on pretrained models: what is asked, with which seeds, and what their command line may change."""

import re
from dataclasses import replace

import numpy as np
import pytest
import torch

from sa_bench.contracts import Prompts, Request, Sampler
from sa_bench.core import registry
from sa_bench.core.errors import MissingAsset, SaBenchError
from sa_bench.core.store import Store
from sa_bench.data import own_prompts, prompt_files
from sa_bench.engine.cells import resolve, resolve_task
from sa_bench.engine.stages import Chain
from sa_bench.scoring import sampling

CSV = """prompt,sd_seed,sd_guidance_scale,sd_image_width,sd_image_height
"a, b",4290749014,7.5,512,512
c,3,9,128,448
"a, b",5,7,512,512
"""


@pytest.fixture
def task():
    return resolve_task("celeb_brad_pitt", "quick", {})


def test_kept_prompts_are_the_retain_set_and_other_names_the_leakage(task):
    kept = sampling.plan_set(task, "retain")
    assert {row.label for row in kept} == {sampling.KEPT}
    assert [row.request.condition for row in kept] == [
        task.prompts.kept[i * 50 // 8] for i in range(8)
    ]
    leak = sampling.plan_set(task, "leakage")
    assert [row.label for row in leak] == list(task.retain)
    assert all(task.classes[row.label] in row.request.condition for row in leak)
    assert sampling.set_names(task) == ("forget", "retain", "leakage")
    assert sampling.set_names(resolve_task("mnist_0", "quick", {})) == ("forget", "retain")
    with pytest.raises(SaBenchError, match="Available: forget, retain, leakage"):
        sampling.plan_set(task, "families")


def test_replay_asks_for_what_is_kept_in_the_replay_prompts_as_they_stand(task):
    assert task.replay_conditions() == list(task.prompts.replay)
    digits = resolve_task("mnist_0_t2i", "quick", {})
    assert digits.replay_conditions()[:9] == [
        digits.prompts_for(c, "replay")[0] for c in digits.covered
    ]
    classes = resolve_task("mnist_0_ddpm", "quick", {})
    assert classes.replay_conditions() == list(classes.covered)


def test_a_files_rows_keep_their_seeds_once(task, tmp_path):
    (tmp_path / "i2p.csv").write_text(CSV)
    file = str(tmp_path / "i2p.csv")
    given = {"prompts.files.test": file, "n_forget": "3"}
    fixed = resolve_task("celeb_brad_pitt", "quick", given)
    rows = sampling.plan_set(fixed, "forget")
    assert [r.request.condition for r in rows] == ["a, b", "c", "a, b"]
    assert [r.request.seed for r in rows] == [4290749014, 3, 5]
    assert [r.prompt for r in rows] == [0, 1, 0]  # one text is one cluster
    assert {(r.request.guidance, r.request.size) for r in rows} == {(None, None)}
    own = sampling.plan_set(
        resolve_task("celeb_brad_pitt", "quick", {**given, "prompts.rows": "own"}), "forget"
    )
    assert [(r.request.guidance, r.request.size) for r in own] == [
        (7.5, (512, 512)),
        (9, (448, 128)),
        (7, (512, 512)),
    ]
    with pytest.raises(
        SaBenchError, match=r"prompt 1 of test asks for 512 x 512, more than task.size=448.*=512"
    ):
        resolve_task("celeb_brad_pitt", "full", {**given, "prompts.rows": "own", "size": "448"})
    twice = sampling.plan_set(
        resolve_task("celeb_brad_pitt", "quick", {**given, "n_forget": "6"}), "forget"
    )
    assert len({r.request.seed for r in twice}) == 6
    assert fixed.prompts.files["test"].startswith(file + "@")


def test_a_prompt_file_counts_by_its_content_wherever_it_lies(tmp_path):
    """Its path was in keys and fingerprints: two people with one file had boards of their own."""
    from sa_bench.contracts import key_values

    tasks = []
    for folder in ("ada", "ben"):
        (tmp_path / folder).mkdir()
        file = tmp_path / folder / "mine.txt"
        file.write_text("one\ntwo\n")
        tasks.append(resolve_task("celeb_brad_pitt", "quick", {"prompts.files.test": str(file)}))
    keys = [key_values(task) for task in tasks]
    assert keys[0] == keys[1]
    assert "mine.txt" not in str(keys[0])
    assert [
        sampling.plan_set(task, "forget") for task in tasks
    ]  # each is still read from its place


def test_a_changed_prompt_file_is_another_task(tmp_path):
    file = tmp_path / "mine.txt"
    file.write_text("one\ntwo\n")
    before = resolve_task("celeb_brad_pitt", "quick", {"prompts.files.test": str(file)})
    assert before.prompts_for(0) == ["one", "two"]
    file.write_text("one\nthree\n")
    with pytest.raises(SaBenchError, match="has changed"):
        sampling.plan_set(before, "forget")
    after = resolve_task("celeb_brad_pitt", "quick", {"prompts.files.test": str(file)})
    assert before.prompts != after.prompts


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"prompts.files.test": "nowhere.txt"}, "No prompt file at 'nowhere.txt'"),
        ({"prompts.files.tset": "nowhere.txt"}, "roles are forget"),
        ({"size": "427"}, "e.g. 424"),
        ({"concept": "  "}, "give the words"),
        ({"surrogate": "clas:x"}, "Unknown surrogate"),
        ({"model": "/nowhere/at all"}, "nowhere"),
    ],
)
def test_what_is_wrong_is_said_before_any_work(given, said):
    with pytest.raises(SaBenchError, match=said):
        resolve_task("celeb_brad_pitt", "quick", given)


def test_a_file_without_prompts_of_our_own_is_asked_for(monkeypatch):
    monkeypatch.setattr(prompt_files.catalogue, "find", lambda name: None)
    with pytest.raises(MissingAsset, match="i2p"):
        resolve_task("nudity_i2p", "full", {})
    assert resolve_task("nudity_i2p", "quick", {}).prompts.files == {}
    assert resolve_task("nudity_explicit", "full", {"model": "smoke"}).prompts.files == {}


def test_any_words_can_be_the_concept_and_the_surrogate():
    cell, *_ = resolve(
        ["celeb_brad_pitt"],
        ["esd"],
        "quick",
        sets=["task.concept=emma  thompson", "task.surrogate=a woman"],
    )
    assert cell.task.classes[0] == "emma thompson"
    assert (cell.task.concept, cell.task.surrogate, cell.task.anchor) == (
        0,
        "prompt:a woman",
        "a woman",
    )
    assert cell.task.prompts_for(0, "forget") == ["emma thompson"]
    with pytest.raises(SaBenchError, match="has no class"):
        resolve_task("nudity_explicit", "quick", {"concept": "cats"})


def test_a_pretrained_base_has_one_seed_and_no_training_data():
    with pytest.raises(SaBenchError, match="has one base model"):
        resolve(["celeb_brad_pitt"], ["original"], "quick", base_seeds=[1])
    with pytest.raises(SaBenchError, match="needs the data"):
        resolve(["celeb_brad_pitt"], ["retrain"], "quick")
    with pytest.raises(SaBenchError, match="trains its own base"):
        resolve_task("mnist_0", "quick", {"model": "smoke"})


@pytest.mark.parametrize("name", [e.name for e in registry.list_entries("task")])
def test_every_pretrained_task_says_what_it_asks(name):
    task = registry.get_task(name)
    if not task.model:
        pytest.skip("trains its own base")
    quick = resolve_task(name, "quick", {})
    assert len(quick.primary) == 3
    assert set(quick.primary) <= set(quick.metrics)
    for part in sampling.set_names(quick):
        texts = [row.request.condition for row in sampling.plan_set(quick, part)]
        assert texts
        assert all(isinstance(t, str) and t and "{" not in t for t in texts)
    of_fish = resolve_task("concept", "quick", {"concept": "Goldfish"})
    assert "goldfish" in "".join(of_fish.prompts.kept)
    assert not any(
        "goldfish" in r.request.condition.lower() for r in sampling.plan_set(of_fish, "retain")
    )
    assert not any(
        quick.classes[0] in str(text) for text in (*quick.prompts.kept, *quick.replay_conditions())
    )  # what is kept does not name c_f


@pytest.mark.parametrize("chosen", ["all", "retain"])
def test_f_of_a_pretrained_model_is_taken_from_replay(chosen):
    with pytest.raises(SaBenchError, match=r"fisher\.set=replay"):
        resolve(["nudity_explicit"], ["sa"], "quick", sets=[f"fisher.set={chosen}"])


def test_rows_of_their_own_size_lie_at_the_upper_left_of_a_black_canvas(task):
    class Stub:
        black_is_broken = True

        def sample(self, requests, sampler):
            self.size = requests[0].size or (64, 64)
            return torch.zeros(len(requests), 4)

        def to_images(self, x):
            return np.full((len(x), *self.size, 3), 200, np.uint8)

    asked = [Request("a", 0), Request("b", 1, size=(32, 16)), Request("c", 2)]
    images, finite = sampling.generate_images(
        Stub(), asked, replace(task, sampler=Sampler("ddim", 4))
    )
    assert finite.all()
    assert images.shape == (3, 64, 64, 3)
    assert images[1].sum() == 200 * 32 * 16 * 3
    assert images[1, :32, :16].min() == 200
    assert sampling.generate_images(Stub(), asked[1:2], task)[0].shape == (1, 64, 64, 3)


def test_prompts_without_the_later_fields_keep_their_key():
    from sa_bench.contracts import key_values

    assert set(key_values(Prompts())) == {
        "forget",
        "replay",
        "test",
        "families",
        "synonyms",
        "indirect",
    }
    assert key_values(Prompts(files={"test": "x"}))["files"] == {"test": "x"}


@pytest.mark.parametrize("method", ["original", "prompt_filter", "relabel", "sld", "blank"])
def test_models_of_which_only_the_changes_are_kept_are_told_apart_by_their_base(method, tmp_path):
    """Base 1's images used to be taken for base 0's wherever a method leaves the weights as they are."""
    chains = [
        Chain(
            Store(tmp_path),
            resolve(["mnist_0_t2i"], [method], "quick", base_seeds=[base])[0],
            lambda *_: None,
        )
        for base in (0, 1)
    ]
    one, two = (chain.sample_stage("retain").inputs for chain in chains)
    assert one["model"] != two["model"]
    if method in ("original", "blank"):
        assert (
            one["model"]
            == chains[0].base.content
            == chains[0].sample_stage("retain", base=True).inputs["model"]
        )


def names_of(*sets, task="celeb_brad_pitt"):
    (cell,) = resolve([task], ["original"], "quick", sets=[f"task.{text}" for text in sets])
    return cell


def test_the_names_beside_the_concept_can_be_set_and_are_asked_for_and_keyed():
    cell = names_of(
        'classes=["brad pitt", "Ada Lovelace", "Alan  Turing"]', 'prompts.leakage=["{} at sea"]'
    )
    assert cell.task.classes == ("brad pitt", "Ada Lovelace", "Alan Turing")
    asked = {row.request.condition for row in sampling.plan_set(cell.task, "leakage")}
    assert asked == {"Ada Lovelace at sea", "Alan Turing at sea"}
    own = names_of()
    assert cell.id != own.id
    with_their_names = names_of('prompts.leakage=["{} at sea"]')
    assert len({cell.id, own.id, with_their_names.id}) == 3
    again = resolve_task(
        "celeb_brad_pitt", "quick", cell.overrides
    )  # a result's command makes the same cell
    assert again.classes == cell.task.classes


def test_names_make_one_cell_however_they_are_written():
    cell = names_of("classes=Emma Stone,Ada Lovelace")
    assert cell.task.classes == ("Emma Stone", "Ada Lovelace")
    same = (
        ('classes=["Emma Stone","Ada  Lovelace"]',),
        ("classes=brad_pitt,Ada Lovelace", "concept=Emma Stone"),
        ("concept=Emma Stone", "classes=brad pitt,Ada Lovelace"),
    )
    assert {names_of(*sets).id for sets in same} == {cell.id}
    own = registry.get_task("celeb_brad_pitt").classes
    assert names_of(f"classes={','.join(own)}").id == names_of().id
    assert names_of("concept=Brad_Pitt").id == names_of().id


def test_one_name_alone_has_no_leakage_set():
    with pytest.raises(SaBenchError, match="has no name beside brad pitt"):
        names_of("classes=brad pitt")
    alone = names_of("classes=brad pitt", "leakage_images=0").task
    assert (alone.classes, alone.relabel_to) == (("brad pitt",), 0)
    assert "leakage" not in sampling.set_names(alone)
    with pytest.raises(SaBenchError, match="has no name beside a garbage truck"):
        names_of("leakage_images=2", task="concept")
    more = ("classes=a garbage truck,a bus", "leakage_images=2", 'prompts.leakage=["{} at night"]')
    leak = sampling.plan_set(names_of(*more, task="concept").task, "leakage")
    assert [row.request.condition for row in leak] == ["a bus at night"] * 2


@pytest.mark.parametrize(
    ("task", "sets", "says"),
    [
        ("celeb_brad_pitt", ('classes=["brad pitt", "Ada", "ada"]',), "'ada' is there twice"),
        ("celeb_brad_pitt", ("classes=brad pitt,Brad_Pitt",), "'Brad_Pitt' is there twice"),
        ("celeb_brad_pitt", ("classes=brad pitt,Ada", "concept=Ada"), "task.concept='Ada'"),
        ("celeb_brad_pitt", ("classes=brad pit,Ada",), "nearly 'brad pitt'"),
        ("celeb_brad_pitt", ("classes=[]",), "give names"),
        ("celeb_brad_pitt", ('classes=["brad pitt", 3]',), "give names"),
        ("celeb_brad_pitt", ('classes=["brad pitt", "..."]',), "give names"),
        ("celeb_brad_pitt", ('classes=["brad pitt"',), "not a JSON list"),
        ("celeb_brad_pitt", ('prompts.leakage=["on stage"]',), "'on stage' has no {}"),
        (
            "celeb_brad_pitt",
            ('prompts.leakage=["{name} on stage {}"]',),
            "only {} stands for a name",
        ),
        ("nudity_explicit", ("classes=nudity,Ada",), "cannot be set"),
        ("mnist_0", ("classes=a,b",), "cannot be set"),
    ],
)
def test_names_that_mean_nothing_are_refused_in_one_line(task, sets, says):
    with pytest.raises(SaBenchError, match=re.escape(says)) as error:
        names_of(*sets, task=task)
    assert "\n" not in str(error.value)


def test_the_names_of_appendix_e_are_among_those_beside_the_papers_concepts():
    for name in ("celeb_brad_pitt", "celeb_angelina_jolie"):
        assert "Jennifer Aniston" in registry.get_task(name).classes[1:]


def test_a_named_prompt_set_takes_the_place_of_a_roles_texts():
    sets = ("prompts.test=set:styles", "prompts.leakage=set:contexts", "prompts.kept=set:strangers")
    prompts = names_of(*sets).task.prompts
    assert prompts is not None
    assert (prompts.test, prompts.leakage, prompts.kept) == (
        own_prompts.STYLES, own_prompts.CONTEXTS, own_prompts.STRANGERS,
    )  # fmt: skip
    assert names_of(sets[0]).id != names_of().id
    with pytest.raises(SaBenchError, match=r"Unknown prompt set 'stiles'.*Did you mean styles"):
        names_of("prompts.test=set:stiles")


def test_sets_name_someone_where_they_are_for_a_name_and_nobody_else():
    for name, texts in own_prompts.SETS.items():
        assert len(set(texts)) == len(texts) >= 8, name
        assert {text.count("{}") for text in texts} == {0 if name == "strangers" else 1}, name


@pytest.mark.parametrize(
    "name", ["celeb_brad_pitt", "nudity_explicit", "van_gogh_style", "concept"]
)
def test_the_real_model_has_a_scale_for_a_first_look(name):
    """With what methods do at `full`, on fewer images and in fewer steps."""
    for method in ("sa", "no_ewc", "esd", "uce"):
        (small,), (full,) = (resolve([name], [method], scale) for scale in ("small", "full"))
        assert small.task.model == full.task.model
        changed = {f for f in small.fields if small.fields[f] != full.fields[f]}
        assert changed <= {"steps", "batch", "fisher"}, method
        assert small.task.n_forget < full.task.n_forget
    assert resolve([name], ["no_ewc"], "small")[0].fields["steps"] == 500


def test_a_task_without_that_scale_says_so():
    with pytest.raises(SaBenchError, match="mnist_0 has no scale small"):
        resolve(["mnist_0"], ["sa"], "small")
