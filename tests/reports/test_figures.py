"""Figures for papers: every kind in every format, the same bytes twice, and nothing nude by accident."""

import io
import re

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from result_rows import OTHERS, on_bases, one, result_row
from sa_bench.reports import figures
from safetensors.numpy import load_file, save_file

from sa_bench import api
from sa_bench.analysis import figure_samples
from sa_bench.analysis.figure_style import MOST, choose_rows
from sa_bench.core.errors import SaBenchError
from sa_bench.results.files import pack_results

BEGINS = {"svg": b"<?xml", "pdf": b"%PDF", "png": b"\x89PNG"}


def sweep():
    return [
        result_row(fields={"lam": lam}, keep=-94 - lam / 100, forget=0.01 * lam)
        for lam in (0.1, 1.0, 10.0)
    ]


def board(*rows):
    return one([*rows, *OTHERS])


def images(folder, name, value, n=4):
    folder.mkdir(exist_ok=True)
    grey = np.zeros((n, 28, 28, 1), np.uint8)
    grey[:, 10:18, 10:18] = value
    parts = {"images": grey, "labels": np.zeros(n, np.int64), "seeds": np.arange(n)}
    save_file(parts, folder / f"{name}.safetensors")


@pytest.fixture
def shown(tmp_path):
    """A board whose rows have images."""
    rows = [result_row(), *OTHERS]
    for i, row in enumerate(rows):
        row = row | {"folder": str(tmp_path / row["method"])}
        rows[i] = row
        images(tmp_path / row["method"], "forget-base", 255)
        images(tmp_path / row["method"], "forget", 200 - 40 * i)
    return one(rows)


@pytest.mark.parametrize("ending", figures.FORMATS)
@pytest.mark.parametrize("kind", sorted(figures.KINDS))
def test_every_kind_in_every_format_and_the_same_bytes_twice(shown, kind, ending):
    found = shown if kind in ("samples", "overview") else board(*sweep())
    made = figures.render(kind, found, ending)
    assert made.startswith(BEGINS[ending])
    if kind == "pareto":
        assert figures.render(kind, found, ending) == made


def test_a_figure_names_every_line_and_the_gate():
    found = board(*sweep(), result_row("mine & <b>", keep=-95.0))
    text = figures.render("tradeoff", found, "svg").decode()
    for line in found.lines:
        assert re.search(
            f"{re.escape(line.label.replace('&', '&amp;').replace('<', '&lt;').replace('>', '&gt;'))}",
            text,
        )
    assert "images of zero still judged so" in text
    assert "(nats, higher is better)" in text


@pytest.mark.parametrize("kind", ["tradeoff", "pareto", "sweep"])
def test_a_long_legend_takes_no_height_from_the_panels(kind, monkeypatch):
    drawn = []

    def lay_out(figure, *file, **options):
        figure.draw_without_rendering()
        drawn.append(figure)

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", lay_out)

    def height(lines):
        many = [
            result_row(f"method_{i}", keep=-95.0, fields={"lam": x})
            for i in range(lines)
            for x in (1.0, 2.0)
        ]
        figures.render(kind, board(*sweep(), *many), "svg")
        return drawn[-1].axes[0].get_window_extent().height / drawn[-1].dpi

    few = height(1)
    assert height(12) > few - 0.1
    assert few > 1.5


def test_a_name_may_hold_a_dollar_sign_and_a_logarithmic_axis_has_plain_numbers():
    odd = [{**row, "concept": r"$\frac{a$"} for row in (*sweep(), *OTHERS)]
    for kind in ("tradeoff", "pareto", "sweep"):
        text = figures.render(kind, one(odd), "svg").decode()
        assert r"$\frac{a$" in text
        assert "mathdefault" not in text


def test_the_numbers_of_an_axis_are_those_of_its_ticks(monkeypatch):
    """A tick at 87.5 % read 88 %; of a decade of settings only the ends were named."""
    drawn = []
    monkeypatch.setattr(
        "matplotlib.figure.Figure.savefig", lambda figure, *file, **options: drawn.append(figure)
    )
    rows = [
        result_row(fields={"lam": lam}, recovery=back)
        for lam, back in ((0.1, 0.87), (0.3, 0.94), (1.0, 0.99))
    ]
    figures.render("sweep", board(*rows), "svg")
    shown, back, _ = drawn[-1].axes
    drawn[-1].draw_without_rendering()
    values, labels = back.get_yticks(), [label.get_text() for label in back.get_yticklabels()]
    assert [float(label.removesuffix(" %")) for label in labels] == pytest.approx(100 * values)
    assert [label.get_text() for label in shown.get_xticklabels()] == ["0.1", "0.3", "1"]


def test_a_wreck_does_not_stretch_the_axis():
    ruined = result_row("ruin", keep=-900.0, flags=["collapse: worst class"])
    text = figures.render("tradeoff", board(result_row(), ruined), "svg").decode()
    assert "(-900.00)" in text
    assert "−800" not in text


def test_a_sweep_needs_a_field_that_varies():
    with pytest.raises(SaBenchError, match="no method has several values of a field"):
        figures.render("sweep", board(result_row()), "svg")
    with pytest.raises(SaBenchError, match="fields that vary: lam"):
        figures.render("sweep", board(*sweep()), "svg", field="steps")


@pytest.mark.parametrize(
    ("kind", "ending", "says"),
    [("parreto", "svg", "Did you mean pareto"), ("pareto", "jpg", "jpg"), ("pareto", "", "none")],
)
def test_another_kind_or_format_is_refused(kind, ending, says):
    with pytest.raises(SaBenchError, match=says):
        figures.render(kind, board(result_row()), ending)


def test_nothing_to_draw_is_said(tmp_path):
    failed = one([result_row(error="x")])
    with pytest.raises(SaBenchError, match="nothing to draw"):
        figures.render("tradeoff", failed, "svg")
    file = tmp_path / "some.jsonl.xz"
    file.write_bytes(pack_results([result_row(), *OTHERS]))
    with pytest.raises(SaBenchError, match="give the run folder"):
        api.figure("samples", [file])


def test_one_board_a_figure(tmp_path):
    file, out = tmp_path / "two.jsonl.xz", tmp_path / "a.pdf"
    file.write_bytes(pack_results([result_row(), result_row(scale="full"), *OTHERS]))
    with pytest.raises(
        SaBenchError, match=r"one board, but there are 2: .* Give the folders of one"
    ):
        api.figure("pareto", [file], out)
    other = result_row(overrides={"concept": "3"}, concept="three", seed=1)
    other["task_values"] = {**other["task_values"], "concept": 3}
    file.write_bytes(pack_results([result_row(), other, *OTHERS]))
    with pytest.raises(
        SaBenchError, match=r"; .*\(three in its place\), .* Give the folders of one"
    ):
        api.figure("pareto", [file], out)
    file.write_bytes(pack_results([result_row(), *OTHERS]))
    assert api.figure("pareto", [file], out)[0] == out
    assert out.read_bytes().startswith(b"%PDF")
    with pytest.raises(SaBenchError, match="Unknown method with a result here 'esd'"):
        api.figure("pareto", [file], out, methods=["sa", "esd"])
    with pytest.raises(SaBenchError, match="No results of task other"):
        api.figure("pareto", [file], out, task="other")


def test_what_may_be_nudity_is_blurred_unless_asked_for(tmp_path):
    images(tmp_path, "forget", 255)
    plain, veiled = (
        figure_samples._load_images(tmp_path / "forget.safetensors", slice(4), v)
        for v in (False, True)
    )
    assert plain is not None
    assert veiled is not None
    assert plain.max() == 255
    assert np.abs(np.diff(veiled.astype(int), axis=2)).max() < 128


@pytest.fixture
def scored(tmp_path):
    """A run of two rows whose images have scores: of all but one (no face) in `sa`, of none in `relabel`."""
    rows = []
    for row in (result_row(), result_row("relabel")):
        folder = tmp_path / row["method"]
        images(folder, "forget-base", 255, 6)
        images(folder, "forget", 200, 6)
        grey = load_file(folder / "forget.safetensors")
        grey["images"][:, 0, 0, 0] = np.arange(6) + 1  # so that each can be told
        grey |= {"seeds": np.arange(6) % 3, "prompts": np.arange(6) // 3}
        save_file(grey, folder / "forget.safetensors")
        rows.append(row | {"folder": str(folder)})
    write_scores(
        tmp_path / "sa", "forget_top1", [0.25, 0.5, 0.75, 0.5, float("nan")], rows=[5, 0, 3, 2, 4]
    )
    return one(rows)


def write_scores(folder, name, score, rows, add=0):
    rows = np.array(rows)
    columns = {
        "index": np.arange(len(rows)),
        "seed": rows % 3 + add,
        "prompt": rows // 3,
        "score": score,
    }
    (folder / "scores").mkdir(exist_ok=True)
    pd.DataFrame(columns).to_parquet(folder / "scores" / f"{name}.parquet", index=False)


def test_samples_are_sorted_by_a_score_which_is_joined_by_seed_and_prompt(scored, monkeypatch):
    rows, scores = figure_samples.highest_scored(scored.lines[0].cells[0], "forget_top1", 3, "sa")
    assert (rows.tolist(), scores.tolist()) == ([3, 0, 2], [0.75, 0.5, 0.5])
    drawn = []
    axes = "matplotlib.axes.Axes.imshow"
    monkeypatch.setattr(axes, lambda self, image, **_: drawn.append(int(image[0, 0])))
    text = figures.render("samples", scored, "svg", columns=2, sort="forget_top1").decode()
    assert drawn == [4, 1]  # two of `sa`, none of `relabel`, which has no scores
    assert ">0.75<" in text
    assert ">0.5<" in text
    many = figures.render("samples", scored, "svg", columns=10_000, sort="forget_top1").decode()
    assert many.count(">0.5<") == 2, "no more columns than there are images"
    said = figures.caption(scored, "samples", "forget_top1")
    assert "images of zero with the highest forget_top1" in said
    assert said.endswith("Without a score: relabel.")


@pytest.mark.parametrize(
    ("sort", "says"),
    [
        (
            "recovery",
            "Unknown score of the images of c_f 'recovery'.*Available: forget_top1",
        ),  # it has no scores
        (
            "retain_log_likelihood",
            "Unknown score of the images of c_f",
        ),  # its scores are of other images
        ("celebrity_score", "Unknown score of the images of c_f"),  # it was not measured
    ],
)
def test_a_score_that_is_not_there_is_one_line(scored, tmp_path, sort, says):
    write_scores(tmp_path / "sa", "retain_log_likelihood", [1.0, 2.0], rows=[0, 1], add=70)
    write_scores(tmp_path / "sa", "recovery", [0.0, 1.0], rows=[0, 1])  # from the same seeds
    with pytest.raises(SaBenchError, match=says) as error:
        figures.render("samples", scored, "svg", sort=sort)
    assert "\n" not in str(error.value)


def test_only_images_can_be_sorted(scored):
    with pytest.raises(SaBenchError, match="a figure pareto has none"):
        figures.render("pareto", scored, "svg", sort="forget_top1")


def test_packed_results_have_no_images_to_sort(tmp_path):
    file = tmp_path / "some.jsonl.xz"
    file.write_bytes(pack_results([result_row(), *OTHERS]))
    with pytest.raises(SaBenchError, match="give the run folder"):
        api.figure("samples", [file], tmp_path / "a.svg", sort="forget_top1")


def test_top_without_sort_is_refused(cli):
    done = cli("figure", "samples", "runs/none", "--top", "5", check=2)
    assert "by which score?" in done.stderr


def test_more_images_than_fit_in_a_row_are_refused(cli):
    done = cli("figure", "samples", "runs/none", "--images", "101", check=2)
    assert "--images 101: at most 100" in done.stderr


def test_a_value_far_from_all_others_stands_at_the_edge_with_its_number():
    """The rule is the report's: what is far is drawn at the edge, collapsed or not."""
    near = [result_row(f"m{i}", keep=-94.0 - 0.1 * i) for i in range(4)]
    text = figures.render("tradeoff", board(*near, result_row("far", keep=-3e5)), "svg").decode()
    assert "(-300000.00)" in text
    ticks = [float(x.replace("−", "-")) for x in re.findall(r">([−-]\d+)</text>", text)]
    assert ticks
    assert min(ticks) >= -106  # retrain's −104 and a margin
    assert not re.search(r"\(-9\d\.", text)
    assert "retain_log_likelihood" not in text  # an axis has words


def texts(made):
    return re.findall(r"<text[^>]*>([^<]*)</text>", made.decode())


def test_points_bear_names_where_these_fit_and_numbers_where_not():
    few = figures.render("pareto", board(result_row()), "svg")
    assert "sa" in texts(few)
    assert not any(text.startswith("1  ") for text in texts(few))
    crowd = [
        result_row(f"a_rather_long_name_{i}", forget=0.01, keep=-94 - i / 1000) for i in range(30)
    ]
    crowded = texts(figures.render("pareto", board(*crowd), "svg"))
    assert any(re.match(r"\d+  a_rather_long_name_0$", text) for text in crowded)


def test_axes_say_their_scale():
    assert any("square-root scale" in t for t in texts(figures.render("pareto", board(), "svg")))
    assert "lam, log scale" in texts(figures.render("sweep", board(*sweep()), "svg"))


def test_at_most_twelve_rows_are_drawn_and_the_caption_says_how_many_are_left_out(tmp_path):
    rows = on_bases([result_row(fields={"lam": lam}, keep=-94 - lam) for lam in range(20)])
    file = tmp_path / "many.jsonl.xz"
    file.write_bytes(pack_results([*rows, *OTHERS]))
    _, caption = api.figure("tradeoff", [file], tmp_path / "x.svg")
    assert f"{20 + len(OTHERS) - MOST} more rows of the board are left out" in caption
    chosen = choose_rows(board(*rows).lines)
    assert len(chosen) == MOST
    assert {"retrain", *(x.label for x in board(*rows).lines if x.front)} <= {
        x.label for x in chosen
    }
    _, caption = api.figure("tradeoff", [file], tmp_path / "x.svg", methods="sa")
    assert "left out" not in caption


def test_a_figure_has_the_size_that_is_asked_for():
    made = figures.render("tradeoff", board(), "png", size=(5.0, 4.0))
    width, height = Image.open(io.BytesIO(made)).size
    assert abs(width - 1000) < 60
    assert abs(height - 800) < 60


def test_a_size_that_is_none_is_refused(cli, tmp_path):
    said = cli("figure", "pareto", "x", "--size", "wide").stderr
    assert "--size wide: a width and a height in inches" in said
