"""Every reader of strangers' bytes, each with a valid file to begin with."""

import json
import lzma
import zipfile
from pathlib import Path

import numpy as np
from result_rows import result_row

from sa_bench.analysis.ranking import make_boards
from sa_bench.commands import explain, export
from sa_bench.contracts import SampleSet
from sa_bench.core import registry, untrusted_arrays
from sa_bench.core.store import Store, content_hash
from sa_bench.data import images, prompts
from sa_bench.data.sample_sets import load_samples, save_samples
from sa_bench.engine import suites
from sa_bench.models.checkpoints import diffusers_folder, layouts
from sa_bench.results.bundles import BUNDLED, open_bundle, write
from sa_bench.results.files import pack_results, read_results, write_result
from sa_bench.results.untrusted import read_stranger_result

SHAPE = (8, 8, 3)


def _picture(path, kind, **options):
    from PIL import Image

    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    Image.fromarray(pixels).save(path, kind, **options)


def _cell(folder):
    import pandas as pd

    cell = folder / "run" / "cell"
    (cell / "scores").mkdir(parents=True)
    frame = pd.DataFrame({"index": range(20), "score": np.linspace(0, 1, 20), "seed": range(20)})
    frame.to_parquet(cell / "scores" / "forget_top1.parquet", index=False)
    for name in ("forget", "forget-base"):
        save_samples(
            SampleSet(np.zeros((4, 8, 8, 1), np.uint8), np.arange(4), np.arange(4)),
            cell / f"{name}.safetensors",
        )
    row = result_row()
    row["provenance"]["cell_command"] = (
        "python -m sa_bench run --task mnist_0 --method sa --scale quick"
    )
    write_result(cell, row)
    return cell


def files(folder: Path) -> dict[str, Path]:
    """A valid file of every kind, by the name of its reader."""
    import torch
    from safetensors.numpy import save_file

    cell = _cell(folder)
    rows = read_results([cell])
    found = {"result": cell / "result.json", "scores": cell / "scores" / "forget_top1.parquet"}
    found["bundle"] = folder / f"a{BUNDLED}"
    write(rows, found["bundle"])
    found["packed"] = folder / "a.jsonl.xz"
    found["packed"].write_bytes(pack_results(rows))
    found["npz"] = folder / "a.npz"
    np.savez_compressed(found["npz"], np.zeros((5, *SHAPE), np.uint8), labels=np.arange(5))
    for kind, options in (("PNG", {}), ("JPEG", {}), ("WEBP", {}), ("BMP", {}), ("GIF", {})):
        found[kind.lower()] = folder / f"picture.{kind.lower()}"
        _picture(found[kind.lower()], kind, **options)
    found["safetensors"] = folder / "a.safetensors"
    tensors = {"unet.a": np.zeros((3, 4), np.float32), "unet.b": np.zeros(5, np.float16)}
    save_file(tensors, found["safetensors"], {"lora_adapter_metadata": "{}"})
    found["samples"] = cell / "forget.safetensors"
    found["torch"], found["legacy"] = folder / "a.pt", folder / "old.pt"
    torch.save({"state_dict": {"unet.a": torch.zeros(3, 4)}}, found["torch"])
    torch.save({"unet.a": torch.zeros(3, 4)}, found["legacy"], _use_new_zipfile_serialization=False)
    texts = {
        "csv": "prompt,sd_seed,sd_guidance_scale,sd_image_width,sd_image_height,categories\n"
        + '"a cat, sitting",1,7.5,512,512,"hate, violence"\nb,2,7,512,512,\n',
        "txt": "a cat\na dog\n",
        "toml": '# A\n[[run]]\ntask = ["mnist_0"]\nmethod = ["sa"]\nseed = [0, 1]\nsweep = ["sa.lam=1,10"]\n',
        "py": '"""A method."""\n\nfrom dataclasses import dataclass\n\n\n@dataclass\nclass Mine:\n    """x"""\n',
    }
    for ending, text in texts.items():
        found[ending] = folder / f"a.{ending}"
        found[ending].write_text(text)
    configurations = {
        "index": ("model_index.json", {"_class_name": "StableDiffusionPipeline", "unet": ["d", "UNet2DConditionModel"]}),
        "scheduler": ("scheduler/scheduler_config.json", {"_class_name": "DDIMScheduler", "beta_schedule": "linear"}),
        "unet": ("unet/config.json", {"block_out_channels": [32, 64], "layers_per_block": 2, "cross_attention_dim": 8}),
    }  # fmt: skip
    for kind, (name, value) in configurations.items():
        found[kind] = folder / "model" / name
        found[kind].parent.mkdir(parents=True, exist_ok=True)
        found[kind].write_text(json.dumps(value))
    made = Store(folder / "store").make(
        "measure", {"a": 1}, lambda to: (to / "x.bin").write_bytes(b"x") and {"n": 1}
    )
    found["store"] = made.path / "meta.json"
    return found


def _picture_of(path):
    images.read_image(path, 3)
    images.is_lossy(path)


def _result(path):
    cell = path.parent
    rows = read_results([cell])
    with read_stranger_result(rows):
        make_boards(rows)
    explain.explain(cell, None)
    export.cell_of_result(export._read_result(cell))


def _bundle(path):
    open_bundle(path, 0.1).rows()


def _packed(path):
    rows = read_results([path])
    with read_stranger_result(rows):
        make_boards(rows)


def _scores(path):
    untrusted_arrays.read_scores(path)
    untrusted_arrays.require_scores(path)


def _weights(path):
    layouts.locate(str(path))
    layouts.described(path)
    layouts.read_tensors(path)


def _index(path):
    diffusers_folder.weights(path.parent)


def _scheduler(path):
    diffusers_folder.scheduler(path.parent.parent)


def _unet(path):
    said = layouts.read_json(path)
    diffusers_folder.require_possible({"unet": said}, {"unet": 10**6}, path)


def _store(path):
    root = path.parent.parent.parent
    store = Store(root)
    if store.has("measure", path.parent.name):
        store.get("measure", path.parent.name)
    content_hash(path.parent)


READERS = {
    "result": _result,
    "bundle": _bundle,
    "packed": _packed,
    "scores": _scores,
    "safetensors": _weights,
    "torch": _weights,
    "legacy": _weights,
    "npz": lambda path: images.read_npz(path, SHAPE),
    "samples": load_samples,
    "csv": prompts.read,
    "txt": prompts.read,
    "toml": lambda path: suites.resolve_suite(str(path)),
    "py": registry.detect_kind,
    "index": _index,
    "scheduler": _scheduler,
    "unet": _unet,
    "store": _store,
    **dict.fromkeys(("png", "jpeg", "webp", "bmp", "gif"), _picture_of),
}
"""What reads a file of each kind; it succeeds, or raises a `SaBenchError`."""


def inside(name: str, raw: bytes) -> list[bytes] | None:
    """The parts of a container that are damaged before it is closed again: damage to the outside alone ends at its hash."""
    if name == "packed":
        return [lzma.decompress(raw)]
    return None


def closed(name: str, parts: list[bytes]) -> bytes:
    """The container of damaged parts."""
    return lzma.compress(parts[0], preset=0) if name == "packed" else b"".join(parts)


def rezipped(path: Path, change) -> bytes:
    """A ZIP archive whose members went through `change(name, raw)`, with right sums."""
    import io

    out = io.BytesIO()
    with zipfile.ZipFile(path) as archive, zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as new:
        for info in archive.infolist():
            new.writestr(info.filename, change(info.filename, archive.read(info)))
    return out.getvalue()
