"""What made a result: the command, the versions and the machine."""

from __future__ import annotations

import contextlib
import platform
import shlex
import sys
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sa_bench.core.version import __version__

if TYPE_CHECKING:
    pass


PLACES = ("--out", "--without")


PACKAGES = ("torch", "torchvision", "torch-fidelity", "numpy", "scipy", "pandas")
OPTIONAL = ("diffusers", "transformers", "safetensors", "nudenet", "facenet-pytorch", "onnxruntime")


def provenance(command: str, assets: Mapping[str, str], device: str = "cpu") -> dict[str, Any]:
    """Versions, machine and assets behind a result; the GPU's name where it was made on one."""
    versions = {"sa_bench": __version__, "python": platform.python_version()}
    for name in (*PACKAGES, *OPTIONAL):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions |= {name: "absent"} if name in PACKAGES else {}
    hardware = {"machine": platform.machine(), "system": platform.system(), "cpu": _cpu()}
    if device.startswith("cuda"):
        import torch

        with contextlib.suppress(
            RuntimeError, AssertionError
        ):  # a failed cell's device may not answer any more
            hardware["gpu"] = torch.cuda.get_device_name(device)
    return {
        "command": command,
        "versions": versions,
        "hardware": hardware,
        "assets": dict(assets),
    }


def same_environment(row: Mapping[str, Any], device: str) -> bool:
    """Whether a result was made with these versions on this machine; what it does not name counts as the same."""
    told, here = row["provenance"], provenance("", {}, device)
    devices = {cost.get("device", "cpu") for cost in row["cost"].values()}
    return devices <= {device} and all(
        here[part].get(key) == value
        for part in ("versions", "hardware")
        for key, value in told[part].items()
    )


def _cpu() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(errors="ignore").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or "unknown"


def command_line() -> str:
    """The command to repeat what is running."""
    return "python -m sa_bench " + shlex.join(strip_output_options(sys.argv[1:]))


def strip_output_options(arguments: Sequence[str]) -> list[str]:
    """A command's arguments without what only says where results go and which are there already."""
    kept, skip = [], False
    for argument in arguments:
        name, given, _ = argument.partition("=")
        if skip or name in (*PLACES, "--overwrite"):
            skip = not skip and name in PLACES and not given
            continue
        kept.append(argument)
    return kept
