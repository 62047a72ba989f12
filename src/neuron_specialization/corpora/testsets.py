"""Test sets that are parallel over many languages: FLORES-200, or a folder of one file a language and split.

Their text is copied as published, not normalised: a score is comparable only on the published references.
(Translation normalises what it reads; see preprocessing/pieces.py.)
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from neuron_specialization.corpora.layout import (
    MANIFEST,
    CorpusFolder,
    pair_languages,
    remove_former,
    write_pair,
)
from neuron_specialization.corpora.splits import HeldOutIndex, Segments, comparison_key
from neuron_specialization.directions import Direction, known_languages
from neuron_specialization.errors import CorpusError
from neuron_specialization.storage.files import read_lines, write_json
from neuron_specialization.storage.unfinished import unfinished_folder

# FLORES-200 unpacks to 0.1 GB
_MAX_UNPACKED = 4 << 30

TestsetSource = Literal["flores200", "folder"]


def prepare_testset(
    source: TestsetSource,
    path: str | Path,
    splits: list[str],
    directions: Iterable[Direction],
    output: str | Path,
    corpus: str | Path | None = None,
) -> dict[str, Any]:
    """Write ``<pair>.<lang>`` for the directions' pairs, the splits one after another in the given order.

    Args:
        source: ``flores200``: an unpacked FLORES-200 (``<split>/<code>.<split>``, as in
            ``devtest/deu_Latn.devtest``); ``folder``: ``<split>.<language>`` files. Both may end in ``.gz``,
            and a language may be named by its code or its FLORES-200 code (data/languages.tsv).
        path: the folder, or an archive of it.
        splits: e.g. ``["dev", "devtest"]``.
        directions: what is to be translated.
        output: the test set's folder.
        corpus: the corpus folder whose training text the test set is held against.

    Returns:
        The manifest: source, splits, languages, pairs, segments, and the files' checksums; of a folder, the
        lines that are not NFC by language; with a corpus, the segments in its training text by pair.

    Raises:
        CorpusError: listing every language that is missing, empty, damaged or of another length.
    """
    output = Path(output)
    wanted = list(directions)
    languages = _languages(wanted)
    text = read_testset(source, path, splits, languages, scratch=output)
    files: dict[str, str] = {}
    pairs = list(dict.fromkeys(direction.pair for direction in wanted))
    segments: dict[str, Segments] = {}
    for pair in pairs:
        first, second = pair_languages(pair)
        segments[pair] = list(zip(text[first], text[second], strict=True))
        files |= write_pair(output, pair, (first, second), segments[pair])
    remove_former(output, keep=files)
    manifest: dict[str, Any] = {
        "source": source,
        "splits": splits,
        "languages": languages,
        "pairs": pairs,
        "segments": len(text[languages[0]]),
        "files": files,
    }
    if source == "folder":
        manifest["not_nfc"] = {
            code: count
            for code, lines in text.items()
            if (count := sum(not unicodedata.is_normalized("NFC", line) for line in lines))
        }
    if corpus is not None:
        manifest["in_training_text"] = _in_training_text(segments, CorpusFolder(corpus))
    write_json(output / MANIFEST, manifest)
    return manifest


def read_testset(
    source: TestsetSource,
    path: str | Path,
    splits: list[str],
    languages: Sequence[str],
    *,
    scratch: Path,
) -> dict[str, list[str]]:
    """Return the text of each language, the splits one after another; see prepare_testset.

    Args:
        scratch: a folder below which an archive is unpacked for the time being.

    Raises:
        CorpusError: listing every language that is missing, empty, damaged or of another length.
    """
    root = Path(path)
    if root.is_file():
        from neuron_specialization.corpora.archives import safe_extract

        scratch.mkdir(parents=True, exist_ok=True)
        with unfinished_folder(scratch / "unpacked") as folder:
            safe_extract(root, folder / "text", max_bytes=_MAX_UNPACKED)
            return read_testset(source, folder / "text", splits, languages, scratch=scratch)
    return _read_folder(source, root, splits, languages)


def _in_training_text(segments: Mapping[str, Segments], corpus: CorpusFolder) -> dict[str, int]:
    """Pair → test segments with a side that is in the training text, of whatever pair (comparison_key).

    Only the test set's keys are held in memory, however long the training text is.
    """
    wanted: dict[str, set[str]] = {}
    for pair, lines in segments.items():
        for side, code in enumerate(pair_languages(pair)):
            wanted.setdefault(code, set()).update(comparison_key(line[side]) for line in lines)
    index = HeldOutIndex()
    for pair in corpus.pairs:
        for code in pair_languages(pair):
            keys = map(comparison_key, corpus.lines("train", pair, code))
            index.add_keys(code, wanted.get(code, set()).intersection(keys))
    return {pair: len(lines) - len(index.without(pair, lines)) for pair, lines in segments.items()}


def check_testset(
    source: TestsetSource, path: str | Path, splits: list[str], directions: Iterable[Direction]
) -> None:
    """Refuse what ``prepare_testset`` would refuse; nothing is written. An archive is not unpacked for it.

    Raises:
        CorpusError: see prepare_testset.
    """
    if not Path(path).is_file():
        _read_folder(source, Path(path), splits, _languages(directions))


def source_files(
    source: TestsetSource, path: str | Path, splits: list[str], directions: Iterable[Direction]
) -> list[Path]:
    """Return the files that a test set is made of, as far as they are there: an archive is one itself."""
    root = Path(path)
    if not root.is_dir():
        return [root]
    root, names = _layout(source, root, splits)
    languages = _languages(directions)
    return [file for split in splits for code in languages for file in _present(root, names(split, code))]


def _languages(directions: Iterable[Direction]) -> list[str]:
    return list(dict.fromkeys(code for each in directions for code in (each.source, each.target)))


def _layout(
    source: TestsetSource, root: Path, splits: list[str]
) -> tuple[Path, Callable[[str, str], list[str]]]:
    """Where the files of a test set's folder are, and what they may be called."""
    if source != "flores200":
        return root, _folder_names
    inner = root / "flores200_dataset"
    outside = any((root / split).is_dir() for split in splits) or not inner.is_dir()
    return (root if outside else inner), _flores_names


def _present(root: Path, names: list[str]) -> list[Path]:
    paths = [root / f"{name}{end}" for name in names for end in ("", ".gz")]
    return [path for path in paths if path.is_file()]


def _read_folder(
    source: TestsetSource, root: Path, splits: list[str], languages: Sequence[str]
) -> dict[str, list[str]]:
    """Read and check the splits, one after another, in every language."""
    if not root.is_dir():
        raise CorpusError("the test set's folder is missing", where=root.absolute(), hint="check the path")
    if not languages or not splits:
        raise CorpusError("a test set needs at least one direction and one split", where=root)
    problems: list[str] = []
    text: dict[str, list[str]] = {code: [] for code in languages}
    root, names = _layout(source, root, splits)
    for split in splits:
        for code, lines in _read_split(root, split, languages, names, problems).items():
            text[code].extend(lines)
    if problems:
        raise CorpusError(
            "the test set is not complete:\n" + "\n".join(f"  - {problem}" for problem in problems),
            where=root.absolute(),
            hint="add the files, or take the languages or the test set out of the configuration",
        )
    return text


def _codes(language: str) -> list[str]:
    """The names a language's file may bear: its code, and its FLORES-200 code if the table knows it."""
    known = known_languages().get(language)
    return list(dict.fromkeys([language, *([known.flores200] if known else [])]))


def _flores_names(split: str, language: str) -> list[str]:
    return [f"{split}/{code}.{split}" for code in reversed(_codes(language))]


def _folder_names(split: str, language: str) -> list[str]:
    return [f"{split}.{code}" for code in _codes(language)]


def _read_split(
    root: Path,
    split: str,
    languages: Sequence[str],
    names: Callable[[str, str], list[str]],
    problems: list[str],
) -> dict[str, list[str]]:
    """Read one split in every language; what is wrong goes to ``problems``."""
    text: dict[str, list[str]] = {}
    for code in languages:
        candidates = names(split, code)
        found = _present(root, candidates)
        if not found:
            problems.append(f"{code}: {' or '.join(candidates)} is missing")
        elif len(found) > 1:
            problems.append(f"{code}: {' and '.join(path.name for path in found)} are both there: keep one")
        else:
            lines = _read(found[0], code, problems)
            if lines is not None:
                text[code] = lines
    by_length: dict[int, list[str]] = {}
    for code, lines in text.items():
        by_length.setdefault(len(lines), []).append(code)
    if len(by_length) > 1:
        groups = [f"{length} in {', '.join(codes)}" for length, codes in sorted(by_length.items())]
        problems.append(f"{split}: unequal line counts: {'; '.join(groups)}")
    return text


def _read(path: Path, code: str, problems: list[str]) -> list[str] | None:
    try:
        lines = read_lines(path)
    except CorpusError as error:
        problems.append(f"{code}: {error.where}: {error.what}")
        return None
    if not lines:
        problems.append(f"{code}: {path.name} is empty")
    blank = [number for number, line in enumerate(lines, 1) if not line.strip()]
    if blank:
        problems.append(f"{code}: {path.name}, line {blank[0]}: is empty ({len(blank)} such lines)")
    return lines
