"""What a row says of its trainings."""

from result_rows import OTHERS, one, result_row

from sa_bench.analysis.trainings import describe_trainings, list_trainings, list_untrained


def test_a_training_that_ended_early_is_told():
    row = result_row()
    row["trainings"] = [
        {
            "stage": "forget sa",
            "steps": 1200,
            "planned": 2000,
            "end": "the method stopped it",
            "losses": [3.25, 2.0, 1.125],
        }
    ]
    assert list(describe_trainings(row)) == [
        "forget sa: 1,200 of 2,000 steps, the method stopped it; loss 3.25 to 1.125"
    ]


def test_a_row_without_training_says_so_and_an_old_one_that_nothing_is_known():
    row = result_row("uce")
    row["trainings"] = []
    assert list(describe_trainings(row)) == ["nothing trained: uce takes no training steps"]
    del row["trainings"]
    (line,) = describe_trainings(row)
    assert line.startswith("no curve")


def test_runs_of_a_row_are_joined_and_the_curve_lies_between_its_ends():
    rows = [result_row(seed=s) for s in range(2)]
    rows[1]["trainings"][0] |= {"steps": 15, "end": "the method stopped it"}
    stages = {t.label: t for t in list_trainings(one([*rows, *OTHERS]))}
    assert stages["sa"].steps == "15 to 20 of 20"
    assert stages["sa"].end == "all steps were done; the method stopped it"
    assert stages["sa"].path[0] == (0.0, 0.0)
    assert stages["sa"].path[-1] == (1.0, 1.0)


def test_losses_that_are_not_finite_leave_a_gap():
    row = result_row()
    row["trainings"][0]["losses"] = [float("nan"), 2.0, float("inf"), 1.0]
    (stage,) = (t for t in list_trainings(one([row, *OTHERS])) if t.label == "sa")
    assert [x for x, _ in stage.path] == [1 / 3, 1.0]


def test_rows_without_a_training_step_are_named_and_old_ones_are_not():
    still, old = result_row("uce"), result_row("l2")
    still["trainings"] = []
    del old["trainings"]
    assert list_untrained(one([still, old, *OTHERS])) == ["uce"]
