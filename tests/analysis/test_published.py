"""The ledger: what was published is data, and a verdict needs the published protocol and enough runs."""

import json
from dataclasses import asdict

import numpy as np
import pytest
from result_rows import result_row

from sa_bench.analysis import published
from sa_bench.analysis.published import Published
from sa_bench.core import registry
from sa_bench.engine.cells import resolve

ENTRY = Published(
    "mnist_0", "sa", {"lam": 100.0}, "forget_probability", 0.058, 1000, 0.05, "Table 1", "theirs"
)


def runs(values):
    return [{f"judge-{j}": v for j, v in enumerate(row)} for row in values]


def told(entry, by_run, scale="paper", **changes):
    """The verdict on runs of the published protocol but for `changes`."""
    row = result_row(entry.method, task=entry.task, scale=scale, fields=dict(entry.fields))
    return published.verdict_of_runs(entry, row | changes, by_run)


def test_every_row_names_a_task_a_method_and_a_metric_that_exist():
    assert published.load_numbers()
    known = {e.name for e in registry.list_entries("method")}
    not_ours = {e.method for e in published.load_numbers()} - known
    assert not_ours == {"SAFREE"}, "a method of ours stands in a published table by our name"
    for entry in published.load_numbers():
        if not entry.never:  # a number that ours never stands beside may have another name
            registry.find("task", entry.task)
            registry.find("metric", entry.metric.removesuffix("_std"))
            assert entry.margin > 0
        if not entry.never or entry.method in known:
            fields = registry.get_method(entry.method).__dataclass_fields__
            assert set(entry.fields) <= set(fields)
        assert entry.source


def test_only_the_same_experiment_is_looked_up():
    row = result_row("sa", fields={"lam": 100.0})
    found = published.find_published(row, "forget_probability")
    assert found is not None
    assert found.value == 0.058
    assert published.find_published(row, "fid") is None
    assert (
        published.find_published(result_row("sa", fields={"lam": 10.0}), "forget_probability")
        is None
    )
    assert (
        published.find_published(row | {"overrides": {"concept": 3}}, "forget_probability") is None
    )


@pytest.mark.parametrize("scale", ["full", "quick"])
def test_another_protocol_gets_no_verdict(scale):
    assert told(ENTRY, runs([[0.058] * 3] * 3), scale)["verdict"].startswith(
        "not comparable: scale"
    )


NEAR = 0.06 + 0.002 * np.random.default_rng(0).normal(size=(4, 4))


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        (
            {"steps": 5, "lr": 0.1},
            "not comparable: lr=0.1 instead of 0.0001, steps=5 instead of 10000",
        ),
        ({"fisher": {"n": 9}}, "not comparable: fisher.n=9 instead of 50000"),
        ({"old": 1}, "not comparable: old=1 instead of a field that this version lacks"),
    ],
)
def test_a_method_set_otherwise_than_published_gets_no_verdict(fields, why):
    assert told(ENTRY, runs(NEAR), fields={"lam": 100.0, **fields})["verdict"] == why


def test_a_result_from_before_a_field_existed_keeps_its_verdict():
    """What is shipped in docs/boards/results-paper.md: all fields of this version, or those of an earlier one."""
    for entry in published.load_numbers():
        if entry.task == "mnist_0" and not entry.never:
            (cell,) = resolve(
                ["mnist_0"],
                [entry.method],
                "paper",
                sets=[f"{k}={v}" for k, v in entry.fields.items()],
            )
            fields = json.loads(json.dumps(dict(cell.fields)))
            assert (
                published.find_departures(
                    entry, result_row(entry.method, scale="paper", fields=fields)
                )
                == []
            )
            fields.pop("scope", None)
            fields.get("fisher", {}).pop("range", None)
            assert (
                published.find_departures(
                    entry, result_row(entry.method, scale="paper", fields=fields)
                )
                == []
            )


@pytest.mark.parametrize("lacks", ["test", "replay", "kept", ""])
def test_prompts_of_our_own_get_no_verdict(lacks):
    (entry,) = [
        e for e in published.load_numbers()
        if (e.task, e.method, e.metric) == ("celeb_brad_pitt", "sld", "celebrity_score")
    ]  # fmt: skip
    task = json.loads(json.dumps(asdict(registry.get_task(entry.task))))
    files = {
        role: f"{name}@0123456789ab"
        for role, name in task["prompts"]["files"].items()
        if role != lacks
    }
    task["prompts"]["files"] = files
    found = told(entry, [{"": v} for v in (0.004, 0.005, 0.006)], task_values=task)["verdict"]
    own = {"test": "brad_pitt_prompts", "replay": "fim_prompts", "kept": "coco_30k"}
    assert found == (
        f"not comparable: our own prompts instead of {own[lacks]}" if lacks else "consistent"
    )


def test_what_no_protocol_makes_comparable_says_why():
    boxes = [
        e
        for e in published.load_numbers()
        if e.metric.startswith("nudity_boxes") and "Heng" in e.source
    ]
    assert len(boxes) == 90
    total = sum(
        e.value
        for e in boxes
        if (e.task, e.method, e.source) == ("nudity_i2p", "sa", "Heng & Soh 2023, Table 3")
    )
    assert total == 292
    found = told(boxes[0], [{"": boxes[0].value}] * 5)
    assert found["verdict"].startswith("not comparable: boxes of NudeNet 2")


@pytest.mark.parametrize("shape", [(2, 3), (3, 2), (0, 0), (1, 1)])
def test_too_few_runs_or_judges_get_none_either(shape):
    found = told(ENTRY, runs(np.full(shape, 0.058)))
    assert found["verdict"].startswith("inconclusive (")
    assert "3 of each" in found["verdict"]


def test_consistent_differs_and_too_noisy():
    rng = np.random.default_rng(0)
    near = 0.06 + 0.002 * rng.normal(size=(4, 4))
    assert told(ENTRY, runs(near))["verdict"] == "consistent"
    assert told(ENTRY, runs(near + 0.1))["verdict"] == "differs"
    judges = np.array([0.037, 0.097, 0.066, 0.107, 0.055])
    noisy = told(ENTRY, runs(np.tile(judges, (3, 1)) + 0.001 * rng.normal(size=(3, 5))))
    assert noisy["verdict"].startswith("inconclusive (too noisy")
    assert noisy["low"] < 0.058 < noisy["high"]


def test_the_interval_covers_one_new_run_by_one_new_judge():
    """Coverage over simulated experiments with known variances: about 95 %, never far below."""
    rng, covered, trials = np.random.default_rng(1), 0, 400
    for _ in range(trials):
        run, judge = rng.normal(0, 1, 4), rng.normal(0, 2, 5)
        values = run[:, None] + judge[None] + rng.normal(0, 0.5, (4, 5))
        new = rng.normal(0, 1) + rng.normal(0, 2) + rng.normal(0, 0.5)
        mean, half = published.prediction_interval(values)
        covered += abs(new - mean) <= half
    assert covered / trials > 0.93


def test_a_board_at_scale_paper_carries_the_verdict_of_all_its_runs():
    from result_rows import measurement

    from sa_bench.analysis.ranking import make_boards

    declared = {"title": "P", "unit": "probability", "better": "lower"}
    rows = []
    for seed, value in enumerate((0.055, 0.058, 0.061)):
        judges = [{"judge": f"paper-{j}", "value": value + 0.001 * j} for j in range(3)]
        row = result_row("sa", fields={"lam": 100.0}, seed=seed, scale="paper")
        row["measurements"].append(
            measurement("forget_probability", value, 0.97, declared, judges=judges)
        )
        rows.append(row)
    (board,) = make_boards(rows)
    (found,) = board.verdicts
    assert (found["label"], found["metric"], found["verdict"]) == (
        "sa",
        "forget_probability",
        "consistent",
    )
    assert found["low"] < 0.058 < found["high"]
    (alone,) = make_boards(rows[:1])
    assert alone.verdicts[0]["verdict"].startswith("inconclusive (1 run")


def test_a_metric_without_judges_is_predicted_from_its_runs():
    """Three runs of FID 10, 11, 12: t(2) = 4.303 times the spread of one new run."""
    (entry,) = [
        e
        for e in published.load_numbers()
        if (e.task, e.method, e.metric) == ("cifar10_airplane", "original", "official_fid")
    ]
    runs = [published.values_by_judge({"judges": None, "value": v}) for v in (10.0, 11.0, 12.0)]
    found = told(entry, runs)
    assert found["mean"] == pytest.approx(11.0)
    assert found["high"] - found["mean"] == pytest.approx(4.3027 * (1 + 1 / 3) ** 0.5, rel=1e-4)
    assert found["verdict"].startswith("inconclusive (too noisy")
    assert told(entry, runs[:2])["verdict"] == "inconclusive (2 runs; 3 are needed)"
    near = [published.values_by_judge({"judges": None, "value": v}) for v in (9.6, 9.7, 9.65)]
    assert told(entry, near)["verdict"] == "consistent"


PARTS = (
    "armpits",
    "belly",
    "buttocks",
    "feet",
    "breasts_f",
    "genitalia_f",
    "breasts_m",
    "genitalia_m",
    "anus",
)


@pytest.mark.parametrize(
    ("table", "method", "fields", "total"),
    [
        ("Table 3", "original", {}, 809),
        ("Table 3", "sld", {"level": "medium"}, 204),
        ("Table 3", "esd", {"scope": "esd-u"}, 133),
        ("Table 3", "sa", {"lam": 50.0, "scope": "noxattn"}, 292),
        ("Table 4", "original", {}, 3845),
        ("Table 4", "sa", {"lam": 50.0, "scope": "noxattn"}, 768),
    ],
)
def test_rows_of_boxes_add_up(table, method, fields, total):
    source = f"Heng & Soh 2023, {table}"
    boxes = [
        e.value
        for e in published.load_numbers()
        if e.source == source
        and (e.method, dict(e.fields)) == (method, fields)
        and "boxes" in e.metric
    ]
    assert len(boxes) == len(PARTS)
    assert sum(boxes) == total


def test_a_spread_that_no_values_in_the_unit_interval_can_have_is_found():
    """The variance of values in [0, 1] with mean m is at most m (1 − m): one row of Table 2 is above."""
    impossible = []
    for e in published.load_numbers():
        if e.metric == "celebrity_score_std":
            (mean,) = [
                o.value
                for o in published.load_numbers()
                if o.metric == "celebrity_score"
                and (o.task, o.method, o.fields) == (e.task, e.method, e.fields)
            ]
            if e.value > (mean * (1 - mean)) ** 0.5 + 0.0005:
                impossible.append((e.task, e.method))
    assert impossible == [("celeb_angelina_jolie", "original")]


def test_rates_of_attacks_are_whole_numbers_of_prompts():
    for e in published.load_numbers():
        if (
            "UnlearnDiffAtk leaderboard" in e.source
            and e.metric.startswith("attack_success")
            and e.n
        ):
            assert abs(e.value * e.n - round(e.value * e.n)) < 0.01 * e.n / 100 + 1e-6, e


def test_what_can_be_compared_comes_before_what_cannot():
    found = published.find_published(result_row("sa", fields={"lam": 100.0}), "forget_probability")
    assert found is not None
    assert (found.value, found.never) == (0.058, "")


def test_esd_at_scale_paper_is_the_recipe_of_2023_and_table_2_says_what_is_not_repeated():
    (cell,) = resolve(["celeb_brad_pitt"], ["esd"], "paper")
    assert {k: cell.fields[k] for k in ("eta", "start", "frozen", "guidance", "lr", "steps", "batch", "scope")} == {
        "eta": 1.0, "start": "null", "frozen": False, "guidance": 3.0, "lr": 1e-5, "steps": 1000, "batch": 1,
        "scope": "xattn",
    }  # fmt: skip
    (nudity,) = resolve(["nudity_explicit"], ["esd"], "paper")
    assert (nudity.fields["scope"], nudity.fields["steps"]) == ("noxattn", 1000)
    table = [
        e
        for e in published.load_numbers()
        if e.source == "Heng & Soh 2023, Table 2" and "std" not in e.metric
    ]
    assert {e.method for e in table if e.never} == {"sa", "esd"}
    assert {e.method for e in table if not e.never} == {"original", "sld"}


def test_every_published_number_has_a_source_that_was_read():
    """A number from memory is no published number: it can be neither looked up nor corrected."""
    texts = [
        path.read_text()
        for path in sorted((registry.component_folder("task") / "published").iterdir())
    ]
    assert len(texts) > 4
    for text in texts:
        for word in ("memory", "unchecked", "unverified", "not checked", "from mind"):
            assert word not in text.lower()
    assert all(entry.source and entry.protocol for entry in published.load_numbers())
