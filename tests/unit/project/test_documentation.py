"""What the documentation names is there: pages, sections, files, commands, options, targets."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import click
import pytest

from neuron_specialization.cli import COMMANDS, cli
from tests.conftest import REPOSITORY

PAGES = [
    *sorted(REPOSITORY.glob("*.md")),
    *sorted((REPOSITORY / "docs").glob("*.md")),
]
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
# not the image or the environment of that name, which commands of docker follow
_OTHER = r"(?!neuron-specialization|snakemake)"
_PROGRAM = r"(?<![\w./-])(?:neuron-specialization|python -m neuron_specialization)"
COMMAND = re.compile(rf"{_PROGRAM} {_OTHER}([a-z][a-z-]+)((?: [^\n`|>#]*)?)")
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z0-9-]*")
MAKE = re.compile(r"(?:^|`|&& )make ([a-z][a-z-]*)", re.M)


@cache
def text_of(page: Path) -> str:
    """A page; a command that goes on after a backslash is one line."""
    return re.sub(r" *\\\n *", " ", page.read_text(encoding="utf-8"))


def options_of(name: str) -> set[str]:
    """The options of a command and of the commands below it."""
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    parts = [command, *(command.commands.values() if isinstance(command, click.Group) else ())]
    known = [(*each.opts, *each.secondary_opts) for part in parts for each in part.params]
    return {option for options in known for option in options} | {"--help"}


def slug(heading: str) -> str:
    """The anchor that the hosting sites make of a heading."""
    plain = re.sub(r"[`*]|\[([^\]]*)\]\([^)]*\)", r"\1", heading).strip().lower()
    return re.sub(r"[^\w -]", "", plain).replace(" ", "-")


def anchors(page: Path) -> set[str]:
    return {slug(line.lstrip("#")) for line in text_of(page).splitlines() if line.startswith("#")}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in LINK.findall(text_of(page)):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), target
        if anchor:
            assert anchor in anchors(file), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_and_their_options_exist(page: Path) -> None:
    for name, rest in COMMAND.findall(text_of(page)):
        assert name in COMMANDS, name
        assert set(OPTION.findall(rest)) <= options_of(name), f"{name}{rest}"


def test_the_architecture_lists_every_command_with_options_it_has() -> None:
    section = text_of(REPOSITORY / "docs/architecture.md").split("\n## Commands\n```\n")[1].split("```")[0]
    listed = [line.partition(" ")[::2] for line in section.splitlines()]
    assert {name for name, _ in listed} == set(COMMANDS)
    for name, rest in listed:
        assert set(OPTION.findall(rest)) <= options_of(name), f"{name} {rest}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_make_targets_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", text_of(REPOSITORY / "Makefile"), re.M))
    assert set(MAKE.findall(text_of(page))) <= targets


def test_the_checks_find_what_there_is() -> None:
    """The patterns above match the documentation's own ways of writing."""
    every = "\n".join(map(text_of, PAGES))
    found = dict(COMMAND.findall(every))
    assert {"export", "comet", "serve", "unpack"} <= set(found)
    # after a backslash
    assert "--directions" in found["comet"] and "--output" in found["export"]
    assert (
        len(LINK.findall(every)) > 20 and len(COMMAND.findall(every)) > 10 and len(MAKE.findall(every)) > 10
    )
    assert slug("## `make test`, and more".lstrip("#")) == "make-test-and-more"
