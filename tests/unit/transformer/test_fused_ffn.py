"""The fused layer is the masked layer: outputs and every gradient, however a batch is split and masked."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from neuron_specialization.transformer.ffn_plan import Group, MaskTable, choose, groups_of
from neuron_specialization.transformer.fused_ffn import Neurons, Part, fused_ffn
from neuron_specialization.transformer.masked_ffn import Gather, gather_ffn, row_mask_ffn, weight_mask_ffn

WHICH = st.sampled_from(["all", "none", "one", "some"])


def mask_of(which: str, d_ff: int, generator: torch.Generator) -> Tensor:
    return {
        "all": torch.ones(d_ff, dtype=torch.bool),
        "none": torch.zeros(d_ff, dtype=torch.bool),
        "one": torch.arange(d_ff) == int(torch.randint(d_ff, (), generator=generator)),
        "some": torch.rand(d_ff, generator=generator) < 0.5,
    }[which]


def drawn(d: int, d_ff: int, bias: float, generator: torch.Generator) -> list[Tensor]:
    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64, generator=generator)

    return [w.requires_grad_() for w in (draw(d_ff, d), draw(d_ff) + bias, draw(d, d_ff), draw(d))]


def results(y: Tensor, x: Tensor, weights: list[Tensor]) -> list[Tensor]:
    (y.square().sum() + y.sum()).backward()
    tensors = [x, *weights]
    found = [y.detach(), *(t.grad if t.grad is not None else torch.zeros_like(t) for t in tensors)]
    for tensor in tensors:
        tensor.grad = None
    return found


def same(ours: list[Tensor], expected: list[Tensor]) -> bool:
    return all(torch.allclose(a, b, rtol=1e-12, atol=1e-12) for a, b in zip(ours, expected, strict=True))


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(WHICH, st.integers(1, 4)), min_size=1, max_size=4),
    st.tuples(st.integers(1, 5), st.integers(1, 6), st.integers(1, 20)),
    st.sampled_from([-9.0, 0.0, 9.0]),
    st.sampled_from([1, 4, 16]),
    st.integers(0, 999),
)
def test_every_form_is_the_weight_mask(
    groups: list[tuple[str, int]], shape: tuple[int, int, int], bias: float, multiple: int, seed: int
) -> None:
    """A mixed batch: each sentence by the reference's weight mask, and all at once in the other forms."""
    length, d, d_ff = shape
    generator = torch.Generator().manual_seed(seed)
    masks = [mask_of(which, d_ff, generator) for which, _ in groups]
    sentences = [number for number, (_, count) in enumerate(groups) for _ in range(count)]
    x = torch.randn(len(sentences), length, d, dtype=torch.float64, generator=generator).requires_grad_()
    weights = drawn(d, d_ff, bias, generator)

    one_by_one = [weight_mask_ffn(x[i], *weights, masks[number]) for i, number in enumerate(sentences)]
    expected = results(torch.stack(one_by_one), x, weights)

    rows = torch.stack(masks)[sentences].double()
    assert same(results(row_mask_ffn(x, *weights, rows.unsqueeze(1)), x, weights), expected)

    gathers = [Gather.of(masks[number], torch.float64) for number in sentences]
    gathered = [gather_ffn(x[i], *weights, gather) for i, gather in enumerate(gathers)]
    assert same(results(torch.stack(gathered), x, weights), expected)

    parts, start = [], 0
    for mask, (_, count) in zip(masks, groups, strict=True):
        neurons = Neurons.of(mask, torch.float64, multiple)
        parts.append(Part(start, start := start + count * length, neurons))
    assert same(results(fused_ffn(x, *weights, parts), x, weights), expected)

    union = Neurons.of(torch.stack(masks).any(0), torch.float64, multiple)
    within = rows if union.index is None else rows[:, union.index]
    parts = [Part(0, len(sentences) * length, union)]
    assert same(results(fused_ffn(x, *weights, parts, within), x, weights), expected)


def test_neurons_are_filled_up_with_masked_ones() -> None:
    mask = torch.tensor([True, False, False, True, False, True, False])
    neurons = Neurons.of(mask, torch.float32, 4)
    assert neurons.index is not None and neurons.outside is not None
    assert neurons.index.tolist() == [0, 3, 5, 1]
    assert (neurons.weighted, neurons.count) == (3, 4)
    assert neurons.outside.tolist() == [0, 0, 1, 0, 1, 0, 1]
    assert Neurons.of(torch.ones(7, dtype=torch.bool), torch.float32, 4).index is None
    assert Neurons.of(mask, torch.float32, 16).count == 7  # never more than there are


def test_rounded_products_stay_close() -> None:
    generator = torch.Generator().manual_seed(3)
    exact = drawn(24, 40, 0.5, generator)
    x = torch.randn(6, 50, 24, dtype=torch.float64, generator=generator).requires_grad_()
    masks = torch.rand(2, 40, generator=generator) < 0.6
    rows = masks[[0, 0, 0, 0, 1, 1]]
    expected = results(row_mask_ffn(x, *exact, rows.double().unsqueeze(1)), x, exact)
    narrow = [w.detach().float().requires_grad_() for w in exact]
    y = x.detach().float().requires_grad_()
    parts = [
        Part(0, 200, Neurons.of(masks[0], torch.float32)),
        Part(200, 300, Neurons.of(masks[1], torch.float32)),
    ]
    union = [Part(0, 300, Neurons.of(torch.ones(40, dtype=torch.bool), torch.float32))]
    for ours in (
        results(fused_ffn(y, *narrow, parts, bfloat16=True), y, narrow),
        results(fused_ffn(y, *narrow, union, rows.float(), bfloat16=True), y, narrow),
    ):
        for a, b in zip(ours, expected, strict=True):
            assert a.dtype == torch.float32
            assert (a.double() - b).norm() < 0.02 * b.norm()
            assert not torch.equal(a.double(), b)


def test_sentences_are_grouped_by_direction() -> None:
    assert groups_of(torch.tensor([2, 0, 2, 1, 0])) == [Group(0, 0, 2), Group(1, 2, 3), Group(2, 3, 5)]
    assert groups_of(torch.tensor([0, 3, 3])) == [Group(0, 0, 1), Group(3, 1, 3)]


def test_equal_masks_are_one_part() -> None:
    masks = torch.zeros(3, 64, dtype=torch.bool)
    masks[:2, :20] = True
    masks[2, 5:9] = True
    layer = MaskTable(masks, torch.float32)
    groups = [Group(0, 0, 2), Group(1, 2, 5), Group(2, 5, 6)]
    parts = layer.merged(groups, 10)
    assert [(part.start, part.stop) for part in parts] == [(0, 50), (50, 60)]
    assert parts[0].neurons is layer.neurons(layer.mask_of[1])
    assert layer.union.weighted == 20 and layer.union.count == 32
    assert layer.union.index is not None
    within = torch.zeros(3, 64).index_copy_(1, layer.union.index, layer.union_rows)
    assert torch.equal(within.bool(), masks)
    # of a union that is nearly all, all are computed
    masks[2, 5:62] = True
    layer = MaskTable(masks, torch.float32)
    assert layer.union.index is None and layer.union.count == 64
    assert torch.equal(layer.union_rows.bool(), masks)
    # a batch of directions with one mask is a batch of one direction
    assert choose(layer, groups[:2], 10, 8, bfloat16=False) == layer.merged(groups[:2], 10)


@pytest.mark.parametrize(("sentences", "grouped"), [(1, False), (200, True)])
def test_large_groups_are_computed_apart(sentences: int, grouped: bool) -> None:
    masks = torch.zeros(2, 512, dtype=torch.bool)
    masks[0, :256] = masks[1, 256:] = True
    layer = MaskTable(masks, torch.float32)
    groups = [Group(0, 0, sentences), Group(1, sentences, 2 * sentences)]
    parts = choose(layer, groups, 10, 128, bfloat16=False)
    assert (parts is not None) == grouped
    # where everyone keeps the same neurons but for a few, the union is as good
    masks[:, :500] = True
    layer = MaskTable(masks, torch.float32)
    assert choose(layer, groups, 10, 128, bfloat16=False) is None


def test_second_derivatives_are_refused() -> None:
    generator = torch.Generator().manual_seed(0)
    weights = drawn(3, 4, 0.0, generator)
    x = torch.randn(2, 3, dtype=torch.float64, generator=generator).requires_grad_()
    y = fused_ffn(x, *weights, [Part(0, 2, Neurons.of(torch.ones(4, dtype=torch.bool), torch.float64))])
    (gradient,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()
