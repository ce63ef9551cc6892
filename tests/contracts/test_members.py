"""Small values that many places share: lines of errors, silence, named results, a method's defaults."""

import numpy as np
import pytest

from sa_bench.contracts import Method, SampleSet, ignore_event
from sa_bench.core import errors, registry
from sa_bench.core.store import Store
from sa_bench.data.assets import catalogue
from sa_bench.scoring import judges
from sa_bench.statistics import clustered, jackknife, over_bases


@pytest.mark.parametrize(
    ("text", "first", "last"),
    [
        ("one\ntwo", "one", "two"),
        ("\n\tat fault: a\n\tat fault: b \n", "at fault: a", "at fault: b"),
        ("", "OSError", "OSError"),
    ],
)
def test_the_first_and_the_last_line_of_an_error(text, first, last):
    error = OSError(text)
    assert (errors.first_line(error), errors.last_line(error)) == (first, last)


def test_nobody_is_told():
    assert ignore_event("sample", 1, 2) is ignore_event() is None


def test_results_of_statistics_have_names():
    difference = over_bases({0: [1.0], 1: [2.0], 2: [3.0]})
    assert difference.mean == 2.0
    assert difference.low < 2.0 < difference.high
    assert 0 < difference.p < 0.1
    assert over_bases({0: [1.0]})[1:] == (None, None, None)
    rows = np.arange(40.0)
    estimate = jackknife(lambda i: float(rows[i].mean()), 40)
    assert estimate.low < estimate.value == 19.5 < estimate.high
    interval = clustered.wilson(np.array([0.0, 1.0]), None)
    assert interval.name == "wilson, Bonferroni(1)"
    assert 0 < interval.low < interval.high < 1


def test_an_artifact_is_listed_by_name(tmp_path):
    store = Store(tmp_path)
    artifact = store.make("measure", {"a": 1}, lambda folder: None)
    (entry,) = store.entries()
    assert (entry.stage, entry.key, entry.finished) == ("measure", artifact.key, True)
    assert entry.size > 0


def test_a_data_set_in_an_archive_says_its_licence():
    asset = catalogue.get("cifar10")
    data = catalogue.DATA["cifar10"]
    assert (asset.licence, asset.unlocks) == (data.licence, data.unlocks)
    assert asset.md5 == data.archive().md5


class Counting:
    """A judge that counts how often it is asked."""

    name, content, card, channels, asked = "counting", "abc", {}, 1, 0

    def probabilities(self, images):
        self.asked += 1
        return np.ones((len(images), 2)) / 2

    def features(self, images):
        return images


def test_a_judge_remembers_for_itself_alone():
    images, judge = np.zeros((3, 4, 4, 1), np.uint8), Counting()
    first, second = judges.CachedJudge(judge), judges.CachedJudge(judge)
    assert first.probabilities(images) is first.probabilities(images.copy())
    assert judge.asked == 1
    second.probabilities(images)
    assert judge.asked == 2
    for i in range(65):
        first.probabilities(images + np.uint8(i + 1))
    assert len(first.answers) == 64


def test_every_method_says_its_scope_and_times():
    """A method without such a field trains everything, with timesteps in pairs."""
    assert (Method.scope, Method.times) == ("full", "pairs")
    for entry in registry.list_entries("method"):
        cls = registry.get_method(entry.name)
        assert isinstance(cls.scope, str)
        assert cls.times in ("pairs", "shared", "independent")


def test_sets_of_samples_keep_prompts_only_if_all_have_them():
    one = SampleSet(np.zeros((2, 1, 1, 1), np.uint8), np.zeros(2, int), np.arange(2), np.arange(2))
    without = SampleSet(np.zeros((1, 1, 1, 1), np.uint8), np.zeros(1, int), np.arange(1))
    assert SampleSet.concatenate([one, one]).prompts.tolist() == [0, 1, 0, 1]
    assert SampleSet.concatenate([one, without]).prompts is None
