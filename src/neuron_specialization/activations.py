"""Neuron activations: how often each FFN neuron fires while a model reads a direction's text.

Teacher-forced passes of the trained baseline over the validation text (upstream ``get_neurons.py``), fed
exactly as in training: source tag first on the encoder side, ``</s>`` and the target tag first on the
decoder side. A neuron fires at a position when its ReLU output is > 0.

Two ways of counting:

- *padding excluded* (default): only real tokens (tags and ``</s>`` among them) count. Arithmetic is in
  float64, so that the counts are a property of model and text: in float32 a sum near 0 falls on either
  side of it depending on batch size, thread number and machine (``activation_counting``).
- *padding counted* (parity): as the reference counts, padding positions too. The counts then depend
  on the batches, so batches and arithmetic are fairseq's own (``activation_parity``).

This module imports no torch: it holds the files and the choice between the two.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from neuron_specialization import data_bin as data
from neuron_specialization.directions import Direction
from neuron_specialization.errors import CorpusError, MaskError
from neuron_specialization.layer_tensors import read_layers, write_layers

if TYPE_CHECKING:
    from neuron_specialization.checkpoints import Checkpoint

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


@dataclass(frozen=True)
class DirectionText:
    """What is read for one direction.

    Attributes:
        direction: the direction.
        source, target: the two sides, without tags.
        source_tag, target_tag: ids put in front; None for none.
        usable: int64[n], the sentences short enough for the model.
    """

    direction: Direction
    source: data.Sentences
    target: data.Sentences
    source_tag: int | None
    target_tag: int | None
    usable: data.Ints

    @property
    def positions(self) -> dict[str, int]:
        """Real tokens of what is usable, with tags: ``{"encoder": n, "decoder": n}``."""
        sides = {"encoder": (self.source, self.source_tag), "decoder": (self.target, self.target_tag)}
        return {
            name: int(side.lengths[self.usable].sum()) + len(self.usable) * (tag is not None)
            for name, (side, tag) in sides.items()
        }

    @property
    def source_key(self) -> str:
        """Equal for directions whose encoder sees the very same input, sentence by sentence."""
        digest = hashlib.sha256(f"{self.source_tag} {len(self.source)}".encode())
        for part in (self.usable, self.source.lengths, self.source.starts, self.source.tokens):
            digest.update(np.ascontiguousarray(part).tobytes())
        return digest.hexdigest()


def open_texts(
    checkpoint: Checkpoint,
    data_bin: str | Path,
    directions: Sequence[str],
    *,
    split: str = "valid",
    languages: Sequence[str] | None = None,
) -> list[DirectionText]:
    """Open the text of all directions, checking everything that can be checked before a pass is made.

    Args:
        checkpoint: the model; its languages fix the ids of the tags.
        data_bin: fairseq's binarised folder (or its shards joined by ``:``).
        directions: such as ``de-en``.
        split: ``valid``, ``train`` or another split of the data-bin.
        languages: all languages of the model in its order, for a checkpoint that does not name them.

    Raises:
        MaskError: unknown direction, other languages, or a dictionary of another model.
        CorpusError: missing, empty, misaligned or damaged text, naming the direction.
    """
    known = list(languages or checkpoint.languages)
    if not known:
        raise MaskError(
            "the checkpoint does not name its languages", where=checkpoint.path, hint="give --langs en,de,…"
        )
    if checkpoint.languages and known != checkpoint.languages:
        raise MaskError(
            f"--langs {','.join(known)} are not the model's languages, or not in its order",
            where=checkpoint.path,
            hint=f"leave --langs out, or give {','.join(checkpoint.languages)}",
        )
    size, tags = data.dictionary_ids(data_bin, known, str(checkpoint.tags.get("lang_tok_style")))
    if size != checkpoint.vocabulary_size:
        raise MaskError(
            f"dictionary and language tags make {size} entries, the model has {checkpoint.vocabulary_size}",
            where=data_bin,
            cause="the data-bin or the languages are another model's",
        )
    texts = []
    for name in directions:
        direction = Direction.parse(name)
        for code in (direction.source, direction.target):
            if code not in tags:
                raise MaskError(
                    f"the model knows no language {code!r}", where=name, hint=f"it knows {', '.join(known)}"
                )
        source, target = data.read_parallel(data_bin, split, direction)
        for side in (source, target):
            if int(side.tokens.max()) >= size:
                raise CorpusError(
                    f"the {split} text has token {int(side.tokens.max())}, the dictionary {size} entries",
                    where=name,
                    cause="it was binarised with another dictionary",
                )
        encoder_tag = checkpoint.tags.get("encoder_langtok")
        source_tag = {"src": tags[direction.source], "tgt": tags[direction.target]}.get(str(encoder_tag))
        target_tag = tags[direction.target] if checkpoint.tags.get("decoder_langtok") else None
        fits = (source.lengths + (source_tag is not None) <= checkpoint.settings["max_source_positions"]) & (
            target.lengths + (target_tag is not None) <= checkpoint.settings["max_target_positions"]
        )
        if not fits.any():
            raise CorpusError(f"every sentence of the {split} text is too long for the model", where=name)
        texts.append(DirectionText(direction, source, target, source_tag, target_tag, np.flatnonzero(fits)))
    return texts


def count_activations(
    checkpoint: Checkpoint,
    texts: Sequence[DirectionText],
    *,
    max_tokens: int,
    count_padding: bool = False,
    precision: Precision = "float64",
    device: str = "auto",
    on_batch: Callable[[int], None] = lambda positions: None,
) -> Iterator[tuple[str, Counts]]:
    """Yield each direction's counts as soon as they are known; order may differ from ``texts``.

    Args:
        checkpoint: the baseline.
        texts: from ``open_texts``.
        max_tokens: upper bound on sentences × longest sentence of a batch. Changes the result only with
            ``count_padding``.
        count_padding: count as the reference does (float32, fairseq's batches).
        precision: of the arithmetic with padding excluded.
        device: ``auto`` (a GPU if there is one), ``cpu``, ``cuda``, ….
        on_batch: told the number of real tokens read, after each batch.

    Raises:
        MaskError: the activations are not numbers, or the model is a specialised one.
    """
    if checkpoint.masks or checkpoint.mask_files:
        raise MaskError(
            "this model is specialised already: activations are counted on the baseline",
            where=checkpoint.path,
        )
    if count_padding:
        from neuron_specialization.activation_parity import count_as_reference

        return count_as_reference(checkpoint, texts, max_tokens=max_tokens, device=device, on_batch=on_batch)
    from neuron_specialization.activation_counting import count_real_tokens

    return count_real_tokens(
        checkpoint,
        texts,
        max_tokens=max_tokens,
        precision=precision,
        device=device,
        on_batch=on_batch,
    )


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
