"""Binarised text is what fairseq itself would have written, and reads."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from neuron_specialization.corpora.layout import CorpusFolder
from neuron_specialization.errors import CorpusError
from neuron_specialization.preprocessing.binarize import (
    Encoder,
    binarize_corpus,
    read_dictionary,
    token_dtype,
    write_mmap,
)
from neuron_specialization.preprocessing.pieces import Segmenter
from neuron_specialization.storage.files import read_lines, sha256_of


@pytest.fixture(scope="module")
def data_bin(small_corpus: Path, trained_vocabulary: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("binarized")
    binarize_corpus(small_corpus, trained_vocabulary, folder)
    return folder


def test_manifest_and_files(small_corpus: Path, trained_vocabulary: Path, data_bin: Path) -> None:
    manifest = json.loads((data_bin / "manifest.json").read_text())
    present = {path.name for path in data_bin.iterdir()} - {"manifest.json"}
    assert set(manifest["files"]) == present
    assert all(sha256_of(data_bin / name) == digest for name, digest in manifest["files"].items())
    assert {f"dict.{code}.txt" for code in ("de", "en", "ru")} <= present
    assert (manifest["vocabulary_size"], manifest["shards"], manifest["pairs"]) == (90, 1, ["de-en", "en-ru"])
    segmenter = Segmenter(trained_vocabulary / "spm.model")
    lines = read_lines(small_corpus / "heldout/en-ru.ru")
    lengths = [len(pieces) + 1 for pieces in segmenter.encode(lines)]
    counts = manifest["splits"]["heldout"]["en-ru"]
    assert counts["segments"] == 10
    assert counts["tokens"]["ru"] == sum(lengths) and counts["longest"]["ru"] == max(lengths)
    assert counts["unknown"] == {"en": 0, "ru": 0}


def test_fairseq_reads_back_every_segment(
    small_corpus: Path, trained_vocabulary: Path, data_bin: Path
) -> None:
    from fairseq.data import Dictionary, data_utils
    from fairseq.data.multilingual.multilingual_data_manager import MultilingualDatasetManager

    segmenter = Segmenter(trained_vocabulary / "spm.model")
    corpus = CorpusFolder(small_corpus)
    for split in ("train", "valid", "heldout"):
        for pair in corpus.pairs:
            source, target = pair.split("-")
            for code in (source, target):
                assert MultilingualDatasetManager.split_exists(
                    split, source, target, code, str(data_bin), "mmap"
                )
                dictionary = Dictionary.load(str(data_bin / f"dict.{code}.txt"))
                assert len(dictionary) == 90
                dataset = data_utils.load_indexed_dataset(
                    str(data_bin / f"{split}.{pair}.{code}"), dictionary
                )
                lines = corpus.lines(split, pair, code)
                pieces = [dictionary.string(dataset[index]).split() for index in range(len(dataset))]
                assert segmenter.decode(pieces) == lines
                assert all(ids[-1] == dictionary.eos() for ids in dataset)


@pytest.mark.parametrize("dtype", [np.uint16, np.uint32])
@pytest.mark.parametrize("sizes", [[3, 1, 70_000], [], [1]])
def test_bytes_are_those_of_fairseqs_builder(tmp_path: Path, dtype: type, sizes: list[int]) -> None:
    import torch
    from fairseq.data.indexed_dataset import MMapIndexedDatasetBuilder

    items = [torch.arange(size) % 60_000 for size in sizes]
    builder = MMapIndexedDatasetBuilder(str(tmp_path / "theirs.bin"), dtype=dtype)
    for item in items:
        builder.add_item(item)
    builder.finalize(str(tmp_path / "theirs.idx"))
    tokens = np.concatenate([np.zeros(0, dtype), *(item.numpy().astype(dtype) for item in items)])
    write_mmap(tmp_path / "ours", tokens, np.array(sizes, np.int32))
    for suffix in ("bin", "idx"):
        assert (tmp_path / f"ours.{suffix}").read_bytes() == (tmp_path / f"theirs.{suffix}").read_bytes()


def test_sizes_must_fit_the_tokens(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="sizes sum to 3, there are 4"):
        write_mmap(tmp_path / "x", np.zeros(4, np.uint16), np.array([1, 2], np.int32))
    assert not list(tmp_path.iterdir())


def test_dtype_is_the_one_fairseq_chooses() -> None:
    from fairseq.data.indexed_dataset import best_fitting_int_dtype

    for size in (100, 65_499, 65_500, 70_000):
        assert token_dtype(size) == np.dtype(best_fitting_int_dtype(size))


def test_encoder_closes_each_line_and_counts_unknowns(trained_vocabulary: Path) -> None:
    encoder = Encoder(trained_vocabulary, languages=3)
    tokens, sizes, unknown = encoder.encode(["light door", "", "灯 door 灯"])
    assert tokens.dtype == np.uint16 and sizes.dtype == np.int32
    assert int(sizes.sum()) == len(tokens) and sizes[1] == 1
    assert list(tokens[np.cumsum(sizes) - 1]) == [2, 2, 2]
    assert (tokens == 3).sum() == unknown == 2
    assert 0 not in tokens and 1 not in tokens
    empty, no_sizes, none = encoder.encode([])
    assert (len(empty), len(no_sizes), none) == (0, 0, 0)


def test_ids_follow_the_dictionary_not_the_model(trained_vocabulary: Path, tmp_path: Path) -> None:
    shutil.copy(trained_vocabulary / "spm.model", tmp_path)
    lines = read_lines(trained_vocabulary / "dict.txt")
    (tmp_path / "dict.txt").write_text("".join(f"{line}\n" for line in reversed(lines)), encoding="utf-8")
    entries = read_dictionary(tmp_path / "dict.txt")
    tokens, _, _ = Encoder(tmp_path, 3).encode(["light door"])
    pieces = Segmenter(tmp_path / "spm.model").encode(["light door"])[0]
    assert [entries[index] for index in tokens] == [*pieces, "</s>"]


def test_model_and_dictionary_of_different_runs_are_refused(trained_vocabulary: Path, tmp_path: Path) -> None:
    shutil.copy(trained_vocabulary / "spm.model", tmp_path)
    lines = read_lines(trained_vocabulary / "dict.txt")
    (tmp_path / "dict.txt").write_text("".join(f"{line}\n" for line in lines[:-1]), encoding="utf-8")
    with pytest.raises(CorpusError, match=r"spm\.model and dict\.txt differ in 1 pieces"):
        Encoder(tmp_path, 3)
    (tmp_path / "dict.txt").write_text("".join(f"{line}\n" for line in [*lines, lines[0]]), encoding="utf-8")
    with pytest.raises(CorpusError, match="comes twice"):
        Encoder(tmp_path, 3)
    (tmp_path / "dict.txt").write_text("piece without count\n", encoding="utf-8")
    with pytest.raises(CorpusError, match="line 1"):
        Encoder(tmp_path, 3)


def test_a_changed_corpus_is_refused(small_corpus: Path, trained_vocabulary: Path, tmp_path: Path) -> None:
    shutil.copytree(small_corpus, tmp_path / "c")
    (tmp_path / "c/valid/de-en.de").write_text("nur eine Zeile\n")
    with pytest.raises(CorpusError, match=r"valid/de-en\.de"):
        binarize_corpus(tmp_path / "c", trained_vocabulary, tmp_path / "b")
    assert not (tmp_path / "b/manifest.json").exists()


def test_same_input_same_bytes(
    small_corpus: Path, trained_vocabulary: Path, data_bin: Path, tmp_path: Path
) -> None:
    (tmp_path / "manifest.json").write_text('{"files": {"train.old.de.bin": "0", "../outside": "0"}}')
    (tmp_path / "train.old.de.bin").write_bytes(b"left by an earlier run")
    binarize_corpus(small_corpus, trained_vocabulary, tmp_path)
    for path in data_bin.iterdir():
        assert (tmp_path / path.name).read_bytes() == path.read_bytes()
    assert not (tmp_path / "train.old.de.bin").exists()
