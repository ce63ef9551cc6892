"""Figures of one GPU: as the page prints them, and used for models that nobody runs on a CPU."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sa_bench.commands.stage_times import StageTimes, read_times
from sa_bench.data.assets.shipped import gpu_rates_card
from sa_bench.engine import gpu_rates
from sa_bench.engine.cells import resolve
from sa_bench.engine.rates import NOTHING, Duration

CARD = gpu_rates_card()
PAGE = (Path(__file__).parents[2] / CARD["page"]).read_text()


COLUMNS = {"forget sa": 2, "forget esd": 5, "sample": 2, "sample sld": 3}
"""Column of a kind of work in the tables of Stable Diffusion."""
UNITS = {"forget sa": 4, "forget esd": 1, "sample": 50, "sample sld": 50, "fisher": 1}
"""Units that a figure of Stable Diffusion is of, as the text above its table says."""


@pytest.mark.parametrize("name", CARD["figures"])
def test_a_shipped_figure_is_the_printed_one(name):
    figure, (kind, _, model) = CARD["figures"][name], name.partition(": ")
    starts = (f"| {figure['row']} |", f"{figure['row']}:")
    (line,) = (line for line in PAGE.splitlines() if line.startswith(starts))
    cells = [part.strip() for part in line.strip("|").split("|")]
    large_ddpm = not model.startswith("stable diffusion")
    text = cells[0 if len(cells) == 1 else 1 if large_ddpm else COLUMNS[kind] - 1]
    parts = [part for part in text.split("; ") if model.split(", ")[-1] in part] or [text]
    printed = parts[0].partition(": ")[2] if len(cells) == 1 else parts[0]
    assert f"{printed},".startswith(f"{figure['printed']},")
    if large_ddpm:
        assert f"{figure['units']:,}" in figure["row"]
    else:
        assert figure["units"] == UNITS[kind]
        scope = model.split(", ")[-1]
        assert not kind.startswith("forget") or figure["row"] == f"`{scope}`"


def test_the_units_of_stable_diffusion_are_those_of_the_page():
    page = " ".join(PAGE.split())
    assert "4 surrogate and 4 replay images a step, ESD on one, bf16" in page
    assert (
        "| 50 steps, guidance 7.5, 8 images together | plain | with Safe Latent Diffusion |" in page
    )
    assert "| scope | SA | with gradient checkpointing | computed | ESD |" in page
    assert "a random point of 50 DDIM steps" in page


def test_all_timesteps_are_a_thousand_and_a_vae_has_none():
    """F over all of them was planned as over one: 0 s for 2 minutes."""
    assert gpu_rates.count_looks({"n": 5, "timesteps": 0}, "ddpm") == 5000
    assert gpu_rates.count_looks({"n": 5, "timesteps": 20}, "text_to_image") == 100
    assert gpu_rates.count_looks({"n": 5}, "vae") == 5


def test_the_card_names_the_gpu_of_the_page():
    assert f"one {CARD['device']}" in " ".join(PAGE.split())


def test_seconds_a_unit_of_a_rate_and_of_a_time():
    assert gpu_rates.seconds_a_unit({"printed": "12.5 steps/s", "units": 128}) == pytest.approx(
        1 / 1600
    )
    assert gpu_rates.seconds_a_unit({"printed": "0.43 s an image", "units": 50}) == pytest.approx(
        0.0086
    )


def forget(times, cell):
    steps = int(cell.fields.get("steps", 0))
    return times.forget(cell.task, cell.method, cell.fields, steps)


@pytest.mark.parametrize("device", ["cpu", "cuda:1"])
def test_stable_diffusion_is_planned_by_the_figures(device):
    """12,600 steps of 16 at 8.9 steps of 4 a second; 200 images of 50 steps; 50 x 20 timesteps."""
    times = StageTimes(device=device)
    sets = ["sa.scope=xattn", "sa.steps=12600", "sa.batch=16"]
    (cell,) = resolve(["celeb_brad_pitt"], ["sa"], "small", sets=sets)
    duration = forget(times, cell)
    assert duration is not None
    assert duration.middle == pytest.approx(12_600 * 4 / 8.9)
    assert duration.low == duration.high == duration.middle
    drawn = times.draw_images(cell.task, 200)
    assert drawn is not None
    assert drawn.middle == pytest.approx(200 * 0.43)
    options: Any = {"n": 50, "timesteps": 20}
    inputs = {"options": options, "sampler": {}}
    estimated = times.estimate_fisher(cell.task, inputs)
    assert estimated is not None
    assert estimated.middle == pytest.approx(1000 / 16.9)
    assert not times.probed, "these figures are scaled by nothing"
    assert times.describe_gpu() == (
        "Large models by figures of one NVIDIA H100 80GB HBM3 (docs/gpu.md), not scaled to another GPU"
        + ("; a CPU takes many times as long (--device cuda)." if device == "cpu" else ".")
    )


def test_what_was_not_measured_on_the_gpu_stays_unknown():
    times = StageTimes()
    small = resolve(["celeb_brad_pitt"], ["sa", "esd", "uce", "original", "sld", "salun"], "small")
    by_method = {cell.method: forget(times, cell) for cell in small}
    assert by_method["original"] == by_method["sld"] == NOTHING
    assert by_method["uce"] is by_method["salun"] is None
    assert by_method["esd"] is not None
    (cell,) = resolve(["celeb_brad_pitt"], ["esd"], "small", sets=["esd.scope=esd-u"])
    assert forget(times, cell) is None
    (cell,) = resolve(["celeb_brad_pitt"], ["esd"], "small", sets=["esd.ddim_steps=20"])
    assert forget(times, cell) is None
    (cell,) = resolve(["celeb_brad_pitt"], ["sld"])
    assert times.draw_images(cell.task, 1, "sld") is None, "SLD in fp32 without TF32"
    assert times.draw_images(cell.task, 1) == Duration(*[pytest.approx(3.12)] * 3)
    (cell,) = resolve(["celeb_brad_pitt"], ["sld"], "small")
    assert times.draw_images(cell.task, 1, "sld") == Duration(*[pytest.approx(0.6)] * 3)


def test_an_ablation_takes_as_long_as_what_it_ablates():
    cells = resolve(["celeb_brad_pitt"], ["sa", "no_ewc"], "small", sets=["steps=10", "batch=4"])
    first, second = (forget(StageTimes(), cell) for cell in cells)
    assert first == second
    assert first is not None


def test_a_large_ddpm_says_which_figure_is_of_another_precision():
    times = StageTimes(device="cuda")
    (cell,) = resolve(["cifar10_airplane"], ["sa"])
    base = times.train_base(cell.task)
    assert base is not None
    assert base.middle == pytest.approx(800_000 / 12.5)
    assert times.describe_gpu().endswith("not scaled to another GPU.")
    drawn = times.draw_images(cell.task, 31)
    assert drawn is not None
    assert drawn.middle == pytest.approx(10)
    assert times.describe_gpu().endswith("GPU; sample in fp32 is taken to be as in bf16.")
    (paper,) = resolve(["cifar10_airplane"], ["sa"], "paper")
    base = times.train_base(paper.task)
    assert base is not None
    assert base.middle == pytest.approx(800_000 / 10.4)


@pytest.mark.parametrize(
    ("task", "scale"),
    [("mnist_0", "full"), ("mnist_0_ddpm", "full"), ("cifar10_airplane", "quick")],
)
def test_small_models_have_nothing_of_a_gpu(task, scale):
    times = StageTimes(device="cuda")
    (cell,) = resolve([task], ["sa"], scale)
    assert not gpu_rates.needs_gpu(cell.task)
    assert gpu_rates.estimate("sample", cell.task, 1, "bf16") is None
    assert times.describe_gpu() == ""


def test_what_ran_on_the_gpu_here_counts_before_the_figures():
    """By wall seconds; and for a CPU only where a GPU alone is practical."""
    (large,) = resolve(["celeb_brad_pitt"], ["original"], "small")
    (little,) = resolve(["mnist_0"], ["original"])

    def stored(task, device):
        from sa_bench.contracts import key_values

        sampler = key_values(task.sampler)
        cost = {"cpu_s": 40.0, "wall_s": 20.0, "device": device}
        return "samples", {"cost": cost, "inputs": {"sampler": sampler, "rows": [1] * 10}}

    def read(task, made_on, device):
        store: Any = SimpleNamespace(iterate_meta=lambda: [stored(task, made_on)])
        duration = read_times(store, device).draw_images(task, 1)
        return duration and round(duration.middle, 6)

    assert read(large.task, "cuda", "cuda:1") == read(large.task, "cuda", "cpu") == 2.0
    assert read(large.task, "cpu", "cuda") == 4.0
    assert read(little.task, "cuda", "cuda") == 2.0
    assert read(little.task, "cpu", "cpu") == 4.0
    assert read(little.task, "cuda", "cpu") != 2.0
