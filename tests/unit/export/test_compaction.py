"""A masked model and its compact form compute the same."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from neuron_specialization.errors import MaskError
from neuron_specialization.export.compaction import compact

LAYERS = ("encoder.layers.0", "decoder.layers.0", "decoder.layers.1")


def random_model(widths: tuple[int, ...], d: int, seed: int, dtype: torch.dtype) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    parameters = {"encoder.embed_tokens.weight": draw(7, d)}
    for layer, width in zip(LAYERS, widths, strict=True):
        parameters[f"{layer}.fc1.weight"] = draw(width, d)
        parameters[f"{layer}.fc1.bias"] = draw(width)
        parameters[f"{layer}.fc2.weight"] = draw(d, width)
        parameters[f"{layer}.fc2.bias"] = draw(d)
    return parameters


def run(parameters: dict[str, Tensor], x: Tensor, masks: dict[str, Tensor] | None = None) -> Tensor:
    """A residual stack of the FFN layers, masked by the definition: rows of W1 multiplied by the mask."""
    for layer in LAYERS:
        w1 = parameters[f"{layer}.fc1.weight"]
        if masks and layer in masks:
            w1 = w1 * masks[layer].to(w1.dtype).unsqueeze(1)
        hidden = F.relu(F.linear(F.layer_norm(x, x.shape[-1:]), w1, parameters[f"{layer}.fc1.bias"]))
        x = x + F.linear(hidden, parameters[f"{layer}.fc2.weight"], parameters[f"{layer}.fc2.bias"])
    return x


@st.composite
def models_and_masks(draw: st.DrawFn) -> tuple[tuple[int, ...], int, dict[str, Tensor]]:
    widths = tuple(draw(st.integers(1, 24)) for _ in LAYERS)
    masks = {}
    for layer, width in zip(LAYERS, widths, strict=True):
        mask = torch.tensor(draw(st.lists(st.booleans(), min_size=width, max_size=width)))
        mask[draw(st.integers(0, width - 1))] = True
        masks[layer] = mask
    return widths, draw(st.integers(0, 10**6)), masks


@settings(max_examples=60, deadline=None)
@given(models_and_masks())
def test_outputs_are_those_of_the_masked_model(drawn: tuple[tuple[int, ...], int, dict[str, Tensor]]) -> None:
    widths, seed, masks = drawn
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.float64, 1e-12)):
        parameters = random_model(widths, 8, seed, dtype)
        x = torch.randn(13, 8, generator=torch.Generator().manual_seed(seed), dtype=dtype)
        expected = run(parameters, x, masks)
        scale = max(1.0, float(expected.abs().max()))
        narrow = compact(parameters, masks)
        assert float((run(narrow, x) - expected).abs().max()) <= tolerance * scale
        for layer in LAYERS:
            kept = int(masks[layer].sum())
            assert narrow[f"{layer}.fc1.weight"].shape == (kept, 8)
            assert narrow[f"{layer}.fc2.weight"].shape == (8, kept)
            assert narrow[f"{layer}.fc2.bias"].dtype == dtype


def test_masking_matters_and_so_do_the_constants() -> None:
    """Guards the test above: neither dropping the mask nor dropping the constants would go unseen."""
    parameters = random_model((6, 6, 6), 8, 0, torch.float64)
    mask = torch.tensor([True, False, True, False, True, False])
    parameters["encoder.layers.0.fc1.bias"] = torch.ones(6, dtype=torch.float64)
    x = torch.randn(5, 8, dtype=torch.float64)
    narrow = compact(parameters, {"encoder.layers.0": mask})
    assert float((run(narrow, x) - run(parameters, x)).abs().max()) > 1e-2
    narrow["encoder.layers.0.fc2.bias"] = parameters["encoder.layers.0.fc2.bias"]
    assert float((run(narrow, x) - run(parameters, x, {"encoder.layers.0": mask})).abs().max()) > 1e-2


def test_a_mask_of_all_ones_is_the_identity_and_compacting_again_changes_nothing() -> None:
    parameters = random_model((6, 5, 4), 8, 1, torch.float32)
    masks = {layer: torch.arange(width) % 2 == 0 for layer, width in zip(LAYERS, (6, 5, 4), strict=True)}
    ones = {layer: torch.ones_like(mask) for layer, mask in masks.items()}
    same = compact(parameters, ones)
    assert list(same) == list(parameters) and all(same[name] is parameters[name] for name in parameters)

    once = compact(parameters, masks)
    widths = {layer: torch.ones(int(mask.sum()), dtype=torch.bool) for layer, mask in masks.items()}
    twice = compact(once, widths)
    assert all(torch.equal(twice[name], once[name]) for name in once)


def test_the_input_is_not_changed_and_other_parameters_are_passed_on() -> None:
    parameters = random_model((6, 5, 4), 8, 2, torch.float32)
    before = {name: value.clone() for name, value in parameters.items()}
    result = compact(parameters, {"decoder.layers.1": torch.tensor([True, False, False, False])})
    assert all(torch.equal(parameters[name], before[name]) for name in before)
    untouched = [name for name in parameters if not name.startswith("decoder.layers.1.")]
    assert all(result[name] is parameters[name] for name in untouched)
    assert all(value.is_contiguous() for value in result.values())


def test_constants_are_summed_in_float64() -> None:
    # in float32, 1e8 + 1 - 1e8 is 0
    parameters = {
        "encoder.layers.0.fc1.weight": torch.zeros(4, 1),
        "encoder.layers.0.fc1.bias": torch.tensor([0.0, 1.0, 1.0, 1.0]),
        "encoder.layers.0.fc2.weight": torch.tensor([[0.0, 1e8, 1.0, -1e8]]),
        "encoder.layers.0.fc2.bias": torch.zeros(1),
    }
    result = compact(parameters, {"encoder.layers.0": torch.tensor([True, False, False, False])})
    assert result["encoder.layers.0.fc2.bias"].tolist() == [1.0]


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        ({"encoder.layers.7": torch.ones(6, dtype=torch.bool)}, r"no encoder\.layers\.7\.fc1\.weight"),
        ({"encoder.layers.0": torch.ones(5, dtype=torch.bool)}, "has 6 neurons"),
        ({"encoder.layers.0": torch.ones(6)}, "float32"),
        ({"encoder.layers.0": torch.zeros(6, dtype=torch.bool)}, "no neuron"),
    ],
)
def test_masks_that_do_not_fit_are_refused(masks: dict[str, Tensor], message: str) -> None:
    with pytest.raises(MaskError, match=message):
        compact(random_model((6, 5, 4), 8, 3, torch.float32), masks)


@pytest.mark.parametrize(("part", "shape"), [("fc1.bias", (5,)), ("fc2.weight", (8, 5)), ("fc2.bias", (7,))])
def test_layers_whose_parts_do_not_fit_each_other_are_refused(part: str, shape: tuple[int, ...]) -> None:
    parameters = random_model((6, 5, 4), 8, 3, torch.float32)
    parameters[f"encoder.layers.0.{part}"] = torch.zeros(shape)
    with pytest.raises(MaskError, match="fc1 and fc2"):
        compact(parameters, {"encoder.layers.0": torch.arange(6) < 3})
