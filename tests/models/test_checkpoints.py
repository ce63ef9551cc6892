"""Stable Diffusion from files: what they are, what is refused, and what a forgotten checkpoint changes."""

import json
import pickle
import shutil
import socket
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from stable_diffusion import FULL, FULL_2, SMALL, SMALL_2, networks, original, pipeline, saved

from sa_bench.core.errors import MissingAsset, SaBenchError
from sa_bench.models import micro_pipeline, scopes
from sa_bench.models.checkpoints import layouts, single_file
from sa_bench.models.checkpoints.load import (
    apply,
    content,
    layout,
    load_pipeline,
    read_tensors,
    remarks,
    unfit,
)
from sa_bench.models.text_to_image import TextToImage

ATTENTION = "mid_block.attentions.0.transformer_blocks.0.attn2.to_k"
UNET = "diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A pipeline and the folder that it was saved into."""
    pipe = pipeline()
    return pipe, saved(pipe, tmp_path_factory.mktemp("base") / "sd")


@pytest.fixture(scope="module")
def moved(tmp_path_factory):
    """The same with other weights: somebody else's forgotten model."""
    pipe = pipeline(seed=1)
    return pipe, saved(pipe, tmp_path_factory.mktemp("moved") / "sd")


@pytest.fixture
def copied(base, tmp_path):
    return shutil.copytree(base[1], tmp_path / "copied")


@pytest.fixture(scope="module")
def star(base):
    return TextToImage.of(lambda: load_pipeline(str(base[1])), "mine", ("cat", "dog"))


@pytest.fixture
def model(star):
    return star.clone()


def same(one, other, atol=0.0):
    """Whether two pipelines answer the same: U-Net, autoencoder, text encoder and tokenizer."""
    rng = torch.Generator().manual_seed(0)
    x, text = (
        torch.randn(2, 4, 8, 8, generator=rng),
        torch.randn(2, 77, one.text_encoder.config.hidden_size, generator=rng),
    )
    with torch.no_grad():
        for pipe in (one, other):
            rows = pipe.tokenizer(
                ["a zero", "Brad Pitt"], padding="max_length", return_tensors="pt"
            ).input_ids
            pipe.said = (
                pipe.unet(x, torch.tensor([5, 900]), text).sample,
                pipe.vae.decode(x).sample,
                pipe.text_encoder(rows)[0],
            )
    return all(
        torch.allclose(a, b, atol=atol, rtol=0) for a, b in zip(one.said, other.said, strict=True)
    )


def write_lora(path, tensors, **metadata):
    save_file({k: v.contiguous() for k, v in tensors.items()}, path, metadata=metadata or None)
    return path


def test_a_safetensors_file_whose_table_has_384_bytes_is_no_pickle(tmp_path):
    """Its first byte is that of a pickle, as that of every 32nd safetensors file."""
    path, name = tmp_path / "adapter.safetensors", f"unet.{ATTENTION}.lora_A.weight"
    entry = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
    table = json.dumps({"__metadata__": {"rank": "1"}, name: entry})
    path.write_bytes((384).to_bytes(8, "little") + table.ljust(384).encode() + b"\0\0\x80?")
    assert layout(str(path)) == "lora"
    assert layouts.read_tensors(path)[name].tolist() == [1.0]
    assert layouts.described(path) == {"rank": "1"}


def test_layouts_are_told_by_names_alone(base, tmp_path):
    pipe, folder = base
    state, bits = pipe.unet.state_dict(), torch.ones(1)
    (tmp_path / "training" / "unet").mkdir(parents=True)
    for name in ("config.json", UNET):
        shutil.copy(folder / "unet" / name, tmp_path / "training" / "unet")
    save_file(state, tmp_path / "unet.safetensors")
    torch.save(state, tmp_path / "unet.pt")
    torch.save({"state_dict": original(pipe), "global_step": 3}, tmp_path / "sd.ckpt")
    (tmp_path / "lora").mkdir()
    save_file(
        {f"unet.{ATTENTION}.lora_A.weight": bits},
        tmp_path / "lora" / "pytorch_lora_weights.safetensors",
    )
    save_file(
        {f"lora_unet_{ATTENTION.replace('.', '_')}.lora_down.weight": bits},
        tmp_path / "kohya.safetensors",
    )
    save_file({f"{ATTENTION}.lora.down.weight": bits}, tmp_path / "older.safetensors")
    save_file({"unet.conv_in.bias": bits}, tmp_path / "delta.safetensors")
    (tmp_path / "nothing").mkdir()
    save_file({}, tmp_path / "nothing" / "changed.safetensors")
    for source, wanted in {
        str(folder): "pipeline", str(folder / "unet"): "unet", "training": "unet", "unet.safetensors": "unet",
        "unet.pt": "unet", "sd.ckpt": "single", "lora": "lora", "kohya.safetensors": "lora", "older.safetensors": "lora",
        "delta.safetensors": "delta", "nothing": "delta",
    }.items():  # fmt: skip
        assert layout(str(tmp_path / source)) == wanted, source
    assert layout("CompVis/stable-diffusion-v1-4") == "hub"


def test_what_is_none_is_refused_in_one_line_that_says_what_was_found(base, tmp_path):
    pipe, folder = base
    (tmp_path / "empty").mkdir()
    (tmp_path / "page.safetensors").write_bytes(b"\n<!DOCTYPE html><html>Sign in</html>")
    (tmp_path / "pointer.ckpt").write_bytes(
        b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 4\n"
    )
    whole = (folder / "unet" / UNET).read_bytes()
    (tmp_path / "short.safetensors").write_bytes(whole[:-100])
    (tmp_path / "header.safetensors").write_bytes(whole[:50])
    (tmp_path / "nothing.bin").write_bytes(b"")
    (tmp_path / "picture.pt").write_bytes(b"\x89PNG\r\n\x1a\n" + b"0" * 100)
    with zipfile.ZipFile(tmp_path / "models.zip", "w") as archive:
        archive.writestr("sd-v1-4.ckpt", b"1" * 1000)
    torch.save(pipe.unet.state_dict(), tmp_path / "whole.ckpt")
    (tmp_path / "cut.ckpt").write_bytes((tmp_path / "whole.ckpt").read_bytes()[:-1000])
    save_file({"encoder.conv_in.weight": torch.ones(1)}, tmp_path / "vae.safetensors")
    save_file({"layer.weight": torch.ones(1)}, tmp_path / "other.safetensors")
    torch.save([1, 2], tmp_path / "list.pt")
    torch.save({"epoch": 3}, tmp_path / "state.pt")
    shutil.copytree(folder, tmp_path / "headless", ignore=lambda *_: ["model_index.json"])
    (tmp_path / "several").mkdir()
    for name in "ab":
        shutil.copy(tmp_path / "other.safetensors", tmp_path / "several" / f"{name}.safetensors")
    for name, words in {
        "empty": "empty folder", "page.safetensors": "web page", "pointer.ckpt": "Git LFS", "short.safetensors": "cut short",
        "header.safetensors": "cut short", "nothing.bin": "is empty", "picture.pt": "PNG", "models.zip": r"sd-v1-4\.ckpt",
        "cut.ckpt": "cut short", "vae.safetensors": "autoencoder", "other.safetensors": r"layer\.weight", "list.pt": "list",
        "state.pt": "epoch", "headless": "model_index", "several": "2 weight files", "missing.ckpt": "no file or folder",
    }.items():  # fmt: skip
        with pytest.raises(SaBenchError, match=words) as error:
            layout(str(tmp_path / name))
        assert "\n" not in str(error.value)
        assert error.value.exit_code == 2
    with pytest.raises(SaBenchError, match="AutoencoderKL"):
        layout(str(folder / "vae"))
    with pytest.raises(SaBenchError, match="no file or folder"):
        layout("")


class Evil:
    def __reduce__(self):
        return (Path.touch, (Path("touched"),))


def test_a_pickle_that_would_run_code_is_named_and_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": {"a": torch.ones(1)}, "callbacks": Evil()}, "evil.ckpt")
    Path("evil.pkl.pt").write_bytes(pickle.dumps({"a": Evil()}, protocol=2))
    for name in ("evil.ckpt", "evil.pkl.pt"):
        with pytest.raises(SaBenchError, match=r"pathlib\S*\.Path\.touch|pathlib|getattr") as error:
            read_tensors(Path(name))
        assert "state_dict" in str(error.value)
        assert "\n" not in str(error.value)
    assert not Path("touched").exists()


@pytest.mark.parametrize("legacy", [False, True])
def test_tensors_of_a_training_checkpoint(tmp_path, legacy):
    state = {"unet.conv_in.bias": torch.nn.Parameter(torch.arange(3.0)), "version": "1"}
    torch.save(
        {"state_dict": state, "epoch": 3, "lr": [0.1]},
        tmp_path / "x.ckpt",
        _use_new_zipfile_serialization=not legacy,
    )
    found = read_tensors(tmp_path / "x.ckpt")
    assert found.keys() == {"unet.conv_in.bias"}
    assert not found["unet.conv_in.bias"].requires_grad
    assert layout(str(tmp_path / "x.ckpt")) == "delta"


def test_a_folder_gives_the_pipeline_that_diffusers_gives(base):
    from diffusers import StableDiffusionPipeline

    pipe, folder = base
    theirs = StableDiffusionPipeline.from_pretrained(
        folder, safety_checker=None, requires_safety_checker=False
    )
    ours = load_pipeline(str(folder))
    assert same(
        ours, theirs, atol=1e-5
    )  # theirs are views of the file, not aligned, and round differently
    assert same(ours, pipe)
    assert dict(ours.scheduler.config) == dict(theirs.scheduler.config)
    assert {p.dtype for p in ours.unet.parameters()} == {torch.float32}
    assert not any(
        t.is_meta
        for net in (ours.unet, ours.vae, ours.text_encoder)
        for t in (*net.parameters(), *net.buffers())
    )
    assert ours.safety_checker is None


def test_old_names_half_precision_and_shards_load(base, copied):
    text = copied / "text_encoder" / "model.safetensors"
    state = {f"text_model.{k}": v for k, v in load_file(text).items()}
    text.unlink()
    torch.save(
        state | {"text_model.embeddings.position_ids": torch.arange(77)[None]},
        copied / "text_encoder" / "pytorch_model.bin",
    )
    vae = load_file(copied / "vae" / UNET)
    for new, old in {
        "to_q": "query",
        "to_k": "key",
        "to_v": "value",
        "to_out.0": "proj_attn",
    }.items():
        vae = {k.replace(f"attentions.0.{new}.", f"attentions.0.{old}."): v for k, v in vae.items()}
    assert "encoder.mid_block.attentions.0.proj_attn.weight" in vae
    save_file(vae, copied / "vae" / UNET)
    net = load_file(copied / "unet" / UNET)
    (copied / "unet" / UNET).unlink()
    where = {k: f"part-{i % 2}.safetensors" for i, k in enumerate(net)}
    for part in set(where.values()):
        save_file({k: v for k, v in net.items() if where[k] == part}, copied / "unet" / part)
    index = copied / "unet" / f"{UNET}.index.json"
    index.write_text(json.dumps({"weight_map": where}))
    assert same(load_pipeline(str(copied)), base[0])
    (copied / "unet" / "part-1.safetensors").unlink()
    with pytest.raises(SaBenchError, match=r"part-1\.safetensors"):
        load_pipeline(str(copied))
    index.unlink()
    save_file(
        {k: v.half() for k, v in net.items()},
        copied / "unet" / "diffusion_pytorch_model.fp16.safetensors",
    )
    half = load_pipeline(str(copied)).unet.state_dict()
    assert torch.equal(half["conv_in.weight"], net["conv_in.weight"].half().float())


def test_no_tensor_goes_missing_unseen(copied):
    file = copied / "unet" / UNET
    whole = load_file(file)
    for change, words in (
        ({"conv_in.bias": None}, r"unet\.conv_in\.bias is missing"),
        ({"more": torch.ones(1)}, r"unet\.more is no tensor"),
        ({"conv_in.bias": torch.ones(7)}, r"unet\.conv_in\.bias is \(7,\)"),
        ({"conv_in.bias": torch.full((32,), torch.nan)}, "not finite"),
    ):
        save_file({k: v for k, v in {**whole, **change}.items() if v is not None}, file)
        with pytest.raises(SaBenchError, match=words):
            load_pipeline(str(copied))
    file.unlink()
    with pytest.raises(SaBenchError, match="no weights in unet/"):
        load_pipeline(str(copied))
    shutil.rmtree(copied / "unet")
    with pytest.raises(SaBenchError, match="has no unet/"):
        load_pipeline(str(copied))


def test_other_pipelines_and_parts_are_refused_by_name(base, copied, tmp_path):
    index = json.loads((copied / "model_index.json").read_text())
    for change, words in (
        ({"_class_name": "StableDiffusionXLPipeline"}, "StableDiffusionXLPipeline"),
        ({"_class_name": ["theirs", "Own"]}, "Own"),
        ({"unet": ["theirs", "MyUNet"]}, "MyUNet"),
    ):
        (copied / "model_index.json").write_text(json.dumps(index | change))
        with pytest.raises(SaBenchError, match=words):
            load_pipeline(str(copied))
    save_file(base[0].unet.state_dict(), tmp_path / "unet.safetensors")
    with pytest.raises(SaBenchError, match="a U-Net, not a complete model"):
        load_pipeline(str(tmp_path / "unet.safetensors"))


ODD = {
    "trained_betas": [0.1], "rescale_betas_zero_snr": True, "num_train_timesteps": 10, "_class_name": "Mine",
    "prediction_type": "sample",
}  # fmt: skip


@pytest.mark.parametrize("name", ODD)
def test_noise_that_is_not_understood_is_refused(copied, name):
    file = copied / "scheduler" / "scheduler_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {name: ODD[name]}))
    with pytest.raises(SaBenchError, match=name.replace("_class_name", "Mine")):
        load_pipeline(str(copied))


def test_the_noise_is_the_models_own(copied, rng):
    file = copied / "scheduler" / "scheduler_config.json"
    own = {
        "_class_name": "PNDMScheduler", "beta_start": 0.001, "beta_end": 0.01, "beta_schedule": "linear",
        "prediction_type": "v_prediction", "steps_offset": 1,
    }  # fmt: skip
    file.write_text(json.dumps(own))
    taken = TextToImage.of(lambda: load_pipeline(str(copied)), "mine")
    assert taken.velocity
    assert float(taken.alphas[0]) == pytest.approx(1 - 0.001)
    from sa_bench.contracts import Sampler

    made, _ = taken.scheduler(Sampler("ddim", 50))
    assert (made.config.beta_start, made.config.beta_schedule, made.config.prediction_type) == (
        0.001,
        "linear",
        "v_prediction",
    )
    assert made.config.clip_sample is False
    assert made.config.set_alpha_to_one is False  # PNDM's, where the file says nothing
    x, c, draw = (
        torch.randn(2, 4, 8, 8, generator=rng),
        taken.conditions(["a zero", ""]),
        taken.draw(2, rng),
    )
    from diffusers.schedulers.scheduling_ddpm import DDPMScheduler

    oracle = DDPMScheduler(1000, 0.001, 0.01, "linear", prediction_type="v_prediction")
    with torch.no_grad():
        out = taken.net(oracle.add_noise(x, draw.noise, draw.t), draw.t, taken.encoded(c)).sample
    wanted = ((out - oracle.get_velocity(x, draw.noise, draw.t)) ** 2).mean((1, 2, 3))
    torch.testing.assert_close(taken.loss(x, c, draw).detach(), wanted)


def test_a_hub_id_is_looked_up_locally(base, tmp_path, monkeypatch):
    from huggingface_hub import constants

    def look_up(*asked, **options):
        raise AssertionError(f"the network was asked: {asked}")

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    monkeypatch.setattr(socket.socket, "connect", look_up)
    with pytest.raises(MissingAsset, match="python -m sa_bench fetch someone/sd") as error:
        load_pipeline("someone/sd")
    assert error.value.exit_code == 3
    kept = tmp_path / "models--someone--sd"
    shutil.copytree(base[1], kept / "snapshots" / "abc")
    (kept / "refs").mkdir()
    (kept / "refs" / "main").write_text("abc")
    assert same(load_pipeline("someone/sd"), base[0])
    assert content("someone/sd") == content(str(base[1]))


@pytest.mark.parametrize("second", [False, True])
def test_a_single_file_is_the_folder_that_it_was_made_from(tmp_path, second):
    sizes = SMALL_2 if second else SMALL  # as many resolutions as the published ones have
    pipe = pipeline(second, "v_prediction" if second else "epsilon", sizes=sizes)
    pipe.tokenizer.save_pretrained(tmp_path / "tokenizer")
    whole = original(pipe, second)
    save_file(whole, tmp_path / "sd.safetensors")
    torch.save({"state_dict": whole, "epoch": 1}, tmp_path / "sd.ckpt")
    if second:
        with pytest.raises(SaBenchError, match=r"sd\.yaml"):
            load_pipeline(str(tmp_path / "sd.ckpt"))
        (tmp_path / "sd.yaml").write_text("model: {params: {parameterization: v, image_size: 64}}")
    for name in ("sd.safetensors", "sd.ckpt"):
        found = load_pipeline(str(tmp_path / name))
        found.tokenizer.pad_token = pipe.tokenizer.pad_token
        assert same(found, pipe)
        assert found.scheduler.config.prediction_type == ("v_prediction" if second else "epsilon")
        assert found.unet.config.sample_size == (96 if second else 64)
        assert found.vae.config.scaling_factor == 0.18215
    shutil.rmtree(tmp_path / "tokenizer")
    with pytest.raises(MissingAsset, match="tokenizer"):
        load_pipeline(str(tmp_path / "sd.ckpt"))


@pytest.mark.parametrize("second", [False, True])
def test_a_single_file_of_the_published_size_is_understood(tmp_path, second):
    from types import SimpleNamespace

    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    with torch.device("meta"):
        unet, vae, text = networks(FULL_2 if second else FULL, second)
        held = original(SimpleNamespace(unet=unet, vae=vae, text_encoder=text), second)
        if second:  # the last layer, which Stable Diffusion 2.x does not use
            held |= {k: torch.ones(1) for k in single_file.ldm.SD_2_TEXT_ENCODER_KEYS_TO_IGNORE}
        found = single_file.parts(held, tmp_path)
        (tmp_path / "sd.yaml").write_text("model: {params: {parameterization: v}}")
        said = single_file.configurations(found, tmp_path / "sd.ckpt")
        built = (
            UNet2DConditionModel.from_config(said["unet"]), AutoencoderKL.from_config(said["vae"]),
            CLIPTextModel(CLIPTextConfig(**said["text_encoder"])),
        )  # fmt: skip
    for net, made in zip((unet, vae, text), built, strict=True):
        assert {k: v.shape for k, v in net.state_dict().items()} == {
            k: v.shape for k, v in made.state_dict().items()
        }
    assert built[0].config.attention_head_dim == ([5, 10, 20, 20] if second else 8)
    assert built[0].config.sample_size == (96 if second else 64)
    assert built[1].config.sample_size == (768 if second else 512)
    assert second or sum(p.numel() for p in built[0].parameters()) == 859_520_964


def test_single_files_of_other_models_are_refused_by_name(base, tmp_path):
    whole = original(base[0])
    first = "model.diffusion_model.input_blocks.0.0.weight"
    for change, words in (
        ({"conditioner.embedders.0.x": torch.ones(1)}, "XL"),
        ({first: torch.ones(32, 9, 3, 3)}, "9 input channels"),
        (
            {"model.diffusion_model.strange.weight": torch.ones(1)},
            r"strange\.weight, which is no part",
        ),
        ({"first_stage_model.strange.weight": torch.ones(1)}, r"strange\.weight, which is no part"),
        ({"lora.weight": torch.ones(1)}, r"lora\.weight"),
        ({"alphas_cumprod": torch.linspace(1, 0, 1000)}, "noise schedule"),
        ({"model.diffusion_model.input_blocks.odd.0.op.weight": torch.ones(1)}, "not a complete"),
        ({"first_stage_model.post_quant_conv.weight": None}, "not a complete"),
        (
            {first.replace("input_blocks.0.0.weight", "out.2.bias"): None},
            r"conv_out\.bias is missing",
        ),
    ):
        save_file(
            {k: v for k, v in {**whole, **change}.items() if v is not None},
            tmp_path / "x.safetensors",
        )
        base[0].tokenizer.save_pretrained(tmp_path / "tokenizer")
        with pytest.raises(SaBenchError, match=words):
            load_pipeline(str(tmp_path / "x.safetensors"))


def test_content_is_what_a_model_is_wherever_it_lies(base, moved, copied, tmp_path):
    known = content(str(base[1]))
    assert len(known) == 64
    assert content(str(copied)) == known
    (copied / "README.md").write_text("about it")
    for part in ("unet/config.json", "tokenizer/tokenizer_config.json"):
        said = json.loads((copied / part).read_text())
        (copied / part).write_text(
            json.dumps(said | {"_name_or_path": "/somewhere", "name_or_path": "/else"})
        )
    assert content(str(copied)) == known
    assert content(str(moved[1])) != known
    assert content(str(base[1] / "unet")) != content(str(moved[1] / "unet"))
    said = json.loads((copied / "scheduler" / "scheduler_config.json").read_text())
    (copied / "scheduler" / "scheduler_config.json").write_text(
        json.dumps(said | {"prediction_type": "v_prediction"})
    )
    assert content(str(copied)) != known
    for name in ("one", "two"):
        save_file({"unet.conv_in.bias": torch.ones(32)}, tmp_path / f"{name}.safetensors")
    assert content(str(tmp_path / "one.safetensors")) == content(str(tmp_path / "two.safetensors"))


def test_every_layout_of_a_whole_model_is_put_onto_the_base(base, moved, model, tmp_path):
    theirs, folder = moved
    save_file(theirs.unet.state_dict(), tmp_path / "unet.safetensors")
    whole = original(theirs)
    torch.save({"state_dict": whole}, tmp_path / "sd.ckpt")
    bare = {
        k.removeprefix("model.diffusion_model."): v
        for k, v in whole.items()
        if k.startswith("model.diff")
    }
    save_file(bare, tmp_path / "bare.safetensors")
    wanted = {
        "unet": len(theirs.unet.state_dict()),
        "all": sum(len(net.state_dict()) for net in (theirs.unet, theirs.vae, theirs.text_encoder)),
    }
    for source, expected in (
        (folder, "all"), (folder / "unet", "unet"), (tmp_path / "unet.safetensors", "unet"),
        (tmp_path / "sd.ckpt", "all"), (tmp_path / "bare.safetensors", "unet"),
    ):  # fmt: skip
        put, changed = apply(model.clone(), str(source))
        # what was initialised to constants is the same in both
        assert wanted[expected] / 2 < changed < wanted[expected], source
        own = put.state()
        assert all(torch.equal(own[f"unet.{k}"], v) for k, v in theirs.unet.state_dict().items())
        text = all(
            torch.equal(own[f"text_encoder.{k}"], v)
            for k, v in theirs.text_encoder.state_dict().items()
        )
        assert text == (expected == "all")
        if source in (folder, tmp_path / "unet.safetensors"):
            put.save(tmp_path)
            assert len(load_file(tmp_path / "model.safetensors")) == changed
            again = model.clone().load(tmp_path).state()
            assert all(torch.equal(own[k], v) for k, v in again.items())
    assert all(
        torch.equal(v, base[0].vae.state_dict()[k]) for k, v in model.vae.state_dict().items()
    ), "shared"


def test_a_checkpoint_that_is_the_base_changes_nothing(base, model, tmp_path):
    assert apply(model, str(base[1]))[1] == 0
    half = {k: v.to(torch.bfloat16) for k, v in base[0].unet.state_dict().items()}
    save_file(half, tmp_path / "half.safetensors")
    assert apply(model, str(tmp_path / "half.safetensors"))[1] == 0
    assert torch.equal(model.net.conv_in.weight, base[0].unet.conv_in.weight), "rounded"
    half["conv_in.bias"] = half["conv_in.bias"] + 1
    save_file(half, tmp_path / "half.safetensors")
    assert apply(model, str(tmp_path / "half.safetensors"))[1] == 1
    assert model.net.conv_in.bias.dtype == torch.float32
    assert torch.equal(model.net.conv_in.bias, half["conv_in.bias"].float())


@pytest.mark.parametrize("scope", ["xattn", "kv", "esd-u", "noxattn"])
def test_a_file_of_one_scope_is_put_onto_the_base(model, tmp_path, scope):
    part = {k: p.detach() + 1 for k, p in scopes.within(model.net, scope).items()}
    save_file(part, tmp_path / "esd.safetensors")
    assert apply(model, str(tmp_path / "esd.safetensors"))[1] == len(part)
    part.popitem()
    save_file(part, tmp_path / "esd.safetensors")
    with pytest.raises(SaBenchError, match="missing"):
        apply(model, str(tmp_path / "esd.safetensors"))


def test_averaged_weights_of_a_single_file_are_taken(base, moved, model, tmp_path):
    raw, averages = original(base[0]), original(moved[0])
    start = "model.diffusion_model."
    flat = {
        "model_ema." + k.removeprefix("model.").replace(".", ""): v
        for k, v in averages.items()
        if k.startswith(start)
    }
    save_file(raw | flat | {"model_ema.decay": torch.ones(1)}, tmp_path / "sd.safetensors")
    put, _ = apply(model, str(tmp_path / "sd.safetensors"))
    assert torch.equal(put.net.conv_in.weight, moved[0].unet.conv_in.weight)
    base[0].tokenizer.save_pretrained(tmp_path / "tokenizer")
    assert torch.equal(
        load_pipeline(str(tmp_path / "sd.safetensors")).unet.conv_in.weight,
        base[0].unet.conv_in.weight,
    )
    flat.popitem()
    save_file(raw | flat, tmp_path / "sd.safetensors")
    with pytest.raises(SaBenchError, match="averaged"):
        apply(model, str(tmp_path / "sd.safetensors"))


def test_what_does_not_fit_leaves_the_model_as_it_was(base, model, copied, tmp_path):
    whole, before = base[0].unet.state_dict(), {k: v.clone() for k, v in model.state().items()}
    moved = {k: v + 1 for k, v in whole.items()}
    for change, words in (
        ({"conv_in.bias": None}, r"unet\.conv_in\.bias is missing"),
        ({"conv_in.bias": None, "conv_out.bias": None}, "and 1 more are missing"),
        ({"down_blocks.9.x": torch.ones(1)}, "no tensor of this model"),
        ({"conv_in.weight": torch.ones(320, 4, 3, 3)}, "another base model"),
        ({"conv_out.bias": torch.full((4,), torch.inf)}, r"unet\.conv_out\.bias is not finite"),
    ):
        save_file(
            {k: v for k, v in {**moved, **change}.items() if v is not None},
            tmp_path / "x.safetensors",
        )
        with pytest.raises(SaBenchError, match=words):
            apply(model, str(tmp_path / "x.safetensors"))
    file = copied / "scheduler" / "scheduler_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"prediction_type": "v_prediction"}))
    with pytest.raises(SaBenchError, match="prediction_type v_prediction"):
        apply(model, str(copied))
    assert all(torch.equal(v, before[k]) for k, v in model.state().items())


def lora(rng, out, inner, rank=2):
    return torch.randn(rank, inner, generator=rng), torch.randn(out, rank, generator=rng)


def test_a_lora_is_merged_whatever_its_names(model, tmp_path, rng):
    weight = model.state()[f"unet.{ATTENTION}.weight"].clone()
    down, up = lora(rng, *weight.shape)
    adapted = f"base_model.model.{ATTENTION}"
    inner = ATTENTION.removesuffix(".to_k")
    kohya = f"lora_unet_{ATTENTION.replace('.', '_')}"
    peft = '{"unet.r": 2, "unet.lora_alpha": 6}'
    for number, (names, metadata, scale) in enumerate([
        ((f"unet.{ATTENTION}.lora_A.weight", f"unet.{ATTENTION}.lora_B.weight"), {}, 1),
        ((f"unet.{ATTENTION}.lora_A.weight", f"unet.{ATTENTION}.lora_B.weight"), {"lora_adapter_metadata": peft}, 3),
        ((f"{adapted}.lora_A.default.weight", f"{adapted}.lora_B.default.weight"), {}, 1),
        ((f"unet.{ATTENTION}.lora.down.weight", f"unet.{ATTENTION}.lora.up.weight"), {}, 1),
        ((f"unet.{inner}.processor.to_k_lora.down.weight", f"unet.{inner}.processor.to_k_lora.up.weight"), {}, 1),
        ((f"{kohya}.lora_down.weight", f"{kohya}.lora_up.weight"), {"alpha": "1"}, 0.5),
    ]):  # fmt: skip
        given = dict(zip(names, (down, up), strict=True))
        if "alpha" in metadata:
            given[f"{kohya}.alpha"] = torch.tensor(float(metadata.pop("alpha")))
        path = write_lora(tmp_path / f"{number}.safetensors", given, **metadata)
        put, changed = apply(model.clone(), str(path))
        assert changed == 1, names
        own = put.state()
        torch.testing.assert_close(
            own[f"unet.{ATTENTION}.weight"], weight + scale * torch.einsum("ri,or->oi", down, up)
        )
    assert torch.equal(model.state()[f"unet.{ATTENTION}.weight"], weight)


def test_a_lora_of_convolutions_and_of_the_text_encoder(model, tmp_path, rng):
    conv, linear = "mid_block.resnets.0.conv1", "encoder.layers.1.mlp.fc2"
    state = {k: v.clone() for k, v in model.state().items()}
    down, up = torch.randn(2, 64, 3, 3, generator=rng), torch.randn(64, 2, 1, 1, generator=rng)
    d, u = lora(rng, *state[f"text_encoder.{linear}.weight"].shape)
    names = {
        "lora_unet_" + conv.replace(".", "_"): (down, up),
        "lora_te_text_model_" + linear.replace(".", "_"): (d, u),
    }
    given = {
        f"{k}.lora_{side}.weight": v
        for k, pair in names.items()
        for side, v in zip(("down", "up"), pair, strict=True)
    }
    put, changed = apply(model, str(write_lora(tmp_path / "kohya.safetensors", given)))
    assert changed == 2
    x = torch.randn(1, 64, 8, 8, generator=rng)
    layer, old = put.net.get_submodule(conv), state[f"unet.{conv}.weight"]
    with torch.no_grad():
        plain = torch.nn.functional.conv2d(x, old, layer.bias, padding=1)
        more = torch.nn.functional.conv2d(torch.nn.functional.conv2d(x, down, padding=1), up)
        torch.testing.assert_close(layer(x), plain + more, atol=1e-3, rtol=1e-4)
    torch.testing.assert_close(
        put.state()[f"text_encoder.{linear}.weight"], state[f"text_encoder.{linear}.weight"] + u @ d
    )
    older = {
        f"text_encoder.text_model.{linear}.lora_linear_layer.{s}.weight": v
        for s, v in (("down", d), ("up", u))
    }
    assert apply(put, str(write_lora(tmp_path / "older.safetensors", older)))[1] == 1


def test_adapters_that_cannot_be_merged_are_refused(model, tmp_path, rng):
    down, up = lora(rng, 64, 64)
    key = f"unet.{ATTENTION}"
    for given, metadata, words in (
        ({f"{key}.lora_A.weight": down}, {}, "no up half"),
        ({f"{key}.lora_A.weight": down, f"{key}.lora_B.weight": up[:, :1]}, {}, "do not make"),
        ({f"{key}.lora_A.weight": down, f"{key}.lora_magnitude_vector": up}, {}, "to a plain LoRA"),
        ({"lora_unet_x.hada_w1_a": down}, {}, "LoHa"),
        ({"lora_unet_nowhere.lora_down.weight": down}, {}, "no layer"),
        ({f"{key}.lora_A.weight": down * torch.nan, f"{key}.lora_B.weight": up}, {}, "not finite"),
        (
            {f"{key}.lora_A.weight": down, f"{ATTENTION}.lora.down.weight": down + 1},
            {},
            "more than one",
        ),
        (
            {f"{key}.lora_A.weight": down, f"{key}.lora_B.weight": up},
            {"lora_adapter_metadata": '{"unet.use_dora": true}'},
            "use_dora",
        ),
    ):
        with pytest.raises(SaBenchError, match=words):
            apply(model, str(write_lora(tmp_path / "x.safetensors", given, **metadata)))


def test_peft_says_alpha_beside_the_file(model, tmp_path, rng):
    weight = model.state()[f"unet.{ATTENTION}.weight"].clone()
    down, up = lora(rng, *weight.shape, rank=4)
    key = f"base_model.model.unet.{ATTENTION}"
    write_lora(
        tmp_path / "adapter_model.safetensors",
        {f"{key}.lora_A.weight": down, f"{key}.lora_B.weight": up},
    )
    (tmp_path / "adapter_config.json").write_text(
        '{"r": 4, "lora_alpha": 8, "use_rslora": true, "alpha_pattern": {}}'
    )
    before = content(str(tmp_path))
    put, _ = apply(model, str(tmp_path))
    torch.testing.assert_close(
        put.state()[f"unet.{ATTENTION}.weight"], weight + 8 / 4**0.5 * up @ down
    )
    (tmp_path / "adapter_config.json").write_text('{"r": 4, "lora_alpha": 4}')
    assert content(str(tmp_path)) != before


def test_the_method_checkpoint_takes_a_folder(moved, model, tmp_path):
    from sa_bench.core import registry, store

    method = registry.get_method("checkpoint")(path=str(moved[1]))
    put = method.forget(model, None, None)
    assert torch.equal(put.net.conv_in.weight, moved[0].unet.conv_in.weight)
    assert store.content_hash(moved[1]) == store.content_hash(
        shutil.copytree(moved[1], tmp_path / "elsewhere")
    )
    assert store.content_hash(moved[1]) != store.content_hash(moved[1] / "unet")


def test_smoke_is_a_small_pipeline_that_depends_on_its_seed_alone(tmp_path):
    first = micro_pipeline.smoke(tmp_path / "a")
    assert sum(file.stat().st_size for file in first.rglob("*") if file.is_file()) < 2**23
    torch.manual_seed(7)
    state = torch.random.get_rng_state()
    micro_pipeline.smoke(tmp_path / "b")
    assert torch.equal(torch.random.get_rng_state(), state)
    assert content(str(first)) == content(str(tmp_path / "b"))
    assert content(str(micro_pipeline.smoke(tmp_path / "c", 1))) != content(str(first))
    pipe = load_pipeline(str(first))
    assert (
        5e5
        < sum(p.numel() for n in (pipe.unet, pipe.vae, pipe.text_encoder) for p in n.parameters())
        < 2e6
    )
    made = TextToImage.of(lambda: load_pipeline(str(first)), "smoke", ("zero", "one"))
    assert made.shape == (4, 8, 8)
    from sa_bench.contracts import Request, Sampler

    images = made.to_images(
        made.sample([Request("brad pitt", 0)], Sampler("ddim", 2, guidance=7.5))
    )
    assert images.shape == (1, 64, 64, 3)
    assert images.std() > 1


def test_prompts_that_lose_words_are_counted(base, copied):
    made = TextToImage.of(lambda: load_pipeline(str(base[1])), "mine")
    fits, long = " ".join(["a"] * 75), " ".join(["a"] * 76)
    assert made.truncated_prompts([fits, ""]) == []
    assert made.truncated_prompts([fits, long, f"{long} brad pitt"]) == [1, 2]
    assert made.truncated_prompts([]) == []
    assert int(made.conditions([fits])[0, -2]) != made.tokenizer.eos_token_id
    (
        copied / "tokenizer" / "tokenizer_config.json"
    ).unlink()  # without which a tokenizer knows no limit
    unlimited = TextToImage.of(lambda: load_pipeline(str(copied)), "mine")
    assert unlimited.truncated_prompts([fits, long]) == [1]
    assert unlimited.conditions([long]).shape == (1, 77)


def test_the_files_format_is_read_before_its_tensors(tmp_path):
    save_file({"a": torch.ones(3)}, tmp_path / "x.safetensors", metadata={"format": "pt"})
    assert list(layouts.header(tmp_path / "x.safetensors")) == ["__metadata__", "a"]
    assert layouts.described(tmp_path / "x.safetensors") == {"format": "pt"}
    (tmp_path / "x.safetensors").write_bytes((tmp_path / "x.safetensors").read_bytes() + b"0")
    with pytest.raises(SaBenchError, match="damaged"):
        layouts.header(tmp_path / "x.safetensors")


PREFIXES = (
    "_orig_mod.",
    "module.",
    "model.",
    "module._orig_mod.",
    "model._orig_mod.",
    "unet._orig_mod.",
)


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
def test_prefixes_of_compiled_and_parallel_models_are_taken_off(
    moved, model, tmp_path, prefix, suffix
):
    theirs = moved[0].unet.state_dict()
    held, path = {f"{prefix}{k}": v for k, v in theirs.items()}, tmp_path / f"x.{suffix}"
    save_file(held, path) if suffix == "safetensors" else torch.save({"state_dict": held}, path)
    put, _ = apply(model, str(path))
    own = put.state()
    assert all(torch.equal(own[f"unet.{k}"], v) for k, v in theirs.items())


def test_prefixes_within_a_single_file_and_a_folder_are_taken_off(
    base, moved, model, copied, tmp_path
):
    whole = original(moved[0])
    held = {
        k.replace("model.diffusion_model.", "model._orig_mod.diffusion_model."): v
        for k, v in whole.items()
    }
    torch.save({"state_dict": held}, tmp_path / "sd.ckpt")
    wrapped = {f"model.{k}": v for k, v in whole.items() if k.startswith("model.diffusion_model.")}
    save_file(wrapped, tmp_path / "lightning.safetensors")
    for name in ("sd.ckpt", "lightning.safetensors"):
        assert layout(str(tmp_path / name)) == "single"
        put, _ = apply(model.clone(), str(tmp_path / name))
        assert torch.equal(put.net.conv_in.weight, moved[0].unet.conv_in.weight), name
    file = copied / "unet" / UNET
    save_file({f"_orig_mod.{k}": v for k, v in load_file(file).items()}, file)
    assert same(load_pipeline(str(copied)), base[0])


def test_a_prefix_that_hides_two_tensors_of_one_name_is_refused(moved, tmp_path):
    state = moved[0].unet.state_dict()
    save_file(
        {**state, "_orig_mod.conv_in.bias": state["conv_in.bias"] + 1}, tmp_path / "x.safetensors"
    )
    with pytest.raises(SaBenchError, match=r"both .*conv_in\.bias and .*conv_in\.bias, two names"):
        layout(str(tmp_path / "x.safetensors"))


def test_a_prefix_on_what_does_not_match_is_refused_by_name(moved, model, tmp_path):
    held = {f"module.{k}": v for k, v in moved[0].unet.state_dict().items()}
    save_file(held | {"module.ema.decay": torch.ones(1)}, tmp_path / "x.safetensors")
    with pytest.raises(SaBenchError, match=r"unet\.ema\.decay is no tensor of this model"):
        apply(model, str(tmp_path / "x.safetensors"))


@pytest.mark.parametrize("kind", [torch.int8, torch.uint8, torch.int32, torch.int64])
@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
def test_whole_numbers_are_no_weights(moved, model, tmp_path, kind, suffix):
    held, path = moved[0].unet.state_dict(), tmp_path / f"x.{suffix}"
    held["conv_in.weight"] = (held["conv_in.weight"] * 100).to(kind)
    save_file(held, path) if suffix == "safetensors" else torch.save(held, path)
    with pytest.raises(
        SaBenchError, match=r"conv_in\.weight.*quantis|quantised weights.*conv_in\.weight"
    ) as error:
        apply(model, str(path))
    assert "\n" not in str(error.value)
    if kind in (torch.int8, torch.uint8):  # nothing else has such: known before any work
        with pytest.raises(SaBenchError, match="quantised"):
            layout(str(path))


def test_whole_numbers_in_a_lora_are_refused(model, tmp_path, rng):
    down, up = lora(rng, *model.state()[f"unet.{ATTENTION}.weight"].shape)
    held = {
        f"unet.{ATTENTION}.lora_A.weight": down.to(torch.int32),
        f"unet.{ATTENTION}.lora_B.weight": up,
    }
    with pytest.raises(SaBenchError, match="whole numbers"):
        apply(model, str(write_lora(tmp_path / "x.safetensors", held)))


def test_a_text_encoder_and_an_autoencoder_are_called_what_they_are(base, tmp_path):
    text, vae = base[0].text_encoder.state_dict(), base[0].vae.state_dict()
    whole = original(base[0])
    for name, held, what in (
        ("new", {k.removeprefix("text_model."): v for k, v in text.items()}, "text encoder"),
        ("old", {f"text_model.{k.removeprefix('text_model.')}": v for k, v in text.items()}, "text encoder"),
        ("ldm", {k: v for k, v in whole.items() if k.startswith("cond_stage_model.")}, "text encoder"),
        ("vae", vae, "an autoencoder"),
        ("first", {k: v for k, v in whole.items() if k.startswith("first_stage_model.")}, "an autoencoder"),
    ):  # fmt: skip
        save_file(
            {k: v.contiguous().clone() for k, v in held.items()}, tmp_path / f"{name}.safetensors"
        )
        with pytest.raises(SaBenchError, match=rf"holds {len(held)} tensors of .*{what}"):
            layout(str(tmp_path / f"{name}.safetensors"))
    with pytest.raises(SaBenchError, match="of a text encoder"):
        layout(str(base[1] / "text_encoder"))


def test_an_spm_is_refused_and_its_twin_without_a_header_is_flagged(model, tmp_path, rng):
    """As SPM's train_spm.py writes it: kohya's names, and prompts, rank and alpha in the header."""
    weight = model.state()[f"unet.{ATTENTION}.weight"].clone()
    down, up = lora(rng, *weight.shape, rank=1)
    start = f"lora_unet_{ATTENTION.replace('.', '_')}"
    held = {
        f"{start}.lora_down.weight": down,
        f"{start}.lora_up.weight": up,
        f"{start}.alpha": torch.tensor(1.0),
    }
    said = {"prompts": "snoopy", "rank": "1", "alpha": "1.0"}
    spm = str(write_lora(tmp_path / "spm.safetensors", held, **said))
    for call in (lambda: apply(model, spm), lambda: unfit(spm)):
        with pytest.raises(
            SaBenchError, match=r"is an SPM of 'snoopy'.*gate.*own sampler"
        ) as error:
            call()
        assert "\n" not in str(error.value)
    assert torch.equal(model.state()[f"unet.{ATTENTION}.weight"], weight)
    plain = str(write_lora(tmp_path / "lora.safetensors", held))
    put, _ = apply(model, plain)
    torch.testing.assert_close(put.state()[f"unet.{ATTENTION}.weight"], weight + up @ down)
    assert remarks(plain)[0].startswith("taken as a LoRA that is always on")
    renamed = shutil.copy(spm, tmp_path / "spm.bin")  # the format counts, not the name
    with pytest.raises(SaBenchError, match="is an SPM"):
        unfit(str(renamed))
    kohya = str(write_lora(tmp_path / "kohya.safetensors", held, ss_network_dim="1", **said))
    assert unfit(kohya) == ""
    down, up = lora(rng, *weight.shape, rank=2)
    held = {f"{start}.lora_down.weight": down, f"{start}.lora_up.weight": up}
    assert remarks(str(write_lora(tmp_path / "two.safetensors", held))) == []


def test_a_loras_strength_multiplies_it_and_is_a_loras_alone(base, model, tmp_path, rng):
    from sa_bench.contracts import key_values
    from sa_bench.core.registry import get_method

    weight = model.state()[f"unet.{ATTENTION}.weight"].clone()
    down, up = lora(rng, *weight.shape)
    held = {f"unet.{ATTENTION}.lora_A.weight": down, f"unet.{ATTENTION}.lora_B.weight": up}
    path = str(write_lora(tmp_path / "x.safetensors", held))
    method = get_method("checkpoint")
    for strength in (1.0, 0.5, -1.0):
        put = method(path=path, strength=strength).forget(model.clone(), None, None)
        torch.testing.assert_close(
            put.state()[f"unet.{ATTENTION}.weight"], weight + strength * up @ down
        )
    assert remarks(path, 0.5) == ["LoRA at strength 0.5"]
    assert "applies to a LoRA only" in unfit(str(base[1] / "unet"), 0.5)
    with pytest.raises(SaBenchError, match="applies to a LoRA only"):
        apply(model, str(base[1] / "unet"), 0.5)
    assert key_values(method(path=path)) == {"path": path}  # keys of before stay
    assert key_values(method(path=path, strength=0.5)) == {"path": path, "strength": 0.5}


def write_twice(place, base, moved, folder):
    """Write a place that holds the base's U-Net as trained last and the moved one as its average."""
    raw, average = base[0].unet.state_dict(), moved[0].unet.state_dict()
    if place in ("trainer", "whole"):
        copy = folder / "checkpoint-500"
        if place == "trainer":
            shutil.copytree(base[1] / "unet", copy / "unet")
        else:
            shutil.copytree(base[1], copy)
        shutil.copytree(moved[1] / "unet", copy / "unet_ema")
        return copy
    if place in ("ema_state_dict", "model_ema"):
        torch.save({"state_dict": raw, place: average, "step": 3}, folder / f"{place}.pt")
        return folder / f"{place}.pt"
    flat = {
        "model_ema." + k.removeprefix("model.").replace(".", ""): v
        for k, v in original(moved[0]).items() if k.startswith("model.diffusion_model.")
    }  # fmt: skip
    save_file(original(base[0]) | flat, folder / "sd.safetensors")
    return folder / "sd.safetensors"


@pytest.mark.parametrize("place", ["trainer", "whole", "sd", "ema_state_dict", "model_ema"])
def test_of_weights_kept_twice_those_asked_for_are_taken_and_told(
    base, moved, model, tmp_path, place
):
    source = str(write_twice(place, base, moved, tmp_path))
    for weights in ("auto", "raw", "ema"):
        put, _ = apply(model.clone(), source, weights=weights)
        averaged = weights == "ema" or (weights, place) == ("auto", "sd")
        wanted = (moved if averaged else base)[0].unet.state_dict()
        own = put.state()
        assert all(torch.equal(own[f"unet.{k}"], v) for k, v in wanted.items()), weights
        (line,) = remarks(source, weights=weights)
        assert line.startswith(f"weights: {'averaged' if averaged else 'raw'}; ")


def test_averages_that_are_not_there_are_no_averages(base, moved, model, tmp_path):
    for source in (base[1], base[1] / "unet"):
        with pytest.raises(SaBenchError, match="holds no averaged weights"):
            apply(model, str(source), weights="ema")
        assert remarks(str(source)) == []
    trainer = write_twice("trainer", base, moved, tmp_path)
    shutil.rmtree(trainer / "unet")
    assert remarks(str(trainer))[0].startswith("weights: averaged, the only ones")
    with pytest.raises(SaBenchError, match="no weight file"):
        apply(model, str(trainer), weights="raw")


def test_a_torch_file_is_read_once_for_its_names_and_once_for_its_tensors(
    moved, model, tmp_path, monkeypatch
):
    torch.save(moved[0].unet.state_dict(), tmp_path / "unet.pt")
    reads, load = [], layouts._load_torch_file
    monkeypatch.setattr(
        layouts, "_load_torch_file", lambda *a, **options: reads.append(a) or load(*a, **options)
    )
    apply(model, str(tmp_path / "unet.pt"))
    assert len(reads) == 2


def test_a_shared_parameter_belongs_to_a_scope_once():
    net = torch.nn.ModuleDict({"first": torch.nn.Linear(2, 2), "second": torch.nn.Linear(2, 2)})
    net["second"].weight = net["first"].weight
    names = ["first.weight", "first.bias", "second.bias"]
    assert list(scopes.within(net, "esd-u")) == list(scopes.within(net, "full")) == names
