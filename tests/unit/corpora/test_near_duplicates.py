"""Near-duplicates: the index finds what comparing every two segments finds."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuron_specialization.corpora import near_duplicates
from neuron_specialization.corpora.near_duplicates import character_grams, searched, with_near_duplicate


def jaccard(one: str, other: str) -> Fraction:
    a, b = character_grams(one), character_grams(other)
    return Fraction(len(a & b), len(a | b) or 1)


# few letters, so that texts are alike
TEXTS = st.lists(st.text("ab ", max_size=14), max_size=8)


@given(TEXTS, TEXTS)
def test_it_finds_what_comparing_all_finds(heldout: list[str], training: list[str]) -> None:
    expected = [any(jaccard(one, other) >= Fraction(3, 5) for other in training) for one in heldout]
    assert with_near_duplicate(heldout, training) == expected


@pytest.mark.parametrize(
    ("training", "near"),
    [
        ("Failed to  connect to the HOST", True),
        ("Failed to connect to the hosts again", True),
        ("Turn on the light in the kitchen", False),
        ("", False),
    ],
)
def test_near(training: str, near: bool) -> None:
    assert with_near_duplicate(["Failed to connect to the host"], [training]) == [near]


def test_of_much_text_an_even_part_is_searched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(near_duplicates, "MOST_SEARCHED", 4)
    assert searched(["a", "b", "a", "c"]) == (["a", "b", "c"], 3)
    assert searched("abcdefghij") == (["a", "d", "g", "j"], 10)
