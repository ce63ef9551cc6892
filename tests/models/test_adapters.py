"""Adapters, attention maps and soft prompts: what they compute, by hand or with diffusers' own layers as the oracle."""

import copy

import pytest
import torch
from prompted import make_tiny
from torch import nn

from sa_bench.contracts import Request, Sampler
from sa_bench.models.adapters import Adapters, Gate, TokenShares
from sa_bench.models.attention_maps import find_tokens, find_words, record_attention
from sa_bench.models.carried import Carried
from sa_bench.models.soft_prompts import Prefix, Suffix


@pytest.fixture
def tiny():
    return make_tiny()[0]


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.line = nn.Conv2d(2, 3, 3, padding=1, stride=2), nn.Linear(3, 4)

    def forward(self, x):
        return self.line(self.conv(x).mean((2, 3)))


def with_adapters(rng):
    torch.manual_seed(0)
    net = Two()
    adapters = Adapters(net, lambda name: True, 2, rng)
    with torch.no_grad():
        for name, p in adapters.parameters().items():
            if name.endswith(".up"):
                p.copy_(torch.randn(p.shape, generator=rng))
    return net, adapters


def test_adapters_begin_with_no_effect_and_are_merged_to_the_same_outputs(rng):
    net = Two()
    x = torch.randn(5, 2, 8, 8, generator=rng)
    before = net(x)
    Adapters(net, lambda name: True, 2, rng)
    assert torch.equal(net(x), before)
    net, adapters = with_adapters(rng)
    changed = net(x)
    with adapters.off():
        assert not torch.allclose(net(x), changed, atol=1e-2)
    adapters.merge()
    torch.testing.assert_close(net(x), changed, atol=1e-5, rtol=1e-5)
    assert not net.conv._forward_hooks


def test_adapters_start_uniform_or_normal(rng):
    """Uniform as torch.nn starts a layer of its size; with `std` normal."""
    drawn = torch.Generator().manual_seed(rng.initial_seed())
    uniform = Adapters(Two(), lambda name: True, 2, rng)
    bounds = {"conv": 18**-0.5, "line": 3**-0.5}
    for name, size in (("conv", (2, 2, 3, 3)), ("line", (2, 3))):
        wanted = (2 * torch.rand(size, generator=drawn) - 1) * bounds[name]
        assert torch.equal(uniform.down[name], wanted)
    normal = Adapters(Two(), lambda name: True, 2, rng, std=0.5)
    for name, size in (("conv", (2, 2, 3, 3)), ("line", (2, 3))):
        assert torch.equal(normal.down[name], 0.5 * torch.randn(size, generator=drawn))
        assert not normal.up[name].any()


def test_what_adapters_add_is_recorded_in_the_order_of_the_calls(rng):
    net, adapters = with_adapters(rng)
    x = torch.randn(5, 2, 8, 8, generator=rng)
    with adapters.record() as added:
        net(x)
    with adapters.off():
        conv = net.conv(x)
    with_adapter = net.conv(x)
    assert [tuple(a.shape) for a in added] == [(5, 3, 4, 4), (5, 4)]
    torch.testing.assert_close(added[0], with_adapter - conv, atol=1e-5, rtol=1e-5)


def test_attention_maps_are_those_that_the_layer_uses(tiny, rng):
    """Map times values, through the output projection, is the layer's own output."""
    x, t = torch.randn(2, *tiny.shape, generator=rng), torch.tensor([10, 700])
    c = tiny.conditions(["a photo of a three", "zero"])
    layers = {n: m for n, m in tiny.net.named_modules() if n.endswith("attn2")}
    seen = []
    handles = [
        m.register_forward_hook(
            lambda m, args, kwargs, out: seen.append((m, out)), with_kwargs=True
        )
        for m in layers.values()
    ]
    with torch.no_grad(), record_attention(tiny.net) as maps:
        tiny.predict(x, t, c)
    for handle in handles:
        handle.remove()
    assert len(maps) == len(layers) == len(seen)
    states = tiny.encoded(c)
    for A, (layer, out) in zip(maps, seen, strict=True):
        values = layer.to_v(states).unflatten(2, (layer.heads, -1)).transpose(1, 2)
        mixed = (A @ values).transpose(1, 2).flatten(2)
        torch.testing.assert_close(layer.to_out[0](mixed), out, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(A.sum(3), torch.ones(A.shape[:3]))


def test_a_prompts_own_tokens_are_between_its_first_and_its_end(tiny):
    c = tiny.conditions(["a photo of a three"])[0]
    words = find_tokens(tiny, "a photo of a three")
    assert words.nonzero().flatten().tolist() == [1, 2, 3, 4, 5]
    with_end = find_tokens(tiny, "a photo of a three", end=True)
    assert with_end.nonzero().flatten().tolist() == list(range(1, len(c)))
    assert (c[6:] == tiny.tokenizer.eos_token_id).all()  # the padding is the end token too
    three = find_words(tiny, "a photo of a three", 4, 5)
    assert three.nonzero().flatten().tolist() == [5]
    assert find_words(tiny, "a photo of a three", 4, 5, end=True).sum() == 1 + len(c) - 6


def test_a_prefix_stands_before_the_words_and_reaches_the_text_encoder(tiny, rng):
    (text,) = Prefix.put_before(["zero"])
    c = tiny.conditions([text])
    assert torch.equal(c[0, 2:3], torch.tensor(tiny.tokens_of("zero")))
    prefix = Prefix(tiny, tiny.tokens_of("three"), 1, rng)
    with prefix.in_place(), torch.no_grad():
        states = tiny.encoded(c)
    torch.testing.assert_close(states, tiny.encoded(tiny.conditions(["three zero"])))


def adam(value, gradient_at, rates, decay=0.0):
    """Kingma & Ba's algorithm, written out: one step for each rate."""
    m, v = torch.zeros_like(value), torch.zeros_like(value)
    for i, rate in enumerate(rates, 1):
        g = gradient_at(value) + decay * value
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        value = value - rate * (m / (1 - 0.9**i)) / ((v / (1 - 0.999**i)).sqrt() + 1e-8)
    return value


def test_a_prefix_starts_at_words_and_descends_with_adam(tiny, rng):
    words = [*tiny.tokens_of("three"), *tiny.tokens_of("two")]
    prefix = Prefix(tiny, words, 2, rng)
    start = prefix.value.clone()
    rows = [tiny.embeddings[word] for word in words]
    assert all(any(torch.equal(vector, row) for row in rows) for vector in start.view(2, -1))
    assert not prefix.value.requires_grad
    c = tiny.conditions(Prefix.put_before(["zero"]))
    aim = torch.randn(1, 16, 16, generator=rng)

    def loss():
        return ((tiny.encoded(c) - aim) ** 2).mean()

    def gradient_at(value):
        value = value.clone().requires_grad_(True)
        with tiny.condition("*").substitute(value):
            return torch.autograd.grad(loss(), [value])[0]

    prefix.fit(loss, 4, 0.05)
    wanted = adam(start, gradient_at, [0.05 * prefix.size] * 4)
    torch.testing.assert_close(prefix.value, wanted, atol=1e-5, rtol=1e-4)
    assert not prefix.value.requires_grad


def test_a_suffix_stands_in_the_states_behind_the_words_and_goes_on_where_it_was(tiny, rng):
    """Two fits are one: the vectors and Adam's moments are kept, in tensors that never change place."""
    x, t = torch.randn(2, *tiny.shape, generator=rng), torch.tensor([100, 800])
    c, aim = tiny.conditions(["a zero"] * 2), torch.randn(2, *tiny.shape, generator=rng)
    suffix = Suffix(tiny, "a zero", 3, 0.1, 0.2, rng)
    start = suffix.value.detach().clone()
    assert start.shape == (3, 16)
    assert 0 <= float(start.min()) < 0.2 < 0.8 < float(start.max()) < 1

    def read(vectors):
        states = tiny.encoded(c)
        states = torch.cat([states[:, :3], vectors.expand(2, -1, -1), states[:, 6:]], 1)
        return tiny.net(x, t, encoder_hidden_states=states).sample

    with suffix.in_place(), torch.no_grad():
        torch.testing.assert_close(tiny.predict(x, t, c), read(start))
    assert not torch.allclose(tiny.predict(x, t, c), read(start), atol=1e-4)

    def gradient_at(value):
        value = value.clone().requires_grad_(True)
        return torch.autograd.grad(((read(value) - aim) ** 2).mean(), [value])[0]

    tensors = dict(suffix.state)
    for steps in (1, 2):
        suffix.fit(lambda: ((tiny.predict(x, t, c) - aim) ** 2).mean(), steps)
    wanted = adam(start, gradient_at, [0.1] * 3, decay=0.2)
    torch.testing.assert_close(suffix.value.detach(), wanted, atol=1e-4, rtol=1e-3)
    assert all(suffix.state[name] is tensor for name, tensor in tensors.items())
    assert torch.equal(tensors["value"], suffix.value)
    assert float(tensors["step"]) == 3


def test_a_suffix_has_no_more_vectors_than_there_are_places(tiny, rng):
    assert len(Suffix(tiny, "zero", 99, 0.1, 0.0, rng).value) == 16 - 2


def test_carried_tensors_are_in_a_trainings_parameters_and_are_not_trained(tiny, rng):
    step = torch.zeros(())
    carried = Carried(tiny, {"step": step})
    assert carried.net is tiny.net
    params = carried.parameters("kv")
    assert [*params] == [*tiny.parameters("kv"), "carried.step"]
    assert not params["carried.step"].requires_grad
    params["carried.step"].fill_(3)
    assert float(step) == 3


@torch.no_grad()
def test_a_gate_opens_for_the_concept_and_is_shut_for_the_empty_prompt(tiny, rng):
    """γ = 1 gives the changed weights' outputs, γ = 0 those of θ*; a copied model has a gate of its own."""
    star = {n: p.clone() for n, p in tiny.net.state_dict().items()}
    changed = tiny.clone()
    for p in changed.parameters("kv").values():
        p += 0.3 * torch.randn(p.shape, generator=rng)
    states = tiny.encoded(tiny.conditions(["zero"]))[0]
    gate = Gate(states[1:2], tiny.encoded(tiny.conditions([""]))[0])
    gated = changed.clone()
    gate.put_on(gated.net, star)
    assert all(torch.equal(p, star[n]) for n, p in gated.net.state_dict().items())
    x, t = torch.randn(2, *tiny.shape, generator=rng), torch.tensor([10, 700])
    zero, null = tiny.conditions(["zero"] * 2), tiny.conditions([""] * 2)
    torch.testing.assert_close(
        gated.predict(x, t, zero), changed.predict(x, t, zero), atol=1e-5, rtol=1e-5
    )
    assert torch.equal(gated.predict(x, t, null), tiny.predict(x, t, null))
    assert not torch.allclose(changed.predict(x, t, null), tiny.predict(x, t, null), atol=1e-3)
    mixed = tiny.conditions(["zero", ""])
    both = gated.predict(x, t, mixed)
    torch.testing.assert_close(both[0], changed.predict(x, t, zero)[0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(both[1], tiny.predict(x, t, null)[1], atol=1e-5, rtol=1e-5)
    copied = copy.deepcopy(gated)
    copied.predict(x, t, null)
    assert torch.equal(gate.value, gate.strength(tiny.encoded(mixed))), "the copy's gate is another"
    requests = [Request("zero", 0), Request("", 1)]
    sampler = Sampler("ddim", steps=2, guidance=2.0)
    torch.testing.assert_close(copied.sample(requests, sampler), gated.sample(requests, sampler))


@torch.no_grad()
def test_a_half_open_gate_scales_what_was_learned_by_its_square(tiny, rng):
    """As SPM's code, which multiplies A and B by γ, each."""
    star = {n: p.clone() for n, p in tiny.net.state_dict().items()}
    gated, half = tiny.clone(), tiny.clone()
    for p in gated.parameters("kv").values():
        p += 0.3 * torch.randn(p.shape, generator=rng)
    concept, null = (tiny.encoded(tiny.conditions([text]))[0] for text in ("zero", ""))
    gate = Gate(concept[1:2], null)
    c = tiny.conditions(["red digit"] * 2)
    (gamma,) = gate.strength(tiny.encoded(c[:1])).tolist()
    assert 0.1 < gamma < 0.9
    for (name, p), moved in zip(
        half.parameters("kv").items(), gated.parameters("kv").values(), strict=True
    ):
        p += gamma**2 * (moved - star[name])
    gate.put_on(gated.net, star)
    x, t = torch.randn(2, *tiny.shape, generator=rng), torch.tensor([10, 700])
    torch.testing.assert_close(gated.predict(x, t, c), half.predict(x, t, c), atol=1e-5, rtol=1e-5)


def calculate_share(model, prompt, phrases):
    """As SPM's calculate_matching_score: |prompt ∩ phrase| / |phrase| over sets of tokens, the phrases' largest."""
    special = {model.tokenizer.bos_token_id, model.tokenizer.eos_token_id}
    words, *sets = (set(model.tokenizer(text).input_ids) - special for text in (prompt, *phrases))
    return max(len(words & each) / len(each) for each in sets)


PHRASES = ["red digit", "zero"]


@torch.no_grad()
def test_a_text_has_the_share_of_the_concepts_tokens_that_the_code_gives_it(tiny):
    tiny.encoded(tiny.conditions(["zero"]))  # a text from before, whose share nobody took
    shares = TokenShares(tiny.text, [tiny.tokens_of(text) for text in PHRASES])
    tiny.forget_texts()
    prompts = [
        "",
        "zero",
        "a photo of a zero",
        "red digit",
        "a digit and a red one",
        "a red three",
        "digit digit digit",
        "a photo of a three",
    ]
    wanted = [calculate_share(tiny, prompt, PHRASES) for prompt in prompts]
    assert wanted == [0, 1, 1, 1, 1, 0.5, 0.5, 0]
    for _ in range(2):  # encoded, and from the cache
        states = tiny.encoded(tiny.conditions(prompts))
        assert shares.read(states).tolist() == wanted
        assert shares.read(states.flip(0).expand(8, -1, -1)).tolist() == wanted[::-1]
    assert shares.read(states + 1e-3).tolist() == [0] * 8, "states that the encoder never gave"


def test_gradients_of_an_attack_flow_through_a_gate_that_knows_tokens(tiny):
    """A vector in a token's place is not that token, unless it is the same; beside the name γ is 1."""
    concept, null = (tiny.encoded(tiny.conditions([text]))[0] for text in ("zero", ""))
    alone = Gate(concept[1:2], null)
    shares = TokenShares(tiny.text, [tiny.tokens_of("zero")])
    tiny.forget_texts()
    gate, slot = Gate(concept[1:2], null, shares), tiny.condition("zero")
    c, own = tiny.conditions(["a photo of a zero"]), slot.read()
    assert gate.strength(tiny.encoded(c)).item() == 1
    assert alone.strength(tiny.encoded(c)).item() < 0.99

    def attack(slot, value, c):
        value = value.clone().requires_grad_(True)
        with slot.substitute(value):
            states = tiny.encoded(c)
        gamma = gate.strength(states)
        cosine = alone.strength(states)
        (slope,) = torch.autograd.grad(cosine.sum(), [value], retain_graph=True)
        return gamma, cosine, torch.autograd.grad(gamma.sum(), [value])[0], slope

    same, *_ = attack(slot, own, c)
    assert same.item() == 1
    near, cosine, gradient, slope = attack(slot, own + 1e-3, c)
    assert torch.equal(near, cosine)
    assert 0 < near.item() < 1
    assert slope.abs().max() > 0
    assert torch.equal(gradient, slope)
    prefixed = tiny.conditions(Prefix.put_before(["zero"]))
    place = tiny.condition("*")
    beside, cosine, gradient, _ = attack(place, place.read() + 1, prefixed)
    assert beside.item() == 1
    assert cosine.item() < 1
    assert not gradient.any()
    posing, *_ = attack(place, own, tiny.conditions(Prefix.put_before(["three"])))
    assert posing.item() == 1, "c_f's own vector, wherever it stands, is its token"


@torch.no_grad()
def test_a_copied_models_gate_knows_tokens_by_itself(tiny, rng):
    star = {n: p.clone() for n, p in tiny.net.state_dict().items()}
    for p in tiny.parameters("kv").values():
        p += 0.3 * torch.randn(p.shape, generator=rng)
    merged = tiny.clone()
    shares = TokenShares(tiny.text, [tiny.tokens_of("zero")])
    tiny.forget_texts()
    concept, null = (tiny.encoded(tiny.conditions([text]))[0] for text in ("zero", ""))
    Gate(concept[1:2], null, shares).put_on(tiny.net, star)
    copied = tiny.clone()
    x, t = torch.randn(2, *tiny.shape, generator=rng), torch.tensor([10, 700])
    c = copied.conditions(["a photo of a zero", "the zero and a three"])
    out = copied.predict(x, t, c)
    torch.testing.assert_close(out, merged.predict(x, t, c), atol=1e-5, rtol=1e-5)
    assert shares.read(copied.encoded(c)).tolist() == [0, 0], "only the copy has seen them"
    torch.testing.assert_close(tiny.predict(x, t, c), out, atol=1e-5, rtol=1e-5)
