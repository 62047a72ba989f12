"""How much of the held-out text has a near-duplicate in the training text: keeping out equal text lets it by.

Interface texts are full of templates: "Failed to connect to {name}" and "Failed to connect". Two segments are
near-duplicates where the sets of their character 4-grams have a Jaccard index of at least 0.6.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

GRAM = 4
_SHARED, _OF = 3, 5
JACCARD = _SHARED / _OF
# Distinct training segments that are looked at, evenly spread: a million take about a minute. Of more text
# the share that is found is a lower bound.
MOST_SEARCHED = 1_000_000


def character_grams(text: str) -> frozenset[str]:
    """The distinct character 4-grams of a text: case folded, white space single, a space at either end."""
    padded = f" {' '.join(text.casefold().split())} "
    return frozenset(padded[start : start + GRAM] for start in range(len(padded) - GRAM + 1))


def searched(training: Iterable[str]) -> tuple[list[str], int]:
    """Return the distinct segments that are looked at, and how many distinct ones there are."""
    distinct = list(dict.fromkeys(training))
    step = max(1, math.ceil(len(distinct) / MOST_SEARCHED))
    return distinct[::step], len(distinct)


def with_near_duplicate(heldout: Sequence[str], training: Iterable[str]) -> list[bool]:
    """Say of each held-out segment whether a training segment is its near-duplicate.

    The index is of the held-out text, so that memory does not grow with the training text. It needs the
    rarest grams of a segment alone: a Jaccard index of 0.6 means that at least 0.6 of its grams are shared,
    hence one of any 0.4 and one more.
    """
    grams = [character_grams(text) for text in heldout]
    occurrences = Counter(gram for found in grams for gram in found)
    index: defaultdict[str, list[int]] = defaultdict(list)
    for number, found in enumerate(grams):
        needed = len(found) - math.ceil(_SHARED * len(found) / _OF) + 1
        for gram in sorted(found, key=lambda gram: (occurrences[gram], gram))[:needed]:
            index[gram].append(number)
    near = [False] * len(grams)
    for text in training:
        candidate = character_grams(text)
        for number in {number for gram in candidate & index.keys() for number in index[gram]}:
            if not near[number]:
                shared = len(candidate & grams[number])
                near[number] = _OF * shared >= _SHARED * (len(candidate) + len(grams[number]) - shared)
    return near
