"""Find the BibTeX of what a component cites.

Its `source` names authors and year; references.bib has the entry.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache
from pathlib import Path

CITED = re.compile(r"\b([A-Z][\w-]+)(?: et al\.| & [A-Z][\w-]+)? \(?((?:19\d\d|20[0-2]\d)[a-z]?)\b")


@lru_cache(maxsize=1)
def load_references() -> dict[str, str]:
    """Load the BibTeX entries by key: the first author's name and the year (`heng2023`)."""
    text = (Path(__file__).with_name("references.bib")).read_text(encoding="utf-8")
    entries = re.split(r"^(?=@)", text, flags=re.MULTILINE)[1:]
    return {re.split(r"[{,]", entry)[1]: entry.strip() for entry in entries}


def cited_keys(source: str) -> list[str]:
    """List the keys that a source names, in its order: `["heng2023"]` for "Heng & Soh 2023, Eq. 4".

    A letter tells works of one year apart: "Zhang et al. 2024b" is `zhang2024b`.
    """
    keys = [f"{_strip_accents(match[1])}{match[2]}" for match in CITED.finditer(source)]
    return list(dict.fromkeys(keys))


def cited_bibtex(source: str) -> str:
    """Return the entries that a source names; "" if none of them is known."""
    return "\n".join(
        load_references()[key] for key in cited_keys(source) if key in load_references()
    )


def _strip_accents(name: str) -> str:
    """Write a name in lower case without accents."""
    return "".join(
        c for c in unicodedata.normalize("NFKD", name) if not unicodedata.combining(c)
    ).lower()
