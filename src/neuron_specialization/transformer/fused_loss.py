"""Output projection, softmax and label-smoothed cross-entropy in one pass over blocks of tokens.

The logits of a batch ([tokens, vocabulary]) are the largest tensor of a training step. Here they
exist one block at a time: each block's loss and gradient are computed while it is there, so
nothing of that size is kept for the backward pass.

The loss is fairseq's (``label_smoothed_nll_loss``): with ε_i = ε/(V-1),
loss = (1-ε-ε_i)·nll + ε_i·Σ_v -log p_v, whose gradient by logit j is p_j - (1-ε-ε_i)·[j = y] - ε_i.

What is the same for every word of the vocabulary never meets the logits: Σ_v logit_v is the features times
the sum of the weights, and the gradient's -ε_i goes into the products' results.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from neuron_specialization.transformer.products import rounds

ROW_STEP = 64
# Logits of a block. On a CPU 4 MiB in float32, about an L2 cache. A GPU has none to stay in: there each block
# reads the matrix and adds to its gradient once more, so there are few, of 256 MiB.
CPU_BLOCK, GPU_BLOCK = 1 << 20, 1 << 26


def block_rows(vocabulary: int, device: torch.device) -> int:
    """How many tokens' logits are computed at a time."""
    elements = CPU_BLOCK if device.type == "cpu" else GPU_BLOCK
    return max(ROW_STEP, elements // vocabulary // ROW_STEP * ROW_STEP)


class _ProjectedLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        features: Tensor,
        weight: Tensor,
        target: Tensor,
        epsilon: float,
        bfloat16: bool,
        token_nll: Tensor | None,
        wanted: bool,
    ) -> tuple[Tensor, Tensor]:
        vocabulary = weight.shape[0]
        # half precision is widened for the softmax and the sums, as fairseq does
        wide = torch.promote_types(features.dtype, torch.float32)
        narrow = torch.bfloat16 if bfloat16 else features.dtype
        smooth = epsilon / (vocabulary - 1)
        sharp = 1.0 - epsilon - smooth
        rows = block_rows(vocabulary, features.device)
        needs = wanted and any(ctx.needs_input_grad[:2])
        grad_features = torch.empty_like(features) if needs else None
        grad_weight = torch.zeros_like(weight, dtype=wide) if needs else None
        loss = features.new_zeros((), dtype=wide)
        nll = features.new_zeros((), dtype=wide)
        matrix = weight.to(narrow)
        of_all_words = matrix.sum(0, dtype=wide)
        for start in range(0, features.shape[0], rows):
            x = features[start : start + rows]
            y = target[start : start + rows].unsqueeze(1)
            count = x.shape[0]
            if bfloat16 and count % ROW_STEP:  # few distinct shapes: see products.py
                x = F.pad(x, (0, 0, 0, -count % ROW_STEP))
            x = x.to(narrow)
            logits = (x @ matrix.t()).to(wide)
            probabilities = torch.softmax(logits, dim=1)
            # ln Σ_v e^logit_v, by the largest of each row: its probability cannot vanish
            normalizer = (logits.amax(1) - probabilities.amax(1).log_())[:count]
            each_nll = normalizer - logits[:count].gather(1, y).squeeze(1)
            if token_nll is not None:
                token_nll[start : start + count] = each_nll
            block_nll = each_nll.sum()
            nll += block_nll
            sums = x[:count].to(wide) @ of_all_words
            loss += sharp * block_nll + smooth * (vocabulary * normalizer - sums).sum()
            if grad_features is not None and grad_weight is not None:
                # rows that were filled up have features of 0: their gradients go nowhere
                probabilities[:count].scatter_add_(1, y, probabilities.new_full((), -sharp).expand_as(y))
                gradient = probabilities.to(narrow)
                grad_features[start : start + count] = (gradient @ matrix)[:count]
                if grad_weight.dtype == narrow:
                    grad_weight.addmm_(gradient.t(), x)
                else:
                    grad_weight += gradient.t() @ x
        if grad_features is not None and grad_weight is not None:
            grad_features -= (smooth * of_all_words).to(grad_features.dtype)
            grad_weight -= smooth * features.sum(0, dtype=wide)
            ctx.save_for_backward(grad_features, grad_weight.to(weight.dtype))
        ctx.mark_non_differentiable(nll)
        return loss, nll

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None, None, None, None, None]:
        grad_features, grad_weight = ctx.saved_tensors
        scale = gradients[0]
        return (
            grad_features * scale.to(grad_features.dtype),
            grad_weight * scale.to(grad_weight.dtype),
            None,
            None,
            None,
            None,
            None,
        )


def projected_label_smoothed_loss(
    features: Tensor,
    weight: Tensor,
    target: Tensor,
    epsilon: float,
    *,
    bfloat16: bool = False,
    token_nll: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Loss of predicting ``target`` from ``features``, summed over tokens.

    Args:
        features: [N, d], decoder outputs of real (not padding) positions.
        weight: [V, d], the output projection (no bias).
        target: int64[N].
        epsilon: label smoothing.
        bfloat16: round the factors of the three products to bfloat16, where products.py does so.
        token_nll: [N], filled with each token's nll where it is given.

    Returns:
        (loss, nll): scalars in nats; nll is for reporting and carries no gradient.
    """
    # a function of autograd cannot see for itself that no gradient will be asked for, as in validation
    wanted = torch.is_grad_enabled()
    result: tuple[Tensor, Tensor] = _ProjectedLoss.apply(  # type: ignore[no-untyped-call]
        features, weight, target, epsilon, bfloat16 and rounds(features), token_nll, wanted
    )
    return result
