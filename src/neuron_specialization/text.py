"""Text on its way into and out of the model: normalisation, subword segmentation, word counts.

Imported by the data stages and by translation; needs SentencePiece, and no torch.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from neuron_specialization.errors import CorpusError

# Scripts written without spaces between words. A character at a time: Thai, Lao, Myanmar, Khmer, kana, Han. A
# syllable with the marks around it at a time: Tibetan, which puts a tsheg after each.
_TIBETAN_MARKS = "[\u0f01-\u0f17\u0f3a-\u0f3d]*"
_UNSPACED = re.compile(
    f"{_TIBETAN_MARKS}[\u0f00\u0f18-\u0f39\u0f3e-\u0fff]+{_TIBETAN_MARKS}|"
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u31f0-\u31ff"
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
)


class _InvisibleCharacters(dict[int, str]):
    """A table for str.translate, filled as characters are met.

    Control characters (NUL, line breaks, C1) and line and paragraph separators become spaces;
    lone surrogates (a JSON escape can make one; UTF-8 cannot hold it) and the byte order mark go.
    Joiners and direction marks stay: Persian, Arabic, Hebrew and the Indic scripts need them.
    """

    def __missing__(self, code: int) -> str:
        character = chr(code)
        category = unicodedata.category(character)
        if category == "Cs" or code == 0xFEFF:
            replacement = ""
        elif category in ("Cc", "Zl", "Zp"):
            replacement = " "
        else:
            replacement = character
        self[code] = replacement
        return replacement


_INVISIBLE = _InvisibleCharacters()


def normalise(text: str) -> str:
    """Return the text in Unicode NFC on one line: control characters gone, white space single, ends stripped.

    Applying it twice changes nothing. Letters, marks, case and punctuation are not touched.
    """
    if not text.isascii():
        # before NFC, so that nothing removed afterwards leaves two characters side by side that would compose
        text = unicodedata.normalize("NFC", text.translate(_INVISIBLE))
    elif not text.isprintable():
        text = text.translate(_INVISIBLE)
    return " ".join(text.split())


def count_words(text: str) -> int:
    """Count words: runs between white space; without spaces two characters, or syllables, are a word."""
    if text.isascii():
        return len(text.split())
    unspaced = len(_UNSPACED.findall(text))
    if not unspaced:
        return len(text.split())
    return len(_UNSPACED.sub(" ", text).split()) + (unspaced + 1) // 2


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
