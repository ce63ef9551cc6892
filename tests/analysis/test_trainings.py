"""What a row says of its trainings."""

from result_rows import result_row

from sa_bench.analysis.trainings import describe_trainings


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
