"""Components of others: by path and by entry point, in every command, keyed by their source."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from sa_bench.commands.check import check
from sa_bench.core import registry
from sa_bench.core.errors import SaBenchError
from sa_bench.engine.cells import resolve

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "docs" / "examples" / "finetune.py"
METRIC = '''"""How bright c_f's images are."""

from sa_bench.contracts import View, metric
from sa_bench.contracts import Measured
from sa_bench.statistics import bounded_mean


@metric(version=1, title="Brightness", better=None, unit="grey", requires=("samples",), source="a test", fields=("concept",))
def brightness(view: View) -> Measured:
    """Mean pixel of c_f's images, in [0, 1]."""
    images = view.samples["forget"]
    return bounded_mean(images.images.reshape(len(images), -1).mean(1) / 255, {"seed": images.seeds})
'''
FEW = ("--set", "task.metrics=forget_top1")
TASK = '''"""Another digit as a task of one's own."""

from dataclasses import replace

from sa_bench.core import registry

mine = replace(registry.get_task("mnist_0"), name="mnist_seven", title="MNIST forgets 7", concept=7, relabel_to=1)
'''


def test_the_example_of_the_documents_is_short_and_keeps_the_contract():
    (name,) = registry.register("method", str(EXAMPLE))
    found = check("method", name)
    assert [f.text for f in found if not f.kept] == []
    code = [line for line in EXAMPLE.read_text().splitlines() if line.strip()]
    assert len(code) <= 45


def test_a_method_by_path_runs_beside_built_in_ones(cli, tiny, tmp_path):
    shutil.copy(EXAMPLE, tmp_path / "finetune.py")
    command = ["run", "--task", "mnist_0", "--method", "./finetune.py,original", *tiny, *FEW, "--set", "finetune.steps=3",
               "--out", "out"]  # fmt: skip
    out = cli(*command, check=0).stdout
    assert "finetune" in out
    rows = [json.loads(p.read_text()) for p in (tmp_path / "out").glob("*/result.json")]
    row = next(r for r in rows if r["method"] == "finetune")
    assert row["fields"]["steps"] == 3
    assert row["provenance"]["plug_ins"]["method finetune"]["path"].endswith("finetune.py")
    assert "finetune" in (tmp_path / "out" / "report.html").read_text()


def test_an_edited_plug_in_is_run_again(cli, tiny, tmp_path):
    path = tmp_path / "finetune.py"
    shutil.copy(EXAMPLE, path)
    command = [
        "run",
        "--task",
        "mnist_0",
        "--method",
        "./finetune.py",
        *tiny,
        *FEW,
        "--set",
        "steps=3",
        "--out",
        "out",
    ]
    cli(*command, check=0)
    (result,) = (tmp_path / "out").glob("*/result.json")
    first = json.loads(result.read_text())["artifacts"]["model"]
    path.write_text(path.read_text().replace("remember.sum()", "3 * remember.mean()"))
    refused = cli(*command)
    assert refused.returncode == 2
    assert "holds another run" in refused.stderr
    cli(*command, "--overwrite", check=0)
    rows = [json.loads(p.read_text()) for p in (tmp_path / "out").glob("*/result.json")]
    assert (
        len({row["cell"] for row in rows}) == len({row["artifacts"]["model"] for row in rows}) == 2
    )
    assert first in {row["artifacts"]["model"] for row in rows}
    assert cli("table", "leaderboard", "out", check=0).stdout.count("finetune") == 1, (
        "the last command's alone"
    )


def test_a_metric_and_a_task_by_path(cli, tiny, tmp_path):
    (tmp_path / "brightness.py").write_text(METRIC)
    (tmp_path / "seven.py").write_text(TASK)
    cli(
        "run",
        "--task",
        "./seven.py",
        "--method",
        "relabel",
        "--metric",
        "./brightness.py",
        *tiny,
        *FEW,
        "--out",
        "out",
        check=0,
    )
    (result,) = (tmp_path / "out").glob("*/result.json")
    row = json.loads(result.read_text())
    assert (row["task"], row["concept"]) == ("mnist_seven", "seven")
    bright = next(m for m in row["measurements"] if m["name"] == "brightness")
    assert 0 < bright["value"] < 0.3
    assert "+" in bright["fingerprint"]["version"]
    assert "Brightness" in cli("show", "./brightness.py", check=0).stdout
    assert (
        "mnist_seven"
        in cli("plan", "--task", "./seven.py", "--method", "sa", *tiny, check=0).stdout
    )
    checked = cli("check", "./brightness.py", check=0).stdout
    assert "measured twice, it gives the same value" in checked
    assert "forgets seven" in cli("check", "./seven.py", check=0).stdout


def test_a_further_metric_does_not_part_a_board():
    from result_rows import OTHERS, result_row

    from sa_bench.analysis.ranking import make_boards

    row = result_row()
    row["task_values"]["metrics"] = [*row["task_values"]["metrics"], "brightness"]
    assert len(make_boards([row, *OTHERS])) == 1


@pytest.mark.process
def test_an_installed_package_is_found_by_its_entry_point(tmp_path):
    shutil.copy(EXAMPLE, tmp_path / "finetune.py")
    info = tmp_path / "stranger-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: stranger\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[sa_bench]\nmethod.finetune = finetune\n")
    code = (
        f"import sys; sys.path[:0] = [{str(ROOT)!r}, {str(tmp_path)!r}]\n"
        "from sa_bench.core import registry\n"
        "entry = registry.find('method', 'finetune'); print(entry.summary)\n"
        "assert 'torch' not in sys.modules\n"
        "print(registry.get_method('finetune').__name__, registry.version_key('method', 'finetune', 1))"
    )
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert out[0].startswith("go on training on everything but c_f")
    assert out[1].startswith("Finetune 1+")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("missing.py", None, "There is no file"),
        ("broken.py", "def (", "cannot be read as Python"),
        ("fails.py", "import nowhere_at_all", "cannot be imported: ModuleNotFoundError"),
        ("empty.py", "x = 1", "must define one dataclass with `forget`"),
        ("sa.py", "x = 1", "a method called sa exists already"),
    ],
)
def test_a_file_that_is_no_method_is_one_line(tmp_path, name, text, message):
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(SaBenchError, match=message) as caught:
        resolve(["mnist_0"], [str(tmp_path / name)])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("model.draw", "model.draw", None),
        (
            "run.train(",
            "model.net.weight.data += __import__('torch').randn(2)\n        run.train(",
            "same bits",
        ),
        ("replay = run.replay()", "replay = run.data()", "needs = ()"),
        (
            "replay = run.replay()",
            "replay = run.replay(); run.star.net.weight.data += 1",
            "θ* itself",
        ),
        ("batch: Count = 256", "batch: Count", "without a default: lr, steps, batch"),
        ("return model", "pass", "forget returned None, which is no Generator"),
        ("return model", "return 3", "forget returned an object of type int"),
        ("run.train(", "(lambda *_: 0)(", "it does nothing"),
        ("frozen=True", "frozen=False", "frozen"),
        ('{"steps": 200}', '{"step": 200}', "presets"),
        ("remember.sum()", "remember.sum() * float('nan')", "loss became nan"),
    ],
)
def test_check_says_what_is_wrong_with_a_method(tmp_path, old, new, fault):
    text = EXAMPLE.read_text().replace(old, new).replace("lr: Rate = 1e-3", "lr: Rate = 1e-3")
    if fault and fault.startswith("without a default"):
        text = text.replace("lr: Rate = 1e-3", "lr: Rate").replace(
            "steps: Count = 1_000", "steps: Count"
        )
    (tmp_path / "mine.py").write_text(text)
    (name,) = registry.register("method", str(tmp_path / "mine.py"))
    faults = [f.text for f in check("method", name) if not f.kept]
    if fault is None:
        assert faults == []
    else:
        assert any(fault in text for text in faults), faults


def test_check_names_all_that_a_declaration_lacks_at_once(tmp_path):
    (tmp_path / "mine.py").write_text(
        "from dataclasses import dataclass\nfrom sa_bench.contracts import Method\n\n\n"
        "@dataclass\nclass Mine(Method):\n    lr: float\n    standing = 'best'\n    needs = ('gpu',)\n"
        "    presets = {('vae', 'full'): {'rate': 1}}\n\n    def forget(self, model, task, run):\n        ...\n"
    )
    registry.register("method", str(tmp_path / "mine.py"))
    faults = [f.text for f in check("method", "mine") if not f.kept]
    for text in ("standing", "needs", "source is not given", "rate", "frozen=True", "default: lr"):
        assert any(text in fault for fault in faults), text
    assert len(faults) == 6


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        (
            "return bounded_mean(",
            "return print(",
            "brightness returned None; it must return Measured",
        ),
        ('requires=("samples",)', 'requires=("samplez",)', "unknown: samplez"),
        ('fields=("concept",)', 'fields=("conzept",)', "no fields of a task: conzept"),
        ("better=None", 'better="up"', "better = 'up', of 'lower', 'higher' and None"),
    ],
)
def test_check_says_what_is_wrong_with_a_metric(tmp_path, store_env, old, new, fault):
    text = METRIC.replace(old, new)
    if "print" in new:
        text = text.replace("return print(", "return print(*(), end='') if True else (")
    (tmp_path / "brightness.py").write_text(text)
    registry.register("metric", str(tmp_path / "brightness.py"))
    faults = [f.text for f in check("metric", "brightness") if not f.kept]
    assert any(fault in text for text in faults), faults


def test_a_new_method_passes_check_and_nothing_is_overwritten(cli, tmp_path):
    out = cli("new", "method", "mine", check=0).stdout
    assert "check ./mine.py" in out
    checked = cli("check", "./mine.py", check=0).stdout
    assert "FAIL" not in checked
    assert cli("new", "method", "mine").returncode == 2
    assert "already" in cli("new", "method", "sa").stderr
    assert "cannot name" in cli("new", "method", "my-method").stderr
    text = (tmp_path / "mine.py").read_text()
    (tmp_path / "mine.py").write_text(text.replace("return model", "return None"))
    broken = cli("check", "./mine.py")
    assert broken.returncode == 1
    assert "FAIL" in broken.stdout
