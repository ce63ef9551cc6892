"""Place workers on devices: which, how many, and whether what they compute with fits."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass

from sa_bench.core.errors import SaBenchError

AUTO = "auto"


@dataclass(frozen=True)
class Gpu:
    """A GPU of this machine."""

    index: int
    mib: int
    """Its memory."""


def list_gpus() -> list[Gpu]:
    """List the GPUs that torch can use here; [] if there are none."""
    import torch

    if not torch.cuda.is_available():
        return []
    return [
        Gpu(i, torch.cuda.get_device_properties(i).total_memory // 2**20)
        for i in range(torch.cuda.device_count())
    ]


def check_device(device: str) -> None:
    """Refuse words that are no device, before torch is loaded.

    Raises:
        SaBenchError: it is none of cpu, cuda, cuda:0, or several GPUs with commas.
    """
    names = [name.strip() for name in device.split(",")]
    is_known = all(re.fullmatch(r"cpu|mps|cuda(:\d+)?", name) for name in names)
    if not is_known or (len(names) > 1 and not all(name.startswith("cuda:") for name in names)):
        raise SaBenchError(f"--device {device}: give cpu, cuda, or GPUs by name, cuda:0,cuda:2.")


def parse_jobs(text: str | int) -> int | None:
    """Parse `--jobs`: a number of workers, or `auto` (None).

    Raises:
        SaBenchError: it is neither, or below 1.
    """
    if text == AUTO:
        return None
    try:
        jobs = int(text)
    except ValueError:
        raise SaBenchError(f"--jobs {text}: a number, or auto.") from None
    if jobs < 1:
        raise SaBenchError(f"--jobs {jobs}: at least 1.")
    return jobs


def place_workers(
    device: str, jobs: int | None, need_mib: int, gpus: Sequence[Gpu] | None = None
) -> list[str]:
    """Choose the device of each worker.

    Args:
        device: `cpu`, `cuda` (any GPU), or GPUs by name, `cuda:0,cuda:2`.
        jobs: number of workers; None takes one for each processor or GPU.
        need_mib: computed memory of one worker's models and training, in MiB.
        gpus: the GPUs of the machine; None asks torch.

    Returns:
        A device per worker. On GPUs each worker has one of its own as long as there are enough;
            further workers share them in turn.

    Raises:
        SaBenchError: a GPU is not there, or two workers on one do not fit.
    """
    if not device.startswith("cuda"):
        processors = max(1, os.cpu_count() or 1)
        return [device] * min(jobs or processors, processors)
    if device == "cuda" and jobs == 1:
        return [device]
    found = list_gpus() if gpus is None else list(gpus)
    chosen = _choose_gpus(device, found)
    jobs = jobs or len(chosen)
    each = -(-jobs // len(chosen))  # workers on the fullest GPU
    smallest = min(chosen, key=lambda gpu: gpu.mib)
    if each > 1 and each * need_mib > smallest.mib:
        fitting = sum(max(1, gpu.mib // max(1, need_mib)) for gpu in chosen)
        raise SaBenchError(
            f"--jobs {jobs}: {each} workers on cuda:{smallest.index} need {each * need_mib:,} MiB by computation and it "
            f"has {smallest.mib:,}; at most --jobs {fitting} fit here."
        )
    return [f"cuda:{chosen[i % len(chosen)].index}" for i in range(jobs)]


def _choose_gpus(device: str, gpus: Sequence[Gpu]) -> list[Gpu]:
    """Choose the GPUs that `--device` names.

    Raises:
        SaBenchError: one of them is not there.
    """
    here = ", ".join(f"cuda:{gpu.index}" for gpu in gpus) or "none"
    if device == "cuda":
        if not gpus:
            raise SaBenchError("--device cuda: no GPU can be used here. Use --device cpu.")
        return list(gpus)
    by_name = {f"cuda:{gpu.index}": gpu for gpu in gpus}
    names = [name.strip() for name in device.split(",")]
    for name in names:
        if name not in by_name:
            raise SaBenchError(f"--device {device}: {name} is not one of the GPUs here ({here}).")
    if len(set(names)) < len(names):
        raise SaBenchError(f"--device {device}: a GPU is named twice.")
    return [by_name[name] for name in names]


def describe_placement(devices: Sequence[str]) -> str:
    """Describe where workers are: `2 on cuda:0, 1 on cuda:1`."""
    counts = {device: list(devices).count(device) for device in dict.fromkeys(devices)}
    return ", ".join(f"{n} on {device}" for device, n in counts.items())
