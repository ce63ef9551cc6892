"""The types of result rows agree with the check of rows from outside, and with real rows."""

import ast
import inspect
from pathlib import Path
from typing import get_type_hints

import pytest
from result_rows import ORIGINAL, RETRAIN, result_row

from sa_bench.results import schema
from sa_bench.results.files import unpack_results
from sa_bench.results.rows import find_sample_set

DATA = Path(__file__).parents[2] / "docs" / "data"
PARTS = [
    (
        schema.ResultRow,
        schema.CheckedResult,
        "schema stands_for exit_code files seal folder origin scores units",
    ),
    (schema.Measurement, schema.CheckedMeasurement, ""),
    (schema.Provenance, schema.CheckedProvenance, "started finished plug_ins"),
    (schema.Hardware, schema.CheckedHardware, "machine system"),
]
"""Type, check, and the keys that the check leaves open."""


@pytest.mark.parametrize(("row_type", "check", "unchecked"), PARTS)
def test_types_and_checks_have_the_same_keys_required_and_not(row_type, check, unchecked):
    unchecked = set(unchecked.split())
    required = {name for name, field in check.model_fields.items() if field.is_required()}
    assert row_type.__required_keys__ - unchecked == required
    assert row_type.__optional_keys__ - unchecked == check.model_fields.keys() - required
    assert unchecked <= set(row_type.__annotations__) | row_type.__optional_keys__
    assert not unchecked & check.model_fields.keys()


def list_wrong_keys(row):
    """List the keys of a row that its type lacks, and the required ones that it lacks itself."""
    measurements = row["measurements"]
    parts = [
        (schema.ResultRow, row),
        (schema.Provenance, row["provenance"]),
        (schema.Hardware, row["provenance"]["hardware"]),
        (schema.Artifacts, row["artifacts"]),
        *((schema.StageCost, cost) for cost in row["cost"].values()),
        *((schema.Measurement, m) for m in measurements),
        *((schema.JudgeValue, judge) for m in measurements for judge in m["judges"] or []),
    ]
    return {
        (row_type.__name__, key)
        for row_type, part in parts
        for key in (part.keys() - get_type_hints(row_type).keys())
        | (row_type.__required_keys__ - part.keys())
    }


def test_published_rows_have_the_keys_of_their_type():
    rows = unpack_results(DATA / "micro-t2i-1.jsonl.xz")
    assert rows
    assert set().union(*map(list_wrong_keys, rows)) == set()


def test_hand_made_rows_have_the_keys_of_their_type():
    for row in (result_row(), ORIGINAL, RETRAIN, result_row(error="out of memory")):
        assert list_wrong_keys(row) == set()
    assert list_wrong_keys(result_row(flagz=[])) == {("ResultRow", "flagz")}


def test_the_schema_imports_nothing_heavy():
    imported = {
        name
        for node in ast.walk(ast.parse(inspect.getsource(schema)))
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for name in (
            [node.module] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names]
        )
    }
    assert imported == {"typing", "pydantic"}


def test_the_images_of_a_row_without_a_folder_are_not_those_of_the_current_one(
    tmp_path, monkeypatch
):
    (tmp_path / "forget.safetensors").write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    assert find_sample_set(result_row() | {"folder": ""}, "forget") is None
    row = result_row() | {"folder": str(tmp_path)}
    assert find_sample_set(row, "forget") == tmp_path / "forget.safetensors"
    assert find_sample_set(row, "retain") is None


def test_versions_are_read_once_and_handed_out_as_copies(monkeypatch):
    from sa_bench.results import provenance

    first = provenance.provenance("", {})["versions"]
    kept = dict(first)
    first["torch"] = "0"
    monkeypatch.setattr(provenance, "metadata", None)
    assert provenance.provenance("", {})["versions"] == kept
