"""What a checkpoint is, before anything is loaded, and its tensors, without running code that came with it."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from safetensors.torch import load_file
from torch import Tensor

from sa_bench.core import untrusted_arrays, untrusted_text
from sa_bench.core.errors import SaBenchError, first_line

SUFFIXES = (".safetensors", ".ckpt", ".pt", ".pth", ".bin")
ACCEPTED = (
    "Accepted: a diffusers folder (model_index.json), a U-Net (folder or file), one file in the names of the original "
    "Stable Diffusion (.ckpt, .safetensors), a LoRA, changed.safetensors of `export`, a hub id (owner/name)"
)
OURS = ("unet.", "text_encoder.", "vae.")
DELTAS = ("changed.safetensors", "model.safetensors")
# Of several weight files in a folder the one with such a name counts; trainers put their own state beside it.
NAMED = (
    *DELTAS,
    *(
        f"{n}.{s}"
        for n in ("pytorch_lora_weights", "adapter_model")
        for s in ("safetensors", "bin")
    ),
)
LDM = ("model.diffusion_model.", "diffusion_model.", "input_blocks.")
UNET = ("down_blocks.", "mid_block.", "up_blocks.")
ADAPTER = re.compile(
    r"(^lora_|[._]lora_[AB]\b|\blora_(down|up)\b|[._]lora\.(down|up)\.|lora_linear_layer|\bhada_|\blokr_)"
)
HUB = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
FOREIGN = {  # the first that fits counts
    "controlnet_": "of a ControlNet",
    "encoder.layers.": "of a text encoder",
    "embeddings.": "of a text encoder",
    "text_model.": "of a text encoder",
    "cond_stage_model.": "of a text encoder",
    "encoder.block.": "of a text encoder (T5)",
    "encoder.": "of an autoencoder",
    "decoder.": "of an autoencoder",
    "first_stage_model.": "of an autoencoder",
    "transformer_blocks.": "of a diffusion transformer",
    "double_blocks.": "of Flux",
}
WRAPPED = re.compile(r"(?<![^.])(_orig_mod|module)\.")
"""Torch.compile's and DataParallel's, at any depth."""
TRAINED, AVERAGED = ("state_dict", ("ema_state_dict", "state_dict_ema", "model_ema", "ema"))
"""In a trainer's file."""
QUANTISED = {"I8", "U8", "int8", "uint8"}
Weights = Literal["auto", "ema", "raw"]


class Found(NamedTuple):
    """A checkpoint's layout and where its tensors are."""

    layout: str
    path: Path  # a folder (pipeline, unet) or a file
    both: str = ""  # what holds averaged and other weights of one network; "": nothing does
    averaged: bool = False  # whether the averaged ones are meant
    unet: Path | None = None  # of a pipeline: the folder of its U-Net where that is not unet/


def layout(source: str) -> str:
    """What `source` is, from names alone.

    Returns:
        `pipeline` (a diffusers folder), `unet` (a U-Net's folder or file), `single` (one file in the names of the
        original Stable Diffusion), `lora`, `delta` (what `save` and `export` write) or `hub` (owner/name, no path).

    Raises:
        SaBenchError: anything else; says what was found and what is accepted.
    """
    return locate(source).layout


def locate(source: str, weights: Weights = "auto") -> Found:
    """The layout of `source`, and the folder or file that holds it (an id of the hub: itself).

    Args:
        source: a path, or an id of the hub.
        weights: of a network that is kept twice, averaged over training and as trained last: `ema` the averages, `raw`
            the others, `auto` the others, except of a single file with `model_ema.`, as the official sd/ has it.

    Raises:
        SaBenchError: as `layout`; or averages are asked for and there are none.
    """
    path = Path(source).expanduser()
    if source and path.is_dir():
        found = _folder(path, weights)
    elif path.is_file():
        found = _file(path, weights)
    elif HUB.fullmatch(source) and path.suffix not in SUFFIXES:
        found = Found("hub", Path(source))
    else:
        raise SaBenchError(f"{source or 'An empty path'} is no file or folder here. {ACCEPTED}.")
    if weights == "ema" and not found.averaged:
        raise SaBenchError(
            f"{source} holds no averaged weights (unet_ema/, {', '.join(AVERAGED)}): leave out checkpoint.weights=ema."
        )
    return found


def _folder(folder: Path, weights: Weights) -> Found:
    twin = folder / "unet_ema"
    averaged = twin.is_dir() and weights == "ema"
    both = "unet/ and unet_ema/" if twin.is_dir() and (folder / "unet").is_dir() else ""
    if (folder / "model_index.json").is_file():
        return Found("pipeline", folder, both, averaged, twin if averaged else None)
    averaged = averaged or (twin.is_dir() and weights == "auto" and not (folder / "unet").is_dir())
    if (folder / "unet").is_dir() or averaged:
        if others := [p for p in ("vae", "text_encoder", "tokenizer") if (folder / p).is_dir()]:
            raise SaBenchError(
                f"{folder} has unet/ and {others[0]}/ but no model_index.json: get that file too, or name {folder}/unet."
            )
        inner = _folder(twin if averaged else folder / "unet", "auto")
        return inner._replace(both=both, averaged=averaged)
    if (folder / "config.json").is_file() and weight_files(folder, "diffusion_pytorch_model"):
        kind = read_json(folder / "config.json").get("_class_name")
        if kind != "UNet2DConditionModel":
            raise SaBenchError(f"{folder} holds a {kind}, not a UNet2DConditionModel. {ACCEPTED}.")
        return Found("unet", folder)
    files = sorted(
        f for f in folder.iterdir() if f.suffix in SUFFIXES and f.is_file() and f.name[0] != "."
    )
    known = [folder / name for name in NAMED if folder / name in files]
    if known or len(files) == 1:
        return _file((known or files)[0], weights)
    held = sorted(p.name for p in folder.iterdir())
    what = (
        f"{len(files)} weight files ({files[0].name}, ...); name one" if files else "no weight file"
    )
    raise SaBenchError(
        f"{folder} {f'has {what}: {_some(held)}' if held else 'is an empty folder'}. {ACCEPTED}."
    )


def _file(path: Path, weights: Weights) -> Found:
    kinds, both, averaged = _told(path, weights)
    kind = _kind(kinds, path)
    if kind == "single" and any(name.startswith("model_ema.") for name in kinds):
        return Found(kind, path, "model. and model_ema.", weights != "raw")
    return Found(kind, path, both, averaged)


def _kind(found: Mapping[str, str], path: Path) -> str:
    if not found:
        if path.name in DELTAS:
            return "delta"
        raise SaBenchError(f"{path} holds no tensor. {ACCEPTED}.")
    if small := sorted(name for name, kind in found.items() if kind in QUANTISED):
        raise SaBenchError(
            f"{path} holds quantised weights ({small[0]} is {found[small[0]]}), which mean nothing without their "
            "library's scales: give the weights before quantisation, in 16 or 32 bits."
        )
    if any(ADAPTER.search(name) for name in found):
        return "lora"
    if any(name.startswith(LDM) for name in found):
        return "single"
    if all(name.startswith(OURS) for name in found):
        return "delta"
    foreign = next(
        (what for start, what in FOREIGN.items() if any(n.startswith(start) for n in found)), ""
    )
    if any(name.startswith(UNET) for name in found) and not foreign:
        return "unet"
    raise SaBenchError(
        f"{path} holds {len(found)} tensors {foreign or 'that no part of Stable Diffusion has'} ({_some([*found])}). "
        f"{ACCEPTED}."
    )


def _unwrapped(given: Iterable[str], path: Path) -> dict[str, str]:
    """Each name without what torch.compile, DataParallel and a trainer's class put before it, by the name in the file.

    `model.` goes only where every name has it and it is not LDM's own.

    Raises:
        SaBenchError: two names become one.
    """
    plain = {name: WRAPPED.sub("", name) for name in given}
    while plain and all(n.startswith("model.") and not n.startswith(LDM) for n in plain.values()):
        plain = {name: n.removeprefix("model.") for name, n in plain.items()}
    if len(set(plain.values())) < len(plain):
        seen: dict[str, str] = {}
        for name, n in plain.items():
            if n in seen:
                raise SaBenchError(
                    f"{path} holds both {seen[n]} and {name}; which one is meant? Remove one."
                )
            seen[n] = name
    return plain


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def weight_files(folder: Path, *stems: str) -> list[Path]:
    """The weight files of one network in `folder`, all shards; safetensors first, half precision last; [] if none.

    Raises:
        SaBenchError: the index of the shards cannot be read, or a shard is missing.
    """
    for name in (
        f"{stem}{v}.{s}" for v in ("", ".fp16") for s in ("safetensors", "bin") for stem in stems
    ):
        if (folder / name).is_file():
            return [folder / name]
        index = folder / f"{name}.index.json"
        if index.is_file():
            said = read_json(index).get("weight_map")
            if not isinstance(said, dict):
                raise SaBenchError(f"{index} has no weight_map. Get the folder again.")
            shards = sorted({Path(str(n)).name for n in said.values()})
            if absent := [n for n in shards if not (folder / n).is_file()]:
                raise SaBenchError(
                    f"{folder} lacks {absent[0]}, which {index.name} names. Get the folder again."
                )
            return [folder / n for n in shards]
    return []


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        SaBenchError: it is not there, or is none.
    """
    try:
        return untrusted_text.read_object(path)
    except OSError as error:
        raise SaBenchError(f"{path} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise SaBenchError(f"{path} cannot be used: {error}. Get the file again.") from error


def _told(path: Path, weights: Weights) -> tuple[dict[str, str], str, bool]:
    """(kind of number by tensor, what holds weights twice, whether the averaged ones are meant); little is read."""
    if _format(path) == "safetensors":
        table = header(path)
        kinds = {name: str(said["dtype"]) for name, said in table.items() if name != "__metadata__"}
        both, averaged = "", False
    else:
        tensors, both, averaged = _unpickled(path, weights, lazily=True)
        kinds = {name: str(value.dtype).removeprefix("torch.") for name, value in tensors.items()}
    return {new: kinds[old] for old, new in _unwrapped(kinds, path).items()}, both, averaged


def header(path: Path) -> dict[str, Any]:
    """A safetensors file's own table of its tensors (and `__metadata__`), held against the file's length.

    Raises:
        SaBenchError: it is damaged or cut short.
    """
    try:
        return untrusted_arrays.read_header(path)
    except untrusted_text.Unfit as error:
        raise SaBenchError(
            f"{path} is no whole safetensors file: {error}. Get the file again."
        ) from error


def described(path: Path) -> Mapping[str, Any]:
    """What a safetensors file says of itself beside its tensors; nothing if it is of another format.

    Raises:
        SaBenchError: as `read_tensors`.
    """
    said = header(path).get("__metadata__") if _format(path) == "safetensors" else None
    return said if isinstance(said, Mapping) else {}


def read_tensors(path: Path, weights: Weights = "auto") -> dict[str, Tensor]:
    """Every tensor of a weight file by name, on the CPU: safetensors, or torch's own, of tensors and plain values alone.

    Of a training checkpoint (`state_dict` among other things) the weights, or their averages if `weights` is `ema`; the
    names are without the prefixes of compiled and parallel models.

    Raises:
        SaBenchError: a web page, a Git LFS pointer, cut short, another format, or a pickle that would run code.
    """
    if _format(path) == "safetensors":
        header(path)
        try:
            held = load_file(path)
        except Exception as error:  # a kind of number that torch has not
            raise SaBenchError(
                f"{path} cannot be read: {first_line(error)}. Get the file again."
            ) from error
    else:
        held, _, _ = _unpickled(path, weights)
    return {new: held[old] for old, new in _unwrapped(held, path).items()}


def read_all(paths: Iterable[Path], weights: Weights = "auto") -> dict[str, Tensor]:
    """The tensors of several files (shards) together."""
    return {name: value for path in paths for name, value in read_tensors(path, weights).items()}


def _format(path: Path) -> str:
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(200)
    except OSError as error:
        raise SaBenchError(f"{path} cannot be read: {error.strerror}.") from error
    if not size:
        said = "is empty"
    elif start.startswith(b"version https://git-lfs"):
        said = "is a Git LFS pointer, not the file itself (git lfs pull)"
    elif start.lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        said = "is a web page, not weights (a login or licence page in place of the file)"
    elif start.startswith(b"PK\x03\x04"):
        if not untrusted_arrays.is_zip(path):
            said = f"is cut short at {size:,} bytes"
        else:
            try:
                with untrusted_arrays.open_zip(path) as archive:
                    held = archive.namelist()
            except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
                raise SaBenchError(
                    f"{path} is a damaged zip archive: {error}. Get the file again."
                ) from error
            if any(name.rpartition("/")[2] == "data.pkl" for name in held):
                return "torch"
            said = f"is a zip archive of {_some(held)}: unpack it, and name what is in it"
    elif start.startswith(b"\x80"):
        return "torch"
    elif start[8:9] == b"{":
        return "safetensors"
    else:
        said = f"is neither safetensors nor a file of torch: it begins with {start[:12]!r}"
    raise SaBenchError(f"{path} {said}. Get the file again. {ACCEPTED}.")


def _unpickled(
    path: Path, weights: Weights, lazily: bool = False
) -> tuple[dict[str, Tensor], str, bool]:
    """A file's tensors, what holds them twice, and whether they are the averaged ones."""
    try:
        found = untrusted_arrays.load_torch(path, lazily)
    except Exception as error:
        said = str(error)
        if unsafe := re.search(r"GLOBAL (\S+)|[Cc]lass (\S+) (?:was|is) not", said):
            raise SaBenchError(
                f"{path} holds more than tensors: reading it would run the code of {unsafe[1] or unsafe[2]}, so it is "
                "not read. If you trust it, keep its weights alone, elsewhere: torch.save({'state_dict': "
                "torch.load(FILE, weights_only=False)['state_dict']}, NEW)."
            ) from error
        lines = [line.strip() for line in said.splitlines() if line.strip()] or [
            type(error).__name__
        ]
        reason = next((line for line in lines if "Unpickler error" in line), lines[0])
        raise SaBenchError(
            f"{path} is damaged or no file of torch ({reason[:120]}). Get the file again."
        ) from error
    both, averaged = "", False
    if isinstance(found, Mapping):
        average = next((k for k in AVERAGED if _tensors(found.get(k))), "")
        trained = TRAINED if _tensors(found.get(TRAINED)) else ""
        beside = trained or ("its own tensors" if _tensors(found) else "")
        both = f"{beside} and {average}" if average and beside else ""
        averaged = bool(average) and weights == "ema"
        found = found[average] if averaged else found[TRAINED] if trained else found
    if not isinstance(found, Mapping):
        raise SaBenchError(f"{path} holds a {type(found).__name__}, no named tensors. {ACCEPTED}.")
    tensors = _tensors(found)
    if not tensors:
        held = _some([str(k) for k in found])
        raise SaBenchError(f"{path} holds no tensor{f' but {held}' if held else ''}. {ACCEPTED}.")
    return tensors, both, averaged


def _tensors(held: Any) -> dict[str, Tensor]:
    """The tensors among what a mapping holds; of anything else none."""
    if not isinstance(held, Mapping):
        return {}
    return {str(k): v.detach() for k, v in held.items() if isinstance(v, Tensor)}
