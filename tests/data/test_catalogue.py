"""The catalogue: what it knows, where it looks, what it takes, and what doctor and plan make of it."""

import dataclasses
import hashlib
import json
import re

import pytest
import torch
from huggingface_hub import constants

from sa_bench.commands import doctor
from sa_bench.contracts import Prompts
from sa_bench.core import registry
from sa_bench.core.errors import MissingAsset, SaBenchError
from sa_bench.data.assets import catalogue
from sa_bench.data.assets.catalogue import CATALOGUE, Asset
from sa_bench.engine import needs
from sa_bench.engine.cells import resolve_task, with_metrics
from sa_bench.engine.needs import needs_of_task
from sa_bench.scoring.detectors import clip, identity


@pytest.fixture(autouse=True)
def nowhere(tmp_path, monkeypatch):
    """No asset in any place."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("SA_BENCH_STORE", str(tmp_path / "store"))
    for variable in ("SA_BENCH_WEIGHTS", "SA_BENCH_DATA", "SA_BENCH_MIRROR"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path


def put(path, content=b"x"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def in_hub(root, repository, files, kind="model"):
    """Files as the hub's cache lays them; returns their folder."""
    folder = root / "hub" / f"{kind}s--{repository.replace('/', '--')}"
    put(folder / "refs" / "main", b"a1")
    for name in files:
        put(folder / "snapshots" / "a1" / name, b"{}")
    return folder / "snapshots" / "a1"


PIPELINE = ("unet", "vae", "text_encoder")


def pipeline(folder):
    put(folder / "model_index.json", json.dumps({p: ["diffusers", "X"] for p in PIPELINE}).encode())
    for part in PIPELINE:
        put(folder / part / "diffusion_pytorch_model.safetensors")
    return folder


def said(call, *arguments):
    with pytest.raises(SaBenchError) as caught:
        call(*arguments)
    text = str(caught.value)
    assert "\n" not in text
    return text


@pytest.mark.parametrize("asset", CATALOGUE.values(), ids=CATALOGUE)
def test_every_entry_is_whole(asset):
    assert asset.url.startswith("https://")
    assert asset.size
    assert asset.licence
    assert asset.unlocks
    assert re.fullmatch(r"([0-9a-f]{8}|[0-9a-f]{64})?", asset.sha256)
    if "githubusercontent" in asset.url:
        assert re.search(r"/[0-9a-f]{40}/", asset.url), "a branch moves"
    assert catalogue.get(asset.name) is catalogue.get(asset.file) is asset
    if asset.hub:
        assert catalogue.get(asset.hub) is asset


def test_names_are_found_and_unknown_ones_answered():
    assert "Did you mean alexnet?" in said(catalogue.get, "alexnt")
    assert catalogue.get("cifar10").file == "cifar-10-python.tar.gz"
    other = catalogue.get("someone/model")
    assert (other.hub, other.kind, other.sha256) == ("someone/model", "model", "")


def test_what_is_nowhere_is_none_and_needing_it_says_all(nowhere):
    for name, asset in CATALOGUE.items():
        assert catalogue.find(name) is None
        text = said(catalogue.need, name)
        folder = nowhere / "store" / ("data" if asset.kind == "prompts" else "weights")
        for part in (
            asset.file,
            asset.size,
            asset.url,
            str(folder),
            f"python -m sa_bench fetch {name}",
        ):
            assert part in text
    assert not (nowhere / "store").exists()


def test_one_own_folder_then_the_store_then_the_caches(nowhere, monkeypatch):
    hub = put(nowhere / "torch" / "checkpoints" / identity.FILE)
    assert catalogue.find("facenet-vggface2") == hub
    store = put(nowhere / "store" / "weights" / identity.FILE)
    assert catalogue.find("facenet-vggface2") == store
    monkeypatch.setenv("SA_BENCH_WEIGHTS", str(nowhere / "own"))
    assert catalogue.find("facenet-vggface2") == store
    own = put(nowhere / "own" / identity.FILE)
    assert catalogue.need("facenet-vggface2") == own


def test_prompts_lie_in_the_data_folders_or_the_hubs_cache(nowhere, monkeypatch):
    cached = in_hub(nowhere, "AIML-TUDA/i2p", ["i2p_benchmark.csv"], "dataset")
    assert catalogue.find("i2p") == cached / "i2p_benchmark.csv"
    store = put(nowhere / "store" / "data" / "i2p_benchmark.csv")
    assert catalogue.find("i2p") == store
    monkeypatch.setenv("SA_BENCH_DATA", str(nowhere / "own"))
    own = put(nowhere / "own" / "i2p_benchmark.csv")
    assert catalogue.find("i2p") == own


def test_a_file_with_another_hash_is_not_taken(nowhere, monkeypatch):
    path = put(nowhere / "store" / "data" / "brad_pitt_prompts.txt", b"Brad Pitt.\n")
    text = said(catalogue.find, "brad_pitt_prompts")
    assert str(path) in text
    assert "is damaged or another file" in text
    known = dataclasses.replace(
        CATALOGUE["brad_pitt_prompts"], sha256=hashlib.sha256(b"Brad Pitt.\n").hexdigest()[:8]
    )
    monkeypatch.setitem(CATALOGUE, "brad_pitt_prompts", known)
    assert catalogue.find("brad_pitt_prompts") == path


def test_a_noted_hash_counts_where_none_is_published(nowhere):
    path = put(nowhere / "store" / "weights" / identity.FILE, b"first")
    note = put(
        path.with_name(f"{path.name}.sha256"),
        hashlib.sha256(b"first").hexdigest().encode() + b"  x\n",
    )
    assert catalogue.find("facenet-vggface2") == path
    put(path, b"second")
    assert str(path) in said(catalogue.find, "facenet-vggface2")
    assert "is damaged" in identity.missing()
    note.unlink()
    assert catalogue.find("facenet-vggface2") == path


def test_a_pipeline_is_whole_or_not_taken(nowhere, monkeypatch):
    own = pipeline(nowhere / "own" / "stable-diffusion-v1-4")
    assert catalogue.find("sd-v1-4") is None
    monkeypatch.setenv("SA_BENCH_WEIGHTS", str(nowhere / "own"))
    assert catalogue.find("sd-v1-4") == catalogue.find("CompVis/stable-diffusion-v1-4") == own
    (own / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    text = said(catalogue.find, "sd-v1-4")
    assert f"{own} lacks the weights in vae/" in text
    assert "Remove it" in text
    (own / "model_index.json").write_text("{")
    assert "a readable model_index.json" in said(catalogue.find, "sd-v1-4")


def test_models_of_the_hubs_cache_are_found(nowhere):
    folder = in_hub(nowhere, "CompVis/stable-diffusion-v1-4", ["scheduler/scheduler_config.json"])
    assert catalogue.find("sd-v1-4") is None
    pipeline(folder)
    assert catalogue.find("sd-v1-4") == folder
    other = in_hub(nowhere, "someone/model", ["config.json", "model.safetensors"])
    assert catalogue.find("someone/model") == other


def test_clip_is_taken_from_the_hubs_cache_by_the_detector_too(nowhere):
    folder = in_hub(nowhere, clip.HUB, clip.FILES)
    assert catalogue.find(clip.FOLDER) == folder
    assert clip.missing() is None
    assert clip.facts()["weights"] == hashlib.sha256(b"{}").hexdigest()[:16]
    (folder / "preprocessor_config.json").unlink()
    assert "lacks preprocessor_config.json" in said(catalogue.find, clip.FOLDER)
    assert "lacks preprocessor_config.json" in clip.missing()


# what tasks use


T2I = registry.get_task("mnist_0_t2i")


def stand_in(**fields):
    usual = {
        "name": "celebrity", "dataset": "prompts", "metrics": ("celebrity_score", "clip_score", "nudity"),
        "primary": ("celebrity_score",), "model": "CompVis/stable-diffusion-v1-4",
        "prompts": Prompts(test=(), replay=(), files=FILES), "judges": (),
    }  # fmt: skip
    return dataclasses.replace(T2I, **{**usual, **fields})


FILES = {"test": "brad_pitt_prompts", "replay": "fim_prompts", "kept": "fim_prompts"}


@pytest.fixture
def task(monkeypatch):
    """Let `celebrity` be a task's name."""

    def set_task(**fields):
        found = stand_in(**fields)
        monkeypatch.setattr(registry, "get_task", lambda name: found)
        return found

    monkeypatch.setattr(registry, "register", lambda kind, name: [name])
    return set_task


def test_a_task_needs_its_model_its_prompts_and_what_its_metrics_look_through():
    needs = [(n.asset.name, n.required, n.what) for n in needs_of_task(stand_in())]
    assert needs == [
        ("sd-v1-4", True, "base model"),
        ("brad_pitt_prompts", True, "prompts test"),
        ("fim_prompts", True, "prompts replay, kept"),
        ("giphy-celebrities", True, "celebrity_score"),
        ("giphy-labels", True, "celebrity_score"),
        (clip.FOLDER, False, "clip_score"),
    ]


def test_tasks_without_such_fields_need_their_metrics_alone():
    assert needs_of_task(registry.get_task("mnist_0")) == []
    needs = needs_of_task(registry.get_task("cifar10_airplane"))
    assert [n.asset.name for n in needs] == ["cifar10", "resnet34-imagenet", "inception-v3-compat"]
    bare = stand_in(model="", prompts=None, metrics=(), primary=())
    assert needs_of_task(bare) == []


def test_an_unknown_prompt_file_is_answered():
    wrong = stand_in(prompts=Prompts(test=(), files={"test": "brad_pit_prompts"}))
    assert "Did you mean brad_pitt_prompts" in said(needs_of_task, wrong)


def test_a_model_may_be_a_path(nowhere):
    folder = nowhere / "mine"
    absent = needs_of_task(stand_in(model=str(folder)))[0].asset
    assert catalogue.find(absent) is None
    assert f"There is no model {folder}" in said(catalogue.need, absent)
    folder.mkdir()
    assert catalogue.need(absent) == folder


def test_doctor_of_a_task_says_what_it_lacks(task, nowhere):
    task()
    text, lacks = doctor.describe_task_assets("celebrity")
    assert lacks
    for part in (
        "sd-v1-4 (base model; required): not here; python -m sa_bench fetch sd-v1-4", "gated: accept the licence",
        "brad_pitt_prompts (prompts test; required)", CATALOGUE["brad_pitt_prompts"].sha256, "1.5 kB",
        CATALOGUE["fim_prompts"].url, "sha256 not published", f"{clip.FOLDER} (clip_score; optional)",
        "nudity (nudity; optional)", "faces (celebrity_score; required)", "CreativeML OpenRAIL-M",
        "unlocks: celebrity_score",
    ):  # fmt: skip
        assert part in text


def test_optional_assets_are_no_fault_and_required_ones_are(task, nowhere):
    task(primary=("nudity",), metrics=("clip_score", "celebrity_score"), prompts=None)
    _, lacks = doctor.describe_task_assets("celebrity")
    assert lacks
    pipeline(nowhere / "store" / "weights" / "stable-diffusion-v1-4")
    text, lacks = doctor.describe_task_assets("celebrity")
    assert not lacks
    assert (
        f"sd-v1-4 (base model; required): here, {nowhere / 'store' / 'weights' / 'stable-diffusion-v1-4'}"
        in text
    )
    task(primary=("celebrity_score",), prompts=None)
    assert doctor.describe_task_assets("celebrity")[1]


def test_doctor_says_damaged(task, nowhere):
    put(nowhere / "store" / "data" / "brad_pitt_prompts.txt", b"other")
    task()
    assert (
        "brad_pitt_prompts (prompts test; required): DAMAGED"
        in doctor.describe_task_assets("celebrity")[0]
    )
    assert "brad_pitt_prompts: DAMAGED" in doctor.describe_assets()[0]


def test_doctor_lists_every_entry(nowhere):
    text, _ = doctor.describe_assets()
    for asset in CATALOGUE.values():
        for part in (f"{asset.name}: not here", asset.url, asset.size, asset.unlocks, asset.sha256):
            assert part in text


def test_plan_says_what_is_missing_and_what_is_lost(nowhere):
    (line,) = doctor.plan_lines([stand_in()])
    assert line.startswith(
        "assets: celebrity: cannot run without sd-v1-4 (base model, about 4.3 GB"
    )
    for part in (
        "fim_prompts (prompts replay, kept, 0.9 MB)",
        f"can use giphy-celebrities, giphy-labels, {clip.FOLDER}",
    ):
        assert part in line
    assert "n/a as it is: celebrity_score (primary), clip_score" in line
    assert "only scale quick runs without its primary metrics" in line
    assert doctor.plan_lines([registry.get_task("mnist_0")]) == []
    (line,) = doctor.plan_lines([registry.get_task("cifar10_airplane")])
    assert "inception_kid (primary)" in line


def test_all_that_is_missing_is_named_at_once_with_one_command(nowhere):
    from sa_bench import api
    from sa_bench.engine.cells import resolve

    def run(*sets, scale="full"):
        api.require_data(resolve(["celeb_brad_pitt"], ["sa"], scale, sets=sets))

    text = said(run)
    for name in ("sd-v1-4", "giphy-celebrities", "giphy-labels", "clip-vit-base-patch32"):
        assert f"{name} ({catalogue.get(name).size})" in text
    assert text.count("python -m sa_bench fetch") == 1
    assert "python -m sa_bench fetch celeb_brad_pitt." in text
    assert "accept the licence of sd-v1-4 (https://huggingface.co/" in text
    assert "HF_TOKEN" in text
    assert text.endswith("without any of them: --scale quick.")
    assert "\n" not in text
    other = said(run, "task.model=owner/name")
    assert (
        "python -m sa_bench fetch owner/name, python -m sa_bench fetch giphy-celebrities" in other
    )
    assert "sd-v1-4" not in other
    run(scale="quick")


@pytest.mark.parametrize("scale", ["full", "paper"])
def test_a_run_does_not_start_without_what_its_primary_metrics_look_through(nowhere, scale):
    """Said before work, in one line; another choice of three metrics starts."""
    from sa_bench import api
    from sa_bench.engine.cells import resolve

    def run(scale, *sets):
        cells = resolve(["concept"], ["original"], scale, sets=["task.model=smoke", *sets])
        api.require_data(cells)

    text = said(run, scale)
    assert text.startswith(
        "concept cannot be measured by its primary clip_concept_rate: needs clip-vit-base-patch32 (605 MB): "
    )
    assert "; nor by clip_score: needs " in text
    assert "python -m sa_bench fetch clip-vit-base-patch32" in text
    assert "--set task.primary=A,B,C takes other metrics" in text
    assert "\n" not in text
    run("quick")
    run(
        scale,
        "task.primary=retain_drift,recovery_excess,lpips",
        "task.metrics=retain_drift,recovery_excess",
    )
    with pytest.raises(MissingAsset, match="primary lpips: needs alexnet"):
        run(scale, "task.primary=retain_drift,recovery_excess,lpips")
    with pytest.raises(MissingAsset, match="needs 2 files that are not here: resnet34-imagenet"):
        api.require_data(resolve(["cifar10_airplane"], ["original"], scale))
    api.require_data(resolve(["cifar10_airplane"], ["original"], "quick"))
    api.require_data(resolve(["mnist_0"], ["original"], scale))


def test_plan_says_when_all_is_here(nowhere):
    pipeline(nowhere / "store" / "weights" / "stable-diffusion-v1-4")
    task = stand_in(prompts=None, metrics=("retain_accuracy",), primary=())
    assert doctor.plan_lines([task]) == ["assets: celebrity: all here"]


def test_the_commands(cli, tmp_path):
    one = cli("doctor", "mnist_00", store=tmp_path / "s")
    assert one.returncode == 2
    assert "Did you mean mnist_0" in one.stderr
    several = cli("doctor", "cifar10_airplane", store=tmp_path / "s")
    assert several.returncode == 3
    assert "cifar10 (data; required): not here" in several.stdout
    planned = cli(
        "plan", "--task", "cifar10_airplane", "--method", "original", store=tmp_path / "s", check=0
    ).stdout
    assert "assets: cifar10_airplane: cannot run without resnet34-imagenet" in planned
    assert "inception-v3-compat" in planned


def test_needing_is_exit_3():
    with pytest.raises(MissingAsset):
        catalogue.need("alexnet")
    assert isinstance(CATALOGUE["alexnet"], Asset)


@pytest.mark.parametrize(
    "settings", [{}, {"XDG_CACHE_HOME": "/somewhere"}, {"TORCH_HOME": "~/models", "XDG_CACHE_HOME": "/x"}]
)  # fmt: skip
def test_torchs_own_folder_is_found_without_torch(settings, monkeypatch):
    import sys
    from pathlib import Path

    from torch import hub

    from sa_bench.data.assets import locate

    for name in ("XDG_CACHE_HOME", "TORCH_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(hub, "_hub_dir", None)
    asked = locate._find_torch_hub()
    assert asked == Path(hub.get_dir())
    monkeypatch.delitem(sys.modules, "torch")
    assert locate._find_torch_hub() == asked


def test_every_file_that_no_cell_goes_without_is_named_at_once(monkeypatch):
    monkeypatch.setattr(catalogue, "find", lambda asset: None)
    with pytest.raises(MissingAsset) as told:
        needs.need_files(resolve_task("cifar10_airplane", "full", {}), quick=False)
    for part in ("resnet34-imagenet (87 MB)", "inception-v3-compat", "fetch cifar10_airplane"):
        assert part in str(told.value)


def test_a_metric_that_a_task_cannot_have_is_named():
    with_attack = with_metrics(registry.get_task("mnist_0"), ["prompt_attack"])
    assert needs.describe_unfit([with_attack]) == [
        "prompt_attack on mnist_0: the family vae is no diffusion model"
    ]
    assert needs.describe_unfit([registry.get_task("mnist_0_t2i")]) == []
