"""Keys stay what they were: results of before are found again after code is moved, renamed or made faster."""

import json

import keys
import pytest

FROZEN = json.loads(keys.FROZEN.read_text())
BOARDS = (
    "task mnist_0 quick",
    "task mnist_0_ddpm quick",
    "task mnist_0_t2i quick",
)  # one of each family
HOW = (
    "Keys of %s are others now, so results of before are not found again. To see which: at the commit before, "
    "`python tests/keys.py write FILE`; here, `python tests/keys.py compare FILE`. If they have to change: "
    "`python tests/keys.py write FILE`, then `python tests/keys.py freeze FILE`."
)


def changed(now, asked):
    return [name for name in asked if name not in now or keys.hashed(now[name]) != FROZEN.get(name)]


def test_keys_of_each_family_and_of_the_benchmarks_are_those_of_before():
    now = keys.groups(BOARDS)
    asked = sorted({*BOARDS, *now, *(name for name in FROZEN if name.startswith("benchmark "))})
    assert not (found := changed(now, asked)), HOW % ", ".join(found)


@pytest.mark.slow
def test_keys_of_all_suites_and_combinations_are_those_of_before():
    now = keys.groups()
    assert not (found := changed(now, sorted({*now, *FROZEN}))), HOW % ", ".join(found)


def test_a_changed_key_is_named():
    before = {"suite a": {"one": {"id": "1", "forget": "2"}, "two": {"id": "3"}}}
    now = {"suite a": {"one": {"id": "1", "forget": "4"}}, "suite b": {}}
    assert keys.differences(before, now) == [
        "suite a: one: forget: 2 is now 4",
        "suite a: two: gone",
        "suite b: new",
    ]
    assert keys.hashed(before["suite a"]) != keys.hashed(now["suite a"])
    assert keys.differences(before, before) == []


def test_every_key_of_a_cell_is_there():
    (cell,) = keys.resolve(["mnist_0_t2i"], ["concept_ablation"], "quick")
    with keys.bare_machine():
        found = keys.keys_of_cell(cell)
    stages = {name.split()[0] for name in found}
    assert {
        "id",
        "base",
        "replay",
        "surrogate",
        "own",
        "forget",
        "samples",
        "fingerprint",
        "measure",
    } <= stages
    assert len(found) >= 10 + 3 * len(cell.task.metrics)
