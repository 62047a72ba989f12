"""What is taken for fairseq's conventions is what fairseq has."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from neuron_specialization.formats.fairseq_conventions import (
    BOS,
    EOS,
    MMAP_DTYPES,
    MMAP_MAGIC,
    PAD,
    SPECIAL,
    UNK,
    sinusoids,
    tag_of,
)


def test_special_symbols() -> None:
    from fairseq.data import Dictionary

    dictionary = Dictionary()
    assert tuple(dictionary.symbols) == SPECIAL
    assert (dictionary.bos(), dictionary.pad(), dictionary.eos(), dictionary.unk()) == (BOS, PAD, EOS, UNK)


def test_the_mmap_format() -> None:
    from fairseq.data.indexed_dataset import MMapIndexedDataset, _code_to_dtype

    assert MMapIndexedDataset.Index._HDR_MAGIC == MMAP_MAGIC
    # 6 and 7 are floats
    integers = {code: np.dtype(kind) for code, kind in _code_to_dtype.items() if code not in (6, 7)}
    assert {code: np.dtype(name) for code, name in MMAP_DTYPES.items()} == integers


def test_tags() -> None:
    from fairseq.data.multilingual.multilingual_utils import get_lang_tok

    assert tag_of("de") == get_lang_tok("de", "multilingual")


@pytest.mark.parametrize("d_model", [8, 9, 512])
def test_sinusoids(d_model: int) -> None:
    from fairseq.modules import SinusoidalPositionalEmbedding

    assert torch.equal(
        sinusoids(300, d_model), SinusoidalPositionalEmbedding.get_embedding(300, d_model, PAD)
    )
