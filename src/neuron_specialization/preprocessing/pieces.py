"""Pieces: text segmented into them, joined to text again, or split where a line is longer than a model reads.

Imported by the data stages and by translation; needs SentencePiece, and no torch.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from neuron_specialization.corpora.text import normalise
from neuron_specialization.errors import CorpusError

WORD_START = "\u2581"  # SentencePiece writes the space before a word as this
_SENTENCE_END = re.compile(r"[.!?…:;][\"'”’»)\]]*$")
_FULL_STOP_WITHOUT_SPACE = re.compile(r"[。！？]$")


class Segmenter:
    """A SentencePiece model: text to pieces and back.

    Args:
        model: the ``spm.model`` file.
        normalised: apply ``normalise`` before encoding, as the training text had it applied.

    Raises:
        CorpusError: the file is missing or not a SentencePiece model.
    """

    def __init__(self, model: str | Path, *, normalised: bool = True) -> None:
        import sentencepiece

        self.path, self._normalised = Path(model), normalised
        if not self.path.is_file():
            raise CorpusError(
                "SentencePiece model is missing", where=self.path, hint="run the vocabulary stage"
            )
        self._processor = sentencepiece.SentencePieceProcessor()
        try:
            self._processor.LoadFromSerializedProto(self.path.read_bytes())
        except (RuntimeError, OSError) as error:
            raise CorpusError(f"not a SentencePiece model: {error}", where=self.path) from None

    @cached_property
    def pieces(self) -> list[str]:
        """All pieces, by SentencePiece id."""
        return [self._processor.IdToPiece(index) for index in range(self._processor.GetPieceSize())]

    @cached_property
    def special(self) -> list[bool]:
        """Whether a piece is no text (unknown, control, unused), by SentencePiece id."""
        processor = self._processor
        return [
            processor.IsUnknown(index) or processor.IsControl(index) or processor.IsUnused(index)
            for index in range(processor.GetPieceSize())
        ]

    def encode_ids(self, lines: Sequence[str]) -> list[list[int]]:
        """Encode lines to SentencePiece ids, one list a line; an empty line gives an empty list."""
        encoded: list[list[int]] = self._encode(lines, int)
        return encoded

    def encode(self, lines: Sequence[str]) -> list[list[str]]:
        """Encode lines to pieces, one list a line. Text the model cannot spell stands as it is written."""
        encoded: list[list[str]] = self._encode(lines, str)
        return encoded

    def _encode(self, lines: Sequence[str], kind: type[int] | type[str]) -> Any:
        if self._normalised:
            lines = [normalise(line) for line in lines]
        # one thread: the workflow runs several such jobs beside each other
        return self._processor.Encode(list(lines), out_type=kind, num_threads=1)

    def decode(self, lines: Sequence[Sequence[str]]) -> list[str]:
        """Turn pieces back into text, one string a line: the inverse of ``encode`` on normalised text."""
        return [str(self._processor.DecodePieces(list(pieces))).strip() for pieces in lines]


class Segmentation(Protocol):
    """What turns lines into source pieces: Segmenter, or Pieces."""

    def encode(self, lines: Sequence[str]) -> list[list[str]]:
        """Return the pieces of every line."""
        ...


class Pieces:
    """Lines that are segmented already (``--input-format pieces``): pieces with spaces between them."""

    def encode(self, lines: Sequence[str]) -> list[list[str]]:
        """See Segmentation."""
        return [[piece for piece in line.split(" ") if piece] for line in lines]


def join_pieces(pieces: Iterable[str]) -> str:
    """Join SentencePiece pieces to text exactly as fairseq's ``--remove-bpe sentencepiece`` does."""
    return "".join(pieces).replace(" ", "").replace(WORD_START, " ").strip()


def split_pieces(pieces: Sequence[str], limit: int) -> list[list[str]]:
    """Split a segmented line into parts of at most ``limit`` pieces.

    A part ends, in this order of preference, after a sentence, between words, anywhere; a cut before
    the middle of what is allowed is not made, so that parts do not become tiny.
    """
    parts: list[list[str]] = []
    start = 0
    while len(pieces) - start > limit:
        window = range(start + limit, start + limit // 2, -1)
        cut = (
            next((i for i in window if _ends_sentence(pieces, i)), None)
            or next((i for i in window if pieces[i].startswith(WORD_START)), None)
            or start + limit
        )
        parts.append(list(pieces[start:cut]))
        start = cut
    parts.append(list(pieces[start:]))
    return parts


def _ends_sentence(pieces: Sequence[str], cut: int) -> bool:
    before = pieces[cut - 1]
    if _FULL_STOP_WITHOUT_SPACE.search(before):
        return True
    return pieces[cut].startswith(WORD_START) and bool(_SENTENCE_END.search(before))
