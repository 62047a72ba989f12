"""Neuron activations: how often each FFN neuron fires while a model reads a direction's text.

Teacher-forced passes of the trained baseline over the validation text (upstream ``get_neurons.py``), fed
exactly as in training: source tag first on the encoder side, ``</s>`` and the target tag first on the
decoder side. A neuron fires at a position when its ReLU output is > 0.

Two ways of counting:

- *padding excluded* (default): only real tokens (tags and ``</s>`` among them) count. Arithmetic is in
  float64, so that the counts are a property of model and text: in float32 a sum near 0 falls on either
  side of it depending on batch size, thread number and machine (real_tokens.py).
- *padding counted* (parity): as the reference counts, padding positions too. The counts then depend
  on the batches, so batches and arithmetic are fairseq's own (as_reference.py).

This module imports no torch: it chooses between the two.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from neuron_specialization.activations.counts import Counts, Precision
from neuron_specialization.activations.texts import DirectionText
from neuron_specialization.errors import MaskError

if TYPE_CHECKING:
    from neuron_specialization.checkpoints.checkpoint import Checkpoint


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
        from neuron_specialization.activations.as_reference import count_as_reference

        return count_as_reference(checkpoint, texts, max_tokens=max_tokens, device=device, on_batch=on_batch)
    from neuron_specialization.activations.real_tokens import count_real_tokens

    return count_real_tokens(
        checkpoint,
        texts,
        max_tokens=max_tokens,
        precision=precision,
        device=device,
        on_batch=on_batch,
    )
