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
COMMAND = re.compile(rf"(?<![\w./-])neuron-specialization {_OTHER}([a-z][a-z-]+)((?: [^\n`|>#]*)?)")
MAKE = re.compile(r"(?:^|`|&& )make ([a-z][a-z-]*)", re.M)


@cache
def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


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
    context = click.Context(cli)
    for name, rest in COMMAND.findall(text_of(page)):
        assert name in COMMANDS, name
        command = cli.get_command(context, name)
        assert command is not None
        parts = [command, *(command.commands.values() if isinstance(command, click.Group) else ())]
        known = {
            option for part in parts for each in part.params for option in (*each.opts, *each.secondary_opts)
        }
        for option in re.findall(r"(?<= )--[a-z][a-z-]*", rest.split(" | ")[0]):
            assert option in known | {"--help"}, f"{name} {option}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_make_targets_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", text_of(REPOSITORY / "Makefile"), re.M))
    assert set(MAKE.findall(text_of(page))) <= targets


def test_the_checks_find_what_there_is() -> None:
    """The patterns above match the documentation's own ways of writing."""
    every = "\n".join(map(text_of, PAGES))
    assert (
        len(LINK.findall(every)) > 20 and len(COMMAND.findall(every)) > 10 and len(MAKE.findall(every)) > 10
    )
    assert slug("## `make test`, and more".lstrip("#")) == "make-test-and-more"
