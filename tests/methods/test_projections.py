"""Methods whose step is no plain gradient: `erasediff`, `scissorhands`; and `sa_esd`, a sum of three known terms."""

from math import sqrt

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
    by_hand,
    eps,
    noisy,
    run_once,
    small_task,
)

from sa_bench.core import registry

C_F, C_R = torch.tensor([FORGET] * N), torch.tensor([KEPT] * N)


class ByGradient(OneStep):
    """A run for methods that set the gradients themselves."""

    def train(self, model, loss, recipe, scope="full", pull=None, stop=None):
        model.drawn = 0
        assert loss() is None
        self.gradients = {n: p.grad.clone() for n, p in model.parameters(scope).items()}


def keep_loss(w, e, noise, t):
    return ((eps(w, e, noisy(X_R, noise, t), t, C_R) - noise) ** 2).sum(1).mean()


def flat(gradients):
    return torch.cat([gradients["w"], gradients["e"].flatten()])


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_sa_esd_is_esds_target_replay_and_lambda_f_d_squared(reduction):
    F = {"w": torch.tensor([2.0, 0.5]), "e": torch.full((4, 2), 0.25)}
    moved = {"w": torch.tensor([0.1, -0.2]), "e": torch.full((4, 2), 0.3)}
    start, gamma, lam, eta = Linear(), 0.7, 3.0, 2.0

    def loss(w, e):
        x_t = noisy(X, NOISE, T)
        on = eps(start.w, start.e, x_t, T, C_F).detach()
        free = eps(start.w, start.e, x_t, T, torch.tensor([NULL] * N)).detach()
        forget = ((eps(w, e, x_t, T, C_F) - (on - eta * (on - free))) ** 2).sum(1)
        keep = ((eps(w, e, noisy(X_R, NOISE_R, T_R), T_R, C_R) - NOISE_R) ** 2).sum(1)
        penalty = (F["w"] * (w - start.w.detach()) ** 2).sum()
        penalty = penalty + (F["e"] * (e - start.e.detach()) ** 2).sum()
        if reduction == "sum":
            return forget.sum() + gamma * keep.sum() + lam * penalty
        return forget.mean() + gamma * keep.mean() + lam * penalty

    _, gradients = by_hand(loss, start.w + moved["w"], start.e + moved["e"])
    run = run_once(
        *("sa_esd", Small(), small_task(), moved),
        **{"F": F, "lam": lam, "gamma": gamma, "eta": eta, "reduction": reduction},
    )
    for name, g in gradients.items():
        torch.testing.assert_close(run.gradients[name], g, rtol=1e-5, atol=1e-6)


def test_sa_esd_with_eta_0_and_no_replay_has_nothing_to_do():
    F = {"w": torch.ones(2), "e": torch.ones(4, 2)}
    run = run_once("sa_esd", Small(), small_task(), F=F, eta=0.0, gamma=0.0)
    assert float(run.value.detach()) == 0
    assert all(float(g.abs().max()) == 0 for g in run.gradients.values())


@pytest.mark.parametrize(
    ("target", "made_with"),
    [("uniform", "uniform"), ("uniform", "gaussian"), ("anchor", "uniform"), ("frozen", "uniform")],
)
def test_erasediffs_step_is_bomes(target, made_with):
    """g = ∇L_r + κ ∇L_f with κ = max(0, η − ⟨∇L_r, ∇L_f⟩ / ‖∇L_f‖²): then ⟨g, ∇L_f⟩ = η ‖∇L_f‖² where κ > 0."""
    start, eta = Linear(), 0.8
    uniform = torch.rand(N, 2, generator=torch.Generator().manual_seed(0))

    def forget_loss(w, e):
        noise = uniform if target == made_with == "uniform" else NOISE_R
        x_t, anchor = noisy(X, noise, T_R), torch.tensor([ANCHOR] * N)
        y = uniform if target == "uniform" else eps(start.w, start.e, x_t, T_R, anchor).detach()
        return ((eps(w, e, x_t, T_R, C_F) - y) ** 2).sum(1).mean()

    g_r = flat(by_hand(lambda w, e: keep_loss(w, e, NOISE, T))[1])
    g_f = flat(by_hand(forget_loss)[1])
    kappa = max(0.0, eta - float(g_r @ g_f) / float(g_f @ g_f))
    model = Small()
    run = ByGradient(model)
    method = registry.get_method("erasediff")(
        batch=N, eta=eta, target=target, noise=made_with, lr=1e-3
    )
    method.forget(model, small_task(), run)
    assert kappa > 0
    torch.testing.assert_close(flat(run.gradients), g_r + kappa * g_f, rtol=1e-4, atol=1e-5)


def test_erasediffs_constraint_acts_whatever_the_losss_unit_and_rate(monkeypatch):
    """η used to count for nothing where an inner step on L_f ended above it: q ≤ 0, and half of c_f stayed."""
    norms = {}
    monkeypatch.setattr(Small, "uninformed", 1e6)
    for eta in (0.0, 2.0):
        run = ByGradient(model := Small())
        values = {"batch": N, "target": "uniform", "lr": 100.0, "eta": eta}
        registry.get_method("erasediff")(**values).forget(model, small_task(), run)
        norms[eta] = float(flat(run.gradients).norm())
    assert norms[2.0] > 1e3 * norms[0.0]


def test_scissorhands_sums_the_sizes_of_gradients(monkeypatch):
    """s = |θ| (|g of one batch| + |g of the next|), where gradients of opposite signs do not cancel."""
    seen, start = [], Linear()
    monkeypatch.setattr(
        "sa_bench.methods.scissorhands.choose_largest",
        lambda values, share: seen.append(values) or torch.zeros_like(values, dtype=torch.bool),
    )
    model = Small()
    method = registry.get_method("scissorhands")(batch=N, saliency=2)
    method.cut(model, Always(X, [FORGET] * N), OneStep(model))
    sizes = 0
    for noise, t in ((NOISE, T), (NOISE_R, T_R)):
        gradients = by_hand(
            lambda w, e, noise=noise, t=t: (
                ((eps(w, e, noisy(X, noise, t), t, C_F) - noise) ** 2).sum(1).mean()
            )
        )[1]
        sizes = sizes + gradients["e"].abs()
    torch.testing.assert_close(seen[0], start.e.detach().abs() * sizes, rtol=1e-4, atol=1e-6)


def test_erasediffs_multiplier_by_hand():
    from sa_bench.methods.erasediff import multiplier

    a, b = [torch.tensor([1.0, 2.0])], [torch.tensor([3.0, -1.0])]  # product 1, square 10
    assert multiplier(a, b, 0.5) == pytest.approx(0.4)
    assert multiplier(a, b, 0.0) == 0
    assert multiplier(a, [torch.tensor([-3.0, 1.0])], 0.0) == pytest.approx(0.1)
    assert multiplier(a, [torch.zeros(2)], 5.0) == 0


def test_scissorhands_step_never_goes_towards_the_concept():
    from sa_bench.methods.scissorhands import project

    g_r, along, against = (
        torch.tensor([1.0, 2.0]),
        torch.tensor([2.0, 0.0]),
        torch.tensor([-2.0, 0]),
    )
    assert torch.equal(project([g_r], [along])[0], torch.tensor([0.0, 2.0]))
    assert torch.equal(project([g_r], [against])[0], g_r)
    assert torch.equal(project([g_r], [torch.zeros(2)])[0], g_r)


@pytest.mark.parametrize(("lam", "project"), [(0.1, True), (0.1, False), (50.0, True)])
def test_scissorhands_first_step_is_the_projected_gradient(lam, project):
    """Nothing cut: g = ∇L_r − λ ∇L_f, less max(0, ⟨g, ∇L_f⟩ / ‖∇L_f‖²) ∇L_f; a large λ leads away by itself."""

    def forget_loss(w, e):
        return ((eps(w, e, noisy(X, NOISE, T), T, C_F) - NOISE) ** 2).sum(1).mean()

    def alike(w, e):
        return ((eps(w, e, noisy(X_R, NOISE_R, T_R), T_R, C_F) - NOISE_R) ** 2).sum(1).mean()

    g_f, g_r = flat(by_hand(forget_loss)[1]), flat(by_hand(alike)[1])
    model = Small()
    run = ByGradient(model)
    run.replay = lambda: Always(X_R, [FORGET] * N)  # so that the two are not opposed
    values = {"share": 0.0, "saliency": 1, "lam": lam, "project": project}
    registry.get_method("scissorhands")(batch=N, **values).forget(model, small_task(), run)
    assert float(g_r @ g_f) > 0
    assert float(by_hand(forget_loss)[0]) < model.uninformed
    wanted = g_r - lam * g_f
    towards = float(wanted @ g_f)
    assert (towards > 0) == (lam < 1)
    if project and towards > 0:
        wanted = wanted - towards / float(g_f @ g_f) * g_f
    torch.testing.assert_close(flat(run.gradients), wanted, rtol=1e-4, atol=1e-4)
    if project:
        assert float(flat(run.gradients) @ g_f) < 1e-3 * float(g_r.norm() * g_f.norm())


def test_scissorhands_constraint_rests_where_nothing_is_known():
    def alike(w, e):
        return ((eps(w, e, noisy(X_R, NOISE_R, T_R), T_R, C_F) - NOISE_R) ** 2).sum(1).mean()

    model = Small()
    model.uninformed = 0.01
    run = ByGradient(model)
    run.replay = lambda: Always(X_R, [FORGET] * N)
    registry.get_method("scissorhands")(batch=N, share=0.0, saliency=1).forget(
        model, small_task(), run
    )
    torch.testing.assert_close(flat(run.gradients), flat(by_hand(alike)[1]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_scissorhands_cuts_the_most_sensitive_share_of_a_layer(share):
    """|θ ∂L_f/∂θ| of e, the one tensor with two dimensions: one of two inputs, so new values lie within 1/√2."""
    model, start = Small(), Linear()
    g = by_hand(lambda w, e: ((eps(w, e, noisy(X, NOISE, T), T, C_F) - NOISE) ** 2).sum(1).mean())
    sensitivity = (start.e * g[1]["e"]).abs().detach().flatten()
    method = registry.get_method("scissorhands")(batch=N, share=share, saliency=1)
    method.cut(model, Always(X, [FORGET] * N), OneStep(model))
    moved = (model.net.e != start.e).flatten()
    wanted = set(sensitivity.argsort(descending=True)[: round(8 * share)].tolist())
    assert set(moved.nonzero().flatten().tolist()) == wanted
    assert torch.equal(model.net.w, start.w)
    assert float(model.net.e.detach().flatten()[moved].abs().sum()) <= len(wanted) / sqrt(2)
