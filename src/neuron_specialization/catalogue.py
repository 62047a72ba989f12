"""The catalogue of everything that is downloaded: ``data/catalogue.tsv``, checked when it is read.

A checksum that nobody has measured yet is written ``unverified`` and a size ``unknown``; whoever fetches
such a file is told so, with the checksum to write in its place.
"""

from __future__ import annotations

import csv
import difflib
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal, cast, get_args

from neuron_specialization.errors import DownloadError
from neuron_specialization.resources import data_file

Kind = Literal["pypi", "http", "gdrive"]
COLUMNS = ("name", "version", "kind", "url", "file", "sha256", "bytes", "licence", "citation")
UNVERIFIED = "unverified"
UNKNOWN = "unknown"

_FILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,150}")
_URL = {
    "pypi": re.compile(r"https://pypi\.org/project/\S+"),
    "http": re.compile(r"https?://[^\s/]+/\S+"),
    "gdrive": re.compile(r"[A-Za-z0-9_-]{20,60}"),
}


@dataclass(frozen=True)
class CatalogueEntry:
    """One row: a published file.

    Attributes:
        name: what configuration and commands call it.
        version: the publisher's version, or the date of publication.
        kind: how it is fetched: from a Python package index, over HTTP(S), from Google Drive.
        url: the page on PyPI, the URL, or Google Drive's file id.
        file: its name in the downloads folder and in a mirror.
        sha256: its checksum, None while unverified.
        bytes: its size, None while unknown.
    """

    name: str
    version: str
    kind: Kind
    url: str
    file: str
    sha256: str | None
    bytes: int | None
    licence: str
    citation: str

    @property
    def page(self) -> str:
        """Where a person finds it in a browser."""
        if self.kind == "gdrive":
            return f"https://drive.google.com/file/d/{self.url}/view"
        return self.url


def _parse(row: dict[str, str], where: str) -> CatalogueEntry:
    def bad(column: str, expected: str) -> DownloadError:
        return DownloadError(
            f"the catalogue's {column} {row[column]!r} is not {expected}", where=where, hint="correct the row"
        )

    if any(
        row.get(column) is None or row[column] != row[column].strip() or not row[column] for column in COLUMNS
    ):
        raise DownloadError(
            "a catalogue row has an empty, padded or missing column",
            where=where,
            hint=f"columns, tab-separated: {', '.join(COLUMNS)}",
        )
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]*", row["name"]):
        raise bad("name", "lower-case letters, digits and hyphens")
    if row["kind"] not in get_args(Kind):
        raise bad("kind", f"one of {', '.join(get_args(Kind))}")
    kind = cast(Kind, row["kind"])
    if not _URL[kind].fullmatch(row["url"]):
        raise bad("url", f"what kind {kind} needs")
    if not _FILE.fullmatch(row["file"]):
        raise bad("file", "a plain file name")
    if row["sha256"] != UNVERIFIED and not re.fullmatch(r"[0-9a-f]{64}", row["sha256"]):
        raise bad("sha256", f"64 hexadecimal digits or {UNVERIFIED!r}")
    if row["bytes"] != UNKNOWN and not re.fullmatch(r"[1-9][0-9]*", row["bytes"]):
        raise bad("bytes", f"a positive number or {UNKNOWN!r}")
    if kind == "pypi" and row["url"] != f"https://pypi.org/project/{row['name']}/{row['version']}/":
        raise bad("url", "the project page of its own name and version")
    if kind == "pypi" and row["sha256"] == UNVERIFIED:
        raise bad("sha256", "known, which pip's --require-hashes needs")
    return CatalogueEntry(
        name=row["name"],
        version=row["version"],
        kind=kind,
        url=row["url"],
        file=row["file"],
        sha256=None if row["sha256"] == UNVERIFIED else row["sha256"],
        bytes=None if row["bytes"] == UNKNOWN else int(row["bytes"]),
        licence=row["licence"],
        citation=row["citation"],
    )


def read_catalogue(path: Path) -> dict[str, CatalogueEntry]:
    """Read a catalogue, tab-separated with a header line, by name.

    Raises:
        DownloadError: a row is malformed or a name or file occurs twice, naming the line.
    """
    entries: dict[str, CatalogueEntry] = {}
    files: dict[str, str] = {}
    with path.open(encoding="utf-8", newline="") as handle:
        reader = csv.DictReader(handle, delimiter="\t", quoting=csv.QUOTE_NONE, strict=True)
        if tuple(reader.fieldnames or ()) != COLUMNS:
            raise DownloadError(
                "the catalogue's header is not the one expected",
                where=path,
                hint=f"columns, tab-separated: {', '.join(COLUMNS)}",
            )
        for row in reader:
            where = f"{path}, line {reader.line_num}"
            if None in row:
                raise DownloadError(f"a catalogue row has more than {len(COLUMNS)} columns", where=where)
            entry = _parse(row, where)
            if entry.name in entries or entry.file in files:
                raise DownloadError(f"the catalogue lists {entry.name} or {entry.file} twice", where=where)
            entries[entry.name] = entry
            files[entry.file] = entry.name
    return entries


@cache
def catalogue() -> dict[str, CatalogueEntry]:
    """The entries of ``data/catalogue.tsv``, by name."""
    return read_catalogue(data_file("catalogue.tsv"))


def catalogue_entry(name: str) -> CatalogueEntry:
    """Return one entry.

    Raises:
        DownloadError: the catalogue has no such name; names the nearest.
    """
    entries = catalogue()
    if name not in entries:
        nearest = difflib.get_close_matches(name, entries, n=1)
        raise DownloadError(
            f"the catalogue has no {name!r}" + (f"; did you mean {nearest[0]!r}?" if nearest else ""),
            where=data_file("catalogue.tsv"),
            hint=f"known: {', '.join(entries)}",
        )
    return entries[name]
