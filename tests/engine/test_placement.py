"""Where workers go: a GPU each, as many as fit, and one line for what does not."""

import pytest

from sa_bench.core.errors import SaBenchError
from sa_bench.engine.placement import (
    Gpu,
    check_device,
    describe_placement,
    parse_jobs,
    place_workers,
)

EIGHT = [Gpu(i, 80_000) for i in range(8)]


@pytest.mark.parametrize(
    ("device", "jobs", "placed"),
    [
        ("cuda", None, [f"cuda:{i}" for i in range(8)]),
        ("cuda", 3, ["cuda:0", "cuda:1", "cuda:2"]),
        ("cuda", 1, ["cuda"]),
        ("cuda:0,cuda:2", None, ["cuda:0", "cuda:2"]),
        ("cuda:1", 2, ["cuda:1", "cuda:1"]),
        ("cuda:0, cuda:2", 3, ["cuda:0", "cuda:2", "cuda:0"]),
    ],
)
def test_every_worker_has_a_gpu_of_its_own_while_there_are_enough(device, jobs, placed):
    assert place_workers(device, jobs, 20_000, EIGHT) == placed


def test_workers_that_do_not_fit_on_one_gpu_are_refused_with_how_many_would():
    said = r"--jobs 10: 2 workers on cuda:0 need 90,000 MiB by computation and it has 80,000; at most --jobs 8 fit"
    with pytest.raises(SaBenchError, match=said):
        place_workers("cuda", 10, 45_000, EIGHT)
    assert place_workers("cuda", 16, 40_000, EIGHT)[8:] == [f"cuda:{i}" for i in range(8)]


@pytest.mark.parametrize(
    ("device", "said"),
    [
        ("cuda:9", r"cuda:9 is not one of the GPUs here \(cuda:0, "),
        ("cuda:1,cuda:1", "named twice"),
    ],
)
def test_a_gpu_that_is_not_there_is_named(device, said):
    with pytest.raises(SaBenchError, match=said):
        place_workers(device, 2, 1, EIGHT)
    with pytest.raises(SaBenchError, match="no GPU can be used here"):
        place_workers("cuda", 2, 1, [])


def test_processors_bound_the_workers_without_a_gpu(monkeypatch):
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    assert place_workers("cpu", None, 1) == ["cpu"] * 4
    assert place_workers("cpu", 99, 1) == ["cpu"] * 4
    assert place_workers("cpu", 2, 1) == ["cpu"] * 2


def test_what_is_placed_is_said_and_what_is_no_number_or_device_is_refused():
    placed = place_workers("cuda:0,cuda:2", 3, 1, EIGHT)
    assert describe_placement(placed) == "2 on cuda:0, 1 on cuda:2"
    assert (parse_jobs("auto"), parse_jobs("3"), parse_jobs(2)) == (None, 3, 2)
    for jobs in ("0", "-1", "two", "1.5"):
        with pytest.raises(SaBenchError, match=f"--jobs {jobs}"):
            parse_jobs(jobs)
    for device in ("cdua", "cuda:x", "cpu,cuda:0", ""):
        with pytest.raises(SaBenchError, match="give cpu, cuda, or GPUs by name"):
            check_device(device)
