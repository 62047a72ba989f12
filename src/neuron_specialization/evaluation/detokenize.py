"""Detokenisation: how text that was tokenised for training becomes text that can be scored.

The reference implementation scores the output of sacremoses' Moses detokenizer; this project's own
models never see tokenised text and need none. Moses' tokenizer also splits words: it takes the viramas
and nuktas of Indic scripts for symbols of their own, and its detokenizer does not rejoin them, so that a
word becomes two or three. Scores on such text are far higher than scores on the text people write, and
comparable only with scores made the same way (docs/fidelity.md).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from functools import cache
from typing import Any, Literal, get_args

from neuron_specialization.errors import ScoringError

Detokenizer = Literal["none", "moses"]
DETOKENIZERS: tuple[str, ...] = get_args(Detokenizer)

# sacremoses fails on these three Czech tokens (it advances a list as if it were an iterator);
# the Perl original joins them.
_CZECH_ENDING = re.compile(r"\S*\w' [-–] (?:li\b|mail)\S*", re.IGNORECASE)


def detokenize(lines: Sequence[str], language: str, detokenizer: str) -> list[str]:
    """Detokenise segments.

    Args:
        lines: one tokenised segment each.
        language: of the text; Moses has rules of its own for cs, en, fi, fr, ga, it and ko.
        detokenizer: ``none`` returns the lines as they are; ``moses`` is what the paper's scores use.

    Raises:
        ScoringError: the detokenizer is not known.
    """
    if detokenizer == "none":
        return list(lines)
    if detokenizer != "moses":
        raise ScoringError(
            f"no detokenizer is called {detokenizer!r}", hint=f"use {' or '.join(DETOKENIZERS)}"
        )
    moses = _moses_detokenizer(language.split("_")[0])
    return [_detokenize_line(moses, line) for line in lines]


def _detokenize_line(moses: Any, line: str) -> str:
    try:
        return str(moses.detokenize(line.split(), return_str=True, unescape=True))
    except TypeError:
        joined = _CZECH_ENDING.sub(lambda match: match.group().replace(" ", ""), " ".join(line.split()))
        return str(moses.detokenize(joined.split(), return_str=True, unescape=True))


@cache
def _moses_detokenizer(language: str) -> Any:
    from sacremoses import MosesDetokenizer  # 0.2 s, and only needed here

    return MosesDetokenizer(language)


# Texts in which fewer segments are concerned (a stressed Russian vowel now and then) are left alone.
_CONCERNED = 0.01


@cache
def _is_split_by_moses(character: str) -> bool:
    """Whether Moses' tokenizer puts spaces around this mark: a combining one that Perl's IsAlnum lacks."""
    if not unicodedata.category(character).startswith("M"):
        return False
    from sacremoses import MosesDetokenizer

    # the tokenizer's own set has the viramas added to it, which the Perl original lacks
    return character not in MosesDetokenizer.IsAlnum


def _is_marks(token: str) -> bool:
    return bool(token) and all(unicodedata.category(character).startswith("M") for character in token)


def has_split_words(lines: Sequence[str]) -> bool:
    """Whether the text was split by Moses at viramas and nuktas: marks stand alone between spaces."""
    concerned = sum(any(_is_marks(token) for token in line.split(" ")) for line in lines)
    return concerned > _CONCERNED * len(lines)


def has_splittable_words(lines: Sequence[str]) -> bool:
    """Whether Moses would split words of this text, which has not gone through it."""
    concerned = sum(any(_is_split_by_moses(character) for character in set(line)) for line in lines)
    return concerned > _CONCERNED * len(lines)


def rejoin_marks(lines: Sequence[str]) -> list[str]:
    """Undo Moses' splits at viramas and nuktas: ``उन ् होंने`` becomes ``उन्होंने``.

    The text alone does not say whether a mark ended its word, so a word that follows a word-final mark
    is joined to it wrongly; the result is close to the text people write, not equal to it.
    """
    return [" ".join(_rejoin(line.split(" "))) for line in lines]


def _rejoin(tokens: list[str]) -> list[str]:
    result: list[str] = []
    open_end = False
    for token in tokens:
        marks = _is_marks(token)
        if result and token and (marks or open_end):
            result[-1] += token
        else:
            result.append(token)
        open_end = marks
    return result


def moses_round_trip(lines: Sequence[str], language: str) -> list[str]:
    """Tokenise as the paper's data was (Moses, aggressive hyphens, no escapes), then detokenise.

    Gives ordinary text the splits that the published scores were computed on. sacremoses stands in for
    the Perl scripts, so a few segments may differ from what those would give.
    """
    from sacremoses import MosesPunctNormalizer, MosesTokenizer

    language = language.split("_")[0]
    normalizer, tokenizer = MosesPunctNormalizer(language), MosesTokenizer(language)
    tokenised = [
        tokenizer.tokenize(
            "".join(f" {c} " if _is_split_by_moses(c) else c for c in normalizer.normalize(line)),
            aggressive_dash_splits=True,
            return_str=True,
            escape=False,
        )
        for line in lines
    ]
    return detokenize(tokenised, language, "moses")
