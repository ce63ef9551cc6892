"""The graph of a run: every stage once, in an order that can be done; parts; what its order costs."""

import shlex
from collections import Counter
from pathlib import Path

import cluster_table
import pytest
from graphs import small_cells

from sa_bench import api
from sa_bench.contracts import ignore_event
from sa_bench.core.locks import hold_lock
from sa_bench.core.store import Store
from sa_bench.engine import runner
from sa_bench.engine.cells import resolve
from sa_bench.engine.driver import Driver
from sa_bench.engine.graph import STORED, TO_DO, find_lengths, make_graph, result_id
from sa_bench.engine.scheduler import Scheduler, bound, simulate
from sa_bench.engine.suites import resolve_suite
from sa_bench.engine.worker import Outcome
from sa_bench.engine.workers import OneProcess, Run


def graph_of(tmp_path, tasks, methods, **options):
    return make_graph(resolve(tasks, methods, "quick", **options), Store(tmp_path))


def stages(graph):
    return Counter((j.address.stage, j.address.of_base) for j in graph.jobs.values())


def test_what_cells_share_is_one_job(tmp_path):
    graph = graph_of(tmp_path, ["mnist_0_t2i"], ["sa", "l2", "no_gr"], seeds=[0, 1])
    count = stages(graph)
    assert count["result", False] == 6
    assert count["forget", False] == 6
    assert count["fisher", False] == 1
    assert count["replay", False] == 2  # replay, which all seeds share here, and the surrogate
    metrics = [j for j in graph.jobs.values() if j.address.stage == "measure" and j.address.of_base]
    assert len({j.address.name for j in metrics}) == len(metrics)


@pytest.mark.parametrize("task", ["mnist_0", "mnist_0_ddpm", "mnist_0_t2i", "cifar10_airplane"])
def test_jobs_come_after_what_they_need_and_results_need_all_of_their_cell(tmp_path, task):
    graph = graph_of(tmp_path, [task], ["sa", "naive"])
    done = set()
    for job in graph.jobs.values():
        assert set(job.needs) <= done
        done.add(job.id)
    for cell, ids in graph.of_cell.items():
        assert ids[-1] == f"result/{cell}"
        reached, stack = set(), [ids[-1]]
        while stack:
            one = stack.pop()
            if one not in reached:
                reached.add(one)
                stack += graph.jobs[one].needs
        assert reached == set(ids)


def test_a_planned_graph_makes_nothing(tmp_path):
    graph_of(tmp_path, ["mnist_0", "mnist_0_ddpm", "mnist_0_t2i"], ["sa", "retrain"])
    assert not list(tmp_path.rglob("*"))


def test_what_takes_long_is_divided_and_joined(tmp_path):
    """F of CIFAR10 at scale paper: 16 parts; 4,500 images of replay in parts of 512."""
    (cell,) = resolve(["cifar10_airplane"], ["sa"], "paper")
    graph = make_graph([cell], Store(tmp_path))
    parts = Counter(
        (j.address.stage, j.address.name) for j in graph.jobs.values() if j.address.part >= 0
    )
    assert parts["fisher", "fisher"] == 16
    assert parts["replay", "replay"] == 9
    for job in graph.jobs.values():
        if job.parts > 1 and job.address.part < 0:
            assert len(job.needs) == job.parts
    assert not [
        j for j in graph.jobs.values() if j.address.stage == "forget" and j.address.part >= 0
    ]


def test_a_finished_run_has_only_results_to_write(tmp_path):
    cells = small_cells(["relabel", "original"])
    store = Store(tmp_path / "store")
    runner.run_cells(cells, store, tmp_path / "run", ignore_event, ignore_event)
    graph = make_graph(cells, Store(tmp_path / "store"))
    assert [job.id for job in graph.to_do()] == [result_id(cell) for cell in cells]
    assert {job.state for job in graph.jobs.values()} == {STORED, TO_DO}


def test_a_stage_that_fails_fails_every_cell_that_needs_it_and_no_other(tmp_path):
    """F is shared by two of three cells; it is tried once, not once a cell."""
    cells = small_cells(["sa", "l2", "relabel"])
    tried = []

    class Breaks(OneProcess):
        def submit(self, worker, order):
            tried.append(order.address)
            if order.address.stage == "fisher":
                outcome = Outcome(order.id, "failed", failure=runner_failure())
            else:
                row = {"cell": order.cell.id, "status": "done", "method": order.cell.method}
                is_result = order.address.stage == "result"
                outcome = Outcome(order.id, "done", row=row if is_result else None)
            self._done.append(_done(worker, outcome))

    run = Run(tmp_path / "store", tmp_path / "run", "")
    results = runner.run_cells(
        cells, Store(tmp_path / "store"), tmp_path / "run", ignore_event, ignore_event,
        workers=Breaks(run, "cpu"),
    )  # fmt: skip
    assert [r["status"] for r in results] == ["failed", "failed", "done"]
    assert [r["error"] for r in results[:2]] == ["no memory for F"] * 2
    assert Counter(a.stage for a in tried)["fisher"] == 1
    assert Counter(a.stage for a in tried)["forget"] == 1  # that of relabel


def runner_failure():
    from sa_bench.engine.cell_results import Failure

    return Failure("no memory for F", 1)


def _done(worker, outcome):
    from sa_bench.engine.workers import Done

    return Done(worker, outcome)


def test_a_job_that_another_process_is_at_waits_and_other_work_goes_on(tmp_path):
    """The first cell's model is locked: the second cell is finished before the first one is asked for again."""
    cells = small_cells(["relabel", "original"])
    store, order = Store(tmp_path / "store"), []
    graph = make_graph(cells, store)
    forget = next(j for j in graph.jobs.values() if j.address.stage == "forget")
    kind, _, key = forget.id.partition("/")
    lock = hold_lock(store.root / "locks" / f"{kind}-{key}.lock", "another process")
    lock.__enter__()

    def finished(row):
        if not order:
            lock.__exit__(None, None, None)
        order.append(row["method"])

    rows = runner.run_cells(cells, store, tmp_path / "run", ignore_event, finished)
    assert order == ["original", "relabel"]
    assert [row["status"] for row in rows] == ["done", "done"]


def test_the_longest_chain_begins_first_and_equal_ones_keep_their_order(tmp_path):
    cells = small_cells(["relabel", "original", "sa"])
    graph = make_graph(cells, Store(tmp_path))
    slow = {"sa": 100.0}

    def weigh(job, chain):
        return slow.get(job.cell.method, 1.0) if job.address.stage == "forget" else 0.1

    scheduler = Scheduler(graph, find_lengths(graph, weigh))
    first = scheduler.take()
    assert first is not None
    assert first.id in graph.of_cell[cells[2].id]
    plain = Scheduler(graph)
    taken = plain.take()
    assert taken is not None
    assert taken.cell is cells[0]


@pytest.mark.parametrize("workers", [1, 2, 7, 64])
def test_a_simulated_run_is_no_shorter_than_possible_and_little_longer(tmp_path, workers):
    graph = graph_of(
        tmp_path, ["mnist_0"], ["sa", "l2", "no_gr", "no_ewc", "relabel"], seeds=range(6)
    )
    seconds = {id: 1.0 + (i * 7919 % 13) for i, id in enumerate(graph.jobs)}
    lengths = find_lengths(graph, lambda job, chain: seconds[job.id])
    span, least = simulate(graph, seconds, workers, lengths), bound(graph, seconds, workers)
    assert least <= span * (1 + 1e-9)
    assert span <= 1.3 * least
    if workers == 1:
        assert span == pytest.approx(sum(seconds.values()))


def test_costs_say_what_a_run_made_and_what_it_found(tmp_path):
    cells = small_cells(["sa", "l2"])
    sa, l2 = runner.run_cells(
        cells, Store(tmp_path / "store"), tmp_path / "run", ignore_event, ignore_event
    )
    made = {k for k, v in sa["cost"].items() if not v["cached"]}
    assert {"fisher", "forget", "sample forget", "sample forget (base)"} <= made
    found = {k for k, v in l2["cost"].items() if v["cached"]}
    assert {"fisher", "sample forget (base)"} <= found
    (again, _) = runner.run_cells(
        cells, Store(tmp_path / "store"), tmp_path / "run", ignore_event, ignore_event
    )
    assert all(v["cached"] for v in again["cost"].values())
    assert again["cost"].keys() == sa["cost"].keys()


def test_a_driver_keeps_what_is_done_when_it_goes_on_elsewhere(tmp_path):
    cells = small_cells(["relabel", "original"])
    store = Store(tmp_path / "store")
    driver = Driver(cells, store, Path(tmp_path / "run"), "", ignore_event, ignore_event)
    driver.results[cells[0].id] = {"status": "done"}  # type: ignore[typeddict-item]
    driver.drive(OneProcess(Run(store.root, tmp_path / "run", ""), "cpu"))
    assert driver.results[cells[0].id] == {"status": "done"}
    assert driver.results[cells[1].id]["method"] == "original"


def test_the_page_on_clusters_holds_what_the_simulation_gives(tmp_path):
    page = (Path(__file__).parents[2] / "docs" / "cluster.md").read_text()
    assert cluster_table.make_table(tmp_path) in page


def test_sixty_four_gpus_are_used_well_on_a_real_graph(tmp_path):
    """Table 2 at the paper's budget: within 1.15 of the shortest possible, five times."""
    graph, seconds = cluster_table.plan_suite("table2", tmp_path)
    for seed in cluster_table.SEEDS:
        assert cluster_table.ratio(graph, seconds, 64, seed) <= 1.15


@pytest.mark.parametrize("name", cluster_table.SUITES)
def test_a_tables_suite_is_what_its_empty_cells_ask_for(name):
    """The commands below the table, in one file."""
    asked = {cell.id for command in fill_commands(name) for cell in command}
    assert {cell.id for cell in resolve_suite(name)} == asked


def fill_commands(name):
    text = api.table(name)
    for line in text.splitlines():
        if not line.startswith("python -m sa_bench run "):
            continue
        words = shlex.split(line)[4:]
        values = {}
        for option, value in zip(words[::2], words[1::2], strict=True):
            values.setdefault(option, []).append(value)
        numbers = {
            option: [int(n) for n in values.get(option, ["0"])[0].split(",")]
            for option in ("--seed", "--base-seed", "--sample-seed")
        }
        yield resolve(
            values["--task"][0].split(","), values["--method"][0].split(","), values["--scale"][0],
            seeds=numbers["--seed"], base_seeds=numbers["--base-seed"], sample_seeds=numbers["--sample-seed"],
            sets=values.get("--set", []),
        )  # fmt: skip
