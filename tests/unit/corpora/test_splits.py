"""Held-out sets: chosen deterministically, disjoint, and kept out of the training text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuron_specialization.corpora.splits import (
    HeldOutIndex,
    Row,
    choose_heldout,
    comparison_key,
    content_words,
    draw_order,
    sample_segments,
)
from neuron_specialization.errors import CorpusError
from tests.fakes.corpora import corpus_spec, sentence


def rows(count: int, languages: tuple[str, ...] = ("en", "de", "ru")) -> list[Row]:
    return [{code: sentence(number, code) for code in languages} for number in range(count)]


@pytest.mark.parametrize(
    "variant",
    [
        "Turn on the light",
        "TURN ON THE LIGHT!",
        "turn on {name} the light",
        "Turn on the light: 100 %",
        "Turn-on the light…",
        "Turn on the <b>light</b>",
        "Turn on %s the %1$s light %(count)d",
        "Turn on the light {{ states('sensor.x') }}",
        "Turn on the light ${unit}",
        "Turn on the light {count, number} {at, date, MMM d, yyyy} {0} {} {value:.2f} { name }",
        "{count, plural, one {Turn on} other {the light}}",
        "{a, select, on {Turn on {b, plural, offset:1 =0 {the {light}} other {light}}} other {}}",
    ],
)
def test_comparison_key_ignores_case_punctuation_digits_placeholders(variant: str) -> None:
    assert comparison_key(variant) == comparison_key("Turn on the light")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("100 %", "50 %"),
        ("{name}", "{host}"),
        ("Turn on", "Turn off"),
        ("हिन्दी", "हन्द"),
        ("50 % d", "50 %"),
        (
            "{count, plural, one {# day left} other {# days left}}",
            "{count, plural, one {# file} other {# files}}",
        ),
        ("{count, plural, one {day} other {days}}", "{count, plural, one {file} other {files}}"),
        ("Press {the red one}", "Press {the blue one}"),
        ("{n, plural, one {# day}", "{n, plural, one {# file}"),
    ],
)
def test_comparison_key_keeps_different_text_apart(one: str, other: str) -> None:
    assert comparison_key(one) != comparison_key(other)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Turn on the light", 4),
        ("Set {name} to 50 %", 2),
        ("1 2 3 4", 0),
        ("don't panic", 2),
        ("打开厨房的灯", 3),
        ("{count, plural, one {# day left} other {# days left}}", 4),
        ("{count, plural, one {# {name}} other {#}}", 0),
    ],
)
def test_content_words(text: str, words: int) -> None:
    assert content_words(text) == words


@given(st.lists(st.sampled_from(["{n, plural,", " one ", " =0 ", "{", "}", "{name}", "#", "day", ", ", "$"])))
def test_any_braces_are_read(parts: list[str]) -> None:
    """However they are nested or cut off, and the words of text outside of braces are kept."""
    text = "".join(parts)
    assert comparison_key(text) and content_words(text) >= 0 if text else comparison_key(text) == ""
    assert comparison_key(f"window {text}").startswith("window")


def test_deeply_nested_messages_are_read() -> None:
    depth = 20_000
    assert comparison_key("{n,plural,one{" * depth + "day" + "}}" * depth) == "day"


def test_chosen_sets_are_multi_parallel_sized_and_disjoint() -> None:
    spec = corpus_spec()
    held = choose_heldout(rows(200), spec)
    assert (len(held.valid), len(held.heldout), held.candidates) == (5, 10, 200)
    for code in spec.languages:
        keys = [comparison_key(row[code]) for row in held.valid + held.heldout]
        assert len(set(keys)) == 15
    # parallel: the de and ru lines are those of the en line
    by_english = {row["en"]: row for row in rows(200)}
    assert all(by_english[row["en"]] == row for row in held.valid + held.heldout)


def test_choice_depends_on_seed_and_text_alone() -> None:
    spec = corpus_spec()
    first = choose_heldout(rows(200), spec)
    assert choose_heldout(rows(200)[::-1], spec) == first
    assert choose_heldout(rows(200), corpus_spec(seed=8)).heldout != first.heldout


def test_rows_that_cannot_serve_are_not_chosen() -> None:
    good = rows(15)
    short = [
        {"en": f"open {'x' * n}", "de": f"öffne {'x' * n}", "ru": f"открой {'x' * n}"} for n in range(1, 40)
    ]
    untranslated = [{code: sentence(n, "en") for code in ("en", "de", "ru")} for n in range(100, 140)]
    incomplete = [{"en": sentence(n, "en"), "de": sentence(n, "de")} for n in range(200, 240)]
    empty = [{"en": sentence(n, "en"), "de": sentence(n, "de"), "ru": ""} for n in range(300, 340)]
    repeated = [{code: text.upper() + "!" for code, text in row.items()} for row in good]
    held = choose_heldout([*short, *untranslated, *incomplete, *empty, *repeated, *good], corpus_spec())
    assert held.candidates == 15
    assert {comparison_key(row["en"]) for row in held.valid + held.heldout} == {
        comparison_key(row["en"]) for row in good
    }


def test_too_few_says_how_many_and_what_to_change() -> None:
    scarce = [row | ({} if number < 9 else {"ru": ""}) for number, row in enumerate(rows(40))]
    with pytest.raises(CorpusError) as error:
        choose_heldout(scarce, corpus_spec())
    text = str(error.value)
    assert "5 + 10 are wanted" in text and "9 can serve" in text
    assert "ru 9" in text and "of 40 segments" in text
    assert "corpus.heldout_size" in text and "take ru out of languages" in text


def test_without_a_pivot_the_first_language_is_measured() -> None:
    spec = corpus_spec(languages=["de", "ru"], pivot=None, pairs=["de-ru"])
    short_german = [{"de": f"tür {'x' * n}", "ru": sentence(n, "ru")} for n in range(1, 30)]
    held = choose_heldout([*short_german, *rows(15, ("de", "ru"))], spec)
    assert held.candidates == 15


def test_index_looks_at_both_sides() -> None:
    index = HeldOutIndex()
    index.add("de-en", [("Tür öffnen", "Open the door")])
    train = [
        ("Die Tür aufmachen", "open the DOOR!"),
        ("Tür {n} öffnen", "Unlock the entrance"),
        ("Fenster öffnen", "Open the window"),
        ("Open the door", "Tür öffnen"),  # languages swapped: the text is not the held-out text
    ]
    assert index.without("de-en", train) == train[2:]
    # another pair of the same language is covered, its other language is not held out
    assert index.without("en-ru", [("Open the door", "Открой"), ("Lock", "Тür")]) == [("Lock", "Тür")]


def test_smaller_cap_is_a_subset_in_original_order() -> None:
    segments = [(sentence(n, "de"), sentence(n, "en")) for n in range(300)]
    small, large = (sample_segments(segments, cap, 1, "de-en") for cap in (20, 100))
    assert len(small) == 20 and len(large) == 100
    assert set(small) < set(large)
    assert small == [segment for segment in segments if segment in set(small)]
    assert sample_segments(segments, 20, 2, "de-en") != small
    assert sample_segments(segments, 20, 1, "de-nl") != small
    assert sample_segments(segments, None, 1, "de-en") == segments


def test_draw_order_is_stable_across_versions() -> None:
    # a change of this order would silently change every corpus; the numbers are this code's own
    assert draw_order([f"sentence {n}" for n in range(8)], 222, "heldout") == [0, 2, 4, 3, 1, 6, 7, 5]


@given(st.lists(st.text(max_size=8), max_size=25), st.integers(0, 9))
def test_draw_order_is_a_permutation(items: list[str], seed: int) -> None:
    assert sorted(draw_order(items, seed, "x")) == list(range(len(items)))
