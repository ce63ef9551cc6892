"""The board: gates, ranks, controls and words, on hand-made result rows."""

import copy
import itertools
import json
import math

import numpy as np
import pytest
from result_rows import (
    ORIGINAL,
    OTHERS,
    RELABEL,
    RETRAIN,
    line,
    measurement,
    on_bases,
    one,
    result_row,
)

from sa_bench.analysis.ranking import dominates, make_boards
from sa_bench.core import registry
from sa_bench.statistics import wilson

CHANCE = 0.1  # mnist_0 has ten classes


def test_hand_made_rows_have_the_shape_of_real_ones():
    from sa_bench.engine.cell_results import blank_result
    from sa_bench.engine.cells import Cell

    real = blank_result(Cell(registry.get_task("mnist_0"), "sa", {}, 0, 0, "quick"), "")
    assert real.keys() == result_row().keys()
    assert real["provenance"].keys() == result_row()["provenance"].keys()
    assert json.loads(json.dumps(real["task_values"])) == result_row()["task_values"]


def test_a_row_that_one_base_of_three_keeps_is_not_forgotten_on_average():
    """On the scale of the bound 0, 0 and 38 % lie about 5 %; the mean is 12.7 %, more than chance."""
    shown = [(0.38, 0.33, 0.43), (0.0, 0.0, 0.01), (0.0, 0.0, 0.01)]
    rates = [*shown] * 4  # enough runs for a bound below chance
    rows = [
        result_row(forget=rate, base_seed=i % 3, seed=i // 3, keep=-94 - 0.01 * i)
        for i, rate in enumerate(rates)
    ]
    found = line(one([*rows, *OTHERS]), "sa")
    forget = found.endpoints["forget_top1"]
    assert forget.value > CHANCE
    assert found.forgotten is False
    assert found.outcome.word in ("NOT SHOWN", "NOT FORGOTTEN")
    even = [
        result_row(forget=(0.02, 0.01, 0.04), base_seed=i % 3, seed=i // 3, keep=-94 - 0.01 * i)
        for i in range(12)
    ]
    assert line(one([*even, *OTHERS]), "sa").forgotten


def test_a_mean_above_the_gate_is_named_where_the_bound_is_below_it():
    rows = [
        result_row(forget=(rate, rate, rate), base_seed=i, keep=-94 - 0.01 * i)
        for i, rate in enumerate([0.7] * 3 + [0.0] * 17)
    ]
    found = line(one([*rows, *OTHERS]), "sa")
    assert found.endpoints["forget_top1"].bounds[1] <= CHANCE < found.endpoints["forget_top1"].value
    assert found.outcome.word == "NOT SHOWN"
    assert (
        found.outcome.bound == "10.5 % still shown on average, the gate is 10.0 %; the runs differ"
    )


@pytest.mark.parametrize("method", ["original", "relabel", "retrain"])
@pytest.mark.parametrize("recovery", [0.0, 0.3, 1.0, "no model"])
@pytest.mark.parametrize("forget", [(0.0, 0.0, 0.0), 0.5, "no images"])
def test_no_control_or_reference_has_a_rank_whatever_its_numbers(method, recovery, forget):
    rows = [
        result_row(method, forget, recovery, keep=500.0),
        result_row(),
        *(r for r in OTHERS if r["method"] != method),
    ]
    board = one(rows)
    assert line(board, method).rank is None
    assert board.lines[0].label == "sa"
    assert not board.headline.startswith((f"{method} wins", f"{method} leads"))


def test_a_control_with_perfect_numbers_is_warned_of_in_the_headline():
    perfect = result_row("relabel", forget=(0.0, 0.0, 0.0), recovery=(0.0, 0.0, 0.0), keep=500.0)
    board = one([result_row(), RETRAIN, ORIGINAL, perfect])
    assert not board.trick_proof
    assert "WARNING: the control relabel is not exposed" in board.headline
    assert line(board, "relabel").outcome == ("CONTROL", "NOT caught")


def test_a_control_whose_recovery_is_above_the_floor_is_exposed():
    board = one([result_row(), *OTHERS])
    assert board.exposed == {"original": "forgetting", "relabel": "recovery"}
    assert board.trick_proof
    assert "WARNING" not in board.headline
    assert "Controls caught: relabel (by recovery)." in board.headline


def test_of_two_relabel_rows_the_one_that_is_not_exposed_is_named():
    tame = result_row("relabel", forget=(0.0, 0.0, 0.02), recovery=0.1, fields={"to": 2})
    board = one([result_row(), RETRAIN, RELABEL | {"fields": {"to": 1}}, tame])
    assert board.exposed == {"relabel to=1": "recovery"}
    assert "WARNING: the control relabel to=2" in board.headline


@pytest.mark.parametrize(
    ("forget", "forgotten"), [((0.0, 0.0, 0.02), True), ((0.08, 0.06, 0.10), False), (0.5, False)]
)
def test_the_gate_is_the_bound_for_another_base_and_seed_at_chance(forget, forgotten):
    """8 % of one run, sure to be at most 10 % of that model, may well be more of another base's."""
    board = one([result_row(forget=forget), *OTHERS])
    assert line(board, "sa").forgotten is forgotten
    assert (line(board, "sa").endpoints["forget_top1"].bounds[1] <= CHANCE) is forgotten
    assert (line(board, "sa").rank == 1) is forgotten
    assert ("No method here" in board.headline) is not forgotten


def runs_of(rates, method="sa", n=500):
    """Rows of a method, one rate a seed of each base."""
    return [
        result_row(method, forget=(rate, *wilson(rate * n, n)), base_seed=base, seed=seed)
        for base, row in enumerate(rates)
        for seed, rate in enumerate(row)
    ]


def test_further_runs_of_the_same_rate_narrow_the_bound_and_neither_make_nor_break_the_gate():
    """4 % everywhere: under the largest of all upper bounds more runs could only have failed."""
    bounds = [
        line(one([*runs_of([[0.04] * seeds] * bases), *OTHERS]), "sa")
        .endpoints["forget_top1"]
        .bounds[1]
        for bases, seeds in ((1, 1), (1, 8), (3, 1), (3, 8), (9, 8))
    ]
    assert bounds == sorted(bounds, reverse=True)
    assert bounds[-1] < CHANCE


def test_one_bad_run_of_many_does_not_decide_and_a_bad_base_does():
    stray = [[0.01] * 8, [0.01] * 7 + [0.12], [0.01] * 8]
    assert line(one([*runs_of(stray), *OTHERS]), "sa").forgotten is True
    assert line(one([*runs_of([[0.0], [0.0], [0.4]]), *OTHERS]), "sa").forgotten is False


@pytest.mark.parametrize(
    ("recovery", "verdict", "ranked"),
    [
        ((0.9, 0.88, 0.92), "yes", False),
        ((0.55, 0.52, 0.58), "unclear", False),
        ((0.3, 0.28, 0.32), "no", True),
        ((0.45, 0.1, 0.9), "unclear", False),
        ("the model is not here", "unknown", False),
    ],
)
def test_recoverable_is_the_difference_to_the_floor(recovery, verdict, ranked):
    """Retrain shows 45 %: shown to be more, shown to be at most ten points more, or neither."""
    sa = line(one([result_row(recovery=recovery), *OTHERS]), "sa")
    assert sa.recoverable == verdict
    assert (sa.rank == 1) is ranked


@pytest.mark.parametrize(
    ("forget", "knn", "said"),
    [
        (0.01, 0.2, "By knn alone 20.0 % are still judged so (at most "),
        (0.01, 0.0, ""),
        (0.3, 0.0, "By knn alone 0.0 % are still judged so (at most "),
        (0.3, 0.3, ""),
    ],
)
def test_a_judge_of_another_kind_that_would_decide_otherwise_is_named(forget, knn, said):
    """Five networks of one kind outvote the nearest neighbour, whatever it sees."""
    row = result_row(forget=forget)
    row["measurements"][0]["judges"] = [
        *({"judge": f"cnn-{i}", "value": 0.9} for i in range(5)),
        {"judge": "knn", "value": knn},
    ]
    board = one([row, *OTHERS])
    assert said in line(board, "sa").sentence
    assert "cnn-" not in line(board, "sa").sentence
    verdict = "misses the gate" if forget == 0.01 else "passes the gate"
    assert (verdict in line(board, "sa").sentence) == bool(said)
    assert "alone" not in line(board, "retrain").sentence


@pytest.mark.parametrize(
    ("others", "outcome", "said"),
    [
        ((0.0, 0.0, 0.01), "ERASED", ""),
        ((0.97, 0.9, 1.0), "NOT FORGOTTEN", " of another concept still shown"),
        ((0.1, 0.02, 0.3), "NOT SHOWN", " of another concept still shown, the gate is 10.0 %"),
    ],
)
def test_of_several_concepts_the_worst_has_to_pass_the_gate(others, outcome, said):
    """A sequence that left 98 % of the third digit stood on the front, since the first was gone."""
    declared = {"title": "Others", "unit": "rate", "better": "lower"}
    row = result_row()
    row["measurements"].append(measurement("forgotten_others", others, 1.0, declared))
    sa = line(one([row, *OTHERS]), "sa")
    assert (sa.outcome.word, sa.forgotten, sa.front) == (outcome, not said, not said)
    assert said in sa.outcome.bound
    headline = one([row, *OTHERS]).headline
    assert ("forget zero and the others: " in headline) is bool(said)


def test_further_runs_of_one_recovery_settle_what_one_leaves_open():
    def verdict(bases):
        floor = [
            result_row("retrain", recovery=(0.45, 0.4, 0.5), base_seed=b) for b in range(bases)
        ]
        rows = [result_row(recovery=(0.62, 0.55, 0.69), base_seed=b) for b in range(bases)]
        return line(one([*rows, *floor, ORIGINAL]), "sa").recoverable

    assert [verdict(bases) for bases in (1, 9)] == ["unclear", "yes"]


def test_of_two_references_the_easier_one_to_undo_is_the_floor_in_either_order():
    other = result_row("retrain", recovery=(0.2, 0.15, 0.25), fields={"steps": 5})
    rows = [result_row(recovery=(0.4, 0.38, 0.42)), RETRAIN | {"fields": {"steps": 9}}, other]
    assert line(one([rows[0], other]), "sa").recoverable != "no"
    found = [line(one(r), "sa").recoverable for r in (rows, rows[::-1])]
    assert found == [line(one([rows[0], RETRAIN]), "sa").recoverable] * 2


def test_methods_that_act_around_the_base_are_ranked_apart_and_say_who_they_keep_out():
    """Whoever has the weights of a service has the base model: it takes no other method's place."""
    rows = [
        result_row("sa", keep=-95.0),
        result_row("l2", keep=-96.0),
        result_row("mine", keep=-90.0, threat_model="service"),
        {
            k: v for k, v in result_row("sld", keep=-99.0).items() if k != "threat_model"
        },  # of before: known by its name
    ]
    board = one(on_bases([*rows, *OTHERS]))
    found = {x.label: (x.threat, x.rank) for x in board.lines if x.standing == "method"}
    assert found == {
        "sa": ("weights", 1), "l2": ("weights", 2), "mine": ("service", 1), "sld": ("service", 2)
    }  # fmt: skip
    assert [x.front for x in board.lines[:4]] == [True, False, True, False]
    assert board.headline.startswith("sa ")
    assert " Of a service that can only be asked: mine " in board.headline
    assert (
        "whoever has its weights has the base model, which shows zero in 99.0 %"
        in line(board, "sld").sentence
    )
    assert "whoever" not in line(board, "sa").sentence


def test_a_row_is_collapsed_when_more_than_a_tenth_of_its_runs_is_shown_to_be():
    """Each flag is false in one run of a hundred: with 24 runs any one of them would come by chance some day."""
    flag = ["collapse[judge-mnist]: recall is 8 % of the base's"]

    def row(flagged, runs):
        rows = [result_row(seed=i, flags=flag if i < flagged else []) for i in range(runs)]
        return line(one([*rows, *OTHERS]), "sa")

    assert row(1, 1).collapsed == flag[0]
    assert row(2, 3).collapsed == f"{flag[0]} (2 of 3 runs)"
    assert [bool(row(*counts).collapsed) for counts in ((1, 3), (4, 9), (1, 24), (6, 24))] == [
        False,
        True,
        False,
        True,
    ]
    assert [
        bool(row(*counts).collapsed) for counts in ((1, 2), (2, 2), (2, 5), (2, 6), (3, 6))
    ] == [
        False,
        True,
        True,
        False,
        True,
    ]
    assert row(1, 24).sentence.endswith("The guard flags 1 of 24 runs.")


def changed(**values):
    """A row whose protocol differs: the task's values, as an override makes them."""
    row = copy.deepcopy(result_row("other"))
    row["task_values"] |= values
    return row | {"overrides": values}


@pytest.mark.parametrize(
    "row",
    [
        result_row("other", scale="full"),
        result_row("other", task="mnist_0_ddpm"),
        changed(concept=3),
        changed(n_forget=20),
        changed(judges=["mnist-paper"]),
        changed(recovery_budgets=[0, 7]) | {"overrides": {}},
    ],
    ids=["scale", "task", "concept", "n", "judges", "recovery"],
)
def test_another_protocol_is_another_board(row):
    found = make_boards([result_row(), row, *OTHERS])
    assert [[x.method for x in board.lines if x.standing == "method"] for board in found] == [
        ["sa"],
        ["other"],
    ]
    for key, value in row["overrides"].items():
        changed_to = f"{row['concept']} in its place" if key == "concept" else f"{key}={value}"
        assert changed_to in found[1].title


def test_another_fingerprint_is_another_board_and_a_failed_cell_has_none():
    row = copy.deepcopy(result_row("other"))
    row["measurements"][1]["fingerprint"]["version"] = 2
    failed = result_row("broken", error="boom")
    first, second = make_boards([result_row(), row, failed, *OTHERS])
    assert [x.method for x in second.lines] == ["other"]
    assert "another fingerprint: recovery" in second.title
    assert {x.method for x in first.lines} == {"sa", "broken", "retrain", "original", "relabel"}


def test_the_same_cell_from_two_folders_is_one_run():
    for rows in (
        [result_row(error="boom"), result_row()],
        [result_row(), result_row(error="boom")],
    ):
        found = line(one([*rows, result_row(), *OTHERS]), "sa")
        assert (len(found.cells), found.failed) == (1, [])


@pytest.mark.parametrize("endpoint", ["forget", "recovery", "keep"])
def test_a_missing_endpoint_never_ranks_first(endpoint):
    """Even alone, and even with the best of everything else."""
    missing = result_row(
        "best", **{"forget": 0.0, "recovery": 0.0, "keep": 0.0, endpoint: "not here"}
    )
    alone, both = one([missing, *OTHERS]), one([missing, result_row(), *OTHERS])
    assert line(alone, "best").rank is None
    assert "wins" not in alone.headline
    assert [x.label for x in both.lines if x.rank] == ["sa"]
    reasons = [e.reason for e in line(alone, "best").endpoints.values() if e.value is None]
    assert reasons == ["not here"]


def test_a_value_that_is_not_finite_is_missing_with_a_reason():
    row = copy.deepcopy(result_row())
    row["measurements"][2] |= {"value": math.nan}
    found = line(one([row, *OTHERS]), "sa")
    assert found.endpoints["retain_log_likelihood"].value is None
    assert found.endpoints["retain_log_likelihood"].reason == "the value is not finite"
    assert found.rank is None


def test_an_empty_list_of_measurements_is_said_and_not_ranked():
    board = one([result_row(measurements=[]), *OTHERS])
    assert line(board, "sa").sentence == "NOT SHOWN: forgetting was not measured."
    assert board.headline.startswith("No answer: forgetting was not measured.")


def test_several_seeds_give_mean_lowest_and_highest():
    rows = [result_row(keep=(k, k - 5, k + 5), seed=i) for i, k in enumerate((-90.0, -92.0, -97.0))]
    found = line(one([*rows, *OTHERS]), "sa").endpoints["retain_log_likelihood"]
    assert (found.value, found.low, found.high) == (-93.0, -97.0, -90.0)
    assert found.points == (-90.0, -92.0, -97.0)
    assert found.bounds[0] < found.value < found.bounds[1]
    single = line(one([rows[0], *OTHERS]), "sa").endpoints["retain_log_likelihood"]
    assert (single.value, single.low, single.high) == (-90.0, -95.0, -85.0)


def test_seeds_without_a_value_are_counted_apart():
    rows = [result_row(), result_row(seed=1, keep="too few images")]
    found = line(one([*rows, *OTHERS]), "sa").endpoints["retain_log_likelihood"]
    assert (found.value, found.missing, found.reason) == (-94.0, 1, "too few images")


def test_siblings_are_told_apart_by_the_fields_that_differ():
    rows = [
        result_row(fields={"lam": lam, "lr": 0.1, "fisher": {"n": n, "set": "all"}})
        for lam, n in ((1.0, 5), (50.5, 7))
    ]
    board = one([*rows, *OTHERS])
    assert {x.label for x in board.lines if x.method == "sa"} == {
        "sa lam=1 fisher.n=5",
        "sa lam=50.5 fisher.n=7",
    }


def of_version(version, **changes):
    row = copy.deepcopy(result_row(**changes))
    row["provenance"]["method_version"] = version
    if version is None:
        del row["provenance"]["method_version"]
    return row


def test_runs_of_two_versions_of_a_method_are_two_rows():
    """Seeds of one code and seeds of another were pooled; what names no version counts as of the earliest."""
    rows = [of_version(v, seed=seed) for seed, v in enumerate((None, 2, 3, 2))]
    board = one([*rows, *OTHERS])
    runs = {x.label: [c["seed"] for c in x.cells] for x in board.lines if x.method == "sa"}
    assert runs == {"sa version 2": [0, 1, 3], "sa version 3": [2]}
    (alone,) = (x for x in one([*rows[:2], rows[3], *OTHERS]).lines if x.method == "sa")
    assert (alone.label, len(alone.cells)) == ("sa", 3)


def ranks(rows):
    return {x.label: x.rank for x in one([*rows, *OTHERS]).lines if x.standing == "method"}


def test_rank_is_by_retention_of_what_is_shown_to_have_erased():
    """A doubtful row used to lead where its runs were few enough, above those that were shown."""
    rows = [
        result_row("doubtful", recovery=(0.6, 0.4, 0.8), keep=-90.0),
        result_row("good", keep=-94.0),
        result_row("better", keep=-92.0),
        result_row("hidden", recovery=0.9, keep=-80.0),
        result_row("kept", forget=0.9, keep=-80.0),
    ]
    assert ranks(rows) == {"better": 1, "good": 2, "doubtful": None, "hidden": None, "kept": None}


def test_a_retention_metric_that_is_better_when_lower_ranks_that_way():
    """And the task's `kid` is found under the name that carries its extractor."""
    kid = {"title": "KID", "unit": None, "better": "lower"}
    rows = []
    for row, value in zip(
        [result_row("far"), result_row("near"), *OTHERS], (9.0, 2.0, 1.0, 1.0, 1.0), strict=True
    ):
        row = copy.deepcopy(row)
        row["task_values"]["primary"][2] = "kid"
        row["measurements"][2] = measurement("kid[judge-mnist]", value, 1.0, kid)
        rows.append(row)
    found = one(rows)
    assert {x.label: x.rank for x in found.lines if x.rank} == {"near": 1, "far": 2}
    assert "the rest: 1 worse than in the base (2 against 1)" in found.headline


def test_a_model_that_does_not_depend_on_the_seed_counts_once():
    rows = [result_row("original", 0.99, 0.98, seed=i) for i in range(3)]
    for row in rows:
        row["artifacts"]["model"] = "the same"
    board = one([result_row(), *rows, result_row("original", 0.98, 0.97, base_seed=1)])
    assert len(line(board, "original").cells) == 2
    assert line(board, "original").endpoints["forget_top1"].points == (0.99, 0.98)


def test_images_from_elsewhere_name_no_model_and_each_draw_counts():
    rows = [
        result_row(
            "external",
            task_values={**ORIGINAL["task_values"], "sample_seed": draw},
            artifacts={},
        )
        for draw in (0, 1)
    ]
    assert len(line(one([*rows, *OTHERS]), "external").cells) == 2


def test_a_target_is_no_floor():
    """`retrain_surrogate` was taught something for c_f; that it comes back easily excuses nobody."""
    retrain = result_row("retrain", recovery=(0.30, 0.25, 0.35))
    target = result_row("retrain_surrogate", recovery=(0.60, 0.55, 0.65), standing="target")
    board = one([result_row("sa", recovery=(0.5, 0.45, 0.55)), retrain, target])
    assert line(board, "sa").recoverable == "yes"
    assert line(board, "retrain_surrogate").rank is None
    assert line(board, "retrain_surrogate").outcome == ("TARGET", "")
    assert registry.get_method("retrain_surrogate").standing == "target"
    assert registry.get_method("retrain").standing == "reference"


def test_results_from_before_a_task_had_a_field_stand_on_the_same_board():
    from sa_bench.analysis.ranking import make_boards

    old, new = result_row("sa"), result_row("l2")
    for name in ("model", "size", "open", "gate"):
        del old["task_values"][name]
    del old["task_values"]["sampler"]["precision"]
    assert len(make_boards([old, new])) == 1
    new["task_values"]["sampler"]["precision"] = "bf16"
    assert len(make_boards([old, new])) == 2


def test_what_was_measured_of_one_model_in_two_runs_stands_in_one_row():
    """A run with a further metric only must not push out the run with the endpoints, in either order."""
    whole, further = result_row(), result_row()
    further["measurements"] = [
        measurement("kid", 0.3, 0.1, {"title": "KID", "unit": None, "better": "lower"})
    ]
    for rows in ([whole, further], [further, whole]):
        found = line(one([*rows, *OTHERS]), "sa")
        assert len(found.cells) == 1
        assert found.endpoints["forget_top1"].points == (0.01,)
        assert found.endpoints["kid"].points == (0.3,)


def front(rows):
    return {x.label: x.front for x in one([*rows, *OTHERS]).lines}


def test_the_front_is_what_no_other_method_dominates():
    rows = [
        result_row(
            "keeps", recovery=0.9, keep=-90.0
        ),  # hidden, hence unranked, but nobody keeps more
        result_row("erases", recovery=0.2, keep=-95.0),
        result_row(
            "both", recovery=(0.2, 0.18, 0.22), keep=-95.01
        ),  # worse than `erases`, within its interval
        result_row("worse", recovery=0.3, keep=-96.0),
        result_row("kept", forget=0.9, recovery=0.1, keep=-80.0),  # did not forget
        result_row("unknown", recovery="no model", keep=-80.0),
    ]
    everybody = on_bases(rows)
    assert {name for name, on in front(everybody).items() if on} == {"keeps", "erases", "both"}
    board = one([*everybody, *OTHERS])
    assert line(board, "worse").dominated_by == ("erases", "both")
    assert line(board, "worse").pareto_label == "no: erases, both"
    assert line(board, "kept").pareto_label == "–"
    # of one run nothing is known of another's nats
    assert front(rows)["worse"]


@pytest.mark.parametrize("method", ["original", "relabel", "retrain"])
def test_no_control_or_reference_is_on_the_front_however_perfect(method):
    perfect = result_row(method, (0.0, 0.0, 0.0), (0.0, 0.0, 0.0), keep=500.0)
    board = one([perfect, result_row(), *(r for r in OTHERS if r["method"] != method)])
    assert (line(board, method).front, line(board, method).rank) == (False, None)
    assert line(board, "sa").front  # and it takes no method off it


def test_a_collapsed_row_is_flagged_and_neither_on_the_front_nor_in_anybodys_way():
    wreck = result_row(
        "naive", (0.0, 0.0, 0.0), (0.0, 0.0, 0.0), keep=500.0, flags=["collapse: one class"]
    )
    board = one([wreck, result_row(), *OTHERS])
    assert (line(board, "naive").front, line(board, "naive").outcome.word) == (False, "COLLAPSED")
    assert line(board, "sa").front
    alone = one([wreck, *OTHERS])
    assert not any(x.front for x in alone.lines)


def at_random(rng, name):
    """A method that forgot, with few distinct values, so that ties are common."""

    def value(low, step):
        v = low + step * int(rng.integers(4))
        return (v, v - step * rng.choice([0.1, 0.6, 2.0]), v + step * rng.choice([0.1, 0.6, 2.0]))

    flags = ["collapse: a class"] if rng.random() < 0.1 else []
    rate = 0.01 * int(rng.integers(3))
    return result_row(name, (rate, rate, rate + 0.03), value(0.1, 0.2), value(-99, 1), flags=flags)


def test_a_further_row_changes_nothing_between_two_others_and_ranks_agree_with_dominance():
    rng = np.random.default_rng(0)
    seen = 0
    for _ in range(60):
        rows = [at_random(rng, f"m{i}") for i in range(7)]
        few, many = (one([*on_bases(some, 2), *OTHERS]) for some in (rows[:5], rows))
        names = [r["method"] for r in rows[:5]]
        for a, b in itertools.permutations(names, 2):
            said = [
                dominates(line(board, a), line(board, b), board.primary) for board in (few, many)
            ]
            assert said[0] == said[1]
            seen += said[0]
            # a row that was added can take another off the front, never put one on it
            assert not (line(many, a).front and not line(few, a).front)
        able = [x for x in many.lines if x.standing == "method" and x.forgotten and not x.collapsed]
        assert any(x.front for x in able)
        for a, b in itertools.permutations([x for x in able if x.rank], 2):
            assert not (dominates(a, b, many.primary) and a.rank > b.rank)
    assert seen > 50


def test_five_shared_runs_show_what_overlapping_intervals_do_not():
    """Each run's interval is over images; the difference, much the same in all runs, is far better known."""

    def runs(method, keep, n, by=1.0):
        return [
            result_row(method, keep=(keep - by * s, keep - s - 9, keep - s + 9), seed=s)
            for s in range(n)
        ]

    assert front([*runs("a", -90.0, 4), *runs("b", -90.5, 4, 1.01)])["b"]
    assert not front([*runs("a", -90.0, 5), *runs("b", -90.5, 5, 1.01)])["b"]
    assert front([*runs("a", -90.0, 5), *runs("b", -90.5, 5, 1.01)])["a"]
    # in every run the same: a spread that was not seen is not none
    assert front([*runs("a", -90.0, 5), *runs("b", -90.5, 5)])["b"]


def test_evidence_for_the_other_side_takes_nobody_off_the_front():
    """`a` is worse on every shared run, and better on the mean of all, by runs that `b` has not."""

    def run(method, recovery, seed):
        return result_row(method, recovery=(recovery, recovery - 0.3, recovery + 0.3), seed=seed)

    shared = [r for s in range(5) for r in (run("a", 0.5 + 0.001 * s, s), run("b", 0.45, s))]
    found = front([*shared, *(run("a", 0.3, s) for s in range(5, 10))])
    assert found["a"]
    assert found["b"]


def test_a_strangers_row_takes_none_of_ours_off_the_front():
    theirs = result_row("theirs", keep=-90.0) | {"origin": "somebody"}
    ours = [result_row("ours"), result_row("weaker", keep=-99.0)]
    board = one([*on_bases([theirs, *ours]), *OTHERS])
    found = {x.method: (x.front, x.dominated_by) for x in board.lines if x.standing == "method"}
    assert found == {"theirs": (True, ()), "ours": (True, ()), "weaker": (False, ("ours",))}
    theirs = result_row("theirs", keep=-99.0) | {"origin": "somebody"}
    board = one([*on_bases([theirs, result_row("ours")]), *OTHERS])
    assert [x.dominated_by for x in board.lines if x.method == "theirs"] == [("ours",)]


def test_a_metric_without_a_direction_dominates_nobody():
    rows = [result_row("a", keep=-90.0), result_row("b", keep=-99.0)]
    for row in (*rows, *(others := copy.deepcopy(OTHERS))):
        row["measurements"][2]["better"] = None
    assert all(x.front for x in one([*rows, *others]).lines if x.standing == "method")


def test_mean_seconds_stand_beside():
    fast, slow = result_row("a"), result_row("a", seed=1)
    slow["cost"] = {"forget": {"cpu_s": 4.0}}
    assert line(one([fast, slow, *OTHERS]), "a").seconds == 3.0
    assert line(one([result_row("a", cost={}), *OTHERS]), "a").seconds is None


def test_on_a_gpu_the_wall_clock_counts():
    """A kernel runs while the CPU waits: its seconds would say next to nothing."""
    cost = {
        "wall_s": 60.0,
        "cpu_s": 1.0,
        "peak_mib": 900,
        "device_peak_mib": 4000,
        "device": "cuda",
    }
    board = one([result_row("a", cost={"forget": cost}), result_row("b"), *OTHERS])
    assert (line(board, "a").seconds, line(board, "a").clock) == (60.0, "s on cuda")
    assert (line(board, "b").seconds, line(board, "b").clock) == (2.0, "s CPU")
    assert board.cost_title == "s CPU or on cuda to forget"
    assert one(OTHERS).cost_title == "CPU s to forget"


@pytest.mark.parametrize(
    ("base", "says"),
    [
        (0.1, "the base model itself shows zero in 10.0 % of its images"),
        (0.0, "in 0.0 %"),
        (None, "was not measured"),
    ],
)
def test_no_claim_without_a_base_that_shows_the_concept(base, says):
    row = result_row()
    row["measurements"][0]["base"] = base
    board = one([row, *OTHERS])
    mine = line(board, "sa")
    assert mine.forgotten is None
    assert mine.outcome.word == "NOT SHOWN"
    assert says in mine.outcome.bound
    assert says in mine.sentence
    assert says in board.headline
    assert mine.rank is None
    assert not mine.front


def test_a_base_that_shows_it_is_what_a_claim_rests_on():
    row = result_row()
    row["measurements"][0]["base"] = 0.11
    assert line(one([row, *OTHERS]), "sa").forgotten is True
