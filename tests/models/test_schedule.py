"""Timesteps by arithmetic: diffusers' own, and which numbers of steps begin where pure noise belongs."""

import json

import pytest
from diffusers import DDIMScheduler, DDPMScheduler

from sa_bench.contracts import Sampler
from sa_bench.core.errors import SaBenchError
from sa_bench.engine.cells import resolve_task
from sa_bench.models import base_models, schedule
from sa_bench.models.ddpm import DDPM

SPACINGS = [("leading", 1), ("leading", 0), ("trailing", 0), ("linspace", 0)]


@pytest.mark.parametrize("kind", [DDIMScheduler, DDPMScheduler])
@pytest.mark.parametrize(("spacing", "offset"), SPACINGS)
def test_the_timesteps_are_diffusers_own(kind, spacing, offset):
    for n in (*range(1, 130), 333, 334, 400, 499, 500, 501, 600, 750, 996, 997, 998, 999, 1000):
        theirs = kind(num_train_timesteps=1000, timestep_spacing=spacing, steps_offset=offset)
        theirs.set_timesteps(n)
        assert schedule.timesteps(spacing, offset, n) == theirs.timesteps.tolist(), n


@pytest.mark.parametrize("task", ["mnist_0_t2i", "celeb_brad_pitt", "mnist_0_ddpm"])
@pytest.mark.parametrize("scheduler", ["ddim", "ddpm"])
@pytest.mark.parametrize("steps", [1, 20, 50, 400, 500, 501, 600, 998, 999, 1000])
def test_what_a_schedule_cannot_do_is_refused_before_work(task, scheduler, steps):
    right = {"mnist_0_ddpm": {1, 20, 50, 400, 500, 501, 600, 999, 1000}}.get(
        task, {20, 50, 500, 998, 999}
    )
    overrides = {"sampler.scheduler": scheduler, "sampler.steps": str(steps)}
    overrides |= {"model": "smoke"} if task == "celeb_brad_pitt" else {}
    if steps in right:
        assert resolve_task(task, "quick", overrides).sampler.steps == steps
        return
    with pytest.raises(
        SaBenchError, match=rf"task\.sampler\.steps={steps}: .* (are|is) right"
    ) as caught:
        resolve_task(task, "quick", overrides)
    assert "\n" not in str(caught.value)


def test_a_message_names_what_is_right():
    assert schedule.fault("leading", 1, 501) == (
        "sampling would begin at t = 501 of 999 instead of pure noise; 500 or 949 steps are right"
    )
    for spacing, offset in SPACINGS:
        assert any(not schedule.fault(spacing, offset, n) for n in (20, 50))


def test_a_folders_own_spacing_counts(tmp_path):
    (tmp_path / "scheduler").mkdir()
    configuration = {
        "_class_name": "DDIMScheduler", "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear",
        "prediction_type": "epsilon", "timestep_spacing": "trailing",
    }  # fmt: skip
    (tmp_path / "scheduler" / "scheduler_config.json").write_text(json.dumps(configuration))
    assert base_models.timestep_spacing(str(tmp_path)) == ("trailing", 0)
    assert base_models.timestep_spacing("smoke") == schedule.LEADING


def test_a_model_refuses_as_well():
    tiny = DDPM("micro", (16, 16, 1), 3)
    assert len(tiny.levels(Sampler("ddim", 1000))) == 1000
    with pytest.raises(SaBenchError, match="no 998 of the 1,000"):
        tiny.levels(Sampler("ddpm", 998))
