"""fairseq's conventions that its files do not say: special symbols, tags, positions, the mmap format.

Imports neither fairseq nor, before it is needed, torch.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

# The first entries of every dictionary, whose file leaves them out.
SPECIAL = ("<s>", "<pad>", "</s>", "<unk>")
BOS, PAD, EOS, UNK = range(len(SPECIAL))

# fairseq.data.indexed_dataset: what an .idx file begins with, and its codes of integer types
MMAP_MAGIC = b"MMIDIDX\x00\x00"
MMAP_VERSION = 1
MMAP_DTYPES = {1: "<u1", 2: "<i1", 3: "<i2", 4: "<i4", 5: "<i8", 8: "<u2", 9: "<u4", 10: "<u8"}


def tag_of(language: str) -> str:
    """The language tag as a dictionary symbol, fairseq's ``multilingual`` style: ``__de__``."""
    return f"__{language}__"


def sinusoids(rows: int, d_model: int) -> Tensor:
    """float32[rows, d]: sines, then cosines; row PAD is zero, and the first token's row is PAD + 1.

    In fairseq's order of operations, so that the numbers are the same to the bit
    (fairseq/modules/sinusoidal_positional_embedding.py).
    """
    import torch

    half = d_model // 2
    frequencies = torch.exp(torch.arange(half, dtype=torch.float) * -(math.log(10000) / (half - 1)))
    angles = torch.arange(rows, dtype=torch.float).unsqueeze(1) * frequencies.unsqueeze(0)
    table = torch.cat([angles.sin(), angles.cos()], dim=1)
    if d_model % 2:
        table = torch.cat([table, torch.zeros(rows, 1)], dim=1)
    table[PAD] = 0
    return table
