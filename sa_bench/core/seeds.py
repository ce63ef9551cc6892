"""Check seeds that a person gives: one range and one type, wherever they come from."""

from __future__ import annotations

import operator
import re
from collections.abc import Iterable, Sequence
from typing import Any

from sa_bench.contracts import LARGEST_SEED
from sa_bench.core.errors import SaBenchError


def check_seed(value: Any, where: str) -> int:
    """Convert a seed to int: a whole number from 0 to 4,294,967,295, or its digits as text.

    Args:
        value: the seed as given.
        where: the option or field it comes from, for the error message.

    Raises:
        SaBenchError: it is not such a number.
    """
    try:
        number: Any = value
        if isinstance(value, str) and re.fullmatch(r"\s*[0-9]{1,20}\s*", value):
            number = int(value)
        seed = -1 if isinstance(number, bool) else operator.index(number)
    except TypeError:
        seed = -1
    if not 0 <= seed <= LARGEST_SEED:
        several = ", or several: 0,1,2" if where.startswith("--") else ""
        raise SaBenchError(
            f"{where} is {value!r}, must be a whole number from 0 to {LARGEST_SEED:,}{several}."
        )
    return seed


def check_seeds(values: Any, where: str) -> list[int]:
    """Convert several seeds, without repeats; a single one is accepted too.

    Raises:
        SaBenchError: one is not a seed, or the list is empty.
    """
    given_seeds: Sequence[Any] = (
        list(values) if isinstance(values, Iterable) and not isinstance(values, str) else [values]
    )
    if not given_seeds:
        raise SaBenchError(f"{where} is empty; give one or more seeds, e.g. 0,1,2.")
    return list(dict.fromkeys(check_seed(value, where) for value in given_seeds))
