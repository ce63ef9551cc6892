"""The fields of a component: defaults, presets and settings, merged and checked."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, fields, is_dataclass
from functools import lru_cache
from typing import Any, get_args, get_origin, get_type_hints

from pydantic import TypeAdapter, ValidationError

from sa_bench.contracts import Task
from sa_bench.core import registry
from sa_bench.core.errors import SaBenchError, unknown_name


def split_list(text: str) -> list[str]:
    """The parts of `a,b`.

    Raises:
        SaBenchError: there are none.
    """
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not parts:
        raise SaBenchError(f"An empty list: {text!r}. Give names or numbers separated by commas.")
    return parts


@lru_cache(maxsize=256)
def _adapter(cls: type[Any]) -> TypeAdapter[Any]:
    """Build the validator of a dataclass once: it takes milliseconds, and a suite has thousands of cells."""
    return TypeAdapter(cls)


def validate(cls: type[Any], values: Mapping[str, Any], what: str) -> Any:
    """An instance of dataclass `cls`, strings coerced to the fields' types.

    Raises:
        SaBenchError: a value of the wrong type or range; names field, value and rule.
    """
    try:
        return _adapter(cls).validate_python(dict(values))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise SaBenchError(f"{what}: {where}={first['input']!r}: {first['msg']}.") from error


def assign(cls: type[Any], values: dict[str, Any], path: str, value: Any, what: str) -> None:
    """Set `path` (`lam`, `fisher.n`) in `values`, checking the name against dataclass `cls`."""
    head, _, rest = path.partition(".")
    known = [f.name for f in fields(cls)]
    if head not in known:
        raise unknown_name(f"field of {what}", head, known)
    hint = get_type_hints(cls)[head]
    # of `Prompts | None`
    hint = next((part for part in get_args(hint) if is_dataclass(part)), hint)
    if rest and get_origin(hint) is Mapping:
        values[head] = {**(values.get(head) or {}), rest: value}
    elif rest:
        if not is_dataclass(hint):
            raise SaBenchError(
                f"{what}: {head} has no fields of its own, so {path!r} means nothing."
            )
        values[head] = dict(values.get(head) or {})
        assign(hint, values[head], rest, value, f"{what}.{head}")  # type: ignore[arg-type]
    elif isinstance(value, str) and str(hint).startswith("tuple"):
        values[head] = parse_list(value, f"{what}.{head}")
    else:
        values[head] = value


def parse_list(text: str, what: str) -> list[Any]:
    """Values between commas or, where they hold commas themselves, a JSON list."""
    if not text.startswith("["):
        return [part for part in text.split(",") if part]
    try:
        found = json.loads(text)
    except ValueError as error:
        raise SaBenchError(
            f'{what}: {text} is no JSON list ({error}). Example: ["a, b", "c"].'
        ) from error
    return found


def split_setting(text: str) -> tuple[str, str]:
    """`field=value` as a pair.

    Raises:
        SaBenchError: no `=`.
    """
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise SaBenchError(f"--set and --sweep take field=value, got {text!r}.")
    return name.strip(), value.strip()


def resolve_fields(
    method: str, task: Task, scale: str, settings: Mapping[str, str]
) -> dict[str, Any]:
    """A method's fields: defaults, then its preset for the family and scale, then `settings`."""
    cls = registry.get_method(method)
    values: dict[str, Any] = {
        f.name: asdict(d) if is_dataclass(d := f.default) else d  # type: ignore[arg-type]
        for f in fields(cls)
    }
    for key, value in registry.get_presets(method).get((task.family, scale), {}).items():
        values[key] = {**dict(values[key]), **value} if isinstance(value, Mapping) else value
    own = {}
    for name in filter(None, (cls.ablates, method)):
        own |= {
            k.removeprefix(f"{name}."): v
            for k, v in task.presets.items()
            if k.startswith(f"{name}.")
        }
    for key, value in {**task.presets, **own}.items():
        if key in values:
            values[key] = {**dict(values[key]), **value} if isinstance(value, Mapping) else value
    for path, value in settings.items():
        assign(cls, values, path, value, f"method {method}")
    built = validate(cls, values, f"method {method}")
    return asdict(built)
