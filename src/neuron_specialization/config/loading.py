"""From YAML, nested mappings or JSON to a validated configuration."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from neuron_specialization.config.experiment import Config
from neuron_specialization.config.recipe import Recipe
from neuron_specialization.config.validation import ModelT, validated
from neuron_specialization.errors import ConfigError

# of a configuration written out; the largest here has a few hundred values on five levels
_MAX_VALUES = 200_000
_MAX_DEPTH = 40


def parse_config(values: Mapping[str, Any], where: object = None) -> Config:
    """Validate a configuration given as nested mappings (what YAML gives).

    Args:
        values: the mappings.
        where: the files they come from, for the error.

    Raises:
        ConfigError: naming every bad key, its value, and the nearest valid key for an unknown one.
    """
    _refuse_endless(values)
    return validated(Config, values, "configuration", where)


def parse_recipe(text: str) -> Recipe:
    """Validate a recipe given as JSON (see recipe_of)."""
    return parse_spec(Recipe, text, "recipe")


def parse_spec(kind: type[ModelT], text: str, what: str = "spec") -> ModelT:
    """Validate a section given as JSON, as a rule passes it to a command (``--spec``)."""
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"the {what} is not valid JSON: {error}") from None
    return validated(kind, values, what)


def load_config(*paths: str | Path) -> Config:
    """Read and merge YAML files, later ones winning key by key, and validate the result.

    Raises:
        ConfigError: a file cannot be read, a key stands in it twice, or the result is not valid.
    """
    merged: dict[str, Any] = {}
    for path in paths:
        try:
            text = Path(path).read_text(encoding="utf-8")
            values = yaml.safe_load(text) or {}
        # ValueError: not UTF-8, an impossible date, a number of thousands of digits
        except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
            raise ConfigError(f"cannot read the configuration: {error}", where=path) from None
        if not isinstance(values, dict):
            raise ConfigError("a configuration is a mapping of keys", where=path)
        _refuse_endless(values)
        refuse_repeated_keys(path, text)
        merged = _merge(merged, values)
    return parse_config(merged, ", ".join(map(str, paths)))


def refuse_repeated_keys(path: str | Path, text: str | None = None) -> None:
    """Refuse a configuration in which a key stands twice: YAML forgets all but the last, and says nothing.

    Args:
        path: of the file.
        text: its content, where it was read already.

    Raises:
        ConfigError: naming every such key and its lines.
    """
    text = Path(path).read_text(encoding="utf-8") if text is None else text
    repeated: list[str] = []
    seen: set[int] = set()

    def visit(node: yaml.Node | None, place: str) -> None:
        # an alias is the node it names: each is looked at once
        if node is None or id(node) in seen:
            return
        seen.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            for child in node.value:
                visit(child, place)
        elif isinstance(node, yaml.MappingNode):
            lines: dict[str, int] = {}
            for key, child in node.value:
                name, line = str(key.value), key.start_mark.line + 1
                if name in lines:
                    repeated.append(f"{place}{name}: in line {lines[name]} and in line {line}")
                lines[name] = line
                visit(child, f"{place}{name}.")

    try:
        visit(yaml.compose(text, Loader=yaml.SafeLoader), "")
    except yaml.YAMLError:
        # JSON, which Snakemake takes as well, may be indented by tabs; what is neither is refused elsewhere
        return
    if repeated:
        raise ConfigError(
            "the configuration has a key twice:\n" + "\n".join(f"  - {one}" for one in repeated),
            where=path,
            cause="YAML keeps the last and forgets the others, with all that is under them",
            hint="put what is under both under one",
        )


def _refuse_endless(values: Any) -> None:
    """Refuse what a few lines of YAML can make with aliases: values without end, or more than memory holds.

    Raises:
        ConfigError: nested deeper, or larger when written out, than any configuration is.
    """
    known: dict[int, tuple[int, int]] = {}

    def extent(value: Any, depth: int) -> tuple[int, int]:
        """(values, levels) of a value; each is looked at once, however often it is referred to."""
        if not isinstance(value, Mapping | list):
            return 1, 1
        found = known.get(id(value))
        if found is None:
            if depth > _MAX_DEPTH:
                raise ConfigError(
                    "the configuration is nested too deeply", cause="an alias that holds itself"
                )
            children = value.values() if isinstance(value, Mapping) else value
            inner = [extent(child, depth + 1) for child in children]
            size, levels = sum(one[0] for one in inner), max((one[1] for one in inner), default=0)
            found = known[id(value)] = 1 + size, 1 + levels
        if found[0] > _MAX_VALUES or depth + found[1] > _MAX_DEPTH + 2:
            raise ConfigError(
                f"the configuration is too large: more than {_MAX_VALUES:,} values or {_MAX_DEPTH} levels",
                cause="aliases (*name) that multiply each other",
            )
        return found

    extent(values, 0)


def _merge(base: dict[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    result = dict(base)
    for key, value in over.items():
        old = result.get(key)
        result[key] = _merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return result
