"""Sampling in reduced precision, gradients from few activations, and images that are no images."""

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from result_rows import result_row
from sa_bench.reports import html, markdown

import sa_bench
from sa_bench.analysis import published
from sa_bench.contracts import Recipe, Request, Sampler, ignore_event, key_values
from sa_bench.core import registry
from sa_bench.core.errors import SaBenchError
from sa_bench.core.fields import resolve_fields
from sa_bench.core.store import Store
from sa_bench.data import captions
from sa_bench.engine.cells import resolve, resolve_task
from sa_bench.engine.stages import Chain
from sa_bench.engine.validation import check_precision
from sa_bench.models import base_models
from sa_bench.models.ddpm import DDPM
from sa_bench.models.text_to_image import TextToImage
from sa_bench.training import precision
from sa_bench.training.loop import fit

DDIM = Sampler("ddim", steps=4, guidance=5.0)
HALF = Sampler("ddim", steps=4, guidance=5.0, precision="bf16")
ASKED = [Request("a zero", 0), Request("a one", 1)]


@pytest.fixture
def tiny():
    return TextToImage("tiny", captions.WORDS, 0)


@pytest.mark.parametrize(
    "family", [lambda: TextToImage("tiny", captions.WORDS, 0), lambda: DDPM("tiny")]
)
def test_bf16_differs_a_little_from_fp32(family):
    model = family()
    asked = ASKED if isinstance(model, TextToImage) else [Request(0, 0), Request(1, 1)]
    exact, reduced = model.sample(asked, DDIM), model.sample(asked, HALF)
    assert reduced.dtype == torch.float32
    off = float((reduced - exact).norm() / exact.norm())
    assert 1e-6 < off < 0.1
    assert torch.equal(model.sample(asked, DDIM), exact)  # nothing is left of the other precision


def test_texts_of_one_precision_are_not_used_in_the_other(tiny):
    other = TextToImage("tiny", captions.WORDS, 0)
    reduced = other.sample(ASKED, HALF)
    tiny.sample(ASKED, DDIM)
    assert torch.equal(tiny.sample(ASKED, HALF), reduced)


def test_the_autoencoder_decodes_in_the_models_precision(tiny):
    x = tiny.sample(ASKED, DDIM)
    exact = tiny.to_images(x).astype(int)
    tiny.precision = "bf16"
    off = abs(tiny.to_images(x) - exact)
    assert 0 < off.max() < 32
    assert off.mean() < 2
    assert tiny.fresh(1).precision == tiny.clone().precision == "bf16"


def test_the_default_keeps_its_key_and_another_precision_has_one():
    assert "precision" not in key_values(Sampler())
    assert key_values(HALF)["precision"] == "bf16"
    cells = [
        resolve(["mnist_0_t2i"], ["original"], "quick", sets=sets)[0]
        for sets in ([], ["task.sampler.precision=bf16"])
    ]
    assert len({cell.id for cell in cells}) == 2


@pytest.mark.parametrize(
    "name", ["celeb_brad_pitt", "celeb_angelina_jolie_clown", "nudity_explicit"]
)
def test_published_settings_sample_in_fp16(name):
    paper = resolve_task(name, "paper", {"model": "smoke"})
    assert (paper.sampler.precision, paper.sampler.steps) == ("fp16", 50)
    assert resolve_task(name, "full", {"model": "smoke"}).sampler.precision == "fp32"
    check_precision(paper, "cuda")


def test_a_cpu_refuses_fp16_before_any_work(tmp_path, monkeypatch, tiny):
    monkeypatch.setenv("SA_BENCH_STORE", str(tmp_path / "store"))
    with pytest.raises(SaBenchError, match=r"precision=fp16: celeb_brad_pitt needs a GPU"):
        sa_bench.run(
            "celeb_brad_pitt",
            "original",
            scale="paper",
            sets=["task.model=smoke"],
            out=tmp_path / "run",
        )
    assert not (tmp_path / "store").exists()
    assert not (tmp_path / "run").exists()
    with pytest.raises(SaBenchError, match="cannot sample in fp16"):
        tiny.sample(ASKED, Sampler("ddim", steps=4, precision="fp16"))
    with pytest.raises(SaBenchError, match="of diffusion models"):
        resolve_task("mnist_0", "quick", {"sampler.precision": "bf16"})
    with pytest.raises(SaBenchError, match="fp8"):
        resolve_task("mnist_0_t2i", "quick", {"sampler.precision": "fp8"})


TASKS = [entry.name for entry in registry.list_entries("task")]


@pytest.mark.parametrize("name", TASKS)
def test_scale_paper_trains_in_fp32_and_the_others_as_the_machine_has_it(name, tmp_path):
    (tmp_path / "i2p.csv").write_text("prompt,sd_seed\na,1\n")
    given = {"prompts.files.test": str(tmp_path / "i2p.csv")} if name == "nudity_i2p" else {}
    assert resolve_task(name, "paper", given).train_precision == "fp32"
    for scale in ("full", "quick"):
        task = resolve_task(name, scale, given)
        assert task.train_precision == "auto"
        assert "train_precision" not in key_values(task)  # boards keep their names


@pytest.mark.parametrize(
    ("asked", "has_bf16", "used"),
    [
        ("auto", False, "fp32"),
        ("auto", True, "bf16"),
        ("fp32", True, "fp32"),
        ("bf16", False, "bf16"),
    ],
)
def test_what_training_calculates_in_is_used_named_and_recorded(
    asked, has_bf16, used, tmp_path, monkeypatch
):
    from sa_bench.models.vae import VAE

    seen, loss = [], VAE.loss
    monkeypatch.setattr(precision, "is_bf16_fast", lambda device="cpu": has_bf16)
    monkeypatch.setattr(
        VAE, "loss", lambda *a: seen.append(torch.is_autocast_enabled("cpu")) or loss(*a)
    )
    sets = [] if asked == "auto" else [f"task.train_precision={asked}"]
    (cell,) = resolve(["mnist_0"], ["no_ewc"], "quick", sets=["steps=2", "batch=4", *sets])
    chain = Chain(Store(tmp_path), cell, ignore_event)
    assert chain.precision == {"asked": asked, "base": "fp32", "forgetting": used}
    assert seen == [used == "bf16"] * 2
    # Machines with and without bf16 share a store and never an artifact that they would make differently.
    assert chain.forget_stage().inputs["bf16"] is (used == "bf16")
    data = base_models.base_key_inputs("vae", "mnist", "", "paper", 0, chain.bf16)
    assert data["bf16"] is (used == "bf16")


def test_what_is_not_trained_has_no_precision_and_the_official_trainer_none_but_fp32(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(precision, "is_bf16_fast", lambda device="cpu": True)
    for method, sets, used in (
        ("original", [], "nothing trained"), ("no_ewc", ["steps=1", "batch=4", "trainer=ldm"], "fp32"),
    ):  # fmt: skip
        (cell,) = resolve(["mnist_0"], [method], "quick", sets=sets)
        chain = Chain(Store(tmp_path), cell, ignore_event)
        assert chain.precision["forgetting"] == used


def test_reports_say_what_was_trained_in_what():
    row = result_row(folder="")
    assert "training: base fp32, forgetting bf16" in html.render([row])
    assert "Training: base fp32, forgetting bf16." in markdown.render([row])
    del row["provenance"]["precision"]  # a result of before
    assert "forgetting bf16" not in html.render([row]) + markdown.render([row])


def test_a_result_at_scale_paper_that_was_not_trained_in_fp32_is_no_reproduction():
    (entry, *_) = [e for e in published.load_numbers() if (e.task, e.method) == ("mnist_0", "sa")]
    task = resolve_task("mnist_0", "paper", {})
    row = result_row(scale="paper", fields=resolve_fields("sa", task, "paper", {}))
    assert published.find_departures(entry, row) == []
    row["overrides"] = {"train_precision": "bf16"}
    assert published.find_departures(entry, row) == ["train_precision=bf16 instead of fp32"]


def gradients(model, c):
    rng = torch.Generator().manual_seed(0)
    model.net.train()
    x = torch.randn(2, *model.shape, generator=rng)
    draw = model.draw(2, rng)
    params = model.parameters()
    found = torch.autograd.grad(
        model.loss(x, model.conditions(c), draw).sum(), list(params.values())
    )
    return dict(zip(params, found, strict=True))


@pytest.mark.parametrize(
    ("family", "c"),
    [
        (lambda: TextToImage("tiny", captions.WORDS, 0), ["a zero", "one"]),
        (lambda: DDPM("tiny"), [0, 1]),
    ],
)
def test_gradient_checkpointing_changes_no_gradient(family, c, monkeypatch):
    plain_, kept = family(), []
    monkeypatch.setenv("SA_BENCH_GRADIENT_CHECKPOINTING", "1")
    model = family()
    again = model.clone()
    assert again.net.is_gradient_checkpointing
    assert not plain_.net.is_gradient_checkpointing
    func = torch.utils.checkpoint.checkpoint
    monkeypatch.setattr(
        torch.utils.checkpoint, "checkpoint", lambda *a, **k: kept.append(1) or func(*a, **k)
    )
    model.net.enable_gradient_checkpointing()
    first, second = gradients(plain_, c), gradients(model, c)
    assert kept, "nothing was recomputed"
    for name, value in first.items():
        torch.testing.assert_close(second[name], value, atol=1e-6, rtol=1e-6)


def test_what_is_not_trained_has_no_gradient(tiny):
    rng = torch.Generator().manual_seed(0)
    x, c = torch.randn(2, *tiny.shape, generator=rng), tiny.conditions(["a zero", "one"])
    trained = tiny.parameters("xattn")
    before = {k: v.detach().clone() for k, v in tiny.net.named_parameters()}

    def loss():
        assert all(p.grad is None for k, p in tiny.net.named_parameters() if k not in trained)
        return tiny.loss(x, c, tiny.draw(2, rng)).mean()

    fit(trained, loss, Recipe(2, 1e-3, 2), rng=rng)
    moved = {k for k, v in tiny.net.named_parameters() if not torch.equal(v, before[k])}
    assert moved == set(trained)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_black_and_said_without_a_warning(tiny, value):
    x = tiny.sample(ASKED, DDIM)
    sound = tiny.to_images(x)
    x[1, 0, 3, 3] = value
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        images = tiny.to_images(x)
    assert np.array_equal(images[0], sound[0])
    assert images[1].max() == 0
    pixels = DDPM("tiny")
    y = torch.zeros(2, *pixels.shape)
    y[0, 0, 0, 0] = value
    assert [int(image.max()) for image in pixels.to_images(y)] == [0, 128]


def test_bf16_is_fast_where_torch_takes_its_avx512_kernels(monkeypatch):
    """As torch itself says on this machine, whose processor may have bf16 or not."""
    flags = Path("/proc/cpuinfo")
    has_bf16 = flags.is_file() and bool(
        {"avx512_bf16", "amx_bf16"} & set(flags.read_text().split())
    )
    capability = torch.backends.cpu.get_cpu_capability()
    assert precision.is_bf16_fast() == ("AVX512" in capability and has_bf16)
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", "avx2")
    assert not precision.is_bf16_fast()
