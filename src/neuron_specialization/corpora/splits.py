"""Held-out text: choosing it, keeping it out of the training text, and drawing capped samples.

All drawing is by the hash of the text and the seed rather than by a random number generator: the result does
not depend on the order of the input or on the Python version, and a smaller cap keeps a subset of a larger.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from neuron_specialization.corpora.cleaning import defect
from neuron_specialization.corpora.layout import pair_languages
from neuron_specialization.corpora.spec import CorpusSpec
from neuron_specialization.corpora.text import count_words
from neuron_specialization.errors import CorpusError

Row = dict[str, str]
Segments = list[tuple[str, str]]

# {name}, {name, type}, {name, type, style}, {name:.2f}, {{ template }}, ${name}, %(name)s, %1$s, %.2f,
# %name%, <b>; other text in braces is text
_PLACEHOLDER = re.compile(
    r"\{\{[^{}]*\}\}|\$?\{\s*(?:[\w.\[\]-]+(?:![a-z])?(?::[^{}\s]*)?\s*(?:,\s*\w+\s*(?:,[^{}]*)?)?|:[^{}\s]*)?\}"
    r"|%\(\w+\)[a-z]|%(?:\d+\$)?[-+#0]*\d*(?:\.\d+)?[sdifguxXc@]\b|%\w+%|</?[A-Za-z][^<>]*>"
)
# messages that choose among texts: {count, plural, one {# day} other {# days}}
_CHOICE = re.compile(
    r"\{\s*[\w.-]+\s*,\s*(?:plural|select|selectordinal)\s*,(?:\s*offset:\d+)?", re.IGNORECASE
)
_CASE = re.compile(r"\s*(?:=\d+|[\w-]+)\s*\{")
_END_OF_CHOICE = re.compile(r"\s*\}")
_BRACE = re.compile(r"[{}]")


class _LettersOnly(dict[int, str]):
    """A table for str.translate that keeps letters and their combining marks."""

    def __missing__(self, code: int) -> str:
        character = chr(code)
        self[code] = character if unicodedata.category(character)[0] in "LM" else ""
        return self[code]


_LETTERS = _LettersOnly()


def _all_texts(text: str) -> str:
    """Return the texts that a message chooses among, one after another, without the syntax around them.

    Text without such a choice, or with a malformed one, is returned as it is.
    """
    if not _CHOICE.search(text):
        return text
    parts: list[str] = []
    inside: list[str] = []  # "choice", "case" or "brace", innermost last
    position = 0
    while position < len(text):
        if inside and inside[-1] == "choice":
            if found := _CASE.match(text, position):
                inside.append("case")
            elif found := _END_OF_CHOICE.match(text, position):
                inside.pop()
            else:
                return text
            parts.append(" ")
            position = found.end()
            continue
        brace = _BRACE.search(text, position)
        if brace is None:
            parts.append(text[position:])
            break
        parts.append(text[position : brace.start()])
        position = brace.end()
        if brace[0] == "}":
            closed = inside.pop() if inside else "brace"
            parts.append(" " if closed == "case" else "}")
        elif choice := _CHOICE.match(text, brace.start()):
            inside.append("choice")
            position = choice.end()
        else:
            inside.append("brace")
            parts.append("{")
    return text if {"choice", "case"} & set(inside) else "".join(parts)


def comparison_key(text: str) -> str:
    """Return what two segments must share to count as the same text.

    Case is folded; placeholders, digits, punctuation, symbols and spaces are dropped; of a message that
    chooses among texts (ICU's plural and select) the texts stay. Text that has nothing else (``100 %``) is
    compared as it stands, case-folded, so that it equals only itself.
    """
    folded = unicodedata.normalize("NFC", text.casefold())
    key = _PLACEHOLDER.sub("", _all_texts(folded)).translate(_LETTERS)
    return key or folded


def content_words(text: str) -> int:
    """Count the words (text.count_words) that hold a letter, placeholders left out."""
    words = _PLACEHOLDER.sub(" ", _all_texts(text)).split()
    return count_words(" ".join(word for word in words if any(map(str.isalpha, word))))


def draw_order(items: Sequence[str], seed: int, purpose: str) -> list[int]:
    """Return the indices of ``items`` in a pseudo-random order fixed by seed, purpose and the items' text."""
    key = hashlib.blake2b(f"{seed}\0{purpose}".encode(), digest_size=32).digest()
    digests = [hashlib.blake2b(item.encode(), key=key, digest_size=8).digest() for item in items]
    return sorted(range(len(items)), key=lambda index: (digests[index], items[index], index))


def sample_segments(segments: Segments, cap: int | None, seed: int, pair: str) -> Segments:
    """Return at most ``cap`` of the segments, drawn by seed, in their original order."""
    if cap is None or len(segments) <= cap:
        return segments
    order = draw_order([f"{source}\0{target}" for source, target in segments], seed, f"train {pair}")
    return [segments[index] for index in sorted(order[:cap])]


@dataclass
class HeldOut:
    """The held-out sets, multi-parallel, and how many rows could have served."""

    valid: list[Row]
    heldout: list[Row]
    candidates: int


def choose_heldout(rows: Iterable[Row], spec: CorpusSpec) -> HeldOut:
    """Choose ``valid`` and ``heldout`` from rows that have every language.

    A row serves if it is fit in all configured pairs (see cleaning.defect), its reference language has at
    least ``heldout_min_words`` words with a letter, and no chosen row has the same text (comparison_key) in
    any language. Hence the two sets share no text in any language.

    Args:
        rows: language → normalised text.

    Raises:
        CorpusError: there are too few, saying how many and which language is the bottleneck.
    """
    rows = list(rows)
    complete = [row for row in rows if all(row.get(code) for code in spec.languages)]
    candidates = [row for row in complete if _serves(row, spec)]
    order = draw_order(
        ["\0".join(row[code] for code in spec.languages) for row in candidates], spec.seed, "heldout"
    )
    used: dict[str, set[str]] = {code: set() for code in spec.languages}
    chosen: list[Row] = []
    wanted = spec.valid_size + spec.heldout_size
    distinct = 0
    for index in order:
        row = candidates[index]
        keys = {code: comparison_key(row[code]) for code in spec.languages}
        if any(key in used[code] for code, key in keys.items()):
            continue
        for code, key in keys.items():
            used[code].add(key)
        distinct += 1
        if len(chosen) < wanted:
            chosen.append({code: row[code] for code in spec.languages})
    if len(chosen) < wanted:
        raise _too_few(rows, len(complete), len(candidates), distinct, spec)
    return HeldOut(valid=chosen[: spec.valid_size], heldout=chosen[spec.valid_size :], candidates=distinct)


def _serves(row: Row, spec: CorpusSpec) -> bool:
    if content_words(row[spec.reference_language]) < spec.heldout_min_words:
        return False
    return all(defect(row[a], row[b], spec.cleaning) is None for _, a, b in spec.split_pairs())


def _too_few(rows: list[Row], complete: int, candidates: int, distinct: int, spec: CorpusSpec) -> CorpusError:
    have = {code: sum(1 for row in rows if row.get(code)) for code in spec.languages}
    fewest = sorted(have, key=lambda code: have[code])[:3]
    counts = ", ".join(f"{code} {have[code]}" for code in fewest)
    return CorpusError(
        f"too few segments have text in all {len(spec.languages)} languages: "
        f"{spec.valid_size} + {spec.heldout_size} are wanted for valid and heldout, {distinct} can serve "
        f"({complete} have every language, {candidates} of them are clean with at least "
        f"{spec.heldout_min_words} words in {spec.reference_language}, {distinct} are distinct)",
        cause=f"the languages with the least text: {counts} of {len(rows)} segments",
        hint="lower corpus.valid_size, corpus.heldout_size or corpus.heldout_min_words, "
        f"or take {fewest[0]} out of languages",
    )


class HeldOutIndex:
    """The held-out text of every language, to be kept out of the training text.

    A pair is contaminated if either of its sides equals a held-out segment of that side's language under
    comparison_key. The pivot's side is what the paper's English-centric setting needs; the other side catches
    a held-out sentence paired with another wording of its translation, and corpora without a pivot.
    """

    def __init__(self) -> None:
        self._keys: dict[str, set[str]] = {}

    def add(self, pair: str, segments: Segments) -> None:
        """Add a pair's held-out segments."""
        for side, language in enumerate(pair_languages(pair)):
            self.add_keys(language, (comparison_key(segment[side]) for segment in segments))

    def add_keys(self, language: str, keys: Iterable[str]) -> None:
        """Add a language's held-out text by its comparison_key."""
        self._keys.setdefault(language, set()).update(keys)

    def without(self, pair: str, segments: Segments) -> Segments:
        """Return the pair's segments that share no text, on either side, with what is held out."""
        left, right = (self._keys.get(language, set()) for language in pair_languages(pair))
        return [
            (first, second)
            for first, second in segments
            if comparison_key(first) not in left and comparison_key(second) not in right
        ]
