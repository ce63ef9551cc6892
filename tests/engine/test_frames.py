"""Results as Parquet: every measurement, plain columns, the schema's version, and the documented example runs."""

import io
import json
import lzma
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from result_rows import OTHERS, result_row
from sa_bench.reports.html import sheet
from typer.testing import CliRunner

from sa_bench.commands.app import app
from sa_bench.contracts import SampleSet
from sa_bench.core.errors import SaBenchError
from sa_bench.data.sample_sets import save_samples
from sa_bench.results.files import SCHEMA, pack_results, read_columns_of
from sa_bench.results.frames import load_results, write_parquet

ROOT = Path(__file__).parents[2]


def test_every_measurement_is_a_row_and_a_failed_cell_one_too():
    rows = [
        result_row(fields={"lam": 3.0}, recovery="no model"),
        result_row("esd", error="broken"),
        *OTHERS,
    ]
    data = write_parquet(rows)
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


def test_whose_bundle_a_row_comes_from_is_a_column():
    rows = [result_row() | {"origin": "Ada [9da55c6a]"}, *OTHERS]
    frame = pd.read_parquet(io.BytesIO(write_parquet(rows)))
    assert set(frame[frame.method == "sa"].origin) == {"Ada [9da55c6a]"}
    assert set(frame[frame.method != "sa"].origin) == {""}


def test_pack_writes_it(tmp_path):
    source, out = tmp_path / "some.jsonl.xz", tmp_path / "results.parquet"
    source.write_bytes(pack_results([result_row(), *OTHERS]))
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
    source.write_bytes(pack_results([result_row()]))
    text = (ROOT / "docs" / "results-data.md").read_text()
    for column in load_results(source):
        assert f"`{column}`" in text, column


DAMAGED = ({"schema": 1}, {"schema": "x"}, [], {"schema": 1, **result_row(), "measurements": [{}]})


@pytest.mark.parametrize("row", DAMAGED, ids=["bare", "kind", "list", "measurement"])
def test_what_is_no_result_is_said_in_one_line_wherever_it_lies(row, tmp_path):
    folder, file = tmp_path / "run" / "cell", tmp_path / "some.jsonl.xz"
    folder.mkdir(parents=True)
    (folder / "result.json").write_text(json.dumps(row))
    file.write_bytes(lzma.compress(json.dumps(row).encode()))
    for place, said in ((tmp_path / "run", "is not a result file"), (file, "is no packed results")):
        with pytest.raises(SaBenchError, match=said) as found:
            load_results(place)
        assert "\n" not in str(found.value)


def test_a_packed_file_without_results_is_no_empty_board(tmp_path):
    file = tmp_path / "some.jsonl.xz"
    file.write_bytes(lzma.compress(b""))
    with pytest.raises(SaBenchError, match="it holds no result"):
        load_results(file)


def test_the_table_knows_its_schema(tmp_path):
    file = tmp_path / "some.jsonl.xz"
    file.write_bytes(pack_results([result_row()]))
    assert load_results(file).attrs == {"sa_bench_schema": SCHEMA}


def test_files_cut_short_beside_a_result_are_named(tmp_path):
    (tmp_path / "scores").mkdir()
    pd.DataFrame({"score": [0.0, 1.0]}).to_parquet(tmp_path / "scores" / "forget_top1.parquet")
    save_samples(
        SampleSet(np.zeros((2, 4, 4, 1), np.uint8), np.zeros(2, int), np.zeros(2, int)),
        tmp_path / "forget.safetensors",
    )
    for path in (tmp_path / "scores" / "forget_top1.parquet", tmp_path / "forget.safetensors"):
        path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(SaBenchError, match=r"forget_top1\.parquet is no table of scores"):
        read_columns_of(result_row(folder=str(tmp_path)), "forget_top1")
    with pytest.raises(SaBenchError, match=r"forget\.safetensors holds no sample set"):
        sheet(result_row(folder=str(tmp_path)), "forget")


@pytest.mark.parametrize("name", ["x.csv", "x.xz"])
def test_another_ending_is_refused(tmp_path, name):
    source = tmp_path / "some.jsonl.xz"
    source.write_bytes(pack_results([result_row()]))
    done = CliRunner().invoke(app, ["pack", str(source), str(tmp_path / name)])
    assert isinstance(done.exception, SaBenchError)
