"""Three forms of one layer: equal outputs, equal gradients, whatever the shapes, the mask and the biases."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from neuron_specialization.transformer.masked_ffn import Gather, gather_ffn, row_mask_ffn, weight_mask_ffn

SHAPES = st.tuples(st.integers(1, 9), st.integers(1, 7), st.integers(1, 12))


def parameters(d: int, d_ff: int, bias: float, seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64, generator=generator)

    made = [draw(d_ff, d), draw(d_ff) + bias, draw(d, d_ff), draw(d)]
    return [tensor.requires_grad_() for tensor in made]


def outputs_and_gradients(form, x: Tensor, weights: list[Tensor], mask: object) -> list[Tensor]:
    x = x.clone().requires_grad_()
    y = form(x, *weights, mask)
    (y.square().sum() + y.sum()).backward()
    found = [y.detach(), x.grad, *(w.grad if w.grad is not None else torch.zeros_like(w) for w in weights)]
    for w in weights:
        w.grad = None
    return found  # type: ignore[return-value]


@settings(max_examples=60, deadline=None)
@given(
    SHAPES,
    st.sampled_from(["all", "none", "one", "some"]),
    st.sampled_from([-9.0, 0.0, 9.0]),
    st.integers(0, 99),
)
def test_the_three_forms_agree(shape: tuple[int, int, int], which: str, bias: float, seed: int) -> None:
    tokens, d, d_ff = shape
    generator = torch.Generator().manual_seed(seed + 1)
    mask = {
        "all": torch.ones(d_ff, dtype=torch.bool),
        "none": torch.zeros(d_ff, dtype=torch.bool),
        "one": torch.arange(d_ff) == seed % d_ff,
        "some": torch.rand(d_ff, generator=generator) < 0.5,
    }[which]
    x = torch.randn(tokens, d, dtype=torch.float64, generator=generator)
    weights = parameters(d, d_ff, bias, seed)
    expected = outputs_and_gradients(weight_mask_ffn, x, weights, mask)
    row = outputs_and_gradients(row_mask_ffn, x, weights, mask.double())
    gather = outputs_and_gradients(gather_ffn, x, weights, Gather.of(mask, torch.float64))
    for a, b, c in zip(expected, row, gather, strict=True):
        assert torch.allclose(a, b, rtol=1e-12, atol=1e-12)
        assert torch.allclose(a, c, rtol=1e-12, atol=1e-12)


def test_a_masked_neuron_is_a_constant() -> None:
    weights = parameters(4, 6, 9.0, 0)  # all biases positive: every masked neuron emits relu(b1) > 0
    mask = torch.tensor([True, False, True, False, False, True])
    a, b = torch.randn(2, 5, 4, dtype=torch.float64)
    w1, b1, w2, b2 = weights
    constant = w2[:, ~mask] @ b1[~mask] + b2
    for x in (a, b):
        kept = torch.relu(x @ w1[mask].T + b1[mask]) @ w2[:, mask].T
        assert torch.allclose(weight_mask_ffn(x, *weights, mask), kept + constant, rtol=1e-12)


def test_the_mask_of_each_sentence_is_its_own() -> None:
    weights = parameters(3, 5, 0.0, 1)
    x = torch.randn(4, 7, 3, dtype=torch.float64)
    masks = torch.rand(4, 5) < 0.5
    mixed = row_mask_ffn(x, *weights, masks.double().unsqueeze(1))
    for sentence in range(4):
        alone = weight_mask_ffn(x[sentence], *weights, masks[sentence])
        assert torch.allclose(mixed[sentence], alone, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_lower_precision_stays_close(dtype: torch.dtype) -> None:
    weights = [w.detach().to(dtype) for w in parameters(16, 32, 0.0, 2)]
    mask = torch.arange(32) % 3 != 0
    x = torch.randn(10, 16).to(dtype)
    expected = weight_mask_ffn(x.double(), *(w.double() for w in weights), mask)
    result = gather_ffn(x, *weights, Gather.of(mask, dtype))
    assert result.dtype == dtype
    assert torch.allclose(result.double(), expected, atol=1e-4 if dtype == torch.float32 else 1.0)
