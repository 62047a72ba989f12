"""Normalisation, word counts and the SentencePiece wrapper."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuron_specialization.corpora.text import count_words, normalise
from neuron_specialization.errors import CorpusError
from neuron_specialization.preprocessing.pieces import Segmenter


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("  a \t b\r\n\nc  ", "a b c"),
        ("a\x00b", "a b"),
        ("a\u2028b\u2029c\x85d", "a b c d"),
        ("a\u00a0b\u3000c", "a b c"),
        ("\ufeffa", "a"),
        ("a\ud800b", "ab"),
        ("e\u0301", "é"),
        # what scripts need stays: joiners, direction marks, vowel signs
        ("می\u200cخواهم", "می\u200cخواهم"),
        ("\u200fשלום", "\u200fשלום"),
        ("हिन्दी", "हिन्दी"),
        ("\t \x00", ""),
        ("", ""),
    ],
)
def test_normalise(text: str, expected: str) -> None:
    assert normalise(text) == expected


@given(st.text(st.characters(exclude_categories=()), max_size=40))
def test_normalise_holds_its_promises(text: str) -> None:
    once = normalise(text)
    assert normalise(once) == once
    assert unicodedata.is_normalized("NFC", once)
    assert len(once.splitlines()) <= 1 and "\x00" not in once
    assert once == once.strip()
    once.encode("utf-8")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("turn the light on", 4),
        ("", 0),
        ("灯を開ける", 3),
        ("打开 light 灯", 3),
        ("พัดลม", 3),
        ("༄༅།བོད་སྐད། ཡིན་ནམ་ light", 3),
        ("вкл. свет", 2),
    ],
)
def test_count_words(text: str, words: int) -> None:
    assert count_words(text) == words


def test_segmenter_restores_text(trained_vocabulary: Path) -> None:
    segmenter = Segmenter(trained_vocabulary / "spm.model")
    lines = ["light  door window", "tür fenster", "", "свет\tдверь"]
    pieces = segmenter.encode(lines)
    assert pieces[0] != ["light  door window"] and pieces[2] == []
    assert segmenter.decode(pieces) == ["light door window", "tür fenster", "", "свет дверь"]
    assert [[segmenter.pieces[i] for i in ids] for ids in segmenter.encode_ids(lines)] == pieces


def test_segmenter_normalises_as_training_did(trained_vocabulary: Path) -> None:
    composed, decomposed = "tür", unicodedata.normalize("NFD", "tür")
    model = trained_vocabulary / "spm.model"
    assert Segmenter(model).encode([decomposed]) == Segmenter(model).encode([composed])
    assert Segmenter(model, normalised=False).encode([decomposed]) != Segmenter(model).encode([composed])


def test_segmenter_marks_what_it_cannot_spell(trained_vocabulary: Path) -> None:
    segmenter = Segmenter(trained_vocabulary / "spm.model")
    unknown = segmenter.pieces.index("<unk>")
    assert unknown in segmenter.encode_ids(["light 灯"])[0]
    assert unknown not in segmenter.encode_ids(["light"])[0]
    assert segmenter.special[:5] == [True, True, True, True, False]


def test_segmenter_survives_a_very_long_line(trained_vocabulary: Path) -> None:
    segmenter = Segmenter(trained_vocabulary / "spm.model")
    text = "light door " * 10_000
    assert segmenter.decode(segmenter.encode([text])) == [text.strip()]


def test_segmenter_refuses_what_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="missing"):
        Segmenter(tmp_path / "spm.model")
    (tmp_path / "spm.model").write_bytes(b"not a model")
    with pytest.raises(CorpusError, match="not a SentencePiece model"):
        Segmenter(tmp_path / "spm.model")
