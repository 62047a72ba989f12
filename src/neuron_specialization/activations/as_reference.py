"""Counting activations as the reference implementation does, padding and all.

The reference counts every position of a padded batch, so its numbers depend on how fairseq
composes batches, and on float32 sums at padding positions. Both are fairseq's own here: the order
of its concatenated validation set, ``batch_by_size`` with its default batch multiple of 8, its
collater and its model. Where fairseq leaves sentences out of all batches (a last batch that is no
multiple of 8), so does this; ``Counts.skipped`` says how many.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from neuron_specialization.activations.counts import Counts
from neuron_specialization.activations.real_tokens import Tally, choose_device
from neuron_specialization.activations.texts import DirectionText
from neuron_specialization.checkpoints.checkpoint import Checkpoint
from neuron_specialization.checkpoints.fairseq_model import build_model
from neuron_specialization.errors import MaskError
from neuron_specialization.formats.data_bin import Ints, Sentences
from neuron_specialization.formats.fairseq_conventions import EOS, PAD

# fairseq's --required-batch-size-multiple, which the reference leaves at its default
BATCH_MULTIPLE = 8


def count_as_reference(
    checkpoint: Checkpoint,
    texts: Sequence[DirectionText],
    *,
    max_tokens: int,
    device: str = "auto",
    on_batch: Callable[[int], None] = lambda positions: None,
) -> Iterator[tuple[str, Counts]]:
    """See ``counting.count_activations``; padding counted."""
    where = choose_device(device)
    model = build_model(checkpoint).to(where)
    for text in texts:
        yield str(text.direction), _count(model, text, max_tokens, where, on_batch)


def fairseq_batches(text: DirectionText, max_tokens: int) -> list[Ints]:
    """The batches fairseq makes of a validation set: int64[B] sentence numbers each."""
    from fairseq.data.data_utils import batch_by_size

    source = text.source.lengths[text.usable] + (text.source_tag is not None)
    target = text.target.lengths[text.usable] + (text.target_tag is not None)
    longest = int(max(source.max(), target.max()))
    if longest > max_tokens:
        raise MaskError(
            f"a sentence has {longest} tokens, more than --max-tokens {max_tokens}", where=text.direction
        )
    # by source length, then target length, then number: fairseq's two stable sorts
    order = np.lexsort((target, source))
    batches = batch_by_size(
        text.usable[order],
        None,
        num_tokens_vec=np.maximum(source, target)[order],
        max_tokens=max_tokens,
        required_batch_size_multiple=BATCH_MULTIPLE,
    )
    return [np.asarray(batch) for batch in batches]


def _count(
    model: nn.Module,
    text: DirectionText,
    max_tokens: int,
    device: torch.device,
    on_batch: Callable[[int], None],
) -> Counts:
    from fairseq.data.language_pair_dataset import collate

    batches = fairseq_batches(text, max_tokens)
    if not batches:
        raise MaskError(
            f"fairseq makes no batch of {len(text.usable)} sentences",
            where=text.direction,
            cause=f"it drops a last batch that is no multiple of {BATCH_MULTIPLE} sentences",
            hint="count without padding, or use more text",
        )
    tally = Tally()
    positions = {"encoder": 0, "decoder": 0}
    for batch in batches:
        samples = [
            {
                "id": int(index),
                "source": _example(text.source, int(index), text.source_tag),
                "target": _example(text.target, int(index), text.target_tag),
            }
            for index in batch
        ]
        fed = collate(samples, pad_idx=PAD, eos_idx=EOS, left_pad_source=True, left_pad_target=False)
        net_input = {name: value.to(device) for name, value in fed["net_input"].items()}
        positions["encoder"] += net_input["src_tokens"].numel()
        positions["decoder"] += net_input["prev_output_tokens"].numel()
        with torch.no_grad(), warnings.catch_warnings(), _Hooks(model, tally) as hooks:
            # fairseq's attention hands torch masks of two types
            warnings.filterwarnings("ignore", message="Support for mismatched key_padding_mask")
            output = model(**net_input)[0]
        on_batch(int(fed["net_input"]["src_lengths"].sum()) + int(fed["ntokens"]))
        if hooks.calls != len(tally.sums) or not bool(torch.isfinite(output.sum())):
            raise MaskError(
                "activations are not finite numbers",
                where=text.direction,
                cause="training diverged, or the checkpoint is damaged",
            )
    read = sum(len(batch) for batch in batches)
    return Counts(tally.result(), positions, read, len(text.source) - read)


def _example(side: Sentences, index: int, tag: int | None) -> Tensor:
    tokens = torch.from_numpy(side[index].astype(np.int64))
    return tokens if tag is None else torch.cat([tokens.new_tensor([tag]), tokens])


class _Hooks:
    """Shows the input of every fc2 (the ReLU's output) to a tally."""

    def __init__(self, model: nn.Module, tally: Tally) -> None:
        self.model, self.tally, self.calls = model, tally, 0
        self._handles: list[Any] = []

    def __enter__(self) -> _Hooks:
        for side in ("encoder", "decoder"):
            for number, layer in enumerate(getattr(self.model, side).layers):
                hook = self._hook(f"{side}.layers.{number}")
                self._handles.append(layer.fc2.register_forward_pre_hook(hook))
        return self

    def __exit__(self, *exception: object) -> None:
        for handle in self._handles:
            handle.remove()

    def _hook(self, name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def count(module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
            hidden = arguments[0]
            self.calls += 1
            self.tally.observer(hidden.new_ones(hidden.shape[:2], dtype=torch.bool))(name, hidden)

        return count
