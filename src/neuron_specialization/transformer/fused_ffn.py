"""The masked feed-forward layer as one differentiable operation for the CPU, for one direction or many.

The rows of a batch are split into *parts*, each with the neurons it computes: a batch of one direction is
one part; a mixed batch whose sentences are sorted by direction has a part a direction; or all
sentences are one part that computes the neurons any of them keeps, each sentence's own mask on top. Neurons
that a part does not compute are constants there (see ``masked_ffn``), summed into one bias a part.

What is saved against the same in separate operations: the ReLU and its gradient work in place, the hidden
layer is kept once (in bfloat16 where the products are), index tensors are ready-made, gathered weights are
not kept for the backward pass (gathering again is cheaper than the memory), and the gradients of all parts
are summed in place into one tensor a parameter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from neuron_specialization.transformer.products import rounded_rows


@dataclass(frozen=True)
class Neurons:
    """The neurons a part computes, with what is needed to compute them; made once a mask and layer.

    Attributes:
        index: int64[n], the neurons computed; None for all of them.
        weighted: how many of them, from the first on, see the input; the rest are there to fill up and
            have their rows of W1 taken as 0, which is what the mask says.
        outside: float[d_ff], 1 where a neuron is not computed.
    """

    index: Tensor | None
    weighted: int
    outside: Tensor | None

    @property
    def count(self) -> int:
        return self.weighted if self.index is None else len(self.index)

    @classmethod
    def of(cls, mask: Tensor, dtype: torch.dtype, multiple: int = 1) -> Neurons:
        """Build from bool[d_ff].

        Args:
            multiple: fill up with masked neurons to a multiple of this, for fewer distinct shapes.
        """
        width, weighted = len(mask), int(mask.sum())
        filled = min(width, -(-weighted // multiple) * multiple)
        if weighted == width:
            return cls(None, width, None)
        # kept neurons first, in order; then masked ones
        index = torch.argsort((~mask).to(torch.uint8), stable=True)[:filled]
        outside = torch.ones(width, dtype=dtype, device=mask.device)
        outside[index] = 0
        return cls(index, weighted, outside)


@dataclass(frozen=True)
class Part:
    """Rows ``start:stop`` of the input [N, d], and the neurons computed for them."""

    start: int
    stop: int
    neurons: Neurons


def _w1_of(x: Tensor, w1: Tensor, neurons: Neurons) -> Tensor:
    """W1's rows for a part, [n, d] in x's dtype."""
    if neurons.index is None:
        return w1.to(x.dtype)
    rows = w1.index_select(0, neurons.index)
    rows[neurons.weighted :] = 0
    return rows.to(x.dtype)


def _w2_of(w2: Tensor, neurons: Neurons, dtype: torch.dtype) -> Tensor:
    """W2's columns for a part, [d, n]."""
    return (w2 if neurons.index is None else w2.index_select(1, neurons.index)).to(dtype)


def _masked(product: Tensor, bias: Tensor, rows: Tensor) -> Tensor:
    """A product [N, n] under a mask a sentence, plus the bias; in its place unless it is rounded."""
    by_sentence = product.view(len(rows), product.shape[0] // len(rows), product.shape[1])
    place = by_sentence if product.dtype == bias.dtype else None
    return torch.addcmul(bias, by_sentence, rows.unsqueeze(1), out=place).view(product.shape)


class _FusedFfn(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        w1: Tensor,
        b1: Tensor,
        w2: Tensor,
        b2: Tensor,
        rows: Tensor | None,
        parts: Sequence[Part],
        bfloat16: bool,
    ) -> Tensor:
        out = torch.empty_like(x)
        constants = _constants(b1, w2, b2, parts)
        hidden_of = []
        # for the backward pass: each part's rounded rows, or where nothing is rounded x itself
        kept_inputs = [] if bfloat16 else [x]
        for number, part in enumerate(parts):
            neurons, count = part.neurons, part.stop - part.start
            bias = b1 if neurons.index is None else b1.index_select(0, neurons.index)
            factor = x[part.start : part.stop]
            if bfloat16:
                factor = rounded_rows(factor)
                kept_inputs.append(factor)
            weight = _w1_of(factor, w1, neurons)
            if rows is not None:
                hidden = _masked((factor @ weight.t())[:count], bias, rows)
            elif bfloat16:
                hidden = torch.add(bias, (factor @ weight.t())[:count])
            else:
                hidden = torch.addmm(bias, factor, weight.t())
            hidden.relu_()
            if bfloat16:
                hidden = rounded_rows(hidden)
            weight = _w2_of(w2, neurons, hidden.dtype)
            target = out[part.start : part.stop]
            if bfloat16:
                torch.add(constants[number], (hidden @ weight.t())[:count], out=target)
            else:
                torch.addmm(constants[number], hidden, weight.t(), out=target)
            hidden_of.append(hidden)
        ctx.save_for_backward(w1, b1, w2, rows, *kept_inputs, *hidden_of)
        ctx.parts, ctx.bfloat16 = parts, bfloat16
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        gradient = gradients[0].contiguous()
        w1, b1, w2, rows, *kept = ctx.saved_tensors
        parts: Sequence[Part] = ctx.parts
        bfloat16: bool = ctx.bfloat16
        inputs, hidden_of = kept[: -len(parts)], kept[-len(parts) :]
        grad_x = torch.empty_like(gradient)
        sums = _Sums(w1, b1, w2)
        grad_constants = gradient.new_empty(len(parts), gradient.shape[1])
        for number, (part, hidden) in enumerate(zip(parts, hidden_of, strict=True)):
            neurons, count = part.neurons, part.stop - part.start
            incoming = gradient[part.start : part.stop]
            torch.sum(incoming, 0, out=grad_constants[number])
            if bfloat16:
                factor, incoming = inputs[number], rounded_rows(incoming)
            else:
                factor = inputs[0][part.start : part.stop]
            grad_w2 = incoming.t() @ hidden
            grad_hidden = incoming @ _w2_of(w2, neurons, incoming.dtype)
            torch.ops.aten.threshold_backward.grad_input(grad_hidden, hidden, 0, grad_input=grad_hidden)
            grad_b1 = grad_hidden.sum(0, dtype=gradient.dtype)
            if rows is not None:
                by_sentence = grad_hidden[:count].view(len(rows), count // len(rows), neurons.count)
                by_sentence.mul_(rows.unsqueeze(1))
            weight, target = _w1_of(incoming, w1, neurons), grad_x[part.start : part.stop]
            if bfloat16:
                target.copy_((grad_hidden @ weight)[:count])
            else:
                torch.mm(grad_hidden, weight, out=target)
            sums.add(neurons, grad_hidden.t() @ factor, grad_b1, grad_w2)
        _constants_backward(grad_constants, b1, w2, parts, sums)
        return grad_x, sums.w1, sums.b1, sums.w2, grad_constants.sum(0), None, None, None


class _Sums:
    """The gradients of the parameters, summed over parts."""

    def __init__(self, w1: Tensor, b1: Tensor, w2: Tensor) -> None:
        self._shapes = w1, b1, w2
        self.w1: Tensor | None = None
        self.b1: Tensor | None = None
        self.w2: Tensor | None = None

    def add(self, neurons: Neurons, w1: Tensor, b1: Tensor, w2: Tensor) -> None:
        """Add one part's: [n, d], [n], [d, n]."""
        if neurons.index is None and self.w1 is None:
            self.w1, self.b1, self.w2 = w1.to(b1.dtype), b1, w2.to(b1.dtype)
            return
        if self.w1 is None:
            self.w1, self.b1, self.w2 = (torch.zeros_like(tensor) for tensor in self._shapes)
        assert self.b1 is not None and self.w2 is not None
        if neurons.index is None:
            self.w1 += w1
            self.b1 += b1
            self.w2 += w2
            return
        seen = neurons.weighted
        self.w1.index_add_(0, neurons.index[:seen], w1[:seen].to(b1.dtype))
        self.b1.index_add_(0, neurons.index, b1)
        self.w2.index_add_(1, neurons.index, w2.to(b1.dtype))


def _outside(parts: Sequence[Part]) -> tuple[list[int], Tensor | None]:
    """Which parts have constant neurons, and float[those, d_ff] with 1 at the constant ones."""
    numbers = [number for number, part in enumerate(parts) if part.neurons.outside is not None]
    chosen = [tensor for part in parts if (tensor := part.neurons.outside) is not None]
    if not chosen:
        return numbers, None
    return numbers, chosen[0].unsqueeze(0) if len(chosen) == 1 else torch.stack(chosen)


def _constants(b1: Tensor, w2: Tensor, b2: Tensor, parts: Sequence[Part]) -> list[Tensor]:
    """The bias of each part: b2 plus what its constant neurons emit. [d] each."""
    biases = [b2] * len(parts)
    numbers, outside = _outside(parts)
    if outside is not None:
        for number, bias in zip(numbers, torch.addmm(b2, outside * b1.relu(), w2.t()), strict=True):
            biases[number] = bias
    return biases


def _constants_backward(gradient: Tensor, b1: Tensor, w2: Tensor, parts: Sequence[Part], sums: _Sums) -> None:
    """Gradients through the constants: of positive biases, and of their columns of W2."""
    numbers, outside = _outside(parts)
    if outside is None:
        return
    chosen = gradient if len(numbers) == len(parts) else gradient[numbers]
    assert sums.b1 is not None and sums.w2 is not None
    sums.b1 += ((chosen @ w2) * outside).sum(0) * (b1 > 0)
    sums.w2.addmm_(chosen.t(), outside * b1.relu())


def fused_ffn(
    x: Tensor,
    w1: Tensor,
    b1: Tensor,
    w2: Tensor,
    b2: Tensor,
    parts: Sequence[Part],
    rows: Tensor | None = None,
    *,
    bfloat16: bool = False,
) -> Tensor:
    """``W2·relu((m ⊙rows W1)·x + b1) + b2`` with the masks that ``parts`` and ``rows`` say.

    Args:
        x: [B, T, d] or [N, d], float32 or float64, on the CPU.
        w1, b1: [d_ff, d] and [d_ff].
        w2, b2: [d, d_ff] and [d].
        parts: which rows of x (flattened to [B·T, d]) compute which neurons; in order, without gaps.
        rows: float[B, n], a mask a sentence over the n neurons of the only part; None without one.
        bfloat16: round the factors of the products (see products.py); float32 only.

    Returns:
        of x's shape. All parameters get their exact gradients; second derivatives are refused.
    """
    flat = x.reshape(-1, x.shape[-1])
    result: Tensor = _FusedFfn.apply(flat, w1, b1, w2, b2, rows, parts, bfloat16)  # type: ignore[no-untyped-call]
    return result.view(x.shape)
