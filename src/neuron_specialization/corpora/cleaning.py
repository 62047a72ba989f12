"""The cleaning stage: which segment pairs are kept, and a count of every reason a pair was not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from neuron_specialization.config import Cleaning
from neuron_specialization.corpora.text import count_words, normalise

# in the order in which they are tested; a pair is counted under the first that holds
REASONS = ("empty", "identical", "too_long", "length_ratio", "duplicate")


@dataclass
class CleanedPairs:
    """The kept segment pairs, in their order, and how many were dropped for which reason."""

    segments: list[tuple[str, str]] = field(default_factory=list)
    dropped: Counter[str] = field(default_factory=Counter)


def defect(source: str, target: str, settings: Cleaning) -> str | None:
    """Return why a normalised pair is unfit for training, None if it is fit. Symmetric in its sides."""
    if not source or not target:
        return "empty"
    if source == target:
        # a text left untranslated teaches copying; so does a name, but those are cheap to do without
        return "identical"
    if max(len(source), len(target)) > settings.max_characters:
        return "too_long"
    shorter, longer = sorted((count_words(source), count_words(target)))
    if longer > settings.max_words:
        return "too_long"
    if longer > settings.ratio_free_words and longer > settings.max_ratio * shorter:
        return "length_ratio"
    return None


def clean_pairs(pairs: Iterable[tuple[str, str]], settings: Cleaning) -> CleanedPairs:
    """Normalise the sides of each pair and drop the unfit ones and repetitions of a pair kept before.

    A source with several different translations is not a repetition: all of them stay.
    """
    result = CleanedPairs(dropped=Counter(dict.fromkeys(REASONS, 0)))
    seen: set[tuple[str, str]] = set()
    for source, target in pairs:
        pair = (normalise(source), normalise(target))
        reason = defect(*pair, settings)
        if reason is None and pair in seen:
            reason = "duplicate"
        if reason is None:
            seen.add(pair)
            result.segments.append(pair)
        else:
            result.dropped[reason] += 1
    return result
