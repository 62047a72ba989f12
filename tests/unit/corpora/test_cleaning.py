"""What the cleaning stage drops, and that it counts every drop."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuron_specialization.config import Cleaning
from neuron_specialization.corpora.cleaning import REASONS, clean_pairs, defect

SETTINGS = Cleaning()


@pytest.mark.parametrize(
    ("source", "target", "reason"),
    [
        ("", "Tür", "empty"),
        ("Wi-Fi", "Wi-Fi", "identical"),
        ("x" * 601, "Tür", "too_long"),
        ("a " * 121, "b " * 121, "too_long"),
        ("one two three four five", "eins", "length_ratio"),
        # the longer side has four words: labels may differ that much
        ("one two three four", "eins", None),
        ("one two three four five six", "eins zwei", None),
        ("one two three four five six seven", "eins zwei", "length_ratio"),
        ("Turn on the light in the kitchen", "打开厨房的灯光", None),
        ("Turn on the light", "Schalte das Licht ein", None),
        # 12 words; 21 syllables, each closed by a tsheg, and no space
        (
            "scientists from Stanford announced the invention of a new diagnostic tool today",
            "ཚན་རིག་པ་རྣམས་ཀྱིས་གཟའ་ཟླ་བར་ནད་བརྟག་ཆས་གསར་པ་ཞིག་བཟོས་པའི་གསལ་བསྒྲགས་བྱས་སོང་།",
            None,
        ),
    ],
)
def test_defect(source: str, target: str, reason: str | None) -> None:
    assert defect(source.strip(), target.strip(), SETTINGS) == reason
    assert defect(target.strip(), source.strip(), SETTINGS) == reason


def test_limits_are_the_settings() -> None:
    strict = Cleaning(max_words=2, max_characters=9, max_ratio=1.5, ratio_free_words=0)
    assert defect("aa bb", "cc dd", strict) is None
    assert defect("aa bb cc", "dd ee", strict) == "too_long"
    assert defect("aaaaaaaaaa", "b", strict) == "too_long"
    assert defect("aa bb", "cc", strict) == "length_ratio"


def test_counts_each_reason_once() -> None:
    result = clean_pairs(
        [
            ("Door", "Tür"),
            (" Door\n", "Tür\u2028"),  # the same after normalisation
            ("Door", "Türe"),  # another translation is no repetition
            ("\x00 \t", "Tür"),
            ("Status", "Status"),
            ("x" * 100_000, "y"),
            ("a b c d e f g h", "z"),
        ],
        SETTINGS,
    )
    assert result.segments == [("Door", "Tür"), ("Door", "Türe")]
    assert dict(result.dropped) == {
        "empty": 1,
        "identical": 1,
        "too_long": 1,
        "length_ratio": 1,
        "duplicate": 1,
    }


def test_every_reason_is_listed_even_at_zero() -> None:
    assert dict(clean_pairs([], SETTINGS).dropped) == dict.fromkeys(REASONS, 0)


@given(st.lists(st.tuples(st.text(max_size=12), st.text(max_size=12)), max_size=30))
def test_nothing_disappears_uncounted(pairs: list[tuple[str, str]]) -> None:
    result = clean_pairs(pairs, SETTINGS)
    assert len(result.segments) + sum(result.dropped.values()) == len(pairs)
    assert clean_pairs(result.segments, SETTINGS).segments == result.segments


def test_right_to_left_and_combining_text_stays() -> None:
    pairs = [("Open the door", "افتح الباب"), ("Door", "दरवाज़ा"), ("Light", "\u200fאור")]
    assert len(clean_pairs(pairs, SETTINGS).segments) == 3
