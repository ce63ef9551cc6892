"""One thread for torch, whether it is loaded already or not."""

import os
import subprocess
import sys
from pathlib import Path

import torch

from sa_bench.engine.threads import one_thread

ROOT = Path(__file__).parents[2]
CODE = """
import os
import sys
from sa_bench.engine.threads import one_thread
finders = list(sys.meta_path)
with one_thread():
    assert "torch" not in sys.modules
assert sys.meta_path == finders
with one_thread():
    import torch
    assert torch.get_num_threads() == 1
assert sys.meta_path == finders
assert torch.get_num_threads() == min(2, os.cpu_count())
"""


def test_torch_has_one_thread_inside_and_its_own_outside():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    with one_thread():
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 2
    torch.set_num_threads(before)


def test_torch_that_is_loaded_inside_has_one_thread_too():
    settings = {"OMP_NUM_THREADS": "2", "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", CODE], check=True, env={**os.environ, **settings})
