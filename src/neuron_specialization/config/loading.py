"""From YAML, nested mappings or JSON to a validated configuration."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from neuron_specialization.config.experiment import Config
from neuron_specialization.config.recipe import Recipe
from neuron_specialization.errors import ConfigError
from neuron_specialization.validation import ModelT, validated


def parse_config(values: Mapping[str, Any]) -> Config:
    """Validate a configuration given as nested mappings (what YAML gives).

    Raises:
        ConfigError: naming every bad key, its value, and the nearest valid key for an unknown one.
    """
    return validated(Config, values, "configuration")


def parse_recipe(text: str) -> Recipe:
    """Validate a recipe given as JSON (see recipe_of)."""
    return parse_spec(Recipe, text, "recipe")


def parse_spec(kind: type[ModelT], text: str, what: str = "spec") -> ModelT:
    """Validate a section given as JSON, as a rule passes it to a command (``--spec``)."""
    try:
        values = json.loads(text)
    except ValueError as error:
        raise ConfigError(f"the {what} is not valid JSON: {error}") from None
    return validated(kind, values, what)


def load_config(*paths: str | Path) -> Config:
    """Read and merge YAML files, later ones winning key by key, and validate the result."""
    merged: dict[str, Any] = {}
    for path in paths:
        try:
            values = yaml.safe_load(Path(path).read_text(encoding="utf-8")) or {}
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise ConfigError(f"cannot read the configuration: {error}", where=path) from None
        if not isinstance(values, dict):
            raise ConfigError("a configuration is a mapping of keys", where=path)
        merged = _merge(merged, values)
    return parse_config(merged)


def _merge(base: dict[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    result = dict(base)
    for key, value in over.items():
        old = result.get(key)
        result[key] = _merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return result
