"""What is kept in memory follows the files that it was read from, not their names."""

import os
import shutil

import pytest
from archives import write_cifar10, write_stl10

from sa_bench.core.file_state import cached_by, cached_digest, read_state
from sa_bench.data import datasets
from sa_bench.results.files import read_columns_of


def test_a_file_that_is_replaced_is_read_again_though_size_and_time_are_the_same(tmp_path):
    path, calls = tmp_path / "a", []

    @cached_by(read_state, maxsize=4)
    def read(path):
        calls.append(path)
        return path.read_text()

    path.write_text("one")
    times = (path.stat().st_atime_ns, path.stat().st_mtime_ns)
    assert [read(path), read(path)] == ["one", "one"]
    assert len(calls) == 1
    first = cached_digest(path)
    other = tmp_path / "b"
    other.write_text("two")
    os.utime(other, ns=times)
    other.replace(path)
    assert read(path) == "two"
    assert cached_digest(path) != first


@pytest.mark.parametrize(("name", "write"), [("cifar10", write_cifar10), ("stl10", write_stl10)])
def test_another_data_folder_or_a_replaced_archive_is_seen(tmp_path, monkeypatch, name, write):
    monkeypatch.setenv("SA_BENCH_STORE", str(tmp_path / "store"))
    contents = []
    for folder, n in (("a", 3), ("b", 4)):
        (tmp_path / folder).mkdir()
        write(tmp_path / folder, n)
        monkeypatch.setenv("SA_BENCH_DATA", str(tmp_path / folder))
        contents.append((datasets.load(name).content, len(datasets.load(name).train)))
    monkeypatch.setenv("SA_BENCH_DATA", str(tmp_path / "a"))
    assert (
        (datasets.load(name).content, len(datasets.load(name).train)) == contents[0] != contents[1]
    )
    shutil.rmtree(tmp_path / "a")
    (tmp_path / "a").mkdir()
    write(tmp_path / "a", 4)
    assert (datasets.load(name).content, len(datasets.load(name).train)) == contents[1]


def test_scores_of_a_run_made_again_are_read_again(tmp_path):
    import pandas as pd

    (tmp_path / "scores").mkdir()
    row = {"folder": str(tmp_path), "task_values": {"prompts": None}}
    for score in (0.0, 1.0):
        pd.DataFrame({"score": [score]}).to_parquet(tmp_path / "scores" / "fid.parquet")
        assert read_columns_of(row, "fid")["score"].tolist() == [score]
