"""Kill commands at chosen points, let the same command go on, and compare bits with an uninterrupted run.

    python tests/kills.py [KILLS] [SEED] [COMMAND,COMMAND]

Of commands that are not named, if some are, none is killed.

The libraries are loaded once and every attempt is a fork: an attempt takes seconds. A point is the n-th time that a
process is about to touch the disk (a write's fsync, a rename, an unlink, a lock), n drawn by the seed from all that an
uninterrupted run does; there SIGKILL ends it and its workers. After the kills of a command it is let through, and
everything that it made must be what the uninterrupted one made, byte for byte where it holds no time of day; no
process, temporary file, lock or unfinished stage may be left.
"""

from __future__ import annotations

import atexit
import fcntl
import hashlib
import json
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))
TINY = [
    "--scale", "quick", "--set", "task.n_forget=20", "--set", "task.n_retain=4", "--set", "task.recovery_budgets=0,2",
    "--set", "task.recovery_images=4", "--set", "task.feature_images=10",
]  # fmt: skip
VAE = [*TINY, "--set", "task.likelihood_images=4"]
DIFFUSION = [*TINY, "--set", "task.sampler.steps=4"]
POINTS = ("fsync", "replace", "rename", "unlink", "mkdir", "flock")
LEFT = (".tmp", ".part", ".partial", ".lock", ".held", ".gone", ".use")
PER_ATTEMPT = 600  # seconds after which a command counts as hanging


@dataclass(frozen=True)
class Command:
    """A command, what it writes, and which share of the kills it gets."""

    name: str
    words: list[str]
    share: int
    made: tuple[str, ...] = ()  # files and folders compared


def commands() -> list[Command]:
    """Every command that writes something, in an order in which each finds what it needs."""
    run = ["run", "--seed", "0", "--task"]
    esd = ["--set", "esd.steps=3", "--set", "esd.batch=2", "--set", "esd.ddim_steps=4"]
    few = ["--set", "sa.steps=40", "--set", "sa.fisher.n=300"]
    return [
        Command("run vae", [*run, "mnist_0", "-m", "sa", *VAE, *few, "--out", "vae"], 18, ("vae",)),
        Command("run ddpm", [*run, "mnist_0_ddpm", "-m", "sa", *DIFFUSION, "--set", "sa.steps=3",
                "--set", "sa.fisher.n=4", "--set", "sa.fisher.timesteps=4", "--out", "ddpm"], 14, ("ddpm",)),
        Command("run t2i", [*run, "mnist_0_t2i", "-m", "esd", *DIFFUSION, *esd, "--out", "t2i"], 14, ("t2i",)),
        Command("run --jobs 2", [*run, "mnist_0", "-m", "sa,relabel", *VAE, *few,
                "--jobs", "2", "--out", "jobs"], 8, ("jobs",)),
        Command("evaluate", ["evaluate", "images", "--task", "mnist_0", *VAE, "--out", "mine"], 8, ("mine",)),
        Command("report", ["report", "vae", "ddpm", "--out", "r.html"], 6, ("r.html",)),
        Command("table", ["table", "leaderboard", "vae", "--out", "t.md"], 4, ("t.md",)),
        Command("figure", ["figure", "tradeoff", "vae", "--out", "f.svg"], 3, ("f.svg",)),
        Command("pack", ["pack", "vae", "ddpm", "p.jsonl.xz"], 4, ("p.jsonl.xz",)),
        Command("bundle", ["bundle", "vae", "--with-models", "--out", "b.sabench.zip"], 6, ("b.sabench.zip",)),
        Command("verify", ["verify", "b.sabench.zip", "--regenerate", "2"], 12),
        Command("export vae", ["export", "vae/CELL", "out-vae"], 5, ("out-vae",)),
        Command("export t2i", ["export", "t2i/CELL", "out-t2i"], 5, ("out-t2i",)),
        Command("fetch", ["fetch", "fim_prompts", "facenet-vggface2", "--from", "mirror"], 7,
                ("store/weights", "store/data/fim_prompts.txt", "store/data/fim_prompts.txt.sha256")),
    ]  # fmt: skip


def prepare(place: Path, data: Path) -> None:
    """Give `place` a store with MNIST, images to evaluate and a folder to fetch from."""
    (place / "store").mkdir(parents=True)
    shutil.copytree(data, place / "store" / "data")
    from sa_bench.data.datasets import load

    test = load("mnist").test
    from PIL import Image

    for c in range(10):
        folder = place / "images" / ("forget" if c == 0 else f"retain/{c}")
        folder.mkdir(parents=True)
        for i, image in enumerate(test.images[test.labels == c][: 20 if c == 0 else 4]):
            Image.fromarray(image[..., 0]).save(folder / f"{i}.png")
    (place / "mirror").mkdir()
    (place / "mirror" / "fim_prompts.txt").write_text(
        "".join(f"a portrait, {i}\n" for i in range(5000))
    )
    from sa_bench.scoring.detectors import identity

    (place / "mirror" / identity.FILE).write_bytes(random.Random(1).randbytes(3_000_000))


def attempt(place: Path, words: list[str], kill_at: int = 0) -> tuple[int, int, str]:
    """Run a command in a fork; (its wait status, points counted, what it printed). `kill_at` 0: to its end."""
    log, count = place / "log", place / "count"
    shutil.rmtree(count, ignore_errors=True)
    count.mkdir()
    child = os.fork()
    if child == 0:
        try:
            _become(place, words, kill_at, log, count)
        except SystemExit as stop:
            _leave(int(stop.code or 0))
        except BaseException:
            traceback.print_exc()
        _leave(99)
    deadline, status = time.monotonic() + PER_ATTEMPT, None
    while status is None:
        done, found = os.waitpid(child, os.WNOHANG)
        if done:
            status = found
        elif time.monotonic() > deadline:
            os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
            raise TimeoutError(f"{' '.join(words)} hangs: {log.read_text()[-2000:]}")
        time.sleep(0.01)
    return status, sum(int(p.read_text()) for p in count.iterdir()), log.read_text()


def _leave(code: int) -> None:
    try:
        atexit._run_exitfuncs()
        sys.stdout.flush()
    finally:
        os._exit(code)


def _become(place: Path, words: list[str], kill_at: int, log: Path, count: Path) -> None:
    os.setsid()
    atexit._clear()
    os.chdir(place)
    os.environ |= {"SA_BENCH_STORE": str(place / "store"), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1",
                   "KILL_AT": str(kill_at), "KILL_COUNT": str(count)}  # fmt: skip
    for name in ("SA_BENCH_DATA", "SA_BENCH_WEIGHTS", "SA_BENCH_MIRROR"):
        os.environ.pop(name, None)
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    arm()
    from sa_bench.commands import app

    sys.argv = ["sa_bench", *words]
    app.main()


def arm() -> None:
    """Count this process's points, and end its group at the one that KILL_AT names; every step is kept by training."""
    kill_at, seen = int(os.environ["KILL_AT"]), [0]
    file = Path(os.environ["KILL_COUNT"]) / str(os.getpid())

    def counted(module: object, name: str) -> None:
        real = getattr(module, name)

        def call(*arguments, **named):
            seen[0] += 1
            if seen[0] == kill_at:
                os.killpg(0, signal.SIGKILL)
            return real(*arguments, **named)

        setattr(module, name, call)

    for name in POINTS:
        counted(fcntl if name == "flock" else os, name)
    from sa_bench.training import fisher
    from sa_bench.training.loop import fit

    fit.__kwdefaults__["every"] = 0.0
    fisher.EVERY = 0.0
    atexit.register(lambda: file.write_text(str(seen[0])))


def digests(place: Path, made: tuple[str, ...]) -> dict[str, str]:
    """What was made, by name: bytes, of results and of what is made of them without times and costs."""
    found = {}
    for name in made:
        files = [place / name] if (place / name).is_file() else sorted((place / name).rglob("*"))
        for file in files:
            if file.is_file() and not file.name.startswith("."):
                found[file.relative_to(place).as_posix()] = hashlib.sha256(
                    _plain(file)
                ).hexdigest()[:12]
    return found


def _plain(file: Path) -> bytes:
    if file.name == "result.json":
        row = json.loads(file.read_text())
        return json.dumps(
            [row["measurements"], row["artifacts"], row["flags"], row["status"]]
        ).encode()
    if file.name == "report.html":
        return b""  # it tells seconds; `report` is compared from one and the same results
    return file.read_bytes()


def left_over(place: Path) -> list[str]:
    """Processes, temporary files, locks and unfinished stages that are still there."""
    found = [
        path.relative_to(place).as_posix() for path in place.rglob("*")
        if path.name.endswith(LEFT) or path.name == ".parts"
    ]  # fmt: skip
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            ours = f"SA_BENCH_STORE={place / 'store'}".encode() in (entry / "environ").read_bytes()
            state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        found += [f"process {entry.name}"] if ours and state != "Z" else []
    return found


def with_cell(words: list[str], place: Path) -> list[str]:
    """The words with the one cell of a run in place of `CELL`."""
    found = []
    for word in words:
        if word.endswith("/CELL"):
            run = place / word.removesuffix("/CELL")
            word = str(next(run.glob("*/result.json")).parent.relative_to(place))
        found.append(word)
    return found


def campaign(kills: int, seed: int, only: list[str], data: Path, place: Path) -> dict[str, int]:
    """Do it all under `place`; the counts, of which every one but `kills` and `resumed` must be 0."""
    dice, todo = random.Random(seed), commands()
    totals = {"kills": 0, "resumed": 0, "differ": 0, "orphans": 0, "failed": 0, "tracebacks": 0}
    whole, killed = place / "whole", place / "killed"
    for folder in (whole, killed):
        os.environ["SA_BENCH_STORE"] = str(folder / "store")
        prepare(folder, data)
    shares = sum(command.share for command in todo)
    for command in todo:
        status, points, said = attempt(whole, with_cell(command.words, whole))
        if status:
            raise RuntimeError(f"{command.name} fails by itself: {said[-2000:]}")
        if command.name in (
            "report",
            "table",
            "figure",
            "pack",
            "bundle",
            "verify",
            "export vae",
            "export t2i",
        ):
            # These work on results, which tell times: both work on the same ones, at the same place and names.
            for run in ("vae", "ddpm", "t2i"):
                shutil.rmtree(killed / run, ignore_errors=True)
                shutil.copytree(whole / run, killed / run)
        if command.name == "verify":
            shutil.copyfile(whole / "b.sabench.zip", killed / "b.sabench.zip")
        wanted, reached, ends = max(1, round(kills * command.share / shares)), 0, []
        wanted = wanted if command.name in (only or [command.name]) else 0
        before = set(killed.glob("store/*/*"))
        for _ in range(3 * wanted):
            if reached == wanted:
                break
            at = dice.randint(1, max(1, points))
            status, _, said = attempt(killed, with_cell(command.words, killed), at)
            ends.append(at)
            reached += os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
            totals["tracebacks"] += "Traceback" in said
            if not os.WIFSIGNALED(status) and status and "is not empty" not in said:
                totals["failed"] += 1
                print(f"  {command.name}, point {at}: failed after a kill: {said[-800:]}")
            elif not os.WIFSIGNALED(status):
                ends = []
                _forget(killed, command, before)  # it was done before its point: it begins anew
        status, _, said = attempt(killed, with_cell(command.words, killed))
        if status and command.name.startswith("export") and "is not empty" in said:
            status = 0  # the last kill came after the last rename: what is there is compared
        good, orphans = not status, left_over(killed)
        differ = [
            name for name, value in digests(whole, command.made).items()
            if digests(killed, command.made).get(name) != value
        ]  # fmt: skip
        totals["kills"] += reached
        totals["resumed"] += reached if good and not differ else 0
        totals["failed"] += not good
        totals["differ"] += len(differ)
        totals["orphans"] += len(orphans)
        totals["tracebacks"] += "Traceback" in said
        print(
            f"{command.name}: {points} points, {reached} of {wanted} killed, "
            f"{'resumed' if good else 'FAILED: ' + said[-500:]}"
            f"{f', differ after kills at {ends}: ' + ', '.join(differ[:4]) if differ else ', the same bits'}"
            f"{', left: ' + ', '.join(orphans[:4]) if orphans else ', nothing left'}",
            flush=True,
        )
    return totals


def _forget(place: Path, command: Command, before: set[Path]) -> None:
    """Delete what the command made, in the store too."""
    for path in [
        *(place / name for name in command.made),
        *(set(place.glob("store/*/*")) - before),
    ]:
        shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)


def load() -> None:
    """Load what the commands load, once."""
    import torch

    torch.set_num_threads(1)
    from sa_bench.reports import figures, html  # noqa: F401

    from sa_bench.models import family
    from sa_bench.results import bundles  # noqa: F401

    for name in family.list_families():
        family.get_family(name).load_generator()


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    multiprocessing.set_start_method("spawn")
    words = [*sys.argv[1:], *("110", "17", "")[len(sys.argv) - 1 :]]
    kills, seed, only = int(words[0]), int(words[1]), [name for name in words[2].split(",") if name]
    began, folder = time.monotonic(), Path(tempfile.mkdtemp(prefix="kills-"))
    load()
    os.environ["SA_BENCH_STORE"] = os.environ.get("SA_BENCH_TEST_STORE") or str(folder / "cache")
    from sa_bench.data.datasets import load as dataset

    dataset("mnist")
    cached = Path(os.environ["SA_BENCH_STORE"]) / "data"
    result = campaign(kills, seed, only, cached, folder)
    print(
        f"{', '.join(f'{n} {name}' for name, n in result.items())}; {time.monotonic() - began:.0f} s, seed {seed}"
    )
    shutil.rmtree(folder)
    sys.exit((not only and result["kills"] < kills * 0.9) or result["kills"] != result["resumed"] or any(
        result[name] for name in ("differ", "orphans", "failed", "tracebacks")))  # fmt: skip
