"""What only a GPU can show; skipped without one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from gpu import sd

from sa_bench import api
from sa_bench.contracts import Request, Sampler
from sa_bench.engine.cells import resolve
from sa_bench.engine.metering import Meter
from sa_bench.models.ddpm import DDPM

gpu = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")]


DEVICES = [pytest.param("cpu", marks=pytest.mark.slow), pytest.param("cuda", marks=gpu)]


@pytest.mark.parametrize("device", DEVICES)
def test_the_check_prints_its_table(device):
    check = Path(__file__).with_name("check.py")
    done = subprocess.run(
        [sys.executable, str(check), "--device", device, "--tiny"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    words = ("base training", "forgetting", "Fisher", "sampling", "bf16 against fp32")
    assert all(any(word in line for line in done.stdout.splitlines()) for word in words)
    smoke = [line for line in done.stdout.splitlines() if line.startswith("smoke:")]
    assert sum("steps/s" in line and "computed" in line for line in smoke) == 6
    assert sum("SA" in line and "gradient checkpointing" in line for line in smoke) == 3
    assert {line.split()[2] for line in smoke if " ESD " in line} == {"full,", "xattn,", "noxattn,"}
    assert sum("s/image" in line and "SLD" in line for line in smoke) == 2
    assert sum("timesteps/s" in line for line in smoke) == 1


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_an_image_of_the_gpu_is_the_cpus_within_one_grey_level():
    rows, sampler = [Request(i % 10, i) for i in range(4)], Sampler("ddim", 10, guidance=3.0)
    model = DDPM("micro")
    one, two = (
        model.to_images(model.sample(rows, sampler)),
        model.to("cuda").to_images(model.sample(rows, sampler)),
    )
    assert abs(one.astype(int) - two.astype(int)).max() <= 1


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_where_the_cards_memory_is_short_fewer_images_are_made_at_once(capsys):
    """A real shortage: the process may hold a quarter of what all images together take."""
    rows, sampler = [Request(i % 10, i) for i in range(256)], Sampler("ddim", 2, guidance=3.0)
    model = DDPM("cifar10", (32, 32, 3)).to("cuda")
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    held, total = torch.cuda.memory_allocated(), torch.cuda.get_device_properties(0).total_memory
    plenty = model.to_images(model.sample(rows, sampler)).astype(int)
    peak = torch.cuda.max_memory_reserved()
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction((held + (peak - held) / 4) / total)
    try:
        scarce = model.to_images(model.sample(rows, sampler)).astype(int)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert "out of memory with 256 images at once; trying 128" in capsys.readouterr().err
    assert abs(scarce - plenty).max() <= 1


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_a_small_stage_after_a_big_one_has_small_peaks(tmp_path):
    meter, costs = Meter("cuda"), []
    for mib in (800, 1):
        block = lambda folder, n=mib: {"sum": float(torch.ones(n * 2**18, device="cuda").sum())}  # noqa: E731
        costs.append(meter.timed(block, tmp_path)["cost"])
    assert costs[0]["device_peak_mib"] >= 800
    assert costs[1]["device_peak_mib"] < 100
    assert costs[1]["peak_mib"] is not None


FEW = (
    "task.n_forget=4", "task.n_retain=4", "task.replay_images=4", "task.surrogate_images=4", "task.metrics=retain_drift",
    "sa.steps=3", "sa.batch=2", "sa.fisher.n=2", "sa.fisher.timesteps=4", "esd.steps=2",
    "task.sampler.steps=4", "esd.ddim_steps=4",
)  # fmt: skip


@pytest.mark.parametrize("device", DEVICES)
def test_the_command_forgets_a_concept_in_a_model_of_stable_diffusions_size(
    device, tmp_path, monkeypatch
):
    """From the diffusers folder to the report, every stage: replay, surrogate, F, forgetting, delta, images, scores."""
    monkeypatch.setenv("SA_BENCH_STORE", str(tmp_path / "store"))
    model, size = (
        sd.write(tmp_path / "base", tiny=device == "cpu", device=device),
        64 if device == "cpu" else 512,
    )
    sets = [*FEW, f"task.model={model}", f"task.size={size}"]
    cells = resolve(["concept"], ["original", "sa", "esd", "sld"], "full", sets=sets)
    results, _, report = api.run_folder(
        cells, jobs=1, out=tmp_path / "run", overwrite=False, device=device
    )
    for result in results:
        print(result["method"], result["error"], result["cost"])
    assert [r["error"] for r in results] == [None] * 4
    assert report.exists()
    drift = {r["method"]: r["measurements"][0]["value"] for r in results}
    assert drift["original"] == 0
    assert all(drift[method] > 0 for method in ("sa", "esd", "sld"))
