"""List the files that are neither shipped nor computed, and find them on this machine.

Nothing in this file uses the network; `sa_bench.data.assets.fetch` does.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sa_bench.core.errors import MissingAsset, unknown_name
from sa_bench.core.file_state import cached_digest
from sa_bench.core.settings import data_folder, store_folder, weights_folder
from sa_bench.core.untrusted_text import read_object
from sa_bench.data import cifar10, stl10
from sa_bench.data.archives import Archive
from sa_bench.data.assets import locate
from sa_bench.data.assets.download import HUGGING_FACE, LARGEST

Kind = Literal["weights", "prompts", "model", "data"]
GITHUB = "https://raw.githubusercontent.com"
SA = f"{GITHUB}/clear-nus/selective-amnesia/047b600dfbdf17a98bf87b9019dc1db83512260d/sd"
SA_FIM = f"{GITHUB}/clear-nus/selective-amnesia/589e8d4c7b3e6b291e2d7d0915e75631ce9de1be/sd"
ESD = f"{GITHUB}/rohitgandikota/erasing/3d10dd1b2df4ec4e74edcadac4200c7401585138/data"
GIPHY = f"{GITHUB}/Giphy/celeb-detection-oss/42618c6862fd8b8a464aa98ed59e5ab6e4405c1b/examples/resources"
HUB = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
IN_HUB = re.compile(r"https://huggingface\.co/datasets/([^/]+/[^/]+)/resolve/main/(.+)")


@dataclass(frozen=True)
class Asset:
    """One file, or one folder of the Hugging Face hub."""

    name: str  # its name on the command line of `fetch`
    file: str  # its name where it is stored; for a local model its path
    url: str  # its source; "" for a file of the user's own
    sha256: str  # the complete digest or its beginning; "" if none is published
    size: str  # in words
    licence: str
    gated: bool  # whether its owner may require accepting the licence first
    unlocks: str
    kind: Kind
    note: str = ""
    md5: str = ""
    """Of an archive whose publisher gives no sha256; compared when it is fetched and read."""
    files: tuple[str, ...] = ()
    """What a hub folder must hold; () requires a pipeline, or a network and its weights."""
    convert: str = ""
    """`module:function` that converts what is fetched to the file; "" if it is the file itself."""
    member: str = ""  # the file to convert in an archive that is fetched
    check: str = ""  # `module:function` that reads the file and refuses a wrong one

    @property
    def hub(self) -> str:
        """Id `owner/name` of a folder on the hub; "" for a file."""
        repository = self.url.removeprefix(f"{HUGGING_FACE}/")
        return repository if repository != self.url and HUB.fullmatch(repository) else ""


def _make_prompt_asset(
    file: str, folder: str, sha256: str, size: str, unlocks: str, licence: str = "MIT"
) -> Asset:
    """Describe a prompt file, which is named after itself, as an asset."""
    name = file.rpartition(".")[0]
    return Asset(name, file, f"{folder}/{file}", sha256, size, licence, False, unlocks, "prompts")


def _list_assets() -> Iterable[Asset]:
    """Yield every asset of the catalogue."""
    yield Asset(
        "inception-v3-compat",
        "weights-inception-2015-12-05-6726825d.pth",
        "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth",
        "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
        "95 MB",
        "Apache-2.0, torch-fidelity's port",
        False,
        "inception_fid, inception_kid, inception_precision, inception_recall, official_*",
        "weights",
    )
    yield Asset(
        "giphy-celebrities",
        "giphy-celebrities.safetensors",
        "https://s3.amazonaws.com/giphy-public/models/celeb-detection/resources.tar.gz",
        "",
        "about 100 MB",
        "GIPHY's celebrity detector, MPL-2.0; its weights are not shipped",
        False,
        "celebrity_score",
        "weights",
        "converted from face_recognition/best_model_states.pkl of the archive",
        convert="sa_bench.scoring.detectors.celebrities:convert",
        member="best_model_states.pkl",
    )
    yield Asset(
        "giphy-labels",
        "giphy-labels.csv",
        f"{GIPHY}/face_recognition/labels.csv",
        "",
        "67 kB",
        "GIPHY's celebrity detector, MPL-2.0; its weights are not shipped",
        False,
        "celebrity_score",
        "weights",
        check="sa_bench.scoring.detectors.celebrities:read_labels",
    )
    yield Asset(
        "facenet-vggface2",
        "20180402-114759-vggface2.pt",
        "https://github.com/timesler/facenet-pytorch/releases/download/v2.2.9/20180402-114759-vggface2.pt",
        "",
        "107 MB",
        "facenet-pytorch, MIT; weights trained on VGGFace2, which is for research alone, and not shipped",
        False,
        "identity_similarity",
        "weights",
    )
    yield Asset(
        "clip-vit-base-patch32",
        "clip-vit-base-patch32",
        f"{HUGGING_FACE}/openai/clip-vit-base-patch32",
        "",
        "605 MB",
        "OpenAI's CLIP, MIT; its weights are not shipped",
        False,
        "clip_score",
        "weights",
        files=("config.json", "model.safetensors", "preprocessor_config.json"),
    )
    yield Asset(
        "alexnet",
        "alexnet-owt-7be5be79.pth",
        "https://download.pytorch.org/models/alexnet-owt-7be5be79.pth",
        "7be5be791159472b1fbf3c69796f7cb30dca7ad8466c2df70058c37116cdee02",
        "233 MB",
        "lpips, BSD-2-Clause; AlexNet's weights (torchvision, BSD-3-Clause) are not shipped",
        False,
        "lpips",
        "weights",
    )
    yield Asset(
        "resnet34-imagenet",
        "resnet34-b627a593.pth",
        "https://download.pytorch.org/models/resnet34-b627a593.pth",
        "b627a593",
        "87 MB",
        "torchvision's ResNet-34 (IMAGENET1K_V1), BSD-3-Clause",
        False,
        "the judges of cifar10_airplane and stl10_airplane, which are trained from it",
        "weights",
    )
    yield Asset(
        "sd-v1-4",
        "stable-diffusion-v1-4",
        f"{HUGGING_FACE}/CompVis/stable-diffusion-v1-4",
        "",
        "about 4.3 GB (float32, without the safety checker)",
        "CreativeML OpenRAIL-M",
        True,
        "every task whose base model is Stable Diffusion 1.4",
        "model",
    )
    yield Asset(
        "sd-v2-1",
        "stable-diffusion-2-1",
        f"{HUGGING_FACE}/stabilityai/stable-diffusion-2-1",
        "",
        "about 5.2 GB (float32)",
        "CreativeML Open RAIL++-M",
        False,
        "the comparison with Stable Diffusion 2.1 in the nudity tasks",
        "model",
        "its maker took it off the hub in November 2025: use a copy of your own",
    )
    yield _make_prompt_asset(
        "brad_pitt_prompts.txt",
        SA,
        "bfb3c48798818157943df7b1504f07eadd51cb71dc99cba1c5f70728bb5ed209",
        "1.5 kB",
        "celeb_brad_pitt with the published 50 prompts",
    )
    yield _make_prompt_asset(
        "angelina_jolie_prompts.txt",
        SA,
        "4b0f3270370811bff193973fe5d3bfd225083a2030add057217d912ee90a73b3",
        "1.7 kB",
        "celeb_angelina_jolie with the published 50 prompts",
    )
    yield _make_prompt_asset(
        "fim_prompts.txt", SA_FIM, "", "0.9 MB", "the published 5,000 prompts of replay and Fisher"
    )
    yield Asset(
        "i2p",
        "i2p_benchmark.csv",
        f"{HUGGING_FACE}/datasets/AIML-TUDA/i2p/resolve/main/i2p_benchmark.csv",
        "",
        "4,703 rows",
        "MIT",
        False,
        "nudity_i2p",
        "prompts",
        "it holds disturbing texts",
    )
    yield _make_prompt_asset(
        "unsafe-prompts4703.csv", ESD, "", "1.4 MB", "nudity_i2p with ESD's copy of I2P"
    )
    yield _make_prompt_asset(
        "coco_30k.csv",
        ESD,
        "",
        "2.5 MB",
        "retention on COCO captions (1,000 of its rows)",
        "CC BY 4.0 (COCO captions)",
    )


CATALOGUE: Mapping[str, Asset] = {asset.name: asset for asset in _list_assets()}
"""Every asset by name."""


@dataclass(frozen=True)
class ArchivedData:
    """A data set that lies in one archive."""

    archive: Callable[[], Archive]
    """Describes the archive."""
    licence: str
    unlocks: str
    """What needs it."""


DATA: Mapping[str, ArchivedData] = {
    "cifar10": ArchivedData(
        lambda: cifar10.archive(), "no explicit licence; cite Krizhevsky 2009", "cifar10_airplane"
    ),
    "stl10": ArchivedData(
        lambda: stl10.archive(),
        "derived from ImageNet: research use; cite Coates, Ng, Lee 2011",
        "stl10_airplane",
    ),
}
"""Data sets in one archive, by name."""


def get(name: str) -> Asset:
    """Return an asset by its name, its file's name or its hub id.

    An unknown hub id is taken as a model about which nothing is known.

    Raises:
        SaBenchError: it is none of these; the message names the nearest.
    """
    if name in DATA:
        return get_dataset(name)
    for asset in CATALOGUE.values():
        if name in (asset.name, asset.file, asset.hub):
            return asset
    if HUB.fullmatch(name) and not Path(name).exists():
        url, folder = f"{HUGGING_FACE}/{name}", name.rpartition("/")[2]
        return Asset(
            name,
            folder,
            url,
            "",
            "size not known",
            "see its page",
            False,
            "tasks that name it",
            "model",
        )
    raise unknown_name("asset", name, [*CATALOGUE, *DATA], "doctor")


def get_dataset(name: str) -> Asset:
    """Return the archive of a data set in `DATA` as an asset."""
    archive = DATA[name].archive()
    return Asset(
        name,
        archive.file,
        archive.url,
        "",
        archive.size,
        DATA[name].licence,
        False,
        DATA[name].unlocks,
        "data",
        md5=archive.md5,
    )


def get_model(reference: str) -> Asset:
    """Return the asset behind a task's `model`: a hub id, or a path of the user's own."""
    if Path(reference).expanduser().exists() or not HUB.fullmatch(reference):
        return Asset(
            reference,
            reference,
            "",
            "",
            "size not known",
            "your own file",
            False,
            "this task",
            "model",
        )
    return get(reference)


def find(asset: Asset | str) -> Path | None:
    """Find an asset on this machine, in the first place that has it.

    Returns:
        Its path; None if it is nowhere.

    Raises:
        MissingAsset: what lies there is damaged or incomplete; the message names it and what to do.
        SaBenchError: there is no asset of that name.
    """
    asset = get(asset) if isinstance(asset, str) else asset
    for path in list_places(asset):
        if path.exists():
            if reason := describe_damage(asset, path):
                prefix = "Remove it, then run: " if is_own(path) else ""
                raise MissingAsset(
                    f"{path} {reason}. {prefix}python -m sa_bench fetch {asset.name}"
                )
            return path
    return None


def need(asset: Asset | str) -> Path:
    """Find an asset on this machine that must be there.

    Raises:
        MissingAsset: it is nowhere, or damaged; the message says what it is, where it comes from
            and where it goes.
        SaBenchError: there is no asset of that name.
    """
    asset = get(asset) if isinstance(asset, str) else asset
    if (path := find(asset)) is not None:
        return path
    if not asset.url:
        raise MissingAsset(
            f"There is no model {asset.file}: it is neither a path here nor a hub id (owner/name)."
        )
    note = f", {asset.note}" if asset.convert else ""
    raise MissingAsset(
        f"needs {asset.file} ({asset.size}{note}): python -m sa_bench fetch {asset.name}, or get it from {asset.url} "
        f"and put it into {download_target(asset).parent} ({_name_folder_variable(asset)} names another folder)"
    )


def short_hash(name: str, member: str = "") -> str:
    """Return 16 hex digits of an asset's sha256, or of a file inside its folder, for fingerprints.

    Returns:
        The digits; `absent` if the asset is missing or damaged.
    """
    try:
        path = find(name)
    except MissingAsset:
        path = None
    return cached_digest(path / member if member else path)[:16] if path is not None else "absent"


def download_target(asset: Asset) -> Path:
    """Return where `fetch` puts an asset: the store, which is searched before every cache."""
    return (
        store_folder() / ("weights" if asset.kind in ("weights", "model") else "data") / asset.file
    )


def list_places(asset: Asset) -> list[Path]:
    """List the places where an asset may lie, in the order in which they are searched."""
    if not asset.url:
        return [Path(asset.file).expanduser()]
    if asset.kind == "weights":
        return locate.list_places(asset.file, asset.hub)
    if asset.kind == "data":
        local_path = DATA[asset.name].archive().local(data_folder())
        return [*([local_path] if local_path else []), download_target(asset)]
    user_folder = weights_folder() if asset.kind == "model" else data_folder()
    places = [*([user_folder / asset.file] if user_folder else []), download_target(asset)]
    if asset.hub:
        cached = [locate.hub_file(asset.hub, name) for name in ("model_index.json", "config.json")]
        places += [path.parent for path in cached if path is not None]
    elif in_hub := IN_HUB.fullmatch(asset.url):
        places += filter(None, [locate.hub_file(in_hub[1], in_hub[2], "dataset")])
    return places


def largest_download(asset: Asset) -> int:
    """Return the most bytes of a download: twice the catalogue's size, and at least 16 MB."""
    size_match = re.search(r"([\d.]+) ([kMG]?)B", asset.size)
    size = (
        float(size_match[1]) * {"": 1, "k": 1e3, "M": 1e6, "G": 1e9}[size_match[2]]
        if size_match
        else LARGEST / 2
    )
    return max(16_000_000, int(2 * size))


def is_own(path: Path) -> bool:
    """Return whether `path` lies in a folder that the user named, which `fetch` never writes to."""
    return any(
        folder is not None and folder in path.parents
        for folder in (weights_folder(), data_folder())
    )


def describe_damage(asset: Asset, path: Path) -> str | None:
    """Say what is wrong with an asset at `path`.

    Returns:
        Words that follow its name; None if nothing is wrong.
    """
    if asset.files:
        missing_files = [name for name in asset.files if not (path / name).is_file()]
        return f"lacks {', '.join(missing_files)}" if missing_files else None
    if asset.hub:
        return f"lacks {missing}" if (missing := find_lacking(path)) else None
    expected = locate.longest_known_sha256(asset.sha256, locate.recorded_sha256(path))
    if not expected or not path.is_file():
        return None
    sha256 = cached_digest(path)
    if sha256.startswith(expected):
        return None
    return f"is damaged or another file: its sha256 is {sha256[:16]}..., not {expected[:16]}..."


def find_lacking(folder: Path) -> str:
    """Find what a folder lacks of a diffusers pipeline, or of one network with its configuration.

    Returns:
        What is missing; "" if nothing is.
    """
    if not (folder / "model_index.json").is_file():
        if not (folder / "config.json").is_file():
            return "model_index.json"
        return "" if _has_weights(folder) else "its weights"
    try:
        model_index = read_object(folder / "model_index.json")
    except (OSError, ValueError):
        return "a readable model_index.json"
    networks = [
        name
        for name in ("unet", "vae", "text_encoder", "transformer")
        if (model_index.get(name) or [None])[0]
    ]
    return next(
        (f"the weights in {name}/" for name in networks if not _has_weights(folder / name)), ""
    )


def _has_weights(folder: Path) -> bool:
    """Return whether a folder holds a weight file."""
    return any(
        path.is_file() for ending in ("safetensors", "bin") for path in folder.glob(f"*.{ending}")
    )


def _name_folder_variable(asset: Asset) -> str:
    """Return the environment variable that names another folder for an asset."""
    return "SA_BENCH_WEIGHTS" if asset.kind in ("weights", "model") else "SA_BENCH_DATA"
