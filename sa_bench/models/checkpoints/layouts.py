"""Recognise a checkpoint's layout before it is loaded, and read its tensors.

No code that came with a checkpoint is run.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from sa_bench.core import untrusted_arrays, untrusted_text
from sa_bench.core.errors import SaBenchError, first_line
from sa_bench.core.store import content_hash, digest

if TYPE_CHECKING:  # a layout is recognised before torch is loaded
    from torch import Tensor

SUFFIXES = (".safetensors", ".ckpt", ".pt", ".pth", ".bin")
"""Endings of weight files."""
ACCEPTED = (
    "Accepted: a diffusers folder (model_index.json), a U-Net (folder or file), one file in the names of the original "
    "Stable Diffusion (.ckpt, .safetensors), a LoRA, changed.safetensors of `export`, a hub id (owner/name)"
)
OURS = ("unet.", "text_encoder.", "vae.")
DELTAS = ("changed.safetensors", "model.safetensors")
# If a folder holds several weight files, one with such a name counts: trainers save their own
# state beside it.
NAMED = (
    *DELTAS,
    *(
        f"{stem}.{suffix}"
        for stem in ("pytorch_lora_weights", "adapter_model")
        for suffix in ("safetensors", "bin")
    ),
)
LDM = ("model.diffusion_model.", "diffusion_model.", "input_blocks.")
UNET = ("down_blocks.", "mid_block.", "up_blocks.")
ADAPTER = re.compile(
    r"(^lora_|[._]lora_[AB]\b|\blora_(down|up)\b|[._]lora\.(down|up)\.|lora_linear_layer|\bhada_|\blokr_)"
)
HUB = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
FOREIGN = {  # the first prefix that fits counts
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
"""Prefixes that torch.compile and DataParallel add, at any depth."""
TRAINED, AVERAGED = ("state_dict", ("ema_state_dict", "state_dict_ema", "model_ema", "ema"))
"""Keys of the weights and of their averages in a trainer's file."""
QUANTISED = {"I8", "U8", "int8", "uint8"}
Weights = Literal["auto", "ema", "raw"]


class Found(NamedTuple):
    """A checkpoint's layout and where its tensors are."""

    layout: str
    path: Path  # a folder (pipeline, unet) or a file
    both: str = ""  # names of both sets if a network is stored averaged and raw; "" if it is not
    averaged: bool = False  # True if the averaged weights are taken
    unet: Path | None = None  # a pipeline's U-Net folder if it is not unet/


def list_companions(file: Path) -> list[Path]:
    """List the files beside a weight file that say how it is read: its `.yaml`, and a LoRA's `adapter_config.json`."""
    if not file.is_file():
        return []
    candidates = (file.with_suffix(".yaml"), file.parent / "adapter_config.json")
    return [candidate for candidate in candidates if candidate.is_file()]


def hash_weights(path: Path) -> str:
    """Hash a weight file or a folder of them, with the files beside it that say how it is read."""
    companions = list_companions(path)
    hashes = [content_hash(file) for file in (path, *companions)]
    return digest(hashes) if companions else hashes[0]


def layout(source: str) -> str:
    """Recognise what `source` is, from names alone.

    Returns:
        `pipeline` (a diffusers folder), `unet` (a U-Net's folder or file), `single` (one file in
            the names of the original Stable Diffusion), `lora`, `delta` (what `save` and `export`
            write) or `hub` (owner/name, not a path).

    Raises:
        SaBenchError: anything else; the message says what it is and what is accepted.
    """
    return locate(source).layout


def locate(source: str, weights: Weights = "auto") -> Found:
    """Find the layout of `source` and the folder or file that holds it.

    Args:
        source: a path, or an id of the hub (which stands for itself).
        weights: which weights to take if a network is stored twice, averaged over training and as
            trained last: `ema` takes the averages, `raw` the others, and `auto` the others too,
            except for a single file with `model_ema.`, where the official sd/ takes the averages.

    Raises:
        SaBenchError: for the reasons that `layout` gives, or averages are asked for and there are
            none.
    """
    path = Path(source).expanduser()
    if source and path.is_dir():
        checkpoint = _locate_in_folder(path, weights)
    elif path.is_file():
        checkpoint = _locate_in_file(path, weights)
    elif HUB.fullmatch(source) and path.suffix not in SUFFIXES:
        checkpoint = Found("hub", Path(source))
    else:
        raise SaBenchError(f"{source or 'An empty path'} is no file or folder here. {ACCEPTED}.")
    if weights == "ema" and not checkpoint.averaged:
        raise SaBenchError(
            f"{source} holds no averaged weights (unet_ema/, {', '.join(AVERAGED)}): leave out checkpoint.weights=ema."
        )
    return checkpoint


def _locate_in_folder(folder: Path, weights: Weights) -> Found:
    """Find the checkpoint in a folder."""
    averages_folder = folder / "unet_ema"
    averaged = averages_folder.is_dir() and weights == "ema"
    both = "unet/ and unet_ema/" if averages_folder.is_dir() and (folder / "unet").is_dir() else ""
    if (folder / "model_index.json").is_file():
        return Found("pipeline", folder, both, averaged, averages_folder if averaged else None)
    averaged = averaged or (
        averages_folder.is_dir() and weights == "auto" and not (folder / "unet").is_dir()
    )
    if (folder / "unet").is_dir() or averaged:
        if other_parts := [
            part for part in ("vae", "text_encoder", "tokenizer") if (folder / part).is_dir()
        ]:
            raise SaBenchError(
                f"{folder} has unet/ and {other_parts[0]}/ but no model_index.json: get that file too, or name "
                f"{folder}/unet."
            )
        unet = _locate_in_folder(averages_folder if averaged else folder / "unet", "auto")
        return unet._replace(both=both, averaged=averaged)
    if (folder / "config.json").is_file() and weight_files(folder, "diffusion_pytorch_model"):
        class_name = read_json(folder / "config.json").get("_class_name")
        if class_name != "UNet2DConditionModel":
            raise SaBenchError(
                f"{folder} holds a {class_name}, not a UNet2DConditionModel. {ACCEPTED}."
            )
        return Found("unet", folder)
    files = sorted(
        file
        for file in folder.iterdir()
        if file.suffix in SUFFIXES and file.is_file() and file.name[0] != "."
    )
    named_files = [folder / name for name in NAMED if folder / name in files]
    if named_files or len(files) == 1:
        return _locate_in_file((named_files or files)[0], weights)
    names_in_folder = sorted(part.name for part in folder.iterdir())
    content = (
        f"{len(files)} weight files ({files[0].name}, ...); name one" if files else "no weight file"
    )
    problem = (
        f"has {content}: {_list_first(names_in_folder)}"
        if names_in_folder
        else "is an empty folder"
    )
    raise SaBenchError(f"{folder} {problem}. {ACCEPTED}.")


def _locate_in_file(path: Path, weights: Weights) -> Found:
    """Find the layout of one weight file."""
    dtypes, both, averaged = _read_dtypes(path, weights)
    kind = _recognise(dtypes, path)
    if kind == "single" and any(name.startswith("model_ema.") for name in dtypes):
        return Found(kind, path, "model. and model_ema.", weights != "raw")
    return Found(kind, path, both, averaged)


def _recognise(dtypes: Mapping[str, str], path: Path) -> str:
    """Recognise the layout of a weight file from the names of its tensors.

    Args:
        dtypes: number format of each tensor, by name.
        path: of the file, for error messages.
    """
    if not dtypes:
        if path.name in DELTAS:
            return "delta"
        raise SaBenchError(f"{path} holds no tensor. {ACCEPTED}.")
    if quantised := sorted(name for name, dtype in dtypes.items() if dtype in QUANTISED):
        raise SaBenchError(
            f"{path} holds quantised weights ({quantised[0]} is {dtypes[quantised[0]]}), which mean nothing without their "
            "library's scales: give the weights before quantisation, in 16 or 32 bits."
        )
    if any(ADAPTER.search(name) for name in dtypes):
        return "lora"
    if any(name.startswith(LDM) for name in dtypes):
        return "single"
    if all(name.startswith(OURS) for name in dtypes):
        return "delta"
    foreign_model = next(
        (
            description
            for prefix, description in FOREIGN.items()
            if any(name.startswith(prefix) for name in dtypes)
        ),
        "",
    )
    if any(name.startswith(UNET) for name in dtypes) and not foreign_model:
        return "unet"
    raise SaBenchError(
        f"{path} holds {len(dtypes)} tensors {foreign_model or 'that no part of Stable Diffusion has'} "
        f"({_list_first([*dtypes])}). {ACCEPTED}."
    )


def _remove_wrappers(names: Iterable[str], path: Path) -> dict[str, str]:
    """Remove what torch.compile, DataParallel and a trainer's class put before each name.

    `model.` is removed only if every name has it and it is not LDM's own.

    Returns:
        The plain name by the name in the file.

    Raises:
        SaBenchError: two names become one.
    """
    plain_names = {name: WRAPPED.sub("", name) for name in names}
    while plain_names and all(
        plain_name.startswith("model.") and not plain_name.startswith(LDM)
        for plain_name in plain_names.values()
    ):
        plain_names = {
            name: plain_name.removeprefix("model.") for name, plain_name in plain_names.items()
        }
    if len(set(plain_names.values())) < len(plain_names):
        name_in_file: dict[str, str] = {}
        for name, plain_name in plain_names.items():
            if plain_name in name_in_file:
                raise SaBenchError(
                    f"{path} holds both {name_in_file[plain_name]} and {name}, two names of one tensor: remove one."
                )
            name_in_file[plain_name] = name
    return plain_names


def _list_first(names: Sequence[str]) -> str:
    """List the first three names, with an ellipsis if there are more."""
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def weight_files(folder: Path, *stems: str) -> list[Path]:
    """List the weight files of one network in `folder`, with all shards.

    Returns:
        The files; safetensors are preferred, half precision comes last. [] if there are none.

    Raises:
        SaBenchError: the index of the shards cannot be read, or a shard is missing.
    """
    for name in (
        f"{stem}{variant}.{suffix}"
        for variant in ("", ".fp16")
        for suffix in ("safetensors", "bin")
        for stem in stems
    ):
        if (folder / name).is_file():
            return [folder / name]
        index = folder / f"{name}.index.json"
        if index.is_file():
            shard_by_tensor = read_json(index).get("weight_map")
            if not isinstance(shard_by_tensor, dict):
                raise SaBenchError(f"{index} has no weight_map. Get the folder again.")
            shards = sorted({Path(str(shard)).name for shard in shard_by_tensor.values()})
            if missing_shards := [shard for shard in shards if not (folder / shard).is_file()]:
                raise SaBenchError(
                    f"{folder} lacks {missing_shards[0]}, which {index.name} names. Get the folder again."
                )
            return [folder / shard for shard in shards]
    return []


def read_json(path: Path) -> dict[str, Any]:
    """Read the object in a JSON file.

    Raises:
        SaBenchError: the file is missing or does not hold a JSON object.
    """
    try:
        return untrusted_text.read_object(path)
    except OSError as error:
        raise SaBenchError(f"{path} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise SaBenchError(f"{path} cannot be used: {error}. Get the file again.") from error


def _read_dtypes(path: Path, weights: Weights) -> tuple[dict[str, str], str, bool]:
    """Read the number format of each tensor; as little of the file as possible is read.

    Returns:
        The format by tensor name; the names of both sets if weights are stored twice, else "";
            whether the averaged ones are taken.
    """
    if _recognise_format(path) == "safetensors":
        entries = header(path)
        dtypes = {
            name: str(entry["dtype"]) for name, entry in entries.items() if name != "__metadata__"
        }
        both, averaged = "", False
    else:
        tensors, both, averaged = _load_torch_file(path, weights, lazily=True)
        dtypes = {
            name: str(tensor.dtype).removeprefix("torch.") for name, tensor in tensors.items()
        }
    return (
        {
            plain_name: dtypes[name_in_file]
            for name_in_file, plain_name in _remove_wrappers(dtypes, path).items()
        },
        both,
        averaged,
    )


def read_state(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a safetensors file.

    Raises:
        SaBenchError: there is no such file, it is of another kind, or it is damaged.
    """
    from safetensors.torch import load_file

    if not path.is_file():
        raise SaBenchError(f"There is no {path}.")
    if path.suffix.lower() in SUFFIXES[1:]:
        raise SaBenchError(
            f"{path} is a file of torch.save, which is read for Stable Diffusion alone; write its tensors with "
            "safetensors.torch.save_file(state_dict, FILE)."
        )
    header(path)
    return load_file(path)


def header(path: Path) -> dict[str, Any]:
    """Read a safetensors file's own table of its tensors and `__metadata__`.

    Raises:
        SaBenchError: the file is damaged, or shorter than its table says.
    """
    try:
        return untrusted_arrays.read_header(path)
    except untrusted_text.Unfit as error:
        raise SaBenchError(
            f"{path} is not a complete safetensors file: {error}. Get the file again."
        ) from error


def described(path: Path) -> Mapping[str, Any]:
    """Read the metadata in a safetensors file's header.

    Returns:
        The metadata; an empty mapping for a file of another format.

    Raises:
        SaBenchError: for the reasons that `read_tensors` gives.
    """
    metadata = (
        header(path).get("__metadata__") if _recognise_format(path) == "safetensors" else None
    )
    return metadata if isinstance(metadata, Mapping) else {}


def read_tensors(path: Path, weights: Weights = "auto") -> dict[str, Tensor]:
    """Read every tensor of a weight file, on the CPU.

    safetensors files are read, and torch's own if they hold tensors and plain values alone. From a
    training checkpoint (`state_dict` among other things) the weights are read, or their averages if
    `weights` is `ema`.

    Returns:
        The tensors by name, without the prefixes of compiled and parallel models.

    Raises:
        SaBenchError: a web page, a Git LFS pointer, a file cut short, another format, or a pickle
            that would run code.
    """
    if _recognise_format(path) == "safetensors":
        header(path)
        from safetensors.torch import load_file

        try:
            tensors = load_file(path)
        except Exception as error:  # a number format that torch does not have
            raise SaBenchError(
                f"{path} cannot be read: {first_line(error)}. Get the file again."
            ) from error
    else:
        tensors, _, _ = _load_torch_file(path, weights)
    return {
        plain_name: tensors[name_in_file]
        for name_in_file, plain_name in _remove_wrappers(tensors, path).items()
    }


def read_all(paths: Iterable[Path], weights: Weights = "auto") -> dict[str, Tensor]:
    """Read the tensors of several files (shards) into one dictionary."""
    return {name: value for path in paths for name, value in read_tensors(path, weights).items()}


def _recognise_format(path: Path) -> str:
    """Recognise a weight file's format from its first bytes.

    Returns:
        `safetensors` or `torch`.

    Raises:
        SaBenchError: anything else; the message says what it is.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(200)
    except OSError as error:
        raise SaBenchError(f"{path} cannot be read: {error.strerror}.") from error
    if not size:
        problem = "is empty"
    elif start[8:9] == b"{" and int.from_bytes(start[:8], "little") < size:
        return "safetensors"  # before the others: the length of its table may begin like a pickle
    elif start.startswith(b"version https://git-lfs"):
        problem = "is a Git LFS pointer, not the file itself (git lfs pull)"
    elif start.lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        problem = "is a web page, not weights (a login or licence page in place of the file)"
    elif start.startswith(b"PK\x03\x04"):
        if not untrusted_arrays.is_zip(path):
            problem = f"is cut short at {size:,} bytes"
        else:
            try:
                with untrusted_arrays.open_zip(path) as archive:
                    archived_names = archive.namelist()
            except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
                raise SaBenchError(
                    f"{path} is a damaged zip archive: {error}. Get the file again."
                ) from error
            if any(name.rpartition("/")[2] == "data.pkl" for name in archived_names):
                return "torch"
            problem = f"is a zip archive of {_list_first(archived_names)}: unpack it, and name what is in it"
    elif start.startswith(b"\x80"):
        return "torch"
    elif start[8:9] == b"{":
        return "safetensors"  # cut short within its table, which its reader says
    else:
        problem = f"is neither a safetensors file nor one of torch: it begins with {start[:12]!r}"
    raise SaBenchError(f"{path} {problem}. Get the file again. {ACCEPTED}.")


def _load_torch_file(
    path: Path, weights: Weights, lazily: bool = False
) -> tuple[dict[str, Tensor], str, bool]:
    """Load a torch file's tensors without running code from the file.

    Returns:
        The tensors; the names of both sets if weights are stored twice, else ""; whether the
            averaged ones are taken.
    """
    try:
        loaded = untrusted_arrays.load_torch(path, lazily)
    except Exception as error:
        message = str(error)
        if unsafe_class := re.search(r"GLOBAL (\S+)|[Cc]lass (\S+) (?:was|is) not", message):
            raise SaBenchError(
                f"{path} holds more than tensors: reading it would run the code of "
                f"{unsafe_class[1] or unsafe_class[2]}, so it is "
                "not read. If you trust it, keep its weights alone, elsewhere: torch.save({'state_dict': "
                "torch.load(FILE, weights_only=False)['state_dict']}, NEW)."
            ) from error
        lines = [line.strip() for line in message.splitlines() if line.strip()] or [
            type(error).__name__
        ]
        reason = next((line for line in lines if "Unpickler error" in line), lines[0])
        raise SaBenchError(
            f"{path} is damaged or not a file of torch ({reason[:120]}). Get the file again."
        ) from error
    both, averaged = "", False
    if isinstance(loaded, Mapping):
        average_key = next((key for key in AVERAGED if _pick_tensors(loaded.get(key))), "")
        trained_key = TRAINED if _pick_tensors(loaded.get(TRAINED)) else ""
        other_weights = trained_key or ("its own tensors" if _pick_tensors(loaded) else "")
        both = f"{other_weights} and {average_key}" if average_key and other_weights else ""
        averaged = bool(average_key) and weights == "ema"
        loaded = loaded[average_key] if averaged else loaded[TRAINED] if trained_key else loaded
    if not isinstance(loaded, Mapping):
        raise SaBenchError(
            f"{path} holds a {type(loaded).__name__}, not named tensors. {ACCEPTED}."
        )
    tensors = _pick_tensors(loaded)
    if not tensors:
        keys = _list_first([str(key) for key in loaded])
        raise SaBenchError(f"{path} holds no tensor{f' but {keys}' if keys else ''}. {ACCEPTED}.")
    return tensors, both, averaged


def _pick_tensors(value: Any) -> dict[str, Tensor]:
    """Pick the tensors from a mapping; none from anything else."""
    if not isinstance(value, Mapping):
        return {}
    from torch import Tensor

    return {str(key): entry.detach() for key, entry in value.items() if isinstance(entry, Tensor)}
