"""Images made elsewhere and the rows that they were made for: the base's own come back as the base's, in any order."""

import csv
import io
import json

import numpy as np
import pytest
from PIL import Image

import sa_bench
from sa_bench.contracts import ignore_event
from sa_bench.core.errors import SaBenchError
from sa_bench.core.settings import store_folder
from sa_bench.core.store import Store
from sa_bench.data.sample_sets import load_samples
from sa_bench.engine import external, joining
from sa_bench.engine.cells import resolve, resolve_task
from sa_bench.engine.stages import Chain
from sa_bench.scoring import sampling

SETS = {
    "mnist_0": ["task.n_forget=6", "task.n_retain=2", "task.metrics=retain_drift"],
    "mnist_0_t2i": ["task.n_forget=4", "task.n_retain=2", "task.family_images=0", "task.sampler.steps=2",
                    "task.metrics=retain_drift"],
}  # fmt: skip


def settings(task):
    return dict(text.removeprefix("task.").split("=", 1) for text in SETS[task])


def resolved(task):
    return resolve_task(task, "quick", settings(task))


def listed(cli, task):
    """The rows of `show TASK --rows`, each set's by number."""
    options = [part for text in SETS[task] for part in ("--set", text)]
    shown = cli("show", task, "--rows", "--scale", "quick", *options).stdout
    return list(csv.DictReader(io.StringIO(shown)))


def by_number(row):
    return f"{int(row['row']):05d}"


def from_one(row):
    return str(int(row["row"]) + 1)


def with_zero(row):
    return f"{row['row']}_0"


def by_seed(row):
    return f"seed_{row['seed']}"


def by_seed_and_more(row):
    return f"x-{(int(row['row']) * 7) % 5}-Seed{row['seed']}"


NAMES = {
    by_number: "row number from 0", from_one: "row number from 1", with_zero: "row number from 0 and 0",
    by_seed: "seed in the name", by_seed_and_more: "seed in the name",
}  # fmt: skip


@pytest.fixture
def base(store_env):
    """The base's own images of a task, as a function of it: (set, array) by set."""

    def drawn(task):
        (cell,) = resolve([task], ["original"], "quick", sets=SETS[task])
        chain = Chain(Store(store_folder()), cell, ignore_event)
        return {
            name: load_samples(chain.samples(name, True).path / f"{name}.safetensors")
            for name in ("forget", "retain")
        }

    return drawn


def export(root, rows, images, name):
    """Write each image where `evaluate` looks for it, called as `name` says of its row; returns the files by row."""
    files = {}
    for row in rows:
        if row["set"] not in images:
            continue
        folder = root / "forget" if row["set"] == "forget" else root / "retain" / row["label"]
        folder.mkdir(parents=True, exist_ok=True)
        image = images[row["set"]].images[int(row["row"])]
        files[row["set"], int(row["row"])] = folder / f"{name(row)}.png"
        Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(
            files[row["set"], int(row["row"])]
        )
    return files


def plain_rows(task):
    return list(csv.DictReader(io.StringIO(joining.format_rows(resolved(task)))))


def shuffled(rows, seed=0):
    """Names that say nothing, in another order than the rows."""
    order = np.random.default_rng(seed).permutation(len(rows))
    return lambda row: f"img{order[rows.index(row)]:04d}x"


def drift(path, task):
    result = sa_bench.evaluate(path, task, scale="quick", sets=SETS[task])
    (m,) = result["measurements"]
    return m, result


@pytest.mark.parametrize("task", SETS)
def test_the_rows_of_a_task_are_listed_as_they_are_asked(cli, task):
    rows, wanted = listed(cli, task), resolved(task)
    assert list(rows[0]) == list(joining.COLUMNS)
    for name in sampling.set_names(wanted):
        own = sampling.plan_set(wanted, name)
        shown = [r for r in rows if r["set"] == name]
        assert [int(r["row"]) for r in shown] == list(range(len(own)))
        assert [int(r["seed"]) for r in shown] == [r.request.seed for r in own]
        assert [int(r["label"]) for r in shown] == [r.label for r in own]
        assert [r["class"] for r in shown] == [wanted.classes[r.label] for r in own]
        prompts = ["" if wanted.prompts is None else r.request.condition for r in own]
        assert [r["prompt"] for r in shown] == prompts
        assert {float(r["guidance"]) for r in shown} == {wanted.sampler.guidance}
    side = "28" if task == "mnist_0" else str(wanted.size or 64)
    assert {r["width"] for r in rows} == {r["height"] for r in rows}
    assert task != "mnist_0" or {r["width"] for r in rows} == {side}


def test_a_rows_own_guidance_and_size_are_listed(tmp_path):
    (tmp_path / "mine.csv").write_text(
        'prompt,sd_seed,sd_guidance_scale,sd_image_width,sd_image_height\n"a, ""b""",7,9,128,448\nc,8,7.5,512,512\n'
    )
    given = {
        "prompts.files.test": str(tmp_path / "mine.csv"),
        "prompts.rows": "own",
        "n_forget": "2",
    }
    text = joining.format_rows(resolve_task("celeb_brad_pitt", "quick", given))
    first, second = [r for r in csv.DictReader(io.StringIO(text)) if r["set"] == "forget"]
    assert [first[k] for k in ("prompt", "seed", "guidance", "height", "width")] == [
        'a, "b"',
        "7",
        "9.0",
        "448",
        "128",
    ]
    assert [second[k] for k in ("prompt", "guidance", "height")] == ["c", "7.5", "512"]
    kept = [r for r in csv.DictReader(io.StringIO(text)) if r["set"] == "retain"]
    assert {(r["label"], r["class"]) for r in kept} == {("-1", "")}


def test_rows_are_a_tasks_and_settings_belong_to_them(cli):
    assert (
        "--rows lists the images of one task; sa is the method sa"
        in cli("show", "sa", "--rows", check=2).stderr
    )
    assert "only together with --rows" in cli("show", "mnist_0", "--scale", "quick", check=2).stderr
    assert "use task.<field>" in cli("show", "mnist_0", "--rows", "--set", "lam=1", check=2).stderr


@pytest.mark.parametrize("task", SETS)
@pytest.mark.parametrize("name", NAMES)
def test_the_bases_own_images_have_not_moved_however_they_are_named(base, tmp_path, task, name):
    export(tmp_path, plain_rows(task), base(task), name)
    m, result = drift(tmp_path, task)
    assert (m["value"], m["low"], m["high"]) == (0, 0, 0)
    assert result["artifacts"]["join"] == {"forget": NAMES[name], "retain": NAMES[name]}
    assert not [f for f in result["flags"] if f.startswith(joining.COUNTED)]


@pytest.mark.parametrize("key", ["row", "seed"])
@pytest.mark.parametrize(("table", "column"), [("rows.csv", "file"), ("metadata.csv", "file_name")])
@pytest.mark.parametrize("task", SETS)
def test_a_table_beside_them_says_it_too(base, tmp_path, task, table, column, key):
    rows = plain_rows(task)
    files = export(tmp_path, rows, base(task), shuffled(rows))
    for name in ("forget", "retain"):  # lines in any order, one list for both sets
        with (tmp_path / name / table).open("w", newline="", encoding="utf-8") as out:
            writer = csv.DictWriter(out, ("set", column, key, "prompt"), extrasaction="ignore")
            writer.writeheader()
            for (part, i), file in sorted(files.items(), key=lambda pair: pair[1].name):
                (row,) = [r for r in rows if r["set"] == part and int(r["row"]) == i]
                writer.writerow({**row, column: file.relative_to(tmp_path / part).as_posix()})
    m, result = drift(tmp_path, task)
    assert m["value"] == 0
    assert result["artifacts"]["join"] == {"forget": table, "retain": table}
    assert not [f for f in result["flags"] if f.startswith(("not used", joining.COUNTED))]


def test_a_bare_count_is_another_answer_and_said_loudly(base, tmp_path, cli, store_env):
    task = "mnist_0_t2i"
    rows = plain_rows(task)
    export(tmp_path / "x", rows, base(task), shuffled(rows))
    m, result = drift(tmp_path / "x", task)
    assert m["value"] > 1
    assert result["artifacts"]["join"] == {"forget": "count", "retain": "count"}
    assert result["flags"][0].startswith("joined by count: forget and retain: ")
    options = [part for text in SETS[task] for part in ("--set", text)]
    done = cli(
        "evaluate", "x", "--task", task, "--scale", "quick", *options, "--out", "o", store=store_env
    )
    assert "joined by count: forget and retain" in " ".join(done.stdout.split())
    kept = json.loads((tmp_path / "o" / "result.json").read_text())
    assert kept["artifacts"]["join"]["retain"] == "count"


def test_images_of_classes_get_no_seed_from_a_bare_count(base, tmp_path):
    """No prompt is at stake, and images of strangers are as many by chance."""
    rows = plain_rows("mnist_0")
    export(tmp_path, rows, base("mnist_0"), shuffled(rows))
    m, result = drift(tmp_path, "mnist_0")
    assert m["value"] is None
    assert "seeds" in m["reason"]
    assert result["artifacts"]["join"] == {}
    for file in (tmp_path / "retain").rglob(
        "*.png"
    ):  # each class numbered for itself: no row's number
        file.rename(file.with_stem(str(sorted(file.parent.iterdir()).index(file))))
    assert drift(tmp_path, "mnist_0")[0]["value"] is None


def test_uneven_classes_are_not_joined_by_count(base, tmp_path):
    rows = plain_rows("mnist_0_t2i")
    files = export(tmp_path, rows, base("mnist_0_t2i"), shuffled(rows))
    moved = files["retain", 0]
    moved.rename(tmp_path / "retain" / "2" / "further.png")
    given = external.read_sets(tmp_path, resolved("mnist_0_t2i"))
    assert given.joins == {"forget": "count"}
    assert given.sets["retain"].prompts is None


def test_a_prompt_and_its_images_are_numbers_too(tmp_path):
    given = {"n_forget": "4", "n_retain": "2", "size": "64"}
    (tmp_path / "two.txt").write_text("one\ntwo\n")
    task = resolve_task(
        "celeb_brad_pitt", "quick", {**given, "prompts.files.test": str(tmp_path / "two.txt")}
    )
    (tmp_path / "x" / "forget").mkdir(parents=True)
    for p in range(2):
        for k in range(2):
            Image.new("RGB", (64, 64), (10 * p + k,) * 3).save(
                tmp_path / "x" / "forget" / f"{p}_{k}.png"
            )
    read = external.read_sets(tmp_path / "x", task)
    assert read.joins == {"forget": "prompt and image number from 0"}
    assert read.sets["forget"].images[:, 0, 0, 0].tolist() == [0, 1, 10, 11]
    assert read.sets["forget"].prompts.tolist() == [0, 0, 1, 1]


@pytest.fixture
def given(base, tmp_path):
    """The base's images called by their seeds, as (folder, files by row, rows)."""
    rows = plain_rows("mnist_0_t2i")
    return tmp_path, export(tmp_path, rows, base("mnist_0_t2i"), by_seed), rows


def refused(folder, *words):
    with pytest.raises(SaBenchError) as error:
        external.read_sets(folder, resolved("mnist_0_t2i"))
    said = str(error.value)
    assert "\n" not in said
    assert error.value.exit_code == 2
    for word in words:
        assert word in said, said


def test_conflicts_of_names_are_named(given):
    folder, files, rows = given
    one, other = files["retain", 0], files["retain", 1]
    held = one.read_bytes()
    again = one.with_name(f"again_{one.name}")
    again.write_bytes(held)
    refused(folder, again.name, one.name, "are both row 0 of retain")
    again.unlink()
    one.unlink()
    refused(folder, "row 0 of retain", rows[4]["seed"], "has no file")
    one.with_name("seed_5.png").write_bytes(held)
    refused(folder, "seed_5.png has the seed 5, which no row of retain has")
    one.with_name("seed_5.png").unlink()
    strange = folder / "retain" / "2" / one.name
    strange.write_bytes(held)
    refused(folder, str(strange), "row 0 of retain is of one, not of two")
    assert other.is_file()


def test_numbers_with_a_gap_or_twice_are_refused(base, tmp_path):
    rows = plain_rows("mnist_0_t2i")
    files = export(tmp_path, rows, base("mnist_0_t2i"), by_number)
    files["forget", 1].rename(files["forget", 1].with_name("4.png"))
    refused(tmp_path, "4.png", "neither all of 0 to 3 nor all of 1 to 4")
    (tmp_path / "forget" / "4.png").rename(tmp_path / "forget" / "2.png")
    refused(tmp_path, "2.png", "00002.png", "are both number 2 of forget")


def test_a_seed_that_two_rows_share_needs_the_row_or_its_prompt(tmp_path):
    (tmp_path / "mine.csv").write_text("prompt,sd_seed\na,7\nb,7\n")
    given = {"prompts.files.test": str(tmp_path / "mine.csv"), "n_forget": "2", "size": "64"}
    task = resolve_task("celeb_brad_pitt", "quick", given)
    folder = tmp_path / "x" / "forget"
    folder.mkdir(parents=True)
    for name in ("p_seed7", "q_seed7"):
        Image.new("RGB", (64, 64)).save(folder / f"{name}.png")
    with pytest.raises(SaBenchError, match="rows 0 and 1 of forget share the seed 7"):
        external.read_sets(tmp_path / "x", task)
    (folder / "rows.csv").write_text("file,seed,prompt\nq_seed7.png,7,a\np_seed7.png,7,b\n")
    assert external.read_sets(tmp_path / "x", task).joins == {"forget": "rows.csv"}
    (folder / "rows.csv").write_text("file,row\nq_seed7.png,0\np_seed7.png,1\n")
    assert external.read_sets(tmp_path / "x", task).joins == {"forget": "rows.csv"}


def test_a_seed_that_two_rows_share_is_told_by_its_prompt_alone(tmp_path):
    (tmp_path / "mine.csv").write_text("prompt,sd_seed\na,7\nb,7\n")
    given = {"prompts.files.test": str(tmp_path / "mine.csv"), "n_forget": "2", "size": "64"}
    task = resolve_task("celeb_brad_pitt", "quick", given)
    folder = tmp_path / "x" / "forget"
    folder.mkdir(parents=True)
    for name, grey in (("p", 1), ("q", 2)):
        Image.new("RGB", (64, 64), (grey,) * 3).save(folder / f"{name}.png")
    (folder / "rows.csv").write_text("file,seed,prompt\nq.png,7,a\np.png,7,b\n")
    assert external.read_sets(tmp_path / "x", task).sets["forget"].images[:, 0, 0, 0].tolist() == [
        2,
        1,
    ]


TABLES = {
    "a prompt that is another": (lambda r: {**r, "prompt": "a four"}, "asks"),
    "a seed that is the row's not": (lambda r: {**r, "seed": "5"}, "has the seed"),
    "a row that is none": (lambda r: {**r, "row": "99"}, "names row 99"),
    "a negative row": (lambda r: {**r, "row": "-1"}, "names row -1"),
    "a row twice": (lambda r: {**r, "row": "1", "seed": "", "prompt": ""}, "are both row 1 of forget"),
    "no key": (lambda r: {**r, "row": "", "seed": ""}, "the seed nothing"),
    "a file that is none": (lambda r: {**r, "file": "nowhere.png"}, "is not in"),
    "a seed in floating point": (lambda r: {**r, "row": "", "seed": "5.1e18"}, "5.1e18, which no row"),
}  # fmt: skip


@pytest.mark.parametrize("case", TABLES)
def test_a_table_that_does_not_fit_is_refused(given, case):
    folder, files, rows = given
    change, words = TABLES[case]
    lines = [
        {**r, "file": files["forget", int(r["row"])].name} for r in rows if r["set"] == "forget"
    ]
    lines[0] = change(lines[0])
    with (folder / "forget" / "rows.csv").open("w", newline="") as out:
        writer = csv.DictWriter(out, ("file", "row", "seed", "prompt"), extrasaction="ignore")
        writer.writeheader()
        writer.writerows(lines)
    refused(folder, words)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name,prompt\n", "needs the columns `file` and `row` or `seed`; it has name, prompt"),
        ("file,row\na.png\n", "row 1 has 1 fields, the header 2"),
        ("file,row\na.png,1\na.png,2\n", "names a.png again"),
        ("", "is empty"),
        ("file,file,row\n", "two columns called file"),
    ],
)
def test_a_table_that_is_none_is_refused(given, text, words):
    folder, _, _ = given
    (folder / "forget" / "rows.csv").write_text(text)
    refused(folder, "rows.csv", words)


def test_a_strangers_own_metadata_is_left_alone(given):
    folder, _, _ = given
    (folder / "forget" / "metadata.csv").write_text("file_name,text\nx.png,a zero\n")
    read = external.read_sets(folder, resolved("mnist_0_t2i"))
    assert read.joins["forget"] == "seed in the name"


def test_a_further_line_of_a_table_is_refused(given):
    folder, files, _ = given
    lines = [f"{files['forget', i].name},{i}" for i in range(4)]
    (folder / "forget" / "rows.csv").write_text("\n".join(["file,row", *lines, "nowhere.png,0"]))
    refused(folder, "row 5 names nowhere.png, which is no image in")
