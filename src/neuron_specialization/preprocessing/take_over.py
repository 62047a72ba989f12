"""Take over text that somebody else binarised with fairseq (EC30): check it, link it, describe it.

Nothing is copied: the data-bin of the experiment is made of links under the names this project uses, beside a
manifest. The text of its test split comes out again as pieces, to be translated as they are, and as the
reference text that fairseq-generate would print.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from neuron_specialization.corpora.layout import MANIFEST, pair_languages, remove_former
from neuron_specialization.directions import Direction
from neuron_specialization.errors import CorpusError
from neuron_specialization.formats.data_bin import Sentences, read_parallel
from neuron_specialization.formats.fairseq_conventions import EOS, SPECIAL, UNK
from neuron_specialization.preprocessing.binarize import read_dictionary
from neuron_specialization.preprocessing.pieces import join_pieces
from neuron_specialization.storage.files import atomic_path, hash_of, sha256_of, write_json, write_lines

# Of larger files only samples are hashed: EC30's text is some 10 GB, and is named again at every training.
_HASHED_WHOLE = 16 << 20
_SAMPLES, _SAMPLE_BYTES = 16, 1 << 16
# sentences of each file whose tokens are looked at
_LOOKED_AT = 2000
PIECES = "pieces"


def fingerprint_of(path: Path) -> str:
    """Return a file's sha256; of a large one ``sampled:`` and the sha256 of its size and 16 blocks of it.

    The blocks (64 KiB each) lie evenly over the file, first and last included. Another version of a text
    differs in size; what the samples can miss is a change in place made on purpose.
    """
    size = path.stat().st_size
    if size <= _HASHED_WHOLE:
        return sha256_of(path)
    digest = hashlib.sha256(f"{size}".encode())
    with path.open("rb") as handle:
        for number in range(_SAMPLES):
            handle.seek((size - _SAMPLE_BYTES) * number // (_SAMPLES - 1))
            digest.update(handle.read(_SAMPLE_BYTES))
    return f"sampled:{digest.hexdigest()}"


def find_data_bin(source: str | Path) -> list[Path]:
    """Return the folders of a data-bin: itself, or its shards in order.

    The data-bin may lie up to three folders below ``source``, as it does in most archives.

    Raises:
        CorpusError: there is none, there are several, or a shard is missing from the row.
    """
    source = Path(source)
    if not source.is_dir():
        raise CorpusError("the folder of the data-bin is missing", where=source, hint="check corpus.path")
    level = [source]
    for _ in range(4):
        found = [folder for folder in level if _is_data_bin(folder)]
        if len(found) > 1:
            names = ", ".join(str(folder.relative_to(source)) for folder in found[:4])
            raise CorpusError(
                f"several data-bins: {names}", where=source, hint="set corpus.path to one of them"
            )
        if found:
            return _shards(found[0])
        level = sorted(child for folder in level for child in folder.iterdir() if child.is_dir())
    raise CorpusError(
        "no fairseq data-bin here: no dict.<language>.txt, in it or in shard0/",
        where=source,
        hint="set corpus.path to the folder that fairseq-preprocess wrote",
    )


def _is_data_bin(folder: Path) -> bool:
    if folder.name.startswith("shard") and folder.name[5:].isdecimal():
        return False  # found through its parent
    return any(folder.glob("dict.*.txt")) or any((folder / "shard0").glob("dict.*.txt"))


def _shards(root: Path) -> list[Path]:
    numbers = sorted(
        int(path.name[5:])
        for path in root.iterdir()
        if path.is_dir() and path.name.startswith("shard") and path.name[5:].isdecimal()
    )
    if not numbers:
        return [root]
    if numbers != list(range(len(numbers))):
        raise CorpusError(f"the shards are {numbers}: one is missing", where=root, hint="unpack it again")
    return [root / f"shard{number}" for number in numbers]


@dataclass(frozen=True)
class CheckedDataBin:
    """A data-bin that can be taken over.

    Attributes:
        links: name in the experiment → file.
        dictionary: that of all languages.
        vocabulary_size: its entries.
        counts: split → pair → segments, tokens and longest segment.
    """

    links: dict[str, Path]
    dictionary: Path
    vocabulary_size: int
    counts: dict[str, dict[str, Any]]


def take_over(
    source: str | Path,
    output: str | Path,
    *,
    languages: Sequence[str],
    pairs: Sequence[str],
    shards: int,
    splits: Sequence[str] = ("train", "valid", "test"),
    vocabulary: str | Path | None = None,
    segmentation: str | Path | None = None,
) -> dict[str, Any]:
    """Check a fairseq data-bin and link it into an experiment.

    Args:
        source: the folder (or one that holds it); flat, or ``shard0`` … with parts of the training text.
        output: the experiment's data-bin: links, and ``manifest.json``, written last.
        languages: all must have the same dictionary.
        pairs: unordered pairs, named as Direction.pair names them; the source may name them either way round.
        shards: how many are expected.
        splits: that every pair must have; ``train`` in every shard, others in the first.
        vocabulary: folder that gets ``dict.txt``, and ``spm.model`` if there is one.
        segmentation: the SentencePiece model the text was segmented with, where it is known.

    Returns:
        The manifest (docs/architecture.md).

    Raises:
        CorpusError: listing all that is missing, damaged, misaligned or does not fit the dictionary.
    """
    checked = check_data_bin(source, languages=languages, pairs=pairs, shards=shards, splits=splits)
    links, output = checked.links, Path(output)
    for name, path in links.items():
        _link(output / name, path)
    fingerprints = {name: fingerprint_of(output / name) for name in sorted(links)}
    remove_former(output, keep=fingerprints)
    if vocabulary is not None:
        _write_vocabulary(Path(vocabulary), checked.dictionary, segmentation)
    manifest = {
        "source": "data-bin",
        "languages": list(languages),
        "pairs": list(pairs),
        "shards": shards,
        "vocabulary_size": checked.vocabulary_size,
        "splits": checked.counts,
        "files": fingerprints,
    }
    write_json(output / MANIFEST, manifest)
    return manifest


def check_data_bin(
    source: str | Path, *, languages: Sequence[str], pairs: Sequence[str], shards: int, splits: Sequence[str]
) -> CheckedDataBin:
    """Check a data-bin, without writing anything; the arguments are those of ``take_over``.

    Raises:
        CorpusError: see take_over.
    """
    folders = find_data_bin(source)
    if len(folders) != shards:
        raise CorpusError(
            f"the data-bin has {len(folders)} shards, the configuration says {shards}",
            where=folders[0].parent if len(folders) > 1 else folders[0],
            hint=f"set corpus.shards to {len(folders)}",
        )
    problems: list[str] = []
    links: dict[str, Path] = {}
    dictionary = _check_dictionaries(folders, languages, links, problems)
    if problems:
        raise _incomplete(folders, problems)
    size = len(read_dictionary(dictionary))
    counts: dict[str, dict[str, Any]] = {split: {} for split in splits}
    for split in splits:
        for pair in pairs:
            for number, folder in enumerate(folders):
                if number and split != "train":
                    # every shard has a copy of it in fairseq's way of sharding; the first one is read
                    continue
                found = _check_pair(folder, split, pair, size, problems)
                if found is not None:
                    files, numbers = found
                    links |= {_in_shard(name, number, shards): path for name, path in files.items()}
                    _add(counts[split].setdefault(pair, {}), numbers)
    if problems:
        raise _incomplete(folders, problems)
    return CheckedDataBin(links, dictionary, size, counts)


def index_files(
    source: str | Path, *, languages: Sequence[str], pairs: Sequence[str], splits: Sequence[str]
) -> list[Path]:
    """Return the small files that tell one version of a data-bin from another: dictionaries and indices.

    An index holds the length of every sentence. The arguments are those of ``take_over``.
    """
    found = []
    for folder in find_data_bin(source):
        found += [folder / f"dict.{code}.txt" for code in languages]
        for pair in pairs:
            codes = pair_languages(pair)
            for order in ("-".join(codes), "-".join(reversed(codes))):
                found += [folder / f"{split}.{order}.{code}.idx" for split in splits for code in codes]
    return [path for path in found if path.is_file()]


def content_of(folder: str | Path, names: Sequence[str]) -> dict[str, Any]:
    """Return how many files of a folder there are, and a checksum of their names and content."""
    folder = Path(folder)
    prints = {name: fingerprint_of(folder / name) for name in names if (folder / name).is_file()}
    return {"files": len(prints), "sha256": hash_of(prints)}


def _incomplete(folders: Sequence[Path], problems: Sequence[str]) -> CorpusError:
    shown = [f"  - {problem}" for problem in problems[:20]]
    if len(problems) > 20:
        shown.append(f"  … and {len(problems) - 20} more")
    return CorpusError(
        "the data-bin cannot be taken over:\n" + "\n".join(shown),
        where=folders[0],
        cause="an archive that was unpacked in part, or a data-bin of other languages",
        hint="unpack it again, or take out of the configuration what it does not have",
    )


def _in_shard(name: str, number: int, shards: int) -> str:
    return name if shards == 1 else f"shard{number}/{name}"


def _check_dictionaries(
    folders: Sequence[Path], languages: Sequence[str], links: dict[str, Path], problems: list[str]
) -> Path:
    """Note the dictionaries' links; return the one dictionary that all of them are."""
    checksums: dict[str, list[str]] = {}
    for number, folder in enumerate(folders):
        for code in languages:
            path = folder / f"dict.{code}.txt"
            if not path.is_file():
                problems.append(f"{path.relative_to(folder.parent)} is missing")
                continue
            checksums.setdefault(sha256_of(path), []).append(str(path.relative_to(folder.parent)))
            links[_in_shard(path.name, number, len(folders))] = path
    if len(checksums) > 1:
        usual = max(checksums.values(), key=len)
        odd = [name for names in checksums.values() if names is not usual for name in names]
        problems.append(f"the dictionaries differ: {', '.join(odd[:6])} from {usual[0]}")
    return folders[0] / f"dict.{languages[0]}.txt"


def _check_pair(
    folder: Path, split: str, pair: str, vocabulary_size: int, problems: list[str]
) -> tuple[dict[str, Path], dict[str, Any]] | None:
    """Check one pair of one split; return name here → file there, and its counts."""
    first, second = pair_languages(pair)
    orders = [
        order
        for order in (f"{first}-{second}", f"{second}-{first}")
        if (folder / f"{split}.{order}.{first}.idx").exists()
    ]
    place = f"{folder.name}/{split}.{pair}"
    if not orders:
        problems.append(f"{place}: no such text, in either order of the pair")
        return None
    if len(orders) > 1 and not _same_text(folder, split, orders, (first, second)):
        problems.append(f"{place}: {orders[0]} and {orders[1]} are both there and differ")
        return None
    files: dict[str, Path] = {}
    numbers: dict[str, Any] = {"segments": 0, "tokens": {}, "longest": {}}
    lengths = {}
    for code in (first, second):
        prefix = folder / f"{split}.{orders[0]}.{code}"
        try:
            sentences = Sentences.read(prefix)
        except CorpusError as error:
            problems.append(f"{error.where}: {error.what}")
            return None
        wrong = _wrong_tokens(sentences, vocabulary_size)
        if wrong:
            problems.append(f"{prefix.relative_to(folder.parent)}.bin: {wrong}")
        lengths[code] = len(sentences)
        numbers["tokens"][code] = int(sentences.lengths.sum())
        numbers["longest"][code] = int(sentences.lengths.max(initial=0))
        for suffix in ("bin", "idx"):
            files[f"{split}.{pair}.{code}.{suffix}"] = Path(f"{prefix}.{suffix}")
    if len(set(lengths.values())) > 1:
        problems.append(f"{place}: {lengths[first]} {first} and {lengths[second]} {second} sentences")
    elif not lengths[first]:
        problems.append(f"{place}: is empty")
    numbers["segments"] = lengths[first]
    return files, numbers


def _same_text(folder: Path, split: str, orders: Sequence[str], languages: tuple[str, str]) -> bool:
    for code in languages:
        one, other = (folder / f"{split}.{order}.{code}.idx" for order in orders)
        if not other.is_file() or sha256_of(one) != sha256_of(other):
            return False
    return True


def _wrong_tokens(sentences: Sentences, vocabulary_size: int) -> str | None:
    """Look at sentences all over the text: do they end in ``</s>`` and stay within the dictionary?"""
    if not len(sentences):
        return None
    indices = np.unique(np.linspace(0, len(sentences) - 1, _LOOKED_AT).astype(np.int64))
    ends = sentences.tokens[sentences.starts[indices] + sentences.lengths[indices] - 1]
    if not bool((ends == EOS).all()):
        return "sentences do not end in </s>: not text that fairseq-preprocess wrote"
    highest = max(int(sentences[int(index)].max()) for index in indices)
    if highest >= vocabulary_size:
        return f"token {highest} is not in the dictionary of {vocabulary_size} entries"
    return None


def _add(total: dict[str, Any], numbers: dict[str, Any]) -> None:
    """Add a shard's counts to the pair's."""
    total["segments"] = total.get("segments", 0) + numbers["segments"]
    for code, count in numbers["tokens"].items():
        tokens, longest = total.setdefault("tokens", {}), total.setdefault("longest", {})
        tokens[code] = tokens.get(code, 0) + count
        longest[code] = max(longest.get(code, 0), numbers["longest"][code])


def _link(link: Path, target: Path) -> None:
    """Make a relative link, replacing what is there at one stroke."""
    link.parent.mkdir(parents=True, exist_ok=True)
    relative = os.path.relpath(target.resolve(), link.parent.resolve())
    if link.is_symlink() and str(link.readlink()) == relative:
        return
    # not files.atomic_path: it sets permissions, which would be those of the link's target
    temporary = link.with_name(f".{link.name}.link")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(relative)
    temporary.replace(link)


def _write_vocabulary(folder: Path, dictionary: Path, segmentation: str | Path | None) -> None:
    with atomic_path(folder / "dict.txt") as temporary:
        shutil.copyfile(dictionary, temporary)
    if segmentation is None:
        # of an earlier configuration: text segmented with it would not fit
        (folder / "spm.model").unlink(missing_ok=True)
        return
    from neuron_specialization.preprocessing.pieces import Segmenter

    segmenter = Segmenter(segmentation)
    entries = set(read_dictionary(dictionary))
    known = [piece in entries for piece in segmenter.pieces]
    # the dictionary of fairseq-preprocess leaves out pieces that the training text never had
    if sum(known) < 0.9 * len(known):
        raise CorpusError(
            f"the SentencePiece model is another one: {len(known) - sum(known)} of its {len(known)} pieces "
            "are not in the data-bin's dictionary",
            where=segmentation,
            hint="give the model the text was segmented with, or none (corpus.segmentation)",
        )
    with atomic_path(folder / "spm.model") as temporary:
        shutil.copyfile(segmentation, temporary)


# ---- its test split as a test set ----


def testset_from_data_bin(
    data_bin: str | Path, splits: Sequence[str], directions: Iterable[Direction], output: str | Path
) -> dict[str, Any]:
    """Write the text of a data-bin's splits: as pieces to translate, and as text to score against.

    Args:
        data_bin: the folder with ``manifest.json`` (take_over).
        splits: e.g. ``["test"]``, one after another.
        directions: what is to be translated.
        output: the test set's folder: ``pieces/<pair>.<lang>`` has the pieces, separated by spaces, unknown
            ones as ``<unk>``; ``<pair>.<lang>`` has the pieces joined, unknown ones as ``<<unk>>``, as
            fairseq-generate prints references (no hypothesis can match it). Both are still tokenised if the
            text was: scoring detokenises.

    Returns:
        The manifest: source, splits, languages, pairs, segments a pair, and the files' checksums.

    Raises:
        CorpusError: a direction has no such text.
    """
    data_bin, output = Path(data_bin), Path(output)
    wanted = list(directions)
    languages = list(dict.fromkeys(code for each in wanted for code in (each.source, each.target)))
    pairs = list(dict.fromkeys(direction.pair for direction in wanted))
    if not wanted or not splits:
        raise CorpusError("a test set needs at least one direction and one split", where=data_bin)
    first = data_bin if (data_bin / f"dict.{languages[0]}.txt").is_file() else data_bin / "shard0"
    entries = read_dictionary(first / f"dict.{languages[0]}.txt")
    files: dict[str, str] = {}
    segments: dict[str, int] = {}
    for pair in pairs:
        codes = pair_languages(pair)
        pieces: tuple[list[list[str]], list[list[str]]] = ([], [])
        for split in splits:
            for side, sentences in zip(
                pieces, read_parallel(data_bin, split, Direction(*codes)), strict=True
            ):
                side.extend(_pieces(sentences, entries))
        segments[pair] = len(pieces[0])
        for code, side in zip(codes, pieces, strict=True):
            name = f"{pair}.{code}"
            write_lines(output / PIECES / name, [" ".join(line) for line in side])
            write_lines(output / name, [join_pieces(_escaped(line)) for line in side])
            files |= {each: sha256_of(output / each) for each in (f"{PIECES}/{name}", name)}
    remove_former(output, keep=files)
    manifest = {
        "source": "data-bin",
        "splits": list(splits),
        "languages": languages,
        "pairs": pairs,
        "segments": segments,
        "files": files,
    }
    write_json(output / MANIFEST, manifest)
    return manifest


def _pieces(sentences: Sentences, entries: Sequence[str]) -> list[list[str]]:
    return [
        [entries[token] for token in sentences[i].tolist() if token != EOS] for i in range(len(sentences))
    ]


def _escaped(pieces: Iterable[str]) -> list[str]:
    return ["<<unk>>" if piece == SPECIAL[UNK] else piece for piece in pieces]
