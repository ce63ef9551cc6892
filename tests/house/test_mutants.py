"""The script that breaks lines: what it may break, and that a line is found again after it was moved."""

import mutants
import pytest

OLD = '''"""A module."""

from typing import TYPE_CHECKING

__all__ = ["limited"]

MOST = 3

if TYPE_CHECKING:
    NEVER = 1


def limited(values, most=MOST):
    """Those below."""
    found = []
    for value in sorted(values, reverse=True):
        if not value:
            continue
        elif value < most and value != 1:
            found.append(value + 1)
    return found


class Protocol:
    def asked(self) -> int: ...
'''
NEW = '''def other(values):
    return values


def limited(values, most=3):
    """Those that are below."""
    found = []
    with open("log") as file:
        for value in sorted(
            values, reverse=True
        ):
            if not value:
                continue
            elif (value < most
                  and value != 1):
                found.append(value + 1)
    return found
'''


@pytest.fixture
def tree(tmp_path):
    (tmp_path / "sa_bench").mkdir()
    (tmp_path / "sa_bench" / "old.py").write_text(OLD)
    return tmp_path


def every(root):
    (source,) = mutants.sources(root)
    return [(s, change) for s in mutants.statements(source) for change in s.changes()]


def broken_files(root):
    for s, change in every(root):
        data = s.source.data
        yield change, (data[: change.start] + change.text.encode() + data[change.end :]).decode()


def test_every_way_to_break_a_line_is_another_program(tree):
    changed = list(broken_files(tree))
    assert len({text for _, text in changed}) == len(changed)
    for change, text in changed:
        compile(text, change.what, "exec")
    kinds = {change.what for change, _ in changed}
    assert kinds >= {
        "comparison flipped", "operator swapped", "and and or swapped", "not dropped", "constant flipped", "number + 1",
        "last argument dropped", "negated", "returns None", "call deleted",
    }  # fmt: skip


def test_docstrings_imports_exports_and_types_are_left_alone(tree):
    texts = [s.original for s, _ in every(tree)]
    assert "MOST = 3" in texts
    for left in ("A module", "__all__", "TYPE_CHECKING", "NEVER", "...", "import"):
        assert not [text for text in texts if left in text], left


def test_the_same_seed_breaks_the_same_lines(tree):
    first = mutants.pick(tree, 5, 0)
    assert first == mutants.pick(tree, 5, 0) != mutants.pick(tree, 5, 1)
    assert len({(m["line"], m["original"]) for m in first}) == 5


def test_a_line_is_found_after_it_was_moved_and_laid_out_anew(tree, capsys):
    picked = mutants.pick(tree, 8, 0)  # every one that can be broken
    (tree / "sa_bench" / "old.py").unlink()
    (tree / "sa_bench" / "new.py").write_text(NEW)
    found = mutants.locate(picked, tree)
    data = (tree / "sa_bench" / "new.py").read_bytes()
    for mutant in picked:
        if mutant["original"] == "MOST = 3":
            assert mutant["id"] not in found
            continue
        place = found[mutant["id"]]
        text = (data[: place.start] + place.text.encode() + data[place.end :]).decode()
        (own,) = [
            s
            for s in mutants.statements(mutants.Source("new.py", data))
            if s.shape == mutant["shape"]
        ]
        assert place.file == "sa_bench/new.py"
        assert own.start <= place.start < own.end
        compile(text, "new.py", "exec")
    assert "MOST = 3" in capsys.readouterr().out


def test_a_line_that_reads_differently_now_can_be_given(tree, capsys):
    mutant = next(m for m in mutants.pick(tree, 8, 0) if "elif" in m["original"])
    file = tree / "sa_bench" / "old.py"
    file.write_text(OLD.replace("value < most", "value < largest"))
    assert mutants.locate([mutant], tree) == {}
    assert "like it: sa_bench/old.py:19" in capsys.readouterr().out
    now = {"file": "sa_bench/old.py", "original": "value < largest", "mutated": "value <= largest"}
    found = mutants.locate([{**mutant, "now": now}], tree)[mutant["id"]]
    assert (found.line, found.text) == (19, "value <= largest")
    assert found.statement is not None  # for the probe


def test_a_probe_notes_the_test_that_executes_a_line_and_changes_nothing(tree, monkeypatch):
    picked = mutants.pick(tree, 8, 0)
    places = list(mutants.locate(picked, tree).items())
    (source,) = mutants.sources(tree)
    touched = tree / "touched.tsv"
    (tree / "sa_bench" / "_probe.py").write_text(mutants.PROBE.format(file=str(touched)))
    code = mutants.probed(source, places).decode().replace("sa_bench._probe", "probe_of_a_test")
    (tree / "probe_of_a_test.py").write_text((tree / "sa_bench" / "_probe.py").read_text())
    monkeypatch.syspath_prepend(str(tree))
    monkeypatch.setenv("PYTEST_CURRENT_TEST", "tests/test_a.py::test_b (call)")
    names: dict = {}
    exec(compile(code, "old.py", "exec"), names)
    assert names["limited"]([0, 1, 2, 5]) == [3]
    rows = dict.fromkeys(line.split("\t")[0] for line in touched.read_text().splitlines())
    assert {int(number) for number in rows} == {m["id"] for m in picked}
    assert touched.read_text().splitlines()[0].split("\t")[1] == "tests/test_a.py::test_b"
