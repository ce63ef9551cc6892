"""Names however they are written, and prompts that name what is to be forgotten."""

from dataclasses import replace

import pytest

from sa_bench.contracts.names import is_same_name, mentions
from sa_bench.core import registry
from sa_bench.core.errors import SaBenchError
from sa_bench.engine.cells import resolve, resolve_task
from sa_bench.engine.flags import count_left_out
from sa_bench.engine.validation import class_index

NUDITY = registry.get_task("nudity_explicit")


@pytest.mark.parametrize(
    ("name", "text", "named"),
    [
        ("cat", "Two cats on a wall", True),
        ("cat", "the cathedral of Chartres", False),
        ("cat", "a CAT-flap", True),
        ("cats", "a cat", True),
        ("brad pitt", "Brad  Pitt smiling", True),
        ("brad pitt", "Brad-Pitt's car", True),
        ("brad pitt", "brad_pitt, 4k", True),
        ("brad pitt", "#bradpitt", True),
        ("brad pitt", "Brad and Pitt", False),
        ("brad pitt", "a pitt of Brad", False),
        ("a garbage truck", "three garbage trucks in the rain", True),
        ("a garbage truck", "a garbage can", False),
        ("beyoncé", "Beyonce\u0301 on stage", True),
        ("beyoncé", "beyonce on stage", True),
        ("woman", "two women talking", True),
        ("glass", "glasses on a table", True),
        ("bus", "buses", True),
        ("class", "clas", False),
        ("city", "cities at night", True),
        ("knife", "a set of knives", True),
        ("a", "a a a", True),
        ("", "anything", False),
    ],
)
def test_who_is_named(name, text, named):
    assert mentions(text, [name]) is named


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("A naked man stands by a lake.", True),
        ("two NUDES in charcoal", True),
        ("a woman without clothes", True),
        ("A denuded hill", False),
        ("people riding bicycles", False),
        ("a sextant on a map", False),
    ],
)
def test_nudity_is_named_by_more_than_its_name(text, named):
    assert NUDITY.mentions_concept(text) is named


def test_a_style_is_named_by_its_painter():
    assert registry.get_task("van_gogh_style").mentions_concept("a wheat field, Van Gogh")


def test_what_is_left_out_is_said():
    prompts = replace(
        NUDITY.prompts,
        kept=("a nude", "a hill", "a bridge"),
        replay=("a naked man", "a dog"),
        files={},
    )
    task = replace(NUDITY, prompts=prompts)
    assert (
        count_left_out(task)
        == "prompts: 1 of 3 of kept and 1 of 2 of replay name nudity and are left out"
    )
    assert task.replay_conditions() == ["a dog"]
    assert (
        count_left_out(replace(task, prompts=replace(prompts, kept=("a hill",), replay=("a dog",))))
        is None
    )
    assert count_left_out(registry.get_task("mnist_0")) is None


@pytest.mark.parametrize(
    "text", ["brad_pitt", "Brad Pitt", " BRAD-PITT ", "bradpitt", "Brad  Pitt"]
)
def test_one_name_is_one_cell(text):
    set_ = [f"task.concept={text}", "task.model=smoke"]
    (named,) = resolve(["celeb_brad_pitt"], ["original"], "quick", sets=set_)
    (plain,) = resolve(["celeb_brad_pitt"], ["original"], "quick", sets=["task.model=smoke"])
    assert named.id == plain.id
    assert named.task.classes[0] == "brad pitt"


@pytest.mark.parametrize(
    ("task", "text", "says"),
    [
        ("celeb_brad_pitt", "brad pit", "nearly 'brad pitt'"),
        ("celeb_brad_pitt", "brad pitts", "nearly 'brad pitt'"),
        ("celeb_brad_pitt", "...", "give the words"),
        ("celeb_brad_pitt", "emma_stone", None),
        ("mnist_0", "zeroo", "has no class"),
    ],
)
def test_a_name_that_is_nearly_one_is_refused(task, text, says):
    model = {} if task == "mnist_0" else {"model": "smoke"}
    if says is None:
        assert resolve_task(task, "quick", {"concept": text, **model}).classes[0] == text
        return
    with pytest.raises(SaBenchError, match=says):
        resolve_task(task, "quick", {"concept": text, **model})


def test_classes_are_found_however_they_are_written():
    task = registry.get_task("cifar10_airplane")
    assert [class_index(task, text) for text in ("Airplane", "air-plane", "0", " automobile ")] == [
        0,
        0,
        0,
        1,
    ]
    assert is_same_name("Van_Gogh", "van gogh")
