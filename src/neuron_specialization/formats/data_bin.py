"""Reading fairseq's binarised text without fairseq (whose import alone takes seconds).

A data-bin holds, for a split and a pair, ``<split>.<src>-<tgt>.<lang>.{bin,idx}`` (either order of the
pair serves both directions) and ``dict.<lang>.txt``; the tags of the languages follow the dictionary.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neuron_specialization.directions import Direction
from neuron_specialization.errors import CorpusError
from neuron_specialization.formats.fairseq_conventions import (
    EOS,
    MMAP_DTYPES,
    MMAP_MAGIC,
    MMAP_VERSION,
    PAD,
    SPECIAL,
    tag_of,
)
from neuron_specialization.storage.files import read_lines

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Sentences:
    """One side of a parallel text, as stored: no tags, each sentence ending in ``</s>``.

    Attributes:
        tokens: integers [sum of lengths], memory-mapped.
        starts: int64[sentences], where each begins in ``tokens``.
        lengths: int64[sentences].
    """

    tokens: NDArray[Any]
    starts: Ints
    lengths: Ints

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: int) -> NDArray[Any]:
        start = self.starts[index]
        return self.tokens[start : start + self.lengths[index]]

    @classmethod
    def read(cls, prefix: str | Path) -> Sentences:
        """Open ``<prefix>.bin`` and ``<prefix>.idx``.

        Raises:
            CorpusError: missing, damaged, or not of fairseq's mmap format.
        """
        index_path, data_path = Path(f"{prefix}.idx"), Path(f"{prefix}.bin")
        for path in (index_path, data_path):
            if not path.is_file():
                raise CorpusError("binarised text is missing", where=path, hint="binarise the corpus again")
        index = index_path.read_bytes()
        damaged = CorpusError(
            "not an index of fairseq's mmap format, or cut short",
            where=index_path,
            hint="binarise the corpus again (fairseq-preprocess --dataset-impl mmap)",
        )
        if len(index) < 26 or index[:9] != MMAP_MAGIC:
            raise damaged
        version, code, count = struct.unpack("<QBQ", index[9:26])
        if version != MMAP_VERSION or code not in MMAP_DTYPES or len(index) != 26 + 12 * count:
            raise damaged
        dtype = np.dtype(MMAP_DTYPES[code])
        lengths = np.frombuffer(index, "<i4", count, 26).astype(np.int64)
        pointers = np.frombuffer(index, "<i8", count, 26 + 4 * count)
        size, rest = divmod(data_path.stat().st_size, dtype.itemsize)
        starts = pointers // dtype.itemsize
        # compared by subtraction: a sum of foreign numbers may overflow
        if rest or bool((pointers % dtype.itemsize).any()):
            raise CorpusError("index and text do not belong together", where=data_path)
        if count and (lengths.min() < 1 or starts.min() < 0 or bool((lengths > size - starts).any())):
            raise CorpusError("index and text do not belong together", where=data_path)
        tokens: NDArray[Any] = np.memmap(data_path, dtype, "r") if size else np.zeros(0, dtype)
        return cls(tokens, starts, lengths)


def split_prefix(data_bin: str | Path, split: str, direction: Direction) -> Path:
    """Return ``<folder>/<split>.<pair>`` of a direction's text, whichever way round the pair is named.

    A sharded data-bin (folders joined by ``:``, or a folder of ``shard<i>/``) is looked up in its first
    shard, as fairseq does for all but training text.

    Raises:
        CorpusError: no such text, naming the direction.
    """
    first = Path(str(data_bin).split(":")[0])
    pairs = (f"{direction.source}-{direction.target}", f"{direction.target}-{direction.source}")
    for folder in (first, first / "shard0"):
        for pair in pairs:
            prefix = folder / f"{split}.{pair}"
            if Path(f"{prefix}.{direction.source}.idx").is_file():
                return prefix
    raise CorpusError(
        f"direction {direction} has no {split} text",
        where=first,
        cause=f"neither {split}.{pairs[0]} nor {split}.{pairs[1]} is in the data-bin",
    )


def read_parallel(data_bin: str | Path, split: str, direction: Direction) -> tuple[Sentences, Sentences]:
    """Read source and target of a direction.

    Raises:
        CorpusError: missing, empty or misaligned text, naming the direction.
    """
    prefix = split_prefix(data_bin, split, direction)
    source = Sentences.read(f"{prefix}.{direction.source}")
    target = Sentences.read(f"{prefix}.{direction.target}")
    if len(source) != len(target):
        raise CorpusError(
            f"the {split} text of {direction} has {len(source)} source and {len(target)} target sentences",
            where=prefix,
        )
    if not len(source):
        raise CorpusError(f"the {split} text of {direction} is empty", where=prefix)
    return source, target


def dictionary_ids(
    data_bin: str | Path, languages: Sequence[str], tag_style: str
) -> tuple[int, dict[str, int]]:
    """Return the size of the dictionary with all tags, and the id of each language's tag.

    Follows fairseq's ``Dictionary`` and ``augment_dictionary``: specials, file, tags in the order of
    ``languages``; a tag the file has already keeps its id.

    Args:
        data_bin: the folder with ``dict.<lang>.txt``.
        languages: all languages of the model, in its order.
        tag_style: ``multilingual`` (``__de__``) or ``mbart`` (``[de]``).
    """
    first = Path(str(data_bin).split(":")[0])
    found = [
        path
        for folder in (first, first / "shard0")
        for path in (*(folder / f"dict.{code}.txt" for code in languages), folder / "dict.txt")
        if path.is_file()
    ]
    if not found:
        raise CorpusError("the dictionary is missing: no dict.<language>.txt", where=first)
    path = found[0]
    ids = {entry: number for number, entry in enumerate(SPECIAL)}
    size = len(ids)
    for number, line in enumerate(read_lines(path), 1):
        entry, _, count = line.rstrip().rpartition(" ")
        overwrite = count == "#fairseq:overwrite"
        if overwrite:
            entry, _, count = entry.rpartition(" ")
        if not entry or not count.isdecimal():
            raise CorpusError("not a dictionary line: <piece> <count>", where=f"{path}, line {number}")
        if entry in ids and not overwrite:
            raise CorpusError(f"{entry!r} comes twice in the dictionary", where=f"{path}, line {number}")
        ids[entry] = size
        size += 1
    tags: dict[str, int] = {}
    for code in languages:
        tag = f"[{code}]" if tag_style == "mbart" else tag_of(code)
        if tag not in ids:
            ids[tag] = size
            size += 1
        tags[code] = ids[tag]
    return size + (tag_style == "mbart" and "<mask>" not in ids), tags


def tagged(
    sentences: Sentences, indices: Ints, *, first: int | None, shift: bool = False
) -> tuple[Ints, NDArray[np.bool_]]:
    """Assemble a padded batch (on the right) as the model is fed.

    Args:
        sentences: one side.
        indices: int64[B].
        first: the language's tag, put in front; None for none.
        shift: gold prefixes: ``</s>`` in front and the last token left out.

    Returns:
        tokens int64[B, T] and bool[B, T], True on real tokens.
    """
    lengths = sentences.lengths[indices]
    starts = sentences.starts[indices]
    lead = ([EOS] if shift else []) + ([first] if first is not None else [])
    copied = lengths - 1 if shift else lengths
    total = copied + len(lead)
    width = int(total.max())
    tokens = np.full((len(indices), width), PAD, dtype=np.int64)
    tokens[:, : len(lead)] = lead
    rows = np.repeat(np.arange(len(indices)), copied)
    within = np.arange(int(copied.sum())) - np.repeat(np.cumsum(copied) - copied, copied)
    tokens[rows, within + len(lead)] = sentences.tokens[np.repeat(starts, copied) + within]
    return tokens, np.arange(width) < total[:, None]
