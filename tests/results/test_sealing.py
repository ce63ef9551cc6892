"""A result that was changed after it was written says so in every reader; one from before the hashes says nothing."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from result_rows import OTHERS, result_row

from sa_bench import api
from sa_bench.commands.explain import explain
from sa_bench.contracts import SampleSet
from sa_bench.core.errors import SaBenchError
from sa_bench.data.sample_sets import save_samples
from sa_bench.results import sealing
from sa_bench.results.bundles import BUNDLED, write
from sa_bench.results.files import pack_results, read_results, unpack_results, write_result
from sa_bench.results.frames import load_results
from sa_bench.results.sealing import EDITED

SHIPPED = Path(__file__).parents[2] / "docs" / "data" / "searches" / "tune-micro-t2i-1.jsonl.xz"


@pytest.fixture
def run(tmp_path):
    """A run folder of four cells with scores, images and weights; the first is `sa`."""
    for i, row in enumerate([result_row(), *OTHERS]):
        folder = tmp_path / "run" / f"cell-{i}"
        (folder / "scores").mkdir(parents=True)
        scores = pd.DataFrame({"index": range(4), "score": [0.0, 1.0, 0.0, 1.0]})
        scores.to_parquet(folder / "scores" / "forget_top1.parquet", index=False)
        for name in ("forget", "retain", "forget-base", "retain-base"):
            images = np.full((20, 28, 28, 1), i, np.uint8)
            samples = SampleSet(images, np.arange(20), np.arange(20))
            save_samples(samples, folder / f"{name}.safetensors")
        (folder / "model.safetensors").write_bytes(b"weights")
        write_result(folder, row)
    return tmp_path / "run"


def better(folder):
    """The edit that everyone would make: a better number in result.json."""
    path = folder / "cell-0" / "result.json"
    text = path.read_text()
    assert text.count('"value": 0.01,') == 1
    path.write_text(text.replace('"value": 0.01,', '"value": 0.005,'))


def scores(folder):
    path = folder / "cell-0" / "scores" / "forget_top1.parquet"
    pd.DataFrame({"index": range(4), "score": [0.0] * 4}).to_parquet(path, index=False)


def more_scores(folder):
    path = folder / "cell-0" / "scores" / "recovery.parquet"
    pd.DataFrame({"index": range(4), "score": [0.0] * 4}).to_parquet(path, index=False)


def test_what_was_written_reads_back_in_any_order_and_spacing(run, capsys):
    path = run / "cell-0" / "result.json"
    row = json.loads(path.read_text())
    path.write_text(json.dumps(dict(reversed(row.items()))))
    rows = read_results([run])
    assert [r.get("origin", "") for r in rows] == [""] * 4
    assert {"forget-base.safetensors", "model.safetensors", "scores/forget_top1.parquet"} < set(
        rows[0]["files"]
    )
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("change", "what"),
    [(better, "result.json"), (scores, "forget_top1.parquet"), (more_scores, "recovery.parquet")],
)
def test_an_edited_result_is_marked_by_every_reader_and_packed_by_none(
    run, tmp_path, capsys, change, what
):
    change(run)
    rows = read_results([run])
    assert [r.get("origin", "") for r in rows] == [EDITED, "", "", ""]
    said = capsys.readouterr().err
    assert what in said
    assert EDITED in said
    assert said.count("\n") == 1
    assert set(load_results(run).query("method == 'sa'")["origin"]) == {EDITED}
    for format_ in ("markdown", "csv", "latex", "html"):
        text = api.table("leaderboard", [run], format_)
        assert f"sa · {EDITED}" in text.replace(r"$\cdot$", "·").replace("SA ", "sa "), format_
    for ending in ("md", "html"):
        page = api.write_report([run], tmp_path / f"report.{ending}").read_text()
        assert f"sa · {EDITED}" in page
        assert "do not have the hashes that were written with them" in page
    assert f"{what} was {EDITED}" in explain(run / "cell-0", None)
    assert EDITED not in explain(run / "cell-1", None)
    assert EDITED in api.compare([run], f"sa · {EDITED},retrain")
    with pytest.raises(SaBenchError, match=EDITED):
        write(rows, tmp_path / f"x{BUNDLED}")
    again = tmp_path / "again.jsonl.xz"
    again.write_bytes(pack_results(rows))
    assert [r.get("origin", "") for r in unpack_results(again)] == [EDITED, "", "", ""]


@pytest.mark.parametrize("name", ["model", "forget-base"])
def test_weights_and_images_that_were_changed_are_not_bundled(run, tmp_path, name):
    rows = [
        row | {"artifacts": row["artifacts"] | {"samples": {"forget": ""}}}
        for row in read_results([run])
    ]
    (run / "cell-0" / f"{name}.safetensors").write_bytes(b"another")
    with pytest.raises(
        SaBenchError, match=rf"cell-0/{name}\.safetensors is not the file .*{EDITED}"
    ):
        write(rows, tmp_path / f"x{BUNDLED}", models=True)
    assert not (tmp_path / f"x{BUNDLED}").exists()


def test_a_number_changed_in_a_packed_file_is_marked(run, tmp_path, capsys):
    import lzma

    file = tmp_path / "x.jsonl.xz"
    file.write_bytes(pack_results(read_results([run])))
    assert all("origin" not in row for row in unpack_results(file))
    text = lzma.decompress(file.read_bytes()).decode()
    file.write_bytes(lzma.compress(text.replace('"value": 0.01,', '"value": 0.005,', 1).encode()))
    assert [row.get("origin", "") for row in unpack_results(file)].count(EDITED) == 1
    assert EDITED in capsys.readouterr().err


def test_results_of_before_the_hashes_read_without_a_word(capsys):
    rows = read_results([SHIPPED])
    assert rows
    assert not any(sealing.SEAL in row or row.get("origin") for row in rows)
    assert capsys.readouterr().err == ""
