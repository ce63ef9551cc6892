"""Describe counts of things in words."""

from __future__ import annotations


def describe_count(count: int, noun: str) -> str:
    """Describe how many there are: `1 cell`, `2 cells`, `1,085 runs`; the plural of `noun` ends in s or es."""
    plural = "es" if noun.endswith("s") else "s"
    return f"{count:,} {noun}{'' if count == 1 else plural}"


def describe_size(size: int) -> str:
    """Describe a file's size in bytes as `4 kB` or `1.2 MB`."""
    return f"{size / 1e6:.1f} MB" if size >= 1e5 else f"{max(1, round(size / 1e3))} kB"
