"""Model directories: what the export stage writes and translation reads.

A directory holds a CTranslate2 model (``model.bin``, ``config.json``, ``shared_vocabulary.json``), the
SentencePiece model, and ``provenance.json``, which says what it translates and what it was made from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from neuron_specialization.directions import Direction
from neuron_specialization.errors import NeuronSpecializationError, TranslationError
from neuron_specialization.export.descriptions import check_description
from neuron_specialization.storage.files import read_json, sha256_of

FORMAT = 1
PROVENANCE = "provenance.json"
SEGMENTATION = "spm.model"
README = "README.md"  # the model card
DENSE = "dense"  # the one model of a system without masks
# what a model is given: text, or lines that are segmented already
InputFormat = Literal["text", "pieces"]
# all that a model directory may hold
FILES = {"model.bin", "config.json", "shared_vocabulary.json", SEGMENTATION, PROVENANCE, README}


def find_models(path: str | Path) -> dict[Direction, Path]:
    """Return the model directory of every direction that ``path`` holds (see `Translator.load`).

    Raises:
        TranslationError: there is none.
    """
    path = Path(path)
    if (path / PROVENANCE).is_file():
        candidates = [path]
    elif (path / "model.bin").is_file():
        raise TranslationError(
            f"a CTranslate2 model without {PROVENANCE}: not made by this project, its tags are unknown",
            where=path,
            hint="make it with: neuron-specialization export",
        )
    else:
        candidates = sorted(found.parent for found in path.glob(f"*/{PROVENANCE}"))
    folders = {direction: folder for folder in candidates for direction in _directions_of(folder)}
    if not folders:
        missing = f"{PROVENANCE} is missing" if path.is_dir() else "no such folder"
        raise TranslationError(
            f"no exported model here: {missing}",
            where=path,
            hint="make one with: neuron-specialization export",
        )
    return folders


def served_directions(provenance: Mapping[str, Any]) -> set[Direction]:
    """What a model can translate: a masked one its own direction, a dense one any pair of its languages."""
    trained = {Direction.parse(text) for text in provenance["directions"]}
    if provenance.get("mask") is not None:
        return trained
    languages = provenance["languages"]
    return trained | {Direction(a, b) for a in languages for b in languages if a != b}


def zero_shot_models(folders: Mapping[Direction, Path]) -> dict[Direction, Path]:
    """The dense model for every direction that one can translate without having been trained to.

    Args:
        folders: see `find_models`.
    """
    return {
        direction: folder
        for folder in dict.fromkeys(folders.values())
        for direction in sorted(served_directions(read_provenance(folder)))
        if direction not in folders
    }


def _directions_of(folder: Path) -> list[Direction]:
    return [Direction.parse(text) for text in read_provenance(folder)["directions"]]


def read_provenance(folder: Path) -> dict[str, Any]:
    """Read and check a model directory's provenance: its keys, and the size of every file it lists.

    Raises:
        TranslationError: a key or a file is missing, or a file has another size (a copy cut short).
    """
    needed = ("directions", "languages", "max_source_positions", "max_target_positions", "files")
    provenance = read_description(folder / PROVENANCE, "model", format=FORMAT, needed=needed)
    missing_files(folder, {"model.bin": {}, **provenance["files"]}, "model directory")
    return provenance


def read_description(path: Path, kind: str, *, format: int, needed: Sequence[str]) -> dict[str, Any]:
    """Read what an exported folder says of itself.

    Args:
        path: the JSON file.
        kind: what it describes, for the messages.
        format: the number that it must have as its ``format``.
        needed: further keys that it must have.

    Raises:
        TranslationError: unreadable, a key is missing, another format, or a value that cannot be.
    """
    try:
        description = read_json(path)
    except NeuronSpecializationError as error:
        raise TranslationError(error.what, where=error.where, hint=f"export the {kind} again") from None
    missing = [
        key for key in ("format", *needed) if not isinstance(description, dict) or key not in description
    ]
    if missing:
        raise TranslationError(
            f"the {kind}'s description lacks {', '.join(missing)}",
            where=path,
            cause="it was made by another tool or another version",
            hint=f"export the {kind} again",
        )
    if description["format"] != format:
        raise TranslationError(
            f"the {kind} has format {description['format']}, this version reads format {format}",
            where=path.parent,
            hint=f"export the {kind} again with this version",
        )
    check_description(description, path, kind)
    return dict(description)


def missing_files(folder: Path, files: Mapping[str, Mapping[str, Any]], kind: str) -> None:
    """Refuse a folder that lacks a file, or holds one of another size.

    Args:
        folder: what to look at.
        files: name → ``{"bytes": …}``.
        kind: what the folder is, for the message.

    Raises:
        TranslationError: naming the file.
    """
    for name, entry in files.items():
        file = folder / name
        if not file.is_file():
            raise TranslationError(f"the {kind} lacks {name}", where=folder, hint="export it again")
        if file.stat().st_size != entry.get("bytes"):
            raise TranslationError(
                f"{name} has {file.stat().st_size} bytes, not {entry.get('bytes')}",
                where=folder,
                cause="a copy or download that was cut short",
                hint="copy it again, or export it again",
            )


def check_contents(folder: Path, files: Mapping[str, Mapping[str, Any]], kind: str) -> None:
    """Refuse a folder with a file of other contents than it was made with; costs a read of all of them.

    Args:
        folder, files, kind: as in `missing_files`; the entries have a ``sha256``, too.

    Raises:
        TranslationError: naming the file.
        OSError: one cannot be read.
    """
    for name, entry in files.items():
        if sha256_of(folder / name) != entry["sha256"]:
            raise TranslationError(
                f"{name} is not the file that the {kind} was made with (its SHA-256 differs)",
                where=folder,
                cause="damaged while it was copied, or changed since",
                hint="copy it again, or export it again",
            )


def is_intact(folder: Path) -> bool:
    """Say whether a folder is a whole model directory, every file of it with its checksum."""
    try:
        check_contents(folder, read_provenance(folder)["files"], "model")
    except (NeuronSpecializationError, OSError, KeyError):
        return False
    return True
