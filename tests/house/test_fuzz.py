"""A short, fixed slice of `make fuzz`: the same cases every time, in a child with little memory."""

import subprocess
import sys
from pathlib import Path

import pytest

RUN = Path(__file__).parents[1] / "fuzz" / "run.py"


@pytest.mark.process
def test_damaged_files_of_every_kind_end_in_a_result_or_in_one_line():
    code = f"import sys; sys.path.insert(0, {str(RUN.parent)!r}); import run; sys.exit(bool(run.main(0, 0, count=10)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert "240 cases over 22 readers, 0 failure(s)" in done.stdout
