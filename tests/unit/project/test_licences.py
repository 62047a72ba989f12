"""Licences are read as packages state them, and the page lists what the lock pins."""

from __future__ import annotations

import re
from email.message import Message

import pytest

from neuron_specialization.licences import Licence, licence_page, pinned_packages, stated_licence
from tests.conftest import REPOSITORY


@pytest.mark.parametrize(
    "fields, licence",
    [
        ([("License-Expression", "MIT OR Apache-2.0"), ("License", "no")], "MIT OR Apache-2.0"),
        ([("Classifier", "License :: OSI Approved :: MIT License"), ("License", "x")], "MIT License"),
        ([("Classifier", "License :: OSI Approved"), ("License", "BSD-3-Clause")], "BSD-3-Clause"),
        ([("License", "The licence\n with its whole text")], "The licence"),
        ([("License", "word " * 40)], "word " * 11 + "word…"),
        ([("License", "UNKNOWN"), ("Classifier", "Topic :: Text")], "unknown"),
    ],
)
def test_what_a_package_states(fields: list[tuple[str, str]], licence: str) -> None:
    metadata = Message()
    for name, value in fields:
        metadata[name] = value
    assert stated_licence(metadata) == licence


def test_those_without_a_licence_are_named() -> None:
    page = licence_page([Licence("a", "1", "MIT"), Licence("b", "2", "unknown")])
    assert "without a stated licence: b" in page and "| a | 1 | MIT |" in page


def test_the_page_lists_what_is_pinned() -> None:
    page = (REPOSITORY / "docs/licences.md").read_text(encoding="utf-8")
    listed = set(re.findall(r"^\| ([a-z0-9-]+) \| \S+ \|", page, re.M)) - {"package"}
    pins = pinned_packages((REPOSITORY / "requirements/lock.txt").read_text(encoding="utf-8")) | {"torch"}
    assert listed == pins
    assert "make licences" in page
