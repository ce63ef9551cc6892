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


def test_the_tokens_that_two_prompts_share_are_aligned(tiny):
    """Both ends of the prompt, its first token and its padding too; what the phrase and the anchor share counts."""
    from sa_bench.methods.mace import align

    model = tiny[0]
    cases = [  # words in place of {}, and the places that the code's find_matching_indices gives, of 16
        ("zero", "one", [0, 1, *range(3, 16)], [0, 1, *range(3, 16)]),
        ("zero", "red digit", [0, 1, *range(3, 15)], [0, 1, *range(4, 16)]),
        ("red digit", "zero", [0, 1, *range(4, 16)], [0, 1, *range(3, 15)]),
        ("red digit", "red one", [0, 1, 2, *range(4, 16)], [0, 1, 2, *range(4, 16)]),
        ("red digit", "digit", [0, 1, *range(3, 16)], [0, 1, *range(2, 15)]),
        ("zero", "zero", [*range(16)], [*range(16)]),
    ]
    for phrase, anchor, *wanted in cases:
        texts = [f"a {words} and three" for words in (phrase, anchor)]
        states = model.encoded(model.conditions(texts)).double()
        assert states.shape[1] == 16
        for got, row, places in zip(
            align(model, "a {} and three", phrase, anchor), states, wanted, strict=True
        ):
            torch.testing.assert_close(got, row[places])


def test_timesteps_are_drawn_where_the_paper_draws_them():
    from sa_bench.methods.mace import focus_timesteps

    weight = focus_timesteps(1000)
    assert (weight >= 0).all()
    assert int(weight.argmax()) == 300
    assert float(weight[300]) == pytest.approx(2 / (1 + 2.718281828**-5) - 1, abs=1e-4)
    assert float(weight[200]) == pytest.approx(0.5, abs=1e-3)
    assert float(weight[700:].max()) < 1e-6
    torch.testing.assert_close(focus_timesteps(10), weight[::100])


class Noting(FirstStep):
    """Notes the network before it is trained, after the first closed form, and the adapters' start."""

    def train(self, model, loss, recipe, scope="full", pull=None, stop=None):
        self.refined = {n: p.detach().clone() for n, p in model.net.named_parameters()}
        self.start = {n: p.detach().clone() for n, p in model.parameters().items()}
        super().train(model, loss, recipe, scope, pull, stop)


def draw_starts(model, rank, rng):
    """A of each layer in their order, N(0, 1/rank²), by name."""
    return {
        name: torch.randn(rank, p.shape[1], generator=rng) / rank
        for name, p in model.parameters("kv").items()
    }


@pytest.mark.parametrize(("end", "focus"), [(True, True), (False, True), (True, False)])
def test_the_adapters_loss_is_attention_to_the_concept_where_it_is_shown(tiny, end, focus):
    """Prompts are drawn from the templates; with `end` the padding counts, which is the end token again and again."""
    from sa_bench.methods.mace import focus_timesteps

    model, task = tiny
    run = Noting(model, task)
    registry.get_method("mace")(batch=B, end=end, focus=focus).forget(model.clone(), task, run)
    rng, moved = torch.Generator().manual_seed(0), model.clone()
    moved.net.load_state_dict(run.refined)
    draw_starts(model, 1, rng)
    x, _ = run.concept_samples().batch(B, rng)
    odds = focus_timesteps(1000) if focus else torch.ones(1000)
    t = torch.multinomial(odds, B, replacement=True, generator=rng)
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


@pytest.mark.parametrize("rank", [1, 3])
def test_adapters_start_and_are_trained_as_in_the_code(tiny, rank):
    """diffusers' LoRALinearLayer: A is N(0, 1/rank²), B is 0; AdamW with weight decay 0.01, gradients of norm 1 at most."""
    model, task = tiny
    run = Noting(model, task)
    registry.get_method("mace")(batch=B, rank=rank).forget(model.clone(), task, run)
    starts = draw_starts(model, rank, torch.Generator().manual_seed(0))
    for name, down in starts.items():
        layer = name.removesuffix(".weight")
        torch.testing.assert_close(run.start[f"{layer}.down"], down)
        assert not run.start[f"{layer}.up"].any()
    (recipe,) = run.recipes
    assert (recipe.steps, recipe.lr, recipe.clip, recipe.decay) == (50, 1e-4, 1.0, 0.01)


def test_both_closed_forms_are_where_their_sums_of_squares_are_least(tiny):
    """Over all tokens of prompts that name "zero", and with the retained prompts held to θ*'s own outputs in both."""
    model, task = tiny
    lambda_1, lambda_2, ridge = 0.3, 0.7, 0.2

    def move(params):
        for name, p in params.items():
            if name.endswith(".up"):
                p.copy_(0.1 * torch.ones_like(p))

    run = Noting(model, task, move=move)
    values = {"lambda_1": lambda_1, "lambda_2": lambda_2, "ridge": ridge}
    edited = registry.get_method("mace")(batch=B, **values).forget(model.clone(), task, run)

    def encode(text):
        return model.encoded(model.conditions([text]))[0].double()

    templates = [text for text in task.prompt_options.replay if "{}" in text]
    others = list(dict.fromkeys(str(c) for c in task.replay_conditions()))
    share = len(templates) / len(others)

    def gradient_at(V, star, pull, erased):
        V = V.detach().double().requires_grad_(True)
        value = ridge * ((V - pull) ** 2).sum() + erased(V)
        weight = lambda_1 if pull is star else lambda_2
        for text in others:
            value = value + weight * share * ((encode(text) @ (V - star).T) ** 2).sum()
        return torch.autograd.grad(value, [V])[0]

    for name, W in model.parameters("kv").items():
        star, layer = W.detach().double(), name.removesuffix(".weight")
        W1, down = run.refined[name].double(), run.start[f"{layer}.down"].double()
        adapted = W1 + 0.1 * torch.ones(len(W), 1).double() @ down

        def residue(V, star=star):
            total = 0.0
            for template in templates:  # every word is one token
                e_f, e_g = (encode(template.replace("{}", word)) for word in ("zero", "one"))
                others = [i for i in range(len(e_f)) if i != 1 + template.split().index("{}")]
                total = total + ((e_f[others] @ V.T - e_g[others] @ star.T) ** 2).sum()
            return total

        def fused(V, adapted=adapted):
            states = torch.cat([encode(text.replace("{}", "zero")) for text in templates])
            return ((states @ (V - adapted).T) ** 2).sum()

        final = edited.parameters()[name]
        for gradient in (
            gradient_at(W1, star, star, residue),
            gradient_at(final, star, W1, fused),
        ):
            torch.testing.assert_close(gradient, torch.zeros_like(star), atol=2e-3, rtol=0)
        assert not torch.allclose(W1, star, atol=1e-2)
        assert not torch.allclose(final.double(), W1, atol=1e-2)


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
