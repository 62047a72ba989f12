"""Anyone's own text: a folder of ``train.<src>-<tgt>.<lang>`` files, and ``valid`` and ``test`` alike.

A pair may be named in either order (``train.de-en.de`` or ``train.en-de.de``), files may end in ``.gz``.
Everything is read and checked before anything is written, and all that is wrong is reported at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from neuron_specialization.corpora.layout import pair_languages
from neuron_specialization.corpora.splits import Segments
from neuron_specialization.corpora.text import normalise
from neuron_specialization.errors import CorpusError
from neuron_specialization.storage.files import read_lines

# name in the folder → split of the corpus
LOCAL_SPLITS = {"train": "train", "valid": "valid", "test": "heldout"}
# problems of one kind in one file that are listed before "and n more"
_LISTED = 3


def read_local(
    folder: str | Path, pairs: list[str], heldout_pairs: Sequence[str] = ()
) -> dict[str, dict[str, Segments]]:
    """Read the folder's files of the given pairs; of ``heldout_pairs`` only ``test``.

    Returns:
        Split → pair → aligned segments; ``train`` as read, ``valid`` and ``heldout`` normalised.

    Raises:
        CorpusError: listing every file that is missing, misaligned, empty or not UTF-8, and every empty
            line in valid or test, with file and line.
    """
    splits: dict[str, dict[str, Segments]] = {split: {} for split in LOCAL_SPLITS.values()}
    for split, pair, segments in _read(Path(folder), pairs, heldout_pairs):
        splits[split][pair] = segments
    return splits


def check_local(
    folder: str | Path, pairs: list[str], heldout_pairs: Sequence[str] = (), *, names_alone: bool = False
) -> None:
    """Refuse what ``read_local`` would refuse; no more than a pair is in memory at a time.

    Args:
        folder: see read_local.
        pairs: see read_local.
        heldout_pairs: see read_local.
        names_alone: read nothing where every file is there.

    Raises:
        CorpusError: see read_local.
    """
    folder = Path(folder)
    if names_alone and folder.is_dir():
        problems: list[str] = []
        for name, _, pair in _wanted(pairs, heldout_pairs):
            _paths(folder, name, pair, problems)
        if not problems:
            return
    for _ in _read(folder, pairs, heldout_pairs):
        pass


def local_files(folder: str | Path, pairs: list[str], heldout_pairs: Sequence[str] = ()) -> list[Path]:
    """Return the files that ``read_local`` reads, sorted; those of other pairs are of no concern.

    What is missing is left out: ``check_local`` tells.
    """
    ignored: list[str] = []
    wanted = _wanted(pairs, heldout_pairs)
    return sorted(
        path for name, _, pair in wanted for path in _paths(Path(folder), name, pair, ignored) or []
    )


def _wanted(pairs: list[str], heldout_pairs: Sequence[str]) -> Iterator[tuple[str, str, str]]:
    """Name in the folder, split, pair."""
    for name, split in LOCAL_SPLITS.items():
        for pair in [*pairs, *(heldout_pairs if split == "heldout" else ())]:
            yield name, split, pair


def _read(
    folder: Path, pairs: list[str], heldout_pairs: Sequence[str]
) -> Iterator[tuple[str, str, Segments]]:
    """Split, pair and segments, one pair after another; what is wrong is raised when all are read."""
    if not folder.is_dir():
        raise CorpusError(
            "the folder of local text is missing",
            where=folder.absolute(),
            hint="set corpus.path to your folder",
        )
    problems: list[str] = []
    for name, split, pair in _wanted(pairs, heldout_pairs):
        segments = _read_pair(folder, name, pair, problems)
        if segments is not None and split != "train":
            segments = [(normalise(a), normalise(b)) for a, b in segments]
        yield split, pair, segments or []
    if problems:
        count = f"{len(problems)} problems" if len(problems) > 1 else "a problem"
        raise CorpusError(
            f"{count} in the local text:\n" + "\n".join(f"  - {problem}" for problem in problems),
            where=folder.absolute(),
            hint="each language pair needs train.<src>-<tgt>.<lang>, valid.… and test.… for both of its "
            "languages, line by line parallel, UTF-8"
            + (f"; {', '.join(heldout_pairs)} (zero_shot:) only test.…" if heldout_pairs else ""),
        )


def _paths(folder: Path, name: str, pair: str, problems: list[str]) -> list[Path] | None:
    """The files of a pair that are there; None where there is none, or too many."""
    languages = pair_languages(pair)
    stem = _stem(folder, name, languages, problems)
    if stem is None:
        return None
    return [path for path in (_find(folder, f"{stem}.{code}", problems) for code in languages) if path]


def _read_pair(folder: Path, name: str, pair: str, problems: list[str]) -> Segments | None:
    paths = _paths(folder, name, pair, problems)
    if paths is None:
        return None
    sides: list[list[str]] = []
    for path in paths:
        try:
            lines = read_lines(path)
        except CorpusError as error:
            problems.append(f"{error.where}: {error.what}")
            continue
        if not lines:
            problems.append(f"{path.name}: is empty")
        elif name != "train":
            _report_blank(path, lines, problems)
        sides.append(lines)
    if len(sides) < 2 or not all(sides):
        return None
    if len(sides[0]) != len(sides[1]):
        first = min(map(len, sides)) + 1
        problems.append(
            f"{paths[0].name} has {len(sides[0])} lines, {paths[1].name} {len(sides[1])}: "
            f"line {first} has no counterpart"
        )
        return None
    return list(zip(*sides, strict=True))


def _stem(folder: Path, name: str, languages: tuple[str, str], problems: list[str]) -> str | None:
    """The name both files of a pair begin with, in whichever order the pair is written."""
    first, second = languages
    stems = [f"{name}.{first}-{second}", f"{name}.{second}-{first}"]
    found = [
        stem
        for stem in stems
        if any((folder / f"{stem}.{code}{end}").exists() for code in languages for end in ("", ".gz"))
    ]
    if len(found) == 2:
        problems.append(f"{stems[0]}.* and {stems[1]}.* are both there: keep one, it serves both directions")
        return None
    if not found:
        problems.append(f"{stems[0]}.{first} and {stems[0]}.{second} are missing")
        return None
    return found[0]


def _find(folder: Path, name: str, problems: list[str]) -> Path | None:
    found = [path for path in (folder / name, folder / f"{name}.gz") if path.is_file()]
    if len(found) == 2:
        problems.append(f"{name} and {name}.gz are both there: keep one")
    elif not found:
        problems.append(f"{name} is missing")
    return found[0] if len(found) == 1 else None


def _report_blank(path: Path, lines: list[str], problems: list[str]) -> None:
    blank = [number for number, line in enumerate(lines, 1) if not normalise(line)]
    for number in blank[:_LISTED]:
        problems.append(f"{path.name}, line {number}: is empty; remove the line from both files")
    if len(blank) > _LISTED:
        problems.append(f"{path.name}: {len(blank) - _LISTED} more empty lines")
