"""docs/configuration.md has every key of the configuration with its default, and no other."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from pydantic import BaseModel

from neuron_specialization.config import Config, parse_config
from neuron_specialization.errors import ConfigError
from neuron_specialization.workflow_files import write_workflow
from tests.conftest import REPOSITORY

ROW = re.compile(r"^\| `(?P<key>[^`]+)` \| (?P<default>required|`[^`]+`) \| .*\|$")
# mappings of names to sections, and sections that repeat another
NAMED = {"masks": "SELECTION_CLASSES", "systems": "System", "testsets": "Testset"}
REPEATED = {"finetuning"}


def documented(page: Path) -> dict[str, str]:
    rows = [ROW.match(line) for line in page.read_text(encoding="utf-8").splitlines()]
    found = [(row["key"], row["default"].strip("`")) for row in rows if row]
    assert len(dict(found)) == len(found), "a key is documented twice"
    return dict(found)


def test_an_error_of_the_configuration_names_this_page_which_init_writes(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config({"sead": 1})
    named = re.findall(r"[\w./]+\.(?:md|yaml)", str(caught.value).split("next:")[1])
    assert named == ["docs/configuration.md"]
    write_workflow(tmp_path)
    assert (tmp_path / named[0]).read_bytes() == (REPOSITORY / named[0]).read_bytes()


def keys(section: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Every key under a section, dotted, with its default as YAML."""
    from neuron_specialization import config

    for name, field in section.model_fields.items():
        key = prefix + (field.alias or name)
        if name in REPEATED and not prefix:
            continue
        if name in NAMED and not prefix:
            kinds = getattr(config, NAMED[name])
            found: dict[str, str] = {}
            for one in kinds if isinstance(kinds, tuple) else (kinds,):
                for inner, default in keys(one, f"{key}.<name>."):
                    found.setdefault(inner, default)  # a key of several methods is described once
            yield from found.items()
        elif isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            if name in ("training", "finetuning") and prefix:
                yield key, "{}"
            else:
                yield from keys(field.annotation, f"{key}.")
        elif field.is_required():
            yield key, "required"
        else:
            yield key, field.get_default(call_default_factory=True)
            for kind in get_args(field.annotation):
                if isinstance(kind, type) and issubclass(kind, BaseModel):  # a section that may be left out
                    yield from keys(kind, f"{key}.")


def test_every_key_is_documented_with_its_default() -> None:
    page = documented(REPOSITORY / "docs/configuration.md")
    expected: dict[str, Any] = dict(keys(Config))
    assert list(page) == list(expected)
    for key, default in expected.items():
        if default in ("required", "{}"):
            assert page[key] == default, key
        else:
            value = yaml.safe_load(page[key])
            assert value == (list(default) if isinstance(default, tuple) else default), key


def test_the_page_names_only_keys_that_exist() -> None:
    """Keys in running text, such as `training.dropout`, exist."""
    text = (REPOSITORY / "docs/configuration.md").read_text(encoding="utf-8")
    known = {key for key, _ in keys(Config)}
    sections = {key.rpartition(".")[0] for key in known}
    for name in re.findall(r"`((?:training|translation|masks|activations|corpus)\.[a-z_.0-9]+)`", text):
        assert re.sub(r"^masks\.k95", "masks.<name>", name) in known | sections, name
