"""Reading fairseq's binarised text: equal to fairseq's own readers, and strict."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from neuron_specialization.directions import Direction
from neuron_specialization.errors import CorpusError
from neuron_specialization.formats.data_bin import (
    Sentences,
    dictionary_ids,
    read_parallel,
    split_prefix,
    tagged,
)
from neuron_specialization.formats.fairseq_conventions import EOS, PAD
from neuron_specialization.preprocessing.binarize import write_mmap

TEXTS = [[5, 6, 2], [7, 2], [5, 5, 8, 9, 2], [2], [10, 11, 2]]


def write(prefix: Path, texts: list[list[int]], dtype: type = np.uint16) -> None:
    prefix.parent.mkdir(parents=True, exist_ok=True)
    sizes = np.array([len(text) for text in texts], dtype=np.int32)
    write_mmap(prefix, np.array([token for text in texts for token in text], dtype=dtype), sizes)


@pytest.mark.parametrize("dtype", [np.uint16, np.uint32])
def test_sentences_are_those_fairseq_reads(tmp_path: Path, dtype: type) -> None:
    from fairseq.data.indexed_dataset import MMapIndexedDataset

    write(tmp_path / "x", TEXTS, dtype)
    ours, theirs = Sentences.read(tmp_path / "x"), MMapIndexedDataset(str(tmp_path / "x"))
    assert len(ours) == len(theirs) == len(TEXTS)
    assert (
        [ours[i].tolist() for i in range(len(ours))]
        == [theirs[i].tolist() for i in range(len(theirs))]
        == TEXTS
    )


@pytest.mark.parametrize("tag", [90, None])
def test_a_batch_is_what_fairseqs_collater_makes(tmp_path: Path, tag: int | None) -> None:
    from fairseq.data.data_utils import collate_tokens

    write(tmp_path / "x", TEXTS)
    sentences = Sentences.read(tmp_path / "x")
    indices = np.array([2, 0, 3, 4])
    examples = [torch.tensor(([] if tag is None else [tag]) + TEXTS[i]) for i in indices]
    for shift in (False, True):
        tokens, real = tagged(sentences, indices, first=tag, shift=shift)
        expected = collate_tokens(examples, PAD, EOS, move_eos_to_beginning=shift)
        assert tokens.tolist() == expected.tolist()
        assert (real == (tokens != PAD)).all()


@pytest.mark.parametrize(
    "damage", ["magic", "version", "type", "short", "long", "beyond", "negative", "no text", "empty sentence"]
)
def test_damaged_files_are_refused(tmp_path: Path, damage: str) -> None:
    write(tmp_path / "x", TEXTS)
    path = tmp_path / "x.idx"
    data = bytearray(path.read_bytes())
    match damage:
        case "magic":
            data[0] ^= 1
        case "version":
            data[9] = 2
        case "type":
            data[17] = 7
        case "short":
            data = data[:-1]
        case "long":
            data += b"\0"
        case "beyond":
            data[26:30] = struct.pack("<i", 10_000)
        case "negative":
            data[-8:] = struct.pack("<q", -2)
        case "no text":
            (tmp_path / "x.bin").unlink()
        case "empty sentence":
            data[26:30] = struct.pack("<i", 0)
    path.write_bytes(bytes(data))
    with pytest.raises(CorpusError, match=r"x\.(idx|bin)"):
        Sentences.read(tmp_path / "x")


@pytest.mark.parametrize("pair", ["de-en", "en-de"])
@pytest.mark.parametrize("folder", ["", "shard0"])
def test_either_order_of_the_pair_and_the_first_shard_are_found(
    tmp_path: Path, pair: str, folder: str
) -> None:
    for code, texts in (("de", TEXTS), ("en", TEXTS[::-1])):
        write(tmp_path / folder / f"valid.{pair}.{code}", texts)
    source, target = read_parallel(tmp_path, "valid", Direction("de", "en"))
    assert source[0].tolist() == TEXTS[0] and target[0].tolist() == TEXTS[-1]
    source, target = read_parallel(f"{tmp_path}:{tmp_path}/other", "valid", Direction("en", "de"))
    assert source[0].tolist() == TEXTS[-1] and target[0].tolist() == TEXTS[0]


def test_missing_misaligned_and_empty_text_is_named(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="de-en has no valid text"):
        split_prefix(tmp_path, "valid", Direction("de", "en"))
    write(tmp_path / "valid.de-en.de", TEXTS)
    write(tmp_path / "valid.de-en.en", TEXTS[:2])
    with pytest.raises(CorpusError, match="de-en has 5 source and 2 target"):
        read_parallel(tmp_path, "valid", Direction("de", "en"))
    for code in ("de", "en"):
        write(tmp_path / f"valid.de-en.{code}", [])
    with pytest.raises(CorpusError, match="de-en is empty"):
        read_parallel(tmp_path, "valid", Direction("de", "en"))


@pytest.mark.parametrize("style", ["multilingual", "mbart"])
def test_ids_of_the_tags_are_fairseqs(tmp_path: Path, style: str) -> None:
    from fairseq.data import Dictionary
    from fairseq.data.multilingual.multilingual_utils import augment_dictionary, get_lang_tok

    # one tag is in the file already, and one entry is written over
    lines = ["▁the 100", "a 50", "__sv__ 1", "[sv] 1", "▁of 7", "a 3 #fairseq:overwrite", "\u2028x 1"]
    (tmp_path / "dict.en.txt").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    languages = ["en", "de", "sv"]
    theirs = Dictionary.load(str(tmp_path / "dict.en.txt"))
    augment_dictionary(theirs, languages, style)
    size, tags = dictionary_ids(tmp_path, languages, style)
    assert size == len(theirs)
    assert tags == {code: theirs.index(get_lang_tok(code, style)) for code in languages}


def test_a_bad_dictionary_is_refused_with_its_line(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="dictionary is missing"):
        dictionary_ids(tmp_path, ["en"], "multilingual")
    for text, message in (("a 1\nb\n", "line 2"), ("a 1\na 2\n", "'a' comes twice"), ("a x\n", "line 1")):
        (tmp_path / "dict.en.txt").write_text(text, encoding="utf-8")
        with pytest.raises(CorpusError, match=message):
            dictionary_ids(tmp_path, ["en"], "multilingual")
