"""Sampling where memory is short: fewer images at once, said aloud, and the same images."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from sa_bench.contracts import Request, Sampler
from sa_bench.core import registry
from sa_bench.core.errors import CellFailed, SaBenchError
from sa_bench.core.settings import images_at_once
from sa_bench.models.ddpm import DDPM

SAMPLER = Sampler("ddim", 2)


@pytest.fixture(scope="module")
def tiny():
    return DDPM("tiny", (16, 16, 1), 3)  # the network has dropout


def scarce(monkeypatch, most, error):
    """A machine whose memory does for `most` images at once; returns how many were tried."""
    sound, tried = DDPM._denoise, []

    def denoise(self, x, *args, **more):
        tried.append(len(x))
        if len(x) > most:
            raise error
        return sound(self, x, *args, **more)

    monkeypatch.setattr(DDPM, "_denoise", denoise)
    return tried


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:118] DefaultCPUAllocator: can't allocate memory"
        ),
        MemoryError(),
    ],
    ids=lambda e: type(e).__name__,
)
def test_fewer_images_at_once_until_memory_does(tiny, monkeypatch, capsys, error):
    rows = [Request(i % 3, i) for i in range(8)]
    whole = tiny.to_images(tiny.sample(rows, SAMPLER)).astype(int)
    tried = scarce(monkeypatch, 3, error)
    images = tiny.to_images(tiny.sample(rows, SAMPLER)).astype(int)
    assert tried == [8, 4, 2, 2, 2, 2]
    assert np.abs(images - whole).max() <= 1
    said = capsys.readouterr().err
    assert (
        "out of memory with 8 images at once; trying 4 (SA_BENCH_IMAGES_AT_ONCE=4 begins so)"
        in said
    )


def test_when_memory_does_for_none_it_is_one_line(tiny, monkeypatch):
    scarce(monkeypatch, 0, MemoryError())
    with pytest.raises(CellFailed, match="one image at a time on cpu") as caught:
        tiny.sample([Request(0, 0), Request(1, 1)], SAMPLER)
    assert "\n" not in str(caught.value)


def test_another_error_is_not_taken_for_it(tiny, monkeypatch):
    scarce(monkeypatch, 0, RuntimeError("shapes cannot be multiplied"))
    with pytest.raises(RuntimeError, match="shapes"):
        tiny.sample([Request(0, 0)], SAMPLER)


@pytest.mark.parametrize("dropout", [False, True])
def test_images_do_not_depend_on_how_many_are_drawn_at_once(dropout, tiny, monkeypatch):
    """With dropout its randomness is a pass's: two at once were other images than four."""
    rows, sampler = [Request(i % 3, i) for i in range(4)], replace(SAMPLER, dropout=dropout)
    whole = tiny.to_images(tiny.sample(rows, sampler)).astype(int)
    monkeypatch.setenv("SA_BENCH_IMAGES_AT_ONCE", "2")
    assert np.abs(tiny.to_images(tiny.sample(rows, sampler)).astype(int) - whole).max() <= 1


@pytest.mark.parametrize(
    "sampler", [Sampler("ddpm", 3), Sampler("ddim", 3), Sampler("ddim", 3, 0.5)]
)
def test_replay_is_the_same_on_a_machine_that_draws_more_at_once(sampler, tiny, monkeypatch):
    """One generator serves the noise of one pass after the other."""

    def simulate():
        c = tiny.conditions([0, 1, 2, 0])
        return tiny.simulate(c, torch.Generator().manual_seed(0), sampler)

    monkeypatch.setattr(DDPM, "per_pass", (2, 4))
    on_cpu = simulate()
    monkeypatch.setattr(DDPM, "together", 4)  # as on a GPU
    torch.testing.assert_close(simulate(), on_cpu, atol=1e-4, rtol=0)


def test_a_pass_of_a_set_is_drawn_again_alone(tiny, monkeypatch):
    """Of a set with dropout a few rows alone are other images; those of one pass are the same."""
    monkeypatch.setattr(DDPM, "per_pass", (3, 3))
    requests = [Request(i % 3, i) for i in range(7)]
    noisy = replace(SAMPLER, dropout=True)
    whole = tiny.sample(requests, noisy)
    rows = tiny.drawn_with(4, 7, noisy)
    assert list(rows) == [3, 4, 5]
    assert list(tiny.drawn_with(6, 7, noisy)) == [6]
    assert list(tiny.drawn_with(4, 7, SAMPLER)) == [4]
    torch.testing.assert_close(tiny.sample([requests[i] for i in rows], noisy), whole[list(rows)])
    assert not torch.allclose(tiny.sample([requests[4], requests[6]], noisy)[0], whole[4])


def test_dropout_is_not_drawn_of_fewer_images_where_memory_is_short(tiny, monkeypatch):
    scarce(monkeypatch, 2, MemoryError())
    with pytest.raises(CellFailed, match="64 images at once, which share dropout's randomness"):
        tiny.sample([Request(0, i) for i in range(4)], replace(SAMPLER, dropout=True))


def test_the_setting(tiny, monkeypatch):
    monkeypatch.setenv("SA_BENCH_IMAGES_AT_ONCE", "3")
    tried = scarce(monkeypatch, 3, MemoryError())
    tiny.sample([Request(0, i) for i in range(7)], SAMPLER)
    assert tried == [3, 3, 1]
    for wrong in ("0", "-1", "many", "1.5"):
        monkeypatch.setenv("SA_BENCH_IMAGES_AT_ONCE", wrong)
        with pytest.raises(SaBenchError, match="SA_BENCH_IMAGES_AT_ONCE"):
            images_at_once()


def test_the_numbers_behind_a_level_are_shown_and_kept(tmp_path):
    from sa_bench.commands.show import describe
    from sa_bench.engine.cell_results import blank_result
    from sa_bench.engine.cells import resolve

    assert (
        'level=strong: {"delta": 7, "s_S": 2000.0, "lam": 0.025, "s_m": 0.5, "beta_m": 0.7}'
        in describe("sld")
    )
    (cell,) = resolve(["mnist_0_t2i"], ["sld"], "quick", sets=["level=max"])
    assert blank_result(cell, "")["stands_for"] == {
        "level": registry.get_method("sld").stands_for["level"]["max"]
    }
    (cell,) = resolve(["mnist_0"], ["sa"], "quick")
    assert "stands_for" not in blank_result(cell, "")
