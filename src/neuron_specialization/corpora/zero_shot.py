"""Test text of pairs that are not trained, from text that is parallel by way of the pivot.

Held-out text of the embedded corpus, FLORES-200 and the test split of EC30 have the same sentences in every
language. Line i of ``de-en`` and line i of ``en-es`` then say the same, and ``de-es`` is one side of each.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from neuron_specialization.corpora.layout import pair_languages, write_pair
from neuron_specialization.directions import Direction
from neuron_specialization.errors import CorpusError
from neuron_specialization.storage.files import read_lines


def pair_by_pivot(folder: str | Path, pairs: Sequence[str], pivot: str) -> dict[str, str]:
    """Write ``<pair>.<lang>`` of each pair into the folder that holds the pairs with the pivot.

    Args:
        folder: has ``<pair>.<lang>`` of each language's pair with the pivot.
        pairs: such as ``de-es``, unordered (see Direction.pair).
        pivot: such as ``en``.

    Returns:
        The SHA-256 of every file written, by name.

    Raises:
        CorpusError: a file is missing, or two languages are not parallel: the pivot's text differs.
    """
    folder = Path(folder)
    texts = {pair: tuple(_with_pivot(folder, code, pivot) for code in pair_languages(pair)) for pair in pairs}
    files: dict[str, str] = {}
    for pair, ((first, first_pivot), (second, second_pivot)) in texts.items():
        _refuse_differing(folder, pair, pivot, first_pivot, second_pivot)
        files |= write_pair(folder, pair, pair_languages(pair), list(zip(first, second, strict=True)))
    return files


def _with_pivot(folder: Path, code: str, pivot: str) -> tuple[list[str], list[str]]:
    """Return a language's text and the pivot's beside it."""
    name = Direction(code, pivot).pair
    own, pivots = (read_lines(folder / f"{name}.{side}") for side in (code, pivot))
    if len(own) != len(pivots):
        raise CorpusError(
            f"{name}.{code} has {len(own)} lines, {name}.{pivot} has {len(pivots)}", where=folder
        )
    return own, pivots


def _refuse_differing(folder: Path, pair: str, pivot: str, first: list[str], second: list[str]) -> None:
    names = [f"{Direction(code, pivot).pair}.{pivot}" for code in pair_languages(pair)]
    what = None
    if len(first) != len(second):
        what = f"{names[0]} has {len(first)} lines, {names[1]} has {len(second)}"
    elif first != second:
        line = next(i for i, both in enumerate(zip(first, second, strict=True), 1) if both[0] != both[1])
        what = f"line {line} of {names[0]} and of {names[1]} differ"
    if what:
        raise CorpusError(
            f"no text for {pair} can be put together: {what}",
            where=folder,
            cause=f"the test set is not parallel over languages: it has other {pivot} text with each",
            hint="take the direction out of zero_shot:, or score it on a test set that is (testsets:)",
        )
