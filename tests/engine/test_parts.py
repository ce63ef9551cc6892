"""Stages in parts: the same bits whoever makes them, and a kill costs one part."""

import inspect
import pickle
import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import UNet2DModel
from safetensors.torch import load_file

from sa_bench.contracts import FisherOptions, SampleSet, ignore_event, image_seed
from sa_bench.core.parts import load_record
from sa_bench.core.store import Store
from sa_bench.data.sample_sets import load_samples
from sa_bench.engine import measure, replay, runner
from sa_bench.engine.cells import resolve
from sa_bench.engine.graph import Address, make_graph
from sa_bench.engine.measure import LazyView, Subject, keep_detections
from sa_bench.engine.stage import PartMade, PartsMissing
from sa_bench.engine.stages import Chain
from sa_bench.engine.worker import Order, Worker
from sa_bench.engine.workers import Done, Lost, Place
from sa_bench.scoring import inception, sampling
from sa_bench.scoring.detectors import celebrities, faces
from sa_bench.training import fisher, fisher_plan

TINY = [
    "task.n_forget=8", "task.n_retain=1", "task.sampler.steps=3", "task.replay_images=18",
    "sa.steps=3", "sa.batch=2", "sa.fisher.n=7", "sa.fisher.timesteps=3",
]  # fmt: skip


@pytest.fixture
def divided(monkeypatch):
    """Let everything count as long, in small parts."""
    monkeypatch.setattr(replay, "LONG", 1)
    monkeypatch.setattr(replay, "PART", 5)
    monkeypatch.setattr(sampling, "SHARD", 4)
    monkeypatch.setattr(fisher_plan, "SHARES", 3)


def cells_of(methods=("sa",), metrics="forget_top1"):
    sets = [one for one in TINY if one.partition(".")[0] in ("task", *methods)]
    sets.append(f"task.metrics={metrics}")
    return resolve(["mnist_0_ddpm"], list(methods), "quick", sets=sets)


class Killed(BaseException):
    """A worker's death: nothing in it sees this."""


class Shuffled:
    """Several workers of one process that end in a random order."""

    loses_alone = True

    def __init__(self, store, out, count, seed):
        self.places = [Place("here", "cpu")] * count
        self.workers = [Worker(Store(store), out, "", "cpu") for _ in range(count)]
        self.dice, self.orders, self.parts = random.Random(seed), {}, 0

    def start(self):
        pass

    def is_ready(self, worker):
        return True

    def submit(self, worker, order):
        self.orders[worker] = pickle.loads(pickle.dumps(order))
        self.parts += order.address.part >= 0

    def wait(self, seconds):
        worker = self.dice.choice(sorted(self.orders))
        try:
            return [Done(worker, self.workers[worker].do(self.orders.pop(worker), ignore_event))]
        except Killed:
            return [Lost(worker, "killed")]

    def stop(self):
        pass


def run(folder, workers=None, cells=None):
    cells = cells or cells_of()
    (row,) = runner.run_cells(
        cells, Store(folder / "store"), folder / "run", ignore_event, ignore_event, workers=workers
    )
    assert row["status"] == "done", row["error"]
    files = {str(p.relative_to(folder)): p.read_bytes() for p in folder.glob("run/*/*.safetensors")}
    files |= {p.parent.parent.name: p.read_bytes() for p in folder.glob("store/fisher/*/fisher.*")}
    for file in folder.glob("store/detections/*/*.json"):
        if file.name != "meta.json":
            files[f"{file.parent.name}/{file.name}"] = file.read_bytes()
    return row, files


def test_any_number_of_workers_gives_the_same_bits(divided, tmp_path, store_env):
    row, alone = run(tmp_path / "one")
    assert {"fisher"} < set(alone)
    for count, seed in ((2, 1), (16, 2)):
        folder = tmp_path / str(count)
        workers = Shuffled(folder / "store", folder / "run", count, seed)
        other, together = run(folder, workers)
        assert workers.parts == 3 + 4 + 2 * (2 + 3)  # F, replay, samples of two models
        assert together == alone
        assert other["measurements"] == row["measurements"]
        assert not list(folder.glob("store/*/*.partial"))


def test_f_in_parts_is_f_in_one_go(divided, tmp_path, store_env):
    """The same draws, image after image in one sum: equal to 1e-6."""
    (cell,) = cells_of()
    chain = Chain(Store(tmp_path), cell, ignore_event)
    options = FisherOptions(n=7, timesteps=3, set="replay")
    model, source = chain.base_model_view(), chain.source("replay")
    shares, rng = fisher_plan.split_samples(options.n), torch.Generator()

    def batches():
        for number, part in enumerate(shares):
            rng.manual_seed(image_seed("fisher", number))
            few = FisherOptions(n=len(part), timesteps=3, set="replay")
            yield from fisher.sample_batches(
                model, cell.task, few, source, cell.task.sampler, rng, 0, part.start
            )

    whole, _ = fisher.fisher_over_time(model, batches(), options, rng)
    parts = load_file(chain.make(chain.fisher_stage(options)).path / "fisher.safetensors")
    assert parts.keys() == whole.keys()
    for name, value in whole.items():
        torch.testing.assert_close(parts[name], value, rtol=1e-6, atol=float(value.max()) * 1e-7)


def test_a_killed_part_costs_that_part(divided, tmp_path, store_env, monkeypatch):
    """After a kill in the second of three parts of F only two are made."""
    (cell,) = cells_of()

    def stage_of(chain):
        return chain.fisher_stage(dict(chain.fisher_fields())["fisher"])

    chain = Chain(Store(tmp_path), cell, ignore_event)
    made, sum_part = [], fisher.sum_part

    def killed(*arguments):
        if len(made) == 1:
            raise KeyboardInterrupt
        made.append(arguments[6])
        return sum_part(*arguments)

    monkeypatch.setattr(fisher, "sum_part", killed)
    with pytest.raises(KeyboardInterrupt):
        chain.make(stage_of(chain))
    made.append(None)
    again = Chain(Store(tmp_path), cell, ignore_event)
    again.make(stage_of(again))
    assert made[2:] == fisher_plan.split_samples(7)[1:]
    assert again.cost["fisher"]["wall_s"] > 0


def test_parts_of_several_workers_add_up_in_the_cost(divided, tmp_path, store_env):
    (cell,) = cells_of()
    chain = Chain(Store(tmp_path), cell, ignore_event)
    stage = chain.fisher_stage(dict(chain.fisher_fields())["fisher"])
    for number in range(stage.parts):
        Chain(Store(tmp_path), cell, ignore_event).make_part(stage, number)
    files = chain.store.parts_folder(stage.kind, stage.key).glob("cost-*.json")
    costs = [load_record(file)["cpu_s"] for file in files]
    assert len(costs) == stage.parts == 3
    assert chain.make(stage).meta["cost"]["cpu_s"] >= sum(costs) > 0
    assert not chain.store.parts_folder(stage.kind, stage.key).exists()


def test_small_sets_are_drawn_as_they_always_were(tmp_path):
    """Only what takes long is divided: published boards keep their keys and bits."""
    for task, scale in (("mnist_0_ddpm", "full"), ("mnist_0_t2i", "full"), ("mnist_0", "paper")):
        (cell,) = resolve([task], ["sa"], scale)
        graph = make_graph([cell], Store(tmp_path))
        divided = {j.address.stage for j in graph.jobs.values() if j.address.part >= 0}
        assert divided <= {"samples"}


def test_a_set_of_shards_is_whole_whoever_joins_it(divided, tmp_path, store_env):
    (cell,) = cells_of()
    chain = Chain(Store(tmp_path), cell, ignore_event)
    stage = chain.sample_stage("forget", base=True)
    for number in reversed(range(stage.parts)):
        chain.make_part(stage, number)
    samples = load_samples(chain.make(stage).path / "forget.safetensors")
    assert len(samples) == 8
    assert samples.seeds.tolist() == [r.seed for r in sampling.requests_of_set(cell.task, "forget")]


@pytest.mark.parametrize("stage", ["fisher", "samples"])
def test_where_memory_is_short_fewer_images_go_through_at_once_and_the_result_says_so(
    divided, tmp_path, store_env, monkeypatch, stage
):
    """A network that refuses more than one image at once: the same numbers to rounding, and a flag."""
    whole, _ = run(tmp_path / "large")
    forward = UNet2DModel.forward

    def refuse(net, x, *inputs, **named):
        most = 2 if stage == "samples" else 1  # one image, with its condition and without
        if len(x) > most and (stage == "samples") == (not torch.is_grad_enabled()):
            raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return forward(net, x, *inputs, **named)

    monkeypatch.setattr(UNet2DModel, "forward", refuse)
    cells = cells_of(["original" if stage == "samples" else "sa"])
    store = Store(tmp_path / "small")
    if stage == "fisher":
        chain = Chain(store, cells[0], ignore_event)
        worker = Worker(store, tmp_path / "run", "", "cpu")
        report = worker.do(Order("fisher", cells[0], Address("fisher", "fisher")), ignore_event)
        assert report.status == "done", report.failure
        cost = chain.make(chain.fisher_stage(dict(chain.fisher_fields())["fisher"])).meta["cost"]
        assert cost["divisor"] in (2, 4)
        return
    (row,) = runner.run_cells(cells, store, tmp_path / "run", ignore_event, ignore_event)
    assert row["status"] == "done", row["error"]
    assert any(flag.startswith("memory: too small at first") for flag in row["flags"])
    base = {k: v for k, v in whole["cost"].items() if k.endswith("(base)")}
    assert all("divisor" not in v for v in base.values())


@pytest.fixture
def detector(monkeypatch):
    """A detector of faces that finds one in every bright image; gives what it was shown each time."""
    shown = []

    def detect(images, beside=None, prior_records=None, device="cpu", progress=None):
        if len(shown) == detect.dies_at:
            detect.dies_at = -1
            raise Killed
        shown.append(images.tobytes())
        progress("faces", len(images), len(images))
        bright = [float(image.mean()) for image in images]
        return [{"faces": [{"box": [0, 0, 1, 1], "probability": b}][: b > 60]} for b in bright]

    detect.dies_at = -1
    monkeypatch.setattr(faces, "detect", detect)
    monkeypatch.setattr(faces, "missing", lambda: None)
    monkeypatch.setattr(faces, "facts", dict)
    monkeypatch.setattr(measure, "CHUNK", 3)
    detect.shown = shown
    return detect


SCORED = {"methods": ["original"], "metrics": "no_face_rate,forget_top1"}


def test_workers_share_a_detector(detector, tmp_path, store_env):
    """Three parts of eight images of the model and of its base, which are the same images here."""
    row, alone = run(tmp_path / "one", cells=cells_of(**SCORED))
    whole, detector.shown[:] = sorted(detector.shown), []
    assert len(whole) == len(set(whole)) == 3
    for count, seed in ((2, 1), (16, 2)):
        folder = tmp_path / str(count)
        workers = Shuffled(folder / "store", folder / "run", count, seed)
        other, together = run(folder, workers, cells_of(**SCORED))
        assert workers.parts == 3
        assert sorted(detector.shown) == whole
        assert together == alone
        assert other["measurements"] == row["measurements"]
        assert not list(folder.glob("store/*/*.partial"))
        detector.shown.clear()


def test_a_worker_that_dies_in_a_part_of_a_detector_costs_that_part(detector, tmp_path, store_env):
    row, alone = run(tmp_path / "one", cells=cells_of(**SCORED))
    whole, detector.shown[:] = sorted(detector.shown), []
    detector.dies_at = 1
    workers = Shuffled(tmp_path / "store", tmp_path / "run", 2, 3)
    other, together = run(tmp_path, workers, cells_of(**SCORED))
    assert detector.dies_at == -1
    assert workers.parts == 3 + 1
    assert sorted(detector.shown) == whole
    assert together == alone
    assert other["measurements"] == row["measurements"]


def test_a_detector_that_cannot_be_asked_is_told_by_the_measurement(
    detector, tmp_path, store_env, monkeypatch
):
    """A part that fails fails the cells that need it, in the words of a run in one process."""

    def broken(*arguments, **options):
        raise RuntimeError("the network is broken")

    monkeypatch.setattr(faces, "detect", broken)
    errors = []
    for count in (1, 2):
        folder = tmp_path / str(count)
        workers = Shuffled(folder / "store", folder / "run", count, 1)
        (row,) = runner.run_cells(
            cells_of(**SCORED), Store(folder / "store"), folder / "run", ignore_event, ignore_event,
            workers=workers,
        )  # fmt: skip
        assert row["status"] == "failed"
        errors.append(str(row["error"]).partition(" (details")[0])
    assert errors == ["RuntimeError: the network is broken"] * 2


def test_a_detector_that_starts_from_another_waits_for_its_parts(
    detector, tmp_path, store_env, monkeypatch
):
    def name(images, beside=None, prior_records=None, device="cpu", progress=None):
        return [{"faces": [len(r["faces"]), n]} for r, n in zip(prior_records, beside, strict=True)]

    monkeypatch.setattr(celebrities, "detect", name)
    monkeypatch.setattr(celebrities, "facts", dict)
    (cell,) = cells_of(**SCORED)
    pixels = np.random.default_rng(0).integers(0, 120, (5, 8, 8, 3), np.uint8)
    images = SampleSet(pixels, np.zeros(5, np.int64), np.arange(5))
    names = list("abcde")
    whole = keep_detections(
        Chain(Store(tmp_path / "one"), cell, ignore_event), "celebrities", images, names
    )
    store, joinable, asked = Store(tmp_path / "two"), frozenset(), []
    while True:
        chain = Chain(store, cell, ignore_event)
        chain.joinable = joinable
        try:
            records = keep_detections(chain, "celebrities", images, names)
            break
        except PartsMissing as missing:
            asked.append(missing.divided)
        for part in reversed(range(asked[-1].parts)):
            chain.wanted_part = (asked[-1].key, part)
            with pytest.raises(PartMade):
                keep_detections(chain, "celebrities", images, names)
        joinable |= {asked[-1].key}
    assert [(one.kind, one.parts) for one in asked] == [("detections", 2)] * 2
    assert records == whole


def test_features_in_parts_are_those_of_one_go(tmp_path, store_env, monkeypatch):
    """A network whose answer depends on its batch: the parts are whole batches."""

    def network(pixels):
        return [pixels.float().mean((1, 2, 3))[:, None] - pixels.float().mean()]

    batch = inspect.signature(inception.extract_features).parameters["batch"].default
    assert measure.FEATURES % batch == 0
    monkeypatch.setattr(inception, "find_weights", lambda: (tmp_path, "0" * 64))
    monkeypatch.setattr(inception, "_load_network", lambda *arguments: network)
    monkeypatch.setattr(measure, "FEATURES", 2 * batch)
    (cell,) = cells_of(**SCORED)
    pixels = np.random.default_rng(0).integers(0, 256, (5 * batch - 7, 4, 4, 1), np.uint8)
    images = SampleSet(pixels, np.zeros(len(pixels), np.int64), np.arange(len(pixels)))
    whole = inception.extract_features(pixels)

    def view(store, **settings):
        chain = Chain(Store(tmp_path / store), cell, ignore_event)
        vars(chain).update(settings)
        return LazyView(chain, Subject(chain))

    assert np.array_equal(view("one").inception(images), whole)
    with pytest.raises(PartsMissing) as stop:
        view("two", joinable=frozenset()).inception(images)
    assert stop.value.divided.parts == 3
    for part in (2, 0, 1):
        with pytest.raises(PartMade):
            view("two", wanted_part=(stop.value.divided.key, part)).inception(images)
    monkeypatch.setattr(inception, "extract_features", None)  # the parts are only joined
    joining = view("two", joinable=frozenset({stop.value.divided.key}))
    assert np.array_equal(joining.inception(images), whole)


def test_a_search_in_the_base_model_serves_every_method(tmp_path, store_env):
    searched = []

    def search_for(cell, n):
        def search():
            searched.append((cell.method, cell.base_seed, n))
            return {"words": ["a", "b"][:n]}

        chain = Chain(Store(tmp_path), cell, ignore_event)
        return LazyView(chain, Subject(chain)).search_base("words", {"n": n}, search)

    sa, relabel = cells_of(("sa", "relabel"))
    assert search_for(sa, 1) == search_for(relabel, 1) == {"words": ["a"]}
    assert search_for(relabel, 2) == {"words": ["a", "b"]}
    search_for(replace(sa, base_seed=1), 1)
    assert searched == [("sa", 0, 1), ("relabel", 0, 2), ("sa", 1, 1)]
