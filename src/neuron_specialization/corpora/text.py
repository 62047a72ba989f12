"""Text: its normalisation, which training text and whatever is translated go through, and word counts."""

from __future__ import annotations

import re
import unicodedata

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
