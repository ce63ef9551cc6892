"""Bad input to the diffusion tasks stops before any work, in one line."""

import pytest

from sa_bench.core.errors import SaBenchError
from sa_bench.engine.cells import resolve

TASK = "mnist_0_ddpm"


@pytest.mark.parametrize(
    ("task", "setting", "says"),
    [
        (TASK, "task.sampler.steps=0", "1 to 1000 steps"),
        (TASK, "task.sampler.steps=1001", "1 to 1000 steps"),
        (TASK, "task.sampler.scheduler=direct", "ddim, ddpm"),
        (TASK, "task.sampler.guidance=nan", "guidance"),
        (TASK, "task.bound_steps=0", "bound_steps='0': Input should be greater than or equal to 1"),
        (TASK, "task.recovery_starts=own,there", "'own', 'mean' or 'zero'"),
        (TASK, "task.recovery_rates=0", "recovery_rates.0='0': Input should be greater than 0"),
        (TASK, "task.concept=ten", "0 zero, 1 one"),
        (TASK, "task.concept=-1", "no class"),
        (TASK, "task.concept=10", "no class"),
        (TASK, "task.concept=0.5", "no class"),
        (TASK, "fisher.timesteps=1001", "there are 1,000"),
        (TASK, "fisher.timesteps=-1", "greater than or equal to 0"),
        (TASK, "fisher.estimator=half", "plain"),
        (TASK, "fisher.targets=bernoulli", "of VAEs"),
        (TASK, "task.surrogate=class:zero", "concept itself"),
        (TASK, "task.replay_images=3", "at least one for each"),
        ("mnist_0", "fisher.timesteps=10", "of diffusion models"),
        ("mnist_0", "fisher.range=unit", "of diffusion models"),
        ("mnist_0", "task.sampler.steps=2", "1 to 1 steps"),
        ("cifar10_airplane", "task.concept=car", "1 automobile"),
        ("stl10_airplane", "task.concept=automobile", "2 car"),
    ],
)
def test_one_line_before_any_work(task, setting, says):
    with pytest.raises(SaBenchError) as caught:
        resolve([task], ["sa"], sets=[setting])
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_class_by_name_or_number():
    """CIFAR10 and STL10 number their classes differently."""
    for name, index in (("cifar10_airplane", 1), ("stl10_airplane", 2)):
        other = {"cifar10_airplane": "automobile", "stl10_airplane": "car"}[name]
        (cell,) = resolve([name], ["sa"], sets=[f"task.concept={other}"])
        assert cell.task.concept == index
