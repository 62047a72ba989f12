"""Which neurons to compute for which sentences of a batch: the cheapest of the equal ways.

A batch of one direction computes the neurons its mask keeps. A mixed batch has two ways:

- *union*: all sentences compute the neurons that any direction keeps, each sentence's mask on top. Free of
  overhead, and already much less than all where the directions agree (encoder layers: most masked neurons
  are masked for every direction).
- *grouped*: the sentences are sorted by direction, and each group computes its own neurons. Least
  arithmetic, but every group gathers its weights and multiplies smaller matrices.

The rule (``choose``) counts both in multiply-adds of token, neuron and model width, with two constants
for the overhead of a group, fitted to times of ``fused_ffn`` with 1 to 16 groups of 32 to 512 tokens at
widths 128 and 512 (`benchmarks/ffn_layer.py` shows where it leads).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from neuron_specialization.transformer.fused_ffn import Neurons, Part
from neuron_specialization.transformer.products import rounded_up

# Neurons are filled up to a multiple of this (a cache line of float32): matrices of odd widths are up to a
# fifth slower to multiply, which would eat most of what a mask saves.
NEURON_MULTIPLE = 16
# what gathering a neuron's weights for a group, and adding up their gradients, costs in tokens computed
TOKENS_A_GATHER = 20
# what a group costs besides, in multiply-adds
MULTIPLY_ADDS_A_GROUP = 1_500_000
# of a union of more than this share all neurons are computed: gathering costs more than leaving out so few
UNION_IS_ALL = 0.95
# grouping must promise this much: sorting and smaller products are not in the count
WORTHWHILE = 0.9


@dataclass(frozen=True)
class Group:
    """Neighbouring sentences of one direction: ``start:stop`` of the sorted batch."""

    direction: int
    start: int
    stop: int


def groups_of(directions: Tensor) -> list[Group]:
    """The groups of a batch once it is sorted by direction.

    Args:
        directions: int64[B], in any order.
    """
    values, counts = torch.unique(directions, return_counts=True)
    groups, start = [], 0
    for direction, count in zip(values.tolist(), counts.tolist(), strict=True):
        groups.append(Group(direction, start, start + count))
        start += count
    return groups


class MaskTable:
    """The masks of one layer for all directions, and everything computed from them once.

    Args:
        masks: bool[directions, d_ff].
        dtype: of the model.
    """

    def __init__(self, masks: Tensor, dtype: torch.dtype) -> None:
        self.width = masks.shape[1]
        self._dtype = dtype
        distinct, inverse = torch.unique(masks, dim=0, return_inverse=True)
        self._masks = distinct
        # direction → number of its mask: directions with equal masks (an encoder's en-de and en-nl) share one
        self.mask_of: list[int] = inverse.tolist()
        self._neurons: dict[int, Neurons] = {}
        self.union = Neurons.of(masks.any(0), dtype, NEURON_MULTIPLE)
        if self.union.count > UNION_IS_ALL * self.width:
            self.union = Neurons(None, self.width, None)  # each sentence has its own mask on top
        within = masks if self.union.index is None else masks[:, self.union.index]
        # float[directions, n]: each direction's mask over the union's neurons
        self.union_rows = within.to(dtype)

    def neurons(self, mask: int) -> Neurons:
        """The neurons of a mask (by its number), made at first use."""
        if mask not in self._neurons:
            self._neurons[mask] = Neurons.of(self._masks[mask], self._dtype, NEURON_MULTIPLE)
        return self._neurons[mask]

    def whole(self, direction: int, rows: int) -> list[Part]:
        """One direction for all rows."""
        return [Part(0, rows, self.neurons(self.mask_of[direction]))]

    def merged(self, groups: Sequence[Group], length: int) -> list[Part]:
        """The parts of a sorted batch [B, length, d]; neighbours with equal masks are one part."""
        parts: list[Part] = []
        for group in groups:
            neurons = self.neurons(self.mask_of[group.direction])
            start, stop = group.start * length, group.stop * length
            if parts and parts[-1].neurons is neurons:
                start = parts.pop().start
            parts.append(Part(start, stop, neurons))
        return parts


def choose(
    layer: MaskTable, groups: Sequence[Group], length: int, width: int, *, bfloat16: bool
) -> list[Part] | None:
    """Return the parts to compute one by one, or None for the union of the masks.

    Args:
        groups: of the batch sorted by direction.
        length: tokens a sentence, padding included.
        width: d, the model's width.
        bfloat16: rows of a product are filled up (see products.py), small groups with them.
    """
    parts = layer.merged(groups, length)
    if len(parts) == 1:
        return parts

    def filled(rows: int) -> int:
        return rounded_up(rows) if bfloat16 else rows

    union = filled(parts[-1].stop) * layer.union.count * width
    grouped = sum(
        (filled(part.stop - part.start) + TOKENS_A_GATHER) * part.neurons.count * width
        + MULTIPLY_ADDS_A_GROUP
        for part in parts
    )
    return parts if grouped < WORTHWHILE * union else None
