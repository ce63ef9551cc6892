"""What enters the names of artifacts, cells and fingerprints, so that results keep theirs as the suite grows."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import field, fields, is_dataclass
from functools import lru_cache
from typing import Annotated, Any, get_args, get_type_hints

from pydantic import Field


def added_later(default: Any) -> Any:
    """A field that came after results existed: absent from keys at its default, so that they keep their names.

    `later(dict)` has an empty dict of its own.
    """
    if default is dict:
        return field(default_factory=dict, metadata={"later": True})
    return field(default=default, metadata={"later": True})


@lru_cache(maxsize=256)
def _dataclass_of_field(cls: type, name: str) -> type | None:
    """The dataclass that the field `name` of `cls` holds, also as `… | None`; None: it holds none."""
    hint = get_type_hints(cls)[name]
    return next(
        (part for part in (hint, *get_args(hint)) if isinstance(part, type) and is_dataclass(part)),
        None,
    )


def key_values(value: Any, cls: type | None = None) -> Any:
    """JSON-ready values of a dataclass, or of the dict of one of class `cls`, as they enter keys."""
    cls = type(value) if is_dataclass(value) else cls
    if value is not None and cls is not None and is_dataclass(cls):
        found = {}
        for f in fields(cls):
            if not f.metadata.get("key", True) or (
                isinstance(value, Mapping) and f.name not in value
            ):
                continue
            part = value[f.name] if isinstance(value, Mapping) else getattr(value, f.name)
            default = {} if f.default_factory is dict else f.default
            # a tuple, or the list that JSON made of it
            value_of_key = key_values(part, _dataclass_of_field(cls, f.name))
            if not (f.metadata.get("later") and value_of_key == key_values(default)):
                found[f.name] = value_of_key
        return found
    if isinstance(value, Mapping):
        return {key: key_values(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [key_values(part) for part in value]
    return value


def result_values(value: Any) -> dict[str, Any]:
    """Give a dataclass's values as results keep them: all but what a hash among them stands for."""

    def part(value: Any) -> Any:
        return result_values(value) if is_dataclass(value) else value

    return {
        f.name: part(getattr(value, f.name)) for f in fields(value) if f.metadata.get("key", True)
    }


def flatten(fields: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested fields by dotted name."""
    found: dict[str, Any] = {}
    for key, value in fields.items():
        found |= (
            flatten(value, f"{prefix}{key}.")
            if isinstance(value, Mapping)
            else {prefix + key: value}
        )
    return found


LARGEST_SEED = 2**32 - 1
"""torch's CPU generator takes 32 bits of a seed: a larger one would draw what a smaller one draws."""

Seed = Annotated[int, Field(ge=0, le=LARGEST_SEED)]


def image_seed(name: str, i: int) -> int:
    """The seed of image `i` of the set `name`, in [0, 2⁶³)."""
    return int.from_bytes(hashlib.sha256(f"{name}/{i}".encode()).digest()[:8], "big") >> 1
