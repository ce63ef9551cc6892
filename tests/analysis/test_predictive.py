"""A small board's order against published ones: closed forms, and what the published tables hold."""

import numpy as np
import pytest
from result_rows import RELABEL, RETRAIN, measurement, result_row

from sa_bench.analysis import predictive
from sa_bench.analysis.predictive import (
    NULLS,
    PREDICTORS,
    correlate,
    describe_correlations,
    find_ceiling,
    find_year,
    published_columns,
    read_predictor,
    write_predictors,
)
from sa_bench.core import registry

NAMES = ("a", "b", "c", "d", "e")


def test_the_same_order_gives_one_and_the_reverse_minus_one():
    published = dict(zip(NAMES, (1.0, 2.0, 3.0, 4.0, 5.0), strict=True))
    same = {name: [10 * value, 11 * value] for name, value in published.items()}
    found = correlate(same, published)
    assert found.methods == NAMES
    assert (found.tau, found.low, found.high) == (pytest.approx(1), None, None), (
        "too few to resample"
    )
    assert found.p == pytest.approx(2 / 120), "two of the 5! orders agree or disagree throughout"
    reverse = correlate({name: [-v for v in values] for name, values in same.items()}, published)
    assert reverse.tau == pytest.approx(-1)


def test_one_swapped_pair_costs_two_of_all_pairs():
    names = "abcdefgh"
    published = {name: float(i) for i, name in enumerate(names)}
    swapped = {name: [value] for name, value in published.items()} | {"a": [1.5], "b": [0.5]}
    found = correlate(swapped, published)
    assert found.tau == pytest.approx(1 - 2 / 28)
    assert found.low < found.tau <= found.high


def test_too_few_methods_in_common_give_nothing():
    assert correlate({"a": [1], "b": [2], "c": [3]}, dict.fromkeys(NAMES, 1.0)) is None


def test_only_methods_of_ours_are_joined_and_every_concept_has_some():
    methods = {entry.name for entry in registry.list_entries("method")}
    columns = published_columns()
    assert {"nudity_i2p", "van_gogh_style", "church", "tench"} <= set(columns)
    for task, values in columns.items():
        assert len(methods & set(values)) >= 6, task
        assert all(0 <= value <= 1 for value in values.values())


def test_the_ceiling_is_how_far_published_concepts_agree_among_themselves():
    """Two orders that agree, and one that is their reverse: τ of 1, −1 and −1."""
    up, down = ({n: s * i for i, n in enumerate(NAMES)} for s in (1.0, -1.0))
    assert sorted(find_ceiling({"x": up, "y": up, "z": down})) == pytest.approx([-1, -1, 1])
    taus = find_ceiling(published_columns())
    assert 0.2 < min(taus) <= np.mean(taus) <= max(taus) < 1


def test_predictors_are_read_by_base(tmp_path):
    file = tmp_path / "p.csv"
    file.write_text("method,base,recovery,year\nesd,0,0.5,2023\nesd,1,0.7,2023\nuce,0,,2024\n")
    assert read_predictor(file, "recovery") == {"esd": [0.5, 0.7]}
    assert read_predictor(file, "year") == {"esd": [2023.0, 2023.0], "uce": [2024.0]}


def test_predictors_of_a_board_are_written_with_signs_that_should_agree(tmp_path):
    """Controls and references are left out; weights kept and age rise with what should come back."""
    changed = {"title": "Share of weights", "unit": "rate", "better": None}
    rows = []
    for method, share in (("esd", 0.1), ("uce", 0.02)):
        for base in (1, 0):
            row = result_row(method, recovery=0.3 + base / 10, base_seed=base)
            row["measurements"].append(measurement("weights_changed", share, declared=changed))
            rows.append(row)
    file = tmp_path / "p.csv"
    write_predictors([*rows, RETRAIN, RELABEL], "mnist_0", file)
    assert read_predictor(file, "recovery") == {"esd": [0.3, 0.4], "uce": [0.3, 0.4]}
    assert read_predictor(file, "weights_kept") == {"esd": [0.9, 0.9], "uce": [0.98, 0.98]}
    assert read_predictor(file, "years_ago") == {"esd": [-2023, -2023], "uce": [-2024, -2024]}
    assert read_predictor(file, "prompt_attack") == {}


def test_the_first_line_of_a_method_names_its_year():
    years = {name: find_year(name) for name in ("esd", "erasediff", "task_vector", "relabel")}
    assert years == {"esd": 2023, "erasediff": 2025, "task_vector": 2023, "relabel": None}


def test_the_table_says_of_each_predictor_how_it_agrees_and_what_could_be_reached(
    tmp_path, monkeypatch
):
    """A predictor that is the published column itself has τ = 1; a constant one has none."""
    monkeypatch.setattr(predictive, "RESAMPLES", 50)
    published = published_columns()["van_gogh_style"]
    file = tmp_path / "p.csv"
    names = ["method", "base", *PREDICTORS, *NULLS]
    lines = [
        ",".join([method, "0", *([str(value)] * len(PREDICTORS)), "0.5", "-2023"])
        for method, value in published.items()
    ]
    file.write_text("\n".join([",".join(names), *lines]) + "\n")
    head, *rows, last = describe_correlations(file)
    column = next(i for i, title in enumerate(head) if title.startswith("van_gogh_style"))
    assert {row[0] for row in rows} == {*PREDICTORS, *NULLS}
    assert all(row[column].startswith("1.00") for row in rows if row[0] in PREDICTORS)
    assert all(row[column] == "–" for row in rows if row[0] in NULLS)
    assert last[0] == "another concept of Stable Diffusion"
    assert 0 < float(last[column]) < 1
