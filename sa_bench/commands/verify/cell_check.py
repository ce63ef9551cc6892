"""Check one cell of a bundle on this machine: settings, images, scores, values and weights.

Everything is rebuilt from the result's own fields; metrics run as they do in a run, over the images
of the bundle.
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
from sa_bench.core.plug_ins import hash_code
from sa_bench.core.settings import store_folder
from sa_bench.core.store import Store, digest
from sa_bench.core.untrusted_arrays import read_header, read_scores
from sa_bench.core.version import __version__
from sa_bench.data.prompt_files import with_texts
from sa_bench.data.sample_sets import load_samples
from sa_bench.engine import cell_results, measure
from sa_bench.engine.cells import ID, OLD_ID, Cell, resolve_task
from sa_bench.engine.fingerprint import metric_name
from sa_bench.engine.measure import LazyView, Subject
from sa_bench.engine.stages import Chain
from sa_bench.models import base_models
from sa_bench.models.denoising import Denoising
from sa_bench.results.bundles import BASE, MODEL, Bundle, Differs, find_source, set_hash
from sa_bench.results.provenance import same_environment
from sa_bench.results.rows import to_json
from sa_bench.results.schema import Measurement, ResultRow
from sa_bench.results.threats import threat_of
from sa_bench.scoring import requirements, sampling
from sa_bench.scoring.cards import judge_card

GREY = 1  # grey levels by which an image generated again in another batch may differ
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
"""Keys of a result that follow from its settings in every version of the suite."""


class Unavailable(SaBenchError):
    """Error for what cannot be recomputed on this machine; the message says why."""


@dataclass
class Tally:
    """Counts of what was checked, and reasons for what was not."""

    counts: dict[str, int] = field(default_factory=dict)
    skipped: dict[str, dict[str, None]] = field(default_factory=dict)  # reason to names
    largest: int = 0  # largest difference of a pixel, in grey levels

    def add(self, what: str, n: int = 1) -> None:
        """Count `n` more checks of the kind `what`."""
        self.counts[what] = self.counts.get(what, 0) + n

    def skip(self, why: object, what: str) -> None:
        """Record that `what` was not checked, and why."""
        self.skipped.setdefault(str(why).rstrip("."), {})[what] = None


def describe_difference(where: str, claimed: Any, recomputed: Any, how: str = "recomputed") -> str:
    """Describe in one line what a bundle claims and what was recomputed, each cut to 90 letters.

    Of two lists of names only those that one of them lacks.
    """
    if all(
        isinstance(x, list) and all(isinstance(n, str) for n in x) for x in (claimed, recomputed)
    ):
        lacks = [name for name in recomputed if name not in claimed]
        adds = [name for name in claimed if name not in recomputed]
        told = [f"lacks {', '.join(lacks)}"] if lacks else []
        told += [f"has {', '.join(adds)} besides"] if adds else []
        if told:
            return f"{where}: the bundle {' and '.join(told)}."
    a, b = (
        text if len(text := json.dumps(v)) <= 90 else text[:90] + "…" for v in (claimed, recomputed)
    )
    return f"{where}: the bundle says {a}; {how}: {b}."


class Stored(Subject):
    """Subject of measurement that reads a cell's sample sets and weights from a bundle."""

    def __init__(self, chain: Chain, folder: Path, base: bool = False) -> None:
        """Take the cell's `folder`; `base` selects the base model's images."""
        super().__init__(chain, base)
        self.folder = folder

    def sample_set(self, name: str) -> SampleSet:
        """Load the sample set `name`.

        Raises:
            Unavailable: the bundle does not contain it.
        """
        path = self.folder / f"{name}{BASE if self.base else '.safetensors'}"
        if not path.is_file():
            raise Unavailable(f"needs the images of {name}, which are not in the bundle")
        return load_samples(path)

    def before(self) -> Subject:
        """Return the subject for the base model's images in the bundle."""
        return Stored(self.chain, self.folder, base=True)


class CellCheck:
    """Check of one cell of a bundle; `check` runs it."""

    def __init__(
        self,
        bundle: Bundle,
        row: ResultRow,
        tally: Tally,
        cache: dict[str, Any],
        regenerate: int,
        deep: bool,
        device: str,
        report: Callable[[str, str, int, int], None],
    ) -> None:
        """Rebuild the cell of the result `row` and its chain.

        Args:
            bundle: the unpacked bundle.
            row: the result to check.
            tally: counts what was checked and what was not.
            cache: judges, base values and images that cells share, by key.
            regenerate: images per sample set to generate again from the weights.
            deep: also check what needs the model or a trained judge.
            device: device on which images are generated.
            report: called with progress.
        """
        self.bundle, self.row, self.tally, self.cache = bundle, row, tally, cache
        self.regenerate, self.deep, self.device = regenerate, deep, device
        # as in the file: one that a stranger's result lacks is a KeyError, which `verify` reports
        self.artifacts: Mapping[str, Any] = row["artifacts"]
        self.folder = Path(row.get("folder", ""))
        self.name = self.folder.name
        task = with_texts(validate(Task, row["task_values"], f"task {row['task']}"))
        plug_ins = row["provenance"].get("plug_ins") or {}
        self.code = {component: str(plug_in["sha256"]) for component, plug_in in plug_ins.items()}
        self._check_sources()
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
        # None: the bundle has no weights of this cell
        weights_folder = self.folder if (self.folder / MODEL).is_file() else None
        self.chain = Chain(
            Store(store_folder()),
            self.cell,
            lambda stage, done, total: report(self.name, stage, done, total),
            device,
            weights_folder,
        )
        self.same_machine = same_environment(row, device)
        self.unknown_method = self._unknown("method", row["method"])

    def _unknown(self, kind: str, name: str) -> str:
        """Say why a component of the result cannot run here: it is missing, or its code differs.

        Returns:
            "" if it can run.
        """
        if name not in {e.name for e in registry.list_entries(kind)}:
            return f"its {kind} is not registered here (add it with --plug-in FILE)"
        claimed, local = self.code.get(f"{kind} {name}"), registry.describe_source(kind, name)
        if (local["sha256"] if local else None) == claimed:
            return ""
        return f"the code of the {kind} {name} differs here (use the bundle's with --plug-in FILE)"

    def check(self) -> None:
        """Check everything that can be checked here.

        Raises:
            Differs: the first difference between claimed and recomputed.
        """
        self.tally.add("cells")
        self._check_identity()
        if self.row["status"] != "done":
            return
        for name in self._set_names():
            self._check_set(name, base=False)
            self._check_set(name, base=True)
        self._check_measurements()
        self._check_weights()

    def _check_identity(self) -> None:
        """Compare the cell's name and all that follows from its settings."""
        row, cell = self.row, self.cell
        same_version = self.bundle.manifest["sa_bench"] == __version__
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
        expected = cell_results.blank_result(cell, "")
        # older results have shorter ids
        missing_letters = ID - OLD_ID if len(row["cell"]) == OLD_ID else 0
        expected["cell"] = cell.id[: ID - missing_letters]
        for key in (*ALWAYS, *(("task_title", "summary") if same_version else ())):
            self._require(key, row[key], expected[key])
        self._require("threat_model", threat_of(row), threat_of(expected))
        self._require("folder", self.name, cell.name[: len(cell.name) - missing_letters])
        if (
            same_version
            and not row["provenance"].get("plug_ins")
            and "cell_command" in row["provenance"]
        ):
            command = expected["provenance"].get("cell_command")
            self._require("cell_command", row["provenance"]["cell_command"], command)
        self.tally.add("named")

    def _check_sources(self) -> None:
        """Compare the packed code of plug-ins with the hashes in the result."""
        for component, sha256 in self.code.items():
            files = find_source(self.folder, component)
            if files and hash_code(files) != sha256:
                raise Differs(
                    f"the code of {component} in it has the sha256 {hash_code(files)[:12]}…, "
                    f"its result says {sha256[:12]}…."
                )
            self.tally.add("sources" if files else "absent sources")

    def _require(self, what: str, claimed: Any, expected: Any, how: str = "recomputed") -> None:
        """Raise `Differs` unless a claimed value equals the expected one; `how` says where that is from."""
        if difference := tolerance.first_difference(
            claimed, json.loads(to_json(expected)), where=what
        ):
            raise Differs(describe_difference(*difference, how))

    def _set_names(self) -> list[str]:
        """List the task's sample sets. Results from before the families were stored lack that set."""
        stored_sets = self.artifacts["samples"]
        return [
            name
            for name in sampling.set_names(self.cell.task)
            if name != "families" or name in stored_sets
        ]

    def _check_set(self, name: str, base: bool) -> None:
        """Compare a set's number of images, seeds, labels and prompts with what the task asks for.

        The file must also be the one that the result names by its hash.
        """
        file = f"{name}{BASE if base else '.safetensors'}"
        member, left_out = (
            self.bundle.manifest[k].get(f"{self.name}/{file}") for k in ("members", "left_out")
        )
        entry = member or left_out
        if entry is None:
            raise Differs(
                f"{file}: these images are missing, and the manifest does not list them as left out."
            )
        if not base and entry["sha256"]:
            self._require(
                f"images of {name}",
                self.artifacts["samples"].get(name),
                set_hash(name, entry["sha256"]),
            )
        if member is None:
            self.tally.skip(f"left out of the bundle: {left_out['why']}", f"{self.name}/{file}")
            return
        # from the header: the arrays are read only if they have the expected size
        stored_shape = read_header(self.folder / file)["images"]["shape"]
        self._require(
            f"{file}: number of images",
            stored_shape[0],
            sampling.count_images(self.cell.task, name),
            "the task asks for",
        )
        stored, planned = load_samples(self.folder / file), sampling.plan_set(self.cell.task, name)
        columns: dict[str, Sequence[int]] = {
            "seeds": [r.request.seed for r in planned],
            "labels": [r.label for r in planned],
        }
        if self.cell.task.prompts is not None:
            columns["prompts"] = [r.prompt for r in planned]
        for column, values in columns.items():
            stored_column = getattr(stored, column)
            self._require(
                f"{file}: {column}",
                None if stored_column is None else stored_column.tolist(),
                values,
            )

    def _check_measurements(self) -> None:
        """Compare the list of measurements, and each of them, with what this version computes."""
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
                self._check_warning(m)
                unchecked = self._check_interval(m)
                if name in unknown:
                    self.tally.skip(unknown[name], name)
                else:
                    self._check_declaration(registry.get_metric(name), m)
                    unchecked = (
                        "" if self._check_value(registry.get_metric(name), m, views) else unchecked
                    )
                if unchecked:
                    self.tally.skip(unchecked, f"value and interval of {name}")
            except Differs as error:
                raise Differs(f"{m['name']}: {error}") from error

    def _view(self, base: bool) -> LazyView | None:
        """Return the view that metrics measure; None if its judges must be trained first (`deep`)."""
        if not self.deep and any(judge_card(n)["kind"] == "trained" for n in self.cell.task.judges):
            return None
        view = LazyView(self.chain, Stored(self.chain, self.folder, base))
        panel = str(self.cell.task.judges)
        if panel not in self.cache:  # judges are loaded once for all cells
            self.cache[panel] = view.judges
        view.judges = self.cache[panel]
        return view

    def _check_declaration(self, metric: Metric, m: Measurement) -> None:
        """Compare fingerprint, role, unit and direction with this version's.

        A value that an earlier or later version of the metric measured cannot be recomputed here: the error says
        which code can.
        """
        try:
            expected = measure.measurement_with_base(self.chain, metric, m, None)
        except SaBenchError as error:
            self.tally.skip(error, f"fingerprint of {metric.name}")
            return
        claimed = m["fingerprint"].get("version")
        if claimed != metric.version:
            commit = self.row["provenance"].get("commit")
            where = f": commit {json.dumps(commit)}" if commit else ""
            raise Differs(
                f"fingerprint.version: the bundle says {json.dumps(claimed)}, the metric has version {metric.version} "
                f"here. Only the code that measured it can recompute it{where}."
            )
        same_version = self.bundle.manifest["sa_bench"] == __version__
        for key in (
            "fingerprint",
            "role",
            "unit",
            "better",
            *(("title", "source") if same_version else ()),
        ):
            self._require(key, m[key], expected[key], "this version has")
        self.tally.add("fingerprints")

    def _check_warning(self, m: Measurement) -> None:
        """Require that the flags hold exactly the warning of the measurement's guard."""
        warning, flags = (m["extra"] or {}).get("warning"), self.row["flags"]
        metric_flags = [
            flag.removeprefix(f"{m['name']}: ")
            for flag in flags
            if flag.startswith(f"{m['name']}: ")
        ]
        if metric_flags != ([warning] if warning else []):
            raise Differs(
                describe_difference(
                    "flags", metric_flags, warning, "the measurement has the warning"
                )
            )

    def _check_interval(self, m: Measurement) -> str:
        """Compare value and bounds with what follows from the stored scores.

        Returns:
            Why the scores cannot confirm them; "" if they do.
        """
        path = self.folder / "scores" / f"{m['name']}.parquet"
        if m["value"] is None:
            return ""
        if not path.is_file():
            if tolerance.over_scores(m):
                raise Differs(
                    f"its scores are missing; an interval called {m['interval']} is over scores."
                )
            return "it has no scores"
        recomputed = tolerance.from_scores(m, read_scores(path), len(self.cell.task.classes))
        if recomputed is None:
            return f"an interval called {m['interval']} does not follow from the scores"
        claimed = {"value": m["value"], "low": m["low"], "high": m["high"], "n": m["n"]}
        if difference := tolerance.first_difference(claimed, recomputed):
            raise Differs(describe_difference(*difference, "its scores give"))
        self.tally.add("intervals")
        return ""

    def _check_value(
        self, metric: Metric, m: Measurement, views: Mapping[bool, LazyView | None]
    ) -> bool:
        """Compare value, interval, scores and the base model's value with those from the images.

        Returns:
            False if they cannot be computed here.
        """
        import pandas as pd

        try:
            measured = self._measure(metric, views[False])
            base = self._base_value(metric, views[True])
        except Unavailable as error:
            self.tally.skip(error, metric.name)
            return False
        recomputed = tolerance.measurement_facts(measured)
        if (
            m["value"] is None
            and recomputed["value"] is not None
            and requirements.is_optional(metric)
        ):
            self.tally.skip(
                f"no value in the bundle ({m['reason']}), here {recomputed['value']:.4g}",
                metric.name,
            )
            return True
        difference = tolerance.compare_measurement(m, recomputed, self.same_machine)
        difference = difference or tolerance.compare_number(
            "base", m["base"], base, m, self.same_machine
        )
        if difference:
            raise Differs(describe_difference(*difference))
        path = self.folder / "scores" / f"{m['name']}.parquet"
        if measured.scores:
            if not path.is_file():
                raise Differs("its scores are missing.")
            frame = pd.DataFrame(dict(measured.scores))
            frame.insert(0, "index", np.arange(len(frame)))
            if difference := tolerance.compare_scores(read_scores(path), frame, self.same_machine):
                raise Differs(describe_difference(*difference))
        self.tally.add("metrics")
        self.tally.add("bases")
        return True

    def _measure(self, metric: Metric, view: LazyView | None) -> Any:
        """Measure a metric on the bundle's images and weights.

        Raises:
            Unavailable: something that the metric needs is not here.
        """
        if view is None:
            raise Unavailable("its judges are trained on first use; --deep does that")
        has_weights = (self.folder / MODEL).is_file()
        if requirements.asks_model(metric) and not (self.deep and has_weights):
            raise Unavailable(
                "needs the model: --deep"
                if has_weights
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

    def _base_value(self, metric: Metric, view: LazyView | None) -> float | None:
        """Measure a metric on the base model, once for all cells that share its images."""
        members = self.bundle.manifest["members"]
        images = [
            members.get(f"{self.name}/{n}{BASE}", {}).get("sha256")
            for n in sampling.set_names(self.cell.task)
        ]
        key = digest([metric.name, images, key_values(self.cell.task), self.cell.base_seed])
        if key not in self.cache:
            self.cache[key] = tolerance.measurement_facts(self._measure(metric, view))["value"]
        return self.cache[key]

    def _require_base(self) -> None:
        """Require that the base model is here and is the one that the result names.

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
            content = self.chain.base.content
        except SaBenchError as error:
            raise Unavailable(str(error)) from error
        if content != self.artifacts["base"]:
            raise Differs(
                describe_difference("base model", self.artifacts["base"], content, "here is")
            )

    def _check_weights(self) -> None:
        """Generate a few images again from the weights, and compare them."""
        try:
            self._require_base()
        except Unavailable as error:
            self.tally.skip(error, f"images of {self.name}, whether weights make them")
            return
        for name in self._set_names() if self.regenerate else ():
            member = self.bundle.manifest["members"].get(f"{self.name}/{name}{BASE}")
            key = str((name, member, self.chain.base.content, key_values(self.cell.task.sampler)))
            if member and key not in self.cache:  # once for all cells that share the images
                self.cache[key] = self._check_images(name, self.chain.base_model_copy(), base=True)
        if not (self.folder / MODEL).is_file():
            self.tally.skip(
                "its weights are not in the bundle (bundle --with-models)", f"images of {self.name}"
            )
        elif self.unknown_method:
            self.tally.skip(self.unknown_method, f"images of {self.name}")
        else:
            self._require("model", self.artifacts["model"], self.chain.model_content)
            if not self.regenerate:
                return
            model = self.chain.model()
            for name in self._set_names():
                if (self.folder / f"{name}.safetensors").is_file():
                    self._check_images(name, model, base=False)

    def _check_images(self, name: str, model: Generator, base: bool) -> bool:
        """Compare a few random images of a set with what the weights generate for their seeds."""
        task, method = self.cell.task, None if base else self.cell.build_method()
        stored = Stored(self.chain, self.folder, base).sample_set(name)
        rows = np.sort(np.random.default_rng().permutation(len(stored))[: self.regenerate])
        if len(rows) and isinstance(model, Denoising) and task.sampler.dropout:
            rows = np.array(model.drawn_with(int(rows[0]), len(stored), task.sampler))
        planned = sampling.plan_set(task, name)
        regenerated = stored.images.copy()
        regenerated[rows], _ = sampling.generate_images(
            model, [planned[i].request for i in rows], task
        )
        # all images: a filter may look at an image's place in the set
        if method is not None and hasattr(method, "render"):
            regenerated = method.render(regenerated, stored.labels, task)
        differences = (
            np.abs(regenerated[rows].astype(int) - stored.images[rows])
            .reshape(len(rows), -1)
            .max(1)
        )
        if len(rows) and differences.max() > GREY:
            worst = rows[differences.argmax()]
            model_name = "the base model" if base else "the model"
            raise Differs(
                f"{name}: image {worst} (seed {stored.seeds[worst]}) is not what {model_name} generates from it: a pixel "
                f"differs by {differences.max()} grey levels ({GREY} allowed)."
            )
        self.tally.add("images", len(rows))
        self.tally.largest = max(self.tally.largest, int(differences.max(initial=0)))
        return True
