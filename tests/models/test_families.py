"""A model family is one module: what the suite knows of it stands there, and nowhere else."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from sa_bench.contracts import Generator, Prompted
from sa_bench.core import registry
from sa_bench.core.errors import SaBenchError
from sa_bench.engine.cells import resolve_task
from sa_bench.models import base_models, family
from sa_bench.models.family import Family, get_family, list_families

ROOT = Path(__file__).parents[2]
ASKS = re.compile(
    r"family (==|!=) |isinstance\(\w+, \(?(Diffusion|Prompted)|\bprompts is (not )?None"
    r"|(if|and|not|else) (\w+\.)*task\.model\b|SMOKE_MODEL:?$"
)
"""A line that asks which family a task or a model is of."""


def lines_that_ask(*rooms):
    return [
        f"{path.relative_to(ROOT)}: {line.strip()}"
        for room in rooms
        for path in sorted((ROOT / "sa_bench" / room).rglob("*.py"))
        for line in path.read_text().splitlines()
        if ASKS.search(line)
        and not re.search(r"(images|samples)\.prompts|^\s*if prompts is None or", line)
    ]


def test_every_family_is_declared_in_one_module_of_its_name():
    assert list_families() == ("ddpm", "text_to_image", "vae")
    for name in list_families():
        assert get_family(name).name == name == get_family(name).load_generator().family
    assert {registry.get_task(e.name).family for e in registry.list_entries("task")} <= set(
        list_families()
    )


def test_an_unknown_family_is_named():
    with pytest.raises(SaBenchError, match=r"Unknown model family 'vea'. Did you mean vae"):
        get_family("vea")


def test_a_model_meets_the_contracts_that_its_family_declares():
    for name, recipe in (("vae", "quick"), ("ddpm", "tiny"), ("text_to_image", "tiny")):
        model = base_models.new_model(name, "mnist16", recipe)
        assert all(isinstance(model, contract) for contract in get_family(name).contracts[1:])
        assert isinstance(model, Prompted) == model.black_is_broken == (name == "text_to_image")
        assert get_family(name).has_timesteps == hasattr(model, "timesteps")


def test_a_family_declares_what_its_models_can_do():
    """What metrics may require; and the recipes are those of its models."""
    for name in list_families():
        declared, generator = get_family(name), get_family(name).load_generator()
        for ability in ("log_likelihood", "variational_bound", "add_noise"):
            assert declared.can(ability) == hasattr(generator, ability), (name, ability)
        assert declared.recipes == generator.recipes
    assert Family.can(_OfToy(), "loss")
    assert not Family.can(_OfToy(), "log_likelihood_of_nothing")


def test_known_counts_of_parameters_are_those_of_the_networks():
    import torch

    from sa_bench.data import datasets
    from sa_bench.models import scopes
    from sa_bench.models.ddpm import NETWORKS, unet
    from sa_bench.models.recipes import PARAMETERS

    for (name, dataset, recipe), count in PARAMETERS.items():
        if name == "ddpm":
            height, width, channels = datasets.SHAPES[dataset]
            with torch.device("meta"):
                net = unet(NETWORKS[recipe], (height, width), channels, 10)
        else:
            net = base_models.new_model(name, dataset, recipe).net
        assert sum(p.numel() for p in net.parameters()) == count, (name, recipe)
    task = resolve_task("cifar10_airplane", "quick", {})
    built = base_models.new_model("ddpm", "cifar10", "tiny").net
    assert base_models.count_parameters(task) == sum(p.numel() for p in built.parameters())
    assert scopes.memory(scopes.SD_1)["weights"] == 4 * scopes.SD_1_PARAMETERS


class _OfToy(Family):
    """A family that declares no abilities: its class is asked."""

    def _import_generator(self):
        from sa_bench.models.toy import Gaussian

        return Gaussian


def test_tasks_are_validated_without_torch():
    code = (
        "import sys; from sa_bench.models.family import get_family, list_families; "
        "facts = [(f.schedulers, f.most_steps, f.precisions) for f in map(get_family, list_families())]; "
        "assert not {'torch', 'diffusers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


FOURTH = '''
"""Declare the family `laplace`."""
from sa_bench.contracts import Recipe
from sa_bench.models.family import Family
from sa_bench.models.toy import Gaussian


class Laplace(Gaussian):
    family = "laplace"
    recipes = {"short": Recipe(steps=3, lr=0.1, batch=4)}


class LaplaceFamily(Family):
    name, title = "laplace", "Laplace"

    def _import_generator(self):
        return Laplace

    def new_model(self, dataset, recipe, seed, words):
        return Laplace(len(words), seed)


FAMILY = LaplaceFamily()
'''


def test_a_fourth_family_is_one_module(tmp_path, monkeypatch):
    """Found by its file; what it does not say is that of a class-conditional model."""
    from dataclasses import replace

    from sa_bench.contracts import Sampler
    from sa_bench.engine import validation
    from sa_bench.models import families

    (tmp_path / "laplace.py").write_text(FOURTH)
    monkeypatch.setattr(family, "FOLDER", tmp_path)
    monkeypatch.setattr(families, "__path__", [str(tmp_path), *families.__path__])
    model = base_models.new_model("laplace", "mnist", "short", words=("a", "b"))
    assert model.net.num_embeddings == 2
    with pytest.raises(SaBenchError, match="laplace base recipe 'long'"):
        base_models.new_model("laplace", "mnist", "long")
    assert get_family("laplace").contracts == (Generator,)
    task = replace(registry.get_task("mnist_0"), family="laplace")
    assert validation.validate_task(task).family == "laplace"
    with pytest.raises(SaBenchError, match=r"bf16 is a setting of .* has a Laplace: leave it out"):
        validation.validate_task(replace(task, sampler=Sampler(precision="bf16")))
    with pytest.raises(SaBenchError, match="samples in 1 to 1 steps"):
        validation.validate_task(replace(task, sampler=Sampler(steps=2)))
    noise, _ = get_family("laplace").make_noise(model, task).batch(50, _generator())
    assert -4 <= float(noise.min()) < float(noise.max()) <= 4
    get_family.cache_clear()


def _generator():
    import torch

    return torch.Generator().manual_seed(0)


def test_a_family_must_say_how_its_models_are_made():
    with pytest.raises(NotImplementedError):
        Family().new_model("mnist", "quick", 0, ())


def test_the_engine_rarely_asks_which_family_it_is():
    """Behaviour of a family belongs into its module; these are what is left, and no more."""
    asks = lines_that_ask("engine", "scoring", "training")
    assert len(asks) < 20, "\n".join(asks)
    clean = ("engine/measure.py", "engine/external.py", "scoring/sampling.py")
    assert not [line for line in asks if any(name in line for name in clean)]


def test_the_noise_surrogate_is_normal_in_latents_and_uniform_in_pixels():
    from sa_bench.training.sources import NormalNoise, UniformNoise

    for name, kind in (("mnist_0_ddpm", UniformNoise), ("mnist_0_t2i", NormalNoise)):
        task = resolve_task(name, "quick", {})
        model = base_models.new_model(task.family, task.dataset, "tiny", words=task.classes)
        assert type(get_family(task.family).make_noise(model, task)) is kind
