"""`plan` says what so many runs could tell, from the spread that was measured."""

from typing import Any

import pytest

from sa_bench.commands import plan, stage_times
from sa_bench.commands.stage_times import StageTimes, read_times
from sa_bench.contracts import ignore_event, key_values
from sa_bench.core import registry
from sa_bench.core.errors import SaBenchError
from sa_bench.core.store import Store
from sa_bench.data.assets.shipped import rates_card
from sa_bench.engine import memory, rates
from sa_bench.engine.cells import resolve
from sa_bench.engine.graph import find_lengths, make_graph
from sa_bench.engine.rates import NOTHING, Duration
from sa_bench.engine.stages import Chain

CARD = {
    "mnist_0": {
        "recovery": {"unit": "rate", "base": 0.01, "seed": 0.02},
        "retain_log_likelihood": {"unit": "nats", "base": 0.1, "seed": 0.2},
    }
}


@pytest.fixture(autouse=True)
def card(monkeypatch):
    monkeypatch.setattr(plan, "variance_card", lambda: CARD)
    monkeypatch.setattr(stage_times, "_probe_machine", lambda: 2 * SHIPPED["speed"])


SHIPPED = rates_card()


def exactly(seconds):
    return Duration(seconds, seconds, seconds)


def tells(task="mnist_0", scale="full", **runs):
    return list(plan._describe_power(resolve([task], ["sa", "l2"], scale, **runs)))


def test_more_runs_tell_smaller_differences():
    (few,) = tells(seeds=[0, 1, 2], base_seeds=[0, 1, 2])
    (many,) = tells(seeds=range(8), base_seeds=[0, 1, 2])
    assert few.startswith("tells:  mnist_0, 3 bases x 3 seeds: differences from recovery ")

    def nats(line):
        return float(line.partition("retain_log_likelihood ")[2].split()[0])

    assert 0 < nats(many) < nats(few)
    assert "points" in many


@pytest.mark.parametrize("runs", [{}, {"base_seeds": [0, 1, 2]}, {"seeds": [0, 1, 2, 3]}])
def test_what_the_report_will_not_compare_is_not_promised(runs):
    assert tells(**runs) == [
        "tells:  mnist_0: not which method is better, no two of them share 5 runs"
    ]
    alone = resolve(["mnist_0"], ["sa", "retrain"], seeds=range(8))
    assert list(plan._describe_power(alone)) == tells(**runs)


@pytest.mark.parametrize(
    ("task", "methods", "bases", "said"),
    [
        ("mnist_0_ddpm", ["sa"], 3, "mnist_0_ddpm: not whether what is hidden comes back, without --method retrain"),
        ("mnist_0_ddpm", ["sa", "retrain"], 1, "mnist_0_ddpm: ERASED only of a row of which less comes back"),
        ("mnist_0_ddpm", ["sa", "retrain"], 3, ""),
        ("mnist_0", ["sa", "retrain"], 1, ""),
        ("mnist_0_ddpm", ["original", "relabel"], 1, ""),
        ("concept", ["esd"], 1, ""),
    ],
)  # fmt: skip
def test_a_plan_says_where_no_row_can_be_told_from_one_that_hides(task, methods, bases, said):
    found = list(plan._describe_erasure(resolve([task], methods, "full", base_seeds=range(bases))))
    assert [line.strip().startswith(said) for line in found] == ([True] if said else [])


def test_ten_concepts_are_no_ten_runs_of_one():
    cells = [
        cell
        for digit in range(3)
        for cell in resolve(["mnist_0_ddpm"], ["sa", "retrain"], sets=[f"task.concept={digit}"])
    ]
    assert len(list(plan._describe_erasure(cells))) == 1


def test_one_base_model_speaks_for_itself():
    (line,) = tells(seeds=range(8))
    assert "on this base model alone" in line


def test_no_rate_differs_by_more_than_all(monkeypatch):
    loud = {"mnist_0": {**CARD["mnist_0"], "recovery": {"unit": "rate", "base": 0.3, "seed": 0.2}}}
    monkeypatch.setattr(plan, "variance_card", lambda: loud)
    (line,) = tells(seeds=range(8), base_seeds=[0, 1, 2])
    assert "differences from recovery none that a rate can have, retain_log_likelihood 0." in line


def test_what_was_not_measured_is_not_guessed():
    assert tells("mnist_0_r1000") == tells(scale="quick") == []


def test_many_cells_are_told_by_setting_and_add_up():
    stages = [
        plan.PlannedStage("20 steps", "to do", exactly(90.0)),
        plan.PlannedStage("samples", "to do", None),
    ]
    done = [plan.PlannedStage("samples", "stored", NOTHING)]
    titles = {i: f"mnist_0 × sa lam={lam} (base {i}, seed 0)" for i, lam in enumerate((1, 1, 5))}
    said = list(plan._group_cells(titles, {0: stages[:1], 1: stages, 2: done}))
    assert said == [
        "  mnist_0 × sa lam=1: 2 cells, 2 to do, about 3.0 min of CPU, 1 of unknown time",
        "  mnist_0 × sa lam=5: 1 cell, 0 to do",
    ]


def test_what_a_method_learns_from_is_planned_where_it_learns(monkeypatch, tmp_path):
    """Sets that are drawn once: for the first cell of a base that wants them, not for those that do without."""
    monkeypatch.setenv("SA_BENCH_STORE", str(tmp_path))
    said = plan.describe_plan(
        resolve(["mnist_0_t2i"], ["uce", "sa", "no_ewc", "esd"], base_seeds=[0, 1]), 1
    )
    lines = {line.partition(":")[0].strip(): line for line in said.splitlines() if " × " in line}
    for base in (0, 1):
        assert "surrogate 100 images" in lines[f"mnist_0_t2i × sa (base {base}, seed 0)"]
        assert "replay 900 images" in lines[f"mnist_0_t2i × sa (base {base}, seed 0)"]
    assert sum("replay" in line for line in lines.values()) == 2
    assert sum("base model's samples" in line for line in lines.values()) == 2


def test_methods_that_call_the_same_f_by_other_names_are_planned(monkeypatch, tmp_path):
    """`ssd` calls F `importance`: beside `sa` a plan on a new machine ended in a KeyError."""
    monkeypatch.setenv("SA_BENCH_STORE", str(tmp_path))
    said = plan.describe_plan(resolve(["mnist_0"], ["sa", "ssd"]), 1)
    lines = [line for line in said.splitlines() if " × " in line]
    assert ["fisher" in line for line in lines] == [True, True]


def test_a_plan_says_the_dose_of_the_attack_and_what_it_costs():
    """Of what was measured once, at another dose: 16 images took 8 s, so 8 images take 4 s."""
    from types import SimpleNamespace

    cells = resolve(["concept"], ["original", "sa"], "quick")
    (line,) = plan._describe_attacks(cells, StageTimes())
    said = (
        "attack: concept, 1 fit of 2 steps of 4 images, 1/10,000 of the published attack's 80,000; "
    )
    assert line == said + "time unknown"
    prints = {
        "recovery_budgets": [0, 4], "recovery_batch": 4, "recovery_rates": [0.01], "recovery_starts": ["own"],
        "sampler": key_values(cells[0].task.sampler),
    }  # fmt: skip
    inputs = {"metric": "recovery_excess", "fingerprint": prints}
    meta = {"cost": {"cpu_s": 8.0}, "inputs": inputs}
    store: Any = SimpleNamespace(iterate_meta=lambda: [("measure", meta)])
    times = read_times(store)
    (line,) = plan._describe_attacks(cells, times)
    assert line == said + "about 4 s a model"
    assert list(plan._describe_attacks(resolve(["mnist_0"], ["sa"]), times)) == []


class Untouched(Store):
    """A store that holds forgotten models and some sample sets, and in which nothing may be made."""

    def __init__(self, folder, sampled=()):
        super().__init__(folder)
        self.sampled = sampled

    def has(self, stage, key):
        return stage == "forget" or (stage == "samples" and key in self.sampled)

    def make(self, stage, inputs, build):
        raise AssertionError(f"plan makes {stage}")


@pytest.mark.parametrize("sampled", [[], [("forget", False), ("retain", False)]])
def test_a_plan_makes_nothing_and_calls_no_set_stored_that_is_not(monkeypatch, tmp_path, sampled):
    """The base model's sets, and families of prompts, name measurements as well."""
    (cell,) = resolve(["mnist_0_t2i"], ["uce"], "quick", sets=["task.train_precision=fp32"])

    monkeypatch.setattr(Chain, "model_content", "a model")
    chain = Chain(Untouched(tmp_path), cell, ignore_event)
    keys = {chain.sample_stage(name, base).key for name, base in sampled}
    graph = make_graph([cell], Untouched(tmp_path, keys))
    stages = list(plan._plan_cell(graph, cell, StageTimes(), {}))
    assert [s.state for s in stages if s.what.startswith("samples")] == ["to do"]
    assert any(s.what.startswith("base model's samples") for s in stages)


def test_what_never_ran_here_is_estimated_from_the_shipped_boards():
    """On a machine twice as fast as theirs, half of their time; every shipped suite has a range."""
    times = StageTimes()
    (cell,) = resolve(["mnist_0"], ["sa"])
    rate = SHIPPED["rates"]["forget sa: vae on mnist"]
    images = cell.fields["steps"] * cell.fields["batch"]
    duration = times.forget(cell.task, "sa", cell.fields, cell.fields["steps"])
    assert duration is not None
    assert duration.middle == pytest.approx(rate["middle"] * images / 2)
    assert duration.low < duration.middle < duration.high
    of_own_method = times.forget(cell.task, "mine", cell.fields, cell.fields["steps"])
    any_rate = SHIPPED["rates"]["forget any method: vae on mnist"]
    assert of_own_method is not None
    assert of_own_method.middle == pytest.approx(any_rate["middle"] * images / 2)


def test_what_ran_here_needs_no_probe(tmp_path):
    (cell,) = resolve(["mnist_0"], ["original"])
    own = {f"measure {name}": exactly(1.0) for name in cell.task.metrics}
    times = StageTimes(own)
    chain = Chain(Store(tmp_path), cell, ignore_event)
    assert times.measure(chain, cell.task.metrics) == exactly(float(len(cell.task.metrics)))
    assert not times.probed


@pytest.mark.parametrize("task", ["mnist_0", "mnist_0_ddpm", "mnist_0_t2i"])
def test_a_plan_on_a_new_machine_gives_the_time_as_a_range(monkeypatch, tmp_path, task):
    monkeypatch.setenv("SA_BENCH_STORE", str(tmp_path))
    said = plan.describe_plan(resolve([task], ["sa", "retrain"]), 1)
    (line,) = (line for line in said.splitlines() if line.startswith("time:"))
    low, _, high = line.removeprefix("time:").split()[:3]
    assert float(low) < float(high), line
    assert "unknown" not in said
    assert "2.00 times as fast" in said


def test_a_plan_of_what_nobody_measured_says_so(monkeypatch, tmp_path):
    monkeypatch.setenv("SA_BENCH_STORE", str(tmp_path))
    said = plan.describe_plan(resolve(["concept"], ["original"], "quick"), 1)
    assert "time:   unknown" in said


def test_a_range_is_in_the_unit_of_its_middle():
    assert plan._format_range(exactly(30.0)) == "about 30 s"
    assert plan._format_range(Duration(60.0, 120.0, 300.0)) == "1.0 to 5.0 min"
    assert plan._format_range(Duration(3600.0, 7200.0, 9000.0)) == "1.0 to 2.5 h"


def test_a_plan_refuses_what_a_run_refuses():
    with pytest.raises(SaBenchError, match="esd needs a diffusion model; mnist_0 has a vae"):
        resolve(["mnist_0"], ["esd"])


def test_the_probe_measures_until_its_time_is_over_by_its_clock():
    """The first reading is before its time is over, the next behind it: one step was done in between."""
    time = rates.PROBE_SECONDS
    readings = iter([0.0, 0.8 * time, 1.6 * time])
    steps = rates.STEPS_OF_NETWORK
    assert rates.probe_speed(clock=lambda: next(readings)) == pytest.approx(steps / (1.6 * time))


def test_rates_are_seconds_a_unit_of_results():
    from sa_bench.weights.rates import measure_rates

    row: Any = {
        "status": "done", "method": "sa", "fields": {"steps": 10, "batch": 4, "fisher": {"n": 5, "timesteps": 2}},
        "task_values": {
            "family": "vae", "dataset": "mnist", "n_forget": 6, "n_retain": 2, "classes": ["a", "b", "c"],
            "sampler": {"steps": 3}, "recovery_images": [2], "recovery_budgets": [0, 5], "recovery_starts": ["own"],
            "recovery_rates": [0.1],
        },
        "measurements": [
            {"fingerprint": {"metric": "kid", "version": registry.get_metric("kid").version}},
            {"fingerprint": {"metric": "entropy", "version": -1}},
        ],
        "cost": {
            "measure entropy": {"cpu_s": 5.0, "device": "cpu"},
            "forget": {"cpu_s": 8.0, "device": "cpu"},
            "fisher": {"cpu_s": 1.0, "device": "cpu"},
            "sample forget (base)": {"cpu_s": 9.0, "device": "cpu"},
            "measure kid": {"cpu_s": 5.0, "device": "cpu"},
            "measure recovery": {"cpu_s": 20.0, "device": "cpu"},
            "measure fid": {"cpu_s": 1.0, "device": "cuda"},
        },
    }  # fmt: skip
    assert measure_rates([row]) == {
        "fisher: vae on mnist": [0.2],  # it has no timesteps
        "forget any method: vae on mnist": [0.2],
        "forget sa: vae on mnist": [0.2],
        "measure kid: vae on mnist": [0.5],
        "measure recovery: vae on mnist": [2.0],
        "sample: vae on mnist": [0.5],
    }


@pytest.mark.parametrize("task", ["mnist_0", "mnist_0_ddpm", "mnist_0_t2i"])
def test_parameters_are_counted_without_loading_the_model(tmp_path, task):
    (cell,) = resolve([task], ["original"])
    net = Chain(Store(tmp_path), cell, ignore_event).architecture().net
    assert memory.count_parameters(cell) == sum(p.numel() for p in net.parameters())
    assert memory.needed_mib(cell) > 600


def test_the_longest_chain_is_begun_first_by_what_is_known_of_times(monkeypatch, tmp_path):
    """retrain takes longer than relabel, on a machine where nothing ran."""
    monkeypatch.setenv("SA_BENCH_STORE", str(tmp_path))
    cells = resolve(["mnist_0"], ["relabel", "retrain"])
    graph = make_graph(cells, Store(tmp_path))
    lengths = find_lengths(graph, plan.estimate_jobs("cpu"))
    relabel, retrain = (lengths[graph.of_cell[cell.id][-1]] for cell in cells)
    assert 0 < relabel < retrain
