"""Matrix products with bfloat16 factors and everything else in float32.

CPUs with bfloat16 instructions multiply such matrices two to several times faster. Only the factors of
the products are rounded (and their results, once); parameters, activations, softmax, layer norms,
losses and the optimizer stay float32. Rows are padded to a multiple of 256: the library behind
torch prepares a kernel per shape, and batches would otherwise bring a new shape each time.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

ROW_MULTIPLE = 256
# bfloat16 products are taken when they are at least this much faster than float32 ones
WORTHWHILE = 1.2

Linear = Callable[[Tensor, Tensor, "Tensor | None"], Tensor]


def rounds(x: Tensor) -> bool:
    """Whether products with x may be made from bfloat16 factors: float32 on a CPU.

    What a CPU is quick at says nothing of a GPU, and float16 has more digits and another range.
    """
    return x.dtype == torch.float32 and x.device.type == "cpu"


def rounded_up(rows: int) -> int:
    """The rows that a product of so many has."""
    return -(-rows // ROW_MULTIPLE) * ROW_MULTIPLE


def rounded_rows(x: Tensor) -> Tensor:
    """[n, k] float32 → [n rounded up, k] bfloat16, new rows zero."""
    rows = rounded_up(x.shape[0])
    if rows == x.shape[0]:
        return x.to(torch.bfloat16)
    padded = torch.empty(rows, x.shape[1], dtype=torch.bfloat16)
    padded[: x.shape[0]] = x
    padded[x.shape[0] :] = 0
    return padded


class _Bfloat16Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        rows = x.numel() // x.shape[-1]
        factor, matrix = rounded_rows(x.reshape(rows, -1)), weight.to(torch.bfloat16)
        ctx.save_for_backward(factor, matrix)
        ctx.shape, ctx.has_bias = x.shape, bias is not None
        product = (factor @ matrix.t())[:rows]
        result = product.float() if bias is None else torch.add(bias, product)
        return result.view(*x.shape[:-1], weight.shape[0])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        factor, matrix = ctx.saved_tensors
        gradient = gradients[0].reshape(-1, matrix.shape[0])
        rows = gradient.shape[0]
        rounded = rounded_rows(gradient)
        needs_x, needs_weight, _ = ctx.needs_input_grad
        return (
            (rounded @ matrix)[:rows].float().view(ctx.shape) if needs_x else None,
            (rounded.t() @ factor).float() if needs_weight else None,
            gradient.sum(0) if ctx.has_bias else None,
        )


def bfloat16_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """``x·Wᵀ + b``, factors rounded to bfloat16; x [..., k], weight [n, k], bias [n]; float32 in and out."""
    if not rounds(x):
        return F.linear(x, weight, bias)
    result: Tensor = _Bfloat16Linear.apply(x, weight, bias)  # type: ignore[no-untyped-call]
    return result


def bfloat16_is_faster() -> bool:
    """Measure on this machine, in some milliseconds, whether bfloat16 products are worthwhile."""
    # a first product of the demonstration's FFN
    x, weight = torch.randn(2048, 128), torch.randn(512, 128)
    a, b = x.bfloat16(), weight.bfloat16()

    def best(product: Callable[[], Tensor]) -> float:
        times = []
        for _ in range(12):
            start = time.perf_counter()
            product()
            times.append(time.perf_counter() - start)
        return min(times[2:])

    return best(lambda: x @ weight.t()) > WORTHWHILE * best(lambda: (a @ b.t()).float())
