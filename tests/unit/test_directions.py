"""Directions, their names and groups, and the table of languages."""

from __future__ import annotations

import re

import pytest

from neuron_specialization.directions import (
    DIRECTION_PATTERN,
    LANGUAGE_PATTERN,
    Direction,
    branch_of,
    known_languages,
    read_languages,
)
from neuron_specialization.errors import ConfigError
from neuron_specialization.resources import data_file


@pytest.mark.parametrize("text", ["de-en", "zh_Hans-en", "oc-lb", "ar_EG_x1-fra"])
def test_parse_and_print(text: str) -> None:
    assert str(Direction.parse(text)) == text
    assert re.fullmatch(DIRECTION_PATTERN, text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "de",
        "de-",
        "-en",
        "de-en-fr",
        "DE-en",
        "de_-en",
        "de en",
        "d-en",
        "../x-en",
        "de;ls-en",
        "de\n-en",
    ],
)
def test_what_is_no_direction_is_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        Direction.parse(text)


def test_a_language_into_itself_is_refused() -> None:
    with pytest.raises(ConfigError, match="into itself"):
        Direction("de", "de")


def test_a_pair_has_one_name() -> None:
    assert Direction("en", "de").pair == Direction("de", "en").pair == "de-en"


def test_groups() -> None:
    assert Direction("en", "de").group("en") == "en→X"
    assert Direction("de", "en").group("en") == "X→en"
    assert Direction("de", "fr").group("en") == Direction("de", "en").group(None) == "X→Y"


def test_the_language_that_is_not_the_pivot() -> None:
    assert [Direction.parse(name).other("en") for name in ("en-de", "de-en", "de-fr")] == ["de", "de", None]
    assert Direction("de", "en").other(None) is None


def test_directions_sort_and_are_hashable() -> None:
    unsorted = [Direction("ru", "en"), Direction("de", "en"), Direction("de", "cs")]
    assert [str(one) for one in sorted(set(unsorted))] == ["de-cs", "de-en", "ru-en"]


def test_the_table_has_the_papers_languages() -> None:
    table = known_languages()
    tiers = [language.ec30_tier for language in table.values()]
    # EC30: English and thirty languages, ten in each tier
    assert [tiers.count(tier) for tier in ("high", "medium", "low")] == [10, 10, 10]
    branches: dict[str, int] = {}
    for language in table.values():
        if language.ec30_tier in ("high", "medium", "low"):
            branches[language.branch] = branches.get(language.branch, 0) + 1
    assert sorted(branches.values()) == [6] * 5  # five branches of six


def test_every_row_of_the_table_is_complete_and_unlike_the_others() -> None:
    table = known_languages()
    for code, language in table.items():
        assert re.fullmatch(LANGUAGE_PATTERN, code)
        assert re.fullmatch(r"[a-z]{3}_[A-Z][a-z]{3}", language.flores200)
        assert language.flores200.endswith(language.script) or language.script
        assert all((language.name, language.script, language.family, language.branch))
    assert len({language.flores200 for language in table.values()}) == len(table)
    assert len(read_languages(data_file("languages.tsv"))) == len(table)


def test_branches() -> None:
    assert (branch_of("de"), branch_of("es"), branch_of("cs")) == ("Germanic", "Romance", "Slavic")
    assert (branch_of("pt_BR"), branch_of("deu_Latn"), branch_of("rus")) == ("Romance", "Germanic", "Slavic")
    assert branch_of("xx") == branch_of("zh_Hans") == "other"
