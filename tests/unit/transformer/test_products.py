"""Products with bfloat16 factors: right to bfloat16's precision, with the right gradients, for any shape."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from neuron_specialization.transformer.fused_loss import projected_label_smoothed_loss
from neuron_specialization.transformer.products import ROW_MULTIPLE, bfloat16_is_faster, bfloat16_linear

# a factor is rounded to 8 bits of mantissa, the product once more
PRECISION = 3 * 2.0**-8


def close(ours: torch.Tensor, exact: torch.Tensor) -> bool:
    return bool((ours - exact).norm() <= PRECISION * exact.norm())


@pytest.mark.parametrize("shape", [(1, 1), (3, 7), (2, ROW_MULTIPLE // 2), (5, 103)])
@pytest.mark.parametrize("biased", [True, False])
def test_outputs_and_gradients(shape: tuple[int, int], biased: bool) -> None:
    torch.manual_seed(0)
    x = torch.randn(*shape, 24, requires_grad=True)
    weight = torch.randn(40, 24, requires_grad=True)
    bias = torch.randn(40, requires_grad=True) if biased else None
    results = []
    for linear in (F.linear, bfloat16_linear):
        y = linear(x, weight, bias)
        y.square().sum().backward()
        gradients = [t.grad.clone() for t in (x, weight, bias) if t is not None and t.grad is not None]
        for t in (x, weight, bias):
            if t is not None:
                t.grad = None
        results.append([y.detach(), *gradients])
    assert results[1][0].dtype == torch.float32
    for exact, ours in zip(*results, strict=True):
        assert ours.shape == exact.shape
        assert close(ours, exact)
    assert not torch.equal(results[0][0], results[1][0])  # it did round


def test_only_the_wanted_gradients() -> None:
    x, weight = torch.randn(4, 8), torch.randn(3, 8, requires_grad=True)
    bfloat16_linear(x, weight, None).sum().backward()
    assert weight.grad is not None and x.grad is None


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_types_are_left_alone(dtype: torch.dtype) -> None:
    x, weight = torch.randn(4, 8, dtype=dtype), torch.randn(3, 8, dtype=dtype)
    assert torch.equal(bfloat16_linear(x, weight, None), F.linear(x, weight))
    asked, plain = (
        projected_label_smoothed_loss(x, weight, torch.tensor([0, 2, 1, 1]), 0.1, bfloat16=bfloat16)[0]
        for bfloat16 in (True, False)
    )
    assert torch.equal(asked, plain)


def test_a_gpu_computes_as_if_nothing_was_asked() -> None:
    """No GPU is needed: on the meta device the operations are counted, not computed."""
    x, weight = torch.empty(4, 8, device="meta"), torch.empty(3, 8, device="meta")
    made: list[torch.dtype] = []

    class Products(TorchDispatchMode):
        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            result = function(*args, **(kwargs or {}))
            if "mm" in function.__name__:
                made.append(result.dtype)
            return result

    with Products():
        target = torch.empty(4, dtype=torch.long, device="meta")
        projected_label_smoothed_loss(x.requires_grad_(), weight, target, 0.1, bfloat16=True)
        bfloat16_linear(x, weight, None)
    assert len(made) >= 3 and set(made) == {torch.float32}


def test_the_loss_with_rounded_products() -> None:
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(333, 16, generator=generator).requires_grad_()
    weight = (0.3 * torch.randn(700, 16, generator=generator)).requires_grad_()
    target = torch.randint(0, 700, (333,), generator=generator)
    results = []
    for bfloat16 in (False, True):
        loss, nll = projected_label_smoothed_loss(features, weight, target, 0.1, bfloat16=bfloat16)
        loss.backward()
        assert features.grad is not None and weight.grad is not None
        results.append((loss.detach(), nll.detach(), features.grad.clone(), weight.grad.clone()))
        features.grad = weight.grad = None
    for exact, ours in zip(*results, strict=True):
        assert close(ours, exact)


def test_the_measurement_answers() -> None:
    assert bfloat16_is_faster() in (True, False)
