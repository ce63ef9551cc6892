"""The page's grids of images: what each image was asked for, gaps without colour; and the page's first line."""

import base64
import io

import numpy as np
from PIL import Image
from result_rows import OTHERS, one, result_row
from sa_bench.reports import html
from safetensors.numpy import save_file

from sa_bench.analysis import pairwise

CLASSES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def write(folder, name, labels, prompts=None, side=8, channels=1):
    """A sample set of white images."""
    images = np.full((len(labels), side, side, channels), 255, np.uint8)
    arrays = {"images": images, "labels": np.asarray(labels, np.int64)}
    arrays |= {} if prompts is None else {"prompts": np.asarray(prompts, np.int64)}
    save_file(arrays, folder / f"{name}.safetensors")


def opened(sheet):
    image = Image.open(io.BytesIO(base64.b64decode(sheet.uri.partition(",")[2])))
    return np.asarray(image.convert("RGBA"))


def row_in(folder, **task):
    row = result_row(folder=str(folder))
    return row | {"task_values": row["task_values"] | task}


def test_images_of_the_rest_stand_in_a_column_a_class_under_its_name(tmp_path):
    write(tmp_path, "retain", np.repeat(np.arange(1, 10), 5))
    sheet = html.sheet(row_in(tmp_path), "retain")
    assert sheet.heads == tuple((name, 1) for name in CLASSES[1:])
    assert sheet.columns == 9
    assert opened(sheet).shape[:2] == (2 * 8 + html.GAP, 9 * 8 + 8 * html.GAP)


def test_gaps_and_missing_images_are_transparent_and_images_are_not(tmp_path):
    write(
        tmp_path, "retain", [*np.repeat(np.arange(1, 9), 2), 9]
    )  # a single image of the last class
    seen = opened(html.sheet(row_in(tmp_path), "retain"))
    assert (seen[:8, :8] == 255).all()
    assert (seen[:, 8 : 8 + html.GAP, 3] == 0).all()
    assert (seen[:8, -8:, 3] == 255).all()
    assert (seen[8 + html.GAP :, -8:, 3] == 0).all()
    assert set(np.unique(seen[..., 3])) == {0, 255}


def test_images_of_prompts_stand_under_their_prompts(tmp_path):
    prompts = {"test": ["a {}", "the {}", "no {}"], "kept": [], "files": {}}
    write(tmp_path, "forget", [0] * 24, np.repeat([0, 1, 2], 8), side=120, channels=3)
    sheet = html.sheet(row_in(tmp_path, prompts=prompts, n_forget=24), "forget")
    assert sheet.heads == (("a zero", 3), ("the zero", 3), ("no zero", 3))
    assert opened(sheet).shape[:2] == (2 * html.TILE + html.GAP, 9 * html.TILE + 8 * html.GAP)
    of_file = prompts | {"files": {"test": "prompts.csv"}}
    sheet = html.sheet(row_in(tmp_path, prompts=of_file, n_forget=24), "forget")
    assert [text for text, _ in sheet.heads] == ["prompt 1", "prompt 2", "prompt 3"]
    # of fewer images than prompts nobody says here which prompts were drawn
    fewer = row_in(tmp_path, prompts=prompts, n_forget=2)
    assert html.sheet(fewer, "forget").heads[0][0] == "prompt 1"


def test_many_prompts_of_one_image_each_fill_both_rows(tmp_path):
    prompts = {"test": ["{}"], "kept": [], "files": {"test": "prompts.csv"}}
    write(tmp_path, "forget", [0] * 30, np.arange(30))
    sheet = html.sheet(row_in(tmp_path, prompts=prompts), "forget")
    assert sheet.heads == (("one image a prompt", 10),)
    assert (opened(sheet)[-8:, :, 3] > 0).mean() > 0.7


def test_prompts_that_are_to_be_kept_are_named_and_classes_are_where_there_are_any(tmp_path):
    prompts = {"test": ["a {}"], "kept": ["a dog", "a house"], "files": {}}
    write(tmp_path, "retain", [-1] * 4, [0, 0, 1, 1])
    row = row_in(tmp_path, prompts=prompts, n_retain=4)
    assert [text for text, _ in html.sheet(row, "retain").heads] == ["a dog", "a house"]
    # a prompt that mentions c_f is not asked, and the captions were one off from there on
    named = prompts | {"kept": ["two zeros", "a dog", "a house"], "forget": ["{}"]}
    row = row_in(tmp_path, prompts=named, n_retain=4)
    assert [text for text, _ in html.sheet(row, "retain").heads] == ["a dog", "a house"]
    row = row_in(tmp_path, prompts=prompts, n_retain=4)
    write(tmp_path, "retain", [1, 1, 2, 2], [0, 1, 2, 3])
    assert [text for text, _ in html.sheet(row, "retain").heads] == ["one", "two"]
    write(tmp_path, "retain", [1, 99])
    assert [text for text, _ in html.sheet(row, "retain").heads] == ["one", "class 99"]


def test_a_set_without_a_file_has_no_grid(tmp_path):
    assert html.sheet(row_in(tmp_path), "forget") is html.NO_SHEET


def test_the_first_line_says_when_by_what_on_which_machine_and_by_whom_and_no_more():
    rows = [result_row(), *OTHERS]
    bare = [row | {"provenance": dict(row["provenance"])} for row in rows]
    for row in bare:
        del row["provenance"]["commit"]
    assert html.describe_origin([one(bare)]) == [("machine", "a CPU")]
    for i, row in enumerate(rows):
        times = {"finished": f"2026-11-2{i}T01:02:03+00:00", "versions": {"sa_bench": "1.2.3"}}
        rows[i] = row | {"provenance": row["provenance"] | times}
    rows[0] = rows[0] | {"origin": "Ada [12345678]"}
    assert html.describe_origin([one(rows)]) == [
        ("run", "2026-11-20 to 2026-11-23"),
        ("sa_bench", "1.2.3"),
        ("commit", "01234567"),
        ("machine", "a CPU"),
        ("by", "Ada [12345678]"),
    ]
    page = html.render([row | {"folder": ""} for row in rows])
    assert "<span>by <b>Ada [12345678]</b></span>" in page


def test_settings_are_words_and_no_page_holds_raw_json():
    values = {
        "lam": 1.5,
        "fisher": {"steps": 3, "ema": True},
        "words": ["a", "b"],
        "none": None,
        "l": [],
    }
    assert html.list_settings(values) == (
        "lam = 1.5; fisher.steps = 3; fisher.ema = yes; words = a, b; none = none; l = none"
    )
    row = result_row(fields=values)
    page = html.render([row | {"folder": ""}, *(r | {"folder": ""} for r in OTHERS)])
    text = page.partition("</style>")[2].partition("<script>")[0]
    assert "{" not in text
    assert "&#34;:" not in text


def test_another_page_can_include_one_board():
    template = html.load_environment().get_template("board.html")
    given = {
        "link": lambda cell: "",
        "pictures": lambda board: [],
        "placed": html.once(),
        "compare_first": pairwise.compare_first,
        "method_page": lambda line: "sa.html",
    }
    board = one([row | {"folder": ""} for row in (result_row(), *OTHERS)])
    text = template.render(board=board, open="", **given)
    assert text.count('<table class="board sortable">') == 1
    assert board.headline in text
    assert text.count('<a href="sa.html">') == len(board.lines)
    assert "<html" not in text
