"""BibTeX of what a component cites: its `source` names authors and year, references.bib has the entry."""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache
from pathlib import Path

CITED = re.compile(r"\b([A-Z][\w-]+)(?: et al\.| & [A-Z][\w-]+)? \(?(?:19\d\d|20[0-2]\d)\b")


@lru_cache(maxsize=1)
def entries() -> dict[str, str]:
    """Key, the first author's name and the year (`heng2023`), to entry."""
    text = (Path(__file__).parent / "references.bib").read_text(encoding="utf-8")
    parts = re.split(r"^(?=@)", text, flags=re.MULTILINE)[1:]
    return {re.split(r"[{,]", part)[1]: part.strip() for part in parts}


def cited(source: str) -> list[str]:
    """The keys that a source names, in its order: `["heng2023"]` of "Heng & Soh 2023, Eq. 4"."""
    found = [f"{_plain(match[1])}{match[0].strip()[-4:]}" for match in CITED.finditer(source)]
    return list(dict.fromkeys(found))


def bibtex(source: str) -> str:
    """The entries of what a source names; "" where it names nothing that is known."""
    return "\n".join(entries()[key] for key in cited(source) if key in entries())


def _plain(name: str) -> str:
    """Lower case without accents."""
    return "".join(c for c in unicodedata.normalize("NFKD", name) if not unicodedata.combining(c)).lower()
