"""The activations of one direction, and the file they live in."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from neuron_specialization.errors import MaskError
from neuron_specialization.storage.layer_tensors import read_layers, write_layers

CountVector = NDArray[np.int64]
Precision = Literal["float64", "float32"]


@dataclass(frozen=True)
class Counts:
    """The activations of one direction.

    Attributes:
        layers: layer name → int64[d_ff].
        positions: positions counted: ``{"encoder": n, "decoder": n}``.
        sentences: sentence pairs read.
        skipped: sentence pairs left out: longer than the model's positions, or not in any batch.
    """

    layers: Mapping[str, CountVector]
    positions: Mapping[str, int]
    sentences: int
    skipped: int


def write_activations(path: str | Path, counts: Counts, metadata: Mapping[str, str]) -> None:
    """Write one direction's counts: int64[d_ff] per layer, and how they came about as metadata."""
    own = {
        "positions": json.dumps(dict(counts.positions), sort_keys=True),
        "sentences": str(counts.sentences),
        "skipped": str(counts.skipped),
    }
    write_layers(path, counts.layers, {**own, **metadata})


def read_activations(path: str | Path) -> tuple[dict[str, CountVector], dict[str, str]]:
    """Read one direction's counts and metadata.

    Raises:
        MaskError: missing, damaged or foreign file, or a negative count.
    """
    layers, metadata = read_layers(path, ("I64",))
    for name, counts in layers.items():
        if counts.min() < 0:
            raise MaskError(f"{name} has a negative count", where=path, cause="the file is damaged")
    return layers, metadata
