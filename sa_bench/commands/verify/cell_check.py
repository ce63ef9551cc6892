"""One cell of a bundle against what this machine makes of it: settings, images, scores, values, weights.

Everything is rebuilt from the result's own fields; metrics run as they do in a run, over the images of the bundle.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from sa_bench.commands.verify import tolerance
from sa_bench.contracts import Generator, Metric, SampleSet, Task, key_values
from sa_bench.core import registry
from sa_bench.core.errors import SaBenchError
from sa_bench.core.fields import validate
from sa_bench.core.settings import store_folder
from sa_bench.core.store import Store, digest
from sa_bench.core.untrusted_arrays import read_header, read_scores
from sa_bench.core.version import __version__
from sa_bench.data.prompt_files import with_texts
from sa_bench.data.sample_sets import load_samples
from sa_bench.engine import measure, runner
from sa_bench.engine.cells import ID, OLD_ID, Cell, resolve_task
from sa_bench.engine.fingerprint import metric_name
from sa_bench.engine.measure import LazyView, Subject
from sa_bench.engine.stages import Chain
from sa_bench.models import base_models
from sa_bench.results.bundles import BASE, MODEL, Bundle, Differs, set_hash
from sa_bench.results.provenance import same_environment
from sa_bench.results.rows import to_json
from sa_bench.results.threats import threat_of
from sa_bench.scoring import requirements, sampling
from sa_bench.scoring.cards import judge_card

GREY = 1  # levels that an image made again in another batch may differ by
"""What a machine may lack: a value missing for want of it is no claim."""
ALWAYS = (
    "task",
    "method",
    "fields",
    "seed",
    "base_seed",
    "scale",
    "overrides",
    "control",
    "standing",
    "concept",
    "cell",
)


class Unavailable(SaBenchError):
    """Something cannot be recomputed here; why."""


@dataclass
class Tally:
    """What was looked at, and what was not."""

    counts: dict[str, int] = field(default_factory=dict)
    skipped: dict[str, dict[str, None]] = field(default_factory=dict)  # reason to what
    largest: int = 0  # grey levels

    def add(self, what: str, n: int = 1) -> None:
        """One more of `what`."""
        self.counts[what] = self.counts.get(what, 0) + n

    def skip(self, why: object, what: str) -> None:
        """`what` was not looked at."""
        self.skipped.setdefault(str(why).rstrip("."), {})[what] = None


def describe_difference(where: str, claimed: Any, found: Any, how: str = "recomputed") -> str:
    """What a bundle says against what was found, cut to a line."""
    a, b = (text if len(text := json.dumps(v)) <= 90 else text[:90] + "…" for v in (claimed, found))
    return f"{where}: the bundle says {a}; {how}: {b}."


class Stored(Subject):
    """A cell as it lies in a bundle: its sample sets and, perhaps, its weights."""

    def __init__(self, chain: Chain, folder: Path, base: bool = False) -> None:
        """`folder` is the cell's."""
        super().__init__(chain, base)
        self.folder = folder

    def sample_set(self, name: str) -> SampleSet:
        """The set `name`.

        Raises:
            Unavailable: it was left out.
        """
        path = self.folder / f"{name}{BASE if self.base else '.safetensors'}"
        if not path.is_file():
            raise Unavailable(f"needs the images of {name}, which are not in the bundle")
        return load_samples(path)

    def before(self) -> Subject:
        """θ*'s images of the bundle."""
        return Stored(self.chain, self.folder, base=True)


class CellCheck:
    """One cell under test."""

    def __init__(
        self,
        bundle: Bundle,
        row: Mapping[str, Any],
        tally: Tally,
        seen: dict[str, Any],
        regenerate: int,
        deep: bool,
        device: str,
        report: Callable[[str, str, int, int], None],
    ) -> None:
        self.bundle, self.row, self.tally, self.seen = bundle, row, tally, seen
        self.regenerate, self.deep, self.device = regenerate, deep, device
        self.folder, self.name = Path(row["folder"]), Path(row["folder"]).name
        task = with_texts(validate(Task, row["task_values"], f"task {row['task']}"))
        named = row["provenance"].get("plug_ins") or {}
        self.code = {component: str(facts["sha256"]) for component, facts in named.items()}
        self.cell = Cell(
            task,
            row["method"],
            row["fields"],
            row["seed"],
            row["base_seed"],
            row["scale"],
            row["overrides"],
            self.code if len(row["cell"]) != OLD_ID else {},
        )
        # the bundle's weights, if it has them
        given = self.folder if (self.folder / MODEL).is_file() else None
        self.chain = Chain(
            Store(store_folder()), self.cell, lambda *e: report(self.name, *e), device, given
        )
        self.here = same_environment(row, device)
        self.unknown_method = self._unknown("method", row["method"])

    def _unknown(self, kind: str, name: str) -> str:
        """Why a component of the result cannot be run here: it is not here, or its code is another; "": it can."""
        if name not in {e.name for e in registry.list_entries(kind)}:
            return f"its {kind} is not here (--plug-in FILE names one)"
        claimed, local = self.code.get(f"{kind} {name}"), registry.describe_source(kind, name)
        if (local["sha256"] if local else None) == claimed:
            return ""
        return f"the code of the {kind} {name} is another here (--plug-in FILE names the bundle's)"

    def check(self) -> None:
        """Compare everything that can be.

        Raises:
            Differs: the first difference.
        """
        self.tally.add("cells")
        self._identity()
        if self.row["status"] != "done":
            return
        for name in self._sets():
            self._set(name, base=False)
            self._set(name, base=True)
        self._measurements()
        self._weights()

    def _identity(self) -> None:
        """The cell's name and all that follows from its settings."""
        row, cell, same = self.row, self.cell, self.bundle.manifest["sa_bench"] == __version__
        if row["task"] != cell.task.name:
            raise Differs(
                describe_difference("task", row["task"], cell.task.name, "its values are of")
            )
        try:
            task = resolve_task(cell.task.name, cell.scale, cell.overrides)
            task = replace(task, metrics=tuple(dict.fromkeys((*task.metrics, *cell.task.metrics))))
        except SaBenchError as error:
            self.tally.skip(error, f"task {cell.task.name}")
        else:
            self._require(
                "task_values",
                json.loads(to_json(key_values(cell.task))),
                key_values(task),
                "this version has",
            )
        if self.unknown_method:
            self.tally.skip(self.unknown_method, f"name of {self.name}")
            return
        validate(registry.get_method(cell.method), cell.fields, f"method {cell.method}")
        expected = runner.blank_result(cell, "")
        cut = ID - OLD_ID if len(row["cell"]) == OLD_ID else 0  # results of before have shorter ids
        expected["cell"] = cell.id[: ID - cut]
        for key in (*ALWAYS, *(("task_title", "summary") if same else ())):
            self._require(key, row[key], expected[key])
        self._require("threat_model", threat_of(row), expected["threat_model"])
        self._require("folder", self.name, cell.name[: len(cell.name) - cut])
        if same and not row["provenance"].get("plug_ins") and "cell_command" in row["provenance"]:
            told = expected["provenance"]["cell_command"]
            self._require("cell_command", row["provenance"]["cell_command"], told)
        self.tally.add("named")

    def _require(self, what: str, claimed: Any, found: Any, how: str = "recomputed") -> None:
        if difference := tolerance.first_difference(
            claimed, json.loads(to_json(found)), where=what
        ):
            raise Differs(describe_difference(*difference, how))

    def _sets(self) -> list[str]:
        """The task's sample sets; results of before families were kept have none of them."""
        kept = self.row["artifacts"]["samples"]
        return [
            name
            for name in sampling.set_names(self.cell.task)
            if name != "families" or name in kept
        ]

    def _set(self, name: str, base: bool) -> None:
        """A set's images are as many as the task asks for, with its seeds, and those that the result names."""
        file = f"{name}{BASE if base else '.safetensors'}"
        member, left_out = (
            self.bundle.manifest[k].get(f"{self.name}/{file}") for k in ("members", "left_out")
        )
        known = member or left_out
        if known is None:
            raise Differs(
                f"{file}: these images are missing, and the manifest does not say that they were left out."
            )
        if not base and known["sha256"]:
            self._require(
                f"images of {name}",
                self.row["artifacts"]["samples"].get(name),
                set_hash(name, known["sha256"]),
            )
        if member is None:
            self.tally.skip(f"left out of the bundle: {left_out['why']}", f"{self.name}/{file}")
            return
        held = read_header(self.folder / file)["images"][
            "shape"
        ]  # before as much is made as the task asks for
        self._require(
            f"{file}: number of images",
            held[0],
            sampling.count_images(self.cell.task, name),
            "the task asks for",
        )
        found, wanted = load_samples(self.folder / file), sampling.plan_set(self.cell.task, name)
        columns: dict[str, Sequence[int]] = {
            "seeds": [r.request.seed for r in wanted],
            "labels": [r.label for r in wanted],
        }
        if self.cell.task.prompts is not None:
            columns["prompts"] = [r.prompt for r in wanted]
        for column, values in columns.items():
            there = getattr(found, column)
            self._require(f"{file}: {column}", None if there is None else there.tolist(), values)

    def _measurements(self) -> None:
        row, task = self.row, self.cell.task
        unknown = {name: why for name in task.metrics if (why := self._unknown("metric", name))}
        expected = [
            n if n in unknown else metric_name(registry.get_metric(n), task.dataset)
            for n in task.metrics
        ]
        self._require(
            "measurements", [m["name"] for m in row["measurements"]], expected, "the task has"
        )
        views = {base: self._view(base) for base in (False, True)}
        for name, m in zip(task.metrics, row["measurements"], strict=True):
            try:
                self._warned(m)
                unseen = self._interval(m)
                if name in unknown:
                    self.tally.skip(unknown[name], name)
                else:
                    self._declared(registry.get_metric(name), m)
                    unseen = "" if self._recomputed(registry.get_metric(name), m, views) else unseen
                if unseen:
                    self.tally.skip(unseen, f"value and interval of {name}")
            except Differs as error:
                raise Differs(f"{m['name']}: {error}") from error

    def _view(self, base: bool) -> LazyView | None:
        if not self.deep and any(judge_card(n)["kind"] == "trained" for n in self.cell.task.judges):
            return None
        view = LazyView(self.chain, Stored(self.chain, self.folder, base))
        panel = str(self.cell.task.judges)
        if panel not in self.seen:  # loaded once for all cells
            self.seen[panel] = view.judges
        view.judges = self.seen[panel]
        return view

    def _declared(self, metric: Metric, m: Mapping[str, Any]) -> None:
        """Fingerprint, role, unit and direction are this version's."""
        try:
            expected = measure.measurement_with_base(self.chain, metric, m, None)
        except SaBenchError as error:
            self.tally.skip(error, f"fingerprint of {metric.name}")
            return
        same = self.bundle.manifest["sa_bench"] == __version__
        for key in (
            "fingerprint",
            "role",
            "unit",
            "better",
            *(("title", "source") if same else ()),
        ):
            self._require(key, m[key], expected[key], "this version has")
        self.tally.add("fingerprints")

    def _warned(self, m: Mapping[str, Any]) -> None:
        """What a guard found stands among the flags, and nothing else does in its name."""
        warning, flags = (m["extra"] or {}).get("warning"), self.row["flags"]
        told = [
            flag.removeprefix(f"{m['name']}: ")
            for flag in flags
            if flag.startswith(f"{m['name']}: ")
        ]
        if told != ([warning] if warning else []):
            raise Differs(
                describe_difference("flags", told, warning, "the measurement has the warning")
            )

    def _interval(self, m: Mapping[str, Any]) -> str:
        """Value and bounds follow from the scores; else why that cannot be seen from them."""
        path = self.folder / "scores" / f"{m['name']}.parquet"
        if m["value"] is None:
            return ""
        if not path.is_file():
            if tolerance.over_scores(m):
                raise Differs(
                    f"its scores are missing; an interval called {m['interval']} is over scores."
                )
            return "there are no scores of it"
        found = tolerance.from_scores(m, read_scores(path), len(self.cell.task.classes))
        if found is None:
            return f"an interval called {m['interval']} does not follow from the scores"
        if difference := tolerance.first_difference({k: m[k] for k in found}, found):
            raise Differs(describe_difference(*difference, "its scores give"))
        self.tally.add("intervals")
        return ""

    def _recomputed(
        self, metric: Metric, m: Mapping[str, Any], views: Mapping[bool, LazyView | None]
    ) -> bool:
        """Value, interval and scores from the images, and the base model's value; False: that cannot be done here."""
        import pandas as pd

        try:
            measured = self._measured(metric, views[False])
            base = self._base(metric, views[True])
        except Unavailable as error:
            self.tally.skip(error, metric.name)
            return False
        found = tolerance.measurement_facts(measured)
        if m["value"] is None and found["value"] is not None and requirements.is_optional(metric):
            self.tally.skip(
                f"no value in the bundle ({m['reason']}), here {found['value']:.4g}", metric.name
            )
            return True
        difference = tolerance.compare_measurement(m, found, self.here)
        difference = difference or tolerance.compare_number("base", m["base"], base, m, self.here)
        if difference:
            raise Differs(describe_difference(*difference))
        path = self.folder / "scores" / f"{m['name']}.parquet"
        if measured.scores:
            if not path.is_file():
                raise Differs("its scores are missing.")
            frame = pd.DataFrame(dict(measured.scores))
            frame.insert(0, "index", np.arange(len(frame)))
            if difference := tolerance.compare_scores(read_scores(path), frame, self.here):
                raise Differs(describe_difference(*difference))
        self.tally.add("metrics")
        self.tally.add("bases")
        return True

    def _measured(self, metric: Metric, view: LazyView | None) -> Any:
        """The metric's value of what lies in the bundle.

        Raises:
            Unavailable: something that it needs is not here.
        """
        if view is None:
            raise Unavailable("its judges are trained on first use; --deep does that")
        if requirements.asks_model(metric) and not (self.deep and (self.folder / MODEL).is_file()):
            there = (self.folder / MODEL).is_file()
            raise Unavailable(
                "needs the model: --deep"
                if there
                else "needs the model, which is not in the bundle"
            )
        if requirements.asks_model(metric) or "surrogate" in metric.fields:
            self._require_base()
        if reason := view.lacks(metric):
            raise Unavailable(reason)
        try:
            return metric.measure(view)
        except Unavailable:
            raise
        except SaBenchError as error:
            raise Unavailable(str(error)) from error

    def _base(self, metric: Metric, view: LazyView | None) -> float | None:
        """The base's value, once for all cells that share its images."""
        members = self.bundle.manifest["members"]
        images = [
            members.get(f"{self.name}/{n}{BASE}", {}).get("sha256")
            for n in sampling.set_names(self.cell.task)
        ]
        key = digest([metric.name, images, key_values(self.cell.task), self.cell.base_seed])
        if key not in self.seen:
            self.seen[key] = tolerance.measurement_facts(self._measured(metric, view))["value"]
        return self.seen[key]

    def _require_base(self) -> None:
        """θ* is here and is the one that the result names.

        Raises:
            Unavailable: it would have to be trained or fetched.
        """
        task = self.cell.task
        if (
            not task.model
            and base_models.find_shipped(task.family, task.dataset, task.base, self.cell.base_seed)
            is None
        ):
            raise Unavailable("needs a base model that does not ship")
        try:
            found = self.chain.base.content
        except SaBenchError as error:
            raise Unavailable(str(error)) from error
        if found != self.row["artifacts"]["base"]:
            raise Differs(
                describe_difference("base model", self.row["artifacts"]["base"], found, "here is")
            )

    def _weights(self) -> None:
        """A few images are made again from the weights."""
        try:
            self._require_base()
        except Unavailable as error:
            self.tally.skip(error, f"images of {self.name}, whether weights make them")
            return
        for name in self._sets() if self.regenerate else ():
            member = self.bundle.manifest["members"].get(f"{self.name}/{name}{BASE}")
            key = str((name, member, self.chain.base.content, key_values(self.cell.task.sampler)))
            if member and key not in self.seen:  # once for all cells that share them
                self.seen[key] = self._made_again(name, self.chain.base_model_copy(), base=True)
        if not (self.folder / MODEL).is_file():
            self.tally.skip(
                "its weights are not in the bundle (bundle --with-models)", f"images of {self.name}"
            )
        elif self.unknown_method:
            self.tally.skip(self.unknown_method, f"images of {self.name}")
        else:
            self._require("model", self.row["artifacts"]["model"], self.chain.model_content)
            model = self.chain.model() if self.regenerate else None
            for name in self._sets() if model else ():
                if (self.folder / f"{name}.safetensors").is_file():
                    self._made_again(name, model, base=False)

    def _made_again(self, name: str, model: Generator | None, base: bool) -> bool:
        """Compare a few images of a set, chosen at random, with what the weights draw for their seeds."""
        task, method = self.cell.task, None if base else self.cell.build_method()
        stored = Stored(self.chain, self.folder, base).sample_set(name)
        rows = np.sort(np.random.default_rng().permutation(len(stored))[: self.regenerate])
        wanted = sampling.plan_set(task, name)
        made = stored.images.copy()
        made[rows], _ = sampling.generate_images(model, [wanted[i].request for i in rows], task)  # type: ignore[arg-type]
        if method is not None and hasattr(
            method, "render"
        ):  # a filter may look at an image's place in the set
            made = method.render(made, stored.labels, task)
        off = np.abs(made[rows].astype(int) - stored.images[rows]).reshape(len(rows), -1).max(1)
        if len(rows) and off.max() > GREY:
            bad, whose = rows[off.argmax()], "the base model" if base else "the model"
            raise Differs(
                f"{name}: image {bad} (seed {stored.seeds[bad]}) is not what {whose} draws from it: a pixel is "
                f"{off.max()} grey levels off, {GREY} may be."
            )
        self.tally.add("images", len(rows))
        self.tally.largest = max(self.tally.largest, int(off.max(initial=0)))
        return True
