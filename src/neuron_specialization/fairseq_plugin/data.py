"""Batches straight from the memory-mapped text, and batches of one direction.

fairseq assembles a batch sentence by sentence through five layers of dataset objects. ``PackedPairs``
takes the same sentences (the inner dataset still decides sampling, sizes and order) and copies
them from the memory maps into the padded matrices with a few numpy calls. The batches are the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from fairseq.data import ConcatDataset, FairseqDataset, LanguagePairDataset, PrependTokenDataset
from fairseq.data.indexed_dataset import MMapIndexedDataset
from fairseq.data.multilingual.sampled_multi_dataset import SampledMultiDataset
from fairseq.data.multilingual.sampled_multi_epoch_dataset import SampledMultiEpochDataset
from numpy.typing import NDArray

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class _Side:
    """One side of one direction: where its sentences lie in the memory map, and its language tag."""

    tokens: NDArray[Any]  # [all tokens of the file], each sentence ends in </s>
    starts: Ints  # [sentences]
    lengths: Ints  # [sentences], with </s>, without the tag
    tag: int

    @classmethod
    def of(cls, dataset: Any) -> _Side | None:
        """Unwrap ``tag + memory-mapped sentences``; None for any other arrangement."""
        if type(dataset) is not PrependTokenDataset or dataset.token is None:
            return None
        stored = dataset.dataset
        if type(stored) is not MMapIndexedDataset:
            return None
        index = stored._index
        tokens = np.frombuffer(stored._bin_buffer, dtype=index.dtype)
        starts = np.asarray(index._pointers, dtype=np.int64) // tokens.itemsize
        return cls(tokens, starts, np.asarray(index.sizes, dtype=np.int64), int(dataset.token))


def _place(matrix: Ints, rows: Ints, offsets: Ints, side: _Side, sentences: Ints) -> None:
    """Copy sentences into rows of the matrix, each from its column offset on."""
    lengths = side.lengths[sentences]
    ends = np.cumsum(lengths)
    within = np.arange(int(ends[-1])) - np.repeat(ends - lengths, lengths)
    matrix[np.repeat(rows, lengths), np.repeat(offsets, lengths) + within] = side.tokens[
        np.repeat(side.starts[sentences], lengths) + within
    ]


class PackedPairs(FairseqDataset):
    """A multilingual dataset whose batches are assembled in one go.

    Args:
        inner: fairseq's sampled (training) or concatenated (validation) dataset.
        pairs: its datasets, one a direction, in the order of ``lang_pairs``.
        pad, eos: dictionary indices.
        single_direction: batches hold one direction only, and say which (``net_input.direction``).
    """

    def __init__(
        self, inner: Any, pairs: list[tuple[_Side, _Side]], *, pad: int, eos: int, single_direction: bool
    ) -> None:
        self.inner, self.pairs = inner, pairs
        self.pad, self.eos = pad, eos
        self.single_direction = single_direction

    @classmethod
    def wrap(cls, inner: Any, *, pad: int, eos: int, single_direction: bool) -> PackedPairs | None:
        """Wrap a dataset; None where it is not made of tagged memory-mapped pairs, padded as here."""
        if not isinstance(inner, SampledMultiDataset | ConcatDataset):
            return None
        if isinstance(inner, ConcatDataset) and set(inner.sample_ratios) != {1}:
            return None
        pairs = []
        for dataset in inner.datasets:
            if type(dataset) is not LanguagePairDataset:
                return None
            if dataset.left_pad_target or not dataset.left_pad_source:
                return None
            source, target = _Side.of(dataset.src), _Side.of(dataset.tgt)
            if source is None or target is None:
                return None
            pairs.append((source, target))
        return cls(inner, pairs, pad=pad, eos=eos, single_direction=single_direction)

    # ---- which sentence an index means ----

    def locate(self, indices: Ints) -> tuple[Ints, Ints]:
        """Return (direction number, sentence number within it) of each index, both int64[n]."""
        inner = self.inner
        if isinstance(inner, SampledMultiEpochDataset):
            indices = np.asarray(inner._random_global_indices)[inner._current_epoch_start_index + indices]
        ends = np.asarray(
            inner.cumulative_sizes if isinstance(inner, ConcatDataset) else inner.cumulated_sizes
        )
        direction = np.searchsorted(ends, indices, side="right")
        if isinstance(inner, ConcatDataset):
            return direction, indices - np.where(direction > 0, ends[direction - 1], 0)
        return direction, np.asarray(inner._cur_indices)[indices]

    # ---- what fairseq asks of a dataset; all but the batch itself is the inner dataset's answer ----

    def __getitem__(self, index: int) -> int:
        return int(index)

    def __len__(self) -> int:
        return len(self.inner)

    @property
    def sizes(self) -> Any:
        return self.inner.sizes

    def num_tokens(self, index: int) -> Any:
        return self.inner.num_tokens(index)

    def num_tokens_vec(self, indices: Any) -> Any:
        return self.inner.num_tokens_vec(indices)

    def size(self, index: int) -> Any:
        return self.inner.size(index)

    def ordered_indices(self) -> Any:
        return self.inner.ordered_indices()

    def filter_indices_by_size(self, indices: Any, max_sizes: Any) -> Any:
        return self.inner.filter_indices_by_size(indices, max_sizes)

    def set_epoch(self, epoch: int) -> None:
        self.inner.set_epoch(epoch)

    @property
    def supports_prefetch(self) -> bool:
        return False

    @property
    def can_reuse_epoch_itr_across_epochs(self) -> Any:
        return self.inner.can_reuse_epoch_itr_across_epochs

    @property
    def load_next_shard(self) -> Any:
        return getattr(self.inner, "load_next_shard", None)

    @property
    def shard_epoch(self) -> Any:
        return getattr(self.inner, "shard_epoch", None)

    def batch_by_size(
        self,
        indices: Any,
        max_tokens: int | None = None,
        max_sentences: int | None = None,
        required_batch_size_multiple: int = 1,
    ) -> Any:
        """fairseq's batching, per direction when batches hold one direction only.

        fairseq leaves out a last batch that is no multiple. Per direction that would be up to seven of the
        longest segments of each, and all of a direction with fewer: here it is one more batch.
        """
        if not self.single_direction:
            return super().batch_by_size(indices, max_tokens, max_sentences, required_batch_size_multiple)
        indices = np.asarray(indices)
        directions, _ = self.locate(indices)
        lengths = self._padded_lengths(indices)
        batches: list[Any] = []
        for direction in np.unique(directions):
            chosen = np.flatnonzero(directions == direction)
            # A batch is as full as its longest side lets it be. fairseq sorts by source length; among
            # the few sentences of one direction, neighbours then differ much in target length.
            chosen = chosen[np.argsort(lengths[chosen], kind="stable")]
            ordered = indices[chosen]
            made = super().batch_by_size(ordered, max_tokens, max_sentences, required_batch_size_multiple)
            rest = ordered[sum(map(len, made)) :]
            batches.extend([*made, rest] if len(rest) else made)
        return batches

    def _padded_lengths(self, indices: Ints) -> Ints:
        """What ``max_tokens`` counts of each sentence pair: its longer side."""
        try:
            return np.asarray(self.num_tokens_vec(indices))
        except NotImplementedError:  # concatenated (validation) data
            return np.asarray([self.num_tokens(int(index)) for index in indices])

    def collater(self, samples: list[int]) -> dict[str, Any] | None:
        """Assemble a batch from indices: the dictionary fairseq's own collater would give.

        Returns:
            id int64[B], ntokens, nsentences, target int64[B, T], and net_input: src_tokens int64[B, S],
            src_lengths int64[B], prev_output_tokens int64[B, T] (and direction: int).
        """
        if len(samples) == 0:
            return None
        directions, sentences = self.locate(np.asarray(samples, dtype=np.int64))
        source_lengths = np.empty(len(samples), dtype=np.int64)
        target_lengths = np.empty(len(samples), dtype=np.int64)
        present = np.unique(directions)
        for number in present:
            chosen = directions == number
            source, target = self.pairs[number]
            source_lengths[chosen] = source.lengths[sentences[chosen]] + 1
            target_lengths[chosen] = target.lengths[sentences[chosen]] + 1
        order = np.argsort(-source_lengths, kind="stable")
        directions, sentences = directions[order], sentences[order]
        source_lengths, target_lengths = source_lengths[order], target_lengths[order]

        count, width = len(samples), int(source_lengths.max())
        first = width - source_lengths  # sources are padded on the left
        source_tokens = np.full((count, width), self.pad, dtype=np.int64)
        target_tokens = np.full((count, int(target_lengths.max())), self.pad, dtype=np.int64)
        for number in present:
            rows = np.flatnonzero(directions == number)
            source, target = self.pairs[number]
            source_tokens[rows, first[rows]] = source.tag
            target_tokens[rows, 0] = target.tag
            _place(source_tokens, rows, first[rows] + 1, source, sentences[rows])
            _place(target_tokens, rows, np.ones(len(rows), dtype=np.int64), target, sentences[rows])
        # gold prefixes: </s> first, then the target without its last token
        previous = np.full_like(target_tokens, self.pad)
        previous[:, 1:] = target_tokens[:, :-1]
        shorter = np.flatnonzero(target_lengths < target_tokens.shape[1])
        previous[shorter, target_lengths[shorter]] = self.pad
        previous[:, 0] = self.eos
        net_input: dict[str, Any] = {
            "src_tokens": torch.from_numpy(source_tokens),
            "src_lengths": torch.from_numpy(source_lengths),
            "prev_output_tokens": torch.from_numpy(previous),
        }
        if self.single_direction and len(present) == 1:
            net_input["direction"] = int(present[0])
        return {
            "id": torch.from_numpy(np.asarray(samples, dtype=np.int64)[order]),
            "nsentences": count,
            "ntokens": int(target_lengths.sum()),
            "net_input": net_input,
            "target": torch.from_numpy(target_tokens),
        }
