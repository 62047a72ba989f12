"""Binarising: from text to the memory-mapped files fairseq trains on, all pairs and splits in one process."""

from __future__ import annotations

import shutil
import struct
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neuron_specialization.corpora.layout import MANIFEST, SPLITS, CorpusFolder, pair_languages, remove_former
from neuron_specialization.errors import CorpusError
from neuron_specialization.formats.fairseq_conventions import (
    EOS,
    MMAP_DTYPES,
    MMAP_MAGIC,
    MMAP_VERSION,
    SPECIAL,
    UNK,
)
from neuron_specialization.preprocessing.pieces import Segmenter
from neuron_specialization.storage.files import atomic_path, read_lines, sha256_of, write_json

_DTYPE_CODES = {np.dtype(name): code for code, name in MMAP_DTYPES.items()}
# fairseq.data.indexed_dataset.best_fitting_int_dtype
_UINT16_LIMIT = 65500


def token_dtype(vocabulary_size: int) -> np.dtype[Any]:
    """Return the integer type fairseq stores tokens in: uint16 below 65,500 entries, else uint32."""
    return np.dtype(np.uint16) if vocabulary_size < _UINT16_LIMIT else np.dtype(np.uint32)


def write_mmap(prefix: str | Path, tokens: NDArray[Any], sizes: NDArray[np.int32]) -> None:
    """Write ``<prefix>.bin`` and ``<prefix>.idx`` as fairseq's MMapIndexedDatasetBuilder does.

    Args:
        prefix: file name without ``.bin``.
        tokens: all segments' ids, one after another, uint16 or uint32.
        sizes: int32[segments], ids a segment; they sum to ``len(tokens)``.
    """
    if int(sizes.sum(dtype=np.int64)) != len(tokens):
        raise ValueError(f"sizes sum to {sizes.sum(dtype=np.int64)}, there are {len(tokens)} tokens")
    ends = np.cumsum(sizes, dtype=np.int64) * tokens.dtype.itemsize
    pointers = np.concatenate([np.zeros(1, np.int64), ends[:-1]]) if len(sizes) else np.zeros(0, np.int64)
    with atomic_path(f"{prefix}.bin") as temporary:
        temporary.write_bytes(tokens.tobytes())
    with atomic_path(f"{prefix}.idx") as temporary:
        header = MMAP_MAGIC + struct.pack("<QBQ", MMAP_VERSION, _DTYPE_CODES[tokens.dtype], len(sizes))
        temporary.write_bytes(header + sizes.astype("<i4").tobytes() + pointers.astype("<i8").tobytes())


def read_dictionary(path: str | Path) -> list[str]:
    """Read a fairseq dictionary: its entries by id, the four specials in front.

    Raises:
        CorpusError: a line is not ``<piece> <count>``, or an entry comes twice.
    """
    entries = list(SPECIAL)
    seen = set(SPECIAL)
    for number, line in enumerate(read_lines(path), 1):
        piece, _, count = line.rpartition(" ")
        if not piece or not count.isdecimal():
            raise CorpusError(
                "not a fairseq dictionary line: <piece> <count>", where=f"{path}, line {number}"
            )
        if piece in seen:
            raise CorpusError(f"{piece!r} comes twice", where=f"{path}, line {number}")
        seen.add(piece)
        entries.append(piece)
    return entries


class Encoder:
    """Text to fairseq ids, through a SentencePiece model and the dictionary made from it.

    Raises:
        CorpusError: model and dictionary do not have the same pieces.
    """

    def __init__(self, vocabulary: str | Path, languages: int) -> None:
        vocabulary = Path(vocabulary)
        self._segmenter = Segmenter(vocabulary / "spm.model")
        entries = read_dictionary(vocabulary / "dict.txt")
        self.size = len(entries)
        self.dtype = token_dtype(self.size + languages)
        ids = {piece: index for index, piece in enumerate(entries)}
        text_pieces = {
            piece
            for piece, special in zip(self._segmenter.pieces, self._segmenter.special, strict=True)
            if not special
        }
        different = text_pieces ^ set(entries[len(SPECIAL) :])
        if different:
            examples = ", ".join(sorted(different)[:3])
            raise CorpusError(
                f"spm.model and dict.txt differ in {len(different)} pieces, e.g. {examples}",
                where=vocabulary,
                cause="they come from different runs",
                hint="run the vocabulary stage again",
            )
        # SentencePiece id → fairseq id
        self._table = np.array(
            [
                UNK if special else ids[piece]
                for piece, special in zip(self._segmenter.pieces, self._segmenter.special, strict=True)
            ],
            dtype=self.dtype,
        )

    def encode(self, lines: list[str]) -> tuple[NDArray[Any], NDArray[np.int32], int]:
        """Encode lines, each closed by ``</s>``.

        Returns:
            ids of all lines one after another; int32[lines], ids a line; how many ids are ``<unk>``.
        """
        encoded = self._segmenter.encode_ids(lines)
        sizes = np.fromiter((len(line) + 1 for line in encoded), np.int32, len(encoded))
        total = int(sizes.sum(dtype=np.int64))
        tokens = np.full(total, EOS, self.dtype)
        text = np.ones(total, np.bool_)
        text[np.cumsum(sizes, dtype=np.int64) - 1] = False
        flat = np.fromiter((index for line in encoded for index in line), np.int64, total - len(encoded))
        tokens[text] = self._table[flat]
        return tokens, sizes, int((tokens == UNK).sum())


def binarize_corpus(corpus_folder: str | Path, vocabulary: str | Path, output: str | Path) -> dict[str, Any]:
    """Encode every split and pair of a corpus into a fairseq data-bin folder.

    Returns:
        The manifest (docs/architecture.md); ``tokens`` and ``longest`` (of one segment) count the ``</s>``.

    Raises:
        CorpusError: corpus or vocabulary are missing, changed, or do not belong together.
    """
    corpus, output = CorpusFolder(corpus_folder), Path(output)
    encoder = Encoder(vocabulary, len(corpus.languages))
    splits: dict[str, dict[str, Any]] = {split: {} for split in SPLITS}
    files: dict[str, str] = {}

    def record(*names: str) -> None:
        for name in names:
            files[name] = sha256_of(output / name)

    for code in corpus.languages:
        with atomic_path(output / f"dict.{code}.txt") as temporary:
            shutil.copyfile(Path(vocabulary) / "dict.txt", temporary)
        record(f"dict.{code}.txt")
    for split in SPLITS:
        for pair in corpus.pairs:
            counts: dict[str, Any] = {"segments": 0, "tokens": {}, "unknown": {}, "longest": {}}
            for code in pair_languages(pair):
                lines = corpus.lines(split, pair, code)
                tokens, sizes, unknown = encoder.encode(lines)
                name = f"{split}.{pair}.{code}"
                write_mmap(output / name, tokens, sizes)
                record(f"{name}.bin", f"{name}.idx")
                counts["segments"] = len(lines)
                counts["tokens"][code], counts["unknown"][code] = len(tokens), unknown
                counts["longest"][code] = int(sizes.max(initial=0))
            splits[split][pair] = counts
    remove_former(output, keep=files)
    manifest = {
        "languages": corpus.languages,
        "pairs": corpus.pairs,
        "shards": 1,
        "vocabulary_size": encoder.size,
        "splits": splits,
        "files": files,
    }
    write_json(output / MANIFEST, manifest)
    return manifest
