"""Every cell of every published table: the command printed beside it makes results that can end in each verdict."""

import shlex

import pytest

from sa_bench.analysis.paper_tables import load_layouts, make_published_table
from sa_bench.analysis.published import is_of, load_numbers
from sa_bench.core import registry
from sa_bench.core.fields import split_setting
from sa_bench.core.seeds import check_seeds
from sa_bench.core.store import digest
from sa_bench.engine.cell_results import blank_result
from sa_bench.engine.cells import resolve

TABLES = [name for name, layout in load_layouts().items() if not layout.get("alone")]


def cells_of(command):
    """The cells of a printed `run` command, as the command line resolves them."""
    words = shlex.split(command)[4:]
    options, sets = dict(zip(words[::2], words[1::2], strict=True)), []
    for name, value in zip(words[::2], words[1::2], strict=True):
        if name == "--set":
            split_setting(value)
            sets.append(value)
    seeds = [
        check_seeds(options.get(o, "0").split(","), o)
        for o in ("--seed", "--base-seed", "--sample-seed")
    ]
    return resolve(
        options["--task"].split(","), options["--method"].split(","), options["--scale"], seeds[0], seeds[1], sets,
        sample_seeds=seeds[2],
    )  # fmt: skip


def result(cell, metric, value):
    """A done result of `cell` whose `metric` is `value` by every judge that it asks."""
    row = blank_result(cell, "") | {"status": "done"}
    if row["task_values"]["prompts"]:  # with the published lists of prompts, which a user fetches
        row["task_values"]["prompts"]["files"] = dict(
            registry.get_task(cell.task.name).prompts.files
        )
    same = getattr(registry.get_method(cell.method), "deterministic", False)
    row["artifacts"] = {"model": digest([cell.base_seed, 0 if same else cell.seed]), "samples": {}}
    measured = "celebrity_score" if metric == "celebrity_score_std" else metric.partition("[")[0]
    panel = {"entropy": True, "forget_probability": True}.get(metric, False)
    extra = {"given_face": {"std": value}} if metric == "celebrity_score_std" else {}
    row["measurements"] = [{
        "name": measured, "role": "secondary", "title": metric, "value": value, "low": None, "high": None, "interval": None,
        "n": 100, "n_unit": "image", "unit": None, "better": "lower", "base": 0.9, "reason": None, "extra": extra,
        "judges": [{"judge": j, "value": value} for j in cell.task.judges] if panel else [],
        "fingerprint": {"metric": measured}, "source": "", "ledger": None,
    }]  # fmt: skip
    return row


def comparable():
    for name in TABLES:
        for entry in load_numbers():
            if not entry.never and any(
                text in entry.source for text in load_layouts()[name]["match"]
            ):
                yield pytest.param(
                    name, entry, id=f"{name} {entry.task} {entry.method} {entry.metric}"
                )


def test_there_is_something_to_compare():
    assert len(list(comparable())) > 20


@pytest.mark.parametrize(("name", "entry"), list(comparable()))
def test_the_command_of_a_cell_can_end_in_each_verdict(name, entry):
    empty = make_published_table(name, [])
    label = next(
        row
        for row in empty.rows
        for e in row.entries
        if e.published == entry.value and row.label.startswith(entry.method)
    )
    cells = [c for c in cells_of(label.command) if c.task.name == entry.task]
    assert len(cells) == 3

    def verdict(values):
        rows = [
            result(cell, entry.metric, value) for cell, value in zip(cells, values, strict=True)
        ]
        assert all(is_of(entry, row) for row in rows)
        found = {
            e.verdict
            for row in make_published_table(name, rows).rows
            for e in row.entries
            if e.published == entry.value
        }
        return found - {"not run"}

    near, far = entry.margin / 20, 10 * entry.margin
    assert verdict([entry.value - near, entry.value, entry.value + near]) == {"consistent"}
    assert verdict([entry.value + far - near, entry.value + far, entry.value + far + near]) == {
        "differs"
    }
    (noisy,) = verdict([entry.value - far, entry.value, entry.value + far])
    assert noisy.startswith("inconclusive (too noisy")
