"""The fuzzer: seeded damage to a valid file of every kind, each case in a child with little memory and time.

    python tests/fuzz/run.py [SECONDS] [SEED]

A case passes if its reader succeeds or raises a `SaBenchError` of one line. A failing one prints its reader and seed:
`python tests/fuzz/run.py 0 SEED READER` repeats it.
"""

import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path

TESTS = Path(__file__).parents[1]
sys.path[:0] = [str(TESTS / "fuzz"), str(TESTS / "support")]

MEMORY = 3 * 2**29  # bytes of address space that a case may take beyond what the libraries take
SECONDS = 20  # of a case
BATCH = 40  # cases a child


def damaged(name: str, path: Path, seed: int) -> bytes:
    """Case `seed` of a reader."""
    import readers
    from mutate import mutated

    rng = random.Random(f"{name}/{seed}")
    raw = path.read_bytes()
    if rng.random() < 0.5:
        if (parts := readers.inside(name, raw)) is not None:
            return readers.closed(name, [mutated(part, rng) for part in parts])
        if raw.startswith(b"PK"):
            return readers.rezipped(
                path, lambda _, part: mutated(part, rng) if rng.random() < 0.5 else part
            )
    return mutated(raw, rng)


def failure(name: str, path: Path, raw: bytes, seed: int) -> str:
    """Run one case here; what is wrong with its outcome, empty: nothing."""
    import readers

    from sa_bench.core.errors import SaBenchError

    before, start = path.read_bytes(), time.process_time()
    path.write_bytes(raw)
    try:
        readers.READERS[name](path)
    except SaBenchError as error:
        if "\n" in str(error) or len(str(error)) > 2000:
            return f"{name} {seed}: an error of several lines or {len(str(error))} letters: {str(error)[:300]!r}"
    except MemoryError:
        return f"{name} {seed}: out of memory\n{traceback.format_exc()}"
    except BaseException:
        return f"{name} {seed}: a traceback\n{traceback.format_exc()}"
    finally:
        path.write_bytes(before)
    took = time.process_time() - start
    return f"{name} {seed}: took {took:.1f} s" if took > SECONDS else ""


def batch(cases: list[tuple[str, int]], files: dict[str, Path]) -> list[str]:
    """Run cases in a forked child under limits; what failed."""
    read, write = os.pipe()
    child = os.fork()
    if not child:
        os.close(read)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        pages = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (pages + MEMORY, pages + MEMORY))
        for name, seed in cases:
            os.write(write, f"@{name} {seed}\0".encode())
            signal.alarm(4 * SECONDS)
            said = failure(name, files[name], damaged(name, files[name], seed), seed)
            if said:
                os.write(write, f"{said[:3000]}\0".encode())
        os._exit(0)
    os.close(write)
    told = b""
    while block := os.read(read, 2**16):
        told += block
    os.close(read)
    _, status = os.waitpid(child, 0)
    parts = [part for part in told.decode(errors="replace").split("\0") if part]
    found = [part for part in parts if not part.startswith("@")]
    if status:
        last = [part for part in parts if part.startswith("@")][-1:]
        found.append(
            f"{last}: the process ended with {status} (a signal, or no time or memory left)"
        )
    return found


def main(seconds: float, seed: int, only: str = "", count: int = 0) -> int:
    """Fuzz until the time is up (or `count` cases of each reader are done); the number of failures."""
    folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
    os.environ["SA_BENCH_STORE"] = str(folder / "bundles-store")
    import readers
    import torch  # noqa: F401 - before the limits, as all that is slow to load

    kept = readers.files(folder)
    names = [name for name in readers.READERS if only in ("", name)]
    for name in names:
        readers.READERS[name](kept[name]) if name not in ("index", "gif") else None
    until, done, failures = time.monotonic() + seconds, 0, []
    try:
        if only:
            return len([print(f) for f in batch([(only, seed)], kept)])
        while time.monotonic() < until if not count else done < count * len(names):
            cases = [
                (names[(done + i) % len(names)], seed + (done + i) // len(names))
                for i in range(BATCH)
            ]
            failures += batch(cases, kept)
            done += len(cases)
            shutil.rmtree(folder / "bundles-store", ignore_errors=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    for text in failures[:50]:
        print(text)
    print(f"{done} cases over {len(names)} readers, {len(failures)} failure(s)")
    return len(failures)


if __name__ == "__main__":
    words = sys.argv[1:]
    sys.exit(
        1
        if main(float(words[0]) if words else 600, int(words[1]) if words[1:] else 0, *words[2:3])
        else 0
    )
