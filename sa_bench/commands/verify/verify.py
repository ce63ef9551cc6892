"""`verify BUNDLE`: recompute what a stranger's bundle claims, and name the first difference.

Every result is rebuilt from its own fields and compared: its name, its fingerprints, its intervals
from the scores, its values and scores from the images by the same code that `run` uses, the base
model's values beside them, and a few images from the weights. The summary lists what could not be
checked, and what no recomputation can show.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sa_bench.commands.verify import tolerance
from sa_bench.contracts import ignore_event
from sa_bench.core import registry
from sa_bench.core.counts import describe_count
from sa_bench.core.errors import SaBenchError
from sa_bench.core.settings import require_folders
from sa_bench.engine.threads import one_thread
from sa_bench.results.bundles import LIMIT, Bundle, Differs, manifest_facts, open_bundle

if TYPE_CHECKING:  # loads torch
    from sa_bench.commands.verify.cell_check import Tally

REGENERATED = 8  # default number of images per sample set that are generated again
UNPROVED = (
    "No hash and no recomputation shows that the method's code was what its name says, that the fields and seeds were "
    "not picked after looking at results, or that costs were as stated; images that were not generated again from the "
    "weights may come from elsewhere."
)


def verify(
    file: Path,
    regenerate: int = REGENERATED,
    deep: bool = False,
    limit: float = LIMIT,
    device: str = "cpu",
    plug_ins: Sequence[str] = (),
    report: Callable[[str, str, int, int], None] = ignore_event,
) -> list[str]:
    """Recompute what a bundle claims, and return the lines of a summary.

    Args:
        file: the bundle.
        regenerate: images per sample set to generate again from the weights, chosen at random.
        deep: also recompute the metrics that need the model; that may take as long as the run did.
        limit: size in GB that the bundle may unpack to.
        device: device on which images are generated.
        plug_ins: files that define tasks, methods or metrics of the bundle; their code is executed.
        report: called with progress.

    Raises:
        Differs: the first difference: cell, metric, claimed value, recomputed value.
        SaBenchError: the file is not a bundle.
    """
    require_folders()
    for path in plug_ins:
        registry.register(registry.detect_kind(Path(path)), path)
    bundle = open_bundle(file, limit)
    with one_thread():
        return _check_bundle(bundle, regenerate, deep, device, report)


def _check_bundle(
    bundle: Bundle,
    regenerate: int,
    deep: bool,
    device: str,
    report: Callable[[str, str, int, int], None],
) -> list[str]:
    """Recompute what an opened bundle claims; arguments and errors are those of `verify`."""
    from sa_bench.commands.verify.cell_check import CellCheck, Tally, describe_difference

    file, rows = bundle.file, bundle.rows()
    claimed = {k: bundle.manifest.get(k) for k in manifest_facts(rows)}
    if difference := tolerance.first_difference(claimed, manifest_facts(rows)):
        raise Differs(
            f"{file}: manifest.json: {describe_difference(*difference, 'its results say')}"
        )
    tally, cache = Tally(), {}
    for i, row in enumerate(rows):
        name = Path(row.get("folder", "")).name
        report("verify", name, i, len(rows))
        try:
            CellCheck(bundle, row, tally, cache, regenerate, deep, device, report).check()
        except SaBenchError as error:
            raise type(error)(f"{file}: {name}: {error}") from error
        except (
            LookupError,
            TypeError,
            ValueError,
            AttributeError,
            RuntimeError,
            ArithmeticError,
        ) as error:
            raise Differs(
                f"{file}: {name}: it is not what `run` writes ({type(error).__name__}: {error})."
            ) from error
    return summarise(tally, bundle)


def summarise(tally: Tally, bundle: Bundle) -> list[str]:
    """Write the summary of a verification, one line per kind of check."""
    count = tally.counts.get
    lines = [
        f"{bundle.file.name}, by {bundle.origin}: whole; {len(bundle.manifest['members'])} files have the hashes that "
        "the manifest lists",
        f"cells: {count('cells', 0)}, {count('named', 0)} of them what this version makes of their settings",
        f"fingerprints: {count('fingerprints', 0)} equal to this version's",
        f"intervals: {count('intervals', 0)} made again from the scores",
        f"metrics: {count('metrics', 0)} recomputed from the images, {count('bases', 0)} values of base models beside them",
        f"images: {count('images', 0)} made again from the weights"
        + (
            f", the largest difference {describe_count(tally.largest, 'grey level')}"
            if count("images", 0)
            else ""
        ),
    ]
    if any("source" in kind for kind in tally.counts):
        licence = bundle.manifest.get("licence") or "none named"
        lines.append(
            f"code of plug-ins: {count('sources', 0)} with the hashes that the results name (licence: {licence}), "
            f"{count('absent sources', 0)} left out; it lies in {bundle.folder}; read it before you give it to --plug-in"
        )
    for why, what in tally.skipped.items():
        names = [*what]
        more = f" and {len(names) - 6} more" if len(names) > 6 else ""
        lines.append(f"not checked: {', '.join(names[:6])}{more}: {why}")
    return [*lines, UNPROVED]
