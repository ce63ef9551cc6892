"""MACE: its closed forms, masked attention and importance of timesteps, by hand; and that fusing nothing changes nothing."""

import pytest
import torch
from prompted import FirstStep, make_tiny

from sa_bench.commands.check import weights
from sa_bench.core import registry
from sa_bench.models.attention_maps import record_attention
from sa_bench.models.text_projections import Term, fit_projection, sum_squares

B = 4


@pytest.fixture
def tiny():
    return make_tiny()


def test_a_fit_is_where_the_sum_of_squares_is_least(rng):
    """Σ w ‖V e − M g‖² + μ ‖V − W‖²: its gradient vanishes there."""
    W, M, e, g, other = (
        torch.randn(*size, generator=rng).double()
        for size in ((3, 5), (3, 5), (7, 5), (7, 5), (4, 5))
    )
    terms = [Term(1.0, M, g.T @ e, e.T @ e), Term(0.3, W, other.T @ other, other.T @ other)]
    V = fit_projection(terms, W, 0.2).requires_grad_(True)
    value = ((e @ V.T - g @ M.T) ** 2).sum() + 0.3 * ((other @ (V - W).T) ** 2).sum()
    (gradient,) = torch.autograd.grad(value + 0.2 * ((V - W) ** 2).sum(), [V])
    torch.testing.assert_close(gradient, torch.zeros(3, 5).double(), atol=1e-9, rtol=0)


def test_squares_are_summed_over_all_tokens_of_all_texts(tiny):
    model = tiny[0]
    texts = [f"a {word}" for word in ("one", "two", "three")] * 30
    states = model.encoded(model.conditions(texts)).double().flatten(0, 1)
    torch.testing.assert_close(sum_squares(model, texts), states.T @ states)


def test_the_words_after_the_concept_are_aligned_with_those_after_the_anchor(tiny):
    """What follows "zero" stands at the same places as behind "one", and one further on behind two words."""
    from sa_bench.methods.mace import align

    model = tiny[0]
    states = {
        text: model.encoded(model.conditions([text]))[0].double()
        for text in ("a zero and three", "a one and three", "a red digit and three")
    }
    length = len(states["a zero and three"])
    after, other = align(model, "a {} and three", "zero", "one")
    assert torch.equal(after, states["a zero and three"][3:])
    assert torch.equal(other, states["a one and three"][3:])
    after, other = align(model, "a {} and three", "zero", "red digit")
    assert torch.equal(after, states["a zero and three"][3 : length - 1])
    assert torch.equal(other, states["a red digit and three"][4:])


def test_the_phrases_own_tokens_are_read_in_their_prompt(tiny):
    from sa_bench.methods.mace import read_phrase

    model = tiny[0]
    states = model.encoded(model.conditions(["a red digit and three"]))[0].double()
    assert torch.equal(read_phrase(model, "a {} and three", "red digit"), states[2:4])


def test_timesteps_are_drawn_where_the_paper_draws_them():
    from sa_bench.methods.mace import focus_timesteps

    weight = focus_timesteps(1000)
    assert (weight >= 0).all()
    assert int(weight.argmax()) == 300
    assert float(weight[300]) == pytest.approx(2 / (1 + 2.718281828**-5) - 1, abs=1e-4)
    assert float(weight[200]) == pytest.approx(0.5, abs=1e-3)
    assert float(weight[700:].max()) < 1e-6
    torch.testing.assert_close(focus_timesteps(10), weight[::100])


@pytest.mark.parametrize("end", [True, False])
def test_the_adapters_loss_is_attention_to_the_concept_where_it_is_shown(tiny, end):
    """Prompts are drawn from the templates; with `end` the padding counts, which is the end token again and again."""
    from sa_bench.methods.mace import focus_timesteps

    model, task = tiny
    refined = {}

    class Noting(FirstStep):
        def train(self, model, loss, recipe, scope="full", pull=None, stop=None):
            net = {n: p.detach().clone() for n, p in model.net.named_parameters()}
            refined.update(net)
            super().train(model, loss, recipe, scope, pull, stop)

    run = Noting(model, task)
    registry.get_method("mace")(batch=B, end=end).forget(model.clone(), task, run)
    rng, moved = torch.Generator().manual_seed(0), model.clone()
    moved.net.load_state_dict(refined)
    for name, p in model.parameters("kv").items():  # A of each layer is drawn in their order
        if name.endswith(".weight"):
            torch.rand(1, *p.shape[1:], generator=rng)
    x, _ = run.concept_samples().batch(B, rng)
    t = torch.multinomial(focus_timesteps(1000), B, replacement=True, generator=rng)
    draw = model.draw(B, rng, t)
    templates = [text for text in task.prompt_options.replay if "{}" in text]
    which = torch.randint(len(templates), (B,), generator=rng).tolist()
    texts = [templates[i].replace("{}", "zero") for i in which]
    x_t, zero = model.add_noise(x, draw), model.conditions(texts)
    words = [1 + text.split().index("zero") for text in texts]  # every word is one token
    wanted = torch.zeros(())
    with torch.no_grad(), record_attention(model.net) as before:
        model.predict(x_t, t, zero)
    with torch.no_grad(), record_attention(moved.net) as maps:
        moved.predict(x_t, t, zero)
    for A, A_star in zip(maps, before, strict=True):
        energies = []
        for n, (text, word) in enumerate(zip(texts, words, strict=True)):
            seen = A_star[n].mean(0)[:, word]  # (places,): to "zero", the one word
            places = [word, *range(1 + len(text.split()), A.shape[3])] if end else [word]
            at_concept = A[n][:, :, places] * (seen > seen.mean())[None, :, None]
            energies.append(at_concept.square().sum(2).mean())
        wanted = wanted + torch.stack(energies).mean()
    torch.testing.assert_close(run.losses[0], wanted, atol=1e-6, rtol=1e-4)


def test_only_the_projections_of_keys_and_values_change(tiny):
    model, task = tiny
    edited = registry.get_method("mace")(batch=B).forget(
        model.clone(), task, FirstStep(model, task)
    )
    moved = {n for n, p in edited.parameters().items() if not torch.equal(p, model.parameters()[n])}
    assert moved == set(model.parameters("kv"))


def test_a_firm_ridge_leaves_the_model(tiny):
    model, task = tiny
    same = registry.get_method("mace")(batch=B, ridge=1e12).forget(
        model.clone(), task, FirstStep(model, task)
    )
    torch.testing.assert_close(weights(same), weights(model), atol=1e-5, rtol=1e-5)


def test_the_first_closed_form_takes_the_concept_out_of_the_words_around_it(tiny):
    """Keys and values of what follows "zero" come nearer to those behind "one"; those of retained prompts stay near."""
    from sa_bench.methods.mace import align

    model, task = tiny
    star = model.parameters("kv")
    edited = registry.get_method("mace")(batch=B, ridge=1e-3, lambda_1=0.01, lambda_2=0.01).forget(
        model.clone(), task, FirstStep(model, task)
    )
    after, other = align(model, "the digit {}", "zero", "one")
    gaps = [
        sum(
            float((after @ W.detach().double().T - other @ star[n].detach().double().T).norm())
            for n, W in each.items()
        )
        for each in (star, edited.parameters("kv"))
    ]
    assert gaps[1] < 0.7 * gaps[0]
