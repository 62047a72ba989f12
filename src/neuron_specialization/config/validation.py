"""Validation of closed pydantic models; errors name every bad key and the nearest valid one."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from typing import Any, TypeVar, get_args, get_origin

from pydantic import BaseModel, ValidationError

from neuron_specialization.errors import ConfigError

ModelT = TypeVar("ModelT", bound=BaseModel)


# what pydantic calls by names of Python, as a person who writes YAML would
_IN_YAML = {
    "model_type": "must be a mapping of keys, e.g. {key: value}, or {} for the defaults",
    "dict_type": "must be a mapping of names, e.g. {name: value}",
    "list_type": "must be a list, e.g. [a, b]",
    "tuple_type": "must be a list, e.g. [a, b]",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "string_type": "must be text",
}


def validated(kind: type[ModelT], values: Any, what: str, where: object = None) -> ModelT:
    """Validate ``values`` as a model.

    Args:
        kind: a model that forbids unknown keys.
        values: what YAML or JSON gave.
        what: what the values are called in the error.
        where: the files they come from, for the error.

    Raises:
        ConfigError: naming every bad key, its value, and for an unknown key the nearest valid one.
    """
    if isinstance(values, Mapping):
        _refuse_nan(values, ())
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        lines = [_describe(kind, item) for item in error.errors(include_url=False)]
        raise ConfigError(
            f"the {what} is not valid:\n" + "\n".join(f"  - {line}" for line in lines),
            where=where,
            hint="correct it; docs/configuration.md has every key of a configuration, with its default",
        ) from None


def _refuse_nan(values: Mapping[str, Any], path: tuple[str, ...]) -> None:
    for key, value in values.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise ConfigError(f"{'.'.join((*path, str(key)))} is not a finite number")
        if isinstance(value, Mapping):
            _refuse_nan(value, (*path, str(key)))


def _describe(kind: type[BaseModel], item: Any) -> str:
    path = [str(part) for part in item["loc"]]
    # which class of a union was meant, e.g. <RandomMasks>: told by its keys, of no interest to a person
    location = [part for part in path if not part.startswith("<")]
    place = ".".join(location) or "(top level)"
    if item["type"] == "extra_forbidden":
        names = _keys_at(kind, path[:-1])
        nearest = difflib.get_close_matches(location[-1], names, n=1, cutoff=0.4)
        suggestion = f"; did you mean {nearest[0]!r}?" if nearest else ""
        return f"{place}: unknown key{suggestion} (valid here: {', '.join(names)})"
    message = item["msg"].removeprefix("Value error, ")
    if item["type"] in ("missing", "value_error"):
        return f"{place}: {message}" if location else message
    message = _IN_YAML.get(item["type"], message)
    given = "nothing" if item["input"] is None else repr(item["input"])
    return f"{place}: {message} (given: {given})"


def _keys_at(kind: type[BaseModel], path: list[str]) -> list[str]:
    """The valid keys of the section at a path, through nested sections and mappings of names to sections."""
    section, next_is_a_name = kind, False
    found: list[type[BaseModel]] = []
    for part in path:
        if part.startswith("<"):
            section = next((one for one in found if f"<{one.__name__}>" == part), section)
            continue
        if next_is_a_name:
            next_is_a_name = False
            continue
        fields = {(field.alias or name): field for name, field in section.model_fields.items()}
        found = _sections_in(fields[part].annotation) if part in fields else []
        if not found:
            return []
        section, next_is_a_name = found[0], get_origin(fields[part].annotation) is dict
    return [field.alias or name for name, field in section.model_fields.items()]


def _sections_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [found for part in get_args(annotation) for found in _sections_in(part)]
