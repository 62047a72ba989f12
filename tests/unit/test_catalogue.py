"""The catalogue of downloads: the shipped one is sound, a damaged one is refused by line."""

from __future__ import annotations

from pathlib import Path

import pytest

from neuron_specialization.catalogue import COLUMNS, catalogue, catalogue_entry, read_catalogue
from neuron_specialization.errors import DownloadError

GOOD = {
    "name": "flores",
    "version": "1",
    "kind": "http",
    "url": "https://example.org/f.tar.gz",
    "file": "f.tar.gz",
    "sha256": "0" * 64,
    "bytes": "12",
    "licence": "MIT",
    "citation": "Somebody, 2020",
}


def write(path: Path, *rows: dict[str, str], header: str = "\t".join(COLUMNS)) -> Path:
    lines = [header, *("\t".join(row[column] for column in COLUMNS) for row in rows)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_the_shipped_catalogue() -> None:
    entries = catalogue()
    wheel = entries["homeassistant"]
    assert (wheel.version, wheel.kind, wheel.bytes, wheel.licence) == (
        "2026.2.3",
        "pypi",
        51_240_053,
        "Apache-2.0",
    )
    assert wheel.sha256 == "8167820cac4b8defe895fd2c36ac23402a445d1fe6028e8cde24caabb935282c"
    assert {"ec30-data-bin", "ec30-baseline", "ec30-ns", "flores200"} <= set(entries)
    assert entries["ec30-ns"].page == "https://drive.google.com/file/d/1LF8BP-5HfN9j9LfME0Jz28ULAztEUyeu/view"
    assert entries["ec30-ns"].sha256 is None and entries["ec30-ns"].bytes is None


def test_unknown_name_gets_the_nearest() -> None:
    with pytest.raises(DownloadError, match="did you mean 'flores200'"):
        catalogue_entry("flores101")


def test_a_row_is_read(tmp_path: Path) -> None:
    entry = read_catalogue(write(tmp_path / "c.tsv", GOOD))["flores"]
    assert (entry.bytes, entry.sha256, entry.page) == (12, "0" * 64, GOOD["url"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "ftp"}, "kind 'ftp'"),
        ({"kind": "pypi"}, "url"),
        ({"kind": "gdrive"}, "url"),
        ({"url": "file:///etc/passwd"}, "url"),
        ({"file": "../x"}, "file '../x'"),
        ({"file": ".hidden"}, "file"),
        ({"name": "Flores 200"}, "name"),
        ({"sha256": "abc"}, "sha256 'abc'"),
        ({"sha256": ""}, "empty"),
        ({"bytes": "-1"}, "bytes"),
        ({"bytes": "51 MB"}, "bytes"),
        ({"licence": " MIT"}, "padded"),
    ],
)
def test_a_bad_row_is_refused(tmp_path: Path, change: dict[str, str], message: str) -> None:
    path = write(tmp_path / "c.tsv", GOOD | {"name": "other", "file": "other"}, GOOD | change)
    with pytest.raises(DownloadError, match=message) as caught:
        read_catalogue(path)
    assert caught.value.where == f"{path}, line 3"


def test_a_package_needs_its_checksum(tmp_path: Path) -> None:
    row = GOOD | {"kind": "pypi", "url": "https://pypi.org/project/flores/1/", "sha256": "unverified"}
    with pytest.raises(DownloadError, match="require-hashes"):
        read_catalogue(write(tmp_path / "c.tsv", row))


def test_twice_the_same_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match="twice"):
        read_catalogue(write(tmp_path / "c.tsv", GOOD, GOOD | {"name": "other"}))
    with pytest.raises(DownloadError, match="header"):
        read_catalogue(write(tmp_path / "c.tsv", GOOD, header="name\turl"))
