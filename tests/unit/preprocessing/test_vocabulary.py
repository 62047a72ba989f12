"""The joint vocabulary: balanced sampling, exact size, fairseq's ids, clear refusals."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from neuron_specialization.config import load_config
from neuron_specialization.corpora.layout import CorpusFolder
from neuron_specialization.corpora.prepare import prepare_corpus
from neuron_specialization.errors import CorpusError
from neuron_specialization.preprocessing.pieces import Segmenter
from neuron_specialization.preprocessing.vocabulary import (
    sampled_size,
    train_vocabulary,
    training_sentences,
    vocabulary_spec_of,
)
from tests.fakes.corpora import corpus_spec, local_files, vocabulary_spec, write_text


def test_specials_have_fairseqs_ids_and_stay_out_of_the_dictionary(trained_vocabulary: Path) -> None:
    pieces = Segmenter(trained_vocabulary / "spm.model").pieces
    assert pieces[:4] == ["<s>", "<pad>", "</s>", "<unk>"] and len(pieces) == 90
    lines = (trained_vocabulary / "dict.txt").read_text(encoding="utf-8").splitlines()
    assert lines == [f"{piece} 100" for piece in pieces[4:]]


def test_all_characters_of_the_training_text_are_spelled(
    small_corpus: Path, trained_vocabulary: Path
) -> None:
    segmenter = Segmenter(trained_vocabulary / "spm.model")
    corpus = CorpusFolder(small_corpus)
    lines = [
        line
        for pair in corpus.pairs
        for code in pair.split("-")
        for line in corpus.lines("train", pair, code)
    ]
    unknown = segmenter.pieces.index("<unk>")
    assert not any(unknown in ids for ids in segmenter.encode_ids(lines))


@pytest.mark.parametrize("model_type", ["unigram", "bpe"])
def test_same_corpus_and_spec_same_bytes(small_corpus: Path, tmp_path: Path, model_type: str) -> None:
    spec = vocabulary_spec(model_type=model_type)
    for name in ("one", "two"):
        train_vocabulary(small_corpus, spec, tmp_path / name)
    for name in ("spm.model", "dict.txt"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


@pytest.mark.parametrize("model_type", ["unigram", "bpe"])
def test_bounds_are_named_and_true(small_corpus: Path, tmp_path: Path, model_type: str) -> None:
    with pytest.raises(CorpusError, match="is too large") as above:
        train_vocabulary(small_corpus, vocabulary_spec(5000, model_type=model_type), tmp_path)
    with pytest.raises(CorpusError, match="is too small") as below:
        train_vocabulary(small_corpus, vocabulary_spec(32, model_type=model_type), tmp_path)
    assert not list(tmp_path.iterdir())
    for error in (above, below):
        bound = re.search(r"set vocabulary\.size to (\d+)", str(error.value))
        assert bound
        made = train_vocabulary(
            small_corpus, vocabulary_spec(int(bound[1]), model_type=model_type), tmp_path / "v"
        )
        assert made["size"] == int(bound[1])
    lowest = int(re.search(r"alone need (\d+)", str(below.value))[1])  # type: ignore[index]
    with pytest.raises(CorpusError, match="is too small"):
        train_vocabulary(small_corpus, vocabulary_spec(lowest - 1, model_type=model_type), tmp_path)


def test_sampled_size_follows_the_temperature() -> None:
    counts = {"en": 40_000, "de": 10_000, "pl": 400, "xx": 0}
    assert sampled_size(counts, 10**6, 1) == counts
    assert sampled_size(counts, 10**6, 2) == {"en": 40_000, "de": 20_000, "pl": 4_000, "xx": 0}
    assert sampled_size(counts, 8_000, 2) == {"en": 8_000, "de": 4_000, "pl": 800, "xx": 0}
    assert sampled_size({"xx": 0}, 10, 2) == {"xx": 0}


def test_sentences_are_distinct_then_repeated_evenly(tmp_path: Path) -> None:
    files = local_files(train=400)
    for code in ("en", "ru"):
        files[f"train.en-ru.{code}"] = files[f"train.en-ru.{code}"][:4]
    write_text(tmp_path / "text", files)
    prepare_corpus("local", tmp_path / "text", corpus_spec(), tmp_path / "c")
    sentences = list(training_sentences(CorpusFolder(tmp_path / "c"), vocabulary_spec()))
    russian = [line for line in sentences if re.search("[а-я]", line)]
    # 400 distinct in en and de; ru has 4, T = 2: 400 * (4 / 400) ** (1/2) = 40
    assert len(russian) == 40 and {russian.count(line) for line in russian} == {10}
    # English text of two pairs is counted once
    assert len(sentences) == 400 + 400 + 40
    limited = list(training_sentences(CorpusFolder(tmp_path / "c"), vocabulary_spec(sample_size=100)))
    assert len(limited) == 100 + 100 + 10 and set(limited) <= set(sentences)
    reseeded = list(
        training_sentences(CorpusFolder(tmp_path / "c"), vocabulary_spec(seed=2, sample_size=100))
    )
    assert limited != reseeded


@pytest.mark.parametrize("model_type", ["unigram", "bpe"])
def test_text_that_looks_like_markup_does_not_break_the_dictionary(tmp_path: Path, model_type: str) -> None:
    files = local_files()
    for code in ("de", "en"):
        lines = [f"<s> {code} </s> <unk> <pad> ▁ __de__ x{n} #fairseq:overwrite" for n in range(200)]
        files[f"train.de-en.{code}"] = lines
    write_text(tmp_path / "text", files)
    prepare_corpus("local", tmp_path / "text", corpus_spec(), tmp_path / "c")
    train_vocabulary(tmp_path / "c", vocabulary_spec(80, model_type=model_type), tmp_path / "v")
    pieces = [
        line.split(" ")[0] for line in (tmp_path / "v/dict.txt").read_text(encoding="utf-8").splitlines()
    ]
    assert len(pieces) == len(set(pieces)) == 76
    segmenter = Segmenter(tmp_path / "v/spm.model")
    for text in ("<s> </s> <unk> <pad>", "x<s>1", "</pad>"):
        encoded = segmenter.encode_ids([text])[0]
        assert not any(segmenter.special[index] for index in encoded), text
        assert segmenter.decode([segmenter.encode([text])[0]]) == [text]
    # a special or a language tag among the text's pieces would let text steer the model
    assert not {"<s>", "</s>", "<pad>", "<unk>", "__de__", "__en__", "__ru__"} & set(pieces)


def test_no_training_text(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="no corpus here"):
        train_vocabulary(tmp_path, vocabulary_spec(), tmp_path / "v")


def test_spec_of_the_default_configuration(repository: Path) -> None:
    config = load_config(repository / "config.yaml")
    spec = vocabulary_spec_of(config)
    assert spec.vocabulary == config.vocabulary and spec.seed == config.seed
