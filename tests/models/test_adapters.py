"""Adapters, attention maps and soft prompts: what they compute, by hand or with diffusers' own layers as the oracle."""

import copy

import pytest
import torch
from prompted import make_tiny
from torch import nn

from sa_bench.contracts import Request, Sampler
from sa_bench.models.adapters import Adapters, Gate
from sa_bench.models.attention_maps import find_tokens, find_words, record_attention
from sa_bench.models.soft_prompts import Prefix


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
    prefix = Prefix(tiny, 1, rng)
    prefix.value = tiny.condition("three").read()
    with prefix.in_place(), torch.no_grad():
        states = tiny.encoded(c)
    torch.testing.assert_close(states, tiny.encoded(tiny.conditions(["three zero"])))


def test_a_prefix_descends_by_steps_of_one_size(tiny, rng):
    prefix = Prefix(tiny, 2, rng)
    c = tiny.conditions(Prefix.put_before(["zero"]))
    aim = torch.randn(1, 16, 16, generator=rng)

    def loss():
        return ((tiny.encoded(c) - aim) ** 2).mean()

    start = prefix.value.clone()
    values = []
    for _ in range(4):
        with prefix.in_place(), torch.no_grad():
            values.append(float(loss()))
        prefix.descend(loss, 1, 0.05)
    assert values == sorted(values, reverse=True)
    assert values[-1] < values[0]
    once = Prefix(tiny, 2, rng)
    once.value = start
    once.descend(loss, 1, 0.05)
    step = (once.value - start).abs()
    torch.testing.assert_close(step, torch.full_like(step, 0.05 * once.size))


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
