"""What the official codes compute, written out here in plain torch on fixed tensors: every method's loss, mask and target.

A small model with a closed form stands for the network (`tests/support/closed_form.py`).
"""

import pytest
import torch
from closed_form import (
    ANCHOR,
    FORGET,
    KEPT,
    NOISE,
    NOISE_R,
    NULL,
    T_R,
    X_R,
    Always,
    Linear,
    N,
    OneStep,
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
from torch import nn

from sa_bench.contracts import Draw, FisherOptions, Recipe
from sa_bench.core import registry
from sa_bench.training import fisher
from sa_bench.training.loop import Pull


@pytest.fixture
def task():
    return small_task()


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_sa_is_the_two_losses_and_lambda_f_d_squared_without_a_half(task, reduction):
    """ddpm/runners: loss = L(x_f, c_f) + γ L(x_r, c_r) + λ Σ F (θ − θ*)²; vae/ sums over the batch, ddpm/ takes the mean."""
    F = {"w": torch.tensor([2.0, 0.5]), "e": torch.full((4, 2), 0.25)}
    moved = {"w": torch.tensor([0.1, -0.2]), "e": torch.full((4, 2), 0.3)}
    start, gamma, lam = Linear(), 0.7, 3.0

    def loss(w, e):
        forget = ((eps(w, e, noisy(X, NOISE, T), T, torch.tensor([FORGET] * N)) - NOISE) ** 2).sum(
            1
        )
        keep = (
            (eps(w, e, noisy(X_R, NOISE_R, T_R), T_R, torch.tensor([KEPT] * N)) - NOISE_R) ** 2
        ).sum(1)
        penalty = (F["w"] * (w - start.w.detach()) ** 2).sum() + (
            F["e"] * (e - start.e.detach()) ** 2
        ).sum()
        whole = (
            forget.sum() + gamma * keep.sum()
            if reduction == "sum"
            else forget.mean() + gamma * keep.mean()
        )
        return whole + lam * penalty

    _, gradients = by_hand(loss, start.w + moved["w"], start.e + moved["e"])
    run = run_once("sa", Small(), task, moved, F=F, lam=lam, gamma=gamma, reduction=reduction)
    for name, g in gradients.items():
        torch.testing.assert_close(run.gradients[name], g, rtol=1e-5, atol=1e-6)


def test_the_penalty_of_one_number_is_lambda_f_d_squared():
    p = nn.Parameter(torch.tensor([1.0]))
    pulls = [Pull({"p": p}, {"p": torch.tensor([5.0])}, 2.0, half) for half in (False, True)]
    with torch.no_grad():
        p += 3.0
    assert [pull.penalty() for pull in pulls] == [2 * 5 * 9, 5 * 9]
    pulls[0].add_to_gradients()
    assert p.grad.item() == 2 * 2 * 5 * 3


def test_ddpms_fisher_is_the_square_of_the_gradient_summed_over_time():
    """ddpm/runners save_fim: F = mean over images of (∇ Σ_t ‖ε_t − ε̂‖²)², one fresh ε_t a timestep, square last."""
    model, c = Small(), torch.tensor([0, 2])
    model.draw = lambda n, rng, t=None: Draw(torch.stack([NOISE[int(k)] for k in t]), t)
    found, _ = fisher.fisher_over_time(
        model, [(X[:2], c, None)], FisherOptions(n=2), torch.Generator()
    )
    wanted = {name: torch.zeros_like(p) for name, p in model.parameters().items()}
    for i in range(2):

        def loss(w, e, i=i):
            x = X[i].expand(4, 2)
            return ((eps(w, e, noisy(x, NOISE, T), T, c[i].expand(4)) - NOISE) ** 2).sum()

        for name, g in by_hand(loss)[1].items():
            wanted[name] += g**2 / 2
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("reduction", "w"), [("mean", 7.5), ("sum", 2.0)])
def test_saluns_mask_is_of_the_guided_prediction(task, reduction, w):
    """generate_mask.py: the share with the largest |Σ ∇ ‖ε − ((1 + w) ε̂(c) − w ε̂(∅))‖²|; w = 7.5 (SD), 2 (DDPM)."""

    def loss(p, e):
        x_t, c = noisy(X, NOISE, T), torch.tensor([FORGET] * N)
        out = (1 + w) * eps(p, e, x_t, T, c) - w * eps(p, e, x_t, T, torch.tensor([NULL] * N))
        return ((NOISE - out) ** 2).mean()

    def plain(p, e):
        return ((eps(p, e, noisy(X, NOISE, T), T, torch.tensor([FORGET] * N)) - NOISE) ** 2).mean()

    model, SalUn = Small(reduction), registry.get_method("salun")
    kept = {}
    for mask, formula in (("guided", loss), ("plain", plain)):
        gradients, model.drawn = by_hand(formula)[1], 0
        method = SalUn(batch=N, saliency=1, share=0.3, mask=mask, guidance=w)
        found = method.masks(model, Always(X, [FORGET] * N), OneStep(model))
        flat = torch.cat([g.abs().flatten() for g in gradients.values()])
        wanted = torch.zeros(len(flat))
        wanted[flat.argsort(descending=True)[: int(0.3 * len(flat))]] = 1
        kept[mask] = torch.cat([m.flatten() for m in found.values()])
        assert torch.equal(kept[mask], wanted), mask
    assert not torch.equal(kept["guided"], kept["plain"])


def test_saluns_mask_on_classes_sums_gradients_of_norm_one_at_most(task):
    """DDPM/runners generate_mask: clip_grad_norm_ before a batch's gradient is added."""
    model = Small()
    batches = [X, X_R * 20]

    class Two:
        def batch(self, n, rng):
            return batches[(model.drawn) % 2], torch.tensor([FORGET] * N)

    total, unclipped = torch.zeros(10), torch.zeros(10)
    for x, noise, t in ((batches[0], NOISE, T), (batches[1], NOISE_R, T_R)):

        def loss(w, e, x=x, noise=noise, t=t):
            c, x_t = torch.tensor([FORGET] * N), noisy(x, noise, t)
            out = 3 * eps(w, e, x_t, t, c) - 2 * eps(w, e, x_t, t, torch.tensor([NULL] * N))
            return ((noise - out) ** 2).sum(1).mean()

        g = torch.cat([v.flatten() for v in by_hand(loss)[1].values()])
        assert g.norm() > 1
        total, unclipped = total + g / g.norm(), unclipped + g
    method = registry.get_method("salun")(
        batch=N, saliency=2, mask="guided", guidance=2.0, mask_clip=1.0, share=0.3
    )
    found = method.masks(model, Two(), OneStep(model))
    mask = torch.cat([m.flatten() for m in found.values()])
    wanted, other = (set(v.abs().argsort(descending=True)[:3].tolist()) for v in (total, unclipped))
    assert set(mask.nonzero().flatten().tolist()) == wanted != other


@pytest.mark.parametrize(("reduction", "alpha"), [("mean", 0.1), ("sum", 1e-3)])
@pytest.mark.parametrize("remain", ["replay", "pseudo"])
def test_saluns_loss(task, reduction, alpha, remain):
    """nsfw_removal.py, DDPM saliency_unlearn: MSE(ε̂(x_t, c_f), sg ε̂(x_t, c')) + α L(x_r, c_r), gradients times the mask.

    The first term is a mean over everything in both; the second a mean on SD, a sum over the image of a DDPM.
    """
    start = Linear()
    x_r, c_r = (X_R, KEPT) if remain == "replay" else (X, ANCHOR)

    def loss(w, e):
        x_t = noisy(X, NOISE, T)
        target = eps(start.w, start.e, x_t, T, torch.tensor([ANCHOR] * N)).detach()
        forget = ((eps(w, e, x_t, T, torch.tensor([FORGET] * N)) - target) ** 2).mean()
        keep = (eps(w, e, noisy(x_r, NOISE_R, T_R), T_R, torch.tensor([c_r] * N)) - NOISE_R) ** 2
        return forget + alpha * (keep.sum(1).mean() if reduction == "sum" else keep.mean())

    model = Small(reduction)
    method = registry.get_method("salun")(
        batch=N, saliency=1, alpha=alpha, remain=remain, mask="guided"
    )
    mask = method.masks(model, Always(X, [FORGET] * N), OneStep(model))
    model.drawn = 0
    value, gradients = by_hand(loss)
    run = run_once("salun", model, task, saliency=1, alpha=alpha, remain=remain, mask="guided")
    assert_same(run, (value, {name: g * mask[name] for name, g in gradients.items()}))
    assert 0 < sum(float(m.sum()) for m in mask.values()) < sum(m.numel() for m in mask.values())


def test_salun_resolves_to_the_published_settings():
    from sa_bench.engine.cells import resolve

    ddpm = {
        "alpha": 1e-3,
        "steps": 1000,
        "lr": 1e-4,
        "share": 0.5,
        "mask": "guided",
        "guidance": 2.0,
        "drop": 0.1,
    }
    sd = {
        "alpha": 0.1,
        "steps": 100,
        "batch": 8,
        "lr": 1e-5,
        "share": 0.5,
        "mask": "guided",
        "guidance": 7.5,
    }
    for scale in ("full", "paper"):
        (cell,) = resolve(["cifar10_airplane"], ["salun"], scale)
        assert {**cell.fields, **ddpm, "batch": 128, "averaged": False} == dict(cell.fields)
        (cell,) = resolve(["nudity_explicit"], ["salun"], scale)
        assert {**cell.fields, **sd} == dict(cell.fields)
        (cell,) = resolve(["celeb_brad_pitt"], ["salun"], scale)
        thing = {"alpha": 0.5, "steps": 600 if scale == "paper" else 100}  # random_label.py
        assert {**cell.fields, **sd, **thing} == dict(cell.fields)
    assert resolve(["nudity_explicit"], ["salun"], "paper")[0].fields["remain"] == "pseudo"


def test_the_published_board_had_the_plain_mask_and_its_cells_keep_their_fields():
    from sa_bench.engine import suites

    for name in ("micro-t2i-1", "tune-micro-t2i-1"):
        cells = [cell for cell in suites.resolve_suite(name) if cell.method == "salun"]
        assert len(cells) == {"micro-t2i-1": 12, "tune-micro-t2i-1": 18}[name]
        known = {"alpha", "share", "saliency", "scope", "lr", "steps", "batch", "target"}
        assert all(set(cell.keyed_fields()) <= known for cell in cells)


def test_esds_target_is_the_papers(task):
    """train-esd.py: ε*(x_t, t) − η [ε*(x_t, c, t) − ε*(x_t, t)], mean squared error; esd_sd.py adds it to ε*(x_t, c, t)."""
    start = Linear()
    for kind, eta in (("null", 1.0), ("concept", 2.0), ("null", 3.0)):
        run, level = OneStep(Small()), 2
        run.rng = torch.Generator().manual_seed(5)
        k = int(torch.randint(4, (1,), generator=torch.Generator().manual_seed(5)))
        level = [3, 2, 1, 0][k]

        def loss(w, e, kind=kind, eta=eta, level=level):
            t = torch.full((N,), level)
            on = eps(start.w, start.e, X, t, torch.tensor([FORGET] * N)).detach()
            free = eps(start.w, start.e, X, t, torch.tensor([NULL] * N)).detach()
            aim = (free if kind == "null" else on) - eta * (on - free)
            return ((eps(w, e, X, t, torch.tensor([FORGET] * N)) - aim) ** 2).mean()

        method = registry.get_method("esd")(batch=N, eta=eta, start=kind, ddim_steps=4)
        method.forget(run.model, task, run)
        assert_same(run, by_hand(loss))


@pytest.mark.parametrize("target", ["current", "frozen", "noise"])
@pytest.mark.parametrize("prior", [0.0, 0.5])
def test_concept_ablations_loss(task, target, prior):
    """train.py: MSE(ε̂(x_t, c_f), sg ε̂(x_t, c*)), noise-based MSE(ε̂(x_t, c_f), ε), plus ρ MSE(ε̂(x_t, c*), ε)."""
    start = Linear()
    moved = {"w": torch.tensor([0.2, 0.1]), "e": torch.full((4, 2), -0.1)}
    moved["e"][ANCHOR] = 0.4
    now = {"w": start.w.detach() + moved["w"], "e": start.e.detach() + moved["e"]}

    def loss(w, e):
        x_t, c_f, c_star = (
            noisy(X, NOISE, T),
            torch.tensor([FORGET] * N),
            torch.tensor([ANCHOR] * N),
        )
        teacher = now if target == "current" else {"w": start.w.detach(), "e": start.e.detach()}
        aim = NOISE if target == "noise" else eps(teacher["w"], teacher["e"], x_t, T, c_star)
        whole = ((eps(w, e, x_t, T, c_f) - aim) ** 2).mean()
        keep = ((eps(w, e, noisy(X, NOISE_R, T_R), T_R, c_star) - NOISE_R) ** 2).mean()
        return whole + prior * keep

    run = run_once(
        "concept_ablation",
        Small("mean"),
        task,
        moved,
        target=target,
        prior=prior,
        decay=0.01,
        clip=1.0,
    )
    assert_same(run, by_hand(loss, now["w"], now["e"]))
    assert run.recipe == Recipe(200, 8e-6, N, decay=0.01, clip=1.0)


def test_uces_closed_form():
    """W = (λ W₀ + Σ v_i c_iᵀ + μ Σ W₀ c_j c_jᵀ)(λ I + Σ c_i c_iᵀ + μ Σ c_j c_jᵀ)⁻¹, v_i = W₀ c_guide, each written out."""
    from sa_bench.methods.uce import encode_last_token

    from sa_bench.commands.check import toy
    from sa_bench.contracts import Prompted
    from sa_bench.models.toy import ToyRun

    model, task = toy(Prompted)
    method = registry.get_method("uce")()
    star = {name: p.detach().clone().double() for name, p in model.parameters("kv").items()}
    c, guide = (
        encode_last_token(model, "zero").double(),
        encode_last_token(model, str(task.anchor)).double(),
    )
    kept = [encode_last_token(model, task.classes[k]).double() for k in task.retain]
    edited = method.forget(model.clone(), task, ToyRun(model, task)).parameters("kv")
    for name, W in star.items():
        left = method.mu * W + method.erase * torch.outer(W @ guide, c)
        right = method.mu * torch.eye(len(c), dtype=torch.float64) + method.erase * torch.outer(
            c, c
        )
        for k in kept:
            left = left + method.preserve * torch.outer(W @ k, k)
            right = right + method.preserve * torch.outer(k, k)
        wanted = left @ torch.linalg.inv(right)
        assert (edited[name].double() - wanted).norm() < 1e-4 * (wanted - W).norm(), name
