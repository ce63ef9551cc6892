"""Provenance of a result: the command, the versions and the machine."""

from __future__ import annotations

import contextlib
import json
import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import metadata
from pathlib import Path

from sa_bench.core.version import __version__
from sa_bench.results.schema import Hardware, Provenance, ResultRow

PLACES = ("--out", "--without", "--part")
"""Options that only say where results go, which of them exist already, and which share is run."""
PACKAGES = ("torch", "torchvision", "torch-fidelity", "numpy", "scipy", "pandas")
OPTIONAL = ("diffusers", "transformers", "safetensors", "nudenet", "facenet-pytorch", "onnxruntime")


def provenance(command: str, assets: Mapping[str, str], device: str = "cpu") -> Provenance:
    """Collect versions, commit, machine (with the GPU, if one was used) and assets behind a result."""
    hardware: Hardware = {
        "machine": platform.machine(),
        "system": platform.system(),
        "cpu": _read_cpu_name(),
    }
    if device.startswith("cuda"):
        import torch

        # The device of a failed cell may no longer answer.
        with contextlib.suppress(RuntimeError, AssertionError):
            hardware["gpu"] = torch.cuda.get_device_name(device)
    commit = _read_commit()
    return {
        "command": command,
        **({"commit": commit} if commit else {}),
        "versions": dict(_read_versions()),
        "hardware": hardware,
        "assets": dict(assets),
    }


def same_environment(row: ResultRow, device: str) -> bool:
    """Test whether a result's versions and hardware match this machine.

    Entries that it lacks are ignored.
    """
    recorded, current = row["provenance"], provenance("", {}, device)
    devices = {cost.get("device", "cpu") for cost in row["cost"].values()}
    return devices <= {device} and all(
        current[section].get(key) == value
        for section in ("versions", "hardware")
        for key, value in recorded[section].items()
    )


@cache  # every cell asks, and a file is parsed for each library
def _read_versions() -> Mapping[str, str]:
    """Read the versions of Python, of the package and of the libraries behind its numbers."""
    versions = {"sa_bench": __version__, "python": platform.python_version()}
    for name in (*PACKAGES, *OPTIONAL):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions |= {name: "absent"} if name in PACKAGES else {}
    return versions


@cache
def _read_commit() -> str:
    """Read the git commit of this package's code, 40 hex digits; "" where there is none.

    " + changes" follows where files of the checkout differ from it.
    """
    with contextlib.suppress(metadata.PackageNotFoundError, ValueError, KeyError):
        origin = metadata.distribution("sa_bench").read_text("direct_url.json")
        if origin and (commit := json.loads(origin).get("vcs_info", {}).get("commit_id")):
            return str(commit)
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return ""

    def ask_git(*arguments: str) -> str:
        options = {"capture_output": True, "text": True, "check": True, "timeout": 10}
        return subprocess.run(["git", "-C", str(root), *arguments], **options).stdout.strip()

    try:
        changed = ask_git("status", "--porcelain", "--untracked-files=no")
        return ask_git("rev-parse", "HEAD") + (" + changes" if changed else "")
    except (OSError, subprocess.SubprocessError):  # no git, or a repository of somebody else
        return ""


@cache
def _read_cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(errors="ignore").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or "unknown"


def command_line() -> str:
    """Write the command that repeats the running one; "" in a notebook or another session without one."""
    program, *arguments = sys.argv or [""]
    name = Path(program).name
    if name in ("sa_bench", "sa_bench.exe", "__main__.py") or "sa_bench" in Path(program).parts:
        return "python -m sa_bench " + shlex.join(strip_output_options(arguments))
    is_script = name.endswith(".py") and "ipykernel" not in name
    return shlex.join(["python", program, *arguments]) if is_script else ""


def strip_output_options(arguments: Sequence[str]) -> list[str]:
    """Strip a command's arguments of the options that only say where results are."""
    stripped, skip = [], False
    for argument in arguments:
        name, has_value, _ = argument.partition("=")
        if skip or name in (*PLACES, "--overwrite"):
            skip = not skip and name in PLACES and not has_value
            continue
        stripped.append(argument)
    return stripped
