"""What surrounds an engine: order, blank and long lines, directions, streaming, what is written."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import neuron_specialization
from neuron_specialization.directions import Direction
from neuron_specialization.errors import ConfigError, TranslationError
from neuron_specialization.preprocessing.pieces import Pieces, Segmentation, join_pieces, split_pieces
from neuron_specialization.translation.engine import Engine, PieceHypothesis, SearchOptions
from neuron_specialization.translation.streams import translate_stream, write_translations
from neuron_specialization.translation.translator import Hypothesis, Translator

DE_EN, EN_DE, FR_EN = (Direction.parse(text) for text in ("de-en", "en-de", "fr-en"))


class Words:
    """Segments at spaces, as SentencePiece would with whole words as pieces."""

    def encode(self, lines: Sequence[str]) -> list[list[str]]:
        return [[f"\u2581{word}" for word in line.split()] for line in lines]


class Upper:
    """An engine that writes its source in capitals; later hypotheses have a number added."""

    longest_source = 10

    def __init__(self, directions: Sequence[Direction] = (DE_EN,)) -> None:
        self.directions = directions
        self.calls: list[list[list[str]]] = []

    def serves(self, direction: Direction) -> bool:
        return direction in self.directions

    def generate(
        self, sources: Sequence[Sequence[str]], direction: Direction, options: SearchOptions
    ) -> list[list[PieceHypothesis]]:
        self.calls.append([list(source) for source in sources])
        return [
            [
                PieceHypothesis(
                    tuple(piece.upper() + (str(rank) if rank else "") for piece in source),
                    tokens=len(source) + 2,
                    score=-float(rank + 1),
                )
                for rank in range(options.nbest)
            ]
            for source in sources
        ]


def make(engine: Upper | None = None, directions: Sequence[Direction] = (DE_EN,)) -> Translator:
    engine = engine or Upper(directions)

    def open_engine(direction: Direction) -> tuple[Engine, Segmentation, int]:
        return engine, Words(), engine.longest_source

    return Translator(directions, open_engine, name="a model")


# ---- pieces ----


def test_join_is_fairseqs() -> None:
    assert join_pieces(["▁Ge", "rät", "▁hin", "zu", "fügen", "▁", "!"]) == "Gerät hinzufügen !"
    assert join_pieces([]) == ""
    assert join_pieces(["<unk>", "▁a"]) == "<unk> a"


@given(
    st.lists(st.sampled_from(["▁a", "b", "▁c.", ".", "▁d", "。", "▁(e)"]), min_size=1, max_size=60),
    st.integers(min_value=1, max_value=12),
)
def test_split_keeps_every_piece_and_the_limit(pieces: list[str], limit: int) -> None:
    parts = split_pieces(pieces, limit)
    assert [piece for part in parts for piece in part] == pieces
    assert all(1 <= len(part) <= limit for part in parts)
    # no part but the last is so short that the line falls into crumbs
    assert all(len(part) > limit // 2 for part in parts[:-1])


def test_split_prefers_the_end_of_a_sentence_then_a_word() -> None:
    line = ["▁One", ".", "▁Two", "▁three", "▁fo", "ur"]
    assert split_pieces(line, 3) == [["▁One", "."], ["▁Two", "▁three"], ["▁fo", "ur"]]
    assert split_pieces(["▁a", "b", "c", "d", "e"], 3) == [["▁a", "b", "c"], ["d", "e"]]
    assert split_pieces(["▁文", "。", "文", "字"], 3) == [["▁文", "。"], ["文", "字"]]


# ---- Translator ----


def test_a_look_before_every_chunk() -> None:
    engine = Upper()
    lines = ["w " * 10] * 200 + ["", "x " * 95]
    left: list[int] = []
    options = SearchOptions(beam=5)
    found = make(engine).hypotheses(lines, "de-en", options, before_chunk=left.append)
    assert found == make().hypotheses(lines, "de-en", options)
    sizes = [sum(map(len, call)) for call in engine.calls]
    assert len(sizes) > 2 and max(sizes) * options.beam <= 4096
    assert left == [2095 - sum(sizes[:done]) for done in range(len(sizes))]

    def enough(pieces: int) -> None:
        if pieces < 2095:
            raise KeyboardInterrupt

    engine.calls.clear()
    with pytest.raises(KeyboardInterrupt):
        make(engine).hypotheses(lines, "de-en", options, before_chunk=enough)
    assert len(engine.calls) == 1


def test_order_and_blank_lines() -> None:
    engine = Upper()
    lines = ["b", "", "a a", "   ", "\u200b \t"[1:], "c"]
    assert make(engine).translate(lines, "de-en") == ["B", "", "A A", "", "", "C"]
    assert engine.calls == [[["▁b"], ["▁a", "▁a"], ["▁c"]]], "blank lines never reach the engine"


def test_nothing_to_translate_needs_no_search() -> None:
    engine = Upper()
    assert make(engine).translate([], "de-en") == []
    assert make(engine).translate(["", " "], "de-en") == ["", ""]
    assert engine.calls == []


def test_long_lines_are_split_and_joined() -> None:
    engine = Upper()
    long = "one two three four five six. seven eight nine ten eleven"
    assert make(engine).translate(["x", long, "y"], "de-en") == ["X", long.upper(), "Y"]
    assert [len(part) for part in engine.calls[0]] == [1, 6, 5, 1]


def test_long_lines_are_refused_by_number() -> None:
    with pytest.raises(TranslationError, match=r"11 pieces.*at most 10(.|\n)*line 2"):
        make().translate(["x", "w " * 11], "de-en", too_long="refuse")
    assert make().translate(["w " * 10], "de-en", too_long="refuse") == [" ".join("W" * 10)]


def test_score_of_a_split_line_is_that_of_the_whole() -> None:
    (found,) = make().hypotheses(["w " * 16], "de-en", SearchOptions(nbest=2))
    # two parts of 10 and 6 pieces: summed scores -1·12 and -1·8 over 20 tokens
    assert found == [Hypothesis(" ".join("W" * 16), -1.0)]


def test_nbest() -> None:
    (found,) = make().hypotheses(["a"], "de-en", SearchOptions(nbest=3))
    assert [(one.text, one.score) for one in found] == [("A", -1.0), ("A1", -2.0), ("A2", -3.0)]


def test_unknown_direction_lists_the_known() -> None:
    translator = make(directions=(EN_DE, DE_EN))
    with pytest.raises(TranslationError, match=r"does not translate de-fr(.|\n)*de-en, en-de"):
        translator.translate(["a"], "de-fr")
    with pytest.raises(ConfigError, match="not a direction"):
        translator.translate(["a"], "german")


@pytest.mark.parametrize("lines", ["a string", b"bytes"])
def test_a_string_is_no_list_of_lines(lines: Any) -> None:
    with pytest.raises(TranslationError, match=r"one string(.|\n)*into a list"):
        make().translate(lines, "de-en")


def test_an_engine_is_opened_once_for_all_it_serves() -> None:
    opened = []

    def open_engine(direction: Direction) -> tuple[Engine, Segmentation, int]:
        opened.append(str(direction))
        served = (FR_EN,) if direction == FR_EN else (DE_EN, EN_DE)
        return Upper(served), Words(), 10

    translator = Translator([DE_EN, EN_DE, FR_EN], open_engine, name="a model")
    for direction in ("de-en", "en-de", "fr-en", "de-en"):
        translator.translate(["a"], direction)
    assert opened == ["de-en", "fr-en"]


def test_only_the_recent_models_are_kept() -> None:
    opened = []

    def open_engine(direction: Direction) -> tuple[Engine, Segmentation, int]:
        opened.append(str(direction))
        return Upper((direction,)), Words(), 10

    translator = Translator([DE_EN, EN_DE, FR_EN], open_engine, name="a model", keep=2)
    for name in ("de-en", "en-de", "de-en", "fr-en", "de-en", "en-de"):
        assert translator.translate(["a"], name) == ["A"]
    # fr-en pushed en-de out, not de-en, which had been used since
    assert opened == ["de-en", "en-de", "fr-en", "en-de"]


def test_one_translator_in_many_threads() -> None:
    opened = []

    def open_engine(direction: Direction) -> tuple[Engine, Segmentation, int]:
        opened.append(threading.get_ident())
        return Upper(), Words(), 10

    translator = Translator([DE_EN], open_engine, name="a model")
    lines = [f"word{number}" for number in range(200)]
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda line: translator.translate([line], "de-en")[0], lines))
    assert results == [line.upper() for line in lines]
    assert len(opened) == 1


@pytest.mark.parametrize(
    "values", [{"beam": 0}, {"batch_size": 0}, {"max_length": 0}, {"beam": 4, "nbest": 5}]
)
def test_senseless_search_is_refused(values: dict[str, int]) -> None:
    with pytest.raises(TranslationError):
        SearchOptions(**values)


def test_segmented_lines() -> None:
    assert Pieces().encode(["▁a b", "", "  ▁c "]) == [["▁a", "b"], [], ["▁c"]]


def test_the_package_offers_it() -> None:
    assert neuron_specialization.Translator is Translator
    with pytest.raises(AttributeError, match="no attribute 'translator'"):
        neuron_specialization.translator  # noqa: B018


# ---- streams ----


def test_stream_reads_no_further_than_its_buffer() -> None:
    taken = 0

    def endless() -> Iterator[str]:
        nonlocal taken
        while True:
            taken += 1
            yield f"line {taken}\n"

    progress: list[int] = []
    stream = translate_stream(make(), endless(), "de-en", SearchOptions(), buffer=4, progress=progress.append)
    first = [next(stream) for _ in range(9)]
    assert [best.text for _, (best, *_) in first] == [f"LINE {number}" for number in range(1, 10)]
    assert taken == 12
    assert progress == [4, 8]


def test_stream_strips_line_ends_and_nothing_else() -> None:
    found = list(translate_stream(make(), ["a\r\n", "b\u2028c\n", "\n", "d"], "de-en", SearchOptions()))
    assert [source for source, _ in found] == ["a", "b\u2028c", "", "d"]
    assert len(found) == 4


def test_stream_numbers_lines_over_buffers() -> None:
    lines = ["a"] * 5 + ["w " * 11]
    stream = translate_stream(make(), lines, "de-en", SearchOptions(), too_long="refuse", buffer=2)
    with pytest.raises(TranslationError, match="line 6"):
        list(stream)


def test_what_is_written() -> None:
    results = [
        ("ä", [Hypothesis("Ö", -0.5), Hypothesis("U", -0.75)]),
        ("", [Hypothesis("", 0.0)]),
    ]
    texts = {}
    for style in ("text", "nbest", "json"):
        handle = io.StringIO()
        assert write_translations(iter(results), handle, style=style) == 2  # type: ignore[arg-type]
        texts[style] = handle.getvalue()
    assert texts["text"] == "Ö\n\n"
    assert texts["nbest"] == "0 ||| Ö ||| -0.500000\n0 ||| U ||| -0.750000\n1 |||  ||| 0.000000\n"
    objects = [json.loads(line) for line in texts["json"].splitlines()]
    assert objects[0] == {
        "source": "ä",
        "translation": "Ö",
        "score": -0.5,
        "hypotheses": [{"text": "Ö", "score": -0.5}, {"text": "U", "score": -0.75}],
    }
