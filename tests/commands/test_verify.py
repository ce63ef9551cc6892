"""Bundles: packed, checked by somebody else, forged in every way that comes to mind, merged into a leaderboard."""

import hashlib
import io
import json
import shutil
import zipfile
from dataclasses import asdict
from functools import lru_cache

import numpy as np
import pandas as pd
import pytest
from result_rows import ORIGINAL, RETRAIN, line, one, result_row
from safetensors.numpy import load, save, save_file

import sa_bench
from sa_bench import api
from sa_bench.commands.verify import tolerance
from sa_bench.commands.verify.verify import UNPROVED, verify
from sa_bench.core import registry
from sa_bench.core.errors import SaBenchError
from sa_bench.core.store import file_digest
from sa_bench.data.assets.shipped import WEIGHTS
from sa_bench.results.bundles import (
    BUNDLED,
    Differs,
    find_source,
    manifest_facts,
    open_bundle,
    set_hash,
    write,
)
from sa_bench.results.files import pack_results, read_results, unpack_results
from sa_bench.results.sealing import add_seal
from sa_bench.scoring import judges
from sa_bench.statistics import bounded_mean, clustered, mean, rate

METRICS = "forget_top1,entropy,retain_drift,retain_log_likelihood"
SMALL = [
    "task.n_forget=12",
    "task.n_retain=3",
    "task.likelihood_images=2",
    f"task.metrics={METRICS}",
]


@pytest.fixture(scope="module")
def made(shared_store, tmp_path_factory):
    """A run of one tiny cell, and its bundle with the weights."""
    folder = tmp_path_factory.mktemp("bundle")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SA_BENCH_STORE", str(shared_store))
        patch.delenv("SA_BENCH_DATA", raising=False)
        sa_bench.run("mnist_0", "relabel", scale="quick", sets=SMALL, out=folder / "run")
    file = folder / f"ada{BUNDLED}"
    write(read_results([folder / "run"]), file, "Ada", models=True)
    return folder / "run", file


@pytest.fixture
def here(store_env, monkeypatch):
    """The machine of the one who checks: an own store beside the shared one's data, judges loaded once."""
    monkeypatch.setattr(judges, "load", _load)


_load = lru_cache(judges.load)


class Forger:
    """Changes members of a bundle and makes every hash again that can be made again without the weights."""

    def __init__(self, file):
        with zipfile.ZipFile(file) as archive:
            self.members = {n: archive.read(n) for n in archive.namelist()}
        self.manifest = json.loads(self.members.pop("manifest.json"))
        (self.cell,) = self.manifest["cells"]

    @property
    def row(self):
        return json.loads(self.members[f"{self.cell}/result.json"])

    @row.setter
    def row(self, row):
        self.members[f"{self.cell}/result.json"] = json.dumps(row).encode()

    def seal(self):
        kept = (
            n
            for n in self.members
            if n.startswith(self.cell) and n.endswith((".safetensors", ".parquet"))
        )
        names = [n.partition("/")[2] for n in kept]
        row = self.row
        hashes = {n: hashlib.sha256(self.members[f"{self.cell}/{n}"]).hexdigest() for n in names}
        row["files"] = {n: hashes.get(n, h) for n, h in row["files"].items()} | hashes
        self.row = add_seal(row)

    def edit(self, change):
        row = self.row
        change(row)
        self.row = row

    def measurement(self, name, **changes):
        self.edit(
            lambda row: next(m for m in row["measurements"] if m["name"] == name).update(changes)
        )

    def scores(self, name, change):
        key = f"{self.cell}/scores/{name}.parquet"
        frame = pd.read_parquet(io.BytesIO(self.members[key]))
        change(frame)
        out = io.BytesIO()
        frame.to_parquet(out, index=False)
        self.members[key] = out.getvalue()
        return frame

    def images(self, name, change):
        key = f"{self.cell}/{name}.safetensors"
        self.members[key] = save(change(load(self.members[key])))
        if not name.endswith("-base"):
            sha256 = hashlib.sha256(self.members[key]).hexdigest()
            self.edit(
                lambda row: row["artifacts"]["samples"].update({name: set_hash(name, sha256)})
            )

    def write(self, file, hashes=True, **manifest):
        if hashes:
            self.seal()
            listed = {
                n: {"sha256": hashlib.sha256(v).hexdigest(), "bytes": len(v)}
                for n, v in self.members.items()
            }
            self.manifest |= {"members": listed, **manifest_facts([self.row])}
        self.manifest |= manifest
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("manifest.json", json.dumps(self.manifest))
            for name, raw in self.members.items():
                archive.writestr(name, raw)
        return file


def difference(file, **options):
    with pytest.raises(Differs) as caught:
        verify(file, **options)
    assert caught.value.exit_code == 1
    return str(caught.value).partition(f"{file}: ")[2]


def test_an_honest_bundle_is_found_to_be_so_and_what_is_not_proved_is_said(made, here, tmp_path):
    run, file = made
    text = "\n".join(verify(file, regenerate=4))
    assert "by Ada [" in text
    assert "cells: 1, 1 of them" in text
    assert "fingerprints: 4 equal" in text
    assert "intervals: 4 made again" in text
    assert "metrics: 3 recomputed from the images, 3 values of base models" in text
    assert "images: 16 made again from the weights, the largest difference" in text
    assert "not checked: retain_log_likelihood: needs the model: --deep" in text
    assert UNPROVED in text
    again = tmp_path / file.name
    write(read_results([run]), again, "Ada", models=True)
    assert again.read_bytes() == file.read_bytes()
    assert "metrics: 4 recomputed" in "\n".join(verify(file, regenerate=0, deep=True))


def test_paraphrases_are_judged_again_from_their_images(shared_store, here, tmp_path):
    sets = [
        "task.n_forget=2",
        "task.n_retain=1",
        "task.family_images=2",
        "task.sampler.steps=4",
        "task.metrics=forget_top1,paraphrase_rate",
    ]
    sa_bench.run("mnist_0_t2i", "prompt_filter", scale="quick", sets=sets, out=tmp_path / "run")
    file = tmp_path / f"ada{BUNDLED}"
    write(read_results([tmp_path / "run"]), file, "Ada", models=True)
    text = "\n".join(verify(file, regenerate=1))
    assert "metrics: 2 recomputed from the images, 2 values of base models" in text
    assert "images: 6 made again from the weights" in text
    forger = Forger(file)
    forger.images("families", lambda kept: kept | {"images": kept["images"][::-1].copy()})
    assert "paraphrase_rate: value" in difference(
        forger.write(tmp_path / f"forged{BUNDLED}"), regenerate=0
    )


def a_score(f):
    f.scores("forget_top1", lambda frame: frame.__setitem__("score", 1.0 - frame["score"]))


def scores_and_what_follows(f):
    frame = f.scores(
        "forget_top1", lambda frame: frame.__setitem__("score", (frame.index < 6).astype(float))
    )
    found = rate(frame["score"].to_numpy(), {})
    f.measurement("forget_top1", value=found.value, low=found.low, high=found.high)


def likelihoods(f):
    frame = f.scores(
        "retain_log_likelihood", lambda frame: frame.__setitem__("score", frame["score"] + 20.0)
    )
    found = mean(frame["score"].to_numpy(), {})
    f.measurement("retain_log_likelihood", value=found.value, low=found.low, high=found.high)


def no_scores(f):
    del f.members[f"{f.cell}/scores/entropy.parquet"]


def an_image(f):
    f.images(
        "retain", lambda s: {**s, "images": np.concatenate([s["images"][:1] * 0, s["images"][1:]])}
    )


def a_lost_image(f):
    f.images("forget", lambda s: {k: v[:-1] for k, v in s.items()})


def lost_images(f):
    del f.members[f"{f.cell}/retain.safetensors"]


def other_weights(f):
    f.members[f"{f.cell}/model.safetensors"] = (
        WEIGHTS / "base-vae-mnist-cosine-0.safetensors"
    ).read_bytes()


def other_weights_and_their_hash(f):
    other_weights(f)
    f.edit(lambda row: row["artifacts"].update(model=row["artifacts"]["base"]))


def a_lost_metric(f):
    f.edit(
        lambda row: (row["measurements"].pop(1), row["task_values"]["metrics"].remove("entropy"))
    )


FORGERIES = {
    a_score: "forget_top1: value: the bundle says 0.0; its scores give: 1.0",
    scores_and_what_follows: "forget_top1: value: the bundle says 0.5; recomputed: 0.0",
    no_scores: "entropy: its scores are missing",
    an_image: "retain_drift: value: the bundle says ",
    a_lost_image: "forget.safetensors: number of images: the bundle says 11; the task asks for: 12",
    lost_images: "retain.safetensors: these images are missing",
    other_weights: "model: the bundle says ",
    other_weights_and_their_hash: "forget: image ",
    a_lost_metric: "task_values.metrics: the bundle lacks entropy",
    lambda f: f.measurement("forget_top1", value=0.25): "forget_top1: value: the bundle says 0.25; its scores give",
    lambda f: f.measurement("entropy", high=0.1): "entropy: high: the bundle says 0.1; its scores give",
    lambda f: f.measurement("retain_drift", base=3.0): "retain_drift: base: the bundle says 3.0; recomputed: 0.0",
    lambda f: f.measurement("entropy", reason="shy", value=None): "entropy: value: the bundle says null; recomputed",
    lambda f: f.measurement("forget_top1", better="higher"): "forget_top1: better: the bundle says",
    lambda f: f.measurement("forget_top1", fingerprint={"metric": "forget_top1", "version": 3}):
        "forget_top1: fingerprint.version: the bundle says 3, the metric has version 4 here. Only the code that measured it",
    lambda f: f.measurement("entropy", extra={"warning": "collapse"}): "entropy: flags: the bundle says []",
    lambda f: f.edit(lambda r: r["flags"].append("entropy: collapse")): "entropy: flags: the bundle says",
    lambda f: f.edit(lambda r: r.update(seed=1)): "cell: the bundle says",
    lambda f: f.edit(lambda r: r["provenance"].update(cell_command="python -m sa_bench list")): "cell_command: the",
    lambda f: f.edit(lambda r: r["task_values"].update(n_forget=11)): "task_values.n_forget: the bundle says 11",
    lambda f: f.edit(lambda r: r["artifacts"].update(base="0" * 64)): "base model: the bundle says",
}  # fmt: skip


@pytest.mark.parametrize("forge", FORGERIES, ids=lambda forge: FORGERIES[forge][:40])
def test_a_forgery_is_named_though_every_hash_was_made_again(forge, made, here, tmp_path):
    forger = Forger(made[1])
    forge(forger)
    file = forger.write(tmp_path / f"eve{BUNDLED}")
    found = difference(file, regenerate=12)
    assert found.startswith(f"{forger.cell}: ")
    assert FORGERIES[forge] in found
    assert "\n" not in found


def test_images_in_another_order_have_other_seeds(made, here, tmp_path):
    forger = Forger(made[1])
    for name in ("retain", "retain-base"):  # no metric here sees it
        forger.images(name, lambda s: {**s, "images": s["images"][[1, 0, *range(2, 27)]]})
    file = forger.write(tmp_path / f"eve{BUNDLED}")
    assert "is not what the base model generates from it" in difference(file, regenerate=27)
    forger.images("forget", lambda s: {**s, "seeds": s["seeds"][::-1].copy()})
    assert "forget.safetensors: seeds.0: the bundle says" in difference(
        forger.write(file), regenerate=12
    )


def test_what_only_the_model_tells_needs_the_weights(made, here, tmp_path):
    forger = Forger(made[1])
    likelihoods(forger)
    file = forger.write(tmp_path / f"eve{BUNDLED}")
    assert "retain_log_likelihood: needs the model" in "\n".join(verify(file, regenerate=0))
    assert "retain_log_likelihood: value" in difference(file, regenerate=0, deep=True)


def test_another_machine_may_round_otherwise_and_no_more_than_that(made, here, tmp_path):
    forger = Forger(made[1])
    forger.edit(lambda row: row["provenance"]["versions"].update(torch="9.9"))
    value = next(m["value"] for m in forger.row["measurements"] if m["name"] == "entropy")
    file = tmp_path / f"far{BUNDLED}"
    for factor, fits in ((1.0, True), (1.0005, True), (3.0, False)):
        frame = forger.scores("entropy", lambda f, k=factor: f.__setitem__("score", f["score"] * k))
        found = bounded_mean(frame["score"].to_numpy(), {}, float(np.log(10)))
        forger.measurement("entropy", value=found.value, low=found.low, high=found.high)
        forger.write(file)
        if fits:
            assert "metrics: 3 recomputed" in "\n".join(verify(file, regenerate=0))
        else:
            assert f"entropy: value: the bundle says {found.value}" in difference(
                file, regenerate=0
            )
    assert found.value > 2 * value


@pytest.mark.parametrize(("change", "expected"), [
    (lambda f: f.members.update({f"{f.cell}/result.json": b"{}"}), "result.json was changed: its sha256 is"),
    (lambda f: f.members.pop(f"{f.cell}/forget.safetensors"), "forget.safetensors is missing; manifest.json lists"),
    (lambda f: f.members.update({f"{f.cell}/more.json": b"{}"}), "more.json is in the archive, but manifest.json"),
])  # fmt: skip
def test_an_archive_that_is_not_what_its_manifest_lists_is_named(
    change, expected, made, here, tmp_path
):
    forger = Forger(made[1])
    change(forger)
    assert expected in difference(forger.write(tmp_path / f"x{BUNDLED}", hashes=False))


def test_files_that_are_no_bundle_are_refused_in_one_line(made, here, tmp_path):
    file = tmp_path / f"x{BUNDLED}"
    with pytest.raises(SaBenchError, match="There is no bundle"):
        open_bundle(file)
    for raw in (made[1].read_bytes()[:-200], b"<!doctype html><html>", b""):
        file.write_bytes(raw)
        with pytest.raises(SaBenchError, match="is no bundle, or one cut short"):
            open_bundle(file)
    raw = bytearray(made[1].read_bytes())
    raw[len(raw) // 2] ^= 255
    file.write_bytes(raw)
    with pytest.raises(SaBenchError, match=r"damaged|was changed"):
        open_bundle(file)
    with pytest.raises(SaBenchError, match=r"would unpack to .* GB, more than 0.001"):
        open_bundle(made[1], 0.001)
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a.json", "{}")
    with pytest.raises(SaBenchError, match="which no bundle has"):
        open_bundle(file)
    for manifest in (
        "[]",
        '{"bundle": "x"}',
        '{"bundle": 1, "by": 3}',
        '{"bundle": 1, "by": "", "members": []}',
    ):
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("manifest.json", manifest)
        with pytest.raises(SaBenchError, match="damaged bundle, or no bundle"):
            open_bundle(file)
    with pytest.raises(SaBenchError, match="schema 2; this sa_bench reads 1"):
        open_bundle(Forger(made[1]).write(file, bundle=2))
    forger = Forger(made[1])
    forger.edit(lambda row: row.update(schema=2))
    with pytest.raises(SaBenchError, match="has schema 2"):
        read_results([forger.write(file)])


@pytest.mark.parametrize("name", [
    "../evil.json", "/tmp/evil.json", "a/../../evil.json", "a\\..\\evil.json", "c:/evil.json", "a/.hidden.json",
    "a/b/c/evil.json", "a/run.sh", "a/scores/../../evil.json", "a//evil.json", "a/meta.json",
])  # fmt: skip
def test_a_member_that_leads_out_is_refused_before_anything_is_written(name, made, here, tmp_path):
    forger = Forger(made[1])
    forger.members[name] = b"{}"
    before = {*tmp_path.parent.rglob("evil*")}
    with pytest.raises(SaBenchError, match="which no bundle has"):
        open_bundle(forger.write(tmp_path / f"x{BUNDLED}"))
    assert {*tmp_path.parent.rglob("evil*")} == before


def test_links_doubles_and_ciphers_are_refused(made, here, tmp_path):
    file = tmp_path / f"x{BUNDLED}"
    link = zipfile.ZipInfo("a/forget.safetensors")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("manifest.json", "{}")
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(SaBenchError, match="which no bundle has"):
        open_bundle(file)
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("manifest.json", "{}")
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("manifest.json", "{}")
    with pytest.raises(SaBenchError, match="two members of one name"):
        open_bundle(file)


@pytest.mark.parametrize(("change", "expected"), [
    (lambda row: row.update(method="sa\x1b[2J"), "control characters"),
    (lambda row: row["provenance"].update(command="python -m sa_bench run; rm -rf ~"), "is none of sa_bench"),
    (lambda row: row["measurements"][0].update(value="0"), "measurements.0.value is not what `run` writes"),
    (lambda row: row["measurements"][0].update(value=float("nan")), "NaN is not a number in JSON"),
    (lambda row: row["measurements"][0].update(high=float("inf")), "Infinity is not a number in JSON"),
    (lambda row: row.pop("task_values"), "task_values is not what `run` writes"),
    (lambda row: row["task_values"].update(classes=3), "classes is not what `run` writes"),
])  # fmt: skip
def test_a_result_that_run_does_not_write_is_refused(change, expected, made, here, tmp_path):
    forger = Forger(made[1])
    good = forger.row
    forger.edit(change)
    forger.manifest |= manifest_facts([good])
    raw = forger.members[f"{forger.cell}/result.json"]
    forger.manifest["members"][f"{forger.cell}/result.json"]["sha256"] = hashlib.sha256(
        raw
    ).hexdigest()
    with pytest.raises(Differs, match=expected):
        read_results([forger.write(tmp_path / f"x{BUNDLED}", hashes=False)])


def test_tables_of_scores_and_tensors_are_looked_at_before_use(made, here, tmp_path):
    for name, raw in (("scores/entropy.parquet", b"PAR1"), ("retain.safetensors", b"\0" * 100)):
        forger = Forger(made[1])
        forger.members[f"{forger.cell}/{name}"] = raw
        with pytest.raises(Differs, match="cannot be read"):
            open_bundle(forger.write(tmp_path / f"x{BUNDLED}"))
    forger = Forger(made[1])
    forger.images("retain", lambda s: {**s, "images": s["images"].astype(np.int64)})
    with pytest.raises(Differs, match="images, labels and seeds"):
        open_bundle(forger.write(tmp_path / f"x{BUNDLED}"))


def test_without_images_the_scores_alone_are_checked_and_that_is_said(made, here, tmp_path):
    file = tmp_path / f"small{BUNDLED}"
    manifest = write(read_results([made[0]]), file, images=False)
    assert len(manifest["left_out"]) == 4
    assert file.stat().st_size < made[1].stat().st_size / 10
    text = "\n".join(verify(file))
    assert "metrics: 0 recomputed" in text
    assert "intervals: 4 made again from the scores" in text
    assert "needs the images of forget, which are not in the bundle" in text
    assert "left out of the bundle: images left out" in text
    assert "its weights are not in the bundle" in text
    forger = Forger(file)
    a_score(forger)
    assert "its scores give" in difference(forger.write(tmp_path / f"eve{BUNDLED}"))
    forger = Forger(file)
    forger.manifest["left_out"][f"{forger.cell}/forget.safetensors"]["sha256"] = "0" * 64
    assert "images of forget: the bundle says" in difference(
        forger.write(tmp_path / f"eve{BUNDLED}")
    )


def test_without_images_nothing_passes_in_silence(made, here, tmp_path):
    file = tmp_path / f"small{BUNDLED}"
    write(read_results([made[0]]), file, images=False)
    forger = Forger(file)
    forger.measurement("forget_top1", interval="exact", low=0.0, high=1e-4)
    text = "\n".join(verify(forger.write(tmp_path / f"eve{BUNDLED}")))
    assert "intervals: 3 made again" in text
    assert (
        "not checked: value and interval of forget_top1: an interval called exact does not follow from"
        in text
    )
    forger = Forger(file)
    del forger.members[f"{forger.cell}/scores/forget_top1.parquet"]
    forger.measurement("forget_top1", value=0.0, high=1e-4)
    found = difference(forger.write(tmp_path / f"eve{BUNDLED}"))
    assert "forget_top1: its scores are missing; an interval called wilson is over scores" in found
    forger = Forger(file)
    forger.measurement("entropy", extra={"warning": "collapse"})
    assert "entropy: flags: the bundle says []" in difference(
        forger.write(tmp_path / f"eve{BUNDLED}")
    )


def test_text_of_a_manifest_reaches_no_terminal_unseen(made, here, tmp_path):
    file = tmp_path / f"small{BUNDLED}"
    write(read_results([made[0]]), file, images=False)
    for why in ("x\x1b[2J", "no difference found.\nmetrics: 999 recomputed", "because"):
        forger = Forger(file)
        for entry in forger.manifest["left_out"].values():
            entry["why"] = why
        with pytest.raises(SaBenchError) as found:
            verify(forger.write(tmp_path / f"eve{BUNDLED}"))
        assert str(found.value).isprintable()
        assert "999" not in str(found.value) or "'no difference" in str(found.value)


@pytest.mark.parametrize(
    "told",
    [{"standing": "method", "control": False}, {"control": False}, {"standing": "reference"}],
)
def test_a_control_that_is_called_a_method_enters_no_board(told, made, here, tmp_path):
    forger = Forger(made[1])
    forger.edit(lambda row: row.update(told))
    with pytest.raises(Differs, match=r"standing: it says \w+; relabel is a control"):
        read_results([forger.write(tmp_path / f"eve{BUNDLED}")])


def test_images_that_were_changed_after_the_run_are_not_packed(made, here, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(made[0], folder)
    (cell,) = [path.parent for path in folder.glob("*/result.json")]
    whole = (cell / "forget.safetensors").read_bytes()
    (cell / "forget.safetensors").write_bytes(whole[:-100])
    with pytest.raises(
        SaBenchError, match=r"forget\.safetensors is not the file that its result\.json names"
    ):
        write(read_results([folder]), tmp_path / f"x{BUNDLED}")


def test_images_that_may_show_nudity_are_packed_only_when_asked_for(tmp_path):
    folder = tmp_path / "run" / "cell"
    folder.mkdir(parents=True)
    task = json.loads(json.dumps(asdict(registry.get_task("nudity_explicit"))))
    for name in ("forget", "forget-base", "retain", "retain-base"):
        save_file({"images": np.zeros((1, 4, 4, 3), np.uint8)}, folder / f"{name}.safetensors")
    made = {n: set_hash(n, file_digest(folder / f"{n}.safetensors")) for n in ("forget", "retain")}
    row = result_row(task_values=task, folder=str(folder), artifacts={"samples": made})
    (folder / "result.json").write_text(json.dumps(row))
    found = write([row], tmp_path / f"a{BUNDLED}")
    assert {k: v["why"] for k, v in found["left_out"].items()} == {
        "cell/forget.safetensors": "may show nudity", "cell/forget-base.safetensors": "may show nudity"
    }  # fmt: skip
    assert not write([row], tmp_path / f"b{BUNDLED}", nudity=True)["left_out"]
    for name in ("forget", "forget-base"):
        (folder / f"{name}.safetensors").unlink()
    row["task_values"]["keep_images"] = False
    found = write([row], tmp_path / f"c{BUNDLED}")
    assert found["left_out"]["cell/forget.safetensors"] == {
        "sha256": None,
        "why": "deleted by the run",
    }


def test_what_cannot_be_bundled_is_said(made, here, tmp_path):
    rows = read_results([made[0]])
    for changed, options, expected in (
        (rows, {"file": tmp_path / "x.zip"}, "a bundle is called NAME"),
        (rows, {"by": "x" * 61}, "at most 60 letters"),
        (rows, {"by": "a\nb"}, "on one line"),
        (rows * 2, {}, "make a bundle of each"),
        (read_results([made[1]]), {}, "made of run folders"),
        ([rows[0] | {"folder": str(tmp_path)}], {}, "is gone"),
    ):
        with pytest.raises(SaBenchError, match=expected):
            write(changed, **{"file": tmp_path / f"x{BUNDLED}", **options})
    assert not list(tmp_path.iterdir())


def test_two_origins_merge_and_nobody_is_taken_for_us(made, here, tmp_path):
    bob = tmp_path / f"bob{BUNDLED}"
    write(read_results([made[0]]), bob, "Bob <b>", images=False)
    board = one(read_results([made[0], made[1], bob, bob]))
    labels = [x.label for x in board.lines]
    assert len(labels) == 3
    assert labels[0] == "relabel"
    assert {label.rpartition(" [")[0] for label in labels[1:]} == {
        "relabel · Ada",
        "relabel · Bob <b>",
    }
    (ada,) = (x for x in board.lines if x.label.startswith("relabel · Ada"))
    assert "Repeats 1 run of relabel, 1 of them with the very same images." in ada.sentence
    assert "Repeats" not in line(board, "relabel").sentence
    text = api.write_report([made[0], made[1], bob], tmp_path / "out.html").read_text()
    assert "relabel · Bob &lt;b&gt; [" in text
    assert "From bundles, as told: Ada [" in text
    text = api.write_report([made[1]], None).read_text()
    assert made[1].with_name("report.html").is_file()
    assert text.count("<img") == 4
    assert (
        text.count("data:image/webp") == 3
    )  # relabel changes nothing of the rest: the base's grid stands in again
    assert "· Ada" in api.table("leaderboard", [made[0], made[1]], metrics=["forget_top1"])
    assert api.write_report([made[1]], tmp_path / "out.md").read_text().count("· Ada") > 2
    file = tmp_path / "all.jsonl.xz"
    file.write_bytes(pack_results(read_results([made[0], made[1]])))
    assert [bool(row.get("origin")) for row in unpack_results(file)] == [False, True]
    assert sa_bench.load_results(made[0], bob)["origin"].str[:7].unique().tolist() == [
        "",
        "Bob <b>",
    ]


def test_a_strangers_floor_claim_or_table_row_moves_nothing_of_ours():
    theirs = result_row("retrain", recovery=(0.9, 0.85, 0.95), origin="Eve [1]")
    mine = result_row(recovery=(0.8, 0.75, 0.85))
    board = one([mine, RETRAIN, ORIGINAL, theirs])
    assert line(board, "sa").recoverable == "yes"
    assert board.origins == ("Eve [1]",)
    assert one([mine, theirs]).lines[0].recoverable == "no"  # where there is no other
    from sa_bench.analysis.published import _lines_of

    assert [x.label for x in _lines_of(board, "retrain")] == ["retrain"]


def test_results_that_break_a_report_are_said_to_be_of_others(made, here, tmp_path):
    forger = Forger(made[1])
    forger.edit(lambda row: row["artifacts"].pop("model"))
    forger.edit(lambda row: row.update(cost={"forget": {"cpu_s": "x"}}))
    with pytest.raises(SaBenchError, match=r"cannot be shown .* Ada"):
        api.write_report([forger.write(tmp_path / f"x{BUNDLED}")], tmp_path / "out.html")


def test_scores_give_the_interval_again_whatever_its_kind():
    rng = np.random.default_rng(0)
    votes, shares = (rng.random(40) < 0.3).astype(float), rng.random(40)
    for found, unit in ((rate(votes, {}), "rate"), (bounded_mean(shares, {}), "probability"),
                        (bounded_mean(shares * 2, {}, float(np.log(10))), "nats"), (mean(shares, {}), "nats")):  # fmt: skip
        m = tolerance.measurement_facts(found) | {"unit": unit}
        again = tolerance.from_scores(m, pd.DataFrame({"score": found.scores["score"]}), 10)
        assert tolerance.first_difference({k: m[k] for k in again}, again) is None
    # of an attack, whose interval is widened for its looks and over prompts
    prompts = np.repeat(np.arange(10), 4)
    low, high, how = clustered.wilson(votes, prompts, 8)
    m = {"unit": "rate", "interval": how}
    frame = pd.DataFrame({"prompt": prompts, "score": votes})
    again = tolerance.from_scores(m, frame, 10)
    assert (again["low"], again["high"]) == (low, high)
    assert tolerance.from_scores(m, frame[["score"]], 10) is None  # an older table
    assert (
        tolerance.from_scores(m | {"interval": "jackknife(20)"}, pd.DataFrame({"score": votes}), 10)
        is None
    )


def test_elsewhere_one_vote_in_five_hundred_may_fall_otherwise_and_no_more():
    m = tolerance.measurement_facts(rate(np.repeat([1.0, 0.0], 500), {})) | {"unit": "rate"}
    for k, expected in ((2, None), (3, "value")):
        found = tolerance.measurement_facts(rate(np.repeat([1.0, 0.0], [500 + k, 500 - k]), {}))
        difference = tolerance.compare_measurement(m, found, same_machine=False)
        assert (difference and difference[0]) == expected
        assert tolerance.compare_measurement(m, found, same_machine=True)[0] == "value"
    a, b = (pd.DataFrame({"score": np.repeat([1.0, 0.0], [n, 1000 - n])}) for n in (500, 502))
    assert tolerance.compare_scores(a, b, same_machine=False) is None
    assert tolerance.compare_scores(a, b, same_machine=True) == ("score of image 500", 0.0, 1.0)
    assert (
        tolerance.compare_scores(a, a.assign(prompt=0), same_machine=True) is None
    )  # of before prompts were named
    assert (
        tolerance.compare_scores(a.assign(prompt=0), a, same_machine=True)[0]
        == "columns of the scores"
    )


def test_elsewhere_judges_and_what_stands_beside_a_value_count_too():
    """Verdicts are of judges, tables of what is beside; a forger chooses which machine a result names."""
    judges = [{"judge": "a", "value": 0.5}, {"judge": "b", "value": 0.4}]
    extra = {"by_class": {"one": 0.5, "two": 0.5}, "blank": 3, "sources": "x"}
    m = tolerance.measurement_facts(
        rate(np.repeat([1.0, 0.0], 500), {}, judges=judges, extra=extra)
    ) | {"unit": "rate"}

    def said(**changes):
        found = tolerance.compare_measurement(m, {**m, **changes}, same_machine=False)
        return found and found[0]

    assert (
        said(judges=[judges[0], {"judge": "b", "value": 0.401}], extra=extra | {"blank": 4}) is None
    )
    assert said(extra=extra | {"by_class": {"one": 0.503, "two": 0.497}}) is None
    assert said(judges=[judges[0], {"judge": "b", "value": 0.2}]) == "judges.1.value"
    assert said(judges=judges[:1]) == "judges"
    assert said(extra=extra | {"by_class": {"one": 0.5, "two": 0.2}}) == "extra.by_class.two"
    assert said(extra=extra | {"blank": 9}) == "extra.blank"
    assert said(extra=extra | {"sources": "y"}) == "extra.sources"
    assert said(extra=None) == "extra.by_class"


def test_the_commands_pack_check_and_report(made, here, tmp_path, monkeypatch, capsys):
    from sa_bench.commands import results
    from sa_bench.commands.results import bundle, report

    monkeypatch.chdir(tmp_path)
    bundle([made[0]], by="Ada", with_models=True)
    file = tmp_path / f"run{BUNDLED}"
    assert "Check it: python -m sa_bench verify run.sabench.zip" in capsys.readouterr().out
    assert file.read_bytes() == made[1].read_bytes()
    results.verify(file, regenerate=1)
    assert capsys.readouterr().out.rstrip().endswith("No difference found.")
    report(None, bundle=[file])
    assert (tmp_path / "report.html").is_file()
    with pytest.raises(SaBenchError, match="at least 0"):
        results.verify(file, regenerate=-1)
    with pytest.raises(SaBenchError, match="needs results"):
        report(None)


OWN_METHOD = '''
from dataclasses import dataclass
from typing import ClassVar

from sa_bench.contracts import Method
from helper import SOURCE


@dataclass(frozen=True)
class Idle(Method):
    """Leave the model as it is."""

    version: ClassVar[int] = 1
    source: ClassVar[str] = SOURCE

    def forget(self, model, task, run):
        return model
'''


@pytest.fixture(scope="module")
def own(shared_store, tmp_path_factory):
    """A run of a plug-in of two files, one of which was changed since."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "idle.py").write_text(OWN_METHOD)
    (folder / "helper.py").write_text('SOURCE = "a test"\n')
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SA_BENCH_STORE", str(shared_store))
        patch.delenv("SA_BENCH_DATA", raising=False)
        sets = [*SMALL[:2], "task.metrics=entropy"]
        sa_bench.run(
            "mnist_0", str(folder / "idle.py"), scale="quick", sets=sets, out=folder / "run"
        )
    (folder / "helper.py").write_text('SOURCE = "a test"  # changed\n')
    return folder / "run"


def test_a_bundle_holds_the_code_that_the_run_read_under_the_licence_it_names(own, here, tmp_path):
    rows, file = read_results([own]), tmp_path / f"own{BUNDLED}"
    with pytest.raises(SaBenchError, match="--licence MIT, or leave it out: --without-source"):
        write(rows, file)
    manifest = write(rows, file, licence="MIT")
    assert manifest["licence"] == "MIT"
    (cell,) = manifest["cells"]
    sources = {name for name in manifest["members"] if name.endswith(".py")}
    assert sources == {f"{cell}/source/method-idle/{name}.py" for name in ("idle", "helper")}
    text = "\n".join(verify(file))
    assert "code of plug-ins: 1 with the hashes that the results name (licence: MIT)" in text
    with zipfile.ZipFile(file) as archive:
        assert archive.read(f"{cell}/source/method-idle/helper.py") == b'SOURCE = "a test"\n'

    forger = Forger(file)
    forger.members[f"{cell}/source/method-idle/helper.py"] += b"import os\n"
    said = difference(forger.write(tmp_path / f"forged{BUNDLED}"))
    assert "the code of method idle in it has the sha256" in said


def test_code_stays_at_home_where_it_is_left_out(own, here, tmp_path):
    file = tmp_path / f"own{BUNDLED}"
    manifest = write(read_results([own]), file, source=False)
    assert "licence" not in manifest
    assert not any(name.endswith(".py") for name in manifest["members"])
    assert "0 with the hashes" in "\n".join(verify(file))


@pytest.mark.parametrize("component", ["method ../../x", "../x y", "method .."])
def test_no_name_of_a_component_leads_out_of_a_bundle(tmp_path, component):
    (tmp_path / "x.py").write_text("")
    cell = tmp_path / "cell"
    (cell / "source").mkdir(parents=True)
    assert find_source(cell, component) == {}
