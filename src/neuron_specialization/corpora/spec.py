"""What the corpus stage needs of the configuration, and nothing else. Travels as ``corpus --spec JSON``."""

from __future__ import annotations

from collections.abc import Sized
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from neuron_specialization.catalogue import catalogue_entry
from neuron_specialization.config import Cleaning, Config, LanguageCode, Positive, Section
from neuron_specialization.corpora.layout import pair_languages
from neuron_specialization.directions import Direction


def _is_empty(value: Sized) -> bool:
    return not value


class KeptOut(Section):
    """A test set from elsewhere whose text is kept out of the training text."""

    source: Literal["flores200", "folder"]
    path: str
    splits: list[str]


class CorpusSpec(Section):
    """All that decides what the corpus holds, apart from its input.

    Attributes:
        languages: every configured language; the held-out sets have a line in each.
        pivot: the language whose words ``heldout_min_words`` counts; None: the first of ``languages``.
        pairs: unordered pairs, named as Direction.pair names them.
        heldout_pairs: further pairs, of which only held-out text is wanted (zero-shot directions).
        train_caps: pair → training segments it may keep; None keeps all.
        keep_out: test sets from elsewhere, by name, that are held out of the training text, too.
    """

    languages: list[LanguageCode]
    pivot: LanguageCode | None = None
    pairs: list[str]
    heldout_pairs: Annotated[list[str], Field(default_factory=list, exclude_if=_is_empty)]
    train_caps: dict[str, Positive | None] = Field(default_factory=dict)
    valid_size: Positive
    heldout_size: Positive
    heldout_min_words: Annotated[int, Field(ge=0)] = 4
    cleaning: Cleaning = Cleaning()
    seed: int
    keep_out: Annotated[dict[str, KeptOut], Field(default_factory=dict, exclude_if=_is_empty)]

    @model_validator(mode="after")
    def _pairs_of_languages(self) -> Self:
        for pair in [*self.pairs, *self.heldout_pairs]:
            direction = Direction.parse(pair)
            if direction.pair != pair:
                raise ValueError(f"pairs: {pair} is written {direction.pair}")
            if not {direction.source, direction.target} <= set(self.languages):
                raise ValueError(f"pairs: {pair} has a language that languages: does not list")
        both = set(self.pairs) & set(self.heldout_pairs)
        if both:
            raise ValueError(f"heldout_pairs: also among pairs: {', '.join(sorted(both))}")
        unknown = set(self.train_caps) - set(self.pairs)
        if unknown:
            raise ValueError(f"train_caps: not among pairs: {', '.join(sorted(unknown))}")
        return self

    @property
    def reference_language(self) -> str:
        """The language in which held-out segments are measured: the pivot, else the first language."""
        return self.pivot if self.pivot in self.languages else self.languages[0]

    def split_pairs(self) -> list[tuple[str, str, str]]:
        """Return (pair, first language, second language) for every pair."""
        return [(pair, *pair_languages(pair)) for pair in self.pairs]


def corpus_spec_of(config: Config) -> CorpusSpec:
    """Return the corpus stage's part of the configuration."""
    pairs = config.pairs()
    return CorpusSpec(
        languages=config.languages,
        pivot=config.pivot if config.pivot in config.languages else None,
        pairs=pairs,
        heldout_pairs=config.given_heldout_pairs(),
        train_caps={pair: config.train_cap(pair) for pair in pairs},
        valid_size=config.corpus.valid_size,
        heldout_size=config.corpus.heldout_size,
        heldout_min_words=config.corpus.heldout_min_words,
        cleaning=config.corpus.cleaning,
        seed=config.seed,
        keep_out={
            name: KeptOut(
                source=config.testsets[name].source,
                path=config.testsets[name].path or f"{config.downloads}/{catalogue_entry('flores200').file}",
                splits=config.testsets[name].splits,
            )
            for name in config.corpus.keep_out
        },
    )
