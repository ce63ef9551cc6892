"""docs/benchmarks.md from pytest-benchmark's JSON: `python tests/benchmarks/report.py in.json out.md`."""

import json
import sys
from pathlib import Path

HEAD = """# Speed, measured

Written by `make bench` from [tests/benchmarks](../tests/benchmarks/test_speed.py): both sides alternate in one run on one
thread, medians; the machine is noisy, so read the ratios. Targets are asserted: a miss fails the run.

"""

GPU = "\nFigures of a GPU, from `make gpu-check`, are in [gpu.md](gpu.md).\n"


def main(source: Path, target: Path) -> None:
    """Write the table."""
    facts = json.loads(source.read_text())
    cpu, python = facts["machine_info"]["cpu"], facts["machine_info"]["python_version"]
    lines = ["| what | measured | target | against |", "|---|---|---|---|"]
    for bench in facts["benchmarks"]:
        row = bench["extra_info"]
        lines.append(f"| {row['what']} | {row['figure']} | {row['target']} | {row['against']} |")
    machine = f"\n{cpu.get('brand_raw', 'CPU unknown')}, one thread, Python {python}, {facts['datetime'][:10]}.\n"
    target.write_text(HEAD + "\n".join(lines) + "\n" + machine + GPU)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
