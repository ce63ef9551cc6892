"""Describe counts of things in words."""

from __future__ import annotations


def describe_count(count: int, noun: str) -> str:
    """Describe how many there are: `1 cell`, `2 cells`, `1,085 runs`; the plural of `noun` ends in s or es."""
    plural = "es" if noun.endswith("s") else "s"
    return f"{count:,} {noun}{'' if count == 1 else plural}"
