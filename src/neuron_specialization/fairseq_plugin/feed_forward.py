"""The masked FFNs of ``masked_transformer``: fc1 with its masks, and the two ways to compute an FFN quickly.

A way is a callable ``(layer, x [B, T, d]) → [B, T, d]`` (fast_transformer.FeedForward) that holds what one
batch needs: the directions of its sentences, and how products are made.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neuron_specialization.errors import MaskError
from neuron_specialization.transformer.ffn_plan import MaskTable, choose, groups_of
from neuron_specialization.transformer.fused_ffn import Neurons, Part, fused_ffn
from neuron_specialization.transformer.masked_ffn import Gather, gather_ffn, masked_linear
from neuron_specialization.transformer.products import Linear


class MaskedLinear(nn.Linear):
    """fc1: a Linear whose output neurons are masked by the direction of each sentence.

    ``masks`` is bool[directions, d_ff] or None; ``rows``, set per forward pass by the model, is the
    float mask broadcast over the output: [B, d_ff] for a batch in fairseq's [T, B, d] layout.
    """

    masks: Tensor | None

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(in_features, out_features)
        self.register_buffer("masks", None)
        self.rows: Tensor | None = None
        self._gathers: dict[tuple[int, torch.dtype, torch.device], Gather] = {}
        self._table: tuple[torch.dtype, MaskTable] | None = None

    def forward(self, x: Tensor) -> Tensor:
        """[T, B, d] → [T, B, d_ff], before the ReLU."""
        return masked_linear(x, self.weight, self.bias, self.rows)

    def gather(self, direction: int) -> Gather:
        """The cached index tensors of one direction."""
        assert self.masks is not None
        key = (direction, self.weight.dtype, self.weight.device)
        if key not in self._gathers:
            self._gathers[key] = Gather.of(self.masks[direction], self.weight.dtype)
        return self._gathers[key]

    def table(self) -> MaskTable:
        """What is computed once from the masks of all directions."""
        assert self.masks is not None
        if self._table is None or self._table[0] != self.weight.dtype:
            self._table = self.weight.dtype, MaskTable(self.masks, self.weight.dtype)
        return self._table[1]

    def forget(self) -> None:
        """The masks changed: drop what was computed from them."""
        self._gathers.clear()
        self._table = None

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self.forget()


def masked_fc1(input_dim: int, output_dim: int, q_noise: float, qn_block_size: int) -> MaskedLinear:
    """Build fc1 as fairseq asks for it.

    Raises:
        MaskError: with quantisation noise.
    """
    if q_noise:
        raise MaskError(
            "quantisation noise and neuron masks do not go together", hint="drop --quant-noise-pq"
        )
    return MaskedLinear(input_dim, output_dim)


def fused_ffn_serves(weight: Tensor) -> bool:
    """Whether the FFN is computed by the fused operation: full precision on a CPU."""
    return (
        weight.device.type == "cpu"
        and weight.dtype in (torch.float32, torch.float64)
        and not torch.is_autocast_enabled("cpu")
    )


@dataclass(frozen=True)
class SeparateFfn:
    """The FFN in ordinary operations: other devices, half precision, autocast, activation dropout.

    Attributes:
        rows: int64[B], the direction of each sentence; None: ``direction`` is everyone's, or no masks.
    """

    rows: Tensor | None
    direction: int | None
    activation_dropout: float
    linear: Linear

    def __call__(self, layer: Any, x: Tensor) -> Tensor:
        """[B, T, d] → [B, T, d]."""
        fc1: MaskedLinear = layer.fc1
        fc2: nn.Linear = layer.fc2
        if self.direction is not None and self.activation_dropout == 0:
            gather = fc1.gather(self.direction)
            return gather_ffn(x, fc1.weight, fc1.bias, fc2.weight, fc2.bias, gather, self.linear)
        mask = None
        if fc1.masks is not None and self.rows is not None:
            mask = fc1.masks[self.rows].to(x.dtype).unsqueeze(1)
        elif fc1.masks is not None:
            mask = fc1.masks[self.direction].to(x.dtype)
        hidden = F.relu(masked_linear(x, fc1.weight, fc1.bias, mask, self.linear))
        if self.activation_dropout:
            hidden = F.dropout(hidden, self.activation_dropout)
        return self.linear(hidden, fc2.weight, fc2.bias)


# what a layer computes of a mixed batch: parts, or None for the union of the masks
MixedParts = Mapping[MaskedLinear, "list[Part] | None"]


def mixed_parts(
    lengths: Mapping[MaskedLinear, int], directions: Tensor, width: int, *, bfloat16: bool
) -> MixedParts:
    """Choose for each layer what it computes of a mixed batch.

    Args:
        lengths: tokens a sentence at each layer, padding included.
        directions: int64[B], of the sentences, in any order. Several parts of a layer (``need_order``) are
            those of the batch sorted by direction.
        width: d, the model's width.
        bfloat16: whether products are rounded.
    """
    groups = groups_of(directions)
    return {
        fc1: choose(fc1.table(), groups, length, width, bfloat16=bfloat16) for fc1, length in lengths.items()
    }


def need_order(parts: MixedParts) -> bool:
    """Whether a layer computes the directions apart, for which the batch must be sorted; that is not free."""
    return any(chosen is not None and len(chosen) > 1 for chosen in parts.values())


@dataclass(frozen=True)
class FusedFfn:
    """The FFN in one operation, over the neurons that each direction's sentences need.

    Attributes:
        rows: int64[B], the direction of each sentence, and
        parts: what each layer computes of them; None and none: ``direction`` is everyone's, or no masks.
    """

    rows: Tensor | None
    parts: MixedParts
    direction: int | None
    bfloat16: bool

    def __call__(self, layer: Any, x: Tensor) -> Tensor:
        """[B, T, d] → [B, T, d]."""
        fc1: MaskedLinear = layer.fc1
        fc2: nn.Linear = layer.fc2
        count = x.shape[0] * x.shape[1]
        rows = None
        parts: list[Part] | None
        if fc1.masks is None:
            parts = [Part(0, count, Neurons(None, fc1.out_features, None))]
        elif self.direction is not None:
            parts = fc1.table().whole(self.direction, count)
        else:
            parts = self.parts[fc1]
            if parts is None:
                table = fc1.table()
                parts, rows = [Part(0, count, table.union)], table.union_rows[self.rows]
        return fused_ffn(x, fc1.weight, fc1.bias, fc2.weight, fc2.bias, parts, rows, bfloat16=self.bfloat16)
