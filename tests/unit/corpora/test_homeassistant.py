"""Reading the translations out of the Home Assistant wheel."""

from __future__ import annotations

from pathlib import Path

import pytest

from neuron_specialization.corpora.homeassistant import extract, language_tag
from neuron_specialization.errors import CorpusError
from tests.fakes.corpora import make_wheel


@pytest.mark.parametrize(
    ("code", "tag"), [("de", "de"), ("zh_Hans", "zh-Hans"), ("es_419", "es-419"), ("sr_Latn", "sr-Latn")]
)
def test_language_tag(code: str, tag: str) -> None:
    assert language_tag(code) == tag


def test_a_key_makes_a_segment(tmp_path: Path) -> None:
    wheel = make_wheel(
        tmp_path / "a.whl",
        {
            ("hue", "en"): {"entity": {"lamp": {"name": "Lamp", "state": {"on": "On"}}}, "title": "Hue"},
            ("hue", "zh-Hans"): {"title": "秀", "entity": {"lamp": {"name": "灯"}}},
            ("mqtt", "en"): {"title": "Line one\n\nLine two\u2028three"},
            ("mqtt", "zh-Hans"): {"title": "一行"},
            ("mqtt", "de"): {"title": "Zeile"},
        },
    )
    assert extract(wheel, ["en", "zh_Hans"]) == [
        {"en": "Lamp", "zh_Hans": "灯"},
        {"en": "On"},
        {"en": "Hue", "zh_Hans": "秀"},
        {"en": "Line one Line two three", "zh_Hans": "一行"},
    ]


def test_what_is_no_text_is_left_out(tmp_path: Path) -> None:
    wheel = make_wheel(
        tmp_path / "a.whl",
        {
            ("hue", "en"): {
                "number": 3,
                "list": ["x"],
                "null": None,
                "a": "[%key:common::on%]",
                "b": "Lone \ud800",
            },
            ("hue", "de"): {"a": "An", "b": " \t"},
            # a deeper and a foreign path are no translations of a component
            ("hue/nested", "en"): {"c": "Nested"},
        },
    )
    assert extract(wheel, ["en", "de"]) == [{"en": "", "de": "An"}, {"en": "Lone", "de": ""}]


def test_same_key_of_two_components_is_two_segments(tmp_path: Path) -> None:
    wheel = make_wheel(
        tmp_path / "a.whl",
        {(component, "en"): {"title": component} for component in ("hue", "mqtt")}
        | {("hue", "de"): {"title": "H"}},
    )
    assert extract(wheel, ["en", "de"]) == [{"en": "hue", "de": "H"}, {"en": "mqtt"}]


def test_missing_languages_are_all_named_with_the_nearest(tmp_path: Path) -> None:
    wheel = make_wheel(
        tmp_path / "a.whl", {("hue", tag): {"t": "x"} for tag in ("en", "zh-Hans", "zh-Hant", "nb")}
    )
    with pytest.raises(CorpusError) as error:
        extract(wheel, ["en", "zh", "xx"])
    assert "zh (there is zh_Hans, zh_Hant), xx" in str(error.value)
    assert "en, nb, zh_Hans, zh_Hant" in str(error.value)


def test_bad_input_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="missing"):
        extract(tmp_path / "none.whl", ["en"])
    (tmp_path / "cut.whl").write_bytes(b"PK\x03\x04 cut")
    with pytest.raises(CorpusError, match="cannot read the wheel"):
        extract(tmp_path / "cut.whl", ["en"])
    other = make_wheel(tmp_path / "other.whl", {})
    with pytest.raises(CorpusError, match="no Home Assistant translations"):
        extract(other, ["en"])


@pytest.mark.parametrize(
    "data",
    [b'{"title": "cut', b'{"title": "\xff"}', b'{"t": ' + b"[" * 100_000],
    ids=["cut", "bytes", "deep"],
)
def test_damaged_member_is_named(tmp_path: Path, data: bytes) -> None:
    wheel = make_wheel(tmp_path / "a.whl", {("hue", "en"): data})
    with pytest.raises(CorpusError, match=r"hue/translations/en\.json"):
        extract(wheel, ["en"])
