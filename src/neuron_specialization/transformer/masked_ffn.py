"""The masked feed-forward layer: one definition, three exactly equal ways to compute it.

For direction t with mask m_t ∈ {0,1}^d_ff (upstream ``transformer_with_mask.py``)::

        x [N, d] ──► W1 [d_ff, d], rows where m_t = 0 dropped ──► + b1 ──► relu ──► W2 [d, d_ff] ──► + b2

    FFN_t(x) = W2 · relu((m_t ⊙rows W1) · x + b1) + b2

Only W1's rows are masked, never the bias: a masked neuron emits the constant relu(b1_i) whatever
the input. Hence three forms, equal in output and in every gradient:

- *weight mask* — multiply W1 by the mask (what upstream does, with a mask of W1's full shape);
- *row mask* — mask the product instead: ``relu(b1 + (x·W1ᵀ) * m)``; the mask may differ per sentence;
- *gather* — keep only the rows of W1 and columns of W2 with m = 1 and add the constant
  ``W2[:, ~m] · relu(b1[~m])`` to b2: less work, the more is masked.

The gather form equals the others only without activation dropout (dropout would hit the constants
neuron by neuron), so callers use the row mask when activation dropout is on.

These are the definitions, in ordinary differentiable operations: they hold on every device, under
autocast and in half precision. ``fused_ffn`` computes the same on a CPU with less waste, for batches of one
direction and of many; ``ffn_plan`` chooses.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from neuron_specialization.transformer.products import Linear


def weight_mask_ffn(x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor, mask: Tensor) -> Tensor:
    """The reference form: what the others are tested against.

    Args:
        x: [..., d].
        w1, b1: [d_ff, d] and [d_ff].
        w2, b2: [d, d_ff] and [d].
        mask: bool[d_ff], True = neuron kept.

    Returns:
        [..., d].
    """
    return F.linear(F.relu(F.linear(x, w1 * mask.to(w1.dtype).unsqueeze(1), b1)), w2, b2)


def masked_linear(
    x: Tensor, weight: Tensor, bias: Tensor, rows: Tensor | None, linear: Linear = F.linear
) -> Tensor:
    """``x·Wᵀ`` with output neurons masked by ``rows``, plus the unmasked bias.

    Args:
        x: [..., d].
        weight, bias: [d_ff, d] and [d_ff].
        rows: float mask broadcastable to [..., d_ff] (1 = kept), or None for no mask.

    Returns:
        [..., d_ff], before the ReLU.
    """
    if rows is None:
        return linear(x, weight, bias)
    return torch.addcmul(bias, linear(x, weight, None), rows)


def row_mask_ffn(x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor, rows: Tensor) -> Tensor:
    """The row-mask form; ``rows`` broadcasts to [..., d_ff], e.g. [B, 1, d_ff] for x of [B, T, d]."""
    return F.linear(F.relu(masked_linear(x, w1, b1, rows)), w2, b2)


@dataclass(frozen=True)
class Gather:
    """The index tensors of one mask, computed once per direction and layer.

    Attributes:
        kept: int64[n_kept], the neurons computed.
        masked: float[d_ff], 1 where the neuron is masked.
    """

    kept: Tensor
    masked: Tensor

    @classmethod
    def of(cls, mask: Tensor, dtype: torch.dtype) -> Gather:
        """Build from bool[d_ff]."""
        return cls(mask.nonzero().squeeze(1), (~mask).to(dtype))


def gather_ffn(
    x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor, gather: Gather, linear: Linear = F.linear
) -> Tensor:
    """The gather form: work in proportion to the share of neurons kept. Shapes as in weight_mask_ffn.

    All parameters get their exact gradient: a masked neuron's bias and its column of W2 through the
    constant, its row of W1 none.
    """
    hidden = F.relu(linear(x, w1.index_select(0, gather.kept), b1.index_select(0, gather.kept)))
    constant = torch.addmv(b2, w2, F.relu(b1) * gather.masked)
    return linear(hidden, w2.index_select(1, gather.kept), constant)
