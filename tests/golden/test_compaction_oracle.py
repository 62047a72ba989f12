"""The reference's specialised model and its compact form give the same logits over a whole test set."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from neuron_specialization.activations.frozen_transformer import FrozenTransformer
from neuron_specialization.activations.real_tokens import batches
from neuron_specialization.activations.texts import open_texts
from neuron_specialization.checkpoints.checkpoint import Checkpoint, load_checkpoint
from neuron_specialization.checkpoints.fairseq_model import build_model
from neuron_specialization.export.compaction import compact
from neuron_specialization.formats.data_bin import tagged
from tests.conftest import shared_file
from tests.golden.test_masks_oracle import oracle_masks


def logits(checkpoint: Checkpoint, direction: str, dtype: torch.dtype) -> Iterator[Tensor]:
    """Yield [positions, V] per batch, real positions only, over the whole test split."""
    model = FrozenTransformer(checkpoint, dtype)
    (text,) = open_texts(checkpoint, shared_file("oracle", "data-bin"), [direction], split="test")
    projection = checkpoint.parameters["decoder.embed_tokens.weight"].to(dtype)
    for indices in batches(text, [text], 1024):
        tokens, _ = tagged(text.source, indices, first=text.source_tag)
        states, bias = model.encode(torch.from_numpy(tokens), lambda name, hidden: None)
        tokens, real = tagged(text.target, indices, first=text.target_tag, shift=True)
        features = model.decode(torch.from_numpy(tokens), states, bias, lambda name, hidden: None)
        yield F.linear(features[torch.from_numpy(real)], projection)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
def test_logits_of_the_compact_model_are_those_of_the_masked_one(
    dtype: torch.dtype, tolerance: float
) -> None:
    direction = "en-de"
    checkpoint = load_checkpoint(shared_file("oracle", "ns.pt"))
    parameters = {name: value.to(dtype) for name, value in checkpoint.parameters.items()}
    masks = {layer: torch.from_numpy(mask) for layer, mask in oracle_masks("masks.npz")[direction].items()}
    zeroed = dict(parameters)
    for layer, mask in masks.items():
        zeroed[f"{layer}.fc1.weight"] = parameters[f"{layer}.fc1.weight"] * mask.unsqueeze(1)

    masked = logits(replace(checkpoint, parameters=zeroed), direction, dtype)
    narrow = logits(replace(checkpoint, parameters=compact(parameters, masks)), direction, dtype)
    dense = logits(replace(checkpoint, parameters=parameters), direction, dtype)
    positions, scale, worst, masking = 0, 1.0, 0.0, 0.0
    for expected, found, unmasked in zip(masked, narrow, dense, strict=True):
        positions += len(expected)
        scale = max(scale, float(expected.abs().max()))
        worst = max(worst, float((found - expected).abs().max()))
        masking = max(masking, float((unmasked - expected).abs().max()))
    assert positions == 9595
    assert worst <= tolerance * scale, (worst, scale)
    # the mask matters: without it the logits are others
    assert masking > 0.1
    assert np.mean([float(mask.float().mean()) for mask in masks.values()]) < 0.7


def test_the_compact_parameters_load_into_fairseqs_model_and_it_computes_the_same() -> None:
    checkpoint = load_checkpoint(shared_file("oracle", "ns.pt"))
    masks = {layer: torch.from_numpy(mask) for layer, mask in oracle_masks("masks.npz")["en-de"].items()}
    masked, narrow = build_model(checkpoint), build_model(checkpoint)
    parameters = compact(dict(narrow.state_dict()), masks)
    for layer, mask in masks.items():
        masked.get_submodule(layer).fc1.weight.data[~mask] = 0
        block = narrow.get_submodule(layer)
        block.fc1 = torch.nn.Linear(128, int(mask.sum()))
        block.fc2 = torch.nn.Linear(int(mask.sum()), 128)
    narrow.load_state_dict(parameters, strict=True)
    (text,) = open_texts(checkpoint, shared_file("oracle", "data-bin"), ["en-de"], split="test")
    indices = np.arange(40)
    source, _ = tagged(text.source, indices, first=text.source_tag)
    previous, real = tagged(text.target, indices, first=text.target_tag, shift=True)
    arguments = {
        "src_tokens": torch.from_numpy(source),
        "src_lengths": torch.from_numpy(text.source.lengths[indices] + 1),
        "prev_output_tokens": torch.from_numpy(previous),
    }
    with torch.no_grad():
        expected, found = (model.eval()(**arguments)[0][torch.from_numpy(real)] for model in (masked, narrow))
    assert float((found - expected).abs().max()) <= 1e-5 * float(expected.abs().max())
    assert sum(p.numel() for p in narrow.parameters()) < 0.9 * sum(p.numel() for p in masked.parameters())
