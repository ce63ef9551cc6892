"""Tasks on pretrained models from the command to the report, on the tiny random pipeline of scale quick."""

import base64
import importlib
import io
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import load_file, save_file

from sa_bench import api
from sa_bench.commands.explain import explain
from sa_bench.commands.export import export
from sa_bench.contracts import SampleSet, ignore_event
from sa_bench.core import registry
from sa_bench.core.errors import MissingAsset, SaBenchError
from sa_bench.core.fields import resolve_fields
from sa_bench.core.store import Store
from sa_bench.data.sample_sets import save_samples
from sa_bench.engine import replay
from sa_bench.engine.cells import resolve, resolve_task
from sa_bench.engine.stages import Chain
from sa_bench.models import base_models, micro_pipeline
from sa_bench.results.files import read_results
from sa_bench.scoring import sampling

METHODS = ("original", "sa", "sld")
OTHERS = ("uce", "esd", "concept_ablation", "prompt_filter")
WEIGHTS = ("sa", "esd", "uce", "concept_ablation")
CHEAP = "task.metrics=retain_drift"
FEW = ("task.n_forget=2", "task.n_retain=2", "task.leakage_images=0")


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        root = tmp_path_factory.mktemp("store")
        patch.setenv("SA_BENCH_STORE", str(root))
        for name in ("SA_BENCH_DATA", "SA_BENCH_WEIGHTS", "SA_BENCH_MIRROR"):
            patch.delenv(name, raising=False)
        yield root


def run(out, task, methods, *sets):
    results, _, report = api.run_folder(
        resolve([task], methods, "quick", sets=sets), jobs=1, out=out, overwrite=False, device="cpu"
    )
    assert [r["error"] for r in results] == [None] * len(results)
    return {r["method"]: r for r in results}, report


@pytest.fixture(scope="module")
def board(store, tmp_path_factory):
    """Every metric of one method of each kind, on a celebrity: (results by method, run folder, report)."""
    out = tmp_path_factory.mktemp("runs") / "board"
    results, report = run(out, "celeb_brad_pitt", METHODS)
    return results, out, report.read_text()


@pytest.fixture(scope="module")
def others(board, tmp_path_factory):
    """The methods that are measured on the ways of those of the board, by one metric: results by method."""
    return run(tmp_path_factory.mktemp("runs") / "others", "celeb_brad_pitt", OTHERS, CHEAP, *FEW)[
        0
    ]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A user's own diffusers folder."""
    return micro_pipeline.smoke(tmp_path_factory.mktemp("models") / "mine", seed=1)


def cell_of(out, method):
    (found,) = out.glob(f"*-{method}-b0-*")
    return found


def test_every_method_runs_and_says_that_it_is_a_trial(board, others):
    results, _, page = board
    assert list(results) == list(METHODS)
    assert list(others) == list(OTHERS)
    every = {**results, **others}
    assert all(any(f.startswith("smoke run") for f in r["flags"]) for r in every.values())
    base = {r["artifacts"]["base"] for r in every.values()}
    assert len(base) == 1
    # nothing differs, so its images are not made twice
    assert results["original"]["artifacts"]["model"] in base
    assert results["original"]["cost"]["sample forget (base)"]["cached"]
    assert len({every[m]["artifacts"]["model"] for m in WEIGHTS} | base) == len(WEIGHTS) + 1
    for method, r in every.items():
        name, unit = ("recovery_excess", "MSE") if method in METHODS else ("retain_drift", None)
        (m,) = (m for m in r["measurements"] if m["name"] == name)
        assert np.isfinite(m["value"])
        assert unit is None or m["unit"] == unit
    assert "Smoke run: a trial of the code" in page


def test_the_report_says_once_why_a_number_is_missing_and_what_recovery_is(board):
    _, out, page = board
    reason = "needs giphy-celebrities.safetensors"
    assert page.count(reason) == 2  # a note under the board, and the measurement's own place
    assert page.count("n/a [1]") == len(METHODS)
    assert "loss above the base model's once its words are fitted again; higher is better" in page
    assert "a model that never saw" not in page
    assert "<h2>Judges</h2>" not in page
    text = importlib.import_module("sa_bench.reports.markdown").render(read_results([out]))
    assert text.count(reason) == 1
    assert (
        "With its words fitted again (2 steps of 4 images, 1/10,000 of the published attack's 80,000) the loss is"
        in text
    )
    assert "ships with the package" not in text
    assert "for prompts that are to be kept" in text
    assert "recovery\\_excess (higher, MSE)" in text


def test_recovery_looks_at_images_that_the_fitted_words_ask_for(board, store, tmp_path):
    """A filter of prompts hides the digit; its words, barely fitted, draw it again. Without its detector: the reason."""
    excess = {m["name"]: m for m in board[0]["sa"]["measurements"]}["recovery_excess"]
    assert excess["extra"]["again"]["celebrity_score"].startswith(
        "n/a: needs giphy-celebrities.safetensors"
    )
    few = (
        "n_forget=8",
        "n_retain=1",
        "family_images=0",
        "recovery_budgets=0,1",
        "recovery_rates=0.001",
    )
    few += ("recovery_starts=own", "recovery_vectors=1", "recovery_judged=8", "bound_steps=2")
    few += ("sampler.steps=10",)
    ends = (
        "primary=forget_top1,recovery_excess,none_rate",
        "metrics=forget_top1,recovery_excess,none_rate",
    )
    results, page = run(
        tmp_path / "r", "mnist_0_t2i", ("prompt_filter",), *(f"task.{x}" for x in (*few, *ends))
    )
    hidden, excess, _ = results["prompt_filter"]["measurements"]
    found = excess["extra"]["again"]["forget_top1"]
    assert hidden["value"] <= 1 / 8
    assert found["value"] >= 7 / 8
    assert (found["n"], found["unit"]) == (8, "rate")
    assert found["low"] < found["value"] <= found["high"]
    text = explain(cell_of(tmp_path / "r", "prompt_filter"), "recovery_excess")
    assert "images by the fitted words: forget_top1" in text
    assert "images by the fitted words: forget_top1" in page.read_text()


def test_prompts_with_commas_are_given_as_a_json_list():
    task = resolve_task(
        "celeb_brad_pitt", "quick", {"prompts.test": '["{}, smiling", "a photo of {}"]'}
    )
    assert task.prompts.test == ("{}, smiling", "a photo of {}")


def test_explain_says_what_zero_means(board):
    text = explain(cell_of(board[1], "sa"), "recovery_excess")
    assert "At 0 or less, c_f's words denoise as well as before forgetting" in " ".join(
        text.split()
    )
    assert re.search(r"Here -?\d.* MSE from 4 images", text)


def test_a_grid_of_kept_prompts_shows_all_its_images(board):
    from sa_bench.reports import html

    (row,) = read_results([cell_of(board[1], "sa")])
    sheet = html.sheet(row, "retain")
    canvas = decoded(sheet.uri)
    side = 64 + html.GAP
    corners = canvas[::side, ::side]  # the first pixel of each tile
    images = load_file(Path(row["folder"]) / "retain.safetensors")["images"]
    assert int((corners[..., 3] == 255).sum()) == len(images) == 8


def test_an_exported_cell_opens_in_diffusers(board, tmp_path):
    from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import (
        StableDiffusionPipeline,
    )

    cell = cell_of(board[1], "sa")
    export(cell, tmp_path / "out")
    with micro_pipeline.quietly():
        opened = StableDiffusionPipeline.from_pretrained(tmp_path / "out", safety_checker=None)
        opened.set_progress_bar_config(disable=True)
        (image,) = opened(
            "a horse", num_inference_steps=1, height=64, width=64, output_type="np"
        ).images
    changed, held = load_file(cell / "model.safetensors"), opened.unet.state_dict()
    assert changed
    for name, value in changed.items():
        assert np.array_equal(held[name.removeprefix("unet.")].numpy(), value)
    assert image.shape == (64, 64, 3)


def test_a_model_is_what_is_in_it_and_not_where_it_lies(store, model, tmp_path):
    copy = Path(shutil.copytree(model, tmp_path / "copy"))
    before = base_models.find_pretrained(str(model), Store(store)).content
    assert base_models.find_pretrained(str(copy), Store(store)).content == before
    first, _ = run(tmp_path / "a", "concept", ["original"], f"task.model={model}", CHEAP)
    again, _ = run(tmp_path / "b", "concept", ["original"], f"task.model={copy}", CHEAP)
    assert first["original"]["artifacts"] == again["original"]["artifacts"]
    assert first["original"]["artifacts"]["base"] == before
    assert all(cost["cached"] for cost in again["original"]["cost"].values())
    file = copy / "unet" / "diffusion_pytorch_model.safetensors"
    weights = load_file(file)
    weights[min(weights)].flat[0] += 1
    save_file(weights, file)
    assert base_models.find_pretrained(str(copy), Store(store)).content != before


def test_words_of_ones_own_become_the_concept_and_its_surrogate(store, tmp_path):
    """With no other class to keep: uce has nothing but c_f's words to go by."""
    sets = ("task.concept=Emma Thompson", "task.surrogate=a woman", CHEAP, *FEW)
    found, _ = run(tmp_path / "run", "concept", ["uce", "concept_ablation"], *sets)
    row = found["uce"]
    assert row["artifacts"]["model"] != row["artifacts"]["base"]
    assert row["concept"] == "Emma Thompson"
    assert row["task_values"]["surrogate"] == "prompt:a woman"
    assert "--set 'task.concept=Emma Thompson'" in row["provenance"]["cell_command"]


def lora(model, path):
    rng, name = (
        torch.Generator().manual_seed(0),
        "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_v",
    )
    weights = load_file(model / "unet" / "diffusion_pytorch_model.safetensors")
    out, inner = weights[f"{name}.weight"].shape
    down, up = (
        torch.randn(2, inner, generator=rng).numpy(),
        torch.randn(out, 2, generator=rng).numpy(),
    )
    save_file({f"unet.{name}.lora_A.weight": down, f"unet.{name}.lora_B.weight": up}, path)
    return path


@pytest.mark.parametrize("kind", ["unet", "lora", "delta"])
def test_a_checkpoint_of_others_is_measured_like_any_row(board, model, tmp_path, kind, capsys):
    from sa_bench.commands.app import app

    results, out, _ = board
    path = {
        "unet": model / "unet",
        "lora": lora(model, tmp_path / "pytorch_lora_weights.safetensors")
        if kind == "lora"
        else model,
        "delta": cell_of(out, "sa") / "model.safetensors",
    }[kind]
    words = ["evaluate", str(path), "--task", "celeb_brad_pitt", "--scale", "quick", "--set", CHEAP]
    assert app([*words, "--out", str(tmp_path / "out")], standalone_mode=False) == 0
    (row,) = read_results([tmp_path / "out"])
    assert row["method"] == "checkpoint"
    assert row["artifacts"]["model"] != row["artifacts"]["base"]
    if kind == "delta":
        assert row["artifacts"]["samples"] == results["sa"]["artifacts"]["samples"]


def test_what_was_taken_of_a_checkpoint_stands_in_the_result(store, model, tmp_path):
    shutil.copytree(model / "unet", tmp_path / "trainer" / "unet")
    shutil.copytree(model / "unet", tmp_path / "trainer" / "unet_ema")
    path = lora(model, tmp_path / "pytorch_lora_weights.safetensors")
    few = (CHEAP, *FEW, "task.recovery_budgets=0")
    flags, models = {}, {}
    for name, sets in {
        "auto": [f"checkpoint.path={tmp_path / 'trainer'}"],
        "ema": [f"checkpoint.path={tmp_path / 'trainer'}", "checkpoint.weights=ema"],
        "full": [f"checkpoint.path={path}"],
        "half": [f"checkpoint.path={path}", "checkpoint.strength=0.5"],
    }.items():
        for again in ("", "-again") if name == "half" else ("",):  # the second comes from the store
            results, _ = run(
                tmp_path / f"{name}{again}", "celeb_brad_pitt", ("checkpoint",), *few, *sets
            )
            found = results["checkpoint"]
            flags[name + again], models[name] = found["flags"], found["artifacts"]["model"]
    assert [
        f for f in flags["auto"] if f.startswith("weights: raw; trainer holds unet/ and unet_ema/")
    ]
    assert [
        f
        for f in flags["ema"]
        if f.startswith("weights: averaged; trainer holds unet/ and unet_ema/")
    ]
    assert flags["half"] == flags["half-again"]
    assert "LoRA at strength 0.5" in flags["half"]
    assert not [f for f in flags["full"] if "LoRA" in f]
    assert models["full"] != models["half"]


def images_in(folder, n, rng=None):
    folder.mkdir(parents=True)
    for i in range(n):
        pixels = (
            np.zeros((64, 64, 3), np.uint8)
            if rng is None
            else rng.integers(0, 256, (64, 64, 3), np.uint8)
        )
        Image.fromarray(pixels).save(folder / f"{i}.png")


def test_blank_images_are_invalid_and_no_success(store, tmp_path):
    images_in(tmp_path / "x" / "forget", 10)
    images_in(tmp_path / "x" / "retain", 8, np.random.default_rng(0))
    sets = ["task.metrics=nudity,retain_drift"]
    result = api.evaluate(tmp_path / "x", "nudity_explicit", scale="quick", sets=sets)
    found = {m["name"]: m for m in result["measurements"]}
    assert found["nudity"]["value"] is None
    assert found["nudity"]["reason"].startswith("10/10 images are blank")
    assert (
        "forget: 10/10 images are blank (one value everywhere); a set of blank images is invalid"
        in result["flags"]
    )
    assert found["retain_drift"]["value"] > 0


def test_evaluate_looks_at_the_model_that_it_is_given(tmp_path):
    from sa_bench.commands.app import app

    images_in(tmp_path / "forget", 1)
    words = [
        "evaluate",
        str(tmp_path),
        "--task",
        "nudity_explicit",
        "--scale",
        "quick",
        "--model",
        "/nowhere",
    ]
    with pytest.raises(SaBenchError, match="/nowhere is no file or folder"):
        app(words, standalone_mode=False)


class Killed(Exception):
    pass


def killed_at(stage):
    def progress(name, done, total):
        if name == stage and done < total:
            raise Killed

    return progress


@pytest.mark.parametrize(("stage", "make"), [
    ("replay", lambda c: c.source("replay") and next(a.content for a in artifacts(c, "replay"))),
    ("sample forget", lambda c: c.samples("forget", True).content),
])  # fmt: skip
def test_a_killed_run_goes_on_to_the_same_content(tmp_path, monkeypatch, stage, make):
    monkeypatch.setattr(replay, "PART_LARGE", 3)
    monkeypatch.setattr(sampling, "SHARD_LARGE", 3)
    (cell,) = resolve(["celeb_brad_pitt"], ["original"], "quick")
    whole = make(Chain(Store(tmp_path / "whole"), cell, ignore_event))
    with pytest.raises(Killed):
        make(Chain(Store(tmp_path / "killed"), cell, killed_at(stage)))
    kept = [
        p
        for p in (tmp_path / "killed").glob("*/*.partial/.parts/*")
        if p.name.startswith(("part-", "shard-"))
    ]
    assert len(kept) == 1
    written = kept[0].stat().st_mtime_ns
    calls = []
    again = Chain(Store(tmp_path / "killed"), cell, lambda *event: calls.append(event))
    assert kept[0].stat().st_mtime_ns == written
    assert make(again) == whole
    assert calls


def artifacts(chain, stage):
    return [chain.store.get(stage, p.name) for p in (chain.store.root / stage).iterdir()]


def test_images_that_are_not_to_be_kept_are_nowhere(tmp_path, monkeypatch):
    root = tmp_path / "store"
    monkeypatch.setenv("SA_BENCH_STORE", str(root))
    run(
        tmp_path / "run",
        "nudity_explicit",
        ["original", "salun"],
        CHEAP,
        "task.keep_images=false",
    )
    assert not list((tmp_path / "run").rglob("forget*.safetensors"))
    assert list((tmp_path / "run").rglob("retain.safetensors"))
    made = [json.loads(p.read_text())["inputs"] for p in root.glob("*/*/meta.json")]
    task = resolve_task("nudity_explicit", "quick", {})
    kept = {row[0] for inputs in made for row in inputs.get("rows", [])}
    kept |= {text for inputs in made for text in inputs.get("texts", [])}
    assert kept >= {row.request.condition for row in sampling.plan_set(task, "retain")}
    assert not kept & {*task.prompts_for(0), *task.prompts_for(0, "forget")}
    assert not list(root.glob("*/*.partial"))


def decoded(uri):
    return np.asarray(
        Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))).convert("RGBA"), int
    )


def edges(canvas):
    return float(np.abs(np.diff(canvas, axis=1)).mean())


@pytest.mark.parametrize(("task", "sets"), [
    ("nudity_explicit", []), ("nudity_explicit", ["task.metrics=retain_drift"]),
    ("concept", ["task.concept=a naked person"]),
])  # fmt: skip
def test_no_report_shows_nudity_as_it_is(store, tmp_path, task, sets):
    (cell,) = resolve([task], ["esd"], "quick", sets=sets)
    rng = np.random.default_rng(0)
    row = rows_of(cell, tmp_path)
    for name in ("forget", "forget-base", "retain", "retain-base"):
        save_samples(
            SampleSet(rng.integers(0, 256, (8, 64, 64, 3), np.uint8), np.full(8, -1), np.arange(8)),
            Path(row["folder"]) / f"{name}.safetensors",
        )
    page = importlib.import_module("sa_bench.reports.html").render([row])
    seen = re.findall(r'<img alt="([^"]*)" id="[^"]*" src="([^"]*)"', page)
    shown = {alt: edges(decoded(uri)[:64, :64, :3]) for alt, uri in seen}
    assert len(shown) == 4
    veiled = [v for alt, v in shown.items() if alt.startswith("images of")]
    plain = [v for alt, v in shown.items() if alt.startswith("the rest")]
    assert max(veiled) < 0.1 * min(plain)


def rows_of(cell, tmp_path):
    """A finished cell without measurements, in a folder of its own."""
    from sa_bench.engine.cell_results import blank_result

    folder = tmp_path / cell.name
    folder.mkdir()
    return {**blank_result(cell, "python -m sa_bench run"), "folder": str(folder)}


@pytest.mark.parametrize(
    ("scale", "published"),
    [("full", {}), ("paper", {"esd": "noxattn", "concept_ablation": "attn"}), ("quick", {})],
)
def test_what_edits_cross_attention_alone_does_so_for_nudity_too(scale, published):
    """At scale `paper` ESD's code of 2023, and Concept Ablation's own setting for nudity."""
    task = resolve_task("nudity_explicit", scale, {})
    scopes = {
        m: resolve_fields(m, task, scale, {})["scope"]
        for m in ("sa", "esd", "uce", "concept_ablation")
    }
    assert (
        scopes
        == {"sa": "noxattn", "esd": "esd-u", "uce": "kv", "concept_ablation": "kv"} | published
    )


STABLE = [
    entry.name for entry in registry.list_entries("task") if registry.get_task(entry.name).model
]


@pytest.mark.parametrize("name", STABLE)
def test_scale_paper_is_the_official_run_for_every_concept(name, tmp_path):
    (tmp_path / "i2p.csv").write_text("prompt,sd_seed\na,1\n")
    given = {"prompts.files.test": str(tmp_path / "i2p.csv")} if name == "nudity_i2p" else {}
    task = resolve_task(name, "paper", given)
    assert (task.replay_images, task.replay_used, task.surrogate_images) == (5000, 1000, 1000)
    assert (task.sampler.precision, task.train_precision) == ("fp16", "fp32")
    for method in ("sa", "no_gr", "l2", "permuted_f", "naive"):
        fisher = resolve_fields(method, task, "paper", {})["fisher"]
        assert (fisher["n"], fisher["set"], fisher["draws"]) == (5000, "replay", "once")
        assert fisher["timesteps"] == 0  # all 1,000


def test_how_much_of_the_set_is_trained_on_is_in_the_models_key_and_not_in_the_sets(tmp_path):
    def keys(*sets):
        (cell,) = resolve(["mnist_0_r1000"], ["sa"], "quick", sets=sets)
        chain = Chain(Store(tmp_path), cell, ignore_event)
        return chain.sets.key_inputs("replay"), chain.forget_stage().inputs

    (whole, model), (part, other) = keys(), keys("task.replay_used=100")
    assert whole == part
    assert (model["replay"], other["replay"]) == (whole, {**whole, "used": 100})


WRONG = [
    ("celeb_brad_pitt", "original", "task.model={tmp}/nowhere", "no file or folder here"),
    ("celeb_brad_pitt", "original", "task.model={model}/unet", "no whole model but a unet"),
    ("celeb_brad_pitt", "original", "task.model=", "task.model is empty"),
    ("celeb_brad_pitt", "checkpoint", "checkpoint.path={tmp}/page.safetensors", "is a web page"),
    ("celeb_brad_pitt", "checkpoint", "checkpoint.path={tmp}/nowhere", "does not exist"),
    ("celeb_brad_pitt", "original", "task.prompts.files.test={tmp}/empty.txt", "is empty"),
    ("celeb_brad_pitt", "original", "task.prompts.files.test={tmp}/other.csv", "no column `prompt`"),
    ("celeb_brad_pitt", "original", "task.prompts.files.tset={tmp}/empty.txt", "roles are"),
    ("celeb_brad_pitt", "original", 'task.prompts.test=["{}, a man"', "is not a JSON list"),
    ("celeb_brad_pitt", "original", "task.prompts.test=", "task.prompts.test has no prompt"),
    ("celeb_brad_pitt", "original", "task.prompts.test=a {name} smiles", "only {} stands for a name"),
    ("celeb_brad_pitt", "original", "task.prompts.kept=brad pitt on a horse", "kept has no prompt that does not name"),
    ("concept", "original", "task.concept=", "give the words"),
    ("celeb_brad_pitt", "original", "task.size=427", "whole eights"),
    ("celeb_brad_pitt", "original", "task.size=128", "64 pixels a side"),
    ("celeb_brad_pitt", "sld", "task.sampler.guidance=1", "none at 1"),
    ("celeb_brad_pitt", "negative_prompt", "task.sampler.guidance=1", "none at 1"),
    ("celeb_brad_pitt", "original", "task.sampler.steps=0", "samples in 1 to 1000 steps"),
    ("celeb_brad_pitt", "original", "task.n_forget=0", "greater than or equal to 1"),
    ("celeb_brad_pitt", "original", "task.replay_images=0", "give 1 or more"),
    ("celeb_brad_pitt", "original", "task.replay_used=5001", "replay_used=5001: from 0"),
    ("mnist_0", "sa", "sa.fisher.draws=once", "draws=once needs"),
    ("celeb_brad_pitt", "original", "task.surrogate_images=-1", "greater than or equal to 0"),
    ("celeb_brad_pitt", "original", "task.recovery_vectors=0", "recovery_vectors"),
    ("celeb_brad_pitt", "original", "task.primary=clip_score,clip_score,lpips", "three metrics"),
    ("celeb_brad_pitt", "original", "task.primary=recovery_excess,clip_score,lpips", "cannot be the first"),
    ("celeb_brad_pitt", "original", "task.primary=clip_scor,recovery_excess,lpips", "clip_scor"),
    ("celeb_brad_pitt", "original", "task.recovery_budgets=500,0", "must ascend"),
    ("celeb_brad_pitt", "sa", "task.surrogate=folder:{tmp}/small", "64x64 is needed"),
    ("celeb_brad_pitt", "retrain", "task.gate=0.1", "needs the data"),
    ("celeb_brad_pitt", "relabel", "task.gate=0.1", "control to use is prompt_filter"),
    ("nudity_explicit", "relabel", "task.gate=0.1", "control to use is prompt_filter"),
]  # fmt: skip


@pytest.mark.parametrize(("task", "method", "given", "said"), WRONG)
def test_what_is_wrong_is_refused_in_a_line_before_any_work(
    tmp_path, model, task, method, given, said
):
    (tmp_path / "page.safetensors").write_text("<!doctype html><html>please log in</html>")
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "other.csv").write_text("text,number\na,1\n")
    (tmp_path / "small").mkdir()
    Image.new("RGB", (40, 32), "red").save(tmp_path / "small" / "a.png")
    with pytest.raises(SaBenchError) as caught:
        resolve(
            [task],
            [method],
            "quick",
            sets=[given.replace("{tmp}", str(tmp_path)).replace("{model}", str(model))],
        )
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2


def test_another_base_seed_and_a_model_that_is_not_here_are_refused_too(store, tmp_path):
    with pytest.raises(SaBenchError, match="has one base model"):
        resolve(["nudity_explicit"], ["original"], "quick", base_seeds=[1])
    cells = resolve(["celeb_brad_pitt"], ["original"], "quick", sets=["task.model=owner/name"])
    with pytest.raises(MissingAsset, match="fetch owner/name"):
        api.run_folder(cells, jobs=1, out=tmp_path / "run", overwrite=False, device="cpu")
    assert not (tmp_path / "run").exists()


def test_a_task_takes_the_size_of_the_model_that_it_is_given(model):
    assert resolve_task("concept", "full", {"model": str(model)}).size == 64
    assert resolve_task("concept", "full", {}).size == 512
