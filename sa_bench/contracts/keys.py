"""Choose the values that enter the names of artifacts, cells and fingerprints.

The names of existing results stay the same as the suite grows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import field, fields, is_dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, NamedTuple, get_args, get_type_hints

from pydantic import Field


def added_later(default: Any, by_content: bool = False) -> Any:
    """Declare a dataclass field that was added after results existed.

    It is left out of cache keys while it has its default value, so that old results keep their
    names. `added_later(dict)` gives each instance an empty dict of its own. With `by_content` it
    holds references to files, `path@hash`, of which the hash alone enters keys.
    """
    if default is dict:
        metadata = {"later": True, "by_content": by_content}
        return field(default_factory=dict, metadata=metadata)
    return field(default=default, metadata={"later": True})


@lru_cache(maxsize=256)
def read_type_hints(cls: type) -> Mapping[str, Any]:
    """Read the type of every field of a class, whose module may give them as text."""
    return get_type_hints(cls)


def _dataclass_of_field(cls: type, name: str) -> type | None:
    """Return the dataclass that the field `name` of `cls` holds, also as `… | None`; else None."""
    hint = read_type_hints(cls)[name]
    return next(
        (
            option
            for option in (hint, *get_args(hint))
            if isinstance(option, type) and is_dataclass(option)
        ),
        None,
    )


SCALARS = (str, int, float, bool, type(None))


class _KeyField(NamedTuple):
    """A field of a dataclass that enters keys."""

    name: str
    later: bool
    """Left out while it has its default (`added_later`)."""
    default: Any
    """Its default as it would enter a key, if `later`."""
    dataclass: type | None
    """The dataclass that it holds, if it holds one."""
    by_content: bool
    """Whether it holds references to files."""


@lru_cache(maxsize=256)
def _list_key_fields(cls: type) -> tuple[_KeyField, ...]:
    """List the fields of a dataclass that enter keys."""
    key_fields = []
    for declared in fields(cls):
        if declared.metadata.get("key", True):
            later = bool(declared.metadata.get("later"))
            default = {} if declared.default_factory is dict else declared.default
            nested = _dataclass_of_field(cls, declared.name)
            by_content = bool(declared.metadata.get("by_content"))
            default = key_values(default) if later else None
            key_fields.append(_KeyField(declared.name, later, default, nested, by_content))
    return tuple(key_fields)


def _drop_path(reference: str) -> str:
    """Drop the path of a reference to a file, `/home/ada/mine.txt@0123`; an asset's name stays."""
    name, at, content = reference.rpartition("@")
    return f"{at}{content}" if Path(name).is_absolute() else reference


def key_values(value: Any, cls: type | None = None) -> Any:
    """Return the JSON-ready values with which a dataclass enters keys.

    Args:
        value: a dataclass, or the dict made from one.
        cls: class of the dataclass that the dict was made from; None if it was none.
    """
    if type(value) in SCALARS:
        return value
    cls = type(value) if is_dataclass(value) else cls
    if cls is not None and is_dataclass(cls):
        values, members = {}, value if isinstance(value, Mapping) else None
        for name, later, default, nested, by_content in _list_key_fields(cls):
            if members is not None and name not in members:
                continue
            # A tuple and the list that JSON makes of it give the same values.
            member = getattr(value, name) if members is None else members[name]
            if by_content:
                member = {role: _drop_path(reference) for role, reference in member.items()}
            if type(member) not in SCALARS:
                member = key_values(member, nested)
            if not (later and member == default):
                values[name] = member
        return values
    if isinstance(value, Mapping):
        return {
            key: member if type(member) in SCALARS else key_values(member)
            for key, member in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [member if type(member) in SCALARS else key_values(member) for member in value]
    return value


def result_values(value: Any) -> dict[str, Any]:
    """Return a dataclass's values as results store them, without the fields that enter no key."""

    def convert(value: Any) -> Any:
        return result_values(value) if is_dataclass(value) else value

    return {
        declared.name: convert(getattr(value, declared.name))
        for declared in fields(value)
        if declared.metadata.get("key", True)
    }


def flatten(fields: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested fields to one dict by dotted name."""
    flat: dict[str, Any] = {}
    for key, value in fields.items():
        flat |= (
            flatten(value, f"{prefix}{key}.")
            if isinstance(value, Mapping)
            else {prefix + key: value}
        )
    return flat


LARGEST_SEED = 2**32 - 1
"""torch's CPU generator uses 32 bits of a seed: a larger seed would repeat a smaller one."""

Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Rate = Annotated[float, Field(gt=0, allow_inf_nan=False)]
MOST = 10**8
"""Images or steps beyond which nobody means what they typed."""
Count = Annotated[int, Field(ge=1, le=MOST)]
Seed = Annotated[int, Field(ge=0, le=LARGEST_SEED)]


def image_seed(name: str, i: int) -> int:
    """Derive the seed of image `i` of the sample set `name`, in [0, 2⁶³)."""
    return int.from_bytes(hashlib.sha256(f"{name}/{i}".encode()).digest()[:8], "big") >> 1
