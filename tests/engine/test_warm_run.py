"""What is stored is found, measured and reported without torch; `plan` needs it no more."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CODE = """
import sys
from sa_bench.commands.app import main
sys.argv = ["sa_bench", *ARGUMENTS]
try:
    main()
except SystemExit as stop:
    assert not stop.code, stop.code
loaded = {"torch", "diffusers", "pandas"} & set(sys.modules)
assert not loaded, loaded
"""


@pytest.mark.process
def test_a_run_of_what_is_stored_and_a_plan_load_no_torch(cli, tiny, shared_store, tmp_path):
    cell = ["--task", "mnist_0", "--method", "original", *tiny]
    cli("run", *cell, "--out", "first", check=0)
    env = {"PYTHONPATH": str(ROOT), "PATH": "", "SA_BENCH_STORE": str(shared_store)}
    for arguments in (
        ["run", *cell, "--out", "again"],
        ["plan", *cell],
        ["plan", "--suite", "micro-1"],
    ):
        done = subprocess.run(
            [sys.executable, "-c", CODE.replace("ARGUMENTS", repr(arguments))],
            cwd=tmp_path, env=env, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, (arguments[:2], done.stderr)
