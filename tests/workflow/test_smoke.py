"""The whole workflow for real on a tiny configuration: download, train, specialise, translate, score."""

from __future__ import annotations

import csv
import json
import os
import shutil
import time
from pathlib import Path

import pytest

from neuron_specialization.config import load_config
from neuron_specialization.corpora.catalogue import catalogue_entry
from tests.conftest import REPOSITORY
from tests.workflow.runner import Result, Workflow

pytestmark = [pytest.mark.smoke, pytest.mark.network]

CONFIG = load_config(REPOSITORY / "configs/smoke.yaml")
DIRECTIONS = [str(direction) for direction in CONFIG.all_directions()]
# what `make smoke` may take on two idle cores
LIMIT_SECONDS = 240


def download(folder: Path) -> None:
    """Let the workflow download the corpus; the checkout's own download, if there is one, saves the network.

    Skips where there is no network; in CI, which has one, a failed download is a failure.
    """
    file = catalogue_entry("homeassistant").file
    own = REPOSITORY / "downloads"
    overrides: dict[str, object] | None = {"mirror": str(own)} if (own / file).is_file() else None
    workflow = Workflow(folder, config=REPOSITORY / "configs/smoke.yaml")
    done = workflow.run("--", f"downloads/{file}", overrides=overrides, timeout=600)
    if "pip could not fetch the package" in done.output and not os.environ.get("CI"):
        pytest.skip("the corpus cannot be downloaded here: no package index answers")
    assert done.status == 0, done.output


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Workflow, Result, float]:
    """The finished smoke run, what it printed and how long it took, download excluded."""
    workflow = Workflow(tmp_path_factory.mktemp("smoke"), config=REPOSITORY / "configs/smoke.yaml")
    download(workflow.folder)
    started = time.monotonic()
    result = workflow.run(timeout=900)
    seconds = time.monotonic() - started
    assert result.status == 0, result.output
    return workflow, result, seconds


@pytest.fixture(scope="module")
def results(run: tuple[Workflow, Result, float]) -> Path:
    return run[0].folder / "results/smoke"


def test_all_stages_ran_in_time(run: tuple[Workflow, Result, float]) -> None:
    _, result, seconds = run
    assert result.jobs["train_baseline"] == 1
    assert result.jobs["train_specialised"] == 2
    assert result.jobs["score"] == len(CONFIG.systems) * len(DIRECTIONS)
    assert seconds < LIMIT_SECONDS


def test_the_score_table_ends_the_run(run: tuple[Workflow, Result, float], results: Path) -> None:
    _, result, _ = run
    end = result.output[result.output.rindex("steps (100%) done") :]
    for word in ("baseline", "continued", "ns", "BLEU", "chrF++", *DIRECTIONS):
        assert word in end
    with (results / "tables/scores.csv").open(encoding="utf-8", newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert [(row["system"], row["direction"]) for row in rows] == [
        (system, direction) for system in CONFIG.systems for direction in DIRECTIONS
    ]
    for row in rows:
        score = json.loads((results / f"scores/{row['system']}/heldout/{row['direction']}.json").read_text())
        assert float(row["bleu"]) == pytest.approx(score["metrics"]["bleu"]["score"], abs=0.005)


def test_progress_is_on_the_terminal_and_in_the_log(run: tuple[Workflow, Result, float]) -> None:
    workflow, result, _ = run
    for system in CONFIG.systems:
        line = f"{system}: update {CONFIG.training_of(system).max_updates}: validation loss"
        assert line in result.output
        assert line in (workflow.folder / f"logs/smoke/train/{system}.log").read_text(encoding="utf-8")


def test_every_artefact_names_what_it_was_made_from(results: Path) -> None:
    models = {
        name: json.loads((results / f"training/{name}/model.json").read_text()) for name in CONFIG.systems
    }
    baseline = models["baseline"]["model_sha256"]
    assert models["continued"]["inputs"]["init"] == models["ns"]["inputs"]["init"] == baseline
    assert "masks" in models["ns"]["inputs"] and "masks" not in models["continued"]["inputs"]
    assert len({model["model_sha256"] for model in models.values()}) == 3
    # the control makes as many updates as the specialised system, and is trained on the same data
    assert models["continued"]["updates"] == models["ns"]["updates"]
    assert models["continued"]["inputs"]["data"] == models["ns"]["inputs"]["data"]


def test_masks_leave_out_neurons_and_differ(results: Path) -> None:
    from safetensors.numpy import load_file

    masks = {name: load_file(results / f"masks/k95/{name}.safetensors") for name in DIRECTIONS}
    model = CONFIG.model
    layers = {f"encoder.layers.{i}" for i in range(model.encoder_layers)}
    layers |= {f"decoder.layers.{i}" for i in range(model.decoder_layers)}
    for mask in masks.values():
        assert set(mask) == layers
        assert all(tensor.shape == (model.d_ff,) for tensor in mask.values())
    kept = {name: sum(int(tensor.sum()) for tensor in mask.values()) for name, mask in masks.items()}
    assert all(0 < number < model.d_ff * len(layers) for number in kept.values())
    assert any((masks["en-de"][layer] != masks["de-en"][layer]).any() for layer in layers)


def test_translations_are_complete(results: Path) -> None:
    for system in CONFIG.systems:
        for direction in DIRECTIONS:
            text = (results / f"translations/{system}/heldout/{direction}.txt").read_text(encoding="utf-8")
            assert text.count("\n") == CONFIG.corpus.heldout_size


def test_no_unfinished_files_are_left(results: Path) -> None:
    hidden = [path for path in results.rglob(".*") if path.is_file() and not path.name.endswith(".lock")]
    assert hidden == []


def test_a_second_run_does_nothing(run: tuple[Workflow, Result, float]) -> None:
    assert run[0].run().nothing_to_do


def test_one_pair_again(run: tuple[Workflow, Result, float], results: Path, tmp_path: Path) -> None:
    target = "results/smoke/scores/ns/heldout/de-en.json"
    before = {path: path.read_bytes() for path in (results / "scores").rglob("*.json")}
    workflow = run[0].copied_to(tmp_path)
    again = workflow.run("--forcerun", "score", "--", target)
    assert again.status == 0, again.output
    assert dict(again.jobs) == {"score": 1}
    for path, content in before.items():
        assert (tmp_path / path.relative_to(run[0].folder)).read_bytes() == content
    # the table was not made of this score; it is not shown as if it were
    assert "BLEU" not in again.output


def test_a_deleted_model_is_published_again_without_training(
    run: tuple[Workflow, Result, float], results: Path, tmp_path: Path
) -> None:
    workflow = run[0].copied_to(tmp_path)
    folder = tmp_path / "results/smoke/training/baseline"
    before = json.loads((folder / "model.json").read_text())
    for name in ("model.pt", "model.json", "metrics.jsonl"):
        (folder / name).unlink()
    again = workflow.run("--", "results/smoke/training/baseline/model.json")
    assert again.status == 0, again.output
    assert json.loads((folder / "model.json").read_text()) == before
    assert "update 20: validation" not in again.output


def test_damaged_translation_stops_the_run(run: tuple[Workflow, Result, float], tmp_path: Path) -> None:
    workflow = run[0].copied_to(tmp_path)
    path = tmp_path / "results/smoke/translations/ns/heldout/de-en.txt"
    path.write_text("one line\n", encoding="utf-8")
    broken = workflow.run()
    assert broken.status != 0
    # the job's own words, not only the name of a log file
    assert "de-en" in broken.output and "hypothesis" in broken.output.lower()
    assert "Traceback" not in broken.output
    assert not (tmp_path / "results/smoke/scores/ns/heldout/de-en.json").exists()


def test_the_report_is_made_without_network(run: tuple[Workflow, Result, float], tmp_path: Path) -> None:
    workflow = run[0].copied_to(tmp_path)
    made = workflow.run("--report", "report.html")
    assert made.status == 0, made.output
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    for category in ("Scores", "Training", "Masks"):
        assert category in html
    shutil.rmtree(tmp_path)
