"""`verify BUNDLE`: is what a stranger says of images what this machine says of them? The first difference is named.

Every result is rebuilt from its own fields and compared: its name, its fingerprints, its intervals from the scores,
its values and scores from the images by the same code that `run` uses, the base model's beside them, and a few images
from the weights. What could not be looked at is listed, and so is what no recomputation can show.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from sa_bench.commands.verify import tolerance
from sa_bench.commands.verify.cell_check import CellCheck, Tally, describe_difference
from sa_bench.core import registry
from sa_bench.core.errors import SaBenchError
from sa_bench.core.settings import require_folders
from sa_bench.results.bundles import LIMIT, Bundle, Differs, manifest_facts, open_bundle

REGENERATED = 8  # images of every set, unless asked otherwise
UNPROVED = (
    "No hash and no recomputation shows that the method's code was what its name says, that the fields and seeds were "
    "not picked after looking, or that costs were as told; images that were not made again from the weights may come "
    "from elsewhere."
)


def verify(
    file: Path,
    regenerate: int = REGENERATED,
    deep: bool = False,
    limit: float = LIMIT,
    device: str = "cpu",
    plug_ins: Sequence[str] = (),
    report: Callable[[str, str, int, int], None] = lambda *event: None,
) -> list[str]:
    """Recompute what a bundle says; the summary, a line each.

    Args:
        file: the bundle.
        regenerate: images of every set to make again from the weights, chosen at random.
        deep: also the metrics that need the model, which may take as long as the run did.
        limit: GB that it may unpack to.
        device: for sampling.
        plug_ins: files that define tasks, methods or metrics of the bundle; they are run.
        report: progress.

    Raises:
        Differs: the first difference: cell, metric, what the bundle says, what was found.
        SaBenchError: the file is no bundle.
    """
    require_folders()
    for path in plug_ins:
        registry.register(registry.detect_kind(Path(path)), path)
    bundle = open_bundle(file, limit)
    rows = bundle.rows()
    claimed = {k: bundle.manifest.get(k) for k in manifest_facts(rows)}
    if found := tolerance.first_difference(claimed, manifest_facts(rows)):
        raise Differs(f"{file}: manifest.json: {describe_difference(*found, 'its results say')}")
    tally, seen = Tally(), {}
    for i, row in enumerate(rows):
        report("verify", Path(row["folder"]).name, i, len(rows))
        try:
            CellCheck(bundle, row, tally, seen, regenerate, deep, device, report).check()
        except SaBenchError as error:
            raise type(error)(f"{file}: {Path(row['folder']).name}: {error}") from error
        except (
            LookupError,
            TypeError,
            ValueError,
            AttributeError,
            RuntimeError,
            ArithmeticError,
        ) as error:
            raise Differs(
                f"{file}: {Path(row['folder']).name}: it is not what `run` writes "
                f"({type(error).__name__}: {error})."
            ) from error
    return summarise(tally, bundle)


def summarise(tally: Tally, bundle: Bundle) -> list[str]:
    """The summary for people."""
    n = tally.counts.get
    found = [
        f"{bundle.file.name}, by {bundle.origin}: whole; {len(bundle.manifest['members'])} files have the hashes that "
        "the manifest gives",
        f"cells: {n('cells', 0)}, {n('named', 0)} of them what this version makes of their settings",
        f"fingerprints: {n('fingerprints', 0)} equal to this version's",
        f"intervals: {n('intervals', 0)} made again from the scores",
        f"metrics: {n('metrics', 0)} recomputed from the images, {n('bases', 0)} values of base models beside them",
        f"images: {n('images', 0)} made again from the weights"
        + (f", the largest difference {tally.largest} grey level(s)" if n("images", 0) else ""),
    ]
    for why, what in tally.skipped.items():
        names = [*what]
        more = f" and {len(names) - 6} more" if len(names) > 6 else ""
        found.append(f"not checked: {', '.join(names[:6])}{more}: {why}")
    return [*found, UNPROVED]
