"""The text-to-image model behind the contract: prompts, slots, samplers and files, with diffusers as the oracle."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from transformers import CLIPTokenizer

from sa_bench.contracts import (
    Bound,
    Diffusion,
    FisherOptions,
    Likelihood,
    Prompted,
    Request,
    Sampler,
)
from sa_bench.core.errors import SaBenchError
from sa_bench.data import captions
from sa_bench.models import micro_pipeline, scopes
from sa_bench.models.text_to_image import TextToImage
from sa_bench.training.fisher import fisher_over_time

DDIM = Sampler("ddim", steps=4, guidance=5.0)


@pytest.fixture
def tiny():
    return TextToImage("tiny", captions.WORDS, 0)


def rows(*texts):
    return [Request(text, i) for i, text in enumerate(texts)]


def test_it_keeps_the_contract(tiny):
    assert isinstance(tiny, Diffusion)
    assert isinstance(tiny, Prompted)
    assert not isinstance(tiny, (Bound, Likelihood))
    assert tiny.shape == (4, 8, 8)


def test_every_word_of_the_vocabulary_is_one_token_and_any_other_text_is_spelt(tmp_path):
    tokens = micro_pipeline.tokenizer()
    for word in captions.vocabulary():
        assert len(tokens(word).input_ids) == 3, word
    assert tokens("zreo").input_ids[1:-1] != tokens("zero").input_ids[1:-1]
    assert tokens("zreo").input_ids.count(tokens.eos_token_id) == 1
    assert tokens("A ZERO").input_ids == tokens("a zero").input_ids
    assert tokens.eos_token_id == len(tokens) - 1  # CLIP's pooling looks for the highest number
    longest = max((*captions.TEMPLATES, *captions.HELD_OUT), key=lambda t: len(t.split()))
    assert (
        len(tokens(f"{longest.format('nought')} on the right").input_ids) <= micro_pipeline.LENGTH
    )
    tokens.save_pretrained(tmp_path)
    assert (
        CLIPTokenizer.from_pretrained(tmp_path)("a photo of a zero").input_ids
        == tokens("a photo of a zero").input_ids
    )


def test_samples_are_those_of_diffusers_pipeline(tiny):
    texts = ["a photo of a zero", "three"]
    theirs = tiny.pipeline()(
        texts, num_inference_steps=4, guidance_scale=5.0, height=32, width=32, output_type="latent",
        generator=[torch.Generator().manual_seed(i) for i in range(2)],
    ).images  # fmt: skip
    ours = tiny.sample(rows(*texts), DDIM)
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-5)
    shown = tiny.pipeline()(
        texts[0], num_inference_steps=4, guidance_scale=5.0, height=32, width=32, output_type="np",
        generator=torch.Generator().manual_seed(0),
    ).images  # fmt: skip
    assert abs(tiny.to_images(ours[:1]) / 255 - shown).max() <= 1 / 255


def test_an_image_does_not_depend_on_its_batch(tiny):
    asked = rows("a zero", "a one", "two", "a photo of the digit three", "")
    together = tiny.to_images(tiny.sample(asked, DDIM))
    alone = np.concatenate([tiny.to_images(tiny.sample([row], DDIM)) for row in asked])
    assert abs(together.astype(int) - alone).max() <= 1
    own = [
        replace(row, guidance=g) for row, g in zip(asked, (1.0, 2.0, 5.0, 5.0, 7.5), strict=True)
    ]
    mixed = tiny.sample(own, DDIM)
    torch.testing.assert_close(
        mixed[1], tiny.sample([own[1]], replace(DDIM, guidance=2.0))[0], atol=1e-4, rtol=1e-4
    )


def test_an_image_has_the_size_that_is_asked_for(tiny):
    wide = [replace(row, size=(32, 64)) for row in rows("a zero", "one")]
    theirs = tiny.pipeline()(
        ["a zero", "one"], num_inference_steps=4, guidance_scale=5.0, height=32, width=64, output_type="latent",
        generator=[torch.Generator().manual_seed(i) for i in range(2)],
    ).images  # fmt: skip
    ours = tiny.sample(wide, DDIM)
    assert ours.shape == (2, 4, 8, 16)
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-5)
    assert tiny.to_images(ours).shape == (2, 32, 64, 3)
    own = rows("a zero")
    assert torch.equal(tiny.sample([replace(own[0], size=(32, 32))], DDIM), tiny.sample(own, DDIM))


def test_a_size_that_cannot_be_made_is_refused_with_the_nearest(tiny):
    from sa_bench.models.ddpm import DDPM

    tiny.net = None  # before anything is computed
    for size, near in (
        ((30, 64), "32 x 64"),
        ((33, 9), "32 x 8"),
        ((1, 32), "4 x 32"),
        ((0, 32), "4 x 32"),
    ):
        with pytest.raises(SaBenchError, match=f"multiples of 4.*{near}"):
            tiny.sample([Request("one", 0, size=size)], DDIM)
    tiny.net = TextToImage("tiny", captions.WORDS).net
    with pytest.raises(SaBenchError, match="one size"):
        tiny.sample([Request("one", 0, size=(32, 32)), Request("one", 1, size=(32, 64))], DDIM)
    with pytest.raises(SaBenchError, match="16 x 16 pixels only"):
        DDPM("tiny").sample([Request(1, 0, size=(32, 32))], DDIM)


def test_integers_are_the_classes_bare_names(tiny):
    assert torch.equal(tiny.conditions([3, "three"])[0], tiny.conditions(["three"])[0])
    assert torch.equal(tiny.conditions(np.array([0, 1])), tiny.conditions(["zero", "one"]))
    rows_ = tiny.conditions(["zero"])
    assert torch.equal(tiny.conditions(rows_), rows_)
    for wrong in (10, -1):
        with pytest.raises(SaBenchError, match=r"0\.\.9"):
            tiny.conditions([wrong])


def test_the_slot_is_the_phrase_wherever_it_stands_and_takes_any_number_of_vectors(tiny, rng):
    x, c = (
        torch.randn(2, *tiny.shape, generator=rng),
        tiny.conditions(["a photo of a zero", "a photo of a one"]),
    )
    draw, slot = tiny.draw(2, rng), tiny.condition("zero")
    plain = tiny.loss(x, c, draw)
    with slot.substitute(slot.read()):
        torch.testing.assert_close(tiny.loss(x, c, draw), plain)
    for k in (1, 4):
        value = torch.randn(k * slot.width, generator=rng, requires_grad=True)
        with slot.substitute(value):
            changed = tiny.loss(x, c, draw)
        assert changed[0] != plain[0]
        assert changed[1] == plain[1]
        assert float(torch.autograd.grad(changed[0], [value])[0].abs().sum()) > 0
    one = tiny.condition("one").read()
    slot.write(one)
    after = tiny.loss(x, tiny.conditions(["a zero", "a zero"]), draw)
    torch.testing.assert_close(after, tiny.loss(x, tiny.conditions(["a one", "a one"]), draw))
    with pytest.raises(SaBenchError, match="1 token"):
        slot.write(torch.zeros(2 * slot.width))
    two = tiny.condition("three minus three")
    assert two.read().numel() == 3 * two.width


def test_a_phrase_that_grows_beyond_the_prompts_length_keeps_its_end(tiny):
    from sa_bench.models.phrases import replaced

    end = tiny.tokenizer.eos_token_id
    c = tiny.conditions(["the image of the handwritten digit zero on the right"])
    wider, places = replaced(c, tiny.tokens_of("zero"), 8, end)
    assert wider.shape == c.shape
    assert int(wider[0, -1]) == end
    assert places.max() == 7
    assert (places[0, :7] == -1).all()


def test_encoded_prompts_are_kept_until_the_encoder_changes(tiny):
    c = tiny.conditions(["a zero", "a zero", "one"])
    first = tiny.encoded(c)
    assert len(tiny._texts) == 2
    assert torch.equal(first[0], first[1])
    with torch.no_grad():
        tiny.embeddings.add_(1)
    assert torch.equal(tiny.encoded(c), first)
    tiny.forget_texts()
    assert not torch.equal(tiny.encoded(c), first)


def test_velocity_is_scored_against_velocity_and_predicts_the_same_noise(rng):
    model = TextToImage("tiny", captions.WORDS, 0)
    model.velocity, x, draw = True, torch.randn(3, *model.shape, generator=rng), None
    draw = model.draw(3, rng, torch.tensor([10, 500, 990]))
    a = model.alphas[draw.t][:, None, None, None]
    v = a.sqrt() * draw.noise - (1 - a).sqrt() * x
    model.output = lambda net, x_t, t, c: v
    c = model.conditions(["one"] * 3)
    torch.testing.assert_close(model.loss(x, c, draw), torch.zeros(3))
    torch.testing.assert_close(
        model.predict(model.add_noise(x, draw), draw.t, c), draw.noise, atol=1e-5, rtol=1e-5
    )


def test_a_model_is_saved_whole_and_then_by_what_differs(tiny, tmp_path):
    for name in ("star", "moved"):
        (tmp_path / name).mkdir()
    tiny.save(tmp_path / "star")
    star = TextToImage("tiny", captions.WORDS, 1).load(tmp_path / "star")
    asked = rows("a zero", "a one")
    assert torch.equal(star.sample(asked, DDIM), tiny.sample(asked, DDIM))
    moved = star.clone()
    with torch.no_grad():
        moved.parameters("kv")[
            "mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight"
        ].add_(1)
    moved.condition("zero").write(moved.condition("one").read())
    moved.save(tmp_path / "moved")
    from safetensors.torch import load_file

    kept = set(load_file(tmp_path / "moved" / "model.safetensors"))
    assert kept == {
        "unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight",
        next(k for k in kept if k.startswith("text_encoder.")),
    }
    again = TextToImage("tiny", captions.WORDS, 2).load(tmp_path / "star").load(tmp_path / "moved")
    assert torch.equal(again.sample(asked, DDIM), moved.sample(asked, DDIM))
    assert torch.equal(star.sample(asked, DDIM), tiny.sample(asked, DDIM)), (
        "the clone shares what it changed"
    )


def test_a_pipeline_of_diffusers_is_taken_as_it_is(tiny, tmp_path):
    from diffusers import StableDiffusionPipeline

    tiny.pipeline().save_pretrained(tmp_path / "base")

    def load():
        return StableDiffusionPipeline.from_pretrained(
            tmp_path / "base",
            safety_checker=None,
            requires_safety_checker=False,
            local_files_only=True,
        )

    taken, asked = TextToImage.of(load, "mine", captions.WORDS), rows("a photo of a zero", "one")
    assert torch.equal(taken.sample(asked, DDIM), tiny.sample(asked, DDIM))
    taken.save(tmp_path)
    from safetensors.torch import load_file

    assert load_file(tmp_path / "model.safetensors") == {}
    with torch.no_grad():
        taken.net.conv_in.bias.add_(1)
    taken.save(tmp_path)
    assert set(load_file(tmp_path / "model.safetensors")) == {"unet.conv_in.bias"}
    again = TextToImage.of(load, "mine", captions.WORDS).load(tmp_path)
    assert torch.equal(again.sample(asked, DDIM), taken.sample(asked, DDIM))
    taken.pipeline().save_pretrained(tmp_path / "forgotten")
    opened = StableDiffusionPipeline.from_pretrained(tmp_path / "forgotten", safety_checker=None)
    opened.set_progress_bar_config(disable=True)
    shown = opened(
        "one", num_inference_steps=4, guidance_scale=5.0, height=32, width=32, output_type="latent",
        generator=torch.Generator().manual_seed(1),
    ).images  # fmt: skip
    torch.testing.assert_close(shown, taken.sample(asked, DDIM)[1:], atol=1e-5, rtol=1e-5)


def test_wrong_weights_are_named(tiny, tmp_path):
    from safetensors.torch import save_file

    state = {k: v.contiguous() for k, v in tiny.state().items()}
    for change, words in (
        ({"unet.conv_in.weight": torch.zeros(1)}, "unet.conv_in.weight"),
        ({"unet.nothing": torch.zeros(1)}, "no tensor of this model"),
        (
            {
                "vae.decoder.conv_in.bias": torch.full_like(
                    state["vae.decoder.conv_in.bias"], np.nan
                )
            },
            "not finite",
        ),
    ):
        save_file({**state, **change}, tmp_path / "model.safetensors")
        with pytest.raises(SaBenchError, match=words):
            TextToImage("tiny", captions.WORDS).load(tmp_path)
    state.pop("unet.conv_in.bias")
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(SaBenchError, match=r"unet\.conv_in\.bias is missing"):
        TextToImage("tiny", captions.WORDS).load(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"<!DOCTYPE html>")
    with pytest.raises(SaBenchError, match="is not a complete safetensors file"):
        TextToImage("tiny", captions.WORDS).load(tmp_path)


def test_images_and_latents(tiny):
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)
    x = tiny.encode(images)
    assert x.shape == (3, 4, 8, 8)
    assert tiny.to_images(x).shape == images.shape
    for wrong in (images[:, :28, :28], images.astype(np.float32), images[..., :1]):
        with pytest.raises(SaBenchError, match="uint8"):
            tiny.encode(wrong)


def test_fisher_of_prompts(tiny, rng):
    x, c = torch.randn(2, *tiny.shape, generator=rng), tiny.conditions(["a zero", "a one"])
    F, negative = fisher_over_time(tiny, [(x, c, None)], FisherOptions(timesteps=5), rng)
    assert negative == 0
    assert set(F) == set(tiny.parameters())
    assert all(float(v.min()) >= 0 for v in F.values())
    assert float(F["conv_in.weight"].sum()) > 0


def test_a_new_model_shares_the_autoencoder_alone(tiny):
    tiny.vae.register_to_config(scaling_factor=0.7)
    new = tiny.fresh(5)
    assert new.scaling == 0.7
    assert all(
        torch.equal(a, b) for a, b in zip(new.vae.parameters(), tiny.vae.parameters(), strict=True)
    )
    assert not torch.equal(new.net.conv_in.weight, tiny.net.conv_in.weight)
    assert not torch.equal(new.embeddings, tiny.embeddings)


SD1 = {
    "full": (686, 859_520_964), "xattn": (80, 43_962_560), "kv": (32, 19_169_280), "selfattn": (80, 49_574_080),
    "noxattn": (598, 813_495_680), "esd-u": (388, 815_358_084),
}  # fmt: skip


@pytest.fixture(scope="module")
def stable_diffusion():
    """Stable Diffusion 1.x's U-Net by its configuration, without memory."""
    with torch.device("meta"):
        return UNet2DConditionModel(
            sample_size=64, cross_attention_dim=768, attention_head_dim=8,
            block_out_channels=(320, 640, 1280, 1280), layers_per_block=2,
        )  # fmt: skip


@pytest.mark.parametrize("scope", SD1)
def test_scopes_have_the_published_sizes(stable_diffusion, scope):
    found = scopes.within(stable_diffusion, scope)
    assert (len(found), sum(p.numel() for p in found.values())) == SD1[scope]


def test_memory_is_four_bytes_a_number(stable_diffusion):
    xattn = scopes.memory(stable_diffusion, "xattn")
    assert xattn["weights"] == 4 * SD1["full"][1]
    assert xattn["theta_star"] == xattn["fisher"] == xattn["gradient"] == 4 * SD1["xattn"][1]
    assert xattn["adam"] == 8 * SD1["xattn"][1]
    assert xattn["total"] == 4 * (SD1["full"][1] + 5 * SD1["xattn"][1])
    whole = scopes.memory(dict(stable_diffusion.config))
    assert whole["total"] == 24 * SD1["full"][1]  # 20.6 GB
    with pytest.raises(SaBenchError, match="noxattn"):
        scopes.memory(stable_diffusion, "noxatn")


def test_an_unknown_scope_is_named(tiny):
    with pytest.raises(SaBenchError, match="xattn"):
        tiny.parameters("xatn")


def test_without_transformers_the_extra_is_named(monkeypatch):
    """In a process that has imported nothing yet: tests/commands/test_machines.py."""
    import sys

    from sa_bench.core.errors import MissingExtra
    from sa_bench.models import family

    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MissingExtra) as error:
        family.get_family("text_to_image").load_generator()
    assert str(error.value) == "text-to-image needs transformers: pip install 'sa_bench[t2i]'"
