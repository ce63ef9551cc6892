"""`export`: the model of a result as files, with a card, and clear words where there is none."""

import json

import pytest
from result_rows import result_row

import sa_bench
from sa_bench.commands.export import cell_of_result, export
from sa_bench.core.errors import SaBenchError
from sa_bench.models.vae import VAE

SMALL = ["task.n_forget=20", "task.n_retain=5", "task.metrics=forget_top1"]


def made(tmp_path, method):
    sa_bench.run("mnist_0", method, scale="quick", sets=SMALL, out=tmp_path / "run")
    (cell,) = (p.parent for p in (tmp_path / "run").glob("*/result.json"))
    return cell


def test_a_model_is_written_with_its_card_and_loads(store_env, tmp_path):
    cell = made(tmp_path, "relabel")
    names = {p.name for p in export(cell, tmp_path / "out")}
    assert names == {"model.safetensors", "README.md"}
    VAE().load(tmp_path / "out" / "model.safetensors")
    card = (tmp_path / "out" / "README.md").read_text()
    row = json.loads((cell / "result.json").read_text())
    assert "forget **zero** by relabel," in card
    assert row["artifacts"]["model"] in card
    assert r"Images of c\_f still judged c\_f" in card
    with pytest.raises(SaBenchError, match="not empty"):
        export(cell, tmp_path / "out")


def test_what_changes_no_weight_is_not_handed_out_and_no_result_is_named(store_env, tmp_path):
    with pytest.raises(SaBenchError, match="changes no weight"):
        export(made(tmp_path, "blank"), tmp_path / "out")
    images = tmp_path / "images"
    images.mkdir()
    (images / "result.json").write_text(json.dumps(result_row("external")))
    with pytest.raises(SaBenchError, match="images that `evaluate` measured; there is no model"):
        export(images, tmp_path / "out")
    with pytest.raises(SaBenchError, match="is no file and no folder"):
        export(tmp_path / "nothing", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_plug_in_that_a_result_names_is_not_run_unless_trusted(store_env, tmp_path):
    cell = made(tmp_path, "relabel")
    row = json.loads((cell / "result.json").read_text())
    evil = tmp_path / "evil.py"
    evil.write_text(f"open({str(tmp_path / 'sprung')!r}, 'w')")
    command = row["provenance"]["cell_command"]
    row["provenance"]["cell_command"] = command.replace("--method relabel", f"--method {evil}")
    with pytest.raises(SaBenchError, match=r"names .*evil\.py, whose code would be run.* --trust"):
        cell_of_result(row)
    for wrong in ("", "python -m sa_bench run --task", "python -m sa_bench run --task 'x"):
        row["provenance"]["cell_command"] = wrong
        with pytest.raises(SaBenchError, match="does not make one cell"):
            cell_of_result(row)
    assert not (tmp_path / "sprung").exists()
