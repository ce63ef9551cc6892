"""`evaluate`: a stranger's images get the values they deserve, or one line that says what is wrong."""

import csv
import json
import math
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

import sa_bench
from sa_bench.analysis.ranking import make_boards
from sa_bench.contracts import SampleSet
from sa_bench.core import registry
from sa_bench.core.errors import MissingAsset, SaBenchError
from sa_bench.data import datasets, mnist
from sa_bench.data.sample_sets import load_samples
from sa_bench.engine import external, external_measure
from sa_bench.engine.cells import resolve_task
from sa_bench.models.vae import VAE
from sa_bench.results.files import read_results
from sa_bench.scoring import judges
from sa_bench.statistics import entropy

NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
METRICS = (
    "forget_top1,forget_probability,entropy,none_rate,surrogate_fidelity,retain_log_likelihood,"
    "retain_accuracy,kid,fid,precision,recall,retain_drift"
)
SETS = [
    "task.n_forget=20", "task.n_retain=10", "task.feature_images=10", "task.likelihood_images=1",
    f"task.metrics={METRICS}",
]  # fmt: skip
OF_SET = {
    "forget": {"forget_top1", "forget_probability", "entropy", "none_rate", "surrogate_fidelity"},
    "retain": {"retain_accuracy", "kid", "fid", "precision", "recall", "retain_drift"},
}
EACH = 3  # images a class
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def task():
    return resolve_task("mnist_0", "quick", {})


@pytest.fixture(scope="module")
def unmeasured(shared_store, tmp_path_factory):
    """A store with the data and no measurements: a kept value would hide a metric that changed."""
    mnist.load(shared_store / "data")
    root = tmp_path_factory.mktemp("store")
    (root / "data").symlink_to((shared_store / "data").resolve())
    return root


@pytest.fixture
def store(store_env, unmeasured, monkeypatch):
    monkeypatch.setenv("SA_BENCH_STORE", str(unmeasured))
    return unmeasured


@pytest.fixture
def digits(store):
    """The first real test images of each class, (10, EACH, 28, 28)."""
    test = datasets.load("mnist").test
    return np.stack([test.of(c).images[:EACH, ..., 0] for c in range(10)])


def write_folder(root, digits, suffix=".png", mode="L", name=str, **options):
    for c, images in enumerate(digits):
        folder = root / "forget" if c == 0 else root / "retain" / name(c)
        folder.mkdir(parents=True)
        for i, image in enumerate(images):
            Image.fromarray(image).convert(mode).save(folder / f"{i}{suffix}", **options)
    return root


@pytest.fixture
def folder(digits, tmp_path):
    return write_folder(tmp_path / "images", digits)


def npz(path, digits, **options):
    order = options.pop("order", slice(None))
    images, labels = digits.reshape(-1, 28, 28, 1), np.repeat(np.arange(10), digits.shape[1])
    np.savez(path, **{"arr_0": images[order], "labels": labels[order], **options})
    return path


def evaluate(path, **options):
    return sa_bench.evaluate(path, "mnist_0", scale="quick", sets=SETS, **options)


def values(result):
    """Everything measured, without what may differ from run to run."""
    return {m["name"]: {k: m[k] for k in ("value", "low", "high", "n", "judges", "extra", "reason")}
            for m in result["measurements"]}  # fmt: skip


def error_of(path, task):
    with pytest.raises(SaBenchError) as caught:
        external.read_sets(path, task)
    text = str(caught.value)
    assert "\n" not in text
    assert str(path) in text
    return text


def test_the_command_measures_a_folder_and_writes_strict_json(cli, store, folder, tmp_path):
    sets = [part for text in SETS for part in ("--set", text)]
    command = [
        "evaluate",
        str(folder),
        "--task",
        "mnist_0",
        "--scale",
        "quick",
        *sets,
        "--out",
        "o",
    ]
    shown = cli(*command, store=store, check=0).stdout
    for text in (
        "forget_top1",
        "n/a [1]",
        "[1] needs the model; only images were given",
        "note: fid[judge-mnist]: N=27 < 50 feature dimensions",
    ):
        assert text in shown

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    result = json.loads((tmp_path / "o" / "result.json").read_text(), parse_constant=refuse)
    assert result["method"] == "external"
    assert result["artifacts"]["counts"] == {"forget": EACH, "retain": 9 * EACH}
    found = {m["name"]: m for m in result["measurements"]}
    assert len(found) == 12
    for m in found.values():
        assert (m["value"] is None) == bool(m["reason"]), m["name"]
        assert m["base"] is not None or m["reason"], m["name"]
    assert found["forget_top1"]["value"] == 1.0  # real zeros
    assert found["retain_accuracy"]["value"] == 1.0
    assert found["forget_top1"]["n"] == EACH
    assert found["retain_log_likelihood"]["reason"] == "needs the model; only images were given"
    assert "seeds" in found["retain_drift"]["reason"]


@pytest.mark.process
@pytest.mark.parametrize("wrong", ["no such path", "no sets", "a class twice", "labels", "size"])
def test_a_wrong_layout_is_told_before_torch_is_loaded(folder, digits, tmp_path, wrong):
    path, why = folder, ""
    if wrong == "no such path":
        path, why = tmp_path / "nowhere", "There is no"
    elif wrong == "no sets":
        path, why = folder / "retain" / "1", "neither forget/ nor retain/"
    elif wrong == "a class twice":
        shutil.copytree(folder / "retain" / "1", folder / "retain" / "one")
        why = "are the same class"
    elif wrong == "size":
        Image.new("L", (512, 512)).save(folder / "forget" / "0.png")
        why = "is 512x512, but 28x28 is needed"
    else:
        path, why = tmp_path / "x.npz", "add an integer array `labels`"
        np.savez(path, digits.reshape(-1, 28, 28, 1))
    code = (
        "import sys\nfrom sa_bench.commands.app import main\n"
        "sys.argv = ['sa_bench', 'evaluate', sys.argv[1], '--task', 'mnist_0', '--scale', 'quick']\n"
        "try: main()\nexcept SystemExit as stop: code = stop.code\n"
        "assert not {'torch', 'diffusers', 'pandas'} & set(sys.modules)\nsys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert why in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_name_is_what_the_line_is_called(folder, tmp_path):
    rows = [evaluate(folder, name=name, out=tmp_path / name) for name in ("mine", "his")]
    assert [row["label"] for row in rows] == ["mine", "his"]
    assert "label" not in evaluate(folder)
    (board,) = make_boards(read_results([tmp_path / "mine", tmp_path / "his"]))
    assert {line.label for line in board.lines} == {"mine", "his"}
    with pytest.raises(SaBenchError, match="holds another result"):
        evaluate(folder, out=tmp_path / "mine")


@pytest.mark.parametrize("name", ["x" * 61, "a\nb", " a", "\x1b[1m"])
def test_a_name_that_cannot_stand_in_a_table_is_refused(folder, name):
    with pytest.raises(SaBenchError, match="printable characters"):
        evaluate(folder, name=name)


@pytest.mark.parametrize("form", ["folder", "npz"])
def test_the_scores_of_each_image_name_it(digits, folder, tmp_path, form):
    order = np.random.default_rng(0).permutation(10 * EACH)
    path = folder if form == "folder" else npz(tmp_path / "x.npz", digits, order=order)
    result = evaluate(path, scores=tmp_path / "s.csv", out=tmp_path / "o")
    rows = list(csv.DictReader((tmp_path / "s.csv").open()))
    task = resolve_task("mnist_0", "quick", {})
    assert len(rows) == 10 * EACH * len(task.judges)
    assert {row["judge"] for row in rows} == set(task.judges)
    for row in rows:
        assert 1 / 10 <= float(row["probability"]) <= 1
        if form == "folder":
            assert (folder / row["image"]).is_file()
            c = row["image"].split("/")[-2]
        else:
            c = str(np.repeat(np.arange(10), EACH)[order][int(row["image"])])
        assert row["asked for"] == task.classes[0 if c == "forget" else int(c)]
    assert np.mean([row["class"] == row["asked for"] for row in rows]) > 0.95  # real digits
    seen = [row["class"] == "zero" for row in rows if row["set"] == "forget"]
    assert values(result)["forget_top1"]["value"] == pytest.approx(np.mean(seen))
    assert (tmp_path / "o" / "scores" / "forget_top1.parquet").is_file()
    with pytest.raises(SaBenchError, match=r"ends in \.csv"):
        evaluate(path, scores=tmp_path / "s.xlsx")


@pytest.mark.parametrize("form", ["file", "folder"])
def test_weights_go_the_way_of_the_method_checkpoint(cli, tmp_path, monkeypatch, form):
    given = []
    monkeypatch.setattr(
        "sa_bench.engine.cells.resolve", lambda *words, **named: given.append(words) or [None]
    )
    monkeypatch.setattr("sa_bench.api.run_folder", lambda cells, **options: ([], "", ""))
    path = tmp_path / "m" / "model.safetensors"
    path.parent.mkdir()
    path.write_bytes(b"")
    path = path if form == "file" else path.parent
    cli("evaluate", path, "--task", "mnist_0", check=0)
    ((tasks, methods, _, _, _, sets, *_),) = given
    assert (tasks, methods) == (["mnist_0"], ["checkpoint"])
    assert sets == [f"checkpoint.path={path}"]
    assert "--name" in cli("evaluate", path, "--task", "mnist_0", "--name", "x", check=2).stderr


def test_a_folder_and_an_npz_of_the_same_images_measure_the_same(digits, folder, tmp_path):
    by_folder = evaluate(folder)
    order = np.random.default_rng(0).permutation(digits[..., 0, 0].size)
    by_npz = evaluate(npz(tmp_path / "x.npz", digits))
    assert values(by_folder) == values(by_npz)
    assert by_folder["artifacts"]["images"] == by_npz["artifacts"]["images"]
    shuffled, *_ = external.read_sets(
        npz(tmp_path / "y.npz", digits, order=order), resolve_task("mnist_0", "quick", {})
    )
    assert shuffled["retain"].labels.tolist() == sorted(shuffled["retain"].labels.tolist())


def test_changing_an_image_in_place_changes_the_values(folder):
    """A cache keyed by the path would answer with the old ones."""
    before = evaluate(folder)
    for path in (folder / "forget").iterdir():
        Image.new("L", (28, 28), 0).save(path)
    after = evaluate(folder)
    assert values(before)["forget_top1"]["value"] == 1.0
    assert values(after)["forget_top1"]["value"] == 0.0
    assert before["artifacts"]["images"]["forget"] != after["artifacts"]["images"]["forget"]


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "P"])
def test_grey_images_are_the_same_in_whatever_mode_they_were_saved(
    digits, folder, tmp_path, task, mode
):
    grey, *_ = external.read_sets(folder, task)
    other, *_ = external.read_sets(write_folder(tmp_path / "other", digits, mode=mode), task)
    for name in ("forget", "retain"):
        assert np.array_equal(grey[name].images, other[name].images)


def test_lossy_input_is_noted_and_reencoding_without_loss_is_not(digits, folder, tmp_path):
    again = evaluate(write_folder(tmp_path / "again", digits, compress_level=1))
    jpeg = evaluate(write_folder(tmp_path / "jpeg", digits, suffix=".jpg", quality=75))
    first = evaluate(folder)
    assert values(first) == values(again)
    assert values(first)["fid[judge-mnist]"]["value"] != values(jpeg)["fid[judge-mnist]"]["value"]
    assert f"lossy input: {10 * EACH} of the files" in " ".join(jpeg["flags"])
    assert "lossy" not in " ".join(first["flags"])


def by_name(c):
    return NAMES[c]


def by_shouted_name(c):
    return NAMES[c].upper()


def zero_padded(c):
    return f"{c:02d}"


@pytest.mark.parametrize("name", [by_name, by_shouted_name, zero_padded])
def test_class_folders_may_be_called_by_number_or_name_with_the_same_values(
    digits, folder, tmp_path, task, name
):
    """Alphabetically eight comes first, so the intervals would differ if the folders' order counted."""
    numbered, *_ = external.read_sets(folder, task)
    named, *_ = external.read_sets(write_folder(tmp_path / "named", digits, name=name), task)
    assert np.array_equal(numbered["retain"].images, named["retain"].images)
    assert np.array_equal(numbered["retain"].labels, named["retain"].labels)
    if name is by_name:
        assert values(evaluate(folder)) == values(evaluate(tmp_path / "named"))


def remove(*names):
    def change(root):
        for name in names:
            shutil.rmtree(root / name)

    return change


def empty(name):
    def change(root):
        for path in (root / name).iterdir():
            path.unlink()

    return change


def copy(source, target):
    def change(root):
        (root / target).parent.mkdir(exist_ok=True)
        (shutil.copytree if (root / source).is_dir() else shutil.copy)(root / source, root / target)

    return change


def move(source, target):
    return lambda root: (root / source).rename(root / target)


def file(name):
    def change(root):
        (root / name).unlink() if (root / name).is_file() else shutil.rmtree(root / name)
        (root / name).write_text("x")

    return change


def nested(root):
    (root / "forget").rename(root / "zero")
    (root / "forget").mkdir()
    (root / "zero").rename(root / "forget" / "zero")


WRONG_FOLDERS = {
    "neither set": (remove("forget", "retain"), "neither forget/ nor retain/"),
    "forget/ empty": (empty("forget"), "forget holds no images"),
    "forget/ with images one level too deep": (nested, "forget holds no images"),
    "forget is a file": (file("forget"), "forget is a file"),
    "retain is a file": (file("retain"), "retain is a file"),
    "retain/ without classes": (remove(*(f"retain/{c}" for c in range(1, 10))), "retain has no class folders"),
    "one class lacks": (remove("retain/7"), "no images of the retained classes seven"),
    "two classes lack": (remove("retain/7", "retain/2"), "two, seven"),
    "one class empty": (empty("retain/7"), "7 holds no images"),
    "unknown class by number": (copy("retain/1", "retain/10"), "no class '10'. Available: 0 zero, 1 one"),
    "unknown class by name": (copy("retain/1", "retain/cat"), "no class 'cat'"),
    "a negative class": (copy("retain/1", "retain/-1"), "no class '-1'"),
    "the concept by number": (copy("forget", "retain/0"), "zero is the concept; put it into forget/"),
    "the concept by name": (copy("forget", "retain/Zero"), "zero is the concept; put it into forget/"),
    "a class twice": (copy("retain/1", "retain/one"), "are the same class"),
    "an image outside its class": (copy("retain/1/0.png", "retain/0.png"), "is in no class folder"),
    "one number twice": (copy("forget/1.png", "forget/0001.png"), "have the same number"),
    "an unreadable image": (file("retain/4/1.png"), "4/1.png cannot be read as an image"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG_FOLDERS)
def test_a_wrong_folder_is_named_with_what_is_wrong(folder, task, case):
    change, why = WRONG_FOLDERS[case]
    change(folder)
    assert why in error_of(folder, task)


def test_another_size_names_the_file_and_both_sizes(folder, task):
    Image.new("L", (512, 600)).save(folder / "retain" / "5" / "1.png")
    text = error_of(folder, task)
    assert "retain/5/1.png is 512x600, but 28x28 is needed" in text


def test_what_is_transparent_is_said_to_count_as_white(digits, folder):
    assert not any("transparent" in flag for flag in evaluate(folder)["flags"])
    for i, image in enumerate(digits[0]):
        ink = Image.fromarray(np.zeros_like(image))
        Image.merge("LA", (ink, Image.fromarray(image))).save(folder / "forget" / f"{i}.png")
    flags = evaluate(folder)["flags"]
    assert any(f.startswith(f"transparent input: {EACH} of the files") for f in flags)


@pytest.mark.parametrize("name", ["x.npy", "x.zip"])
def test_a_path_that_is_neither_says_what_would_be(tmp_path, task, name):
    (tmp_path / name).write_text("x")
    assert "neither a folder with forget/ and retain/<class>/ nor an .npz" in error_of(
        tmp_path / name, task
    )


@pytest.mark.parametrize("lost", ["forget", "retain"])
@pytest.mark.parametrize("form", ["folder", "npz"])
def test_what_needs_a_set_that_was_not_given_is_not_available_and_the_rest_is_measured(
    digits, folder, tmp_path, lost, form
):
    path, whole = folder, values(evaluate(folder))
    if form == "folder":
        shutil.rmtree(folder / lost)
    else:
        labels = np.repeat(np.arange(10), EACH)
        path = npz(
            tmp_path / "x.npz", digits, order=np.flatnonzero((labels == 0) == (lost == "retain"))
        )
    result = evaluate(path)
    kept = OF_SET["retain" if lost == "forget" else "forget"]
    for m in result["measurements"]:
        name = m["name"].partition("[")[0]
        if name in kept:
            assert m["value"] == whole[m["name"]]["value"]
            continue
        assert m["value"] is None
        assert m["low"] is None
        if name in OF_SET[lost]:
            assert m["reason"] == f"needs the images of {lost}/"
        else:
            assert "needs the model" in m["reason"]
    assert lost not in result["artifacts"]["counts"]


@pytest.mark.parametrize("label", [-1, 10, 255, -(2**40)])
def test_a_label_out_of_range_names_row_and_value(digits, tmp_path, task, label):
    labels = np.repeat(np.arange(10), EACH)
    labels[4] = label
    text = error_of(npz(tmp_path / "x.npz", digits, labels=labels), task)
    assert f"the label of image 4, {label}, is outside 0..9" in text


def test_an_npz_without_labels_or_without_a_class_says_so(digits, tmp_path, task):
    np.savez(tmp_path / "x.npz", digits.reshape(-1, 28, 28, 1))
    assert "add an integer array `labels`" in error_of(tmp_path / "x.npz", task)
    some = np.flatnonzero(np.repeat(np.arange(10), EACH) != 3)
    assert "retained classes three" in error_of(npz(tmp_path / "y.npz", digits, order=some), task)


def test_what_was_not_used_is_noted_and_what_is_hidden_is_not(folder, tmp_path):
    (folder / "forget" / "notes.txt").write_text("x")
    (folder / "retain" / "3" / "old").mkdir()
    shutil.copy(folder / "retain" / "3" / "0.png", folder / "retain" / "3" / "old" / "0.png")
    (folder / "retian").mkdir()
    for hidden in ("forget/.DS_Store", "forget/._0.png", ".cache", "retain/.DS_Store"):
        (folder / hidden).write_text("x")
    (folder / "retain" / ".ipynb_checkpoints").mkdir()
    (folder / "retain" / ".ipynb_checkpoints" / "0.png").write_text("x")
    result = evaluate(folder, out=folder / "out")
    assert "not used: 'forget/notes.txt', 'retain/3/old/0.png', 'retian'" in result["flags"]
    assert result["artifacts"]["counts"] == {"forget": EACH, "retain": 9 * EACH}
    again = evaluate(folder, out=folder / "out")
    assert again["flags"] == result["flags"]  # the result itself is no stray


@pytest.mark.parametrize("value", [0, 128, 255])
def test_blank_images_are_measured_and_pointed_out(store, tmp_path, value):
    """A model that draws nothing has not forgotten: its score must not pass without a remark."""
    result = evaluate(write_folder(tmp_path / "x", np.full((10, EACH, 28, 28), value, np.uint8)))
    assert (
        f"forget: {EACH}/{EACH} images are blank (one value everywhere); a set of blank images is invalid"
        in result["flags"]
    )
    found = values(result)
    assert found["none_rate"]["value"] == 1.0
    assert found["recall[judge-mnist]"]["value"] == 0.0
    for name in (
        "fid[judge-mnist]",
        "kid[judge-mnist]",
        "entropy",
        "forget_probability",
        "precision[judge-mnist]",
    ):
        assert math.isfinite(found[name]["value"])
        assert found[name]["low"] <= found[name]["value"] <= found[name]["high"]
    assert found["fid[judge-mnist]"]["value"] > 100


@pytest.mark.parametrize("each", [1, 2])
def test_too_few_images_give_a_finite_number_with_a_warning_or_a_reason(digits, tmp_path, each):
    result = evaluate(write_folder(tmp_path / "x", digits[:, :each]))
    n = 9 * each
    for name, m in values(result).items():
        if m["value"] is None:
            assert m["reason"], name
        else:
            assert math.isfinite(m["value"]), name
            assert m["n"] > 0, name
    assert f"fid[judge-mnist]: N={n} < 50 feature dimensions: biased upward" in result["flags"]
    assert (
        f"retain: {n} images, but 90 behind the base's values: fid and recall depend on N"
        in result["flags"]
    )


def test_the_fid_warning_counts_the_smaller_side(digits, tmp_path):
    """Enough images given, too few real ones asked for: the number in the warning is the latter."""
    sets = [t for t in SETS if "feature_images" not in t and "metrics" not in t]
    path = write_folder(tmp_path / "x", np.concatenate([digits, digits], 1))
    result = sa_bench.evaluate(
        path, "mnist_0", scale="quick", sets=[*sets, "task.feature_images=2", "task.metrics=fid"]
    )
    assert "fid[judge-mnist]: N=18 < 50 feature dimensions: biased upward" in result["flags"]


def test_a_local_version_of_the_data_is_told(folder, monkeypatch):
    monkeypatch.setattr(datasets, "data_remark", lambda name: f"data: not the published {name}")
    assert "data: not the published mnist" in evaluate(folder)["flags"]


def test_without_the_data_set_what_needs_it_says_so_and_the_rest_is_measured(
    folder, tmp_path, monkeypatch
):
    def gone(*_):
        raise MissingAsset("MNIST cannot be had")

    datasets.load.cache_clear()
    monkeypatch.setattr(mnist, "load", gone)
    monkeypatch.setenv("SA_BENCH_STORE", str(tmp_path / "cold"))
    found = values(evaluate(folder))
    assert found["forget_top1"]["value"] == 1.0
    for name in (
        "fid[judge-mnist]",
        "kid[judge-mnist]",
        "precision[judge-mnist]",
        "recall[judge-mnist]",
    ):
        assert found[name]["value"] is None
        assert found[name]["reason"] == "MNIST cannot be had"


@pytest.mark.parametrize(
    "there", ["a file", "a file above", "another result", "a run's cell", "no result at all"]
)
def test_an_out_that_cannot_take_the_result_is_refused_before_any_work(
    folder, tmp_path, monkeypatch, there
):
    out = tmp_path / "o" / "p" if there == "a file above" else tmp_path / "o"
    if there.startswith("a file"):
        (tmp_path / "o").write_text("x")
        why = "is a file; give a folder"
    else:
        out.mkdir()
        text = {
            "another result": '{"method": "external", "task": "mnist_1"}',
            "a run's cell": '{"method": "sa"}',
        }
        (out / "result.json").write_text(text.get(there, "[]"))
        why = "holds another result. Choose another out"
    before = {p: p.read_text() for p in tmp_path.glob("o/*")}
    monkeypatch.setattr(external_measure, "measure_all", None)
    with pytest.raises(SaBenchError, match=why):
        evaluate(folder, out=out)
    assert {p: p.read_text() for p in tmp_path.glob("o/*")} == before


@pytest.mark.parametrize("name", ["r.json", "R.JSON", "results.parquet"])
def test_an_out_that_looks_like_a_file_is_refused_before_any_work(
    folder, tmp_path, monkeypatch, name
):
    monkeypatch.setattr(external_measure, "measure_all", None)
    with pytest.raises(
        SaBenchError, match=r"looks like a file; give a folder, result\.json is written into it"
    ):
        evaluate(folder, out=tmp_path / name)
    assert not (tmp_path / name).exists()


def test_an_out_with_a_dot_in_its_name_is_a_folder_like_any(folder, tmp_path):
    evaluate(folder, out=tmp_path / "model-v1.5")
    assert (tmp_path / "model-v1.5" / "result.json").is_file()


def test_two_folders_evaluated_into_one_out_do_not_overwrite_each_other(digits, folder, tmp_path):
    out = tmp_path / "o"
    evaluate(folder, out=out)
    evaluate(folder, out=out)  # the same question may be asked again
    other = write_folder(tmp_path / "other", digits)
    with pytest.raises(SaBenchError, match="holds another result"):
        evaluate(other, out=out)
    assert json.loads((out / "result.json").read_text())["fields"]["images"] == str(folder)


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda root: (root / "forget").mkdir(), "forget holds no images"),
        (
            lambda root: np.savez(root / "x.npz", images=np.zeros(3)),
            "no array arr_0 (found: images)",
        ),
    ],
    ids=["folder", "npz"],
)
def test_a_persons_mistake_is_one_line_and_exit_2(cli, tmp_path, make, why):
    root = tmp_path / "images"
    root.mkdir()
    make(root)
    path = next(root.glob("*.npz"), root)
    done = cli("evaluate", str(path), "--task", "mnist_0", "--scale", "quick")
    assert done.returncode == 2
    assert done.stdout == ""
    assert len(done.stderr.strip().splitlines()) == 1
    assert why in done.stderr


FLOATS = {
    "0..1": lambda x: x / np.float32(255),
    "-1..1": lambda x: x / np.float32(127.5) - 1,
    "0..255": lambda x: x.astype(np.float64),
    "int64": lambda x: x.astype(np.int64),
    "bool": lambda x: x > 128,
}


@pytest.mark.parametrize("form", FLOATS)
def test_images_of_another_type_are_refused_by_model_and_judges(form):
    """Cast to uint8, floats in 0..1 would be black pictures that score without complaint."""
    x = FLOATS[form](np.random.default_rng(0).integers(0, 256, (2, 28, 28, 1), dtype=np.uint8))
    with pytest.raises(SaBenchError, match="uint8 images"):
        VAE().encode(x)
    for name in ("mnist-cnn-0", "mnist-knn"):
        with pytest.raises(SaBenchError, match="uint8 images"):
            judges.load(name).probabilities(x)
    with pytest.raises(SaBenchError, match="uint8 images"):
        judges.load("mnist-cnn-0").features(x)


class Stub:
    """A judge with the logits it is given."""

    def __init__(self, logits):
        self.logits, self.card = logits, {"grey": {"entropy": 0.0, "probability": [0.1] * 10}}

    def probabilities(self, images):
        return torch.tensor(self.logits, dtype=torch.float64).softmax(1).numpy()


def measured(name, *logits):
    n = len(logits)
    images = SampleSet(np.zeros((n, 28, 28, 1), np.uint8), np.zeros(n, np.int64), np.arange(n))
    task = SimpleNamespace(classes=NAMES, concept=0)
    view = SimpleNamespace(samples={"forget": images}, judges={"stub": Stub(logits)}, task=task)
    return registry.get_metric(name).measure(view)


SURE, UNSURE, BROKEN = [1000.0] + [0.0] * 9, [7.0] * 10, [math.nan] + [0.0] * 9


def test_a_certain_judge_has_no_entropy_and_an_undecided_one_ln_10():
    assert measured("entropy", SURE, SURE).value == 0.0
    assert measured("entropy", UNSURE).value == pytest.approx(math.log(10))
    assert measured("entropy", SURE, UNSURE).value == pytest.approx(math.log(10) / 2)
    assert measured("forget_probability", SURE, UNSURE).value == pytest.approx(0.55)
    assert np.array_equal(entropy(np.eye(3)), np.zeros(3))


@pytest.mark.parametrize("name", ["entropy", "forget_probability"])
def test_one_broken_score_is_flagged_and_not_averaged(name):
    result = measured(name, SURE, BROKEN, UNSURE)
    assert result.value is None
    assert result.reason == "1 of 3 scores are not finite"


@pytest.mark.parametrize("name", ["mnist_0", "mnist_0_ddpm"])
def test_the_images_of_a_run_join_its_board_with_the_same_numbers(store_env, tmp_path, name):
    """Whoever wrote the task's values, `run` or `evaluate`: equal values make one board."""
    sets = ["task.n_forget=4", "task.n_retain=2", "task.metrics=forget_top1,retain_accuracy"]
    run = tmp_path / "run"
    sa_bench.run(name, "relabel", scale="quick", sets=sets, out=run)
    (row,) = read_results([run])
    (cell,) = run.glob("*/result.json")
    for kind in ("forget", "retain"):
        drawn = load_samples(cell.parent / f"{kind}.safetensors")
        for i, (image, label) in enumerate(zip(drawn.images, drawn.labels, strict=True)):
            folder = tmp_path / "images" / (f"retain/{label}" if kind == "retain" else "forget")
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image[..., 0]).save(folder / f"{i:03d}.png")
    given = sa_bench.evaluate(
        tmp_path / "images", name, scale="quick", sets=sets, out=tmp_path / "evaluated"
    )
    (board,) = make_boards(read_results([run, tmp_path / "evaluated"]))
    assert {line.method for line in board.lines} == {"relabel", "external"}
    assert [m["value"] for m in given["measurements"]] == [m["value"] for m in row["measurements"]]
