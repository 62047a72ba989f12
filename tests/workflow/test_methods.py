"""Every mask method and a further seed for real, on the smoke configuration: `make test-long`."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from neuron_specialization.config import load_config
from neuron_specialization.storage.layer_masks import LayerMasks, read_mask_folder
from tests.conftest import REPOSITORY
from tests.workflow.runner import Workflow
from tests.workflow.test_smoke import download

pytestmark = [pytest.mark.long, pytest.mark.smoke, pytest.mark.network]

CONFIG = load_config(REPOSITORY / "configs/smoke.yaml")
DIRECTIONS = [str(direction) for direction in CONFIG.all_directions()]
SHORT = {"max_updates": 4, "warmup_updates": 1, "validate_every": 4, "save_every": 4}
MASKS = {
    "k95": {"k": 95},
    "parts": {"k": {"from_pivot": 70, "to_pivot": {"encoder": 95, "decoder": 80}}},
    "random": {"method": "random", "like": "k95"},
    "permuted": {"method": "random", "like": "k95", "draw": "permutation"},
    "lass": {"method": "magnitude", "like": "k95", "finetuning": SHORT},
    "family": {"method": "family", "like": "k95", "combine": "pooled"},
    "encoder": {"k": 95, "sides": "encoder"},
}
OVERRIDES = {
    "seeds": [222, 5],
    "masks": MASKS,
    "systems": {name: {"from": "baseline", "masks": name} for name in MASKS if name != "k95"},
}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    workflow = Workflow(tmp_path_factory.mktemp("methods"), config=REPOSITORY / "configs/smoke.yaml")
    download(workflow.folder)
    masks = [f"results/smoke/masks/{name}/overlap.json" for name in MASKS]
    made = workflow.run(
        "--", *masks, "results/smoke/training/random@5/model.json", overrides=OVERRIDES, timeout=1800
    )
    assert made.status == 0, made.output
    return workflow.folder / "results/smoke"


def masks_of(results: Path, selection: str) -> dict[str, LayerMasks]:
    return read_mask_folder(results / "masks" / selection, DIRECTIONS)


def kept(masks: LayerMasks) -> list[int]:
    return [int(mask.sum()) for mask in masks.layers.values()]


@pytest.mark.parametrize("selection", ["random", "permuted", "lass"])
def test_as_many_neurons_but_others(results: Path, selection: str) -> None:
    like, masks = masks_of(results, "k95"), masks_of(results, selection)
    for direction in DIRECTIONS:
        assert kept(masks[direction]) == kept(like[direction])
        pairs = zip(masks[direction].layers.values(), like[direction].layers.values(), strict=True)
        assert any((one != other).any() for one, other in pairs)


def test_a_k_for_each_group_and_one_side(results: Path) -> None:
    like, parts, encoder = (masks_of(results, name) for name in ("k95", "parts", "encoder"))
    assert all(a < b for a, b in zip(kept(parts["en-de"]), kept(like["en-de"]), strict=True))
    # encoder alike, decoder fewer
    assert kept(parts["de-en"])[:2] == kept(like["de-en"])[:2]
    assert kept(parts["de-en"])[2] < kept(like["de-en"])[2]
    assert kept(encoder["de-en"]) == [*kept(like["de-en"])[:2], CONFIG.model.d_ff]


def test_fine_tunings_leave_what_is_small(results: Path) -> None:
    for direction in DIRECTIONS:
        folder = results / "magnitude/lass" / direction
        assert sorted(path.name for path in folder.iterdir()) == ["metrics.jsonl", "model.json"]
        facts = json.loads((folder / "model.json").read_text())
        assert facts["directions"] == [direction]
        baseline = json.loads((results / "training/baseline/model.json").read_text())
        assert facts["inputs"]["init"] == baseline["model_sha256"]
        metadata = masks_of(results, "lass")[direction].metadata
        assert json.loads(metadata["parents"])[f"{direction}/model.pt"] == facts["model_sha256"]


def test_a_further_seed_is_another_model_from_another_baseline(results: Path) -> None:
    facts = {
        run: json.loads((results / f"training/{run}/model.json").read_text())
        for run in ("baseline", "baseline@5", "random@5")
    }
    assert facts["baseline"]["model_sha256"] != facts["baseline@5"]["model_sha256"]
    assert facts["baseline"]["inputs"] == facts["baseline@5"]["inputs"]  # the same data
    assert facts["random@5"]["inputs"]["init"] == facts["baseline@5"]["model_sha256"]
    assert facts["random@5"]["recipe"]["seed"] == 5


def test_losses_by_direction_make_up_the_total(results: Path) -> None:
    lines = (results / "training/baseline/metrics.jsonl").read_text().splitlines()
    valid = [record for line in lines if (record := json.loads(line))["kind"] == "valid"]
    assert [record["update"] for record in valid] == [20, 40]
    for record in valid:
        losses = record["nll_by_direction"]
        assert list(losses) == DIRECTIONS
        # the total weighs directions by their tokens
        assert min(losses.values()) < record["nll"] < max(losses.values())
        assert np.mean(list(losses.values())) == pytest.approx(record["nll"], abs=0.1)
