"""Choose the precision that training calculates in; what names an artifact asks it without torch."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

KERNELS = frozenset({"avx512vl", "avx512bw", "avx512dq"})
"""Flags of a processor for which torch takes its AVX512 kernels, unless ATEN_CPU_CAPABILITY forbids it."""
BF16 = frozenset({"avx512_bf16", "amx_bf16"})


def is_bf16_fast(device: str = "cpu") -> bool:
    """Return whether `device` multiplies bf16 in hardware; if not, autocast only costs accuracy."""
    if device != "cpu":
        import torch

        return torch.cuda.is_bf16_supported(including_emulation=False)
    flags = _read_processor_flags()
    allowed = os.environ.get("ATEN_CPU_CAPABILITY") not in ("avx2", "default")
    return allowed and flags >= KERNELS and bool(flags & BF16)


@cache
def _read_processor_flags() -> frozenset[str]:
    """Read the flags of this machine's processor; none where they cannot be read."""
    try:
        text = Path("/proc/cpuinfo").read_text(errors="ignore")
    except OSError:
        return frozenset()
    line = next((line for line in text.splitlines() if line.startswith("flags")), "")
    return frozenset(line.partition(":")[2].split())


def uses_bf16(precision: str, device: str = "cpu") -> bool:
    """Return whether training is autocast to bf16.

    It is if `precision` is `bf16`, or if it is `auto` and the device multiplies bf16 in hardware.
    """
    return precision == "bf16" or (precision == "auto" and is_bf16_fast(device))
