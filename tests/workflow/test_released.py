"""The EC30 configurations plan completely and offline; released models run through the workflow."""

from __future__ import annotations

import resource
from pathlib import Path

import numpy as np
import pytest
import yaml

from tests.conftest import REPOSITORY, shared_file
from tests.workflow.runner import Workflow

COMMON = {
    "unpack": 1,
    "take_over_data_bin": 1,
    "testset_from_data_bin": 1,
    "activations": 1,
    "masks": 1,
    "translate": 120,
    "score": 120,
    "tables": 1,
}
# what makes a corpus of text has no part in it
TEXT = ("corpus", "vocabulary", "binarize", "testset")


def plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> tuple[dict[str, int], list[str]]:
    """Plan without a network; the planner's processor time is bounded, which other jobs do not disturb."""
    for variable in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(variable, "http://127.0.0.1:9")
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    result = Workflow(tmp_path, config=REPOSITORY / "configs" / name).run("--dry-run")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert result.status == 0, result.output
    assert (after.ru_utime + after.ru_stime) - (before.ru_utime + before.ru_stime) < 10
    assert list(tmp_path.glob("*.archive")) == [] and not (tmp_path / "downloads").exists()
    return dict(result.jobs), result.messages()


def test_ec30(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs, messages = plan(tmp_path, monkeypatch, "ec30.yaml")
    assert {name: jobs.get(name) for name in COMMON} == COMMON
    assert jobs["train_baseline"] == jobs["train_specialised"] == 1
    assert jobs["fetch"] == 1
    assert not any(name in jobs for name in (*TEXT, "take_over_model"))
    assert "Train baseline from scratch: 900,000 updates, 645,120 tokens each." in messages


def test_ec30_released(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs, _ = plan(tmp_path, monkeypatch, "ec30-released.yaml")
    assert {name: jobs.get(name) for name in COMMON} == COMMON
    assert jobs["take_over_model"] == 2
    assert jobs["fetch"] == 3
    assert not any(name in jobs for name in (*TEXT, "train_baseline", "train_specialised"))


def write_reference_masks(folder: Path, directions: list[str]) -> None:
    """The oracle's masks as the reference writes them: bool[d_ff, d] a layer."""
    import torch

    folder.mkdir()
    with np.load(shared_file("oracle", "masks.npz")) as archive:
        for direction in directions:
            state = {}
            for key in archive:
                name, _, layer = key.partition("/")
                if name == direction:
                    side, index = layer.split("_layer_")
                    rows = torch.from_numpy(archive[key]).unsqueeze(1)
                    state[f"{side}.layers.{index}.fc1.weight"] = rows.expand(-1, 128).clone()
            torch.save(state, folder / f"{direction}.pt")


@pytest.mark.slow
@pytest.mark.parametrize("masks", ["derived", "imported"])
def test_released_models_run(tmp_path: Path, masks: str) -> None:
    """The reference's tiny models and data-bin, from its files to the table; masks made here, or its own."""
    config = {
        "experiment": "oracle",
        "languages": ["en", "de", "sv", "es", "it"],
        "directions": ["en-de", "de-en"],
        "corpus": {"source": "data-bin", "path": str(shared_file("oracle", "data-bin").resolve())},
        "activations": {"count_padding": True, "max_tokens": 30000},
        "masks": {
            "k95": {"k": 95, "tie_break": "torch-sort"} if masks == "derived" else {"source": "reference"}
        },
        "systems": {
            "baseline": {"checkpoint": str(shared_file("oracle", "baseline.pt").resolve())},
            "ns": {
                "from": "baseline",
                "masks": "k95",
                "checkpoint": str(shared_file("oracle", "ns.pt").resolve()),
            },
        },
        "testsets": {"test": {"source": "data-bin", "splits": ["test"]}},
        "scoring": {"detokenizer": "moses", "bootstrap_samples": 0},
    }
    path = tmp_path / "oracle.yaml"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    if masks == "imported":
        write_reference_masks(tmp_path / "reference", ["en-de", "de-en"])
    workflow = Workflow(tmp_path, config=path)
    result = workflow.run("--cores", "2", timeout=900)
    assert result.status == 0, result.output
    assert ("import_masks" in result.jobs) == (masks == "imported") == ("activations" not in result.jobs)
    expected = [
        line.split("\t")[2]
        for line in shared_file("oracle", "gen_en-de.H.detok.txt").read_text(encoding="utf-8").splitlines()
    ]
    made = (
        (tmp_path / "results/oracle/translations/ns/test/en-de.txt").read_text(encoding="utf-8").splitlines()
    )
    assert made[: len(expected)] == expected
    assert workflow.run("--cores", "2").nothing_to_do
