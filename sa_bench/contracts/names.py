"""Compare names however they are written, and find the prompts that mention a concept.

`brad_pitt` and `Brad Pitt` are one class. The rules are written out here rather than taken from a
library's dictionary: they decide which prompts are kept and so are part of every key, and must
change with this file's version alone.
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
# Endings of plurals, each with the singular's.
ENDINGS = (("ies", "y"), ("ves", "f"), ("ves", "fe"), ("es", ""), ("s", ""))


@lru_cache(maxsize=65_536)
def split_words(text: str) -> tuple[str, ...]:
    """Split a text into words without case, accents, hyphens and other marks.

    `The Café-Bars` gives the, cafe, bars.
    """
    plain = unicodedata.normalize("NFKD", text.casefold())
    letters = "".join(letter for letter in plain if not unicodedata.combining(letter))
    return tuple(re.findall(r"[^\W_]+", letters))


def is_same_name(first: str, second: str) -> bool:
    """Return whether two spellings are one name.

    Spaces, hyphens, underscores, case and accents are ignored.
    """
    return "".join(split_words(first)) == "".join(split_words(second))


@lru_cache(maxsize=65_536)
def _list_singulars(word: str) -> frozenset[str]:
    """List the words that `word` may be the plural of, and the word itself."""
    forms = {word, IRREGULAR.get(word, word)}
    for ending, singular in ENDINGS:
        if word.endswith(ending) and len(word) - len(ending) >= 2 and not word.endswith("ss"):
            forms.add(word.removesuffix(ending) + singular)
    return frozenset(forms)


def mentions(text: str, names: Iterable[str]) -> bool:
    """Return whether a text mentions one of `names`, in singular or plural, without its article.

    The words of a name must follow one another. `cat` is mentioned by "Two cats" but not by
    "cathedral", `brad pitt` by "Brad-Pitt's car" and by "bradpitt".
    """
    return any(_mentions_name(text, name) for name in names)


@lru_cache(maxsize=65_536)  # every cell of a run asks the same of its task's prompts
def _mentions_name(text: str, name: str) -> bool:
    """Return whether a text mentions one name, as `mentions` says."""
    text_words, name_words = split_words(text), split_words(name)
    if len(name_words) > 1 and name_words[0] in ARTICLES:
        name_words = name_words[1:]
    if not name_words:
        return False
    if len(name_words) > 1 and "".join(name_words) in text_words:
        return True
    return any(
        all(
            _list_singulars(text_word) & _list_singulars(name_word)
            for text_word, name_word in zip(text_words[start:], name_words, strict=False)
        )
        for start in range(len(text_words) - len(name_words) + 1)
    )
