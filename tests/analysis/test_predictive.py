"""A small board's order against published ones: closed forms, and what the published tables hold."""

import hashlib
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
from result_rows import RELABEL, RETRAIN, measurement, result_row
from scipy.stats import kendalltau

from sa_bench.analysis import predictive
from sa_bench.analysis.predictive import (
    COLUMNS,
    NULLS,
    PREDICTORS,
    TARGETS,
    Predictors,
    correlate,
    describe_correlations,
    difference,
    find_ceiling,
    find_year,
    format_predictors,
    published_columns,
    read_predictor,
)
from sa_bench.core import registry
from sa_bench.core.errors import SaBenchError
from sa_bench.results.files import read_results
from sa_bench.statistics import rank_correlation
from sa_bench.statistics.rank_correlation import average_taus, compute_taus

NAMES = ("a", "b", "c", "d", "e")
DOCS = Path(__file__).parents[2] / "docs"
DATA = DOCS / "data"
POST_ASR = TARGETS[0].metric
PLAN = "0d81d7f4e7a3e0e40f1f439ec13cd87322cb8b97cd9c977f5b54c88cbfdbe309"
"""sha256 of what is compared with what: whoever changes it after the board was run changes this line too."""
FROZEN = None
"""sha256 of docs/data/predictors-micro-t2i-2.csv, committed before anything was compared; None until the board has run."""


def predictors(values, bases=("0",)):
    """Predictors of which each method has one value, or one for each base."""
    names = tuple(sorted(values))
    rows = np.array([np.broadcast_to(values[name], len(bases)) for name in names], float).T
    return Predictors(names, tuple(bases), rows)


def test_what_is_compared_was_written_down_before_the_board_was_run():
    """The metrics, their signs and the published values; the board's predictors stand frozen beside it."""
    columns = {target.metric: published_columns(target.metric) for target in TARGETS}
    plan = repr((TARGETS, sorted(NULLS), predictive.FEWEST, predictive.FEWEST_RESAMPLED, columns))
    assert hashlib.sha256(plan.encode()).hexdigest() == PLAN
    board, file = DATA / "micro-t2i-2.jsonl.xz", DATA / "predictors-micro-t2i-2.csv"
    assert board.exists() == file.exists() == (FROZEN is not None)
    if FROZEN is not None:
        assert hashlib.sha256(file.read_bytes()).hexdigest() == FROZEN
        assert file.read_text() == format_predictors(read_results([board]), "mnist_0_t2i")
        page = (DOCS / "predictive.md").read_text()
        assert FROZEN in page
        if "Nothing has been compared yet." not in page:
            assert "\n".join(describe_correlations(file)) in page


def test_taus_are_scipys_also_with_ties_and_with_methods_that_count_twice():
    rng = np.random.default_rng(0)
    x, y = rng.integers(4, size=(50, 7)).astype(float), rng.integers(4, size=7).astype(float)
    weights = rng.multinomial(7, [1 / 7] * 7, size=50)
    wanted = [kendalltau(row, y).statistic for row in x]
    np.testing.assert_allclose(compute_taus(x, y), wanted)
    twice = [
        kendalltau(np.repeat(row, times), np.repeat(y, times)).statistic
        for row, times in zip(x, weights, strict=True)
    ]
    np.testing.assert_allclose(compute_taus(x, y, weights), twice)
    assert np.isnan(compute_taus(np.ones((1, 7)), y)[0])


def test_the_same_order_gives_one_and_the_reverse_minus_one():
    published = {"x": dict(zip(NAMES, (1.0, 2.0, 3.0, 4.0, 5.0), strict=True))}
    same = {name: [10 * value, 11 * value] for name, value in published["x"].items()}
    found = correlate(predictors(same, "01"), published)
    assert found.methods == NAMES
    assert (found.tau, found.low, found.high) == (1, None, None), "too few to resample"
    assert found.p == pytest.approx(1 / 120), "one of the 5! orders agrees throughout"
    turned = {name: [-v for v in values] for name, values in same.items()}
    assert correlate(predictors(turned, "01"), published).tau == -1
    assert correlate(predictors(turned, "01"), published, sign=-1).tau == 1


def test_one_swapped_pair_costs_two_of_all_pairs():
    names = "abcdefgh"
    published = {"x": {name: float(i) for i, name in enumerate(names)}}
    found = correlate(predictors(published["x"] | {"a": 1.5, "b": 0.5}), published)
    assert found.tau == pytest.approx(1 - 2 / 28)
    assert found.low < found.tau <= found.high
    assert found.p == pytest.approx(8 / 40320), "the same order, and seven that are one swap away"


def test_p_is_exact_with_ties_too():
    published = {"x": dict(zip(NAMES, (0.0, 0.0, 0.2, 0.4, 0.9), strict=True))}
    ours = dict(zip(NAMES, (0.1, 0.0, 0.0, 0.0, 0.7), strict=True))
    found = correlate(predictors(ours), published)
    y = list(published["x"].values())
    taus = [kendalltau(order, y).statistic for order in permutations(ours.values())]
    assert found.p == pytest.approx(np.mean(np.array(taus) >= found.tau - 1e-9))


def test_concepts_count_alike_and_names_are_shuffled_for_all_at_once():
    """Two concepts of the same methods with the same order are no more evidence than one."""
    one = dict(zip(NAMES, (1.0, 2.0, 3.0, 4.0, 5.0), strict=True))
    ours = predictors(dict(zip(NAMES, (1.0, 2.0, 3.0, 5.0, 4.0), strict=True)))
    alone, twice = correlate(ours, {"x": one}), correlate(ours, {"x": one, "y": one})
    assert (alone.tau, alone.p) == (twice.tau, twice.p)
    reverse = {name: -value for name, value in one.items()}
    assert correlate(ours, {"x": one, "y": reverse}).tau == 0
    fewer = {name: one[name] for name in "bcde"}
    both = correlate(ours, {"x": one, "y": fewer})
    assert both.taus == {"x": pytest.approx(0.8), "y": pytest.approx(2 / 3)}
    x, rest = np.array([[1.0, 2, 3, 5, 4]]), {"y": np.array([np.nan, 2.0, 3, 4, 5])}
    assert average_taus(x, rest)[0] == pytest.approx(2 / 3)


def test_means_that_differ_by_rounding_alone_are_ties():
    """1, 1 and 2 of 48 against 0, 2 and 2 of 48: as sums of fractions they differ in the last digit."""
    shares = {"a": [1 / 48, 1 / 48, 2 / 48], "b": [0, 2 / 48, 2 / 48], "c": [0.5] * 3, "d": [1] * 3}
    published = {"x": {"a": 0.1, "b": 0.2, "c": 0.3, "d": 0.4}}
    found = correlate(predictors(shares, "012"), published)
    assert found.tau == pytest.approx(5 / np.sqrt(5 * 6))


def test_too_few_methods_in_common_give_nothing():
    ours = predictors({"a": 1, "b": 2, "c": 3})
    assert correlate(ours, {"x": dict.fromkeys(NAMES, 1.0)}) is None


def test_the_difference_from_a_dumb_predictor_is_of_the_same_methods():
    names = "abcdefgh"
    published = {"x": {name: float(i) for i, name in enumerate(names)}}
    ours, null = (
        predictors(published["x"]),
        predictors({n: float(-i) for i, n in enumerate("abcdefg")}),
    )
    apart, low, high = difference(ours, null, published, (1, 1))
    assert (apart, low, high) == (2, 2, 2)
    assert difference(ours, null, published, (1, -1)) == (0, 0, 0)
    few = predictors(dict.fromkeys("abcde", 1.0))
    assert difference(ours, few, published, (1, 1)) is None


def test_only_methods_of_ours_are_joined_and_every_concept_has_some():
    methods = {entry.name for entry in registry.list_entries("method")}
    columns = published_columns(POST_ASR)
    assert {"nudity_i2p", "van_gogh_style", "church", "tench"} <= set(columns)
    for task, values in columns.items():
        assert len(methods & set(values)) >= 6, task
        assert all(0 <= value <= 1 for value in values.values())


def test_the_ceiling_is_how_far_published_concepts_agree_among_themselves():
    """Two orders that agree, and one that is their reverse: τ of 1, −1 and −1; of the methods that are asked for."""
    names = "abcdefg"
    up, down = ({n: s * i for i, n in enumerate(names)} for s in (1.0, -1.0))
    found = find_ceiling({"x": up, "y": up, "z": down}, names)
    assert found == {("x", "y"): 1, ("x", "z"): -1, ("y", "z"): -1}
    assert find_ceiling({"x": up, "y": up}, names[:5]) == {}, "five methods are too few"
    methods = [entry.name for entry in registry.list_entries("method")]
    taus = list(find_ceiling(published_columns(POST_ASR), methods).values())
    assert len(taus) == 11
    assert (min(taus), np.mean(taus), max(taus)) == pytest.approx(CEILING, abs=0.005)


CEILING = (
    0.33,
    0.63,
    0.87,
)  # lowest, mean and highest τ of two concepts, as docs/predictive.md has them


def write(file, lines):
    """Write a file of predictors: a method's base, collapsed, and the value that all its columns have."""
    names = [*COLUMNS, *PREDICTORS, *NULLS]
    rows = [
        ",".join(
            [method, method, base, collapsed, *([value] * len(PREDICTORS)), *["0.5"] * 3, "2023"]
        )
        for method, base, collapsed, value in lines
    ]
    file.write_text("\n".join([",".join(names), *rows]) + "\n")


def test_predictors_are_read_by_base_and_a_method_that_lacks_one_is_left_out(tmp_path):
    file = tmp_path / "p.csv"
    write(file, [("esd", "0", "no", "0.5"), ("esd", "1", "no", "0.7"), ("uce", "0", "yes", "")])
    found = read_predictor(file, "recovery")
    assert (found.methods, found.bases, found.values.tolist()) == (
        ("esd",),
        ("0", "1"),
        [[0.5], [0.7]],
    )
    assert found.left_out == ()
    found = read_predictor(file, "year")
    assert (found.methods, found.left_out) == (("esd",), ("uce",))
    assert read_predictor(file, "year", with_collapsed=False).left_out == ()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("method,base\nesd,0\n", "has no column 'recovery'"),
        ("method,base,recovery\nesd,0,much\n", "cannot read"),
        ("method,base,recovery\nesd,0,nan\n", "cannot read .*recovery of esd is nan"),
    ],
)
def test_a_file_that_holds_no_predictors_is_refused(tmp_path, text, message):
    file = tmp_path / "p.csv"
    file.write_text(text)
    with pytest.raises(SaBenchError, match=message):
        read_predictor(file, "recovery")


def rows_of(method, values, **fields):
    """Result rows of a method, one a base model, with a recovery of each."""
    changed = {"title": "Share of weights", "unit": "rate", "better": None}
    rows = []
    for base, value in enumerate(values):
        row = result_row(method, recovery=value, base_seed=base)
        found = measurement("weights_changed", 0.25, declared=changed)
        row["measurements"].append(found | {"extra": {"distance": 0.5}})
        row["cost"]["forget"] = {"cpu_s": 3.0 + base}
        row["fields"] = row["fields"] | fields
        rows.append(row)
    return rows


def test_predictors_of_a_board_are_written_as_they_were_measured(tmp_path):
    """Controls and references are left out, and so is what came in a bundle; runs of one base are averaged."""
    rows = [*rows_of("esd", (0.3, 0.4)), *rows_of("uce", (0.1, 1 / 3))]
    again = [row | {"seed": 1, "artifacts": {}} for row in rows_of("esd", (0.5, 0.8))]
    strangers = [row | {"origin": "theirs"} for row in rows_of("salun", (0.5, 0.8))]
    file = tmp_path / "p.csv"
    file.write_text(format_predictors([*rows, *again, *strangers, RETRAIN, RELABEL], "mnist_0"))
    found = read_predictor(file, "recovery")
    assert found.methods == ("esd", "uce")
    assert found.values.tolist() == [[pytest.approx(0.4), 0.1], [pytest.approx(0.6), 1 / 3]]
    assert read_predictor(file, "weights_changed").values.tolist() == [[0.25] * 2] * 2
    assert read_predictor(file, "distance").values.tolist() == [[0.5] * 2] * 2
    assert read_predictor(file, "seconds").values.tolist() == [[3] * 2, [4] * 2]
    assert read_predictor(file, "year").values.tolist() == [[2023, 2024]] * 2
    assert read_predictor(file, "prompt_attack").methods == ()


def test_a_method_with_several_rows_has_its_own_settings_or_those_that_were_named(tmp_path):
    """Names of rows used to decide: of SLD's levels `max` came first, which ruins everything."""
    rows = [
        *rows_of("sld", (0.1,), level="max"),
        *rows_of("sld", (0.7,), level="medium"),
        *rows_of("esd", (0.3,), lr=0.1),
        *rows_of("esd", (0.4,), lr=0.2),
    ]
    with pytest.raises(SaBenchError, match=r"--row .*: esd \(esd lr=0.1; esd lr=0.2\)$"):
        format_predictors(rows, "mnist_0")
    with pytest.raises(SaBenchError, match=r"no row is named 'esd lr=0\.3'"):
        format_predictors(rows, "mnist_0", ["esd lr=0.3"])
    file = tmp_path / "p.csv"
    file.write_text(format_predictors(rows, "mnist_0", ["esd lr=0.2"]))
    assert read_predictor(file, "recovery").values.tolist() == [[0.4, 0.7]]
    file.write_text(format_predictors(rows, "mnist_0", ["esd lr=0.2", "sld level=max"]))
    assert read_predictor(file, "recovery").values.tolist() == [[0.4, 0.1]]


def test_the_newest_version_of_a_method_counts_and_two_boards_are_refused(tmp_path):
    rows = rows_of("esd", (0.3, 0.3))
    for version, row in zip((9, 10), rows, strict=True):
        row["provenance"] = row["provenance"] | {"method_version": version}
    file = tmp_path / "p.csv"
    file.write_text(format_predictors(rows, "mnist_0"))
    assert read_predictor(file, "recovery").bases == ("1",)
    with pytest.raises(SaBenchError, match="Predictors are of one board, but there are 2"):
        format_predictors([rows[0], rows[1] | {"scale": "full"}], "mnist_0")


def test_the_first_line_of_a_method_names_its_year():
    years = {name: find_year(name) for name in ("esd", "erasediff", "task_vector", "relabel")}
    assert years == {"esd": 2023, "erasediff": 2025, "task_vector": 2023, "relabel": None}


def test_the_page_says_how_each_predictor_agrees_and_what_could_be_reached(tmp_path, monkeypatch):
    """A predictor that is the published column itself has τ = 1; a constant one has none."""
    monkeypatch.setattr(rank_correlation, "RESAMPLES", 200)
    published = published_columns(POST_ASR)["van_gogh_style"]
    file = tmp_path / "p.csv"
    write(file, [(m, "0", "yes" if m == "uce" else "no", str(v)) for m, v in published.items()])
    text = describe_correlations(file)
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text]
    by_name = {row[0]: row[1:] for row in rows[: text.index("### What is still shown")]}
    assert by_name["van_gogh_style"][:2] == ["9", "1.00"]
    assert by_name["van_gogh_style"][3] == "< 0.01"
    assert by_name["`stress`"][:2] == by_name["`recovery`"][:2]
    assert by_name["share of weights changed, reversed"] == ["–"] * 5
    last = next(line for line in text if "without collapsed rows" in line)
    assert last.startswith("- `prompt_attack` without collapsed rows: ")
    assert max(len(line) for line in text) <= 80


def test_every_predictor_is_a_metric_and_every_target_is_published():
    metrics = {entry.name for entry in registry.list_entries("metric")}
    assert set(PREDICTORS) <= metrics
    for target in TARGETS:
        assert len(published_columns(target.metric)) >= 4, target.metric
        assert set(target.more_is_less) <= set(NULLS)


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
    several = cli("correlate", file, packed, "--task", "mnist_0", check=2).stderr
    assert "say with --row" in several
    call = (
        "correlate",
        file,
        packed,
        "--task",
        "mnist_0",
        "--row",
        "sa lam=15",
        "--row",
        "l2 lam=5",
    )
    digest = cli(*call).stdout.split()[0]
    assert digest == hashlib.sha256(file.read_bytes()).hexdigest()
    cli(*call)
    file.write_text(file.read_text().replace("0.", "1."))
    assert "written once" in cli(*call, check=2).stderr
    (tmp_path / "few.csv").write_text(",".join([*COLUMNS, *PREDICTORS, *NULLS]) + "\n")
    assert (
        "no published table has 4 methods" in cli("correlate", tmp_path / "few.csv", check=2).stderr
    )
    assert "cannot read" in cli("correlate", tmp_path / "none.csv", check=2).stderr
