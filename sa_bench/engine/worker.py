"""A worker: does one job of a run's graph after the other, in whatever process it lives."""

from __future__ import annotations

import contextlib
import gc
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from sa_bench.core import registry
from sa_bench.core.errors import MissingAsset, NotFinite, is_out_of_memory, name_missing_extra
from sa_bench.core.locks import Busy
from sa_bench.core.store import Store
from sa_bench.engine.cell_results import Failure, describe_failure, make_result
from sa_bench.engine.cells import Cell
from sa_bench.engine.graph import Address
from sa_bench.engine.measure import LazyView, Subject, measure, require_images
from sa_bench.engine.stage import Divided, PartMade, PartsMissing, Stage
from sa_bench.engine.stages import Chain
from sa_bench.results.schema import ResultRow

DIVISIBLE = ("replay", "fisher", "samples", "measure")
"""Stages whose networks can take less at once when memory is short; training cannot, unchanged."""
SMALLEST = 64  # pieces of a batch beyond which nothing is gained
Report = Callable[[str, str, int, int], None]
"""report(cell name, stage, done, total)"""


@dataclass(frozen=True)
class Order:
    """A job as it is handed to a worker."""

    id: str
    cell: Cell
    address: Address
    wait: bool = True
    """Whether the worker waits while another process makes the artifact."""
    made: frozenset[str] = frozenset()
    """For a result: keys of the artifacts that this run has made for the cell."""
    joinable: frozenset[str] | None = None
    """For a measurement: keys of the stages whose parts the workers have made; None if there is one
    worker, who makes all parts itself."""


@dataclass
class Outcome:
    """What became of an order."""

    id: str
    status: str
    """`done`, `busy` (another process is at it), `divided` (it waits for parts) or `failed`."""
    seconds: float = 0.0
    made: set[str] = field(default_factory=set)
    """Keys of the artifacts that the worker has made."""
    row: ResultRow | None = None
    """The result of a cell."""
    divided: Divided | None = None
    """The stage whose parts the workers must make before."""
    failure: Failure | None = None


class Worker:
    """Does the jobs of a run on one device, and keeps the models of the cell at hand open."""

    def __init__(self, store: Store, out: Path, command: str, device: str) -> None:
        """Open nothing yet.

        Args:
            store: keeps the artifacts.
            out: the run folder.
            command: the command as provenance quotes it.
            device: device of the models.
        """
        self.store, self.out, self.command, self.device = store, out, command, device
        self._chain: Chain | None = None

    def do(self, order: Order, report: Report) -> Outcome:
        """Do one job; a failure is an outcome too."""
        start, cell = time.monotonic(), order.cell
        outcome = Outcome(order.id, "done")
        try:
            registry.require_unchanged(cell.code)
            with name_missing_extra(f"{cell.task.name} by {cell.method}"):
                self._do_in_pieces(order, outcome, report)
        except Busy:
            outcome.status = "busy"
        except PartsMissing as missing:
            outcome.status, outcome.divided = "divided", missing.divided
        except Exception as error:
            self._chain = None  # its models may be what filled the memory
            outcome.status, outcome.failure = "failed", describe_failure(error)
        outcome.seconds = time.monotonic() - start
        return outcome

    def _do_in_pieces(self, order: Order, outcome: Outcome, report: Report) -> None:
        """Do a job; where memory does not suffice, again with networks that take less at once."""
        divisor = 1
        while True:
            chain = self._open(order.cell, report, divisor)
            chain.wait, chain.joinable = order.wait, order.joinable
            before = set(chain.made)
            try:
                if order.address.stage == "result":
                    chain.made |= order.made
                    outcome.row = make_result(chain, self.out, self.command)
                else:
                    self._make(chain, order.address)
            except Exception as error:
                can_divide = order.address.stage in DIVISIBLE and divisor < SMALLEST
                if not (can_divide and is_out_of_memory(error)):
                    raise
            else:
                return
            finally:
                outcome.made |= chain.made - before
                if divisor > 1:
                    self._chain = None
            del chain
            self._chain = None
            _free_memory()
            divisor *= 2

    def _open(self, cell: Cell, report: Report, divisor: int = 1) -> Chain:
        """Give the chain of a cell; that of the last job stays open."""
        if self._chain is None or self._chain.cell.id != cell.id:
            self._chain = None  # before the next one takes its memory
            self._chain = Chain(
                self.store,
                cell,
                lambda stage, done, total: report(cell.name, stage, done, total),
                self.device,
                divisor=divisor,
            )
        return self._chain

    def _make(self, chain: Chain, address: Address) -> None:
        """Make what lies at an address of the chain."""
        if address.stage == "measure":
            _measure(chain, address) if address.part < 0 else _make_part_on_the_way(chain, address)
        elif address.part >= 0:
            chain.make_part(find_stage(chain, address), address.part)
        elif address.stage == "judge":
            from sa_bench.scoring import judges

            judges.load(address.name)
        elif address.stage == "base":
            _ = chain.base
        elif address.stage == "forget":
            _ = chain.forgotten
        elif address.stage == "samples":
            chain.samples(address.name, address.of_base)
        else:
            chain.make(find_stage(chain, address))


def _free_memory() -> None:
    """Give back what a failed attempt still holds."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def find_stage(chain: Chain, address: Address) -> Stage:
    """Find the stage at an address; those that it is named by must be in the store."""
    if address.stage == "samples":
        return chain.sample_stage(address.name, address.of_base)
    if address.stage == "replay":
        return dict(chain.sets_of_forgetting())[address.name]
    if address.stage == "fisher":
        return chain.fisher_stage(dict(chain.fisher_fields())[address.name])
    raise ValueError(f"no stage of a chain is at {address}")


def _measure(chain: Chain, address: Address) -> None:
    """Take one measurement; without real images the cell's result says so."""
    names = chain.task.metrics
    if not address.of_base:
        chain.progress(f"measure {address.name}", names.index(address.name), len(names))
    try:
        metric = registry.get_metric(address.name)
        require_images(chain, metric)
        measure(chain, metric, Subject(chain, address.of_base))
    except MissingAsset as error:
        chain.missing_images = error


def _make_part_on_the_way(chain: Chain, address: Address) -> None:
    """Take a measurement up to a stage with parts, and make one of them.

    Only the measurement knows which images the stage is about. If it meets what is missing or not
    finite, nothing is made: it meets that again when it is taken as a whole, and says so.
    """
    view = LazyView(chain, Subject(chain, address.of_base))
    chain.wanted_part = (address.key, address.part)
    try:
        with contextlib.suppress(PartMade, MissingAsset, NotFinite):
            registry.get_metric(address.name).measure(view)
    finally:
        chain.wanted_part = None
