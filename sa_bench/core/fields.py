"""Resolve the fields of a component: defaults, presets and settings, merged and checked."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, fields, is_dataclass
from functools import lru_cache
from typing import Any, get_args, get_origin

from pydantic import TypeAdapter, ValidationError

from sa_bench.contracts import Task
from sa_bench.contracts.keys import read_type_hints
from sa_bench.core import registry
from sa_bench.core.errors import SaBenchError, unknown_name


@lru_cache(maxsize=256)
def _build_validator(cls: type[Any]) -> TypeAdapter[Any]:
    """Build the validator of a dataclass, once: it takes milliseconds for each of many cells."""
    return TypeAdapter(cls)


def validate(cls: type[Any], values: Mapping[str, Any], what: str) -> Any:
    """Make an instance of the dataclass `cls`; strings are converted to the fields' types.

    Raises:
        SaBenchError: a value has the wrong type or range; the message names field, value and rule.
    """
    try:
        return _build_validator(cls).validate_python(dict(values))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise SaBenchError(f"{what}: {where}={first['input']!r}: {first['msg']}.") from error


def assign(cls: type[Any], values: dict[str, Any], path: str, value: Any, what: str) -> None:
    """Set the field `path` (`lam`, `fisher.n`) in `values`, checking its name against `cls`."""
    head, _, rest = path.partition(".")
    field_names = [declared.name for declared in fields(cls)]
    if head not in field_names:
        raise unknown_name(f"field of {what}", head, field_names, _name_page(what))
    hint = read_type_hints(cls)[head]
    # For `Prompts | None`, take `Prompts`.
    hint = next((option for option in get_args(hint) if is_dataclass(option)), hint)
    if rest and get_origin(hint) is Mapping:
        values[head] = {**(values.get(head) or {}), rest: value}
    elif rest:
        if not is_dataclass(hint):
            raise SaBenchError(
                f"{what}: {head} has no fields of its own, so {path!r} cannot be set."
            )
        values[head] = dict(values.get(head) or {})
        assign(hint, values[head], rest, value, f"{what}.{head}")
    elif isinstance(value, str) and str(hint).startswith("tuple"):
        values[head] = parse_list(value, f"{what}.{head}")
    else:
        values[head] = value


def _name_page(what: str) -> str:
    """Name the command that shows the fields of `method sa` or `task mnist_0.prompts`."""
    kind, _, name = what.partition(" ")
    return f"show {registry.reference(kind, name.partition('.')[0])}"


def parse_list(text: str, what: str) -> list[Any]:
    """Parse values between commas or, if the text begins with `[`, a JSON list."""
    if not text.startswith("["):
        return [part for part in text.split(",") if part]
    try:
        return json.loads(text)
    except ValueError as error:
        raise SaBenchError(
            f'{what}: {text} is not a JSON list ({error}). Example: ["a, b", "c"].'
        ) from error


def split_setting(setting: str) -> tuple[str, str]:
    """Split `field=value` into field and value.

    Raises:
        SaBenchError: there is no `=`, or no field.
    """
    name, equals, value = setting.partition("=")
    if not equals or not name:
        raise SaBenchError(f"--set and --sweep take field=value, got {setting!r}.")
    return name.strip(), value.strip()


def resolve_fields(
    method: str, task: Task, scale: str, settings: Mapping[str, str]
) -> dict[str, Any]:
    """Resolve a method's fields; later sources win.

    The sources are its defaults, its presets for the family and scale (at scale `small`, which is the
    task's alone, those of `full`), first for the family's every model, then for the task's base, the
    task's presets, and `settings`.
    """
    cls = registry.get_method(method)
    values: dict[str, Any] = {
        declared.name: asdict(default)
        if is_dataclass(default := declared.default) and not isinstance(default, type)
        else default
        for declared in fields(cls)
    }
    of_scale = "full" if scale == "small" else scale
    presets = registry.get_presets(method)
    for models in (task.family, f"{task.family}/{task.base}"):
        for key, value in presets.get((models, of_scale), {}).items():
            values[key] = {**dict(values[key]), **value} if isinstance(value, Mapping) else value
    method_presets = {}
    for name in filter(None, (cls.ablates, method)):
        method_presets |= {
            k.removeprefix(f"{name}."): v
            for k, v in task.presets.items()
            if k.startswith(f"{name}.")
        }
    for key, value in {**task.presets, **method_presets}.items():
        if key in values:
            values[key] = {**dict(values[key]), **value} if isinstance(value, Mapping) else value
    for path, value in settings.items():
        assign(cls, values, path, value, f"method {method}")
    built = validate(cls, values, f"method {method}")
    return asdict(built)
