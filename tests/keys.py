"""Every cell id, store key, fingerprint and benchmark manifest: what must stay as it is when code is moved.

    python tests/keys.py write FILE     every key, as JSON: group, cell, name of the key, key
    python tests/keys.py compare FILE   the keys that are others now; exit status 1 if there are any
    python tests/keys.py freeze FILE    write tests/keys.json anew from such a file: one hash a group, for a test

All of them take some minutes. Groups are the suites that ship, every task with every method that fits at each scale, and
the benchmarks. It runs, samples and fetches nothing: what is named by the hash of weights that nobody made yet gets a
stand-in made of the recipe. What depends on the machine (folders, bf16 in hardware, versions of libraries, files that
are here) is no part of it.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import huggingface_hub.constants

from sa_bench.contracts import flatten, ignore_event
from sa_bench.core import registry
from sa_bench.core.errors import SaBenchError
from sa_bench.core.store import Store, digest
from sa_bench.core.suite_files import list_suites
from sa_bench.data import datasets
from sa_bench.engine import benchmarks, suites
from sa_bench.engine.cells import Cell, list_scales, resolve
from sa_bench.engine.fingerprint import fingerprint
from sa_bench.engine.measure import Subject, measure_inputs
from sa_bench.engine.stages import Chain
from sa_bench.models import base_models
from sa_bench.scoring import sampling

FROZEN = Path(__file__).parent / "keys.json"
FOLDERS = ("SA_BENCH_STORE", "SA_BENCH_DATA", "SA_BENCH_WEIGHTS", "SA_BENCH_MIRROR")
OF_MACHINE = ("library", "weights")  # of a detector's facts
Keys = dict[str, dict[str, dict[str, str]]]


class ReadOnly(Store):
    """A store that makes nothing."""

    def make(self, stage: str, inputs: Mapping, build: object) -> object:  # type: ignore[override]
        """Refuse."""
        raise AssertionError(f"a stage is run to name keys: {stage}")


class Named(Chain):
    """A chain whose artifacts have stand-ins for their content, so that all keys can be named and nothing is made."""

    def __init__(self, cell: Cell) -> None:
        """θ* is by its hash if it ships."""
        super().__init__(ReadOnly(Path("/nowhere")), cell, ignore_event)
        self.bf16 = self.task.train_precision != "fp32"  # `auto` depends on the machine
        self.__dict__["base"] = SimpleNamespace(content=base_content(cell), precision="unknown")
        self.__dict__["model_content"] = f"model:{digest(self.forget_stage().inputs)}"

    def samples(self, name: str, base: bool = False) -> SimpleNamespace:  # type: ignore[override]
        """The stand-in for a sample set, found once."""
        if (name, base) not in self._sets:
            key = digest(self.sample_stage(name, base).inputs)
            self._sets[name, base] = SimpleNamespace(key=key, content=f"samples:{key}")  # type: ignore[assignment]
        return self._sets[name, base]  # type: ignore[return-value]


def base_content(cell: Cell) -> str:
    """The hash of θ* if it ships, else a stand-in."""
    task, seed = cell.task, cell.base_seed
    if task.model:
        return f"base:{task.model}:{seed}"
    ships = base_models.find_shipped(task.family, task.dataset, task.base, seed)
    return ships.content if ships is not None else f"base:{base_key(cell)}"


def base_key(cell: Cell) -> str:
    """The key that θ* has in a store where it is trained."""
    task, data = cell.task, datasets.data_content(cell.task.dataset)
    bf16 = task.train_precision != "fp32"
    return digest(
        base_models.base_key_inputs(
            task.family, task.dataset, data, task.base, cell.base_seed, bf16
        )
    )


def keys_of_cell(cell: Cell) -> dict[str, str]:
    """Every key of one cell by what it names."""
    chain, task = Named(cell), cell.task
    found = {"id": cell.id, "base content": chain.base.content}
    if not task.model:
        found["base"] = base_key(cell)
    sets = {
        "replay": chain.sets.key_inputs("replay") if task.replay_images else {},
        "surrogate": chain.sets.key_inputs("surrogate"),
        "own": chain.sets.key_inputs("own") if task.family != "vae" else {},
        "captioned": chain.sets.key_inputs("captioned"),
    }
    found |= {
        name: digest({"base": chain.base.content, **inputs})
        for name, inputs in sets.items()
        if inputs
    }
    found["surrogate key"], found["replay key"] = (
        digest(chain.sets.surrogate_key),
        digest(chain.sets.replay_key()),
    )
    for name, options in cell.build_method().fishers().items():
        found[f"fisher {name}"] = chain.fisher_stage(options).key
    found["forget"] = digest(chain.forget_stage().inputs)
    for name in sampling.set_names(task):
        found[f"samples {name}"] = chain.samples(name).key
        found[f"samples {name} (base)"] = chain.samples(name, True).key
    for name in task.metrics:
        metric = registry.get_metric(name)
        found[f"fingerprint {name}"] = digest(anywhere(fingerprint(chain, metric)))
        for subject, said in ((Subject(chain), ""), (Subject(chain, base=True), " (base)")):
            inputs = measure_inputs(chain, metric, subject)
            inputs["fingerprint"] = anywhere(inputs["fingerprint"])
            found[f"measure {name}{said}"] = digest(inputs)
    return found


def anywhere(facts: Mapping) -> dict:
    """A fingerprint without what the machine puts into it: versions of libraries, and weights that may be absent."""
    detectors = {
        name: {k: v for k, v in of.items() if k not in OF_MACHINE}
        for name, of in facts.get("detectors", {}).items()
    }
    nested = {"forgetting": anywhere(facts["forgetting"])} if "forgetting" in facts else {}
    return {**facts, **({"detectors": detectors} if detectors else {}), **nested}


def by_title(cells: Sequence[Cell]) -> dict[str, Cell]:
    """Cells by a line that tells them apart: task, method, scale, the settings that differ among them, seeds."""
    values = {
        id(cell): {**flatten(cell.fields), **flatten(cell.overrides, "task.")} for cell in cells
    }
    kinds = defaultdict(list)
    for cell in cells:
        kinds[cell.task.name, cell.method].append(cell)
    found = {}
    for (task, method), alike in kinds.items():
        seen = defaultdict(set)
        for cell in alike:
            for name, value in values[id(cell)].items():
                seen[name].add(repr(value))
        for cell in alike:
            own = values[id(cell)]
            settings = "".join(
                f" {name}={own.get(name)}"
                for name, each in sorted(seen.items())
                if len(each) > 1
                or (name.startswith("task.") and any(name not in values[id(c)] for c in alike))
            )
            title = (
                f"{task} × {method} {cell.scale}{settings} base {cell.base_seed} seed {cell.seed}"
            )
            if title in found:
                raise AssertionError(f"two cells are called {title!r}")
            found[title] = cell
    return found


def fitting(task: str, scale: str) -> list[Cell]:
    """A task's cells with the methods that fit."""
    cells = []
    for method in sorted(entry.name for entry in registry.list_entries("method")):
        with contextlib.suppress(SaBenchError):  # it does not fit, or asks for a file
            cells += resolve([task], [method], scale)
    return cells


def manifests() -> Iterator[tuple[str, dict[str, str]]]:
    """The manifest of every benchmark, by part and name, and that of every task that could be frozen alone."""
    asked = {name: list(facts["tasks"]) for name, facts in benchmarks.load_manifests().items()}
    asked |= {f"of {e.name} alone": [e.name] for e in registry.list_entries("task")}
    for name, tasks in sorted(asked.items()):
        with contextlib.suppress(FileNotFoundError, SaBenchError):  # no guard was made for its data
            parts = benchmarks.describe(name, tasks)
            yield name, {k: str(v) for k, v in flatten(parts).items()}


@contextmanager
def bare_machine() -> Iterator[None]:
    """No data, weights or models of the user's, so that no key depends on what happens to be here."""
    with (
        tempfile.TemporaryDirectory() as folder,
        mock.patch.dict(os.environ),
        mock.patch.object(huggingface_hub.constants, "HF_HUB_CACHE", folder),
    ):
        for name in FOLDERS:
            os.environ.pop(name, None)
        os.environ["SA_BENCH_STORE"] = folder
        yield


def cells_of(group: str) -> list[Cell]:
    """The cells of a suite, or of a task at a scale."""
    kind, name, *scale = group.split()
    return suites.resolve_suite(name) if kind == "suite" else fitting(name, scale[0])


def names() -> list[str]:
    """Every group of cells, whether or not anything fits into it."""
    tasks = sorted(entry.name for entry in registry.list_entries("task"))
    return [
        *(f"suite {name}" for name, _ in list_suites()),
        *(f"task {t} {s}" for t in tasks for s in list_scales(registry.get_task(t))),
    ]


def groups(wanted: Sequence[str] | None = None) -> Keys:
    """Group to cell to keys, of every group or those `wanted`, and of the benchmarks."""
    with bare_machine():
        found: Keys = {f"benchmark {name}": {"manifest": parts} for name, parts in manifests()}
        for group in names() if wanted is None else wanted:
            if cells := by_title(cells_of(group)):
                found[group] = {title: keys_of_cell(cell) for title, cell in cells.items()}
    return found


def hashed(cells: Mapping[str, Mapping[str, str]]) -> str:
    """One sha256 over a group's cells and keys."""
    return hashlib.sha256(json.dumps(cells, sort_keys=True).encode()).hexdigest()


def differences(before: Keys, now: Keys) -> list[str]:
    """A line for every key that is another, is gone or is new."""
    lines = []
    for group in sorted({*before, *now}):
        if group not in before or group not in now:
            lines.append(f"{group}: {'new' if group in now else 'gone'}")
            continue
        old, new = before[group], now[group]
        for title in sorted({*old, *new}):
            if title not in old or title not in new:
                lines.append(f"{group}: {title}: {'new' if title in new else 'gone'}")
                continue
            for name in sorted({*old[title], *new[title]}):
                was, is_now = (keys[title].get(name, "none") for keys in (old, new))
                if was != is_now:
                    lines.append(f"{group}: {title}: {name}: {was} is now {is_now}")
    return lines


def main(arguments: Sequence[str] | None = None) -> int:
    """Write, compare or freeze."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("action", choices=["write", "compare", "freeze"])
    parser.add_argument("file", type=Path)
    asked = parser.parse_args(arguments)
    if asked.action == "freeze":
        now: Keys = json.loads(asked.file.read_text())
        FROZEN.write_text(
            json.dumps({name: hashed(of) for name, of in sorted(now.items())}, indent=1) + "\n"
        )
        return 0
    now = groups()
    cells, keys = (
        sum(map(len, now.values())),
        sum(len(k) for group in now.values() for k in group.values()),
    )
    if asked.action == "write":
        asked.file.write_text(json.dumps(now, indent=1, sort_keys=True) + "\n")
        print(f"{keys} keys of {cells} cells in {len(now)} groups written")
        return 0
    found = differences(json.loads(asked.file.read_text()), now)
    for line in found:
        print(line)
    print(
        f"{len(found)} of {keys} keys differ"
        if found
        else f"all {keys} keys of {cells} cells equal"
    )
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
