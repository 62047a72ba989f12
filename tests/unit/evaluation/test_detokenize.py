"""Detokenisation and the words Moses splits."""

from __future__ import annotations

import pytest

from neuron_specialization.errors import ScoringError
from neuron_specialization.evaluation.detokenize import (
    detokenize,
    has_split_words,
    has_splittable_words,
    moses_round_trip,
    rejoin_marks,
)


def test_none_changes_nothing() -> None:
    assert detokenize(["a  b , c"], "de", "none") == ["a  b , c"]


def test_moses() -> None:
    lines = ['He said : " it \'s well @-@ known " .', "10 % &amp; more"]
    assert detokenize(lines, "en", "moses") == ['He said: "it\'s well-known".', "10% & more"]
    assert detokenize(["Qui ?"], "fr", "moses") == ["Qui ?"]  # French keeps the space
    assert detokenize(["Qui ?"], "en", "moses") == ["Qui?"]


def test_moses_takes_the_language_of_a_code_with_a_script() -> None:
    assert detokenize(["Qui ?"], "fr_Latn", "moses") == ["Qui ?"]


def test_tags_and_unknowns_survive() -> None:
    assert detokenize(["__en__ <unk> <<unk>> ."], "en", "moses") == ["__en__ <unk> <<unk>>."]


def test_czech_ending_that_stops_sacremoses() -> None:
    assert detokenize(["Víš' - li to ?"], "cs", "moses") == ["Víš'-li to?"]


def test_unknown_detokenizer() -> None:
    with pytest.raises(ScoringError, match="no detokenizer is called 'spacy'"):
        detokenize([], "en", "spacy")


@pytest.mark.parametrize(
    ("split", "whole"),
    [
        ("उन ् होंने कहा", "उन्होंने कहा"),
        ("लड ़ का", "लड़का"),
        ("ಮತ ್ ತು", "ಮತ್ತು"),
        ("no marks here", "no marks here"),
        ("", ""),
    ],
)
def test_rejoin_marks(split: str, whole: str) -> None:
    assert rejoin_marks([split]) == [whole]


def test_which_text_is_concerned() -> None:
    assert has_split_words(["उन ् होंने"]) and not has_split_words(["उन्होंने"])
    assert has_splittable_words(["उन्होंने"]) and not has_splittable_words(
        ["Über die Brücke, façade, שלום, مرحبًا"]
    )
    # one stressed Russian vowel in two hundred segments is not a reason to report twice
    assert not has_split_words(["за ́ мок"] + ["слово"] * 199)
    assert not has_split_words([]) and not has_splittable_words([])


def test_round_trip_splits_as_the_published_text_is_split() -> None:
    assert moses_round_trip(["उन्होंने कहा, शब्द।"], "hi") == ["उन ् होंने कहा, शब ् द ।"]
    assert moses_round_trip(["It's a well-known “fact”."], "en") == ['It\'s a well-known "fact."']
