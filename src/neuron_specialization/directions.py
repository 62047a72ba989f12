"""Translation directions and languages, and how both are grouped."""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from neuron_specialization.errors import ConfigError
from neuron_specialization.resources import data_file

LANGUAGE_PATTERN = r"[a-z]{2,3}(?:_[A-Za-z0-9]{2,8})*"
# the group of directions that are translated and scored, and never trained
ZERO_SHOT = "zero-shot"
# the branch of a language that the table does not know
UNKNOWN_BRANCH = "other"
# the tier of a language that no tier lists, beside tiers that list others
NO_TIER = "no tier"
# those of a zero-shot direction whose two languages differ in them
MIXED_TIERS, MIXED_BRANCHES = "mixed tiers", "mixed branches"
DIRECTION_PATTERN = rf"{LANGUAGE_PATTERN}-{LANGUAGE_PATTERN}"


@dataclass(frozen=True, order=True)
class Direction:
    """A translation direction, e.g. ``Direction("de", "en")``; ``str()`` gives ``de-en``."""

    source: str
    target: str

    def __post_init__(self) -> None:
        for code in (self.source, self.target):
            if not re.fullmatch(LANGUAGE_PATTERN, code):
                raise ConfigError(
                    f"{code!r} is not a language code",
                    hint="use codes such as de, oc or zh_Hans: small letters, script or region after _",
                )
        if self.source == self.target:
            raise ConfigError(f"direction {self.source}-{self.target} translates a language into itself")

    @classmethod
    def parse(cls, text: str) -> Direction:
        """Read ``de-en``.

        Raises:
            ConfigError: the text is not ``<source>-<target>``.
        """
        parts = text.split("-")
        if len(parts) != 2:
            raise ConfigError(
                f"{text!r} is not a direction", hint="write <source>-<target>, e.g. de-en or pt_BR-en"
            )
        return cls(*parts)

    def __str__(self) -> str:
        return f"{self.source}-{self.target}"

    @property
    def pair(self) -> str:
        """The unordered pair's name, alphabetical: both de-en and en-de are ``de-en``. Names corpus files."""
        return "-".join(sorted((self.source, self.target)))

    def group(self, pivot: str | None) -> str:
        """``en→X`` or ``X→en`` around the pivot, else ``X→Y`` (the paper's O2M, M2O and zero-shot)."""
        if pivot and self.source == pivot:
            return f"{pivot}→X"
        if pivot and self.target == pivot:
            return f"X→{pivot}"
        return "X→Y"

    def other(self, pivot: str | None) -> str | None:
        """The language that is not the pivot; None where neither is the pivot."""
        if self.source == pivot:
            return self.target
        return self.source if self.target == pivot else None

    def through(self, pivot: str) -> tuple[str, str]:
        """The directions to the pivot and from it that make up this one, e.g. ``de-en`` and ``en-fr``."""
        return f"{self.source}-{pivot}", f"{pivot}-{self.target}"


@dataclass(frozen=True)
class Language:
    """One row of data/languages.tsv."""

    code: str
    name: str
    flores200: str
    script: str
    family: str
    branch: str
    ec30_tier: str


def read_languages(path: Path) -> dict[str, Language]:
    """Read a language table (tab-separated, header = the fields of Language), by code."""
    with path.open(encoding="utf-8", newline="") as handle:
        rows = [Language(**row) for row in csv.DictReader(handle, delimiter="\t")]
    return {language.code: language for language in rows}


@cache
def known_languages() -> dict[str, Language]:
    """The languages of data/languages.tsv, by code."""
    return read_languages(data_file("languages.tsv"))


@cache
def _branches() -> dict[str, str]:
    """The branch of each language, by its two letters (de) and its three (deu)."""
    languages = known_languages().values()
    return {key: one.branch for one in languages for key in (one.code, one.flores200.split("_")[0])}


def branch_of(code: str) -> str:
    """The branch of a language (Germanic, Romance, …), UNKNOWN_BRANCH for one the table does not know.

    Script and region do not matter: pt, pt_BR and por_Latn are one language.
    """
    return _branches().get(code.split("_")[0], UNKNOWN_BRANCH)
