"""Selective Synaptic Dampening: the paper's Eq. 5 and 6 by hand, and its limits."""

from dataclasses import replace

import pytest
import torch
from closed_form import OneStep, Small, small_task

from sa_bench.commands.check import weights
from sa_bench.contracts import FisherOptions, Sampler
from sa_bench.core import registry
from sa_bench.models.toy import ToyRun
from sa_bench.training import fisher

F = {"w": torch.tensor([2.0, 0.5]), "e": torch.full((4, 2), 0.25)}
F_F = {"w": torch.tensor([5.0, 8.0]), "e": torch.full((4, 2), 0.25)}
F_F["e"][0] = torch.tensor([1.0, 0.0])


class TwoFishers(OneStep):
    def fisher(self, options):
        return F_F if options.set == "concept" else F


def forget(**values):
    model = Small()
    return registry.get_method("ssd")(**values).forget(model, small_task(), TwoFishers(model))


def test_the_step_is_the_papers():
    """ssd.py: where F_f > α F, θ is multiplied by min(λ F / F_f, 1); elsewhere it stays."""
    start = Small().parameters()
    edited = forget(alpha=3.0, dampening=1.5).parameters()
    # w: 5 is less than 3 × 2; 8 is more than 3 × 0.5, factor 1.5 × 0.5 / 8. e: 1 is more than 3 × 0.25, factor 1.5 × 0.25.
    torch.testing.assert_close(edited["w"], start["w"] * torch.tensor([1.0, 0.09375]))
    wanted = torch.ones(4, 2)
    wanted[0, 0] = 0.375
    torch.testing.assert_close(edited["e"], start["e"] * wanted)


def test_no_weight_grows():
    """λ F / F_f = 4 × 2 / 5 is above 1 and is cut; 4 × 0.5 / 8 is not."""
    edited, start = forget(alpha=2.0, dampening=4.0).parameters(), Small().parameters()
    torch.testing.assert_close(edited["w"], start["w"] * torch.tensor([1.0, 0.25]))


def test_a_large_alpha_changes_nothing():
    assert torch.equal(weights(forget(alpha=1e6)), weights(Small()))


def test_dampening_of_zero_sets_the_selected_weights_to_zero():
    edited = forget(alpha=3.0, dampening=0.0).parameters()
    assert edited["w"][1] == 0
    assert edited["w"][0] == Small().parameters()["w"][0]


def test_averaged_weights_shrink_by_the_same_factors():
    from sa_bench.models import base_models

    task = replace(
        registry.get_task("mnist_0_ddpm"), base="tiny", sampler=Sampler("ddim", 2, guidance=2.0)
    )
    star = base_models.new_model("ddpm", "mnist16", "tiny")
    for average in star.averages().values():
        average.mul_(2)
    model = registry.get_method("ssd")(alpha=0.5).forget(star.clone(), task, ToyRun(star, task))
    assert not torch.equal(weights(model), weights(star))
    for name, average in model.averages().items():
        torch.testing.assert_close(average, 2 * model.parameters()[name])


def test_the_fisher_information_of_the_concept_alone_is_of_its_samples(gaussian, rng):
    """F(μ_c) = p(c): 1 for the concept and 0 for the rest; over all of three classes, a third each."""
    task = replace(registry.get_task("mnist_0"), classes=("a", "b", "c"), concept=1)
    options = FisherOptions(n=3000, set="concept")
    found, _ = fisher.estimate_over_samples(gaussian, task, options, None, task.sampler, rng)
    torch.testing.assert_close(found["weight"][1], torch.ones(2), atol=0.1, rtol=0)
    assert torch.equal(found["weight"][[0, 2]], torch.zeros(2, 2))


@pytest.mark.parametrize("name", ["mnist_0", "mnist_0_ddpm", "mnist_0_t2i", "celeb_brad_pitt"])
def test_it_asks_for_the_concepts_fisher_information_on_every_task(name):
    from sa_bench.engine.cells import resolve

    for scale in ("full", "paper", "quick"):
        (cell,) = resolve([name], ["ssd"], scale)
        F, F_f = cell.build_method().fishers().values()
        assert F.set == ("all" if name.startswith("mnist") else "replay")
        assert F_f.set == "concept"
        assert F_f == replace(F, set="concept", draws="replacement")
