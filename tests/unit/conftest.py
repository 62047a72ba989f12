"""A small corpus and its vocabulary, made once for all unit tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fakes.corpora import corpus_spec, make_parallel_wheel, vocabulary_spec


@pytest.fixture(scope="session")
def small_corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished corpus folder of en, de, ru with 300 messages. Read it only."""
    from neuron_specialization.corpora.prepare import prepare_corpus

    folder = tmp_path_factory.mktemp("small")
    wheel = make_parallel_wheel(folder / "small.whl", 300)
    prepare_corpus("homeassistant", wheel, corpus_spec(), folder / "corpus")
    return folder / "corpus"


@pytest.fixture(scope="session")
def trained_vocabulary(small_corpus: Path) -> Path:
    """The vocabulary folder of ``small_corpus``. Read it only."""
    from neuron_specialization.preprocessing.vocabulary import train_vocabulary

    folder = small_corpus.parent / "vocabulary"
    train_vocabulary(small_corpus, vocabulary_spec(), folder)
    return folder
