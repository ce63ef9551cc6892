"""What a shell offers for a word that is not finished: names of components, without importing them."""

from __future__ import annotations

from collections.abc import Callable, Iterable

FIGURES = {
    "tradeoff": "Forgetting against retention.",
    "pareto": "Forgetting and recovery against retention.",
    "sweep": "The three endpoints over a field, one curve for each method.",
    "samples": "Images of c_f by seeds: the base model's and every method's.",
    "overview": "Images before and after, and how much comes back by the attack.",
}
"""What `figure` draws, by kind."""
KINDS = ("methods", "metrics", "tasks", "suites", "figures")
"""What `list` lists."""


def complete_list(list_names: Callable[[], Iterable[str]]) -> Callable[[str], list[str]]:
    """Make a completion of names, also of the last one in `a,b,c`."""

    def complete(incomplete: str) -> list[str]:
        before, comma, last = incomplete.rpartition(",")
        given = before.split(",")
        return [
            f"{before}{comma}{name}"
            for name in list_names()
            if name.startswith(last) and name not in given
        ]

    return complete


def list_names(*kinds: str) -> list[str]:
    """List the names of all tasks, methods, metrics or suites, by kind."""
    from sa_bench.core.registry import ROOMS, list_entries
    from sa_bench.core.suite_files import list_suites

    names = [entry.name for kind in kinds if kind in ROOMS for entry in list_entries(kind)]
    return names + [name for name, _ in list_suites() if "suite" in kinds]


def list_scales() -> tuple[str, ...]:
    """List the scales."""
    from sa_bench.engine.cells import SCALES

    return SCALES


complete_tasks = complete_list(lambda: list_names("task"))
complete_methods = complete_list(lambda: list_names("method"))
complete_metrics = complete_list(lambda: list_names("metric"))
complete_suites = complete_list(lambda: list_names("suite"))
complete_components = complete_list(lambda: list_names("task", "method", "metric", "suite"))
complete_figures = complete_list(lambda: FIGURES)
complete_kinds = complete_list(lambda: KINDS)
complete_scales = complete_list(list_scales)
