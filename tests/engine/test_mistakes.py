"""Every mistake that `resolve` tells: one line, an exit code of 2, and no torch, which takes seconds to load."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = ("engine/cells.py", "engine/validation.py", "core/fields.py", "core/seeds.py")
ELSEWHERE = {
    "task_overrides": "commands without a method",
    "add_cell": "two cells of one id",
    "check_precision": "asked when the device is known",
}
"""Functions of these files whose errors `resolve` does not raise, or not by a mistake."""

T2I, SD, VAE = "mnist_0_t2i", "celeb_brad_pitt", "mnist_0"
MISTAKES = [
    (VAE, "sea", {}),
    (VAE, "sa", {"scale": "fast"}),
    (VAE, "sa", {"scale": "small"}),
    (VAE, "sa", {"sets": ["task.sampler=3"]}),
    (VAE, "sa", {"sets": ["task.name=x"]}),
    (T2I, "sa", {"sets": ["task.prompts.test=set:nowhere"]}),
    (VAE, "checkpoint", {}),
    (VAE, "checkpoint", {"sets": ["path=nowhere"]}),
    (VAE, "sa", {"sweeps": ["lam=1,,2"]}),
    (VAE, "sa", {"metrics": ["fidd"]}),
    (VAE, "original", {"sets": ["sa.lam=1"]}),
    (VAE, "original", {"sets": ["lamb=1"]}),
    (VAE, "sa", {"sets": ["sa.lamm=3"]}),
    (VAE, "sa", {"sets": ["lam.x=3"]}),
    (VAE, "sa", {"sets": ["lam=lots"]}),
    (VAE, "sa", {"sets": ["lam"]}),
    (VAE, "sa", {"sets": ["task.judges=[1"]}),
    (VAE, "sa", {"seeds": ["one"]}),
    (VAE, "sa", {"seeds": []}),
    ("concept", "sa", {"sets": ["task.concept=,"]}),
    ("concept", "sa", {"sets": ["task.concept=a garbage trucks"]}),
    ("concept", "sa", {"sets": ["task.classes=[]"]}),
    ("concept", "sa", {"sets": ['task.classes=["x y", "a b", "a b"]']}),
    (VAE, "sa", {"sets": ["task.concept=airplane"]}),
    (VAE, "sa", {"sets": ["task.relabel_to=0"]}),
    (VAE, "sa", {"sets": ["task.recovery_budgets=3,1"]}),
    (VAE, "sa", {"sets": ["task.relearn.steps=3,9"]}),
    (VAE, "sa", {"sets": ["task.also=1", "task.then=2"]}),
    (VAE, "sa", {"sets": ["task.then=1,1"]}),
    ("celeb_brad_pitt", "sa", {"sets": ["task.then=1"]}),
    (VAE, "sa", {"sets": ["task.also=1,2,3,4,5,6,7,8,9"]}),
    (T2I, "sa", {"sets": ["task.also=1"]}),
    (VAE, "ssd", {"sets": ["task.also=1"]}),
    (VAE, "blank", {"sets": ["task.then=1"]}),
    (VAE, "sa", {"sets": ["task.primary=fid,kid"]}),
    (VAE, "sa", {"sets": ["task.primary=recovery_excess,fid,kid"]}),
    (SD, "sa", {"sets": ["task.model="]}),
    (VAE, "sa", {"sets": ["task.score=uncovered"]}),
    (VAE, "sa", {"sets": ["task.replay_images=3"]}),
    (VAE, "sa", {"sets": ["task.replay_used=3"]}),
    (VAE, "sa", {"sets": ["task.judges=mnist-cnn-1", "task.designated=mnist-cnn-0"]}),
    (VAE, "sa", {"sets": ["task.surrogate=class:0"]}),
    (VAE, "sa", {"sets": ["task.surrogate=folder:/none"]}),
    (VAE, "sa", {"sets": ["task.surrogate=folder:."]}),
    (VAE, "sa", {"sets": ["task.surrogate=nose"]}),
    (VAE, "sa", {"sets": ["lam=3"], "sweeps": ["lam=1,10"]}),
    (SD, "sa", {"scale": "quick", "sets": ['task.classes=["brad pitt"]', "task.leakage_images=9"]}),
    (SD, "sa", {"scale": "quick", "sets": ["task.prompts.leakage=a person"]}),
    (T2I, "sa", {"sets": ["task.prompts.test=[]"]}),
    (T2I, "sa", {"sets": ["task.prompts.test=a {x}"]}),
    ("nudity_i2p", "sa", {"sets": ["task.prompts.files.test=large.csv", "task.prompts.rows=own"]}),
    (VAE, "sa", {"sets": ["task.model=x"]}),
    (VAE, "sa", {"sets": ["task.prompts.test=x"]}),
    (SD, "sa", {"sets": ["task.size=100"]}),
    (SD, "sa", {"sets": ["task.model=unet"]}),
    (SD, "sa", {"sets": ["task.replay_images=0"]}),
    (SD, "sa", {"sets": ["task.model=small", "task.size=512"]}),
    (VAE, "esd", {}),
    (T2I, "sa", {"sets": ["scope=nose"]}),
    (T2I, "sa", {"sets": ["scope=joint"]}),
    (T2I, "ssd", {"sets": ["scope=text"]}),
    (T2I, "uce", {"sets": ["scope=xattn"]}),
    (SD, "retrain", {}),
    (SD, "uce", {"base_seeds": [1]}),
    (VAE, "sa", {"sets": ["task.sampler.scheduler=x"]}),
    (VAE, "sa", {"sets": ["task.sampler.steps=5"]}),
    (VAE, "sa", {"sets": ["task.sampler.precision=fp16"]}),
    (SD, "sa", {"sets": ["task.sampler.steps=700"]}),
    (VAE, "sa", {"sets": ["times=shared"]}),
    (VAE, "sa", {"sets": ["fisher.timesteps=3"]}),
    ("mnist_0_ddpm", "sa", {"sets": ["fisher.targets=bernoulli"]}),
    ("nudity_explicit", "sa", {"scale": "quick", "sets": ["fisher.set=all"]}),
    ("mnist_0_ddpm", "sa", {"sets": ["fisher.draws=once"]}),
    ("mnist_0_ddpm", "sa", {"sets": ["fisher.timesteps=1001"]}),
    (VAE, "./mine.py", {"sets": ["sed=3"]}),
    (VAE, "./mine.py", {"sets": ["steps=0"]}),
    (VAE, "./mine.py", {"sets": ["task.concept=nose"]}),
    (VAE, "./unfit.py", {}),
    (VAE, "./wrong.py", {}),
    (VAE, "./wrong_import.py", {}),
]  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    """A folder with what the mistakes name: plug-ins that import torch, models without weights, a prompt file."""
    example = (ROOT / "docs/examples/finetune.py").read_text()
    heavy = f"{example}\nimport torch\nfrom torch import Tensor, nn\n"
    (tmp_path / "mine.py").write_text(heavy)
    unfit = '    def unfit(self, task) -> str:\n        return "it is"\n\n    def forget('
    (tmp_path / "unfit.py").write_text(heavy.replace("    def forget(", unfit))
    (tmp_path / "wrong.py").write_text("import torch\n\nx = 1\n")
    (tmp_path / "wrong_import.py").write_text("import torch\nfrom sa_bench.core.lists import no\n")
    (tmp_path / "large.csv").write_text(
        "prompt,seed,sd_image_width,sd_image_height\na,1,1024,512\n"
    )
    (tmp_path / "unet").mkdir()
    (tmp_path / "unet/config.json").write_text('{"_class_name": "UNet2DConditionModel"}')
    (tmp_path / "unet/diffusion_pytorch_model.safetensors").touch()
    for part, config in (("unet", {"sample_size": 8}), ("vae", {"block_out_channels": [1, 1]})):
        (tmp_path / "small" / part).mkdir(parents=True)
        (tmp_path / "small" / part / "config.json").write_text(json.dumps(config))
    (tmp_path / "small/model_index.json").write_text("{}")
    return tmp_path


CODE = """
import json, sys, traceback
from sa_bench.core.errors import SaBenchError
from sa_bench.engine.cells import resolve
for task, method, options in MISTAKES:
    try:
        resolve([task], [method], **options)
    except SaBenchError as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        loaded = [name for name in ("torch", "scipy", "pandas", "diffusers") if name in sys.modules]
        print(json.dumps([frame.filename, frame.lineno, str(error), error.exit_code, loaded]))
    else:
        print(json.dumps(["", 0, "no error", 0, []]))
"""


def list_raises():
    """List (file, line) of every `raise` in the files, and the function that it stands in."""
    return {
        (str(ROOT / "sa_bench" / file), node.lineno): function.name
        for file in FILES
        for function in ast.walk(ast.parse((ROOT / "sa_bench" / file).read_text()))
        if isinstance(function, ast.FunctionDef)
        for node in ast.walk(function)
        if isinstance(node, ast.Raise)
    }


@pytest.mark.process
def test_every_mistake_is_told_in_one_line_without_torch(folder):
    done = subprocess.run(
        [sys.executable, "-c", CODE.replace("MISTAKES", repr(MISTAKES))],
        capture_output=True, text=True, cwd=folder, check=False,
        env={"PYTHONPATH": str(ROOT), "PATH": "", "SA_BENCH_STORE": str(folder / "store")},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    told = [json.loads(line) for line in done.stdout.splitlines()]
    for mistake, (_, _, message, code, loaded) in zip(MISTAKES, told, strict=True):
        assert code in (2, 3), (mistake, message)
        assert not loaded, (mistake, loaded)
        assert "\n" not in message
    places = {(file, line) for file, line, *_ in told}
    missed = {place: name for place, name in list_raises().items() if place not in places}
    assert not {p: name for p, name in missed.items() if name not in ELSEWHERE}
    assert set(missed.values()) == set(ELSEWHERE), "an exception that is none"
