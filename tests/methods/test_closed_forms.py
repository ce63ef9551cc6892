"""`rece`: the embedding that survives an edit, and its erasure, in closed form."""

import pytest
import torch
from prompted import make_tiny

from sa_bench.core import registry
from sa_bench.models.text_projections import encode_last_token, find_survivor
from sa_bench.models.toy import ToyRun


@pytest.fixture
def tiny():
    return make_tiny()


def forget(name, model, task, **values):
    return registry.get_method(name)(**values).forget(model.clone(), task, ToyRun(model, task))


def test_the_survivor_is_where_the_papers_sum_is_least(tiny, rng):
    """Σ_l ‖W_l c' − W*_l c‖² + λ ‖c'‖²: its gradient vanishes there, and [Σ WᵀW + λ I]⁻¹ Σ WᵀW* c is it."""
    edited, star = ([torch.randn(5, 4, generator=rng) for _ in range(3)] for _ in range(2))
    c = torch.randn(4, generator=rng).double()
    found = find_survivor(edited, star, c, 0.3).requires_grad_(True)
    value = 0.3 * (found**2).sum()
    for W, W_star in zip(edited, star, strict=True):
        value = value + ((W.double() @ found - W_star.double() @ c) ** 2).sum()
    (gradient,) = torch.autograd.grad(value, [found])
    torch.testing.assert_close(gradient, torch.zeros(4).double(), atol=1e-9, rtol=0)
    left = sum(W.double().T @ W.double() for W in edited) + 0.3 * torch.eye(4)
    right = sum(W.double().T @ W_star.double() @ c for W, W_star in zip(edited, star, strict=True))
    torch.testing.assert_close(found.detach(), torch.linalg.inv(left) @ right)


def test_before_any_edit_the_concept_itself_survives(rng):
    W, c = [torch.randn(9, 4, generator=rng)], torch.randn(4, generator=rng).double()
    torch.testing.assert_close(find_survivor(W, W, c, 1e-12), c)
    assert float(find_survivor(W, W, c, 1e12).norm()) < 1e-9


def write_out(W, c, guide, retained):
    """UCE's formula with e = p = 1 and μ = 0.5, a term for each embedding."""
    left = 0.5 * W + torch.outer(W @ guide, c)
    right = 0.5 * torch.eye(len(c)).double() + torch.outer(c, c)
    for k in retained:
        left, right = left + torch.outer(W @ k, k), right + torch.outer(k, k)
    return left @ torch.linalg.inv(right)


def list_retained(model, task):
    """The names of the other classes, and every token of the empty prompt."""
    empty = model.encoded(model.conditions([""]))[0].double()
    return [*(encode_last_token(model, task.classes[k]) for k in task.retain), *empty]


def test_without_rounds_it_is_uce_with_the_empty_prompt_retained(tiny):
    model, task = tiny
    edited = forget("rece", model, task, rounds=0).parameters("kv")
    c_f, guide = encode_last_token(model, "zero"), encode_last_token(model, "one")
    for name, W in model.parameters("kv").items():
        W = W.detach().double()
        wanted = write_out(W, c_f, guide, list_retained(model, task))
        assert (edited[name].double() - wanted).norm() < 1e-4 * (wanted - W).norm(), name


def test_a_round_erases_the_embedding_that_survived(tiny):
    """What UCE's edit still reads as c_f is read as the guide after one round more."""
    model, task = tiny
    star = [W.detach().double() for W in model.parameters("kv").values()]
    c_f, guide = encode_last_token(model, "zero"), encode_last_token(model, "one")
    matrices = [
        [
            W.detach().double()
            for W in forget("rece", model, task, rounds=n, ridge=0.1, mu=1e-3)
            .parameters("kv")
            .values()
        ]
        for n in (0, 1)
    ]
    c = find_survivor(matrices[0], star, c_f, 0.1)

    def distance(edited, aim):
        return sum(
            float((W @ c - W_star @ aim).norm()) for W, W_star in zip(edited, star, strict=True)
        )

    before, after = matrices
    assert distance(after, c_f) > 1.05 * distance(before, c_f)
    assert distance(after, guide) < 0.3 * distance(before, guide)


def test_the_first_round_written_out(tiny):
    """UCE's formula again on the edited W, with c' in c_f's place."""
    model, task = tiny
    once = forget("rece", model, task, rounds=0).parameters("kv")
    twice = forget("rece", model, task, rounds=1, ridge=0.5).parameters("kv")
    star = model.parameters("kv")
    c_f, guide = encode_last_token(model, "zero"), encode_last_token(model, "one")
    c = find_survivor(once.values(), star.values(), c_f, 0.5)
    for name, parameter in once.items():
        W = parameter.detach().double()
        wanted = write_out(W, c, guide, list_retained(model, task))
        assert (twice[name].double() - wanted).norm() < 1e-4 * (wanted - W).norm(), name
