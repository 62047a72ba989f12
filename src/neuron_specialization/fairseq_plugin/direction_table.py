"""Which direction a sentence is of, by its language tags."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from neuron_specialization.formats.fairseq_conventions import tag_of


def source_tags(source: Tensor, pad: int) -> Tensor:
    """The first token of each sentence that is not padding: int64[B, S] → int64[B]."""
    first = source.ne(pad).int().argmax(dim=1, keepdim=True)
    return source.gather(1, first).squeeze(1)


class DirectionTable(nn.Module):
    """Finds directions by tags. Its tables go to the device of the text, once, and are in no checkpoint.

    Args:
        directions: such as ``de-en``; their numbers are their places.
        languages: all languages that have a tag.
        dictionary: fairseq's, with the tags.
    """

    _language: Tensor
    _direction: Tensor

    def __init__(self, directions: Sequence[str], languages: Sequence[str], dictionary: Any) -> None:
        super().__init__()
        self.directions, self._pad = list(directions), dictionary.pad()
        number = {code: index for index, code in enumerate(languages)}
        # the last number: no language
        language = torch.full((len(dictionary),), len(languages), dtype=torch.long)
        for code, index in number.items():
            token = dictionary.index(tag_of(code))
            if token != dictionary.unk():
                language[token] = index
        direction = torch.full((len(languages) + 1, len(languages) + 1), -1, dtype=torch.long)
        for index, name in enumerate(self.directions):
            source, target = name.split("-")
            direction[number[source], number[target]] = index
        self.register_buffer("_language", language, persistent=False)
        self.register_buffer("_direction", direction, persistent=False)

    def forward(self, source: Tensor, target_tags: Tensor) -> Tensor:
        """Return the direction of each sentence.

        Args:
            source: int64[B, S]; the first token that is not padding is the tag.
            target_tags: int64[B].

        Returns:
            int64[B]; -1 where the tags are of none of the directions.
        """
        if self._language.device != source.device:
            # fairseq moves a criterion to a GPU only where it trains by one process, or has parameters
            self.to(source.device)
        return self._direction[self._language[source_tags(source, self._pad)], self._language[target_tags]]
