"""What only a GPU can show; skipped without one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from sa_bench.contracts import Request, Sampler
from sa_bench.models.ddpm import DDPM

gpu = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")]


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=gpu)])
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
