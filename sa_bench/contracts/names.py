"""Names however they are written: one class for `brad_pitt` and `Brad Pitt`, and every prompt that names a concept.

The rules are written out here and in no dictionary of a library's, since they decide which prompts are kept and are so
part of every key: they change with this file's version alone.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from functools import lru_cache

ARTICLES = {"a", "an", "the"}
IRREGULAR = {
    "men": "man",
    "women": "woman",
    "children": "child",
    "people": "person",
    "feet": "foot",
    "teeth": "tooth",
    "mice": "mouse",
    "geese": "goose",
    "oxen": "ox",
}
ENDINGS = (
    ("ies", "y"),
    ("ves", "f"),
    ("ves", "fe"),
    ("es", ""),
    ("s", ""),
)  # of plurals, to the singular's


@lru_cache(maxsize=65_536)
def split_words(text: str) -> tuple[str, ...]:
    """The words of a text without case, accents, hyphens and other marks: `The Café-Bars` gives the, cafe, bars."""
    plain = unicodedata.normalize("NFKD", text.casefold())
    letters = "".join(letter for letter in plain if not unicodedata.combining(letter))
    return tuple(re.findall(r"[^\W_]+", letters))


def is_same_name(first: str, second: str) -> bool:
    """Whether two names are one, however they are written: spaces, hyphens, underscores, case and accents aside."""
    return "".join(split_words(first)) == "".join(split_words(second))


@lru_cache(maxsize=65_536)
def _list_singulars(word: str) -> frozenset[str]:
    """What a word may be the plural of, and itself."""
    forms = {word, IRREGULAR.get(word, word)}
    for ending, singular in ENDINGS:
        if word.endswith(ending) and len(word) - len(ending) >= 2 and not word.endswith("ss"):
            forms.add(word.removesuffix(ending) + singular)
    return frozenset(forms)


def mentions(text: str, names: Iterable[str]) -> bool:
    """Whether a text names one of `names`: its words one after the other, in singular or plural, without its article.

    `cat` is named by "Two cats" and by no cathedral, `brad pitt` by "Brad-Pitt's car" and by "bradpitt".
    """
    said = split_words(text)
    for name in names:
        wanted = split_words(name)
        wanted = wanted[1:] if len(wanted) > 1 and wanted[0] in ARTICLES else wanted
        if not wanted:
            continue
        if len(wanted) > 1 and "".join(wanted) in said:
            return True
        for start in range(len(said) - len(wanted) + 1):
            part = said[start : start + len(wanted)]
            if all(
                _list_singulars(a) & _list_singulars(b) for a, b in zip(part, wanted, strict=True)
            ):
                return True
    return False
