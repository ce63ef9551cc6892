"""What attacks are made of: fitting, curves and their area, against closed forms."""

import numpy as np
import pytest
import torch

from sa_bench.scoring.attacks import area_under, descend, first_crossing


def test_steps_of_adam_are_yielded_at_the_budgets():
    """The first step of Adam has the length of the rate, whatever the gradient."""
    value = torch.tensor([3.0], requires_grad=True)
    seen = {
        step: value.item() for step in descend([value], lambda: (value**2).sum(), [0.1], (0, 1, 40))
    }
    assert seen[0] == 3.0
    assert seen[1] == pytest.approx(2.9, abs=1e-5)
    assert abs(seen[40]) < 0.5
    assert list(seen) == [0, 1, 40]


def test_a_tensor_that_the_loss_never_sees_stays():
    seen, unseen = (torch.ones(2, requires_grad=True) for _ in range(2))
    for _ in descend([seen, unseen], lambda: seen.sum(), [0.1, 0.1], (3,)):
        pass
    assert torch.equal(unseen, torch.ones(2))
    assert float(seen.detach().max()) < 1


def test_the_area_is_the_share_of_steps_at_which_an_image_shows_the_concept():
    steps, scores = (
        (0, 10, 30),
        [np.array([0.0, 1.0, 0.0]), np.array([0.0, 1.0, 1.0]), np.array([0.0, 1.0, 1.0])],
    )
    assert area_under(steps, scores) == pytest.approx([0.0, 1.0, (5 + 20) / 30])
    assert area_under((0,), [np.array([1.0])]) == [1.0]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ((0.5, 0.9, 1.0), 0.0),
        ((0.0, 0.4, 0.6), 20.0),
        ((0.0, 1.0, 1.0), 5.0),
        ((0.0, 0.1, 0.2), None),
    ],
)
def test_the_first_crossing_is_interpolated(values, expected):
    assert first_crossing((0, 10, 30), values, 0.5) == (
        None if expected is None else pytest.approx(expected)
    )
