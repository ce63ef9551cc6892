"""The command line for tests: in this process, which is quick, or as a process of its own."""

import contextlib
import io
import os
import signal
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from sa_bench.commands.app import main
from sa_bench.core import registry

ROOT = Path(__file__).parents[2]
TINY = [
    "--scale", "quick", "--set", "task.n_forget=20", "--set", "task.n_retain=10", "--set", "task.likelihood_images=10",
    "--set", "task.recovery_budgets=0,5", "--set", "task.recovery_images=10", "--set", "task.feature_images=10",
]  # fmt: skip
"""Options that make a cell seconds long."""


def call_main(*arguments, store, cwd, env=None):
    """Call the command's entry point with these words; return what a finished process has.

    What the command changes for its process is put back. What the package keeps in memory is keyed by the files that it
    was read from, so a command finds nothing of an earlier one but plug-ins named by path, which are forgotten.
    """
    out, err = io.StringIO(), io.StringIO()
    threads, handler = torch.get_num_threads(), signal.getsignal(signal.SIGINT)
    fresh = (warnings.catch_warnings(), torch.random.fork_rng(devices=[]))
    with pytest.MonkeyPatch.context() as patch, fresh[0], fresh[1]:
        patch.chdir(cwd)
        patch.setattr(sys, "argv", ["sa_bench", *map(str, arguments)])
        for name, value in {"SA_BENCH_STORE": str(store), "COLUMNS": "120", **(env or {})}.items():
            patch.setenv(name, value)
        registry.forget_plug_ins()
        try:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                main()
            code = 0
        except SystemExit as stop:
            code = stop.code or 0
        finally:
            registry.forget_plug_ins()
            torch.set_num_threads(threads)
            signal.signal(signal.SIGINT, handler)
    return SimpleNamespace(returncode=code, stdout=out.getvalue(), stderr=err.getvalue())


def start_process(*arguments, store, cwd, env=None, timeout=600):
    """Run `python -m sa_bench ...` to its end as a process of its own."""
    settings = {
        "SA_BENCH_STORE": str(store),
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "COLUMNS": "120",
    }
    done = subprocess.run(
        [sys.executable, "-m", "sa_bench", *map(str, arguments)],
        capture_output=True, text=True, env={**os.environ, **settings, **(env or {})}, cwd=cwd, timeout=timeout,
        check=False,
    )  # fmt: skip
    assert "Traceback" not in done.stderr, done.stderr
    return done
