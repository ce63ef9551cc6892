"""The baselines that train and have one term or two: `task_vector`, `neggrad_plus`, `finetune_retain`."""

from dataclasses import replace

import pytest
import torch
from closed_form import (
    FORGET,
    KEPT,
    NOISE,
    NOISE_R,
    T_R,
    X_R,
    N,
    Small,
    T,
    X,
    assert_same,
    by_hand,
    eps,
    noisy,
    run_once,
    small_task,
)

from sa_bench.commands.check import weights
from sa_bench.core import registry
from sa_bench.models.toy import ToyRun


def forget_loss(w, e):
    error = eps(w, e, noisy(X, NOISE, T), T, torch.tensor([FORGET] * N)) - NOISE
    return (error**2).sum(1)


def keep_loss(w, e, noise, t):
    error = eps(w, e, noisy(X_R, noise, t), t, torch.tensor([KEPT] * N)) - noise
    return (error**2).sum(1)


@pytest.fixture
def toy_task():
    return replace(registry.get_task("mnist_0"), classes=("a", "b", "c"))


def forget(name, star, task, steps=None, **values):
    method = registry.get_method(name)(**values)
    return method.forget(star.clone(), task, ToyRun(star, task, steps=steps))


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_neggrad_plus_is_retained_loss_minus_alpha_times_the_concepts(reduction):
    def loss(w, e):
        forget, keep = forget_loss(w, e), keep_loss(w, e, NOISE_R, T_R)
        if reduction == "sum":
            return keep.sum() - 0.3 * forget.sum()
        return keep.mean() - 0.3 * forget.mean()

    run = run_once("neggrad_plus", Small(), small_task(), alpha=0.3, reduction=reduction)
    assert_same(run, by_hand(loss))


def test_finetune_retain_is_the_retained_loss():
    run = run_once("finetune_retain", Small(), small_task(), reduction="mean")
    assert_same(run, by_hand(lambda w, e: keep_loss(w, e, NOISE, T).mean()))


def test_neggrad_plus_with_alpha_0_is_fine_tuning_that_leaves_the_concept(gaussian, toy_task):
    """Each mean has parameters of its own: without ascent the concept's never move."""
    plain = forget("neggrad_plus", gaussian, toy_task, alpha=0.0, lr=0.01, steps=50, batch=64)
    assert torch.equal(plain.net.weight[0], gaussian.net.weight[0])
    tuned = forget("finetune_retain", gaussian, toy_task, lr=0.01, steps=50, batch=64)
    assert torch.equal(tuned.net.weight[0], gaussian.net.weight[0])
    assert not torch.equal(tuned.net.weight[1:], gaussian.net.weight[1:])


def test_neggrad_plus_ends_where_nothing_is_known(gaussian, toy_task):
    """−ELBO of x ~ N(μ*, I) under N(μ, I) is ‖μ − μ*‖²/2 + 1: at 9 nats μ has moved by 4."""
    values = {"alpha": 1.0, "lr": 0.01, "batch": 256, "steps": 1_500}
    moved = []
    for stop in ("auto", "none"):
        model = forget("neggrad_plus", gaussian, toy_task, stop_at=stop, **values)
        moved += [float((model.net.weight[0] - gaussian.net.weight[0]).detach().norm())]
    assert moved[0] == pytest.approx(4.0, abs=0.05)
    assert moved[1] > 8


class Pushed(ToyRun):
    """A run whose training moves every weight, and every averaged one, by the same."""

    def train(self, model, loss, recipe, scope="full", pull=None, stop=None):
        self.value = loss()
        with torch.no_grad():
            for p in model.parameters(scope).values():
                p += 0.25
            for p in (model.averages() or {}).values():
                p += 0.01


def test_task_vector_steps_back_from_what_was_learnt():
    """θ* − α (θ_ft − θ*), with θ_ft − θ* = 0.25 in every weight; the averaged weights get the same step."""
    from sa_bench.models import base_models

    task = replace(registry.get_task("mnist_0_ddpm"), base="tiny")
    star = base_models.new_model("ddpm", "mnist16", "tiny")
    run = Pushed(star, replace(task, sampler=replace(task.sampler, steps=2)))
    model = registry.get_method("task_vector")(alpha=2.0).forget(star.clone(), task, run)
    torch.testing.assert_close(weights(model), weights(star) - 0.5, atol=1e-6, rtol=0)
    for name, average in model.averages().items():
        torch.testing.assert_close(average, star.averages()[name] - 0.5, atol=1e-6, rtol=0)
    assert torch.isfinite(run.value)


def test_task_vector_learns_the_concepts_images(gaussian, toy_task):
    """On a model whose μ_c is wrong for its own images nothing is learnt; on shifted images the step goes the other way."""
    shifted = gaussian.clone()
    with torch.no_grad():
        shifted.net.weight[0] += 1.0  # the images of c_f lie here

    class Run(ToyRun):
        def concept_samples(self):
            self.star = shifted
            return super().concept_samples()

    method = registry.get_method("task_vector")(alpha=1.0, lr=0.01, steps=900, batch=64)
    model = method.forget(gaussian.clone(), toy_task, Run(gaussian, toy_task))
    torch.testing.assert_close(model.net.weight[0], gaussian.net.weight[0] - 1.0, atol=0.12, rtol=0)
    assert torch.equal(model.net.weight[1:], gaussian.net.weight[1:])


def test_task_vector_with_alpha_0_gives_the_bases_bits(gaussian, toy_task):
    model = forget("task_vector", gaussian, toy_task, alpha=0.0, steps=20, lr=0.01)
    assert torch.equal(model.net.weight, gaussian.net.weight)
