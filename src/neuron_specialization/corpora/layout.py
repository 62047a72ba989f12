"""The corpus on disk: ``<split>/<pair>.<lang>``, one segment a line, and the manifest that vouches for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from neuron_specialization.directions import Direction
from neuron_specialization.errors import CorpusError, NeuronSpecializationError
from neuron_specialization.storage.files import read_json, read_lines, sha256_of, write_lines

SPLITS = ("train", "valid", "heldout")
MANIFEST = "manifest.json"


def pair_languages(pair: str) -> tuple[str, str]:
    """Return the two languages of a pair's name, in the order of its files."""
    direction = Direction.parse(pair)
    return direction.source, direction.target


def write_pair(
    folder: Path, name: str, languages: tuple[str, str], segments: list[tuple[str, str]]
) -> dict[str, str]:
    """Write ``<name>.<lang>`` of both languages below ``folder``; return their SHA-256 by relative path."""
    files = {}
    for side, language in enumerate(languages):
        relative = f"{name}.{language}"
        write_lines(folder / relative, [segment[side] for segment in segments])
        files[relative] = sha256_of(folder / relative)
    return files


def remove_former(folder: Path, keep: dict[str, str]) -> None:
    """Remove the files that the manifest of an earlier run lists and this run did not write."""
    try:
        former = read_json(folder / MANIFEST)["files"]
    except (NeuronSpecializationError, KeyError, TypeError):
        return
    for relative in former:
        if relative not in keep and ".." not in Path(relative).parts:
            (folder / relative).unlink(missing_ok=True)


class CorpusFolder:
    """A finished corpus, read through its manifest: what is read is what the corpus stage wrote.

    Raises:
        CorpusError: there is no corpus at ``folder``.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        path = self.folder / MANIFEST
        if not path.is_file():
            raise CorpusError(
                "no corpus here: its manifest is missing", where=path, hint="run the corpus stage first"
            )
        self.manifest: dict[str, Any] = read_json(path)

    @property
    def languages(self) -> list[str]:
        """The configured languages."""
        return list(self.manifest["languages"])

    @property
    def pairs(self) -> list[str]:
        """The unordered pairs."""
        return list(self.manifest["pairs"])

    def lines(self, split: str, pair: str, language: str) -> list[str]:
        """Read one file.

        Raises:
            CorpusError: it is not the file the manifest describes.
        """
        relative = f"{split}/{pair}.{language}"
        path = self.folder / relative
        lines = read_lines(path)
        if sha256_of(path) != self.manifest["files"].get(relative):
            raise CorpusError(
                "the file is not the one its manifest describes",
                where=path,
                cause="it was edited, or an earlier run stopped half-way",
                hint="run the corpus stage again",
            )
        if len(lines) != self.manifest["splits"][split][pair]["segments"]:
            raise CorpusError(f"{len(lines)} lines, the manifest says otherwise", where=path)
        return lines
