"""Describe in one line why a command cannot go on."""

from __future__ import annotations

import re
import traceback
from collections.abc import Sequence
from pathlib import Path

from sa_bench.commands.help import PROGRAM
from sa_bench.core.errors import NO_MEMORY, first_line, is_out_of_memory


def describe_misuse(message: str, arguments: Sequence[str]) -> str:
    """Describe what is wrong with a command line, and what to do where that is plain."""
    if found := re.fullmatch(r"Got unexpected extra arguments?(?:\(s\))? \((.*=.*)\)\.?", message):
        return f"Values of fields go behind --set: --set {found[1].replace(' ', ' --set ')}"
    if message.startswith("No such option") and arguments[0].startswith("-"):
        return f"{message.rstrip('.')}. Options follow the command: {PROGRAM} run --task ..."
    return f"{message.rstrip('.')}. See --help."


def describe_place(error: BaseException) -> str:
    """Describe an exception and the last place in the code that it went through."""
    frames = traceback.extract_tb(error.__traceback__)
    if not frames:
        return first_line(error)
    return f"{first_line(error)}, {Path(frames[-1].filename).name} line {frames[-1].lineno}"


def describe_machine_failure(error: Exception) -> str | None:
    """Describe a failure of the machine that no command has reported: no memory, a full disk.

    Returns:
        None for any other exception.
    """
    from sa_bench.core.disk import describe_failure

    if is_out_of_memory(error):
        return f"{NO_MEMORY} ({first_line(error)})"
    where = getattr(error, "filename", None) or "standard output"
    return describe_failure(error, Path(str(where))) if isinstance(error, OSError) else None
