"""Results as Parquet: every measurement, plain columns, the schema's version, and the documented example runs."""

import io
import json
import re
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest
from result_rows import OTHERS, result_row
from typer.testing import CliRunner

from sa_bench.cli import app
from sa_bench.frames import parquet
from sa_bench.results import SCHEMA, load_results, packed

ROOT = Path(__file__).parent.parent


def test_every_measurement_is_a_row_and_a_failed_cell_one_too():
    rows = [result_row(fields={"lam": 3.0}, recovery="no model"), result_row("esd", error="broken"), *OTHERS]
    data = parquet(rows)
    frame = pd.read_parquet(io.BytesIO(data))
    assert len(frame) == 3 * 4 + 1
    first = frame[(frame.method == "sa") & (frame.name == "forget_top1")].iloc[0]
    assert (first.value, first.n, first.role, first.cpu_s) == (0.01, 200, "primary", 2.0)
    assert json.loads(first.fields) == {"lam": 3.0}
    assert json.loads(first.fingerprint)["metric"] == "forget_top1"
    missing = frame[(frame.method == "sa") & (frame.name == "recovery")].iloc[0]
    assert pd.isna(missing.value)
    assert missing.reason == "no model"
    (failed,) = frame[frame.method == "esd"].to_dict("records")
    assert (failed["status"], failed["error"]) == ("failed", "broken")
    assert pd.isna(failed["name"])
    assert pq.read_schema(io.BytesIO(data)).metadata[b"sa_bench_schema"] == str(SCHEMA).encode()


def test_pack_writes_it(tmp_path):
    source, out = tmp_path / "some.jsonl.xz", tmp_path / "results.parquet"
    source.write_bytes(packed([result_row(), *OTHERS]))
    done = CliRunner().invoke(app, ["pack", str(source), str(out)])
    assert done.exit_code == 0, done.output
    assert len(pd.read_parquet(out)) == 12


def test_the_documented_example_runs(monkeypatch, capsys):
    text = (ROOT / "docs" / "results-data.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", text, re.S)
    monkeypatch.chdir(ROOT)
    exec(compile(code, "results-data.md", "exec"), {})
    out = capsys.readouterr().out
    assert "retain_bound" in out
    assert re.search(r"^2 +-0\.\d+", out, re.M)  # SA keeps more on every base model


def test_every_column_is_documented(tmp_path):
    source = tmp_path / "some.jsonl.xz"
    source.write_bytes(packed([result_row()]))
    text = (ROOT / "docs" / "results-data.md").read_text()
    for column in load_results(source):
        assert f"`{column}`" in text, column


@pytest.mark.parametrize("name", ["x.csv", "x.xz"])
def test_another_ending_is_refused(tmp_path, name):
    from sa_bench.errors import SaBenchError

    source = tmp_path / "some.jsonl.xz"
    source.write_bytes(packed([result_row()]))
    done = CliRunner().invoke(app, ["pack", str(source), str(tmp_path / name)])
    assert isinstance(done.exception, SaBenchError)
