"""The text that activations are counted on: one direction's, as the model is fed it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from neuron_specialization.directions import Direction
from neuron_specialization.errors import CorpusError, MaskError
from neuron_specialization.formats import data_bin as data

if TYPE_CHECKING:
    from neuron_specialization.checkpoints.checkpoint import Checkpoint


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
