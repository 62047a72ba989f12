"""The strict reader of generate-<subset>.txt."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuron_specialization.directions import Direction
from neuron_specialization.errors import ScoringError
from neuron_specialization.formats.fairseq_output import read_generate_output

TRAILER = "Generate test with beam=5: BLEU4 = 34.44, 65.0/40.7/27.9/19.7 (BP=0.992, ratio=0.992)\n"


def block(identifier: int, source: str, reference: str, hypothesis: str) -> str:
    return (
        f"S-{identifier}\t{source}\nT-{identifier}\t{reference}\n"
        f"H-{identifier}\t-0.5\t{hypothesis}\nD-{identifier}\t-0.5\t{hypothesis}\nP-{identifier}\t-0.1 -0.2\n"
    )


GOOD = block(1, "__de__ zwei", "two", "two") + block(0, "__de__ eins", "one", "won") + TRAILER


@pytest.fixture
def write(tmp_path: Path):
    def writer(content: str | bytes) -> Path:
        path = tmp_path / "generate-test.txt"
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return writer


def test_orders_by_id_and_strips_the_source_tag(write) -> None:
    output = read_generate_output(write(GOOD), Direction("de", "en"))
    assert output.sources == ["eins", "zwei"]
    assert output.references == ["one", "two"]
    assert output.hypotheses == ["won", "two"]
    assert output.scores == [-0.5, -0.5]
    assert (output.subset, output.beam) == ("test", 5)
    assert output.trailer.startswith("BLEU4 = 34.44")


def test_numeric_order_not_alphabetical(write) -> None:
    text = "".join(block(i, f"s{i}", f"r{i}", f"h{i}") for i in reversed(range(11))) + TRAILER
    assert read_generate_output(write(text)).hypotheses == [f"h{i}" for i in range(11)]


def test_tags_and_unknowns_inside_the_text_are_text(write) -> None:
    text = block(0, "__lb__ __en__ moien", "<<unk>> __en__", "__en__ <unk> hello __lb__ ") + TRAILER
    output = read_generate_output(write(text), Direction("lb", "en"))
    assert output.sources == ["__en__ moien"]
    assert output.references == ["<<unk>> __en__"]
    assert output.hypotheses == ["__en__ <unk> hello __lb__ "]


def test_source_without_tag_and_with_the_target_tag(write) -> None:
    text = block(0, "ohne", "a", "b") + block(1, "__en__ mit", "a", "b") + TRAILER
    assert read_generate_output(write(text), Direction("de", "en")).sources == ["ohne", "mit"]


def test_line_separators_other_than_newline_are_text(write) -> None:
    text = block(0, "a\u2028b", "c\u0085d", "e\u2029f\x0cg") + TRAILER
    output = read_generate_output(write(text))
    assert (output.sources, output.references, output.hypotheses) == (
        ["a\u2028b"],
        ["c\u0085d"],
        ["e\u2029f\x0cg"],
    )


def test_gzip(tmp_path: Path) -> None:
    path = tmp_path / "generate-test.txt.gz"
    path.write_bytes(gzip.compress(GOOD.encode()))
    assert read_generate_output(path).hypotheses == ["won", "two"]
    path.write_bytes(path.read_bytes()[:-12])
    with pytest.raises(ScoringError, match=r"cannot be read"):
        read_generate_output(path)


LINES = GOOD.split("\n")


def without(*numbers: int) -> str:
    return "\n".join(line for number, line in enumerate(LINES, 1) if number not in numbers)


@pytest.mark.parametrize(
    ("content", "what", "line"),
    [
        ("", "empty: 0 segments", 1),
        (b"S-0\t\xff\n" + TRAILER.encode(), "not UTF-8", 1),
        (GOOD.removesuffix("\n"), "has no end", 11),
        (GOOD[: GOOD.index("Generate")], "closing line", 10),
        (GOOD[: GOOD.index("D-0")], "closing line", 8),
        (TRAILER, "no segment", 1),
        (without(10), "no P line", 9),
        (without(7), "expected T-0, found H-0", 7),
        (without(1), "expected S-<id>, found T-1", 1),
        (GOOD.replace("H-0", "H-2"), "expected H-0, found H-2", 8),
        (GOOD.replace("-0\t", "-1\t"), "there twice, first at line 1", 6),
        (block(0, "a", "b", "c").replace("D-0", "H-0") + TRAILER, "expected D-0, found H-0", 4),
        ("INFO | loading\n" + GOOD, "expected S-<id>", 1),
        (GOOD.replace("two", "t\two", 1), "3 tab-separated fields, not 2", 2),
        (GOOD.replace("H-1\t-0.5\t", "H-1\t"), "2 tab-separated fields, not 3", 3),
        (GOOD.replace("H-1\t-0.5", "H-1\tlow"), "not a number", 3),
        (GOOD.replace("\n", "\r\n"), "CR LF", 1),
    ],
)
def test_refuses_naming_file_and_line(write, content: str | bytes, what: str, line: int) -> None:
    path = write(content)
    with pytest.raises(ScoringError) as raised:
        read_generate_output(path)
    assert what in raised.value.what
    assert raised.value.where == f"{path}, line {line}"


def test_refuses_missing_ids(write) -> None:
    path = write(block(0, "a", "b", "c") + block(2, "a", "b", "c") + TRAILER)
    with pytest.raises(ScoringError, match="segment 1 is missing") as raised:
        read_generate_output(path)
    assert raised.value.where == path


def test_refuses_several_hypotheses(write) -> None:
    first = block(0, "a", "b", "c")
    nbest = first + "".join(line + "\n" for line in first.split("\n")[2:5]) + TRAILER
    with pytest.raises(ScoringError, match="nbest 1"):
        read_generate_output(write(nbest))


def test_refuses_another_direction(write) -> None:
    with pytest.raises(ScoringError, match="__de__, which is not of fr-en"):
        read_generate_output(write(GOOD), Direction("fr", "en"))


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ScoringError, match="missing"):
        read_generate_output(tmp_path / "absent.txt")


@given(st.data())
def test_any_cut_is_refused(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    cut = data.draw(st.integers(0, len(GOOD) - 1))
    path = tmp_path_factory.getbasetemp() / "cut.txt"
    path.write_text(GOOD[:cut], encoding="utf-8")
    with pytest.raises(ScoringError):
        read_generate_output(path)
