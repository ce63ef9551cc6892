"""Read lists that a person types."""

from __future__ import annotations

from sa_bench.core.errors import SaBenchError


def split_list(joined: str) -> list[str]:
    """Split `a,b` at its commas.

    Raises:
        SaBenchError: the list is empty.
    """
    items = [item.strip() for item in joined.split(",") if item.strip()]
    if not items:
        raise SaBenchError(f"An empty list: {joined!r}. Give names or numbers separated by commas.")
    return items
