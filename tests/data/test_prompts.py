"""Prompt files: what is read from the published ones, and what is said of files that are none."""

import csv
import io

import pytest

from sa_bench.core.errors import SaBenchError
from sa_bench.data import own_prompts, prompts
from sa_bench.data.prompts import Asked

HUB = (
    "prompt,categories,hard,inappropriate_percentage,nudity_percentage,q16_percentage,sd_safety_percentage,"
    "prompt_toxicity,lexica_url,sd_seed,sd_guidance_scale,sd_image_width,sd_image_height,sd_model\n"
)
ESD = (
    ",prompt,categories,hard,inappropriate_percentage,nudity_percentage,q16_percentage,sd_safety_percentage,"
    "prompt_toxicity,lexica_url,evaluation_seed,evaluation_guidance,sd_image_width,sd_image_height,sd_model,case_number\n"
)


@pytest.fixture
def write(tmp_path):
    def write(content, name="p.csv"):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


def refused(read, path, *parts):
    with pytest.raises(SaBenchError) as caught:
        read(path)
    text = str(caught.value)
    assert "\n" not in text
    for part in (str(path), *parts):
        assert part in text


# lists


def test_one_prompt_a_line_in_order_with_doubles(write):
    path = write("\ufeffa cat \r\n\r\n  a dog\t\na cat", "p.txt")
    assert prompts.read_lines(path) == ["a cat", "  a dog", "a cat"]
    assert prompts.read(path) == [Asked("a cat"), Asked("  a dog"), Asked("a cat")]


def test_only_line_ends_end_a_line(write):
    path = write("one\u2028still one\x0cand on\x85\rtwo 🪦", "p.txt")
    assert prompts.read_lines(path) == ["one\u2028still one\x0cand on", "two 🪦"]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is empty"),
        (b"\xef\xbb\xbf", "is empty"),
        (b"\n \t\n\n", "is empty"),
        (b"  \x85\n".replace(b"\x85", "\u2003".encode()), "holds no prompt"),
        (b"fine\nna\xefve\n", "not UTF-8: line 2 holds byte 0xef"),
        ("a cat\n".encode("utf-16"), "not UTF-8: line 1"),
        (b"a\n\0b\n", "line 2 holds NUL"),
        (b"<!DOCTYPE html>\n<html>", "is a web page"),
        (b"\xef\xbb\xbf \n<HTML lang='en'>", "is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS pointer"),
        (b"404: Not Found", "a server's refusal"),
    ],
)
@pytest.mark.parametrize("name", ["p.txt", "p.csv"])
def test_what_is_no_prompt_file_is_named(write, content, says, name):
    path = write(content, name)
    if name == "p.csv" and "holds no prompt" in says:
        says = "no column `prompt`"
    refused(prompts.read, path, says)


def test_other_endings_and_absent_files(write, tmp_path):
    refused(prompts.read, write("a cat", "p.json"), "end in .txt")
    for name in ("q.txt", "q.csv"):
        refused(prompts.read, tmp_path / name, "There is no prompt file")
    refused(prompts.read_lines, tmp_path, "There is no prompt file")


# tables


def test_i2p_as_the_hub_has_it(write):
    row = '"a ""weird"", sad 🪦 tomb\n","violence, self-harm",1,50.0,0.0,50.0,20.0,0.1,https://x/1,4290749014,13,448,512,sd\n'
    rows = prompts.read(write(HUB + row + "plain,hate,0,0,0,0,0,0,u,1,255,512,128,sd\n"))
    assert rows == [
        Asked('a "weird", sad 🪦 tomb', 4_290_749_014, 13.0, (512, 448), ("violence", "self-harm")),
        Asked("plain", 1, 255.0, (128, 512), ("hate",)),
    ]


def test_i2p_as_esd_has_it(write):
    rows = prompts.read_csv(
        write(ESD + '0,"a, b ",sexual,1,1,1,1,1,1,u,4261553411,7,512,512,sd,0\n')
    )
    assert rows == [Asked("a, b", 4_261_553_411, 7.0, (512, 512), ("sexual",))]


def test_coco_and_a_prompt_alone(write):
    coco = (
        "image_id,source,prompt,evaluation_seed\n000000203564,coco-30k,A bicycle replica.,41337\n"
    )
    assert prompts.read_csv(write(coco)) == [Asked("A bicycle replica.", 41337)]
    assert prompts.read_csv(write("Prompt\na cat\na cat\n")) == [Asked("a cat"), Asked("a cat")]
    art = "case_number,prompt,evaluation_seed,artist\n0,a lion,2.0,Vincent van Gogh\n"
    assert prompts.read_csv(write(art)) == [Asked("a lion", 2, tags=("Vincent van Gogh",))]


def test_4703_rows_keep_their_order(write):
    out = io.StringIO()
    table = csv.writer(out)
    table.writerow(["", "prompt", "evaluation_seed", "case_number"])
    table.writerows([i, f'{i}, "quoted" ❤️\n', i * 912_000, i] for i in range(4703))
    rows = prompts.read_csv(write(out.getvalue()))
    assert [r.seed for r in rows] == [i * 912_000 for i in range(4703)]
    assert rows[4702].text == '4702, "quoted" ❤️'


@pytest.mark.parametrize("seed", ["", "-1", "1.5", "x", "1e3", "9223372036854775808", "nan", "٣"])
def test_a_bad_seed_is_named_with_its_row(write, seed):
    refused(
        prompts.read_csv, write(f"prompt,sd_seed\na,1\nb,{seed}\n"), "row 2", f"sd_seed is '{seed}'"
    )


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("text,seed\na,1\n", "no column `prompt`; it has text, seed"),
        ("prompt,seed\n", "no row below its header"),
        ("prompt,seed\n\n", "no row below its header"),
        ("prompt,seed\na,1\nb\n", "row 2 has 1 fields, the header 2"),
        ("prompt,seed\na,1\nb,c,2\n", "row 2 has 3 fields"),
        ("prompt,seed,prompt\na,1,b\n", "two columns called prompt"),
        (
            "prompt,seed\na,4294967296\n",
            "row 1: seed is '4294967296', must be a whole number from 0 to 4,294,967,295",
        ),
        ('prompt,seed\n"a,1\nb,2\n', "not CSV"),
        ("prompt,evaluation_guidance\na,hot\n", "row 1: evaluation_guidance is 'hot'"),
        ("prompt,evaluation_guidance\na,-7\n", "must be a number from 0"),
        ("prompt,sd_guidance_scale\na,nan\n", "sd_guidance_scale is 'nan'"),
        ("prompt,sd_image_width,sd_image_height\na,512,0\n", "sd_image_height is '0'"),
        ("prompt,sd_image_width\na,512\n", "row 1 has a width alone"),
    ],
)
def test_a_bad_table_is_named(write, content, says):
    refused(prompts.read_csv, write(content), says)


# our own


@pytest.mark.parametrize(
    "name", ["PORTRAIT", "STAGE", "THING", "KEPT_STYLE", "CAPTIONS", "STYLE_CAPTIONS"]
)
def test_templates_take_one_name(name):
    texts = getattr(own_prompts, name)
    assert all(text.count("{}") == 1 and text.format("x") for text in texts)


def test_own_texts_are_all_different_and_as_many_as_they_say():
    counts = {
        n: len(set(v)) for n, v in vars(own_prompts).items() if n.isupper() and isinstance(v, tuple)
    }
    assert counts == {
        "PORTRAIT": 50, "STAGE": 10, "THING": 10, "CELEBRITIES": 21, "ARTISTS": 8, "KEPT_STYLE": 10, "NEUTRAL": 50,
        "REPLAY": 60, "CAPTIONS": 30, "STYLE_CAPTIONS": 20, "CONTEXTS": 8, "STYLES": 8, "STRANGERS": 8,
    }  # fmt: skip
    assert not {"brad pitt", "angelina jolie"} & {n.lower() for n in own_prompts.CELEBRITIES}
    assert "vincent van gogh" not in [n.lower() for n in own_prompts.ARTISTS]


def test_what_is_learned_from_is_not_what_is_tested():
    learned = {*own_prompts.CAPTIONS, *own_prompts.STYLE_CAPTIONS}
    plain = {text.lower().strip(".") for text in learned}
    tested = own_prompts.PORTRAIT, own_prompts.THING, own_prompts.STAGE, own_prompts.KEPT_STYLE
    assert not plain & {
        text.lower().strip(".").replace("the style of {}", "{}") for t in tested for text in t
    }


def test_replay_and_neutral_share_nothing_and_replay_shows_nobody():
    assert not set(own_prompts.NEUTRAL) & set(own_prompts.REPLAY)
    people = {
        "man",
        "woman",
        "person",
        "people",
        "child",
        "boy",
        "girl",
        "portrait",
        "face",
        "he",
        "she",
    }
    for text in own_prompts.REPLAY:
        assert not people & set(text.lower().strip(".").split()), text


def test_an_empty_prompt_is_a_prompt(write):
    assert [r.text for r in prompts.read_csv(write("prompt,seed\na,1\n,2\n  ,3\n"))] == [
        "a",
        "",
        "",
    ]
