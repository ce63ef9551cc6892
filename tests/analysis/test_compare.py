"""`compare`: two questions an endpoint, what is refused, and where a difference comes from."""

import copy
import json

import numpy as np
import pandas as pd
import pytest
from result_rows import DECLARED, ORIGINAL, RETRAIN, measurement, result_row
from scipy import stats

from sa_bench import api
from sa_bench.analysis.compare import compare_lines, select_lines
from sa_bench.analysis.pairwise import paired_scores
from sa_bench.core.errors import SaBenchError
from sa_bench.results.files import pack_results, read_columns_of, read_results
from sa_bench.statistics import clustered, holm, over_bases

PROMPTS = {"forget": ["{}"], "replay": [], "test": ["a {}", "the {}"]}


def stored(folder, rows, scores=None):
    """A run folder; `scores(row)` by measurement: the columns of each one's Parquet file."""
    for i, row in enumerate(rows):
        cell = folder / f"cell-{i}"
        (cell / "scores").mkdir(parents=True)
        (cell / "result.json").write_text(json.dumps(row))
        for name, columns in (scores(row) if scores else {}).items():
            pd.DataFrame(columns).to_parquet(cell / "scores" / f"{name}.parquet")
    return folder


def words(*folders, **asked):
    return " ".join(api.compare(folders, **asked).split())


def answers(*folders, **asked):
    return {a.role: a for a in compare_lines(*select_lines(folders, **asked)).answers}


def runs(method, bases, seeds, keep=lambda base, seed: -94.0, **how):
    return [
        result_row(method, keep=keep(b, s), base_seed=b, seed=s, **how)
        for b in range(bases)
        for s in range(seeds)
    ]


def likelihoods(row):
    """200 images, the same in all runs: an image's own, the run's and their noise."""
    image = np.random.default_rng(1).normal(0, 5, 200)
    own = np.random.default_rng([row["base_seed"], row["seed"], *row["method"].encode()]).normal(
        0, 0.5, 200
    )
    return {"retain_log_likelihood": {"score": image + own + row["measurements"][2]["value"]}}


def test_both_questions_are_answered_with_effect_interval_and_p(tmp_path):
    a, b = runs("sa", 3, 3), runs("l2", 3, 3, lambda base, seed: -95.0 - 0.2 * base - 0.1 * seed)
    stored(tmp_path, [*a, *b, RETRAIN], likelihoods)
    found = answers(tmp_path, methods="sa,l2")["retention"]
    assert (found.pairs, found.wins, found.checkpoints.n, found.checkpoints.unit) == (
        9,
        (9, 0),
        200,
        "image",
    )
    assert found.checkpoints.difference == pytest.approx(1.3, abs=0.05)
    expected = stats.ttest_1samp([1.1, 1.3, 1.5], 0)
    assert (found.methods.low, found.methods.high) == pytest.approx(
        tuple(expected.confidence_interval())
    )
    assert found.standardised == pytest.approx(1.3 / 0.2)
    assert found.effect == pytest.approx(1.3 / 5, rel=0.15)
    text = words(tmp_path, methods="sa,l2")
    assert (
        "9 shared runs, the same base model and forgetting seed on both sides, on 3 base models."
        in text
    )
    assert "Do these checkpoints differ? Yes, in favour of sa: +1." in text
    assert "Pair by pair (p < .05): 9 of 9 for sa." in text
    assert (
        "Does the method differ? Yes, in favour of sa: +1.30 nats (95 %: 0.80 to 1.80), p = 0.0"
        in text
    )
    assert "d_z +6.50, over 3 base models." in text
    assert "Forgetting: Images of zero still judged zero (forget_top1, lower is better)" in text
    assert "Not told: per-image scores are not at hand." in text


def test_p_is_by_holm_over_the_three_endpoints_for_either_question(tmp_path):
    def three(row):
        rng = np.random.default_rng([row["seed"], len(row["method"])])
        return {name: {"score": rng.normal(len(row["method"]) / 40, 1, 200)} for name in DECLARED}

    a = runs("sa", 1, 6)
    b = runs("l2_longer", 1, 6, lambda base, seed: -94.1 - 0.05 * seed)
    for row in b:
        row["measurements"][0]["value"] += 0.001 * (row["seed"] - 1)
        row["measurements"][1]["value"] += 0.001 * (row["seed"] - 2)
    stored(tmp_path, [*a, *b], three)
    found = answers(tmp_path, methods="sa,l2_longer")
    raw = [over_bases({0: x.points})[3] for x in found.values()]
    assert [x.methods.p for x in found.values()] == pytest.approx(holm(raw))
    assert found["retention"].methods.p > raw[2]
    tables = [
        [np.mean([three(r)[n]["score"] for r in side], 0) for side in (a, b)] for n in DECLARED
    ]
    single = [clustered.paired(*sides_, None, n != "retain_log_likelihood").p
              for sides_, n in zip(tables, DECLARED, strict=True)]  # fmt: skip
    assert [x.checkpoints.p for x in found.values()] == pytest.approx(holm(single))


@pytest.mark.parametrize("shared", [1, 4])
def test_below_five_shared_runs_there_are_points_and_no_p(tmp_path, shared):
    stored(tmp_path, [*runs("sa", 1, shared), *runs("l2", 1, shared + 2, lambda b, s: -95.0 - s)])
    text = words(tmp_path, methods="sa,l2")
    points = ", ".join(f"+{1 + s:.2f}" for s in range(shared))
    assert f"Not told below 5 shared runs. Difference of each run: {points} nats." in text
    assert "2 further runs of l2 without a partner: left out." in text
    assert answers(tmp_path, methods="sa,l2")["retention"].methods.p is None
    if shared == 1:
        assert "forgetting seed needs several seeds" in text
    else:
        assert "forgetting seed 1.29" in text  # of 1, 2, 3, 4
    assert "base training needs two bases with two runs each" in text


def test_one_seed_a_base_tells_the_two_together(tmp_path):
    stored(tmp_path, [*runs("sa", 3, 1), *runs("l2", 3, 1, lambda base, seed: -95.0 - base)])
    assert "base training and forgetting seed together 1.00 nats" in words(
        tmp_path, methods="sa,l2"
    )


def changed(row, **values):
    row = copy.deepcopy(row)
    row["task_values"] |= values
    return row


def version_2(row):
    row = copy.deepcopy(row)
    row["measurements"][1]["fingerprint"]["version"] = 2
    return row


@pytest.mark.parametrize(
    ("other", "why"),
    [
        (result_row("l2", scale="full"), 'scale is "quick" in A and "full" in B'),
        (result_row("l2", task="mnist_0_r1000"), 'task is "mnist_0" in A and "mnist_0_r1000" in B'),
        (changed(result_row("l2"), n_forget=7, n_retain=8), "task.n_forget is 500 in A and 7 in B"),
        (version_2(result_row("l2")), "version of recovery is 1 in A and 2 in B"),
    ],
    ids=["scale", "task", "field", "fingerprint"],
)
def test_another_protocol_is_refused_with_the_first_difference(tmp_path, monkeypatch, other, why):
    monkeypatch.chdir(tmp_path)
    stored(tmp_path / "A", [changed(result_row("sa"), n_forget=500)])
    stored(tmp_path / "B", [other if "n_forget" in why else changed(other, n_forget=500)])
    with pytest.raises(SaBenchError) as error:
        api.compare(["A", "B"])
    assert why in str(error.value)
    assert "\n" not in str(error.value)


def test_the_same_run_twice_is_told(tmp_path):
    run = stored(tmp_path, runs("sa", 1, 2), likelihoods)
    text = words(run, run)
    assert "2 of 2 pairs are one and the same model on both sides." in text
    assert text.count("Do these checkpoints differ? No: both sides are the same models.") == 3
    assert f"sa of {tmp_path} against sa of {tmp_path}" in text


@pytest.mark.parametrize("width", [60, 80, None])
def test_a_comparison_fits_the_terminal(tmp_path, width):
    one = stored(tmp_path, [*runs("sa", 2, 2), *runs("l2", 2, 2, lambda b, s: -95.0 - b), RETRAIN])
    text = api.compare([one], "sa,l2", width=width)
    longest = max(map(len, text.splitlines()))
    assert longest <= (width or 110)
    assert longest > (width or 110) - 20, "as wide as it may be"


def test_the_same_method_of_two_runs_is_compared(tmp_path):
    """What a new version of torch, say, changed: other models of the same seeds."""
    one, two = runs("sa", 1, 2), runs("sa", 1, 2, lambda b, s: -95.0)
    for row in two:
        row["artifacts"]["model"] += "again"
    a, b = (
        stored(tmp_path / "a", [*one, RETRAIN, ORIGINAL]),
        stored(tmp_path / "b", [*two, RETRAIN]),
    )
    assert answers(a, b)["retention"].points == (1.0, 1.0)
    assert answers(a, b, methods="sa")["retention"].points == (1.0, 1.0)
    assert "one and the same model" not in words(a, b)
    single = sorted((tmp_path / "a").glob("cell-0"))[0], sorted((tmp_path / "b").glob("cell-0"))[0]
    assert answers(*single)["retention"].points == (1.0,)


def test_a_side_that_failed_is_said(tmp_path):
    broken = stored(tmp_path / "broken", [result_row("l2", error="boom: the loss is not finite.")])
    fine = stored(tmp_path / "fine", runs("sa", 1, 1))
    with pytest.raises(SaBenchError, match=r"l2 has no finished result in .*boom: the loss"):
        api.compare([fine, broken])
    partly = stored(
        tmp_path / "partly", [*runs("l2", 1, 1), result_row("l2", error="boom", seed=3)]
    )
    assert "1 of 2 runs of l2 failed and are left out: boom" in words(fine, partly)


def test_nothing_shared_is_an_error_but_one_checkpoint_may_meet_another(tmp_path):
    a = stored(tmp_path / "a", runs("sa", 1, 1), likelihoods)
    b = stored(tmp_path / "b", [result_row("l2", base_seed=1, seed=4, keep=-96.0)], likelihoods)
    text = words(a, b)
    assert (
        "Two checkpoints, from base 0, seed 0 and base 1, seed 4: of the methods nothing can be said."
        in text
    )
    assert "Does the method differ" not in text
    assert "Do these checkpoints differ? Yes, in favour of sa: +" in text
    c = stored(tmp_path / "c", [result_row("l2", base_seed=1, seed=s) for s in (4, 5)])
    with pytest.raises(
        SaBenchError, match=r"share no run: \(base, seed\) are \(0, 0\) and \(1, 4\), \(1, 5\)"
    ):
        api.compare([a, c])


def tuned():
    rows = [
        *runs("sa", 1, 2, fields={"lam": 1.0}),
        *runs("sa", 1, 2, fields={"lam": 30.0, "rows": [1, 2]}),
    ]
    for row in rows[:2]:
        row["fields"]["rows"] = [1]
    return [*rows, *runs("l2", 1, 2)]


def test_several_lines_of_a_method_must_be_told_apart(tmp_path):
    run = stored(tmp_path, tuned())
    with pytest.raises(
        SaBenchError, match=r"Several rows fit; name two of: sa lam=1 rows=\[1\], l2, sa lam=30"
    ):
        api.compare([run], "sa,l2")
    assert "sa lam=30 rows=[1, 2] against l2" in words(run, methods="sa lam=30 rows=[1, 2],l2")
    both = words(run, methods="sa lam=1 rows=[1],sa lam=30 rows=[1, 2]")
    assert "sa lam=1 rows=[1] against sa lam=30 rows=[1, 2]" in both


@pytest.mark.parametrize(
    ("methods", "task", "why"),
    [
        ("", "", "holds 3 methods; say which two: --methods a,b. Known are: sa lam=1"),
        ("sa,esd", "", "Unknown method of .* 'esd'.*Available: l2, sa lam=1"),
        ("l2,l2", "", "l2 cannot be compared with itself"),
        ("sa", "", "--methods takes two names, a,b, got 'sa'"),
        ("a,b,c", "", "--methods takes two names"),
        ("l2,sa", "mnist_1", "Unknown task of .* 'mnist_1'.*Available: mnist_0"),
    ],
)
def test_wrong_usage_is_one_line(tmp_path, methods, task, why):
    with pytest.raises(SaBenchError, match=why) as error:
        api.compare([stored(tmp_path, tuned())], methods, task)
    assert "\n" not in str(error.value)


def test_a_run_with_several_boards_needs_a_task(tmp_path):
    other = [
        {**row, "task": "mnist_0_r1000"}
        for row in (*runs("sa", 1, 1), *runs("l2", 1, 1, lambda b, s: -99.0))
    ]
    run = stored(tmp_path, [*runs("sa", 1, 1), *runs("l2", 1, 1), *other])
    with pytest.raises(
        SaBenchError,
        match=r"there are 2: mnist_0 at scale \w+; mnist_0_r1000 at scale \w+\. Give --task",
    ):
        api.compare([run], "sa,l2")
    assert answers(run, methods="sa,l2", task="mnist_0_r1000")["retention"].points == (5.0,)
    assert words(run, task="mnist_0").startswith(
        "sa against l2"
    )  # the only two methods need no names


@pytest.mark.parametrize(
    ("method", "note"),
    [("relabel", "is a control: it unlearns nothing"), ("retrain", "is a reference")],
)
def test_a_control_or_reference_as_one_side_is_said_to_be_one(tmp_path, method, note):
    run = stored(
        tmp_path,
        [*runs("sa", 1, 1), *runs(method, 1, 1), *runs("naive", 1, 1, flags=["collapse: all"])],
    )
    assert f"Note: {method} {note}" in words(run, methods=f"sa,{method}")
    assert "Note: naive is flagged, its numbers describe a wreck: collapse: all." in words(
        run, methods="sa,naive"
    )


def asked_in_words(rows):
    return [changed(row, prompts=PROMPTS) for row in rows]


def of_prompts(row):
    """20 prompts x 10 images: `l2` shows c_f under a few prompts only, in all of their images."""
    prompt, seed = np.repeat(np.arange(20), 10), np.arange(200)
    score = (prompt < (4 if row["method"] == "l2" else 0)).astype(float)
    first = seed[::-1][:40]  # recovery asks like the first images do, and says no prompt
    return {
        "forget_top1": {"score": score, "seed": seed, "prompt": prompt},
        "recovery": {"score": np.arange(40.0) % 2, "seed": first},
    }


def test_where_several_images_come_from_a_prompt_prompts_are_the_units(tmp_path):
    rows = asked_in_words([*runs("sa", 1, 1), *runs("l2", 1, 1)])
    stored(tmp_path / "run", rows, of_prompts)
    found = answers(tmp_path / "run", methods="sa,l2")
    pair = found["forgetting"].checkpoints
    assert (pair.unit, pair.units, pair.n, pair.difference) == ("prompt", 20, 200, -0.2)
    over_images = clustered.paired(
        *(of_prompts(r)["forget_top1"]["score"] for r in rows), None, True
    )
    assert pair.high - pair.low > 2 * (over_images.high - over_images.low)
    assert pair.p > 1000 * over_images.p
    assert "over 20 prompts." in words(tmp_path / "run", methods="sa,l2")
    assert found["recovery"].checkpoints.unit == "prompt"  # known by the seeds of c_f's images
    assert found["recovery"].checkpoints.units == 4


def test_packed_results_carry_the_prompts_and_older_ones_are_still_read(tmp_path):
    rows = asked_in_words([*runs("sa", 2, 3), *runs("l2", 2, 3)])
    there = read_results([stored(tmp_path / "run", rows, of_prompts)])
    file, old, plain = (tmp_path / f"{name}.jsonl.xz" for name in ("new", "old", "plain"))
    file.write_bytes(pack_results(there))
    for name in ("forget_top1", "recovery"):
        before, after = (read_columns_of(r[0], name) for r in (there, read_results([file])))
        assert {k: v.tolist() for k, v in before.items()} == {
            k: v.tolist() for k, v in after.items()
        }
    assert words(file, methods="sa,l2") == words(tmp_path / "run", methods="sa,l2")

    stripped = [{k: v for k, v in row.items() if k != "units"} for row in read_results([file])]
    old.write_bytes(pack_results(stripped))
    text = words(old, methods="sa,l2")
    assert "Not told: the scores do not name their prompts (pack the run folder again)." in text
    assert "Does the method differ? Not shown" in text

    of_classes = read_results([stored(tmp_path / "classes", runs("sa", 1, 1), likelihoods)])
    plain.write_bytes(pack_results(of_classes))
    assert "units" not in read_results([plain])[0]


def test_detectors_pair_the_images_that_both_sides_have(tmp_path):
    """A face was found in other images of either side; equal numbers of them are not the same images."""

    def faces(row):
        seed = np.arange(30) + (5 if row["method"] == "l2" else 0)
        return {"forget_top1": {"score": seed % 7 / 7, "seed": seed, "prompt": seed // 10}}

    rows = read_results(
        [stored(tmp_path, asked_in_words([*runs("sa", 1, 1), *runs("l2", 1, 1)]), faces)]
    )
    found = paired_scores(*sorted(rows, key=lambda r: r["method"], reverse=True), "forget_top1")
    assert found.a.tolist() == found.b.tolist() == [s % 7 / 7 for s in range(5, 30)]
    assert found.prompts.tolist() == [s // 10 for s in range(5, 30)]


def test_scores_that_are_not_finite_are_not_paired(tmp_path):
    def broken(row):
        return {"recovery": {"score": [0.0, np.nan, 1.0]}, "forget_top1": {"score": [1.0]}}

    text = words(stored(tmp_path, [*runs("sa", 1, 1), *runs("l2", 1, 1)], broken), methods="sa,l2")
    assert "Not told: some scores are not finite." in text
    assert "Not told: fewer than two images in common." in text


def test_a_distance_is_no_mean_over_images(tmp_path):
    rows = [*runs("sa", 1, 1), *runs("l2", 1, 1)]
    for row in rows:
        row["task_values"]["primary"][2] = "kid"
        kid = measurement(
            "kid[judge-mnist]", 0.01, 0.0, {"title": "KID", "unit": None, "better": "lower"}
        )
        row["measurements"][2] = kid | {"interval": "jackknife(20)"}
    text = words(stored(tmp_path, rows), methods="sa,l2")
    assert "Not told: it is not a mean over images, so images cannot be paired." in text


def test_an_endpoint_without_a_value_says_why(tmp_path):
    run = stored(tmp_path, [*runs("sa", 1, 1), result_row("l2", recovery="the model is not here")])
    assert "(recovery, lower is better) n/a: the model is not here" in words(run, methods="sa,l2")


def test_judges_stand_apart_from_the_spread(tmp_path):
    rows = [*runs("sa", 1, 2), *runs("l2", 1, 2)]
    for row in rows:
        shift = 0.5 if row["method"] == "sa" else 0.0
        row["measurements"][0]["judges"] = [
            {"judge": "cnn", "value": shift},
            {"judge": "knn", "value": shift / 2},
        ]
    found = answers(stored(tmp_path, rows), methods="sa,l2")["forgetting"].spread
    assert found.judges == {"cnn": 0.5, "knn": 0.25}
    assert found.seed == 0.0  # no part of it
    text = words(tmp_path, methods="sa,l2")
    assert "Judges, each alone: from +25.0 (knn) to +50.0 (cnn) points; 2 judges." in text


def test_the_command(cli, tmp_path):
    stored(tmp_path / "run", [*runs("sa", 1, 1), *runs("l2", 1, 1)])
    assert (
        "Do these checkpoints differ?"
        in cli("compare", tmp_path / "run", "--methods", "sa,l2", check=0).stdout
    )
    wrong = cli("compare", tmp_path / "run", tmp_path / "none", check=2).stderr
    assert "holds no result.json" in wrong
    assert len(wrong.strip().splitlines()) == 1
    assert "one or two runs, got 3" in cli("compare", *[tmp_path / "run"] * 3, check=2).stderr
