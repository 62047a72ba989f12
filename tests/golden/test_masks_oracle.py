"""Masks against the reference implementation's, bit by bit; and compaction on its models."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from neuron_specialization.activations.counts import Counts, read_activations
from neuron_specialization.cli import cli
from neuron_specialization.formats.reference_masks import export_masks, import_masks
from neuron_specialization.masks.selection import select
from neuron_specialization.storage.layer_masks import read_mask_folder
from neuron_specialization.storage.layer_tensors import write_layers
from tests.conftest import REPOSITORY, shared_file
from tests.golden.test_activations_oracle import DIRECTIONS, counted, reference_counts

ALL_DIRECTIONS = ["de-en", "en-de", "en-es", "en-it", "en-sv", "es-en", "it-en", "sv-en"]


def oracle_masks(name: str) -> dict[str, dict[str, np.ndarray]]:
    """Direction → our layer name → bool[512]."""
    result: dict[str, dict[str, np.ndarray]] = {}
    with np.load(shared_file("oracle", name)) as archive:
        for key in archive.files:
            direction, layer = key.split("/")
            side, number = layer.split("_layer_")
            result.setdefault(direction, {})[f"{side}.layers.{number}"] = archive[key]
    return result


@pytest.mark.parametrize(
    ("tie_break", "file"), [("torch-sort", "masks.npz"), ("index", "masks_stable_sort.npz")]
)
def test_every_bit_of_the_masks_is_the_references(tie_break: str, file: str) -> None:
    expected = oracle_masks(file)
    assert sorted(expected) == ALL_DIRECTIONS
    for direction, layers in reference_counts().items():
        for layer, counts in layers.items():
            mask = select(counts, 95, tie_break)  # type: ignore[arg-type]
            np.testing.assert_array_equal(mask, expected[direction][layer], err_msg=f"{direction} {layer}")


def test_the_two_tie_breaks_do_differ_on_real_counts() -> None:
    """Or the test above could not tell them apart."""
    unstable, stable = oracle_masks("masks.npz"), oracle_masks("masks_stable_sort.npz")
    differing = {
        (direction, layer): int((unstable[direction][layer] ^ stable[direction][layer]).sum())
        for direction in unstable
        for layer in unstable[direction]
    }
    assert sum(differing.values()) == 22
    assert sum(bits for (direction, _), bits in differing.items() if direction in DIRECTIONS) > 0
    assert all(bits % 2 == 0 for bits in differing.values())  # equally many neurons are kept


def test_the_commands_from_counts_to_the_references_masks(tmp_path: Path) -> None:
    for direction, layers in reference_counts().items():
        write_layers(tmp_path / "activations" / f"{direction}.safetensors", layers, {"direction": direction})
    arguments = [
        "masks",
        "--activations",
        str(tmp_path / "activations"),
        "--k",
        "95",
        "--tie-break",
        "torch-sort",
    ]
    result = CliRunner().invoke(
        cli, [*arguments, "--output", str(tmp_path / "masks")], catch_exceptions=False
    )
    assert result.exit_code == 0 and "en-de" in result.stdout
    expected = oracle_masks("masks.npz")
    for direction, masks in read_mask_folder(tmp_path / "masks", DIRECTIONS).items():
        assert masks.metadata["k"] == "95.0" and masks.metadata["tie_break"] == "torch-sort"
        for layer, mask in masks.layers.items():
            np.testing.assert_array_equal(mask, expected[direction][layer])
        assert (
            read_activations(tmp_path / "activations" / f"{direction}.safetensors")[1]["direction"]
            == direction
        )


def test_the_references_expanded_masks_survive_the_round_trip(tmp_path: Path) -> None:
    for direction, layers in oracle_masks("masks.npz").items():
        path = tmp_path / f"{direction}.pt"
        export_masks(path, layers, 128)
        # as upstream reads it: a key per fc1 weight, the shape of that weight
        state = torch.load(path, weights_only=True)
        assert list(state) == [f"{layer}.fc1.weight" for layer in layers]
        assert all(value.shape == (512, 128) and value.dtype == torch.bool for value in state.values())
        again, width = import_masks(path)
        assert width == 128 and list(again) == list(layers)
        for layer, mask in layers.items():
            np.testing.assert_array_equal(again[layer], mask)


def test_the_numbers_of_the_documentation() -> None:
    """docs/fidelity.md quotes what padding, batch size and precision change."""
    excluded, whole, small = counted(2048), counted(30000, padding=True), counted(2048, padding=True)

    def masks(counts: dict[str, Counts]) -> np.ndarray:
        return np.concatenate([select(v, 95) for d in DIRECTIONS for v in counts[d].layers.values()])

    a, b, c = masks(excluded), masks(whole), masks(small)
    padding = [
        1 - sum(excluded[name].positions.values()) / sum(whole[name].positions.values())
        for name in DIRECTIONS
    ]
    text = (REPOSITORY / "docs" / "fidelity.md").read_text(encoding="utf-8")
    flipped = int((a ^ b).sum())
    for words in (
        f"{flipped:,} of {a.size:,} bits of the masks ({flipped / a.size:.1%}) flip".replace("%", " %"),
        f"neurons kept: {a.mean():.1%} without padding, {b.mean():.1%} with".replace("%", " %"),
        f"{min(padding) * 100:.0f}–{max(padding) * 100:.0f} % of the counted positions are padding",
        f"{int((b ^ c).sum()):,} of {b.size:,} bits differ between 30,000 and 2,048",
    ):
        assert words in text, words
