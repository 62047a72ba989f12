"""What was made with other settings than the configuration has is found by what it says of itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from neuron_specialization.activations.counts import Counts, write_activations
from neuron_specialization.agreement import disagreements
from neuron_specialization.config import Config, magnitude_recipe_of, mask_spec_of, parse_config, recipe_of
from neuron_specialization.masks.making import recorded_settings
from neuron_specialization.storage.files import write_json
from neuron_specialization.storage.layer_masks import write_masks

LAYERS = {"encoder.layers.0": np.arange(8) < 3, "decoder.layers.0": np.arange(8) < 5}


def config(**changes: Any) -> Config:
    values: dict[str, Any] = {
        "experiment": "small",
        "languages": ["en", "de"],
        "finetuning": {"max_updates": 20},
        "masks": {"k95": {"k": 95}, "lass": {"method": "magnitude", "keep": 50}},
        "systems": {
            "baseline": {},
            "ns": {"from": "baseline", "masks": "k95"},
            "lass": {"from": "baseline", "masks": "lass"},
        },
    }
    return parse_config(values | changes)


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """All that says how it was made, made with ``config()``."""
    made = config()
    for run in ("baseline", "ns", "lass"):
        recipe = recipe_of(made, run).model_dump(mode="json")
        write_json(tmp_path / f"training/{run}/model.json", {"recipe": recipe})
    for name in ("en-de", "de-en"):
        recipe = magnitude_recipe_of(made, "lass", name).model_dump(mode="json")
        write_json(tmp_path / f"magnitude/lass/{name}/model.json", {"recipe": recipe})
        for run in ("k95", "lass"):
            told = {**(recorded_settings(mask_spec_of(made, run), name) or {}), "model_sha256": "m"}
            write_masks(tmp_path / f"masks/{run}/{name}.safetensors", LAYERS, told, packed=True)
        counts = Counts({name: np.arange(8) for name in LAYERS}, {}, sentences=1, skipped=0)
        told = {"split": "valid", "padding": "excluded", "direction": name}
        write_activations(tmp_path / f"activations/{name}.safetensors", counts, told)
    return tmp_path


def test_what_agrees_is_not_named(results: Path) -> None:
    assert disagreements(config(), results) == {}
    # other names, and what these artefacts do not depend on
    assert disagreements(config(experiment="renamed", translation={"beam": 2}), results) == {}


BY_KEEP = {"method": "magnitude", "keep": 50}
OF_FINETUNING = {
    *("training/ns/model.json", "training/lass/model.json"),
    *("magnitude/lass/en-de/model.json", "magnitude/lass/de-en/model.json"),
}


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (
            {"finetuning": {"max_updates": 30}},
            {f"{name}: training.max_updates: 20 → 30" for name in OF_FINETUNING},
        ),
        (
            {"masks": {"k95": {"k": {"from_pivot": 95, "to_pivot": 90}}, "lass": BY_KEEP}},
            {"masks/k95/de-en.safetensors: k: 95.0 → 90.0"},
        ),
        (
            {"masks": {"k95": {"k": 95, "sides": "decoder"}, "lass": {**BY_KEEP, "keep": 40}}},
            {
                "masks/k95/en-de.safetensors: sides: not set → decoder",
                "masks/lass/en-de.safetensors: keep: 50.0 → 40.0",
            },
        ),
        (
            {"activations": {"count_padding": True}},
            {"activations/en-de.safetensors: padding: excluded → counted; max_tokens: not set → 4096"},
        ),
    ],
)
def test_what_differs_is_named(results: Path, changes: dict[str, Any], told: set[str]) -> None:
    found = disagreements(config(**changes), results)
    assert {f"{file}: {'; '.join(lines)}" for file, lines in found.items()} == told


def test_a_recipe_of_an_older_version_agrees(results: Path) -> None:
    recipe = recipe_of(config(), "ns").model_dump(mode="json")
    del recipe["shards"], recipe["training"]["products"]
    write_json(results / "training/ns/model.json", {"recipe": recipe})
    assert disagreements(config(), results) == {}


def test_what_cannot_be_read_is_left_to_the_stage_that_reads_it(results: Path) -> None:
    (results / "training/ns/model.json").write_bytes(b"\0" * 100)
    (results / "training/lass/model.json").write_text("[]", encoding="utf-8")
    (results / "masks/k95/en-de.safetensors").write_bytes(b"\0" * 100)
    assert disagreements(config(), results) == {}
    assert disagreements(config(), results / "nowhere") == {}
