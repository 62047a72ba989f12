"""Counting activations over real tokens only, in a way that no batching can change.

Directions with the same source text (all en→X of a multi-parallel set, when the encoder sees the
source tag) share their encoder passes::

    en text ──► encoder ──► states ──┬──► decoder, de prefixes ──► en-de
               (counted once)        └──► decoder, es prefixes ──► en-es
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from neuron_specialization.activations.counts import Counts, Precision
from neuron_specialization.activations.frozen_transformer import FrozenTransformer, not_covered
from neuron_specialization.activations.texts import DirectionText
from neuron_specialization.checkpoints.checkpoint import Checkpoint
from neuron_specialization.errors import MaskError
from neuron_specialization.formats.data_bin import Ints, tagged

# On a CPU larger batches are slower: more padding, and hidden units no longer fit the caches.
CPU_BATCH = 512


def choose_device(name: str) -> torch.device:
    """``auto`` → the GPU if there is one."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(name)


class Tally:
    """Sums of activations per layer.

    ``observe`` wants hidden units [B, T, d_ff] and a weight per position; the sum over positions is a
    product with the 0/1 matrix of what fired, exact while a batch has fewer than 2^24 positions.
    """

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}

    def observer(self, real: Tensor) -> Callable[[str, Tensor], None]:
        """Return an observer that counts the positions where bool[B, T] ``real`` is True."""

        def observe(name: str, hidden: Tensor) -> None:
            weights = real.reshape(-1).to(hidden.dtype)
            fired = (hidden > 0).to(hidden.dtype).flatten(0, 1)
            found = (weights @ fired).long()
            self.sums[name] = self.sums[name] + found if name in self.sums else found

        return observe

    def result(self) -> dict[str, np.ndarray]:
        """Layer name → int64[d_ff]."""
        return {name: counts.cpu().numpy() for name, counts in self.sums.items()}


def count_real_tokens(
    checkpoint: Checkpoint,
    texts: Sequence[DirectionText],
    *,
    max_tokens: int,
    precision: Precision = "float64",
    device: str = "auto",
    on_batch: Callable[[int], None] = lambda positions: None,
) -> Iterator[tuple[str, Counts]]:
    """See ``counting.count_activations``; padding excluded."""
    reason = not_covered(checkpoint.settings)
    if reason is not None:
        raise MaskError(
            f"activations of a model with {reason} cannot be counted without padding",
            where=checkpoint.path,
            hint="use --count-padding, which runs fairseq's own code",
        )
    where = choose_device(device)
    model = FrozenTransformer(checkpoint, getattr(torch, precision)).to(where)
    groups: dict[str, list[DirectionText]] = defaultdict(list)
    for text in texts:
        groups[text.source_key].append(text)
    budget = min(max_tokens, CPU_BATCH) if where.type == "cpu" else max_tokens
    for group in groups.values():
        yield from _count_group(model, group, budget, where, on_batch)


def _count_group(
    model: FrozenTransformer,
    group: list[DirectionText],
    max_tokens: int,
    device: torch.device,
    on_batch: Callable[[int], None],
) -> Iterator[tuple[str, Counts]]:
    first = group[0]
    encoder, decoders = Tally(), [Tally() for _ in group]
    for indices in batches(first, group, max_tokens):
        tokens, real = _to(device, *tagged(first.source, indices, first=first.source_tag))
        seen = int(real.sum())
        states, bias = model.encode(tokens, encoder.observer(real))
        _check(states, group, "encoder")
        for text, tally in zip(group, decoders, strict=True):
            tokens, real = _to(device, *tagged(text.target, indices, first=text.target_tag, shift=True))
            _check(model.decode(tokens, states, bias, tally.observer(real)), [text], "decoder")
            on_batch(seen + int(real.sum()))
    shared = encoder.result()
    for text, tally in zip(group, decoders, strict=True):
        yield (
            str(text.direction),
            Counts(
                layers={**shared, **tally.result()},
                positions=text.positions,
                sentences=len(text.usable),
                skipped=len(text.source) - len(text.usable),
            ),
        )


def batches(first: DirectionText, group: Sequence[DirectionText], max_tokens: int) -> Iterator[Ints]:
    """Yield int64[B] sentence numbers, every usable sentence once, alike in length.

    B × the longest of a batch is at most ``max_tokens``, save that a longer sentence comes alone.
    """
    source = first.source.lengths[first.usable]
    target = np.max([text.target.lengths[first.usable] for text in group], axis=0)
    order = np.lexsort((target, source))
    lengths = np.maximum(source, target)[order] + 1  # + the tag
    begin, longest = 0, 0
    for position, length in enumerate(lengths):
        longer = max(longest, int(length))
        if position > begin and (position - begin + 1) * longer > max_tokens:
            yield first.usable[order[begin:position]]
            begin, longer = position, int(length)
        longest = longer
    yield first.usable[order[begin:]]


def _to(device: torch.device, tokens: np.ndarray, real: np.ndarray) -> tuple[Tensor, Tensor]:
    return torch.from_numpy(tokens).to(device), torch.from_numpy(real).to(device)


def _check(output: Tensor, group: Sequence[DirectionText], side: str) -> None:
    """A NaN or infinity in any hidden unit of a real token reaches the stack's output."""
    if not bool(torch.isfinite(output.sum())):
        raise MaskError(
            f"activations of the {side} are not finite numbers",
            where=", ".join(str(text.direction) for text in group),
            cause="training diverged, or the checkpoint is damaged",
            hint="look at the loss in metrics.jsonl of the baseline",
        )
