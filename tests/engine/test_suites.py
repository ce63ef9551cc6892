"""Suites: the cells of several runs under one name; a mistake in one is a line, not a traceback."""

import pytest

from sa_bench.contracts import key_values
from sa_bench.core.errors import SaBenchError
from sa_bench.core.store import digest
from sa_bench.core.suite_files import list_suites
from sa_bench.engine import suites
from sa_bench.engine.cells import cell_command, resolve

GOOD = """# Two of them
[[run]]
task = ["mnist_0"]
method = ["sa", "l2"]
sweep = ["sa.lam=1,10"]
[[run]]
task = ["mnist_0"]
method = ["sa"]
base_seed = [0, 1]
set = ["lam=10"]
"""


def suite(tmp_path, text):
    path = tmp_path / "mine.toml"
    path.write_text(text)
    return str(path)


def test_cells_of_all_runs_each_once(tmp_path):
    found = [
        (c.method, c.fields["lam"], c.base_seed)
        for c in suites.resolve_suite(suite(tmp_path, GOOD))
    ]
    assert found == [("sa", 1.0, 0), ("sa", 10.0, 0), ("l2", 50.0, 0), ("sa", 10.0, 1)]


@pytest.mark.parametrize("name", [name for name, _ in list_suites()])
def test_the_suites_that_ship_can_be_resolved_and_say_what_they_are(name):
    assert suites.resolve_suite(name)
    assert len(dict(list_suites())[name]) > 20


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("[[run]]", "[run", "is no suite"),
        ("[[run]]", "[[cells]]", "is no suite"),
        ("[[run]]", "[run]", "is no suite"),
        ("# Two of them\n", "base_seed = [0, 1]\n", "base_seed stands outside"),
        ("sweep", "scale = 3\nsweep", "scale must be a text"),
        ('["lam=10"]', '["task.sampler=3"]', "sampler='3' has fields of its own"),
        ('method = ["sa", "l2"]\n', "", "run 1: method is missing"),
        ('["sa", "l2"]', '"sa"', "method must be a list of texts"),
        ("[0, 1]", '["0"]', "base_seed must be a list of whole numbers"),
        ("[0, 1]", "[true]", "base_seed must be a list of whole numbers"),
        ("sweep", "sweeps", "Did you mean"),
        ('["lam=10"]', '["lamb=10"]', "run 2: Unknown field"),
        ('method = ["sa"]', 'method = ["saa"]', "run 2: Unknown method"),
    ],
)
def test_mistakes_name_the_file_and_the_run(tmp_path, old, new, says):
    with pytest.raises(SaBenchError, match=r"mine\.toml") as caught:
        suites.resolve_suite(suite(tmp_path, GOOD.replace(old, new)))
    assert says in str(caught.value)


PLUG_IN = """
from dataclasses import dataclass
from pathlib import Path

Path({sprung!r}).write_text("ran")


@dataclass(frozen=True)
class Mine:
    presets = {{}}
    needs = ()
    standing = "method"

    def forget(self, model, task, run):
        return model
"""


@pytest.mark.parametrize("key", ["task", "method", "metric"])
def test_a_suite_runs_no_code_that_it_names_unless_it_is_trusted(tmp_path, key):
    sprung = tmp_path / "sprung"
    (tmp_path / "mine.py").write_text(PLUG_IN.format(sprung=str(sprung)))
    named = {"task": ["mnist_0"], "method": ["sa"]} | {key: [str(tmp_path / "mine.py")]}
    text = "[[run]]\n" + "".join(f"{k} = {v}\n".replace("'", '"') for k, v in named.items())
    with pytest.raises(
        SaBenchError, match=r"run 1 names .*mine\.py, whose code would be run.* --trust"
    ) as caught:
        suites.resolve_suite(suite(tmp_path, text))
    assert "\n" not in str(caught.value)
    assert not sprung.exists()
    if key == "method":
        (cell,) = suites.resolve_suite(suite(tmp_path, text), trust=True)
        assert cell.method == "mine"
        assert sprung.exists()


def test_a_suite_of_more_cells_than_can_be_meant_is_refused_before_one_is_made(tmp_path):
    sweeps = [f"sa.{name}=" + ",".join("1" * 200) for name in ("lam", "steps", "lr")]
    with pytest.raises(SaBenchError, match="16,000,000 cells; 100,000 at most"):
        suites.resolve_suite(
            suite(tmp_path, GOOD.replace('["sa.lam=1,10"]', str(sweeps).replace("'", '"')))
        )


@pytest.mark.parametrize(
    "raw", [b"[[run]]\na = " + b"[" * 5000, b"\xff\xfe", b"#" * 2**21, b'a = "\xed\xa0\x80"']
)
def test_what_is_no_suite_is_one_line(tmp_path, raw):
    path = tmp_path / "mine.toml"
    path.write_bytes(raw)
    with pytest.raises(SaBenchError, match=r"mine\.toml is no suite: ") as caught:
        suites.resolve_suite(str(path))
    assert "\n" not in str(caught.value)


def test_unknown_suites():
    with pytest.raises(SaBenchError, match="tune-micro-1"):
        suites.resolve_suite("tune-micro")
    with pytest.raises(SaBenchError, match="no suite file"):
        suites.resolve_suite("there/is/none.toml")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["run", "--suite", "tune-micro-1", "--task", "mnist_0"], "give it without these options"),
        (["plan", "--suite", "tune-micro-1", "--seed", "1"], "give it without these options"),
        (["run"], "--task and --method, or --suite"),
        (["run", "--task", "mnist_0"], "--task and --method, or --suite"),
    ],
)
def test_suite_or_task_and_method_on_the_command_line(cli, arguments, says):
    assert says in cli(*arguments, check=2).stderr


def test_the_command_of_a_cell_makes_that_cell():
    (cell,) = resolve(
        ["mnist_0_r1000"], ["sa"], "quick", [3], [1],
        ["task.concept=3", "sa.lam=7", "fisher.n=50", "task.metrics=recall,fid"], [], ["kid"],
    )  # fmt: skip
    words = cell_command(cell).split()
    options = list(zip(words[4::2], words[5::2], strict=True))
    sets = [value for name, value in options if name == "--set"]
    given = dict(options)
    (again,) = resolve(
        [given["--task"]], [given["--method"]], given["--scale"], [int(given["--seed"])],
        [int(given["--base-seed"])], sets, [], given["--metric"].split(","),
    )  # fmt: skip
    assert again.id == cell.id


def test_cells_with_equal_tasks_hold_one_task():
    """What `plan` finds out for a task it finds out once, not once a run of the suite."""
    tasks = [cell.task for cell in suites.resolve_suite("micro-1")]
    assert len(tasks) > 100
    assert len({id(task) for task in tasks}) == len({digest(key_values(task)) for task in tasks})
