"""Break lines of the product one at a time, and see whether the tests notice: what a suite is worth.

    python tests/mutants.py pick FOLDER [--number 40] [--seed 0]   choose statements and how each is broken
    python tests/mutants.py record FOLDER                          learn which tests execute which, by a run of the suite
    python tests/mutants.py run FOLDER [--name after]              break each in turn and run its tests
    python tests/mutants.py all FOLDER                             what of the three is not done yet

`run --picked FILE` takes the choice of another tree: a statement is found again wherever its function now is, as long as
it reads the same. Those that are not found are listed; give them their new place in that file,
`"now": {"file": ..., "original": ..., "mutated": ...}`.

FOLDER holds picked.json, touched.tsv (mutant, test), tests.tsv (test, outcome, seconds), <name>.jsonl (results, so that
a stopped run goes on) and <name>.md. All of it happens in a copy of the tree, with a store that holds nothing but the
data sets of SA_BENCH_TEST_STORE, as results that a store has are not calculated again.
"""

from __future__ import annotations

import argparse
import ast
import copy
import difflib
import json
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
PACKAGES = ("sa_bench", "methods", "metrics", "tasks", "reports")
SUITE = ["-m", "not slow and not gpu"]
BUDGET = 150.0  # seconds of tests, as recorded, that a mutant is given: the cheapest first
PATIENCE = (
    3,
    90.0,
)  # a mutant's tests hang if they take so many times as long as recorded, and so many seconds more
HANGS = " (hangs)"
FLIPPED = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
}  # fmt: skip
SWAPPED = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Div,
    ast.Mod: ast.Mult, ast.Pow: ast.Mult,
}  # fmt: skip
SIMPLE = (ast.Return, ast.Assign, ast.AugAssign, ast.AnnAssign, ast.Expr, ast.Raise, ast.Delete)
HEADED = (ast.If, ast.While, ast.For, ast.With)
PROBE = '''"""Notes which test executes which statement."""
import os
_seen = set()
def hit(number):
    test = os.environ.get("PYTEST_CURRENT_TEST", "").rpartition(" (")[0]
    if (number, test) not in _seen:
        _seen.add((number, test))
        with open({file!r}, "a") as file:
            file.write(f"{{number}}\\t{{test}}\\n")
'''
PLUGIN = '''"""Runs the tests that SELECTED names, in its order; writes how each ended into ENDED."""
import os, subprocess, sys
from pathlib import Path
import sa_bench
print("tested:", sa_bench.__file__, flush=True)
subprocess.run([sys.executable, "-c", "import sa_bench; print('tested:', sa_bench.__file__)"], cwd="/", check=True)
def pytest_collection_modifyitems(config, items):
    if file := os.environ.get("MUTANTS_SELECTED"):
        order = {name: i for i, name in enumerate(Path(file).read_text().splitlines())}
        items[:] = sorted((item for item in items if item.nodeid in order), key=lambda item: order[item.nodeid])
_seconds, _outcomes = {}, {}
def pytest_runtest_logreport(report):
    name = report.nodeid
    _seconds[name] = _seconds.get(name, 0.0) + report.duration
    if report.outcome != "passed":
        _outcomes[name] = report.outcome
    if report.when == "teardown":
        with open(os.environ["MUTANTS_ENDED"], "a") as file:
            file.write(f"{name}\\t{_outcomes.get(name, 'passed')}\\t{_seconds[name]:.3f}\\n")
'''


@dataclass(frozen=True)
class Change:
    """One way to break a statement: the bytes from `start` to `end` of its file become `text`."""

    start: int
    end: int
    text: str
    what: str


class Source:
    """A file's bytes and its tree."""

    def __init__(self, file: str, data: bytes) -> None:
        self.file, self.data = file, data
        self.tree = ast.parse(data)
        lengths = [len(line) for line in data.splitlines(keepends=True)]
        self._starts = [sum(lengths[:i]) for i in range(len(lengths) + 1)]

    def at(self, line: int, column: int) -> int:
        return self._starts[line - 1] + column

    def start(self, node: Any) -> int:
        return self.at(node.lineno, node.col_offset)

    def end(self, node: Any) -> int:
        return self.at(node.end_lineno, node.end_col_offset)

    def text(self, start: int, end: int) -> str:
        return self.data[start:end].decode()


@dataclass(frozen=True)
class Statement:
    """A statement that can be broken; of a compound one its head alone."""

    source: Source
    node: Any
    function: str  # that it stands in, dotted; empty: the module's
    at_import: bool  # executed when the module is imported

    @property
    def parts(self) -> list[Any]:
        """The expressions in it, without annotations and bodies."""
        node = self.node
        if isinstance(node, (ast.If, ast.While)):
            return [node.test]
        if isinstance(node, ast.For):
            return [node.iter]
        if isinstance(node, ast.With):
            return [item.context_expr for item in node.items]
        return [
            n for n in (getattr(node, "value", None), getattr(node, "exc", None)) if n is not None
        ]

    @property
    def start(self) -> int:
        return self.source.start(self.node)

    @property
    def end(self) -> int:
        return self.source.end(self.parts[-1] if isinstance(self.node, HEADED) else self.node)

    @property
    def original(self) -> str:
        return self.source.text(self.start, self.end)

    @property
    def lines(self) -> int:
        return self.original.count("\n") + 1

    @property
    def shape(self) -> str:
        """What it says, without its layout."""
        head = self.parts if isinstance(self.node, HEADED) else [self.node]
        return " ".join([type(self.node).__name__, *map(ast.dump, head)])

    def changes(self) -> list[Change]:
        """Every way to break it, always in the same order."""
        source, node, found = self.source, self.node, []

        def replaced(old: Any, text: str, what: str) -> None:
            found.append(Change(source.start(old), source.end(old), text, what))

        for part in self.parts:
            for inner in expressions(part):
                for text, what in broken(inner):
                    replaced(inner, text, what)
        if isinstance(node, (ast.If, ast.While)):
            replaced(
                node.test,
                f"(not ({source.text(source.start(node.test), source.end(node.test))}))",
                "negated",
            )
        if isinstance(node, ast.Return) and not is_constant(node.value, None):
            replaced(node, "return None", "returns None")
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            replaced(node, "pass", "call deleted")
        if isinstance(node, ast.AugAssign) and type(node.op) in SWAPPED:
            other = copy.deepcopy(node)
            other.op = SWAPPED[type(node.op)]()
            replaced(node, ast.unparse(other), "operator swapped")
        return found

    def mutated(self, change: Change) -> str:
        """Its text after a change."""
        before = self.source.text(self.start, change.start)
        return before + change.text + self.source.text(change.end, max(change.end, self.end))


def is_constant(node: Any, value: Any) -> bool:
    return node is None or (isinstance(node, ast.Constant) and node.value is value)


def expressions(node: Any) -> Iterator[Any]:
    """The expressions in one, itself first; not those of f-strings, which have no place of their own."""
    yield node
    if isinstance(node, ast.JoinedStr):
        return
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.expr, ast.comprehension, ast.keyword)):
            yield from expressions(child)


def broken(node: Any) -> Iterator[tuple[str, str]]:
    """(text, what was done) of every way to break one expression."""
    other = copy.deepcopy(node)
    if isinstance(node, ast.Compare) and len(node.ops) == 1:
        other.ops = [FLIPPED[type(node.ops[0])]()]
        yield f"({ast.unparse(other)})", "comparison flipped"
    if (
        isinstance(node, ast.BinOp)
        and type(node.op) in SWAPPED
        and not any(map(is_text, (node.left, node.right)))
    ):
        other.op = SWAPPED[type(node.op)]()
        yield f"({ast.unparse(other)})", "operator swapped"
    if isinstance(node, ast.BoolOp):
        other.op = ast.Or() if isinstance(node.op, ast.And) else ast.And()
        yield f"({ast.unparse(other)})", "and and or swapped"
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        yield f"({ast.unparse(node.operand)})", "not dropped"
    if isinstance(node, ast.IfExp):
        other.test = ast.UnaryOp(ast.Not(), node.test)
        yield f"({ast.unparse(other)})", "condition negated"
    if isinstance(node, ast.Constant) and isinstance(node.value, bool):
        yield repr(not node.value), "constant flipped"
    elif isinstance(node, ast.Constant) and isinstance(node.value, (int, float)):
        yield f"({node.value + 1!r})", "number + 1"
    elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value:
        yield '""', "text emptied"
    if isinstance(node, ast.Call) and (node.args or node.keywords):
        other.args, other.keywords = (
            (other.args, other.keywords[:-1])
            if node.keywords
            else (other.args[:-1], other.keywords)
        )
        yield ast.unparse(other), "last argument dropped"


def is_text(node: Any) -> bool:
    return isinstance(node, ast.JoinedStr) or (
        isinstance(node, ast.Constant) and isinstance(node.value, str)
    )


def statements(source: Source) -> Iterator[Statement]:
    """The statements of a file that can be broken, in their order."""

    def inside(body: Sequence[Any], function: str, at_import: bool) -> Iterator[Statement]:
        for node in body:
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                named = f"{function}.{node.name}".lstrip(".")
                yield from inside(node.body, named, at_import and isinstance(node, ast.ClassDef))
                continue
            if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
                continue
            if isinstance(node, (*SIMPLE, *HEADED)) and not is_left_alone(source, node):
                yield Statement(source, node, function, at_import)
            for field in ("body", "orelse", "finalbody"):
                yield from inside(getattr(node, field, []), function, at_import)
            for part in (*getattr(node, "handlers", []), *getattr(node, "cases", [])):
                yield from inside(part.body, function, at_import)

    yield from inside(source.tree.body, "", True)


def is_left_alone(source: Source, node: Any) -> bool:
    """Whether a statement is a docstring, a `...`, `__all__` or marked as not covered."""
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        return True
    targets = getattr(node, "targets", [getattr(node, "target", None)])
    if any(isinstance(t, ast.Name) and t.id == "__all__" for t in targets):
        return True
    line = source.data.splitlines()[node.lineno - 1]
    return b"pragma: no cover" in line or (isinstance(node, ast.AnnAssign) and node.value is None)


def sources(root: Path) -> list[Source]:
    """Every file of the packages."""
    files = [
        f
        for package in PACKAGES
        if (root / package).is_dir()
        for f in sorted((root / package).rglob("*.py"))
    ]
    return [Source(f.relative_to(root).as_posix(), f.read_bytes()) for f in files]


def pick(root: Path, number: int, seed: int) -> list[dict[str, Any]]:
    """`number` statements with one change each, drawn by lines."""
    found = [s for source in sources(root) for s in statements(source)]
    found = [s for s in found if s.changes()]
    rng = random.Random(seed)
    by_line = [i for i, s in enumerate(found) for _ in range(s.lines)]
    chosen: list[int] = []
    while len(chosen) < min(number, len(found)):
        i = rng.choice(by_line)
        chosen += [i] if i not in chosen else []
    picked = []
    for n, i in enumerate(sorted(chosen)):
        s = found[i]
        choice = rng.randrange(len(s.changes()))
        change = s.changes()[choice]
        alike = [
            o
            for o in found
            if (o.source.file, o.function, o.shape) == (s.source.file, s.function, s.shape)
        ]
        picked.append({
            "id": n, "file": s.source.file, "line": s.node.lineno, "function": s.function, "at_import": s.at_import,
            "original": s.original, "mutated": s.mutated(change), "what": change.what, "choice": choice,
            "shape": s.shape, "nth": next(k for k, o in enumerate(alike) if o.start == s.start),
        })  # fmt: skip
    return picked


@dataclass(frozen=True)
class Found:
    """Where a mutant is in this tree."""

    file: str
    line: int
    start: int
    end: int
    text: str
    statement: Statement | None


def locate(picked: Sequence[dict[str, Any]], root: Path) -> dict[int, Found]:
    """The place of every mutant that can be found; tells of the others, with what resembles them most."""
    everything = [s for source in sources(root) for s in statements(source)]
    by_shape = defaultdict(list)
    for s in everything:
        by_shape[s.shape].append(s)
    found = {}
    for mutant in picked:
        if now := mutant.get("now"):
            found[mutant["id"]] = placed(mutant["id"], now, root, everything)
            continue
        alike = by_shape[mutant["shape"]]
        name = mutant["function"].rpartition(".")[2]
        choices = [
            s for s in alike if (s.source.file, s.function) == (mutant["file"], mutant["function"])
        ]
        choices = choices or [s for s in alike if s.function.rpartition(".")[2] == name]
        own = [s for s in choices if Path(s.source.file).stem == Path(mutant["file"]).stem]
        choices = own or choices or alike
        places = {(s.source.file, s.function) for s in choices}
        if len(places) != 1 or mutant["nth"] >= len(choices):
            tell(mutant, everything, [f"{s.source.file}:{s.node.lineno}" for s in choices])
            continue
        s = choices[mutant["nth"]]
        change = s.changes()[mutant["choice"]]
        found[mutant["id"]] = Found(
            s.source.file, s.node.lineno, change.start, change.end, change.text, s
        )
    return found


def placed(number: int, now: dict[str, str], root: Path, everything: Sequence[Statement]) -> Found:
    """The place that a person gave."""
    data, original = (root / now["file"]).read_bytes(), now["original"].encode()
    if data.count(original) != 1:
        sys.exit(
            f"mutant {number}: {now['file']} has its original {data.count(original)} times; give a longer one."
        )
    start = data.index(original)
    here = [s for s in everything if s.source.file == now["file"]]
    own = [s for s in here if s.start <= start < s.end][-1:] or [
        s for s in here if start <= s.start < start + len(original)
    ]
    line = data[:start].count(b"\n") + 1
    return Found(
        now["file"], line, start, start + len(original), now["mutated"], own[0] if own else None
    )


def tell(mutant: dict[str, Any], everything: Sequence[Statement], choices: Sequence[str]) -> None:
    """Say that a mutant was not found, and where to look."""
    print(
        f"mutant {mutant['id']} ({mutant['file']}, {mutant['function']}) is not found: {mutant['original']!r}"
    )
    if choices:
        print(f"  it could be {', '.join(choices)}")
    texts = {s.original: s for s in everything}
    for text in difflib.get_close_matches(mutant["original"], texts, 3, 0.6):
        s = texts[text]
        print(f"  like it: {s.source.file}:{s.node.lineno} ({s.function}): {text!r}")


@contextmanager
def copied(root: Path) -> Iterator[Path]:
    """A copy of what git knows of the tree, and of what it does not ignore."""
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(
        listed, cwd=root, capture_output=True, check=True, text=True
    ).stdout.split("\0")
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        for name in filter(None, names):
            if (root / name).is_file():
                (Path(folder) / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(root / name, Path(folder) / name)
        yield Path(folder)


def run_pytest(
    tree: Path,
    ended: Path,
    arguments: Sequence[str],
    seconds: float | None = None,
    names: Sequence[str] = (),
) -> tuple[int | None, str]:
    """(exit status, output) of pytest on a tree with a store of its own; None: it took longer than `seconds`."""
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        (Path(folder) / "mutants_plugin.py").write_text(PLUGIN)
        data = os.environ.get("SA_BENCH_TEST_STORE")
        if data and (Path(data) / "data").is_dir():
            shutil.copytree(Path(data) / "data", Path(folder) / "store" / "data")
        env = {
            **os.environ, "PYTHONPATH": f"{tree}{os.pathsep}{folder}", "OMP_NUM_THREADS": "1",
            "SA_BENCH_TEST_STORE": f"{folder}/store", "MUTANTS_ENDED": str(ended), "PYTHONDONTWRITEBYTECODE": "1",
        }  # fmt: skip
        if names:
            (Path(folder) / "selected.txt").write_text("\n".join(names) + "\n")
            env["MUTANTS_SELECTED"] = f"{folder}/selected.txt"
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-p",
            "mutants_plugin",
            "-p",
            "no:cacheprovider",
            *arguments,
        ]
        log = Path(folder) / "log"
        with log.open("w") as file:
            process = subprocess.Popen(
                command,
                cwd=tree,
                env=env,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                status: int | None = process.wait(seconds)
            except subprocess.TimeoutExpired:
                status = None
            except BaseException:
                os.killpg(process.pid, signal.SIGKILL)
                raise
            if status is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        said = log.read_text(errors="replace")
    tested = re.findall(
        r"^tested: (.*)$", said, re.MULTILINE
    )  # in this process, and in one that it starts
    if any(not Path(file).resolve().is_relative_to(tree.resolve()) for file in tested):
        sys.exit(f"another tree than the copy was tested: {', '.join(tested)}")
    return status, said


def probed(source: Source, found: Sequence[tuple[int, Found]]) -> bytes:
    """A file with a note of who executes which of the mutants' statements."""
    inserts = []
    for number, place in found:
        hit, s = f'__import__("sa_bench._probe", fromlist=["hit"]).hit({number})', place.statement
        if s is None:
            continue
        if isinstance(s.node, HEADED):
            inserts += [(source.start(s.parts[0]), f"({hit} or ("), (source.end(s.parts[0]), "))")]
        else:
            inserts.append((s.start, f"{hit}; "))
    data = source.data
    for at, text in sorted(inserts, key=lambda pair: pair[0], reverse=True):
        data = data[:at] + text.encode() + data[at:]
    compile(data, source.file, "exec")
    return data


def record(picked: Sequence[dict[str, Any]], folder: Path, root: Path) -> None:
    """Run the whole suite once and note which tests execute which statements."""
    touched, ended = folder / "touched.tsv", folder / "tests.tsv"
    for file in (touched, ended):
        file.unlink(missing_ok=True)
    with copied(root) as tree:
        places = locate(picked, tree)
        for source in sources(tree):
            here = [
                (number, place) for number, place in places.items() if place.file == source.file
            ]
            if here:
                (tree / source.file).write_bytes(probed(source, here))
        (tree / "sa_bench" / "_probe.py").write_text(PROBE.format(file=str(touched.resolve())))
        began = time.monotonic()
        status, said = run_pytest(tree, ended.resolve(), SUITE)
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    cost = {
        "wall_s": round(time.monotonic() - began),
        "cpu_s": round(usage.ru_utime + usage.ru_stime),
    }
    (folder / "suite.json").write_text(json.dumps({**cost, "status": status}) + "\n")
    (folder / "suite.log").write_text(said)
    print(said[-3000:], cost)


def ends(folder: Path) -> dict[str, tuple[str, float]]:
    """Test to (outcome, seconds) of the recorded run."""
    rows = [line.rsplit("\t", 2) for line in (folder / "tests.tsv").read_text().splitlines()]
    return {name: (outcome, float(seconds)) for name, outcome, seconds in rows}


def passing(
    mutant: dict[str, Any], place: Found, folder: Path, tree: Path, unfit: set[str]
) -> list[str]:
    """The tests that execute a mutant's statement and pass, the cheapest first, but for `unfit` ones and files.

    Of one that is executed at import all are not known: then it is every test of the files that name its module.
    """
    known = ends(folder)
    rows = [line.partition("\t") for line in (folder / "touched.tsv").read_text().splitlines()]
    names = {test for number, _, test in rows if number == str(mutant["id"]) and test in known}
    if mutant["at_import"]:
        path = Path(place.file)
        word = re.compile(
            rf"\b{re.escape(path.parent.name if path.stem == '__init__' else path.stem)}\b"
        )
        files = {
            f.relative_to(tree).as_posix()
            for f in (tree / "tests").rglob("*.py")
            if word.search(f.read_text())
        }
        names |= {name for name in known if name.partition("::")[0] in files}
    names = {n for n in names if known[n][0] == "passed" and not unfit & {n, n.partition("::")[0]}}
    return sorted(names, key=lambda n: (known[n][1], n))


def run(
    picked: Sequence[dict[str, Any]],
    folder: Path,
    name: str,
    root: Path,
    without: Sequence[str] = (),
) -> None:
    """Break each statement in turn and run its tests until one fails.

    In the end the tests that failed are run with nothing broken: what fails even so has caught nothing, and the mutants
    that it was thought to have caught are tried again without it.
    """
    results = folder / f"{name}.jsonl"
    lines = results.read_text().splitlines() if results.exists() else []
    done = {row["id"]: row for row in map(json.loads, lines)}
    known, unfit = ends(folder), set(without)
    with copied(root) as tree:
        places = locate(picked, tree)
        left = [m for m in picked if m["id"] in places and m["id"] not in done]
        while True:
            for mutant in left:
                place = places[mutant["id"]]
                row = tried(
                    mutant, place, tree, passing(mutant, place, folder, tree, unfit), known, folder
                )
                done[mutant["id"]] = row
                with results.open("a") as out:
                    out.write(json.dumps(row) + "\n")
                print(row, flush=True)
            by = {row["by"].removesuffix(HANGS) for row in done.values() if row["by"]}
            wrong = by & failing(tree, sorted(by & set(known)), known, folder)
            if not wrong:
                break
            print(f"{', '.join(sorted(wrong))}: fails with nothing broken, too", flush=True)
            unfit |= wrong
            left = [
                m
                for m in picked
                if done.get(m["id"], {"by": ""})["by"].removesuffix(HANGS) in wrong
            ]
    table(picked, list(done.values()), folder / f"{name}.md")


def tried(
    mutant: dict[str, Any],
    place: Found,
    tree: Path,
    whole: Sequence[str],
    known: dict[str, tuple[str, float]],
    folder: Path,
) -> dict[str, Any]:
    """What became of one mutant under the cheapest of its tests."""
    file, began, names, left = tree / place.file, time.monotonic(), [], BUDGET
    for test in whole:
        left -= known[test][1]
        if left < 0 and names:
            break
        names.append(test)
    verdict, by = "not run by any test", ""
    if names:
        data = file.read_bytes()
        file.write_bytes(data[: place.start] + place.text.encode() + data[place.end :])
        verdict, by = judged(tree, names, known, folder)
        file.write_bytes(data)
    return {
        "id": mutant["id"], "file": place.file, "line": place.line, "verdict": verdict, "by": by,
        "tests": len(names), "of": len(whole), "seconds": round(time.monotonic() - began),
    }  # fmt: skip


def failing(
    tree: Path, names: Sequence[str], known: dict[str, tuple[str, float]], folder: Path
) -> set[str]:
    """Those of the tests that do not pass on the tree as it is."""
    if not names:
        return set()
    ended = folder / "ended.tsv"
    ended.unlink(missing_ok=True)
    files = sorted({name.partition("::")[0] for name in names})
    run_pytest(tree, ended.resolve(), [*SUITE, *files], limit(names, known), names)
    rows = (
        [line.rsplit("\t", 2) for line in ended.read_text().splitlines()] if ended.exists() else []
    )
    return set(names) - {name for name, outcome, _ in rows if outcome == "passed"}


def limit(names: Sequence[str], known: dict[str, tuple[str, float]]) -> float:
    """The seconds after which tests hang."""
    return PATIENCE[0] * sum(known[n][1] for n in names) + PATIENCE[1]


def judged(
    tree: Path, names: Sequence[str], known: dict[str, tuple[str, float]], folder: Path
) -> tuple[str, str]:
    """(caught or survived; by which test)."""
    ended = folder / "ended.tsv"
    ended.unlink(missing_ok=True)
    files = sorted({name.partition("::")[0] for name in names})
    status, said = run_pytest(
        tree, ended.resolve(), ["-x", *SUITE, *files], limit(names, known), names
    )
    rows = (
        [line.rsplit("\t", 2) for line in ended.read_text().splitlines()] if ended.exists() else []
    )
    failed = [name for name, outcome, _ in rows if outcome == "failed"]
    if failed:
        return "caught", failed[0]
    if status is None:
        later = [n for n in names if n not in {row[0] for row in rows}]
        return "caught", f"{later[0] if later else names[-1]}{HANGS}"
    if status == 0:
        return "survived", ""
    if status == 5:
        sys.exit(f"none of {len(names)} recorded tests is there, e.g. {names[0]}: record again")
    return (
        "caught",
        f"pytest itself: {said.strip().splitlines()[-1][:120] if said.strip() else status}",
    )


def table(picked: Sequence[dict[str, Any]], rows: Sequence[dict[str, Any]], file: Path) -> None:
    """The results as Markdown."""
    by_id = {mutant["id"]: mutant for mutant in picked}
    caught = sum(row["verdict"] == "caught" for row in rows)
    lines = [
        f"{caught} of {len(rows)} caught.",
        "",
        "| line | broken | tests | ended |",
        "|---|---|---|---|",
    ]
    for row in sorted(rows, key=lambda row: row["id"]):
        mutant = by_id[row["id"]]
        old, new = (shortened(mutant[key]) for key in ("original", "mutated"))
        by = f" by {row['by']}" if row["by"] else ""
        count = f"{row['tests']} of {row['of']}"
        lines.append(
            f"| {row['file']}:{row['line']} | {mutant['what']}: `{old}` → `{new}` | {count} | {row['verdict']}{by} |"
        )
    file.write_text("\n".join(lines) + "\n")
    print(f"{caught} of {len(rows)} caught; {file}")


def shortened(text: str) -> str:
    """A statement on one line of a table."""
    text = " ".join(text.split()).replace("|", "\\|").replace("`", "'")
    return text if len(text) <= 90 else f"{text[:89]}…"


def main() -> int:
    """Pick, record, run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("action", choices=["pick", "record", "run", "all"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--number", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--picked", type=Path, help="another tree's picked.json")
    parser.add_argument("--without", nargs="*", default=[], help="files of tests that are not run")
    parser.add_argument("--name", default="results", help="what the results are called")
    asked = parser.parse_args()
    asked.folder.mkdir(parents=True, exist_ok=True)
    file = asked.picked or asked.folder / "picked.json"
    every = asked.action == "all"
    if asked.action == "pick" or (every and not file.exists()):
        file.write_text(
            json.dumps(pick(ROOT, asked.number, asked.seed), indent=1, ensure_ascii=False) + "\n"
        )
    if not file.exists():
        parser.error(f"{file} is not there: pick first")
    picked = json.loads(file.read_text())
    if asked.action == "record" or (every and not (asked.folder / "suite.json").exists()):
        record(picked, asked.folder, ROOT)
    if asked.action == "run" and not (asked.folder / "tests.tsv").exists():
        parser.error(f"{asked.folder} has no recorded run: record first")
    if asked.action in ("run", "all"):
        run(picked, asked.folder, asked.name, ROOT, asked.without)
    return 0


if __name__ == "__main__":
    sys.exit(main())
