"""The training loop: closed-form pull, exact resumption, and a guard against NaN."""

from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from sa_bench.contracts import Recipe
from sa_bench.core.errors import CellFailed
from sa_bench.engine.method_run import MethodRun
from sa_bench.training.loop import TRAINERS, Pull, fit

RECIPE = Recipe(steps=30, lr=0.05, batch=4, schedule="cosine", warmup=3)


def problem(seed=0):
    torch.manual_seed(seed)
    net = torch.nn.Linear(3, 2)
    return dict(net.named_parameters()), net


def noisy_loss(net, rng, seen=None, stop_at=None):
    def loss():
        if seen is not None:
            seen.append(1)
            if stop_at is not None and len(seen) == stop_at:
                raise KeyboardInterrupt
        return (net(torch.randn(4, 3, generator=rng)) ** 2).sum()

    return loss


@pytest.mark.parametrize("kill", [1, 7, 29, 30])
def test_killed_and_resumed_training_ends_at_the_same_bits(tmp_path, kill):
    params, net = problem()
    rng = torch.Generator().manual_seed(5)
    whole = fit(params, noisy_loss(net, rng), RECIPE, rng=rng)
    want, after = {k: p.detach().clone() for k, p in params.items()}, torch.rand(1, generator=rng)

    checkpoint = tmp_path / "c.safetensors"
    params, net = problem()
    rng = torch.Generator().manual_seed(5)
    with pytest.raises(KeyboardInterrupt):
        fit(
            params,
            noisy_loss(net, rng, [], kill),
            RECIPE,
            rng=rng,
            checkpoint=checkpoint,
            every=0.0,
        )
    params, net = problem(seed=9)  # the new process starts from anything; the checkpoint decides
    if kill == 1:  # nothing was saved yet, so the start must be the same
        params, net = problem()
    rng, seen = torch.Generator().manual_seed(5), []
    resumed = fit(
        params, noisy_loss(net, rng, seen), RECIPE, rng=rng, checkpoint=checkpoint, every=0.0
    )
    assert len(seen) == RECIPE.steps - (kill - 1)
    assert resumed == whole
    for name, p in params.items():
        assert torch.equal(p, want[name])
    assert torch.equal(torch.rand(1, generator=rng), after)


def test_a_training_resumes_where_a_parameter_has_had_no_gradient(tmp_path):
    """Adam has no state of it, and resuming asked for one."""
    used, unused = torch.nn.Linear(3, 2), torch.nn.Linear(2, 2)
    params = dict(torch.nn.Sequential(used, unused).named_parameters())
    options = {"checkpoint": tmp_path / "c.safetensors", "every": 0.0}
    rng = torch.Generator().manual_seed(5)
    with pytest.raises(KeyboardInterrupt):
        fit(params, noisy_loss(used, rng, [], 7), RECIPE, rng=rng, **options)
    seen = []
    fit(params, noisy_loss(used, rng, seen), RECIPE, rng=rng, **options)
    assert len(seen) == RECIPE.steps - 6


def test_a_finished_training_is_not_done_twice(tmp_path):
    """Nor is one that the method stopped, and its record says so both times."""
    params, net = problem()
    rng, seen, checkpoint = torch.Generator().manual_seed(5), [], tmp_path / "c.safetensors"
    stops = iter([False] * 7 + [True])

    def stop():
        return next(stops)

    first = fit(params, noisy_loss(net, rng), RECIPE, rng=rng, checkpoint=checkpoint, stop=stop)
    again = fit(params, noisy_loss(net, rng, seen), RECIPE, rng=rng, checkpoint=checkpoint)
    assert not seen
    assert first == again
    assert (first.steps, first.planned, first.end) == (7, RECIPE.steps, "the method stopped it")


@pytest.mark.parametrize(("steps", "points"), [(1, 1), (30, 30), (250, 100)])
def test_a_curve_is_thinned_to_means_of_blocks_of_steps(steps, points):
    params, net = problem()
    losses = []

    def loss():
        losses.append(float(len(losses)))
        return net.weight.sum() * 0 + losses[-1]

    rng = torch.Generator().manual_seed(0)
    record = fit(params, loss, replace(RECIPE, steps=steps), rng=rng, stage="forget mine")
    assert len(record.losses) == points
    blocks = [[x for i, x in enumerate(losses) if i * points // steps == b] for b in range(points)]
    assert record.losses == pytest.approx([sum(b) / len(b) for b in blocks])
    assert (record.stage, record.steps, record.end) == ("forget mine", steps, "all steps were done")


def test_a_nan_loss_stops_the_run_with_its_step_and_keeps_the_last_good_checkpoint(tmp_path):
    params, net = problem()
    rng, steps, checkpoint = torch.Generator().manual_seed(5), [], tmp_path / "c.safetensors"

    def loss():
        steps.append(1)
        return (net.weight**2).sum() * (float("nan") if len(steps) == 11 else 1.0)

    with pytest.raises(CellFailed, match=r"nan at step 10 of 30.*learning rate"):
        fit(params, loss, RECIPE, rng=rng, checkpoint=checkpoint, every=0.0)
    assert all(torch.isfinite(p).all() for p in params.values())
    from safetensors.torch import load_file

    assert int(load_file(checkpoint)["step"]) == 10


def test_weights_that_overflow_at_the_last_step_are_not_saved(tmp_path):
    params, net = problem()
    rng = torch.Generator().manual_seed(5)

    def loss():  # finite, but its gradient is not
        return torch.sqrt((net.weight * 0).abs().sum()) + net.bias.sum()

    with pytest.raises(CellFailed, match="not finite after the last step"):
        fit(params, loss, Recipe(1, 0.1, 4), rng=rng, checkpoint=tmp_path / "c.safetensors")
    assert not (tmp_path / "c.safetensors").exists()


@pytest.mark.parametrize("half", [False, True])
def test_the_pull_is_the_gradient_of_the_penalty(half):
    params, _ = problem()
    fisher = {name: torch.rand_like(p) for name, p in params.items()}
    pull = Pull(params, fisher, 7.0, half)
    star = {name: p.detach().clone() for name, p in params.items()}
    with torch.no_grad():
        for p in params.values():
            p += torch.randn_like(p)
    penalty = sum((fisher[n] * (p - star[n]) ** 2).sum() for n, p in params.items()) * (
        3.5 if half else 7.0
    )
    want = torch.autograd.grad(penalty, list(params.values()))
    for p in params.values():
        p.grad = torch.ones_like(p)
    pull.add_to_gradients()
    for p, g in zip(params.values(), want, strict=True):
        torch.testing.assert_close(p.grad, 1 + g)
    assert pull.penalty() == pytest.approx(float(penalty.detach()), rel=1e-5)


def test_a_huge_lambda_leaves_theta_star_where_the_fisher_is_not_zero():
    params, net = problem()
    star = {name: p.detach().clone() for name, p in params.items()}
    fisher = {"weight": torch.ones(2, 3), "bias": torch.zeros(2)}
    rng = torch.Generator().manual_seed(5)
    recipe = Recipe(200, 1e-3, 4)
    fit(params, noisy_loss(net, rng), recipe, rng=rng, pull=Pull(params, fisher, 1e8))
    assert (params["weight"] - star["weight"]).abs().max() < 2e-3
    assert (params["bias"] - star["bias"]).abs().max() > 0.02


def test_the_schedule_warms_up_and_ends_at_one_percent():
    recipe = Recipe(steps=1000, lr=1.0, batch=1, schedule="cosine", warmup=100)
    assert recipe.rate(0) == pytest.approx(0.01)
    assert recipe.rate(99) == 1.0
    assert recipe.rate(550) == pytest.approx(0.505)
    assert recipe.rate(999) == pytest.approx(0.01, abs=1e-4)
    assert Recipe(10, 0.3, 1).rate(7) == 0.3


def test_ldms_trainer_is_adamw_and_the_average_of_its_path(tmp_path):
    """Against torch's AdamW and an average with decay 0.9999 written out; a killed training resumes both."""
    wanted, net = problem()
    average = {name: p.detach().clone() for name, p in wanted.items()}
    rng = torch.Generator().manual_seed(5)
    loss, adam = noisy_loss(net, rng), torch.optim.AdamW(wanted.values(), lr=0.1, weight_decay=0.01)
    for _ in range(30):
        adam.zero_grad()
        loss().backward()
        adam.step()
        for name, p in wanted.items():
            average[name] += 1e-4 * (p.detach() - average[name])
    recipe = Recipe(30, 0.1, 4, **TRAINERS["ldm"])
    mean, checkpoint = {}, tmp_path / "c.safetensors"
    for kill, seed in (
        (12, 0),
        (None, 9),
    ):  # the new process starts from anything; the checkpoint decides
        params, net = problem(seed)
        mean = {name: p.detach().clone() for name, p in params.items()}
        rng = torch.Generator().manual_seed(5)
        loss = noisy_loss(net, rng, [], kill)
        with pytest.raises(KeyboardInterrupt) if kill else nullcontext():
            fit(params, loss, recipe, rng=rng, average=mean, checkpoint=checkpoint, every=0.0)
    for name, p in params.items():
        torch.testing.assert_close(p.detach(), wanted[name].detach(), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(mean[name], average[name], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("own", [False, True])
def test_of_an_averaged_training_the_average_is_the_result(tmp_path, own):
    """Also where the family samples with an average of its own."""
    params, net = problem()
    start = {name: p.detach().clone() for name, p in params.items()}
    averages = {name: torch.zeros_like(p) for name, p in start.items()} if own else None
    model = SimpleNamespace(parameters=lambda scope: params, averages=lambda: averages, net=net)
    chain = SimpleNamespace(
        cell=SimpleNamespace(seed=5, method="sa"),
        base_source=SimpleNamespace(complete=lambda recipe: recipe),
        device="cpu",
        bf16=False,
        progress=None,
    )
    run = MethodRun(chain, tmp_path)
    run.train(model, noisy_loss(net, run.rng), Recipe(30, 0.1, 4, ema=0.999, averaged=True))
    for name, p in params.items():
        moved = float((p.detach() - start[name]).abs().max().detach())
        assert 0 < moved < 0.05  # a thousandth of a path of some 3
        assert averages is None or torch.equal(averages[name], p.detach())


def test_an_update_rule_of_its_own_sets_the_gradients_and_needs_no_loss(tmp_path):
    """The gradient of one loss, projected off that of another, as the same steps by hand."""
    recipe = replace(RECIPE, clip=None)

    def projected(params, net):
        first, second = (torch.autograd.grad(f, list(params.values())) for f in objectives(net))
        for p, a, b in zip(params.values(), first, second, strict=True):
            p.grad = a - (a * b).sum() / (b * b).sum() * b

    def objectives(net):
        return (net.weight**2).sum() + (net.bias**2).sum(), (net.weight.sum() + net.bias.sum()) ** 2

    params, net = problem()
    record = fit(params, lambda: projected(params, net), recipe, rng=torch.Generator())
    assert record.steps == recipe.steps
    assert record.losses == ()
    by_hand, net = problem()
    optimiser = torch.optim.Adam(by_hand.values(), lr=recipe.lr)
    for step in range(recipe.steps):
        optimiser.param_groups[0]["lr"] = recipe.rate(step)
        optimiser.zero_grad()
        projected(by_hand, net)
        optimiser.step()
    for name, p in params.items():
        torch.testing.assert_close(p, by_hand[name])
