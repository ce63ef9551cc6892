"""A small board's order against published ones: closed forms, and what the published tables hold."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
from result_rows import RELABEL, RETRAIN, measurement, result_row

from sa_bench.analysis import predictive
from sa_bench.analysis.predictive import (
    NULLS,
    PREDICTORS,
    TARGETS,
    correlate,
    describe_correlations,
    find_ceiling,
    find_year,
    format_predictors,
    published_columns,
    read_predictor,
)
from sa_bench.core import registry
from sa_bench.core.errors import SaBenchError

NAMES = ("a", "b", "c", "d", "e")
DATA = Path(__file__).parents[2] / "docs" / "data"
POST_ASR = TARGETS[0].metric


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
    columns = published_columns(POST_ASR)
    assert {"nudity_i2p", "van_gogh_style", "church", "tench"} <= set(columns)
    for task, values in columns.items():
        assert len(methods & set(values)) >= 6, task
        assert all(0 <= value <= 1 for value in values.values())


def test_the_ceiling_is_how_far_published_concepts_agree_among_themselves():
    """Two orders that agree, and one that is their reverse: τ of 1, −1 and −1."""
    up, down = ({n: s * i for i, n in enumerate(NAMES)} for s in (1.0, -1.0))
    assert sorted(find_ceiling({"x": up, "y": up, "z": down})) == pytest.approx([-1, -1, 1])
    taus = find_ceiling(published_columns(POST_ASR))
    assert 0.2 < min(taus) <= np.mean(taus) <= max(taus) < 1


def test_predictors_are_read_by_base(tmp_path):
    file = tmp_path / "p.csv"
    file.write_text("method,base,recovery,year\nesd,0,0.5,2023\nesd,1,0.7,2023\nuce,0,,2024\n")
    assert read_predictor(file, "recovery") == {"esd": [0.5, 0.7]}
    assert read_predictor(file, "year") == {"esd": [2023.0, 2023.0], "uce": [2024.0]}


def test_the_published_order_is_turned_around_where_less_means_more():
    published = dict(zip(NAMES, (5.0, 4.0, 3.0, 2.0, 1.0), strict=True))
    rising = {name: [float(i)] for i, name in enumerate(NAMES)}
    assert correlate(rising, published, sign=-1).tau == pytest.approx(1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("method,base\nesd,0\n", "has no column 'recovery'"),
        ("method,base,recovery\nesd,0,much\n", "cannot read"),
    ],
)
def test_a_file_that_holds_no_predictors_is_refused(tmp_path, text, message):
    file = tmp_path / "p.csv"
    file.write_text(text)
    with pytest.raises(SaBenchError, match=message):
        read_predictor(file, "recovery")


def test_predictors_of_a_board_are_written_as_they_were_measured(tmp_path):
    """Controls and references are left out; a file of other predictors is not written over."""
    changed = {"title": "Share of weights", "unit": "rate", "better": None}
    rows = []
    for method, share in (("esd", 0.1), ("uce", 0.02)):
        for base in (1, 0):
            row = result_row(method, recovery=0.3 + base / 10, base_seed=base)
            found = measurement("weights_changed", share, declared=changed)
            row["measurements"].append(found | {"extra": {"distance": share / 10}})
            row["cost"]["forget"] = {"cpu_s": 3.0 + base}
            rows.append(row)
    file = tmp_path / "p.csv"
    file.write_text(format_predictors([*rows, RETRAIN, RELABEL], "mnist_0"))
    assert read_predictor(file, "recovery") == {"esd": [0.3, 0.4], "uce": [0.3, 0.4]}
    assert read_predictor(file, "weights_changed") == {"esd": [0.1, 0.1], "uce": [0.02, 0.02]}
    assert read_predictor(file, "distance") == {"esd": [0.01, 0.01], "uce": [0.002, 0.002]}
    assert read_predictor(file, "seconds") == {"esd": [3, 4], "uce": [3, 4]}
    assert read_predictor(file, "year") == {"esd": [2023, 2023], "uce": [2024, 2024]}
    assert read_predictor(file, "prompt_attack") == {}


def test_the_first_line_of_a_method_names_its_year():
    years = {name: find_year(name) for name in ("esd", "erasediff", "task_vector", "relabel")}
    assert years == {"esd": 2023, "erasediff": 2025, "task_vector": 2023, "relabel": None}


def test_the_table_says_of_each_predictor_how_it_agrees_and_what_could_be_reached(
    tmp_path, monkeypatch
):
    """A predictor that is the published column itself has τ = 1; a constant one has none."""
    monkeypatch.setattr(predictive, "RESAMPLES", 50)
    published = published_columns(POST_ASR)["van_gogh_style"]
    file = tmp_path / "p.csv"
    names = ["method", "base", *PREDICTORS, *NULLS]
    lines = [
        ",".join([method, "0", *([str(value)] * len(PREDICTORS)), *("0.5" for _ in NULLS)])
        for method, value in published.items()
    ]
    file.write_text("\n".join([",".join(names), *lines]) + "\n")
    text = describe_correlations(file)
    start = next(i for i, line in enumerate(text) if TARGETS[0].title in line)
    end = next((i for i, line in enumerate(text) if TARGETS[1].title in line), len(text))
    head, _, *rows, last = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in text[start:end]
        if line.startswith("|")
    ]
    column = next(i for i, title in enumerate(head) if title.startswith("van_gogh_style"))
    predicted = [f"`{name}`" for name in TARGETS[0].predictors]
    assert [row[0] for row in rows] == [*predicted, *NULLS.values()]
    assert all(row[column].startswith("1.00") for row in rows if row[0] in predicted)
    assert all(row[column] == "–" for row in rows if row[0] in NULLS.values())
    assert last[0] == "another concept of Stable Diffusion"
    assert 0 < float(last[column]) < 1


def test_every_predictor_is_a_metric_and_every_target_is_published():
    metrics = {entry.name for entry in registry.list_entries("metric")}
    assert set(PREDICTORS) <= metrics
    for target in TARGETS:
        assert len(published_columns(target.metric)) >= 4, target.metric


def test_the_command_writes_predictors_once_and_compares_in_a_second_call(cli, tmp_path):
    packed = str(DATA / "micro-2.jsonl.xz")
    file = tmp_path / "predictors.csv"
    hint = cli("correlate", file, packed, check=2).stderr
    assert "add --task" in hint
    assert (
        "no method on task 'mnist_9'"
        in cli("correlate", file, packed, "--task", "mnist_9", check=2).stderr
    )
    assert not file.exists()
    digest = cli("correlate", file, packed, "--task", "mnist_0").stdout.split()[0]
    assert digest == hashlib.sha256(file.read_bytes()).hexdigest()
    cli("correlate", file, packed, "--task", "mnist_0")
    file.write_text(file.read_text().replace("0.", "1."))
    assert "written once" in cli("correlate", file, packed, "--task", "mnist_0", check=2).stderr
    (tmp_path / "few.csv").write_text(",".join(["method", "base", *PREDICTORS, *NULLS]) + "\n")
    assert (
        "no published table has 4 methods" in cli("correlate", tmp_path / "few.csv", check=2).stderr
    )
    assert "cannot read" in cli("correlate", tmp_path / "none.csv", check=2).stderr
