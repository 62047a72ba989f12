"""The licences of what the project is installed with, as the packages state them."""

from __future__ import annotations

import importlib.metadata
import re
from dataclasses import dataclass
from email.message import Message
from typing import cast

_CLASSIFIER = "License :: "
# a field that holds the whole text of a licence names none
_LONGEST_NAME = 60
_PAGE = """# Licences of the dependencies

What the pinned environment installs, as each package states of itself; written by `make licences`.
Nothing of it is part of this repository. {count} packages; {unknown}.

| package | version | licence |
|---|---|---|
{rows}
"""


@dataclass(frozen=True, order=True)
class Licence:
    """A package and the licence it states; ``unknown`` where it states none."""

    package: str
    version: str
    licence: str


def stated_licence(metadata: Message) -> str:
    """Return the SPDX expression of a package, else its classifiers, else a short ``License`` field."""
    expression = metadata.get("License-Expression")
    if expression:
        return str(expression)
    classified = [
        str(one).rpartition(" :: ")[2]
        for one in metadata.get_all("Classifier", [])
        if str(one).startswith(_CLASSIFIER) and str(one) != "License :: OSI Approved"
    ]
    if classified:
        return ", ".join(sorted(classified))
    field = str(metadata.get("License") or "").strip()
    if field and field.upper() != "UNKNOWN":
        first = field.splitlines()[0].strip()
        return first if len(first) <= _LONGEST_NAME else f"{first[: _LONGEST_NAME - 1].rstrip()}…"
    return "unknown"


def canonical(name: str) -> str:
    """``Foo.Bar_baz`` → ``foo-bar-baz``."""
    return re.sub(r"[-_.]+", "-", name).lower()


def installed_licences(wanted: set[str] | None = None) -> list[Licence]:
    """Return the licences of the installed packages, by name.

    Args:
        wanted: canonical names to keep; None: all that are installed.
    """
    found = {}
    for one in importlib.metadata.distributions():
        if one.metadata["Name"]:
            name = canonical(str(one.metadata["Name"]))
            found[name] = Licence(name, one.version, stated_licence(cast(Message, one.metadata)))
    return sorted(licence for name, licence in found.items() if wanted is None or name in wanted)


def pinned_packages(lock: str) -> set[str]:
    """Return the canonical names a requirements file pins."""
    return {canonical(name) for name in re.findall(r"^([A-Za-z0-9][A-Za-z0-9._-]*)==", lock, re.M)}


def licence_page(licences: list[Licence]) -> str:
    """Return the list as a Markdown page."""
    nameless = [one.package for one in licences if one.licence == "unknown"]
    unknown = (
        f"without a stated licence: {', '.join(nameless)}" if nameless else "every one states its licence"
    )
    rows = "\n".join(
        f"| {one.package} | {one.version} | {one.licence.replace('|', '/')} |" for one in licences
    )
    return _PAGE.format(count=len(licences), unknown=unknown, rows=rows)
